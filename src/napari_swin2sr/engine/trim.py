"""Which part of a tile each step of the network needs, if only its core is kept.

Counted back from the core: a convolution needs a pixel or two more than it gives, and
a layer the whole of each window that it gives a pixel of. The halo shrinks on the way
through the network, and what is skipped cannot reach the core: its pixels stay the
same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_swin2sr.image.box import Box

if TYPE_CHECKING:
    from torch import Tensor

    from napari_swin2sr.weights.config import Swin2SRConfig


@dataclass(frozen=True, slots=True)
class Windows:
    """A rectangle of windows, on the plain or on the shifted grid of a tile.

    `top` and `left` are -1 for the shifted windows that lie on both sides of the tile
    and are needed at the top or left only.
    """

    top: int
    left: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Trim:
    """What each step has to give; boxes are parts of the tile [input px]."""

    embedded: Box  # features before the first stage
    stages: tuple[tuple[tuple[Windows, ...], Box, Box], ...]
    """Of each stage: windows of its layers, what its convolutions take, and give"""
    deep: Box  # what the convolutions after the stages take
    features: Box  # what the head takes


def trim(config: Swin2SRConfig, height: int, width: int, core: Box | None) -> Trim:
    """Return what is needed for a core [input px]; everything if there is none."""
    tile = Box(0, 0, height, width)
    residual = config.residual_reach
    features = tile if core is None else within(core.grown(config.head_reach), tile)
    deep = gives = within(features.grown(residual), tile)
    stages = []
    for depth in reversed(config.depths):
        need = takes = within(gives.grown(residual), tile)
        layers = []
        for layer in reversed(range(depth)):
            shift = config.shift_size if layer % 2 else 0
            windows, need = windows_of(need, tile, config.attention_window, shift)
            layers.append(windows)
        stages.append((tuple(reversed(layers)), takes, gives))
        gives = need
    return Trim(gives, tuple(reversed(stages)), deep, features)


def windows_of(need: Box, tile: Box, window: int, shift: int) -> tuple[Windows, Box]:
    """Return the windows that hold pixels of a box, and all their pixels."""
    rows, (y0, y1) = _along(need.y0, need.y1, tile.height, window, shift)
    columns, (x0, x1) = _along(need.x0, need.x1, tile.width, window, shift)
    return Windows(rows[0], columns[0], rows[1], columns[1]), Box(y0, x0, y1, x1)


def _along(
    start: int, stop: int, length: int, window: int, shift: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first window and their number along an axis, and their pixels."""
    first, last = (start - shift) // window, -((shift - stop) // window)
    begin, end = max(0, first * window + shift), min(length, last * window + shift)
    if last - first > length // window:  # one window lies on both sides: all of them
        first, last = 0, length // window
    return (first, last - first), (begin, end)


def cut(result: Tensor, core: Box | None, upscale: int) -> Tensor:
    """Return the part of a result that belongs to a core [input px]."""
    return result if core is None else result[(..., *core.scaled(upscale).slices)]


def within(box: Box, tile: Box) -> Box:
    """Return what of a box lies in the tile."""
    found = box.intersect(tile)
    assert found is not None
    return found
