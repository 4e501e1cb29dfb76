"""Swin2SR, to be read from top to bottom: small parts first, the network last.

Inside the transformer features are (N, H, W, C), in the convolutions (N, C, H, W).
Shapes in comments use N images of H x W pixels, C features, and windows of
L = window * window pixels. Parameter names are those of transformers, so that state
dicts are interchangeable. A forward pass changes nothing in the network: threads may
share it.

Reference: Conde et al., "Swin2SR: SwinV2 Transformer for Compressed Image
Super-Resolution and Restoration", https://arxiv.org/abs/2209.11345.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.export
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from napari_swin2sr.errors import InputError, OptionError, WeightsError
from napari_swin2sr.model.heads import HEADS, PixelShuffleAux, conv3x3
from napari_swin2sr.model.windows import (
    from_windows,
    pad_to_window,
    shift_mask,
    to_windows,
)
from napari_swin2sr.weights.catalog import resolve_model
from napari_swin2sr.weights.checkpoint import SUSPICIOUS, read_weights, write_weights
from napari_swin2sr.weights.config import Swin2SRConfig
from napari_swin2sr.weights.download import PLAIN
from napari_swin2sr.weights.state_dict import offset_tables
from napari_swin2sr.weights.upload import Uploadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike
    from pathlib import Path

    from napari_swin2sr.image.box import Box
    from napari_swin2sr.model.error_head import ErrorHead

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean color of the training images, subtracted from RGB input."""

MAX_LOG_SCALE = math.log(100.0)
"""Upper bound of the learned logarithmic attention scale."""


# -- transformer ---------------------------------------------------------------------


class WindowAttention(nn.Module):
    """Scaled cosine attention among the pixels of a window.

    The bias of each pair of pixels is a small network's function of their offset.
    """

    offsets: Tensor
    offset_index: Tensor

    def __init__(self, config: Swin2SRConfig, heads: int) -> None:
        super().__init__()
        dim = config.embed_dim
        self.heads = heads
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.continuous_position_bias_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False)
        )
        self.query = nn.Linear(dim, dim, bias=config.qkv_bias)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=config.qkv_bias)
        offsets, index = map(torch.from_numpy, offset_tables(config.attention_window))
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("offset_index", index, persistent=False)

    def scale(self) -> Tensor:
        """Return the factor on the cosine of query and key, (heads, 1, 1)."""
        return self.logit_scale.clamp(max=MAX_LOG_SCALE).exp()

    def position_bias(self) -> Tensor:
        """Return the bias on the logits, (heads, L, L), between 0 and 16."""
        table = self.continuous_position_bias_mlp(self.offsets)
        return 16 * table[self.offset_index].permute(2, 0, 1).sigmoid()

    def forward(
        self, x: Tensor, mask: Tensor | None, record: list[Tensor] | None = None
    ) -> Tensor:
        # x: (N, windows, L, C); query, key, value: (N, windows, L, heads, C / heads)
        query, key, value = (
            linear(x).unflatten(-1, (self.heads, -1))
            for linear in (self.query, self.key, self.value)
        )
        # Unit vectors before the axes are moved, a product instead of a quotient, and
        # bias and mask added once: a third of a training step on a CPU.
        query = _unit(query) * self.scale().view(-1, 1)
        query, key, value = (
            part.transpose(-3, -2) for part in (query, _unit(key), value)
        )
        bias = self.position_bias().to(query.dtype)
        if mask is not None:
            bias = bias + mask
        weights = (query @ key.mT + bias).softmax(-1).to(value.dtype)
        if record is not None:
            record.append(weights.flatten(0, 1))  # (N * windows, heads, L, L)
        return (weights @ value).transpose(-3, -2).flatten(-2)


def _unit(x: Tensor) -> Tensor:
    """Return vectors of length one, in single precision or better; zero stays zero."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x * x.square().sum(-1, keepdim=True).clamp_min(1e-24).rsqrt()


class Dense(nn.Module):
    """A linear layer, one name deeper, as the checkpoints have it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)


class Layer(nn.Module):
    """Attention in (shifted) windows, then an MLP, each normalized and added."""

    def __init__(self, config: Swin2SRConfig, heads: int, shift: int) -> None:
        super().__init__()
        dim, eps = config.embed_dim, config.layer_norm_eps
        self.window, self.shift = config.attention_window, shift
        self.attention = nn.ModuleDict(
            {"self": WindowAttention(config, heads), "output": Dense(dim, dim)}
        )
        self.layernorm_before = nn.LayerNorm(dim, eps=eps)
        self.intermediate = Dense(dim, config.mlp_dim)
        self.output = Dense(config.mlp_dim, dim)
        self.layernorm_after = nn.LayerNorm(dim, eps=eps)

    def forward(
        self, x: Tensor, mask: Tensor | None, record: list[Tensor] | None = None
    ) -> Tensor:
        # x: (N, H, W, C)
        x = x + self.layernorm_before(self.attend(x, mask, record))
        return x + self.layernorm_after(self.output(F.gelu(self.intermediate(x))))

    def attend(
        self, x: Tensor, mask: Tensor | None, record: list[Tensor] | None
    ) -> Tensor:
        """Mix the pixels of each window of (N, H, W, C)."""
        _, height, width, _ = x.shape
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = to_windows(x, self.window)
        mask = mask if self.shift else None
        windows = self.attention["output"](
            self.attention["self"](windows, mask, record)
        )
        x = from_windows(windows, height, width, self.window)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x


class Projection(nn.Module):
    """A 1x1 convolution of features, optionally normalized: the patch embedding."""

    def __init__(self, dim: int, normalize: bool) -> None:
        super().__init__()
        self.projection = nn.Conv2d(dim, dim, 1)
        self.layernorm = nn.LayerNorm(dim) if normalize else None

    def forward(self, x: Tensor) -> Tensor:
        # (N, C, H, W) -> (N, H, W, C)
        x = self.projection(x).permute(0, 2, 3, 1)
        return x if self.layernorm is None else self.layernorm(x)


def residual_convolution(config: Swin2SRConfig) -> nn.Module:
    """Return the convolution that comes before a residual connection."""
    dim = config.embed_dim
    if config.resi_connection == "1conv":
        return conv3x3(dim, dim)
    return nn.Sequential(
        conv3x3(dim, dim // 4),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(0.2),
        conv3x3(dim // 4, dim),
    )


class Stage(nn.Module):
    """Layers and a convolution around a residual connection (RSTB in the paper)."""

    def __init__(self, config: Swin2SRConfig, depth: int, heads: int) -> None:
        super().__init__()
        shifts = (config.shift_size if i % 2 else 0 for i in range(depth))
        self.layers = nn.ModuleList(Layer(config, heads, shift) for shift in shifts)
        self.conv = residual_convolution(config)
        self.patch_embed = Projection(config.embed_dim, normalize=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, record: list[Tensor] | None = None
    ) -> Tensor:
        # x: (N, H, W, C)
        residual = x
        for layer in self.layers:
            x = layer(x, mask, record)
        return self.patch_embed(self.conv(x.permute(0, 3, 1, 2))) + residual


class Encoder(nn.Module):
    """All stages, one after the other."""

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__()
        self.window, self.shift = config.attention_window, config.shift_size
        self.checkpointing = False  # compute a stage twice instead of keeping it
        self.stages = nn.ModuleList(
            Stage(config, depth, heads)
            for depth, heads in zip(config.depths, config.num_heads, strict=True)
        )

    def forward(self, x: Tensor, record: list[Tensor] | None = None) -> list[Tensor]:
        """Return the features before the first and after each stage, (N, H, W, C).

        `record`, if given, receives the attention weights of every layer.
        """
        _, height, width, _ = x.shape
        mask = None
        if self.shift:
            mask = shift_mask(height, width, self.window, self.shift, like=x)
        hidden = [x]
        for stage in self.stages:
            if self.checkpointing and self.training and record is None:
                x = checkpoint(stage, hidden[-1], mask, use_reentrant=False)
            else:
                x = stage(hidden[-1], mask, record)
            hidden.append(x)
        return hidden


# -- results -------------------------------------------------------------------------


class Output:
    """Fields that are not None, also as a mapping and as a sequence.

    `output.name`, `output["name"]` and `output[0]` all work, as they do for the
    results of the models in transformers.
    """

    def keys(self) -> list[str]:
        """Return the names of the fields that are there, in order."""
        names = [f.name for f in dataclasses.fields(self)]  # type: ignore[arg-type]
        return [name for name in names if getattr(self, name) is not None]

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields that are there, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass
class FeatureOutput(Output):
    """Result of `Swin2SRModel`.

    Parameters
    ----------
    last_hidden_state : Tensor
        (N, C, H, W) features that the reconstruction head takes.
    hidden_states : tuple of Tensor, optional
        (N, H * W, C) before the first and after each stage, if asked for.
    attentions : tuple of Tensor, optional
        (N * windows, heads, L, L) of each stage's last layer, if asked for.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SuperResolutionOutput(Output):
    """Result of `Swin2SRForImageSuperResolution`.

    Parameters
    ----------
    loss : Tensor, optional
        Mean absolute difference to the labels, if they were given.
    reconstruction : Tensor
        (N, C, upscale * H, upscale * W), about 0 to 1, not clipped.
    hidden_states, attentions : tuple of Tensor, optional
        As in `FeatureOutput`.
    auxiliary : Tensor, optional
        (N, C, H, W) first guess of the `pixelshuffle_aux` head, at the input's size.
    """

    loss: Tensor | None = None
    reconstruction: Tensor = None  # type: ignore[assignment]  # always given
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    auxiliary: Tensor | None = None


for _output in (FeatureOutput, SuperResolutionOutput):  # for torch.export
    torch.export.register_dataclass(
        _output, serialized_type_name=f"{__name__}.{_output.__name__}"
    )


# -- the network ---------------------------------------------------------------------


_FIXED = {
    "attn_implementation": (None, "eager"),
    "ignore_mismatched_sizes": (None, False),
    "low_cpu_mem_usage": (None, False, True),
    "trust_remote_code": (None, False),
    "use_safetensors": (None, False, True),
    "weights_only": (None, True),
}
"""Other options of `from_pretrained` in transformers, with the values we can honor."""


class PretrainedModule(nn.Module):
    """What both models share: reading, writing, and where their weights are."""

    config: Swin2SRConfig
    config_class = Swin2SRConfig
    base_model_prefix = "swin2sr"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    @property
    def base_model(self) -> Swin2SRModel:
        """The transformer without its reconstruction head, by its name elsewhere."""
        return self.body

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    @property
    def body(self) -> Swin2SRModel:
        """The transformer without its reconstruction head."""
        found = (
            self.swin2sr if isinstance(self, Swin2SRForImageSuperResolution) else self
        )
        assert isinstance(found, Swin2SRModel)
        return found

    def num_parameters(
        self, only_trainable: bool = False, exclude_embeddings: bool = False
    ) -> int:
        """Return the number of parameters; there are no embeddings to exclude."""
        return sum(
            p.numel()
            for p in self.parameters()
            if p.requires_grad or not only_trainable
        )

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that makes patch embeddings of the first features."""
        return self.body.embeddings["patch_embeddings"]

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether training computes each stage twice instead of keeping it."""
        return self.body.encoder.checkpointing

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Save memory in training: compute each stage again for its gradient.

        Parameters
        ----------
        gradient_checkpointing_kwargs : Mapping, optional
            Only `{"use_reentrant": False}`, which is always so.

        Raises
        ------
        OptionError
            If it is something else.
        """
        if gradient_checkpointing_kwargs not in (None, {}, {"use_reentrant": False}):
            raise OptionError(
                f"gradient_checkpointing_kwargs={gradient_checkpointing_kwargs!r} is "
                "not None or {'use_reentrant': False}"
            )
        self.body.encoder.checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep in training what the gradient needs, which is faster."""
        self.body.encoder.checkpointing = False

    def check_input(self, pixel_values: Tensor) -> None:
        """Refuse what is not (N, channels, H, W) with sides of one pixel or more."""
        shape = tuple(pixel_values.shape)
        first = self.body.first_convolution  # which people replace for other channels
        channels = getattr(first, "in_channels", self.config.num_channels)
        if len(shape) != 4 or shape[1] != channels or 0 in shape:
            raise InputError(
                f"the network takes (N, {channels}, H, W) with sides of 1 pixel or "
                f"more, not {shape}"
            )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return the bytes of the parameters, and of the tables that follow."""
        parts = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(part.nbytes for part in parts)

    def _asked(self, name: str, given: bool | None) -> bool:
        """Return an option of `forward`: what was given, else the configuration's."""
        return bool(getattr(self.config, name) if given is None else given)

    def initialize(self) -> None:
        """Draw random weights, as for the start of a training."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=self.config.initializer_range)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class Swin2SRModel(PretrainedModule):
    """The transformer without its reconstruction head: images in, features out.

    Parameters
    ----------
    config : Swin2SRConfig
        Hyper-parameters of the network; the weights are random.
    """

    mean: Tensor

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__()
        self.config = config = config.sealed()
        rgb = config.num_channels == config.num_channels_out == 3
        mean = torch.tensor(RGB_MEAN if rgb else (0.0,)).view(1, -1, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.first_convolution = conv3x3(config.num_channels, config.embed_dim)
        self.embeddings = nn.ModuleDict(
            {"patch_embeddings": Projection(config.embed_dim, normalize=True)}
        )
        self.encoder = Encoder(config)
        self.layernorm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.conv_after_body = residual_convolution(config)
        self.initialize()

    @property
    def img_range(self) -> float:
        """The factor on pixel values."""
        return self.config.img_range

    def pad_and_normalize(self, pixel_values: Tensor) -> Tensor:
        """Return what the first convolution takes; see `normalize`."""
        return self.normalize(pad_to_window(pixel_values, self.config.window_size))

    def normalize(self, pixel_values: Tensor) -> Tensor:
        """Turn pixel values (0 to 1) into what the network works on."""
        return (pixel_values - self.mean) * self.config.img_range

    def denormalise(self, x: Tensor) -> Tensor:
        """Undo `normalize`; a single channel out of three has their mean's mean."""
        mean = self.mean if x.shape[1] == self.mean.shape[1] else self.mean.mean()
        return x / self.config.img_range + mean

    def features(
        self, normalized: Tensor, record: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return features (N, C, H, W) and those between the stages (N, H, W, C).

        `normalized` is (N, channels, H, W) with sides that are multiples of the window;
        `record`, if given, receives the attention weights of every layer.
        """
        shallow = self.first_convolution(normalized)
        x = self.embeddings["patch_embeddings"](shallow)
        hidden = self.encoder(x, record)
        deep = self.layernorm(hidden[-1]).permute(0, 3, 1, 2)
        return self.conv_after_body(deep) + shallow, hidden

    def attentions(self, record: list[Tensor]) -> tuple[Tensor, ...]:
        """Pick from the weights of all layers those of each stage's last."""
        last = torch.tensor(self.config.depths).cumsum(0) - 1
        return tuple(record[i] for i in last)

    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> FeatureOutput | tuple[Any, ...]:
        """Compute the features of a batch of images.

        Parameters
        ----------
        pixel_values : Tensor
            (N, channels, H, W) float32, 0 to 1; any size.
        output_attentions, output_hidden_states : bool, optional
            Give these fields too; by default as the configuration says.
        return_dict : bool, optional
            False for a plain tuple; by default as the configuration says.

        Returns
        -------
        FeatureOutput
            `last_hidden_state` (N, C, H, W), and what else was asked for; those
            belong to the image padded to multiples of the window.

        Raises
        ------
        InputError
            If it is no batch of images with the right number of channels.
        """
        self.check_input(pixel_values)
        height, width = pixel_values.shape[-2:]
        padded = pad_to_window(pixel_values, self.config.window_size)
        attentions = self._asked("output_attentions", output_attentions)
        hidden_states = self._asked("output_hidden_states", output_hidden_states)
        record: list[Tensor] | None = [] if attentions else None
        features, hidden = self.features(self.normalize(padded), record)
        output = FeatureOutput(
            features[..., :height, :width],
            tuple(x.flatten(1, 2) for x in hidden) if hidden_states else None,
            None if record is None else self.attentions(record),
        )
        return output if self._asked("return_dict", return_dict) else output.to_tuple()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        config: Swin2SRConfig | None = None,
        **options: Any,
    ) -> Swin2SRModel:
        """Read a model and leave its head aside; see the class with the head."""
        whole = Swin2SRForImageSuperResolution
        return whole.from_pretrained(name_or_path, config=config, **options).swin2sr


class Swin2SRForImageSuperResolution(PretrainedModule, Uploadable):
    """The whole network: images in, enlarged or restored images out.

    Parameters
    ----------
    config : Swin2SRConfig
        Hyper-parameters of the network; the weights are random.
    """

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__()
        self.config = config = config.sealed()
        self.swin2sr = Swin2SRModel(config)
        self.head_name = "upsample" if config.upsampler else "final_convolution"
        self.add_module(self.head_name, HEADS[config.upsampler](config))
        self.initialize()

    @property
    def upscale(self) -> int:
        """Factor between the sides of input and result."""
        return self.config.upscale

    @property
    def upsampler(self) -> str:
        """Name of the reconstruction head."""
        return self.config.upsampler

    @property
    def head(self) -> nn.Module:
        """The reconstruction head."""
        return self.get_submodule(self.head_name)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SuperResolutionOutput | tuple[Any, ...]:
        """Enlarge a batch of images.

        Parameters
        ----------
        pixel_values : Tensor
            (N, channels, H, W) float32, 0 to 1; any size. Sides that are no multiples
            of the window are padded at the bottom and right, and the result is
            cropped.
        labels : Tensor, optional
            (N, channels, upscale * H, upscale * W), what the result should be.
        output_attentions, output_hidden_states : bool, optional
            Give these fields too; by default as the configuration says.
        return_dict : bool, optional
            False for a plain tuple; by default as the configuration says.

        Returns
        -------
        SuperResolutionOutput
            `reconstruction` (N, channels, upscale * H, upscale * W), about 0 to 1,
            not clipped; with labels `loss`, the mean absolute difference to them;
            `auxiliary` from networks that have it.

        Raises
        ------
        InputError
            If it is no batch of images with the right number of channels.
        """
        self.check_input(pixel_values)
        height, width = pixel_values.shape[-2:]
        body, upscale = self.swin2sr, self.config.upscale
        padded = pad_to_window(pixel_values, self.config.window_size)
        pixels = body.normalize(padded)
        attentions = self._asked("output_attentions", output_attentions)
        hidden_states = self._asked("output_hidden_states", output_hidden_states)
        record: list[Tensor] | None = [] if attentions else None
        features, hidden = body.features(pixels, record)
        x = body.denormalise(self.head(features, pixels))
        output = SuperResolutionOutput(
            reconstruction=x[..., : upscale * height, : upscale * width],
            hidden_states=tuple(x.flatten(1, 2) for x in hidden)
            if hidden_states
            else None,
            attentions=None if record is None else body.attentions(record),
        )
        if isinstance(self.head, PixelShuffleAux):
            auxiliary = body.denormalise(self.head.auxiliary(features))
            output.auxiliary = auxiliary[..., :height, :width]
        if labels is not None:
            output.loss = F.l1_loss(output.reconstruction, labels)
        return output if self._asked("return_dict", return_dict) else output.to_tuple()

    def upscale_tile(
        self,
        x: Tensor,
        run_body: Callable[[Tensor], Tensor] | None = None,
        error_head: ErrorHead | None = None,
        *,
        part: Box | None = None,
    ) -> Tensor:
        """Enlarge tiles, and nothing else: the entry for inference.

        Parameters
        ----------
        x : Tensor
            (N, channels, H, W) float32, about 0 to 1. One channel for an RGB network
            means gray: it enters all channels, and their results are averaged.
        run_body : callable, optional
            A faster way from normalized pixels to the head's input (N, C, H, W).
        error_head : ErrorHead, optional
            Tells from the same features how far the image may be off.
        part : Box, optional
            The part of the tile, padded to the window, whose features `run_body`
            gives; the result is that of this part.

        Returns
        -------
        Tensor
            (N, channels as in x, upscale * H, upscale * W), not clipped; with an error
            head twice as many channels, those of the image first.
        """
        height, width = x.shape[-2:]
        body, upscale = self.swin2sr, self.config.upscale
        gray = x.shape[1] == 1 < self.config.num_channels
        if gray:
            x = x.expand(-1, self.config.num_channels, -1, -1)
        self.check_input(x)
        pixels = body.normalize(pad_to_window(x, self.config.window_size))
        features = run_body(pixels) if run_body else body.features(pixels)[0]
        if part is not None:
            pixels = pixels[(..., *part.slices)]
        result = body.denormalise(self.head(features, pixels, gray))
        if error_head is not None:
            result = torch.cat((result, error_head(features, gray)), 1)
        return result[..., : upscale * height, : upscale * width]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        config: Swin2SRConfig | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | int | torch.device | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Swin2SRForImageSuperResolution:
        """Read a model, ready for inference.

        Parameters
        ----------
        name_or_path : str or PathLike
            A model folder, a weights file, or a name (downloaded if needed).
        config : Swin2SRConfig, optional
            Hyper-parameters, if the file does not come with them.
        dtype, torch_dtype : torch.dtype or str, optional
            Type of the weights, such as `"float16"`; by default, and for `"auto"`,
            float32.
        device_map : str, int or torch.device, optional
            One device for the whole network; `"auto"` takes a GPU if there is one.
        **options
            `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only` and
            `force_download`, for the hub; fields of the configuration, which must
            fit the weights.

        Returns
        -------
        Swin2SRForImageSuperResolution
            In evaluation mode, on the CPU unless `device_map` says otherwise.

        Raises
        ------
        WeightsError
            If the model cannot be found, downloaded, read or trusted.
        OptionError
            If an option is unknown, or cannot be honored.
        """
        hub = PLAIN.take_from(options)
        fields = {f.name for f in dataclasses.fields(Swin2SRConfig)} - {"extra"}
        only_safetensors = options.get("use_safetensors")
        for name, value in list(options.items()):
            if name in _FIXED:
                if value not in _FIXED[name]:
                    raise OptionError(f"{name}={value!r} is not possible here")
                del options[name]
            elif name not in fields:
                raise OptionError(f"from_pretrained has no option {name!r}")
        kind, device = _dtype(dtype if torch_dtype is None else torch_dtype), None
        if device_map is not None:
            device = _device(device_map)
        found = resolve_model(str(name_or_path), hub=hub)
        if only_safetensors and found.path.suffix != ".safetensors":
            raise OptionError(f"use_safetensors=True, but the file is {found.path}")
        config = config or found.config
        if options:
            config = dataclasses.replace(config or Swin2SRConfig(), **options)
        net = load_network(found.path, config, sha256=found.sha256)
        return net.to(device=device, dtype=kind)

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write `config.json` and `model.safetensors` into a folder; return it."""
        return save_network(self, folder)


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, given, None) if isinstance(given, str) else given
    if given in (None, "auto"):
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise OptionError(f"dtype={given!r} is not 'float32', 'float16' or the like")
    return found


def _device(given: str | int | torch.device | Mapping[str, Any]) -> torch.device:
    where = given
    if isinstance(where, Mapping) and list(where) == [""]:  # the whole network
        where = where[""]
    if where in ("auto", "balanced", "balanced_low_0", "sequential"):
        where = torch.accelerator.current_accelerator() or "cpu"
    try:
        return torch.device(where)  # type: ignore[arg-type]
    except (RuntimeError, TypeError):
        raise OptionError(
            f"device_map={given!r} is no single device; give 'cpu', 'cuda' or 'auto'"
        ) from None


def load_network(
    path: str | PathLike[str],
    config: Swin2SRConfig | None = None,
    *,
    sha256: str | None = None,
) -> Swin2SRForImageSuperResolution:
    """Read a network, ready for inference on the CPU; see `read_weights`.

    It is refused, too, if it gives numbers that are not finite for a plain image.
    """
    state, config, _ = read_weights(path, config, sha256=sha256)
    net = Swin2SRForImageSuperResolution(config)
    net.load_state_dict(state, strict=True)
    net.eval()
    side = config.window_size
    ramp = torch.linspace(0, 1, side * side).reshape(1, 1, side, side)
    with torch.inference_mode():
        finite = net.upscale_tile(ramp).isfinite().all()
    if not finite:
        reason = "the network gives numbers that are not finite for a gray ramp"
        raise WeightsError(path, reason, SUSPICIOUS)
    return net


def save_network(
    net: Swin2SRForImageSuperResolution,
    folder: str | PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a network as a model folder; see `weights.checkpoint.write_weights`."""
    return write_weights(net.state_dict(), net.config, folder, metadata)
