"""Between the grids of two pyramid levels, which share their outer corners."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_swin2sr.plugin.live.tiles import Bounds, Index


def coarse_span(pair: tuple[int, int], fine: int, coarse: int) -> tuple[int, int]:
    """Return the coarse pixels needed to interpolate fine pixels lo..hi of an axis."""
    if fine == coarse:
        return pair
    ratio = coarse / fine
    low = math.floor((pair[0] + 0.5) * ratio - 0.5)
    high = math.floor((pair[1] - 0.5) * ratio - 0.5) + 2
    low = min(max(low, 0), coarse - 1)
    return low, max(min(high, coarse), low + 1)


def stretch(
    base: ArrayLike,
    start: Sequence[int],
    coarse: Sequence[int],
    fine: Sequence[int],
    box: Bounds,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Interpolate linearly from a coarse grid to a finer one with the same corners.

    Parameters
    ----------
    base : part of the coarse level, beginning at `start`
    coarse, fine : shapes of the whole levels
    box : region of the fine level to make
    """
    out = np.asarray(base)
    for axis, (lo, hi) in enumerate(box):
        if coarse[axis] == fine[axis]:
            picked = slice(lo - start[axis], hi - start[axis])
            out = out[(slice(None),) * axis + (picked,)]
            continue
        at = (np.arange(lo, hi) + 0.5) * (coarse[axis] / fine[axis]) - 0.5 - start[axis]
        at = np.clip(at, 0, out.shape[axis] - 1)
        first = np.floor(at).astype(int)
        after = np.minimum(first + 1, out.shape[axis] - 1)
        weight = (at - first).astype(np.float32)
        weight = weight.reshape((-1,) + (1,) * (out.ndim - axis - 1))
        near = np.take(out, first, axis).astype(np.float32, copy=False)
        out = near + weight * (np.take(out, after, axis) - near)
    if np.issubdtype(dtype, np.integer):
        out = np.rint(out)
    return out.astype(dtype, copy=False)


class SourceTiles:
    """An array read in tiles of its own grid: a `Level` with nothing to compute.

    Parameters
    ----------
    source : array-like with shape, dtype and slicing
    axes : the Y and X axis of `source`
    samples : the axis of RGB samples, or None
    tile : side of a tile, used where the source has no chunks of its own
    """

    def __init__(
        self,
        source: Any,
        axes: tuple[int, int],
        samples: int | None = None,
        tile: int = 512,
    ) -> None:
        self.source = source
        self.shape = tuple(int(n) for n in source.shape)
        self.dtype = np.dtype(source.dtype)
        sides = {axis: _side(source, axis, tile) for axis in axes}
        self.chunks = tile_grid(self.shape, sides, samples)

    def block_at(self, index: Index) -> NDArray[Any]:
        """Return one tile, read now."""
        return np.asarray(self.source[slices_at(self.chunks, index)])


class BlockMeans:
    """A coarser level made of means of blocks of the source: a `Level`.

    napari draws the pixels of every level over the same extent. Where the source is
    no multiple of the factor, blocks are therefore spread evenly, some a pixel
    smaller than others, so that no level is ever more than one pixel off.

    Parameters
    ----------
    source : array-like with shape, dtype and slicing
    axes : the Y and X axis of `source`
    factor : about how many source pixels, per axis, go into one
    samples : the axis of RGB samples, or None
    """

    def __init__(
        self,
        source: Any,
        axes: tuple[int, int],
        factor: int,
        samples: int | None = None,
    ) -> None:
        self.source, self.axes = source, axes
        full = tuple(int(n) for n in source.shape)
        self.shape = tuple(
            -(-n // factor) if axis in axes else n for axis, n in enumerate(full)
        )
        self.dtype = np.dtype(source.dtype)
        side = max(4096 // factor, 16)
        self.chunks = tile_grid(self.shape, dict.fromkeys(axes, side), samples)
        self._edges = {
            axis: np.arange(self.shape[axis] + 1) * full[axis] // self.shape[axis]
            for axis in axes
        }

    def block_at(self, index: Index) -> NDArray[Any]:
        """Return one tile of means, rounded to the type of the source."""
        span = list(slices_at(self.chunks, index))
        edges = {}
        for axis in self.axes:
            edges[axis] = self._edges[axis][span[axis].start : span[axis].stop + 1]
            span[axis] = slice(int(edges[axis][0]), int(edges[axis][-1]))
        means = np.asarray(self.source[tuple(span)])
        for axis in self.axes:
            means = _means(means, edges[axis] - edges[axis][0], axis)
        if np.issubdtype(self.dtype, np.integer):
            means = np.rint(means)
        return means.astype(self.dtype)


def _means(array: NDArray[Any], edges: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return the means between successive edges of an axis, as float32 or wider.

    One `add.reduce` per block is forty times faster than `add.reduceat`.
    """
    moved = np.moveaxis(array, axis, 0)
    kind = np.result_type(array.dtype, np.float32)
    out = np.empty((len(edges) - 1, *moved.shape[1:]), kind)
    for row, (first, last) in enumerate(itertools.pairwise(edges)):
        np.add.reduce(moved[first:last], axis=0, dtype=kind, out=out[row])
        out[row] /= last - first
    return np.moveaxis(out, 0, axis)


def tile_grid(
    shape: Sequence[int], sides: Mapping[int, int], samples: int | None
) -> tuple[tuple[int, ...], ...]:
    """Return dask-style chunks: tiles along `sides`, one position along the rest.

    The axis of RGB samples stays whole.
    """
    chunks = []
    for axis, n in enumerate(shape):
        side = n if axis == samples else sides.get(axis, 1)
        full, rest = divmod(n, side)
        chunks.append((side,) * full + ((rest,) if rest else ()))
    return tuple(chunks)


def slices_at(chunks: Sequence[Sequence[int]], index: Index) -> tuple[slice, ...]:
    """Return where a tile of a chunk grid lies in the array."""
    return tuple(
        slice(start := sum(sizes[:i]), start + sizes[i])
        for sizes, i in zip(chunks, index, strict=True)
    )


def _side(source: Any, axis: int, tile: int) -> int:
    """Return a tile side that reads every chunk of the source only once."""
    chunks = getattr(source, "chunks", None)
    if not chunks or len(chunks) != len(source.shape):
        return tile
    own = chunks[axis]
    side = int(own[0] if isinstance(own, Sequence) else own)
    if not 0 < side <= 4096:
        return tile if side <= 0 else 4096
    return side * max(tile // side, 1)
