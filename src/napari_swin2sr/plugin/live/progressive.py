"""An array that shows what it has and gets the rest: no Qt, no napari, no torch.

    layer asks for pixels ──► ProgressiveArray.read
                                │ tiles at hand ──► copied
                                │ tiles missing ──► interpolated from the coarser
                                ▼                   level, and put on the wanted list
    Filler (one thread) ──► level.block_at ──► TileCache ──► changed()

Every request *replaces* the wanted list of its array, so what was panned away before
it started is never computed.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_swin2sr.errors import MemoryLimitError
from napari_swin2sr.plugin.live.resample import coarse_span, stretch
from napari_swin2sr.plugin.live.tiles import Bounds, Filler, Index, Level, TileCache

logger = logging.getLogger("napari_swin2sr")

MAX_READ = 2**30
"""Largest number of elements that is put together in one read."""

GIVE_UP = 3
"""After so many failures in a row nothing more is tried."""

_KEYS = itertools.count()


class ProgressiveArray:
    """One level of a pyramid, as napari wants an array.

    Parameters
    ----------
    level : source of exact tiles
    cache : store of finished tiles, shared by all arrays
    filler : thread that computes missing ones
    coarser : what stands in for missing tiles: the next coarser level
    number : 0 for the finest level; lower numbers are computed first
    changed : called after each tile, in the filler's thread
    failed : called with the first error, in the filler's thread
    buffer : array of the level's shape that is filled in place and handed out
        itself. napari reads the coarsest level of a plane once and keeps it, so
        only pixels that change in place ever reach the thumbnail.
    """

    def __init__(
        self,
        level: Level,
        cache: TileCache,
        filler: Filler,
        *,
        coarser: ProgressiveArray | NDArray[Any] | None = None,
        number: int = 0,
        changed: Callable[[], None] = lambda: None,
        failed: Callable[[Exception], None] = lambda error: None,
        buffer: NDArray[Any] | None = None,
    ) -> None:
        self.level, self.cache, self.filler = level, cache, filler
        self.coarser, self.number, self.buffer = coarser, number, buffer
        self.changed, self.failed = changed, failed
        self.shape = tuple(level.shape)
        self.dtype = np.dtype(level.dtype)
        self._edges = tuple(
            tuple(itertools.accumulate(sizes, initial=0)) for sizes in level.chunks
        )
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
        plane = max(max(sizes) for sizes in self.level.chunks)
        return self.level.chunks if plane <= 1024 else None

    def __getitem__(self, key: Any) -> View:
        return View(self, tuple(range(n) for n in self.shape))[key]

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        return self[...].__array__(dtype, copy)

    def __repr__(self) -> str:
        return f"<ProgressiveArray level {self.number}, {self.shape}, {self.dtype}>"

    def read(self, bounds: Bounds) -> NDArray[Any]:
        """Return the best pixels there are now, and want the rest.

        Parameters
        ----------
        bounds : (first, last + 1) per axis, inside the shape, none empty
        """
        wanted: list[Index] = []
        touched = self._touched(bounds)
        tiles = {}
        for index in touched:
            if (tile := self._tile(index)) is not None:
                tiles[index] = tile
            else:
                wanted.append(index)
        self.filler.want(self, self._affordable(wanted, len(tiles)))
        if self.buffer is not None:
            return self.buffer[tuple(slice(*pair) for pair in bounds)]
        out = np.empty([stop - start for start, stop in bounds], self.dtype)
        stand_in = self._stand_in(bounds) if len(tiles) < len(touched) else None
        for index in touched:
            box = tuple(
                (max(lo, self._edges[axis][i]), min(hi, self._edges[axis][i + 1]))
                for axis, (i, (lo, hi)) in enumerate(zip(index, bounds, strict=True))
            )
            there = tuple(
                slice(a - lo, b - lo)
                for (a, b), (lo, _) in zip(box, bounds, strict=True)
            )
            if index in tiles:
                here = tuple(
                    slice(a - self._edges[axis][i], b - self._edges[axis][i])
                    for axis, (i, (a, b)) in enumerate(zip(index, box, strict=True))
                )
                out[there] = tiles[index][here]
            elif stand_in is not None:
                out[there] = stand_in(box)
        return out

    def exact(self, bounds: Bounds) -> NDArray[Any]:
        """Return the exact pixels, computing here and now what is missing."""
        out = np.empty([stop - start for start, stop in bounds], self.dtype)
        for index in self._touched(bounds):
            tile = self._tile(index)
            if tile is None:
                tile = self._compute(index)
            corner = [self._edges[axis][i] for axis, i in enumerate(index)]
            first = [max(lo, c) for (lo, _), c in zip(bounds, corner, strict=True)]
            last = [
                min(hi, c + n)
                for (_, hi), c, n in zip(bounds, corner, tile.shape, strict=True)
            ]
            span = list(zip(first, last, corner, bounds, strict=True))
            out[tuple(slice(a - lo, b - lo) for a, b, _, (lo, _) in span)] = tile[
                tuple(slice(a - c, b - c) for a, b, c, _ in span)
            ]
        return out

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

    def forget(self) -> None:
        """Want nothing and give back the memory of all tiles."""
        self.filler.want(self, [])
        self.cache.drop(self._key)

    def _compute(self, index: Index) -> NDArray[Any]:
        tile = np.asarray(self.level.block_at(index))
        if self.buffer is None:
            self.cache.put(self._key, index, tile)
        else:
            corner = [self._edges[axis][i] for axis, i in enumerate(index)]
            where = tuple(
                slice(c, c + n) for c, n in zip(corner, tile.shape, strict=True)
            )
            self.buffer[where] = tile
            self._filled.add(index)
        return tile

    def _tile(self, index: Index) -> NDArray[Any] | None:
        if self.buffer is None:
            return self.cache.get(self._key, index)
        if index not in self._filled:
            return None
        return self.buffer[
            tuple(
                slice(self._edges[axis][i], self._edges[axis][i + 1])
                for axis, i in enumerate(index)
            )
        ]

    def _touched(self, bounds: Bounds) -> list[Index]:
        """Return the tiles that meet a region, those near its centre first."""
        spans = [
            range(
                int(np.searchsorted(edges, lo, side="right")) - 1,
                int(np.searchsorted(edges, hi, side="left")),
            )
            for edges, (lo, hi) in zip(self._edges, bounds, strict=True)
        ]
        middle = [(span.start + span.stop - 1) / 2 for span in spans]
        return sorted(
            itertools.product(*spans),
            key=lambda index: sum(
                (i - m) ** 2 for i, m in zip(index, middle, strict=True)
            ),
        )

    def _affordable(self, wanted: list[Index], held: int) -> list[Index]:
        """Leave out bad tiles, and those that would push out visible ones."""
        if self._failures >= GIVE_UP:
            return []
        good = [index for index in wanted if index not in self._bad]
        if self.buffer is not None:
            return good
        largest = math.prod(max(sizes) for sizes in self.level.chunks)
        room = self.cache.max_bytes // 2 // (largest * self.dtype.itemsize)
        return good[: max(room, 1) - held] if held < max(room, 1) else []

    def _stand_in(self, bounds: Bounds) -> Callable[[Bounds], NDArray[Any]]:
        coarser = self.coarser
        if coarser is None:
            return lambda box: np.zeros([b - a for a, b in box], self.dtype)
        near = tuple(
            coarse_span(pair, fine, coarse)
            for pair, fine, coarse in zip(
                bounds, self.shape, coarser.shape, strict=True
            )
        )
        if isinstance(coarser, ProgressiveArray):
            base = coarser.read(near)
        else:
            base = np.asarray(coarser[tuple(slice(*pair) for pair in near)])
        start = [lo for lo, _ in near]
        shape = coarser.shape
        return lambda box: stretch(base, start, shape, self.shape, box, self.dtype)


class View:
    """A lazily indexed part of a progressive array; pixels come with `np.asarray`."""

    def __init__(
        self, array: ProgressiveArray, selection: Sequence[range | int]
    ) -> None:
        self._array = array
        self._selection = tuple(selection)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return self._array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape after indexing."""
        return tuple(len(part) for part in self._selection if isinstance(part, range))

    @property
    def ndim(self) -> int:
        """Number of axes after indexing."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements after indexing."""
        return math.prod(self.shape)

    def __getitem__(self, key: Any) -> View:
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(part is Ellipsis for part in keys):
            at = next(i for i, part in enumerate(keys) if part is Ellipsis)
            missing = self.ndim - (len(keys) - 1)
            keys[at : at + 1] = [slice(None)] * missing
        if len(keys) > self.ndim:
            raise IndexError(
                f"{len(keys)} indices for a view with {self.ndim} axes {self.shape}"
            )
        keys += [slice(None)] * (self.ndim - len(keys))
        remaining = iter(keys)
        return View(
            self._array,
            [
                part if isinstance(part, int) else _pick(part, next(remaining))
                for part in self._selection
            ],
        )

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if self.size == 0:
            return np.empty(self.shape, dtype or self.dtype)
        bounds: list[tuple[int, int]] = []
        steps: list[int | slice] = []
        for part in self._selection:
            if isinstance(part, int):
                bounds.append((part, part + 1))
                steps.append(0)
            else:
                bounds.append((min(part[0], part[-1]), max(part[0], part[-1]) + 1))
                steps.append(slice(None, None, part.step))
        count = math.prod(hi - lo for lo, hi in bounds)
        if count > MAX_READ:
            raise MemoryLimitError(
                f"a live layer shows what is visible; {count:,} pixels at once are "
                f"more than {MAX_READ:,}. Run the layer in memory or to disk instead"
            )
        out: NDArray[Any] = self._array.read(tuple(bounds))[tuple(steps)]
        if dtype is not None and out.dtype != dtype:
            return out.astype(dtype)
        return out.copy() if copy else out


def _pick(part: range, key: Any) -> range | int:
    if isinstance(key, (int, np.integer)):
        return part[int(key)]
    if isinstance(key, slice):
        return part[key]
    raise IndexError(
        f"a live layer takes integers and slices, not {type(key).__name__}; "
        "use numpy.asarray(view)[...] for anything else"
    )
