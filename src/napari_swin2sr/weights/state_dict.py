"""Names and shapes of a network's parameters, in the two families of checkpoints.

*Original* names are those of the authors' code, *hub* names those of transformers,
which this package uses. One table knows both; the rest is derived from it.
No torch here: a safetensors header is enough.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_swin2sr.weights.config import Swin2SRConfig

    Value = TypeVar("Value")

Shape: TypeAlias = tuple[int, ...]

HEAD_WIDTH = 64
"""Channels inside every head but `pixelshuffledirect` (`num_feat` of the authors)."""

BIAS_WIDTH = 512
"""Hidden units of the perceptron that makes the position bias."""

QKV = ("query", "key", "value")
"""Order of the row blocks in the fused `qkv` matrix of original checkpoints."""

MASKED = -100.0
"""Added to the logit of two pixels that only the cyclic shift made neighbors."""

_DERIVED = re.compile(
    r"(attn_mask|attention\.self_mask"
    r"|relative_coords_table|relative_position_index)$"
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of the original network.

    Attributes
    ----------
    original : its name in the authors' code
    hub : its name in transformers; three names for a fused matrix, whose rows are
        split evenly among them
    shape : shape under each hub name
    """

    original: str
    hub: tuple[str, ...]
    shape: Shape

    @property
    def original_shape(self) -> Shape:
        """Shape under the original name."""
        return (len(self.hub) * self.shape[0], *self.shape[1:])


def parameters(config: Swin2SRConfig) -> Iterator[Parameter]:
    """List every parameter of a network with this configuration."""
    c = config.embed_dim
    yield from _module(
        "conv_first", "swin2sr.first_convolution", c, config.num_channels, 3, 3
    )
    patches = "swin2sr.embeddings.patch_embeddings"
    yield from _module("patch_embed.proj", f"{patches}.projection", c, c, 1, 1)
    yield from _module("patch_embed.norm", f"{patches}.layernorm", c)
    for i, (depth, heads) in enumerate(
        zip(config.depths, config.num_heads, strict=True)
    ):
        original, hub = f"layers.{i}", f"swin2sr.encoder.stages.{i}"
        for j in range(depth):
            yield from _layer(
                f"{original}.residual_group.blocks.{j}.",
                f"{hub}.layers.{j}.",
                config,
                heads,
            )
        yield from _residual(f"{original}.conv", f"{hub}.conv", config)
        yield from _module(
            f"{original}.patch_embed.proj", f"{hub}.patch_embed.projection", c, c, 1, 1
        )
    yield from _module("norm", "swin2sr.layernorm", c)
    yield from _residual("conv_after_body", "swin2sr.conv_after_body", config)
    yield from _head(config)


def _module(original: str, hub: str, *shape: int) -> Iterator[Parameter]:
    """Weight of this shape, and a bias."""
    yield Parameter(f"{original}.weight", (f"{hub}.weight",), shape)
    yield Parameter(f"{original}.bias", (f"{hub}.bias",), shape[:1])


def _layer(
    original: str, hub: str, config: Swin2SRConfig, heads: int
) -> Iterator[Parameter]:
    c, hidden = config.embed_dim, config.mlp_dim
    attn, attention = f"{original}attn.", f"{hub}attention.self."
    bias_mlp = f"{attention}continuous_position_bias_mlp."
    yield Parameter(f"{attn}logit_scale", (f"{attention}logit_scale",), (heads, 1, 1))
    yield Parameter(
        f"{attn}qkv.weight", tuple(f"{attention}{name}.weight" for name in QKV), (c, c)
    )
    if config.qkv_bias:  # keys have none
        yield Parameter(f"{attn}q_bias", (f"{attention}query.bias",), (c,))
        yield Parameter(f"{attn}v_bias", (f"{attention}value.bias",), (c,))
    yield from _module(f"{attn}cpb_mlp.0", f"{bias_mlp}0", BIAS_WIDTH, 2)
    yield Parameter(
        f"{attn}cpb_mlp.2.weight", (f"{bias_mlp}2.weight",), (heads, BIAS_WIDTH)
    )
    yield from _module(f"{attn}proj", f"{hub}attention.output.dense", c, c)
    yield from _module(f"{original}norm1", f"{hub}layernorm_before", c)
    yield from _module(f"{original}mlp.fc1", f"{hub}intermediate.dense", hidden, c)
    yield from _module(f"{original}mlp.fc2", f"{hub}output.dense", c, hidden)
    yield from _module(f"{original}norm2", f"{hub}layernorm_after", c)


def _residual(original: str, hub: str, config: Swin2SRConfig) -> Iterator[Parameter]:
    c = config.embed_dim
    if config.resi_connection == "1conv":
        yield from _module(original, hub, c, c, 3, 3)
        return
    q = c // 4
    yield from _module(f"{original}.0", f"{hub}.0", q, c, 3, 3)
    yield from _module(f"{original}.2", f"{hub}.2", q, q, 1, 1)
    yield from _module(f"{original}.4", f"{hub}.4", c, q, 3, 3)


def _head(config: Swin2SRConfig) -> Iterator[Parameter]:
    c, f = config.embed_dim, HEAD_WIDTH
    inputs, outputs = config.num_channels, config.num_channels_out
    upsampler = config.upsampler
    if upsampler == "":
        yield from _module("conv_last", "final_convolution", outputs, c, 3, 3)
        return
    if upsampler == "pixelshuffledirect":
        rows = config.upscale**2 * outputs
        yield from _module("upsample.0", "upsample.conv", rows, c, 3, 3)
        return
    before = "conv_before_upsample"
    yield from _module(f"{before}.0", f"upsample.{before}", f, c, 3, 3)
    if upsampler == "nearest+conv":
        for name in ("conv_up1", "conv_up2", "conv_hr"):
            yield from _module(name, f"upsample.{name}", f, f, 3, 3)
    else:
        yield from _enlargement(config.upscale)
    if upsampler == "pixelshuffle_aux":
        yield from _module("conv_bicubic", "upsample.conv_bicubic", f, inputs, 3, 3)
        yield from _module("conv_aux", "upsample.conv_aux", inputs, f, 3, 3)
        yield from _module(
            "conv_after_aux.0", "upsample.conv_after_aux.0", f, inputs, 3, 3
        )
    yield from _module("conv_last", "upsample.final_convolution", outputs, f, 3, 3)


def _enlargement(upscale: int) -> Iterator[Parameter]:
    hub, f = "upsample.upsample.convolution", HEAD_WIDTH
    if upscale == 3:
        yield from _module("upsample.0", hub, 9 * f, f, 3, 3)
        return
    for i in range(round(math.log2(upscale))):
        yield from _module(f"upsample.{2 * i}", f"{hub}_{i}", 4 * f, f, 3, 3)


# -- what follows from the table -----------------------------------------------------


def hub_shapes(config: Swin2SRConfig) -> dict[str, Shape]:
    """Return the shape of every parameter under its hub name."""
    return {name: p.shape for p in parameters(config) for name in p.hub}


def original_shapes(config: Swin2SRConfig) -> dict[str, Shape]:
    """Return the shape of every parameter under its original name."""
    return {p.original: p.original_shape for p in parameters(config)}


def count_parameters(config: Swin2SRConfig) -> int:
    """Return how many numbers a network with this configuration has learned."""
    return sum(math.prod(shape) for shape in hub_shapes(config).values())


def is_derived(name: str) -> bool:
    """Tell whether a tensor follows from the configuration, in either family."""
    return _DERIVED.search(name) is not None


def offset_tables(window: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return every offset between two pixels of a window, and which pair has which.

    Returns
    -------
    offsets : ((2 * window - 1) ** 2, 2) float32 signed logarithmic (dy, dx)
    index : (L, L) int64, row of `offsets` for each query and key
    """
    steps = np.arange(1 - window, window, dtype=np.float32) * 8 / max(window - 1, 1)
    steps = np.sign(steps) * np.log2(np.abs(steps) + 1) / 3
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    y, x = np.divmod(np.arange(window**2), window)
    dy, dx = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    return offsets, dy * (2 * window - 1) + dx


def without_derived(named: Mapping[str, Value]) -> dict[str, Value]:
    """Leave out masks and tables that the network computes itself."""
    return {name: value for name, value in named.items() if not is_derived(name)}


def is_original(names: Iterable[str]) -> bool:
    """Tell the authors' names from those of the hub."""
    return not any(name.startswith("swin2sr.") for name in names)


def differences(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> list[str]:
    """Say how two sets of named shapes differ, one phrase per parameter."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    unknown = [f"{name} is unexpected" for name in found if name not in expected]
    wrong = [
        f"{name} is {_times(found[name])}, not {_times(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    return missing + unknown + wrong


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) if shape else "a single number"
