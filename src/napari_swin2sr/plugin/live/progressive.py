"""An array that shows what it has and gets the rest: no Qt, no napari, no torch.

    layer asks for pixels ──► ProgressiveArray.read
                                │ tiles that are cached ──► copied
                                │ tiles missing ──► interpolated from the lower
                                ▼                   resolution, and wanted
    Filler (one thread) ──► level.block_at ──► BlockCache ──► changed()

Every request *replaces* the wanted list of its array, so what was panned away before
it started is never computed.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from napari_swin2sr.errors import MemoryLimitError
from napari_swin2sr.tiles.cache import BlockCache
from napari_swin2sr.tiles.chunks import ChunkGrid, Region, forward

logger = logging.getLogger("napari_swin2sr")

MAX_READ = 2**30
"""Largest number of elements that is put together in one read."""

GIVE_UP = 3
"""After so many failures in a row nothing more is tried."""

Index: TypeAlias = tuple[int, ...]

_KEYS = itertools.count()


class Level(Protocol):
    """Where the exact pixels of one level come from, tile by tile."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[tuple[int, ...], ...]

    def block_at(self, index: Index) -> NDArray[Any]:
        """Return the tile at a position of the chunk grid; may take long."""


class Filler:
    """Computes wanted tiles, one after the other, in a thread of its own.

    The thread lives only while there is work, so there is nothing to leak.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._wanted: dict[ProgressiveArray, list[Index]] = {}
        self._current: tuple[ProgressiveArray, Index] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()
        _FILLERS.add(self)

    @property
    def idle(self) -> bool:
        """True when nothing is wanted and nothing is being computed."""
        with self._lock:
            return self._thread is None

    def want(self, array: ProgressiveArray, indices: Iterable[Index]) -> None:
        """Replace what `array` waits for; the first index comes first."""
        with self._lock:
            if self._closed:
                return
            self._wanted[array] = [
                index for index in indices if (array, index) != self._current
            ]
            if self._thread is None and any(self._wanted.values()):
                self._thread = threading.Thread(
                    target=self._work, name=self.name, daemon=True
                )
                self._thread.start()

    def close(self, timeout: float = 0) -> None:
        """Take nothing more; wait at most `timeout` seconds for the current tile."""
        with self._lock:
            self._closed = True
            self._wanted.clear()
        self.join(timeout)

    def join(self, timeout: float | None = None) -> None:
        """Wait until all that is wanted now is there."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _next(self) -> tuple[ProgressiveArray, Index] | None:
        with self._lock:
            self._current = None
            # higher resolution first: that is what is being looked at
            for array in sorted(self._wanted, key=lambda array: array.number):
                if self._wanted[array]:
                    self._current = array, self._wanted[array].pop(0)
                    return self._current
            self._thread = None
            return None

    def _work(self) -> None:
        while (task := self._next()) is not None:
            array, index = task
            array.fill(index)


_FILLERS: weakref.WeakSet[Filler] = weakref.WeakSet()


@atexit.register
def _finish() -> None:
    """Let running tiles end before the interpreter does: a network may be at work."""
    fillers = list(_FILLERS)
    for filler in fillers:
        filler.close()
    for filler in fillers:
        filler.join(60)


class ProgressiveArray:
    """One level of a pyramid, as napari wants an array.

    Parameters
    ----------
    level : Level
        Source of exact tiles.
    cache : BlockCache
        Finished tiles, shared by all arrays.
    filler : Filler
        Computes missing tiles.
    lower : ProgressiveArray or numpy.ndarray, optional
        What stands in for missing tiles: the next lower resolution.
    number : int
        0 for the full resolution; lower numbers are computed first.
    changed : callable
        Called after each tile, in the filler's thread.
    failed : callable
        Called with the first error, in the filler's thread.
    unknown : float
        What stands in for missing tiles where there is no lower resolution.
    buffer : numpy.ndarray, optional
        Of the level's shape; filled in place and handed out itself. napari reads the
        lowest resolution of a plane once and keeps it, so only pixels that change in
        place ever reach the thumbnail.

    Attributes
    ----------
    progress : tiles of the last request that were there, and all of them
    """

    def __init__(
        self,
        level: Level,
        cache: BlockCache,
        filler: Filler,
        *,
        lower: ProgressiveArray | NDArray[Any] | None = None,
        number: int = 0,
        changed: Callable[[], object] = lambda: None,
        failed: Callable[[Exception], object] = lambda error: None,
        unknown: float = 0,
        buffer: NDArray[Any] | None = None,
    ) -> None:
        self.unknown = unknown
        self.level, self.cache, self.filler = level, cache, filler
        self.lower, self.number, self.buffer = lower, number, buffer
        self.changed, self.failed = changed, failed
        self.shape = tuple(level.shape)
        self.dtype = np.dtype(level.dtype)
        self.grid = ChunkGrid.from_sizes(level.chunks)
        self.progress = (0, 0)
        self._filled: set[Index] = set()
        self._bad: set[Index] = set()
        self._failures = 0
        self._key = next(_KEYS)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...] | None:
        """Tile sizes per axis; None where tiles are too large to show whole ones.

        napari widens the visible region to whole chunks.
        """
        largest = max(max(sizes) for sizes in self.level.chunks)
        return self.level.chunks if largest <= 1024 else None

    def __getitem__(self, key: Any) -> View:
        return View(self, [range(n) for n in self.shape])[key]

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        return self[...].__array__(dtype, copy)

    def __repr__(self) -> str:
        return f"<ProgressiveArray level {self.number}, {self.shape}, {self.dtype}>"

    # -- reading ----------------------------------------------------------------------

    def read(self, region: Region) -> NDArray[Any]:
        """Return the best pixels there are now of a region, and want the rest."""
        chunks = [self.grid.chunk_at(index, region) for index in self._nearest(region)]
        found = {chunk.index: self._tile(chunk.index) for chunk in chunks}
        wanted = [index for index, tile in found.items() if tile is None]
        held = len(chunks) - len(wanted)
        self.progress = held, len(chunks)
        self.filler.want(self, self._affordable(wanted, held))
        if self.buffer is not None:
            return self.buffer[_slices(region)]
        out = np.empty([len(part) for part in region], self.dtype)
        stand_in = self._stand_in(region) if wanted else None
        for chunk in chunks:
            tile = found[chunk.index]
            if tile is not None:
                out[chunk.local] = tile[chunk.inner]
            elif stand_in is not None:
                places = zip(region, chunk.local, strict=True)
                out[chunk.local] = stand_in([part[local] for part, local in places])
        return out

    def exact(self, region: Region) -> NDArray[Any]:
        """Return the exact pixels, computing here and now what is missing."""
        out = np.empty([len(part) for part in region], self.dtype)
        for chunk in self.grid.meeting(region):
            tile = self._tile(chunk.index)
            if tile is None:
                tile = self._compute(chunk.index)
            out[chunk.local] = tile[chunk.inner]
        return out

    def _nearest(self, region: Region) -> list[Index]:
        """Return the tiles that meet a region, those near its center first."""
        spans = self.grid.touched(region)
        middle = [(span.start + span.stop - 1) / 2 for span in spans]
        return sorted(itertools.product(*spans), key=lambda at: math.dist(at, middle))

    def _affordable(self, wanted: list[Index], held: int) -> list[Index]:
        """Leave out bad tiles, and those that would push out visible ones."""
        if self._failures >= GIVE_UP:
            return []
        good = [index for index in wanted if index not in self._bad]
        if self.buffer is not None:
            return good
        largest = math.prod(max(sizes) for sizes in self.level.chunks)
        fit = self.cache.limit_bytes // 2 // (largest * self.dtype.itemsize)
        return good[: max(max(fit, 1) - held, 0)]

    def _stand_in(self, region: Region) -> Callable[[Region], NDArray[Any]]:
        """Return what interpolates parts of a region from the lower resolution."""
        lower = self.lower
        if lower is None:
            return lambda part: np.full(
                [len(places) for places in part], self.unknown, self.dtype
            )
        shapes = zip(region, self.shape, lower.shape, strict=True)
        near = [coarse_span(*one) for one in shapes]
        if isinstance(lower, ProgressiveArray):
            base = lower.read(near)
        else:
            base = np.asarray(lower[_slices(near)])
        start, shape = [part.start for part in near], lower.shape
        return lambda part: stretch(base, start, shape, self.shape, part, self.dtype)

    # -- tiles ------------------------------------------------------------------------

    def fill(self, index: Index) -> None:
        """Compute one tile and keep it; an error is reported once, not raised."""
        if self._tile(index) is not None or self._failures >= GIVE_UP:
            return
        try:
            self._compute(index)
        except Exception as error:  # torch raises anything; the viewer must live on
            logger.debug("tile %s of %r failed", index, self, exc_info=True)
            self._bad.add(index)
            self._failures += 1
            if len(self._bad) == 1:
                self.failed(error)
            return
        self._failures = 0
        self.changed()

    def keep(self, index: Index, tile: NDArray[Any]) -> None:
        """Take a tile that was computed along with another one, from any thread."""
        self.cache.put(self._key, index, tile)

    def peek(self, place: Sequence[int]) -> Any | None:
        """Return the pixel at a place if its tile is there; nothing is wanted."""
        if not all(0 <= at < n for at, n in zip(place, self.shape, strict=True)):
            return None
        chunk = next(self.grid.meeting([range(at, at + 1) for at in place]))
        tile = self._tile(chunk.index)
        return None if tile is None else tile[chunk.inner].item()

    def forget(self) -> None:
        """Want nothing and give back the memory of all tiles."""
        self.filler.want(self, [])
        self.cache.forget(self._key)

    def _compute(self, index: Index) -> NDArray[Any]:
        tile = np.asarray(self.level.block_at(index))
        if self.buffer is None:
            self.cache.put(self._key, index, tile)
        else:
            self.buffer[self.grid.slices_at(index)] = tile
            self._filled.add(index)
        return tile

    def _tile(self, index: Index) -> NDArray[Any] | None:
        if self.buffer is None:
            return self.cache.get(self._key, index)
        if index not in self._filled:
            return None
        return self.buffer[self.grid.slices_at(index)]


class View:
    """A lazily indexed part of a progressive array; pixels come with `np.asarray`."""

    def __init__(
        self, array: ProgressiveArray, selection: Sequence[range | int]
    ) -> None:
        self._array, self.dtype = array, array.dtype
        self._selection = tuple(selection)
        self.shape = tuple(len(p) for p in selection if isinstance(p, range))
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __getitem__(self, key: Any) -> View:
        region, finish = forward(key, self.shape)
        picked = iter(zip(region, finish, strict=True))
        selection: list[range | int] = []
        for part in self._selection:
            if isinstance(part, int):
                selection.append(part)
                continue
            places, last = next(picked)
            part = part[slice(places.start, places.stop, places.step)]
            selection.append(part[last])
        return View(self._array, selection)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if self.size == 0:
            return np.empty(self.shape, dtype or self.dtype)
        if self.size > MAX_READ:
            raise MemoryLimitError(
                f"a live layer shows what is visible; {self.size:,} pixels at once are "
                f"more than {MAX_READ:,}. Run the layer in memory or to disk instead"
            )
        region: list[range] = []
        finish: list[int | slice] = []
        for part in self._selection:
            if isinstance(part, int):
                region.append(range(part, part + 1))
                finish.append(0)
            else:
                region.append(part if part.step > 0 else part[::-1])
                finish.append(slice(None, None, 1 if part.step > 0 else -1))
        out: NDArray[Any] = self._array.read(region)[tuple(finish)]
        if dtype is not None and out.dtype != dtype:
            return out.astype(dtype)
        return out.copy() if copy else out


# -- between two levels, which share their outer corners ------------------------------


def coarse_span(part: range, fine: int, coarse: int) -> range:
    """Return the coarse pixels needed to interpolate some fine ones along an axis."""
    if fine == coarse:
        return range(part[0], part[-1] + 1)
    ratio = coarse / fine
    low = math.floor((part[0] + 0.5) * ratio - 0.5)
    high = math.floor((part[-1] + 0.5) * ratio - 0.5) + 2
    low = min(max(low, 0), coarse - 1)
    return range(low, max(min(high, coarse), low + 1))


def stretch(
    base: ArrayLike,
    start: Sequence[int],
    coarse: Sequence[int],
    fine: Sequence[int],
    region: Region,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Interpolate linearly from a coarse grid to a finer one with the same corners.

    `base` is a part of the coarse level that begins at `start`; `coarse` and `fine`
    are the shapes of the whole levels; `region` is what to make of the fine level.
    """
    out = np.asarray(base)
    for axis, part in enumerate(region):
        places = np.asarray(part)
        if coarse[axis] == fine[axis]:
            out = np.take(out, places - start[axis], axis)
            continue
        at = (places + 0.5) * (coarse[axis] / fine[axis]) - 0.5 - start[axis]
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


def _slices(region: Region) -> tuple[slice, ...]:
    return tuple(slice(part.start, part.stop, part.step) for part in region)
