"""The levels of a live layer: super-resolved, original, block means of the original.

Coarser levels never come from super-resolved pixels. So adding the layer calls the
model zero times, zoomed out it shows the original, and only what is looked at beyond
the original's resolution is computed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_swin2sr.plugin.layer_source import LayerSource
from napari_swin2sr.plugin.live.progressive import ProgressiveArray
from napari_swin2sr.plugin.live.resample import BlockMeans, SourceTiles
from napari_swin2sr.plugin.live.tiles import Filler, Index, Level, TileCache

if TYPE_CHECKING:
    from napari_swin2sr.tiles.lazy import LazyUpscaled

COARSEST = 1024
"""Pixels per side that the coarsest level has at most."""


class Deferred:
    """Super-resolved tiles whose plan is finished by the first one: a `Level`.

    Choosing the value range reads pixels, and loading the network takes a while;
    neither may hold up the layer, so both happen with the first tile, in its thread.

    Parameters
    ----------
    shape, dtype, chunks : of the result; chunks as dask writes them
    make : returns the result
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
        """Return one super-resolved tile."""
        return self.lazy.block_at(index)


class Pyramid:
    """The levels, the two threads that fill them, and their end.

    Parameters
    ----------
    source : the original
    finest : super-resolved tiles
    cache : store of finished tiles, shared by all pyramids
    dark : value of pixels about which nothing is known yet
    changed : called after each tile, in another thread
    failed : called with the first error of each level, in another thread

    Attributes
    ----------
    chain : super-resolved, original, coarser ones; each stands in for the one before
    levels : what napari gets. Restored images have the size of the original, which
        napari would then always show instead, so it is left out.
    """

    def __init__(
        self,
        source: LayerSource,
        finest: Level,
        cache: TileCache,
        *,
        dark: float = 0,
        changed: Callable[[], None],
        failed: Callable[[Exception], None],
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
                coarser=None if last else chain[0],
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
        """Want no more tiles that are finer than the level being looked at."""
        if level < len(self.levels):
            shown = self.levels[level]
            number = next(i for i, array in enumerate(self.chain) if array is shown)
        else:
            number = len(self.chain)
        for array in self.arrays:
            if array.number < number:
                array.filler.want(array, [])

    def close(self, timeout: float | None = None) -> None:
        """End the threads after the tile that each is at, and free the tiles."""
        for filler in (self._model_thread, self._reader_thread):
            filler.close(timeout)
        for array in self.arrays:
            array.forget()


def _coarse_levels(
    levels: Sequence[Any], axes: tuple[int, int], samples: int | None, *, more: bool
) -> list[Level | NDArray[Any]]:
    """Return the original and coarser levels, own ones first, then block means.

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
