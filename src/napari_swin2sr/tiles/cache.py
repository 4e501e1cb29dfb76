"""What bounds the memory of a process: tiles in flight and finished blocks kept."""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import psutil
from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Key: TypeAlias = "tuple[Hashable, Hashable]"


_SHARED: weakref.WeakSet[Any] = weakref.WeakSet()
"""What threads of this process share; a forked child has to begin anew with it."""


def _after_fork() -> None:
    for shared in list(_SHARED):
        shared.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


class ReentrantSemaphore:
    """Lets so many threads in at a time; a thread that is in may enter again.

    A tile whose source is itself an upscaled image computes tiles within a tile: if
    those had to wait, all slots could be taken by threads that wait for one.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.after_fork()
        _SHARED.add(self)

    def after_fork(self) -> None:
        """Let everybody out: a forked child has none of the parent's other threads."""
        self._free = threading.Semaphore(self.limit)
        self._mine = threading.local()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is in."""
        return getattr(self._mine, "depth", 0) > 0

    def __enter__(self) -> None:
        if not self.is_mine:
            self._free.acquire()
            self._mine.depth = 0
        self._mine.depth += 1

    def __exit__(self, *error: object) -> None:
        self._mine.depth -= 1
        if not self.is_mine:
            self._free.release()


class BlockCache:
    """The most recently used blocks, up to a number of bytes; safe for threads.

    Every block is named by an owner, whose blocks can be dropped together, and an
    index. It is an array, or anything else that has `nbytes`.

    Parameters
    ----------
    limit_bytes : int
        Bytes to keep; may be changed at any moment.
    keep_one : bool
        Whether a block that is larger than the limit is kept alone, or not at all.
    """

    def __init__(self, limit_bytes: int, *, keep_one: bool = False) -> None:
        self._keep_one, self._limit_bytes = keep_one, limit_bytes
        self.after_fork()
        _SHARED.add(self)

    def after_fork(self) -> None:
        """Begin empty: another thread may have been at it when the child was forked."""
        self._running: dict[Key, Future[Any]] = {}
        self._lock = threading.RLock()  # a finalizer may run inside any method
        self._blocks: LRUCache[Key, Any] = LRUCache(
            max(self._limit_bytes, 1), self._size
        )

    @property
    def limit_bytes(self) -> int:
        """Bytes to keep at most."""
        return self._limit_bytes

    @limit_bytes.setter
    def limit_bytes(self, limit: int) -> None:
        with self._lock:
            self._limit_bytes, old = limit, self._blocks
            self._blocks = LRUCache(max(limit, 1), self._size)
            while old:
                self._keep(*old.popitem())  # the least recently used first

    @property
    def n_bytes(self) -> int:
        """Bytes kept now."""
        with self._lock:
            return sum(block.nbytes for block in self._blocks.values())

    def get(self, owner: Hashable, index: Hashable) -> Any | None:
        """Return a block if it is here; it is then the most recently used one."""
        with self._lock:
            return self._blocks.get((owner, index))

    def put(self, owner: Hashable, index: Hashable, block: Any) -> None:
        """Keep a block, which must not be written to any more."""
        with self._lock:
            self._keep((owner, index), block)

    def get_or_make(
        self,
        owner: Hashable,
        index: Hashable,
        make: Callable[[], Any],
        *,
        wait: bool = True,
        keep: bool = True,
    ) -> Any:
        """Return a block from the cache, from another thread that makes it, or made.

        Parameters
        ----------
        owner, index : hashable
            What the block is called.
        make : callable
            Makes the block, which must not be written to any more.
        wait : bool
            Wait for a thread that makes the same block. Where waiting could never end
            (inside a `ReentrantSemaphore`), make it twice instead.
        keep : bool
            Keep a block that is made now.
        """
        key = owner, index
        while True:
            with self._lock:
                if (kept := self._blocks.get(key)) is not None:
                    return kept
                running = self._running.get(key)
                if running is None:
                    mine = self._running[key] = Future()
                    break
            if not wait:
                return make()
            if (error := running.exception()) is None:
                return running.result()
            if isinstance(error, Exception):
                raise error
            # The other thread was interrupted, which is not this thread's business.
        try:
            block = make()
        except BaseException as error:
            self._finish(key)
            mine.set_exception(error)
            raise
        if keep:
            self.put(owner, index, block)
        self._finish(key)
        mine.set_result(block)
        return block

    def forget(self, owner: Hashable) -> None:
        """Drop all blocks of an owner."""
        with self._lock:
            for key in [key for key in self._blocks if key[0] == owner]:
                del self._blocks[key]

    def _finish(self, key: Key) -> None:
        with self._lock:
            del self._running[key]

    def _size(self, block: Any) -> int:
        """Return the bytes of a block; one beyond the limit pushes out all others."""
        return max(1, min(int(block.nbytes), self._limit_bytes))

    def _keep(self, key: Key, block: Any) -> None:
        if self._keep_one or block.nbytes <= self._limit_bytes:
            self._blocks[key] = block


TILES = ReentrantSemaphore(4)
"""Tiles of this process that are read, computed or waiting for the device at a time.

One on the device and three that are read or finished keep a device busy.
"""

CACHE = BlockCache(256 * 2**20)
"""Finished tiles of this process, so that panning back computes nothing."""

_NO_LIMIT = 1 << 60  # cgroups write a number near 2**63 for "none"


def available_memory() -> int:
    """Return the bytes this process may still use.

    The least of what the machine, the container (cgroups) and SLURM leave.
    """
    return min([int(psutil.virtual_memory().available), *_cgroup(), *_slurm()])


def _cgroup() -> list[int]:
    folder = Path("/sys/fs/cgroup")
    pairs = (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
    left = []
    for limit_name, used_name in pairs:
        try:
            limit = int((folder / limit_name).read_text())
            used = int((folder / used_name).read_text())
        except (OSError, ValueError):  # absent, or the word "max"
            continue
        if limit < _NO_LIMIT:
            left.append(limit - used + _reclaimable(folder))
    return left


def _reclaimable(folder: Path) -> int:
    """Return what a cgroup counts as used but would give back: cached file pages."""
    for name in ("memory.stat", "memory/memory.stat"):
        try:
            lines = (folder / name).read_text().splitlines()
        except OSError:
            continue
        return sum(int(x.split()[1]) for x in lines if x.startswith("inactive_file "))
    return 0


def _slurm() -> list[int]:
    """Return the memory that SLURM gave to this job on this machine [bytes]."""
    per_node, per_cpu, cpus = (
        int(text) if (text := os.environ.get(f"SLURM_{name}", "")).isdecimal() else 0
        for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE")
    )
    mebibytes = per_node or per_cpu * max(1, cpus)
    return [mebibytes * 2**20] if mebibytes else []
