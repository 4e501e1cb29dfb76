"""Tiles at hand, and the thread that makes the missing ones: no Qt, no napari."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Index: TypeAlias = tuple[int, ...]
Bounds: TypeAlias = tuple[tuple[int, int], ...]


class Level(Protocol):
    """Where the exact pixels of one level come from, tile by tile."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[tuple[int, ...], ...]

    def block_at(self, index: Index) -> NDArray[Any]:
        """Return the tile at a position of the chunk grid; may take long."""


class TileCache:
    """Tiles by key, the least recently used dropped first; bounded in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._tiles: OrderedDict[tuple[Hashable, Index], NDArray[Any]] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._nbytes

    def get(self, owner: Hashable, index: Index) -> NDArray[Any] | None:
        """Return a tile, and remember that it was used."""
        with self._lock:
            tile = self._tiles.get((owner, index))
            if tile is not None:
                self._tiles.move_to_end((owner, index))
            return tile

    def put(self, owner: Hashable, index: Index, tile: NDArray[Any]) -> None:
        """Keep a tile, dropping old ones where there is no room."""
        with self._lock:
            self._discard((owner, index))
            self._tiles[owner, index] = tile
            self._nbytes += tile.nbytes
            while self._nbytes > self.max_bytes and len(self._tiles) > 1:
                self._discard(next(iter(self._tiles)))

    def drop(self, owner: Hashable) -> None:
        """Forget every tile of one array."""
        with self._lock:
            for key in [key for key in self._tiles if key[0] == owner]:
                self._discard(key)

    def _discard(self, key: tuple[Hashable, Index]) -> None:
        tile = self._tiles.pop(key, None)
        if tile is not None:
            self._nbytes -= tile.nbytes


class Fillable(Protocol):
    """What a filler works for."""

    number: int

    def fill(self, index: Index) -> None:
        """Compute one tile and keep it; never raises."""


class Filler:
    """Computes wanted tiles, one after the other, in a thread of its own.

    The thread lives only while there is work, so there is nothing to leak.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._wanted: dict[Fillable, list[Index]] = {}
        self._current: tuple[Fillable, Index] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()
        _FILLERS.add(self)

    @property
    def idle(self) -> bool:
        """True when nothing is wanted and nothing is being computed."""
        with self._lock:
            return self._thread is None

    def want(self, array: Fillable, indices: Iterable[Index]) -> None:
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

    def close(self, timeout: float | None = None) -> None:
        """Take nothing more; wait at most `timeout` seconds for the current tile."""
        with self._lock:
            self._closed = True
            self._wanted.clear()
            thread = self._thread
        if thread is not None and timeout is not None:
            thread.join(timeout)

    def join(self, timeout: float | None = None) -> None:
        """Wait until all that is wanted now is there."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _next(self) -> tuple[Fillable, Index] | None:
        with self._lock:
            self._current = None
            # finer levels first: they are what is being looked at
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


def _finish() -> None:
    """Let running tiles end before the interpreter does: a network may be at work."""
    for filler in list(_FILLERS):
        filler.close()
    for filler in list(_FILLERS):
        filler.join(60)


atexit.register(_finish)
