"""What bounds the memory of a process: tiles in work and finished tiles kept."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from numpy.typing import NDArray


class Admission:
    """Lets a number of threads in at a time; a thread that is in may enter again.

    A tile whose source is itself an upscaled image computes tiles within a tile: if
    those had to queue, all places could be taken by threads that wait for one.

    Parameters
    ----------
    limit : threads at a time; may be changed at any moment
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._inside = 0
        self._changed = threading.Condition()
        self._mine = threading.local()

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is in."""
        return getattr(self._mine, "depth", 0) > 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Wait for a place, and keep it for the length of a ``with`` block."""
        if self.is_mine:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._inside < self.limit)
            self._inside += 1
        self._mine.depth = 1
        try:
            yield
        finally:
            self._mine.depth = 0
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()


class BlockCache:
    """The most recently used blocks, up to a number of bytes; safe for threads.

    Two threads that ask for the same block compute it once.

    Parameters
    ----------
    limit_bytes : bytes to keep; may be changed, and holds from the next block on
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._n_bytes = 0
        self._blocks: OrderedDict[tuple[int, Hashable], NDArray[Any]] = OrderedDict()
        self._running: dict[tuple[int, Hashable], Future[NDArray[Any]]] = {}
        self._lock = threading.RLock()  # a finalizer may run inside any method

    @property
    def n_bytes(self) -> int:
        """Bytes kept now."""
        return self._n_bytes

    def get(
        self,
        owner: int,
        index: Hashable,
        make: Callable[[], NDArray[Any]],
        wait: bool,
        keep: bool = True,
    ) -> NDArray[Any]:
        """Return a block from the cache, from another thread that makes it, or made.

        Parameters
        ----------
        owner, index : what the block is called
        make : makes the block, which must not be written to any more
        wait : wait for a thread that makes the same block; where waiting could never
            end (inside `Admission`), make it twice instead
        keep : remember a block that is made now
        """
        key = owner, index
        while True:
            with self._lock:
                if key in self._blocks:
                    self._blocks.move_to_end(key)
                    return self._blocks[key]
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
            self._keep(key, block)
        self._finish(key)
        mine.set_result(block)
        return block

    def forget(self, owner: int) -> None:
        """Drop all blocks of an owner."""
        with self._lock:
            for key in [key for key in self._blocks if key[0] == owner]:
                self._n_bytes -= self._blocks.pop(key).nbytes

    def _finish(self, key: tuple[int, Hashable]) -> None:
        with self._lock:
            del self._running[key]

    def _keep(self, key: tuple[int, Hashable], block: NDArray[Any]) -> None:
        if block.nbytes > self.limit_bytes:
            return
        with self._lock:
            self._blocks[key] = block
            self._n_bytes += block.nbytes
            while self._n_bytes > self.limit_bytes:
                self._n_bytes -= self._blocks.popitem(last=False)[1].nbytes


TILES = Admission(4)
"""Tiles of this process that are read, computed or waiting for the device at a time.

One on the device and three that are read or finished keep a device busy.
"""

CACHE = BlockCache(256 * 2**20)
"""Finished tiles of this process, so that panning back computes nothing."""

_NO_LIMIT = 1 << 60  # cgroups write a number near 2**63 for "none"


def available_memory() -> int | None:
    """Return the bytes this process may still use, or None where nobody tells.

    The least of what the machine, the container (cgroups) and SLURM leave.
    """
    limits = [_machine(), *_cgroup(), _slurm()]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


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


def _slurm() -> int | None:
    """Return the memory that SLURM gave to this job on this machine [bytes]."""
    per_node, per_cpu = (os.environ.get(f"SLURM_MEM_PER_{x}") for x in ("NODE", "CPU"))
    if per_node and per_node.isdecimal():
        return int(per_node) * 2**20 or None
    if per_cpu and per_cpu.isdecimal():
        cpus = os.environ.get("SLURM_CPUS_ON_NODE", "1")
        return int(per_cpu) * 2**20 * (int(cpus) if cpus.isdecimal() else 1)
    return None
