"""The levels of a live layer: super-resolved, original, block means of the original.

Lower resolutions never come from super-resolved pixels. So adding the layer calls the
model zero times, zoomed out it shows the original, and only what is looked at beyond
the original's resolution is computed.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_swin2sr.plugin.layer_source import LayerSource
from napari_swin2sr.plugin.live.progressive import (
    Filler,
    Index,
    Level,
    ProgressiveArray,
)
from napari_swin2sr.tiles.cache import BlockCache
from napari_swin2sr.tiles.chunks import ChunkGrid

if TYPE_CHECKING:
    from napari_swin2sr.tiles.lazy import LazyUpscaled

COARSEST = 1024
"""Pixels per side that the coarsest level has at most."""


class Deferred:
    """Super-resolved tiles whose plan is finished by the first one: a `Level`.

    Choosing the value range reads pixels, and loading the network takes a while;
    neither may hold up the layer, so both happen with the first tile, in its thread.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        chunks: tuple[tuple[int, ...], ...],
        make: Callable[[], LazyUpscaled],
    ) -> None:
        self.shape, self.dtype, self.chunks = shape, dtype, chunks
        self._make = make
        self.error: ErrorTiles | None = None
        self._lazy: LazyUpscaled | None = None
        self._lock = threading.Lock()

    @property
    def lazy(self) -> LazyUpscaled:
        """The result itself, exact wherever it is read."""
        with self._lock:
            if self._lazy is None:
                self._lazy = self._make()
            return self._lazy

    def block_at(self, index: Index) -> NDArray[Any]:
        """Return one super-resolved tile; its error, if asked for, is kept, too."""
        if self.error is None:
            return self.lazy.block_at(index)
        pair = self.lazy.pair_at(index)
        self.error.came(index, pair.error)
        return pair.image


class ErrorTiles:
    """Half-widths of error bars from the forwards of the image itself: a `Level`.

    Of color images the largest of the samples, so that there is one per pixel.

    Attributes
    ----------
    array : the level as napari gets it
    """

    def __init__(self, image: ProgressiveArray, samples: int | None) -> None:
        deferred = image.level
        assert isinstance(deferred, Deferred)
        self._image, self._deferred, self._samples = image, deferred, samples
        whole = zip(deferred.shape, deferred.chunks, strict=True)
        kept = [one for axis, one in enumerate(whole) if axis != samples]
        self.shape = tuple(n for n, _ in kept)
        self.chunks = tuple(sizes for _, sizes in kept)
        self.dtype = np.dtype(np.float32)
        self.array = ProgressiveArray(
            self,
            image.cache,
            image.filler,
            changed=image.changed,
            failed=image.failed,
            unknown=math.nan,
        )
        deferred.error = self

    def came(self, index: Index, error: NDArray[np.float32] | None) -> None:
        """Keep the error that came with a tile of the image."""
        assert error is not None  # the image was planned with an error scale
        if self._samples is not None:
            error = np.fmax.reduce(error, axis=self._samples)
            index = tuple(at for axis, at in enumerate(index) if axis != self._samples)
        self.array.keep(index, error)

    def block_at(self, index: Index) -> NDArray[Any]:
        """Return the error of one tile; the image's tile is kept, too."""
        at = list(index)
        if self._samples is not None:
            at.insert(self._samples, 0)
        pair = self._deferred.lazy.pair_at(tuple(at))
        self._image.keep(tuple(at), pair.image)
        error: NDArray[np.float32] | None = pair.error
        assert error is not None
        return error if self._samples is None else np.fmax.reduce(error, self._samples)


class Pyramid:
    """The levels, the two threads that fill them, and their end.

    `changed` and `failed` are those of `ProgressiveArray`; `dark` is the value of
    pixels about which nothing is known yet.

    Attributes
    ----------
    chain : super-resolved, original, lower ones; each stands in for the one before
    levels : what napari gets. Restored images have the size of the original, which
        napari would then always show instead, so it is left out.
    """

    def __init__(
        self,
        source: LayerSource,
        finest: Level,
        cache: BlockCache,
        *,
        dark: float = 0,
        changed: Callable[[], object],
        failed: Callable[[Exception], object],
    ) -> None:
        self._model_thread = Filler("napari-swin2sr network")
        self._reader_thread = Filler("napari-swin2sr reader")
        axes = source.layout.y, source.layout.x
        same_size = tuple(finest.shape) == tuple(source.data.shape)
        coarse = _coarse_levels(source.levels, axes, source.layout.s, more=same_size)
        chain: list[ProgressiveArray | NDArray[Any]] = []
        for number, level in reversed(list(enumerate([finest, *coarse]))):
            if isinstance(level, np.ndarray):
                chain.insert(0, level)
                continue
            last = not chain
            plane = source.layout.stack_axes == ()
            array = ProgressiveArray(
                level,
                cache,
                self._reader_thread if number else self._model_thread,
                lower=None if last else chain[0],
                number=number,
                changed=changed,
                failed=failed,
                buffer=_preview(level, axes, dark) if last and plane else None,
            )
            chain.insert(0, array)
        self.chain = chain
        self.levels = [chain[0], *chain[2:]] if same_size else chain

    @property
    def arrays(self) -> list[ProgressiveArray]:
        """The levels that are filled bit by bit."""
        return [level for level in self.chain if isinstance(level, ProgressiveArray)]

    @property
    def idle(self) -> bool:
        """True when nothing is wanted and nothing is being computed."""
        return self._model_thread.idle and self._reader_thread.idle

    def drop_stale(self, level: int) -> None:
        """Want no more tiles of a higher resolution than the level being looked at."""
        if level < len(self.levels):
            shown = self.levels[level]
            number = next(i for i, array in enumerate(self.chain) if array is shown)
        else:
            number = len(self.chain)
        for array in self.arrays:
            if array.number < number:
                array.filler.want(array, [])

    def close(self) -> None:
        """End the threads after the tile that each is at, and free the tiles."""
        self._model_thread.close()
        self._reader_thread.close()
        for array in self.arrays:
            array.forget()
        finest = self.arrays[0].level
        if isinstance(finest, Deferred) and finest.error is not None:
            finest.error.array.forget()


def _coarse_levels(
    levels: Sequence[Any], axes: tuple[int, int], samples: int | None, *, more: bool
) -> list[Level | NDArray[Any]]:
    """Return the original and lower levels, own ones first, then block means.

    NumPy arrays are read directly; anything else may be slow, and gets tiles. With
    `more`, there is at least one level of block means.
    """
    coarse: list[Level | NDArray[Any]] = [
        level if isinstance(level, np.ndarray) else SourceTiles(level, axes, samples)
        for level in levels
    ]
    base = levels[-1]
    factor = 1
    while max(-(-base.shape[axis] // factor) for axis in axes) > COARSEST or more:
        more = False
        factor *= 2
        coarse.append(BlockMeans(base, axes, factor, samples))
    return coarse


def _preview(level: Level, axes: tuple[int, int], dark: float) -> NDArray[Any]:
    """Return the first contents of the coarsest level: some pixels, or darkness."""
    source = getattr(level, "source", None)
    if isinstance(source, np.ndarray):
        thin = source
        for axis in axes:
            n, full = level.shape[axis], source.shape[axis]
            thin = np.take(thin, (np.arange(n) * 2 + 1) * full // (2 * n), axis)
        return thin
    dtype = np.dtype(level.dtype)
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        dark = min(max(int(dark), info.min), info.max)
    return np.full(level.shape, dark, dtype)


# -- levels without a network --------------------------------------------------------


class SourceTiles:
    """An array read in tiles of its own grid, or of `tile` without one: a `Level`.

    `axes` are the Y and X axis of the array, `samples` is that of RGB samples.
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
        return np.asarray(
            self.source[ChunkGrid.from_sizes(self.chunks).slices_at(index)]
        )


class BlockMeans:
    """A lower level made of means of blocks of the source: a `Level`.

    napari draws the pixels of every level over the same extent. Where the source is
    no multiple of the factor, blocks are therefore spread evenly, some a pixel
    smaller than others, so that no level is ever more than one pixel off.
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
        span = list(ChunkGrid.from_sizes(self.chunks).slices_at(index))
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
