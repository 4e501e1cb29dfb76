"""The reconstruction heads: features in, enlarged image out, one class each.

Every head is called as `head(features, pixels, gray)`:

- features : (N, C, H, W) from the transformer
- pixels : (N, channels, H, W) the normalized input; heads that do not use it can be
  called without, as in transformers
- gray : average the output channels (folded into the last convolution, so that a gray
  plane costs no more than its own pixels)

and returns the normalized image (N, channels or 1, upscale * H, upscale * W).
Parameter names are those of transformers, so that state dicts are interchangeable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from napari_swin2sr.weights.config import Swin2SRConfig

NUM_FEATURES = 64
"""Channels between the convolutions of all heads but the lightweight one."""


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def last_convolution(conv: nn.Conv2d, x: Tensor, gray: bool, phases: int = 1) -> Tensor:
    """Apply the convolution that makes the image, or its mean over the channels.

    Its output channels are ordered (channel, phase), with as many phases as a pixel
    shuffle takes from each channel.
    """
    if not gray:
        return conv(x)
    weight = conv.weight.unflatten(0, (-1, phases)).mean(0)
    bias = None if conv.bias is None else conv.bias.unflatten(0, (-1, phases)).mean(0)
    return F.conv2d(x, weight, bias, padding=1)


class Upsample(nn.Module):
    """Enlarge features: a convolution and a pixel shuffle for each doubling, or x3."""

    def __init__(self, upscale: int, channels: int) -> None:
        super().__init__()
        self.factors = [3] if upscale == 3 else [2] * (upscale.bit_length() - 1)
        self.names = ["convolution"]
        if upscale != 3:
            self.names = [f"convolution_{i}" for i in range(len(self.factors))]
        for name, factor in zip(self.names, self.factors, strict=True):
            self.add_module(name, conv3x3(channels, factor**2 * channels))

    def forward(self, x: Tensor) -> Tensor:
        for name, factor in zip(self.names, self.factors, strict=True):
            x = F.pixel_shuffle(self.get_submodule(name)(x), factor)
        return x


class PixelShuffle(nn.Module):
    """`pixelshuffle`: the classical head, for x2, x3, x4, x8."""

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__()
        self.conv_before_upsample = conv3x3(config.embed_dim, NUM_FEATURES)
        self.upsample = Upsample(config.upscale, NUM_FEATURES)
        self.final_convolution = conv3x3(NUM_FEATURES, config.num_channels_out)

    def forward(
        self, features: Tensor, pixels: Tensor | None = None, gray: bool = False
    ) -> Tensor:
        x = F.leaky_relu(self.conv_before_upsample(features), 0.01)
        return last_convolution(self.final_convolution, self.upsample(x), gray)


class PixelShuffleAux(nn.Module):
    """`pixelshuffle_aux`: for compressed input; guesses a small image on the way."""

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__()
        self.upscale = config.upscale
        self.conv_bicubic = conv3x3(config.num_channels, NUM_FEATURES)
        self.conv_before_upsample = conv3x3(config.embed_dim, NUM_FEATURES)
        self.conv_aux = conv3x3(NUM_FEATURES, config.num_channels)
        self.conv_after_aux = nn.Sequential(
            conv3x3(config.num_channels, NUM_FEATURES), nn.LeakyReLU(0.01)
        )
        self.upsample = Upsample(config.upscale, NUM_FEATURES)
        self.final_convolution = conv3x3(NUM_FEATURES, config.num_channels_out)

    def auxiliary(self, features: Tensor) -> Tensor:
        """Return the guess at the size of the input, (N, channels, H, W) normalized."""
        x = F.leaky_relu(self.conv_before_upsample(features), 0.01)
        return self.conv_aux(x)

    def forward(self, features: Tensor, pixels: Tensor, gray: bool = False) -> Tensor:
        size = [side * self.upscale for side in pixels.shape[-2:]]
        bicubic = F.interpolate(pixels, size, mode="bicubic", align_corners=False)
        x = self.upsample(self.conv_after_aux(self.auxiliary(features)))
        x = x + self.conv_bicubic(bicubic)
        return last_convolution(self.final_convolution, x, gray)


class PixelShuffleDirect(nn.Module):
    """`pixelshuffledirect`: the lightweight head, one convolution and a shuffle."""

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__()
        self.upscale = config.upscale
        self.conv = conv3x3(
            config.embed_dim, config.num_channels_out * config.upscale**2
        )

    def forward(
        self, features: Tensor, pixels: Tensor | None = None, gray: bool = False
    ) -> Tensor:
        x = last_convolution(self.conv, features, gray, phases=self.upscale**2)
        return F.pixel_shuffle(x, self.upscale)


class NearestConv(nn.Module):
    """`nearest+conv`: for real-world images, x4; repeats pixels and convolves."""

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__()
        self.conv_before_upsample = conv3x3(config.embed_dim, NUM_FEATURES)
        self.conv_up1 = conv3x3(NUM_FEATURES, NUM_FEATURES)
        self.conv_up2 = conv3x3(NUM_FEATURES, NUM_FEATURES)
        self.conv_hr = conv3x3(NUM_FEATURES, NUM_FEATURES)
        self.final_convolution = conv3x3(NUM_FEATURES, config.num_channels_out)

    def forward(
        self, features: Tensor, pixels: Tensor | None = None, gray: bool = False
    ) -> Tensor:
        x = F.leaky_relu(self.conv_before_upsample(features), 0.01)
        for conv in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2)), 0.2)
        x = F.leaky_relu(self.conv_hr(x), 0.2)
        return last_convolution(self.final_convolution, x, gray)


class Restoration(nn.Conv2d):
    """Empty upsampler: no enlarging; the network gives what to add to the input.

    It is a convolution itself, because the checkpoints name it without a prefix.
    """

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__(config.embed_dim, config.num_channels_out, 3, padding=1)

    def forward(  # type: ignore[override]
        self, features: Tensor, pixels: Tensor, gray: bool = False
    ) -> Tensor:
        # the convolution itself, not this method: mean over the channels if gray
        weight, bias = self.weight, self.bias
        if gray:
            assert bias is not None
            weight, bias = weight.mean(0, keepdim=True), bias.mean(0, keepdim=True)
            pixels = pixels.mean(1, keepdim=True)
        return pixels + self._conv_forward(features, weight, bias)


HEADS: dict[str, type[nn.Module]] = {
    "pixelshuffle": PixelShuffle,
    "pixelshuffle_aux": PixelShuffleAux,
    "pixelshuffledirect": PixelShuffleDirect,
    "nearest+conv": NearestConv,
    "": Restoration,
}
"""The head for each `upsampler` of a configuration."""
