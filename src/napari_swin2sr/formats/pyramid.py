"""Block means: the coarser levels of a pyramid, one block at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.tiles.chunks import ChunkGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALLEST_LEVEL = 1024
"""A pyramid ends with the level whose longer side is at most this [px]."""


def level_shapes(shape: tuple[int, ...], axes: str) -> list[tuple[int, ...]]:
    """Return the shapes of all levels, the full size first.

    Each level has half the rows and columns of the one before, rounded up.
    """
    shapes = [tuple(shape)]
    y, x = axes.index("Y"), axes.index("X")
    while max(shapes[-1][y], shapes[-1][x]) > SMALLEST_LEVEL:
        shapes.append(
            tuple(
                -(-n // 2) if axis in (y, x) else n for axis, n in enumerate(shapes[-1])
            )
        )
    return shapes


def block_means(
    pixels: NDArray[Any], axes: str, nodata: float | None = None
) -> NDArray[Any]:
    """Halve an image along Y and X: each new pixel is the mean of 2 x 2.

    At an odd far edge it is the mean of the one or two pixels there are. Pixels that
    are NaN or `nodata` do not count; where none is left, the result is that too. The
    dtype is kept: means of integers are rounded half to even, booleans are voted on.
    """
    y, x = axes.index("Y"), axes.index("X")
    shape = tuple(
        -(-n // 2) if axis in (y, x) else n for axis, n in enumerate(pixels.shape)
    )
    total, count = np.zeros(shape), np.zeros(shape, np.uint8)
    for dy in (0, 1):
        for dx in (0, 1):
            index = [slice(None)] * pixels.ndim
            index[y], index[x] = slice(dy, None, 2), slice(dx, None, 2)
            quarter = pixels[tuple(index)]
            inside = tuple(slice(0, n) for n in quarter.shape)
            there = _present(quarter, nodata)
            if there is None:
                total[inside] += quarter
                count[inside] += 1
            else:
                total[inside] += np.where(there, quarter, 0)
                count[inside] += there
    missing = count == 0
    total /= np.maximum(count, 1)
    if pixels.dtype.kind in "iu":
        np.rint(total, out=total)
    elif pixels.dtype.kind == "b":
        total = total >= 0.5
    means = total.astype(pixels.dtype)
    if missing.any():
        means[missing] = np.nan if nodata is None else nodata
    return means


def _present(pixels: NDArray[Any], nodata: float | None) -> NDArray[Any] | None:
    """Return which pixels count, or None if all do."""
    there: NDArray[Any] | None = None
    if pixels.dtype.kind == "f":
        there = ~np.isnan(pixels)
    if nodata is not None and not math.isnan(nodata):
        same = pixels != nodata
        there = same if there is None else there & same
    return there


@dataclass(frozen=True)
class BlockMeans:
    """A pyramid level as a grid of blocks, for `runner.run`.

    Attributes
    ----------
    finer : the next higher resolution level, any array
    axes : of both
    shape, block : of this level, and of a block of it
    nodata : value of missing pixels
    """

    finer: Any
    axes: str
    shape: tuple[int, ...]
    block: tuple[int, ...]
    nodata: float | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return ChunkGrid.from_sides(self.shape, self.block).grid_shape

    def slices_at(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the block's place in this level."""
        return ChunkGrid.from_sides(self.shape, self.block).slices_at(index)

    def block_at(self, index: tuple[int, ...]) -> NDArray[Any]:
        """Compute one block from the finer level."""
        source = tuple(
            slice(2 * s.start, 2 * s.stop) if axis in "YX" else s
            for s, axis in zip(self.slices_at(index), self.axes, strict=True)
        )
        return block_means(np.asarray(self.finer[source]), self.axes, self.nodata)
