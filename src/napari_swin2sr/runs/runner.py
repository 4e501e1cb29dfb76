"""Run every block of a lazy image into a store: events, retries, cancel, parts.

The room knows nothing of networks and file formats. What it needs of a lazy image
is `Blocks`, what it needs of a store is `Sink`; both must pickle when the executor
works in other processes. A tile's pixels never travel back: a worker computes one
block, writes it and answers with its index.
"""

from __future__ import annotations

import errno
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from napari_swin2sr.errors import (
    Cancelled,
    MemoryLimitError,
    MissingDependencyError,
    OptionError,
    OutputError,
    TilesFailedError,
    WeightsError,
)
from napari_swin2sr.runs.resources import Estimate, estimate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DEFAULT_WORKERS",
    "Blocks",
    "Estimate",
    "RunFinished",
    "RunStarted",
    "Sink",
    "TileDone",
    "TileFailed",
    "check_part",
    "estimate",
    "run",
]

logger = logging.getLogger(__name__)

DEFAULT_WORKERS = 4
"""Tiles in work at once: one in the network, the others being read and written."""

MAX_FAILURES_IN_A_ROW = 8
"""So many tiles failing one after the other is no accident of single tiles."""

FOREIGN_WINDOW = 64
"""Tiles handed at once to an executor whose number of workers is unknown."""

_POLL_SECONDS = 0.1
_PAUSE_SECONDS = 0.5
_NOTHING_WRITES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})

Index: TypeAlias = tuple[int, ...]
"""Position of a block in the grid of blocks, one number per axis."""


class Blocks(Protocol):
    """What is run: a grid of independent blocks, such as `LazyUpscaled`."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""

    def block_at(self, index: Index) -> NDArray[Any]:
        """Compute one block."""

    def slices_at(self, index: Index) -> tuple[slice, ...]:
        """Tell where the block belongs in the whole."""


class Sink(Protocol):
    """Where blocks go: a NumPy array, a Zarr array or a `BlockSink`."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write a block; it is safe there when this returns."""


class CancelToken(Protocol):
    """What asks a run to end, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Tell whether the run should end after the tiles in work."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins.

    Attributes
    ----------
    total : tiles of this run, or of this part of it
    done : tiles that an earlier run has finished
    stage : what is made: "tiles", "pyramid", "export" or "check"
    expected_seconds : duration by an estimate made before, or None
    pixel_overhead : pixels computed per pixel kept, because of the halo, if known
    """

    total: int
    done: int
    stage: str = "tiles"
    expected_seconds: float | None = None
    pixel_overhead: float | None = None


@dataclass(frozen=True, slots=True)
class TileDone:
    """A tile is computed and written.

    Attributes
    ----------
    index : its block index
    done, total : tiles finished so far (earlier runs included), and all of them
    seconds : time that the tile took in its worker
    elapsed : seconds since the run began
    remaining : seconds left at the present rate
    stage : as in `RunStarted`
    """

    index: Index
    done: int
    total: int
    seconds: float
    elapsed: float = 0.0
    remaining: float = 0.0
    stage: str = "tiles"


@dataclass(frozen=True, slots=True)
class TileFailed:
    """A tile could not be computed or written; the others go on.

    Attributes
    ----------
    index : its block index
    error : what happened
    attempt : 1 for the first time
    final : whether it will not be tried again
    """

    index: Index
    error: BaseException
    attempt: int = 1
    final: bool = True
    stage: str = "tiles"


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run is over, whatever the reason.

    Attributes
    ----------
    done, total : tiles finished (earlier runs included), and all of them
    failed : indices of the tiles that are missing because of an error
    cancelled : whether it was asked to end early
    seconds : duration
    """

    done: int
    total: int
    failed: tuple[Index, ...] = ()
    cancelled: bool = False
    seconds: float = 0.0
    stage: str = "tiles"


Event: TypeAlias = RunStarted | TileDone | TileFailed | RunFinished
Progress: TypeAlias = Callable[[Event], object]


def run(
    lazy: Blocks,
    sink: Sink,
    *,
    is_done: Callable[[Index], bool] | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    workers: int | None = None,
    executor: Executor | None = None,
    part: tuple[int, int] | None = None,
    retries: int = 2,
    give_up_after: int = MAX_FAILURES_IN_A_ROW,
    stage: str = "tiles",
    expected_seconds: float | None = None,
    pixel_overhead: float | None = None,
) -> RunFinished:
    """Compute every block of `lazy` and write it with ``sink[slices] = block``.

    Tiles are independent, so a failing one does not stop the others: it is tried
    again after them, at most `retries` times. Errors that must strike every tile (a
    full disk, unreadable weights, a broken executor) end the run at once. In every
    case the tiles written so far stay.

    Parameters
    ----------
    lazy : grid of blocks
    sink : takes the blocks
    is_done : tells the blocks that need no work
    progress : called with each event, always from the calling thread
    cancel : when set, no new tile begins; the one in the network is waited for
    workers : threads of the run's own pool, at most one tile each in memory
    executor : any `concurrent.futures` executor instead of the own pool; for one
        with processes `lazy` and `sink` are pickled per tile, so keep them small
    part : (i, n), i from 0: only every n-th tile, starting with the i-th
    retries : further attempts at a failed tile
    give_up_after : tiles failing one after the other that end the run
    stage : name of the work, copied into the events
    expected_seconds, pixel_overhead : what an estimate says, copied into the first
        event

    Returns
    -------
    RunFinished
        Its `done` equals `total`.

    Raises
    ------
    Cancelled
        If `cancel` was set; the text says how many tiles are kept.
    TilesFailedError
        If tiles are missing after all attempts; `failed` lists them.
    OutputError
        If nothing more can be written: no space, or a read-only file system.
    OptionError
        If `part`, `workers` or `executor` cannot work.
    """
    own = _own_blocks(lazy.grid, part)
    todo = [index for index in own if is_done is None or not is_done(index)]
    if cancel is not None and executor is None and hasattr(lazy, "until"):
        lazy = lazy.until(cancel)  # tiles that wait for the network don't begin
    work = _Run(lazy, sink, progress, cancel, stage, len(own), len(own) - len(todo))
    work.give_up_after = give_up_after
    work.report(
        RunStarted(work.total, work.done, stage, expected_seconds, pixel_overhead)
    )
    try:
        with _pool(executor, workers, len(todo)) as (pool, window):
            for attempt in range(1, retries + 2):
                if attempt > 1:
                    work.pause(_PAUSE_SECONDS * 2 ** (attempt - 2))
                work.attempt, work.last_attempt = attempt, attempt == retries + 1
                work.failed.clear()
                work.in_a_row = 0
                work.once(todo, pool, window)
                todo = sorted(work.failed)
                if not todo:
                    break
    except Cancelled:
        work.report(work.finished(cancelled=True))
        raise
    except BaseException:
        work.report(work.finished())
        raise
    work.report(result := work.finished())
    if work.failed:
        raise TilesFailedError(
            _failed_text(lazy, work.failed, work.total), failed=dict(work.failed)
        )
    return result


class _Run:
    """What a run has to remember; all of it belongs to the calling thread."""

    def __init__(
        self,
        lazy: Blocks,
        sink: Sink,
        progress: Progress | None,
        cancel: CancelToken | None,
        stage: str,
        total: int,
        done: int,
    ) -> None:
        self.lazy, self.sink = lazy, sink
        self.progress, self.cancel = progress, cancel
        self.stage, self.total, self.done = stage, total, done
        self.failed: dict[Index, BaseException] = {}
        self.attempt, self.last_attempt = 1, False
        self.in_a_row, self.give_up_after = 0, MAX_FAILURES_IN_A_ROW
        self.started = time.monotonic()
        self.finish_times: deque[float] = deque([self.started], maxlen=33)

    def report(self, event: Event) -> None:
        if self.progress is not None:
            self.progress(event)

    def finished(self, *, cancelled: bool = False) -> RunFinished:
        return RunFinished(
            self.done,
            self.total,
            tuple(sorted(self.failed)),
            cancelled,
            time.monotonic() - self.started,
            self.stage,
        )

    def once(self, todo: list[Index], pool: Executor, window: int) -> None:
        """Give every tile of `todo` one attempt; at most `window` are under way."""
        waiting = iter(todo)
        running: dict[Future[float], Index] = {}
        try:
            while True:
                self.check_cancel()
                for index in itertools.islice(waiting, window - len(running)):
                    future = pool.submit(write_block, self.lazy, self.sink, index)
                    running[future] = index
                if not running:
                    return
                over, _ = wait(running, _POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in over:
                    self.collect(future, running.pop(future))
        except BaseException:
            self.wind_up(running)
            raise

    def wind_up(self, running: dict[Future[float], Index]) -> None:
        """Start nothing more, and let the tiles in work come to their end."""
        for future in running:
            future.cancel()
        wait(running)
        for future, index in running.items():
            if not future.cancelled() and future.exception() is None:
                self.tile_done(index, future.result())

    def collect(self, future: Future[float], index: Index) -> None:
        try:
            seconds = future.result()
        except (KeyboardInterrupt, CancelledError, BrokenExecutor):
            raise
        except Cancelled:
            self.check_cancel()
            raise
        except BaseException as error:
            self.tile_failed(index, error)
        else:
            self.tile_done(index, seconds)

    def tile_done(self, index: Index, seconds: float) -> None:
        now = time.monotonic()
        self.finish_times.append(now)
        self.in_a_row = 0
        self.done += 1
        span = now - self.finish_times[0]
        remaining = span / (len(self.finish_times) - 1) * (self.total - self.done)
        elapsed = now - self.started
        self.report(
            TileDone(
                index, self.done, self.total, seconds, elapsed, remaining, self.stage
            )
        )

    def tile_failed(self, index: Index, error: BaseException) -> None:
        fatal = _strikes_every_tile(error)
        self.failed[index] = error
        self.in_a_row += 1
        # Later attempts are at failed tiles only, so a row of failures tells nothing.
        hopeless = self.attempt == 1 and self.in_a_row >= self.give_up_after
        final = fatal or hopeless or self.last_attempt
        logger.warning("tile %s failed (attempt %d): %r", index, self.attempt, error)
        self.report(TileFailed(index, error, self.attempt, final, self.stage))
        if isinstance(error, OSError) and error.errno in _NOTHING_WRITES:
            raise OutputError(
                f"writing stopped after {self.done} of {self.total} tiles, which are "
                f"kept: {error}. Make room (or the place writable) and run the same "
                "command again; it goes on from there"
            ) from error
        if fatal:
            raise error
        if hopeless:
            raise TilesFailedError(
                f"{self.in_a_row} tiles failed one after the other, so the run "
                f"stopped; {self.done} of {self.total} are finished and kept. The last "
                f"error: {_one_line(error)}",
                failed=dict(self.failed),
            ) from error

    def check_cancel(self) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled(
                f"cancelled; {self.done} of {self.total} tiles are finished"
            )

    def pause(self, seconds: float) -> None:
        """Wait before failed tiles are tried again; a slow disk may recover."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check_cancel()
            time.sleep(min(left, _POLL_SECONDS))


def write_block(lazy: Blocks, sink: Sink, index: Index) -> float:
    """Compute one block and write it; runs in a worker. Return the seconds it took."""
    start = time.monotonic()
    sink[lazy.slices_at(index)] = lazy.block_at(index)
    return time.monotonic() - start


def check_part(part: tuple[int, int] | str | None) -> tuple[int, int] | None:
    """Return ``(i, n)`` of a part given as such or as "i/n", i from 0 to n - 1.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if part is None:
        return None
    try:
        i, n = (int(x) for x in (part.split("/") if isinstance(part, str) else part))
    except (TypeError, ValueError):
        i, n = -1, 0
    if not 0 <= i < n:
        raise OptionError(
            f"part={part!r} is not I/N with I from 0 to N - 1, such as 0/16 ... 15/16"
        )
    return i, n


def _own_blocks(grid: tuple[int, ...], part: tuple[int, int] | None) -> list[Index]:
    first, step = check_part(part) or (0, 1)
    indices: Iterator[Index] = itertools.product(*(range(n) for n in grid))
    return list(itertools.islice(indices, first, None, step))


@contextmanager
def _pool(
    executor: Executor | None, workers: int | None, n_tiles: int
) -> Iterator[tuple[Executor, int]]:
    """Give the executor and how many tiles may be under way in it."""
    if workers is not None and workers < 1:
        raise OptionError(f"workers={workers} is not a positive number of threads")
    if executor is not None:
        context = getattr(executor, "_mp_context", None)
        if context is not None and context.get_start_method() == "fork":
            raise OptionError(
                "executor: worker processes made by fork hang once the network has "
                "run; use ProcessPoolExecutor(mp_context="
                'multiprocessing.get_context("spawn"))'
            )
        own = getattr(executor, "_max_workers", None)
        yield executor, (workers or own or FOREIGN_WINDOW // 2) * 2
        return
    n = max(1, min(workers or DEFAULT_WORKERS, n_tiles))
    with ThreadPoolExecutor(n, thread_name_prefix="swin2sr-tile") as pool:
        yield pool, n


def _strikes_every_tile(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _NOTHING_WRITES:
        return True
    if isinstance(error, (WeightsError, MissingDependencyError, OptionError)):
        return True
    if isinstance(error, MemoryLimitError):
        return True
    # A CUDA error other than out-of-memory stays until the process ends.
    return type(error).__name__ == "AcceleratorError"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"


def _failed_text(
    lazy: Blocks, failed: dict[Index, BaseException], total: int, shown: int = 5
) -> str:
    lines = []
    for index in sorted(failed)[:shown]:
        where = ", ".join(f"{s.start}:{s.stop}" for s in lazy.slices_at(index))
        lines.append(f"tile {index} at [{where}]: {_one_line(failed[index])}")
    more = f"\n... and {len(failed) - shown} more" if len(failed) > shown else ""
    return (
        f"{len(failed)} of {total} tiles are missing; the others are finished and "
        "kept. Run the same command again to try only these.\n"
        + "\n".join(lines)
        + more
    )
