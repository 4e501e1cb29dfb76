"""Networks to start training from: another model, or bicubic interpolation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_swin2sr.errors import OptionError, WeightsError
from napari_swin2sr.image.resample import keys_cubic
from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution, load_network
from napari_swin2sr.weights.catalog import resolve_model
from napari_swin2sr.weights.config import Swin2SRConfig

if TYPE_CHECKING:
    from napari_swin2sr.training.options import TrainOptions


def starting_network(options: TrainOptions) -> Swin2SRForImageSuperResolution:
    """Load the model to fine-tune, or make one that interpolates bicubically."""
    if options.start is not None:
        network = load(options.start)
        if network.config.upscale < 2 or network.config.num_channels != 3:
            raise WeightsError(
                options.start,
                f"it has upscale {network.config.upscale} and "
                f"{network.config.num_channels} channel(s)",
                "Only RGB models that enlarge can be fine-tuned",
            )
        if options.upscale in (None, network.config.upscale):
            return network
        return enlarge_head(network, options.upscale)
    if options.upscale not in (None, 2):
        raise OptionError(
            f"upscale={options.upscale} without a model to start from: a new network "
            "has upscale 2. Name a model with --from, such as default"
        )
    torch.manual_seed(options.seed)
    config = Swin2SRConfig(
        embed_dim=options.embed_dim,
        depths=options.depths,
        num_heads=options.heads,
        upsampler="pixelshuffledirect",
        upscale=2,
        drop_path_rate=0.0,
    )
    return bicubic_network(config)


def load(name_or_path: str) -> Swin2SRForImageSuperResolution:
    """Load a model by name, folder or file."""
    resolved = resolve_model(name_or_path)
    return load_network(resolved.path, config=resolved.config)


def bicubic_network(config: Swin2SRConfig) -> Swin2SRForImageSuperResolution:
    """Make a network that interpolates bicubically before it has learned anything.

    The first convolution copies the 3 x 3 neighborhood of every color into 3 * 9
    features, the convolution of the head combines a 3 x 3 neighborhood of those, so
    together they see the 5 x 5 pixels that the Keys cubic (a = -0.5) needs for all
    phases. Everything between contributes nothing yet, but has gradients.
    """
    channels, features = config.num_channels, config.embed_dim
    if config.upsampler != "pixelshuffledirect" or features < 9 * channels:
        raise OptionError(
            f"upsampler={config.upsampler!r} with embed_dim={features} and "
            f"{channels} channels cannot start as bicubic interpolation; use "
            f"'pixelshuffledirect' and embed_dim >= {9 * channels}"
        )
    if config.upscale != 2:
        raise OptionError(
            f"upscale={config.upscale} cannot start as bicubic interpolation, whose "
            "5 x 5 neighborhood is derived for 2; fine-tune a model of that factor "
            "with --from instead"
        )
    network = Swin2SRForImageSuperResolution(config)
    weights = network.state_dict()
    first = weights["swin2sr.first_convolution.weight"]
    head = weights["upsample.conv.weight"]
    kernels = _phase_kernels()
    with torch.no_grad():
        first[: 9 * channels] = 0
        weights["swin2sr.first_convolution.bias"].zero_()
        head.zero_()
        weights["upsample.conv.bias"].zero_()
        weights["swin2sr.conv_after_body.weight"].zero_()
        weights["swin2sr.conv_after_body.bias"].zero_()
        for channel in range(channels):
            for tap in range(9):
                first[9 * channel + tap, channel, tap // 3, tap % 3] = 1
            for phase in range(4):
                taps = _split_kernel(np.outer(*kernels[phase]))
                head[4 * channel + phase, 9 * channel : 9 * channel + 9] = (
                    torch.from_numpy(taps).float()
                )
    network.load_state_dict(weights)
    return network


def enlarge_head(
    network: Swin2SRForImageSuperResolution, upscale: int
) -> Swin2SRForImageSuperResolution:
    """Return a copy of a network with a head for a larger factor.

    Each of the new output pixels begins as the old head's nearest output pixel, so
    that training starts from the old model's result, repeated.
    """
    config, old = network.config, network.config.upscale
    if config.upsampler != "pixelshuffledirect" or upscale % old:
        raise OptionError(
            f"upscale={upscale} cannot start from a model with upscale {old} and the "
            f"head {config.upsampler!r}; it takes a 'pixelshuffledirect' head and a "
            "multiple of the model's own factor"
        )
    larger = Swin2SRForImageSuperResolution(
        dataclasses.replace(config, upscale=upscale)
    )
    weights = network.state_dict()
    phase = torch.arange(upscale) * old // upscale
    phases = (phase[:, None] * old + phase).flatten()
    for name in ("upsample.conv.weight", "upsample.conv.bias"):
        by_phase = weights[name].unflatten(0, (-1, old**2))
        weights[name] = by_phase[:, phases].flatten(0, 1)
    larger.load_state_dict(weights)
    return larger


def _phase_kernels() -> list[tuple[np.ndarray, np.ndarray]]:
    """Row and column weights at offsets -2..2 for the four output phases."""
    offsets = np.arange(-2, 3)
    near, far = (keys_cubic(offsets - shift) for shift in (-0.25, 0.25))
    return [(rows, columns) for rows in (near, far) for columns in (near, far)]


def _split_kernel(kernel: np.ndarray) -> np.ndarray:
    """Write a 5 x 5 kernel as 3 x 3 positions of 3 x 3 taps, (9, 3, 3).

    Every one of the 25 offsets is reached by the center tap moved as far as it goes
    and by the remaining step of the other convolution.
    """
    taps = np.zeros((9, 3, 3))
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            oy, ox = np.clip(dy, -1, 1), np.clip(dx, -1, 1)
            tap = (dy - oy + 1) * 3 + (dx - ox + 1)
            taps[tap, oy + 1, ox + 1] = kernel[dy + 2, dx + 2]
    return taps
