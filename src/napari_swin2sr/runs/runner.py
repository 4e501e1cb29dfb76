"""`Runner`: compute every block of a lazy image into a store, whatever happens.

Networks and file formats are unknown here. What is needed of a lazy image is `Blocks`,
what is needed of a store is `Sink`; both must pickle when the executor works in other
processes. A tile's pixels never travel back: a worker computes one block, writes it and
answers with the time that it took.
"""

from __future__ import annotations

import errno
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
    CancelToken,
    MemoryLimitError,
    MissingDependencyError,
    OptionError,
    OutputError,
    TilesFailedError,
    WeightsError,
    check_cancel,
)
from napari_swin2sr.options import check_part

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DEFAULT_WORKERS",
    "Blocks",
    "CancelToken",
    "RunFinished",
    "RunStarted",
    "Runner",
    "Sink",
    "TileDone",
    "TileFailed",
    "part_of",
]

logger = logging.getLogger(__name__)

DEFAULT_WORKERS = 4
"""Tiles in flight: one in the network, the others being read and written."""

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


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins.

    Attributes
    ----------
    total : int
        Tiles of this run, or of this part of it.
    done : int
        Tiles that an earlier run has finished.
    stage : str
        What is made: "tiles", "pyramid", "export" or "check".
    expected_seconds : float or None
        Duration by an estimate made before.
    pixel_overhead : float or None
        Pixels computed per pixel kept, because of the halo.
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
    index : tuple of int
        Its position in the grid of blocks.
    done, total : int
        Tiles finished so far (earlier runs included), and all of them.
    seconds : float
        Time that the tile took in its worker.
    elapsed : float
        Seconds since the run began.
    remaining : float
        Seconds left at the present rate.
    stage : str
        As in `RunStarted`.
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
    index : tuple of int
        Its position in the grid of blocks.
    error : BaseException
        What happened.
    attempt : int
        1 for the first time.
    final : bool
        Whether it will not be tried again.
    stage : str
        As in `RunStarted`.
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
    done, total : int
        Tiles finished (earlier runs included), and all of them.
    failed : tuple of tuple of int
        Tiles that are missing because of an error.
    cancelled : bool
        Whether it was asked to end early.
    seconds : float
        Duration.
    stage : str
        As in `RunStarted`.
    """

    done: int
    total: int
    failed: tuple[Index, ...] = ()
    cancelled: bool = False
    seconds: float = 0.0
    stage: str = "tiles"


Event: TypeAlias = RunStarted | TileDone | TileFailed | RunFinished
Progress: TypeAlias = Callable[[Event], object]


@dataclass(frozen=True, kw_only=True)
class Runner:
    """How blocks are computed: by whom, how often, and who is told.

    Parameters
    ----------
    progress : callable, optional
        Called with each event, always from the calling thread.
    cancel : CancelToken, optional
        When set, no new tile begins, and the one in the network is given up.
    workers : int, optional
        Threads of the runner's own pool [4], at most one tile each in memory.
    executor : concurrent.futures.Executor, optional
        Used instead of the own pool. For one with processes blocks and sink are
        pickled per tile, so keep them small.
    part : tuple of (int, int), optional
        (i, n), i from 0: only every n-th tile, starting with the i-th.
    retries : int
        Further attempts at a failed tile.
    give_up_after : int
        Tiles failing one after the other that end the run.
    """

    progress: Progress | None = None
    cancel: CancelToken | None = None
    workers: int | None = None
    executor: Executor | None = None
    part: tuple[int, int] | None = None
    retries: int = 2
    give_up_after: int = MAX_FAILURES_IN_A_ROW

    def run(
        self,
        blocks: Blocks,
        sink: Sink,
        *,
        is_done: Callable[[Index], bool] | None = None,
        stage: str = "tiles",
        expected_seconds: float | None = None,
        pixel_overhead: float | None = None,
    ) -> RunFinished:
        """Compute every block and write it with ``sink[slices] = block``.

        Tiles are independent, so a failing one does not stop the others: it is tried
        again after them. Errors that must strike every tile (a full disk, unreadable
        weights, a broken executor) end the run at once. In every case the tiles
        written so far stay.

        Parameters
        ----------
        blocks : Blocks
            Grid of blocks.
        sink : Sink
            Takes the blocks.
        is_done : callable, optional
            Tells the blocks that need no work.
        stage : str
            Name of the work, copied into the events.
        expected_seconds, pixel_overhead : float, optional
            What an estimate says, copied into the first event.

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
        own = list(part_of(blocks.grid, self.part))
        todo = [index for index in own if is_done is None or not is_done(index)]
        if self.cancel is not None and self.executor is None:
            # Tiles that wait for the network must not begin after a cancel.
            blocks = getattr(blocks, "until", lambda _: blocks)(self.cancel)
        meter = Meter(self.progress, stage, len(own), len(own) - len(todo))
        run = _Run(self, blocks, sink, meter)
        meter.start(expected_seconds, pixel_overhead)
        try:
            with _pool(self.executor, self.workers, len(todo)) as (pool, window):
                run.attempt_all(todo, pool, window)
        except BaseException as error:
            meter.finish(run.failed, cancelled=isinstance(error, Cancelled))
            raise
        result = meter.finish(run.failed)
        if run.failed:
            raise TilesFailedError(
                _failed_text(blocks, run.failed, meter.total), failed=run.failed
            )
        return result


class Meter:
    """Counts tiles and tells about them, for one stage of a run."""

    def __init__(
        self, progress: Progress | None, stage: str, total: int = 0, done: int = 0
    ) -> None:
        self.progress, self.stage = progress, stage
        self.total, self.done = total, done
        self.started = time.monotonic()
        self.finish_times: deque[float] = deque([self.started], maxlen=33)

    def report(self, event: Event) -> None:
        if self.progress is not None:
            self.progress(event)

    def start(
        self, expected: float | None = None, overhead: float | None = None
    ) -> None:
        self.report(RunStarted(self.total, self.done, self.stage, expected, overhead))

    def tile_done(self, index: Index, seconds: float | None = None) -> None:
        """Report a tile; without `seconds`, it took the time since the one before."""
        now = time.monotonic()
        if seconds is None:
            seconds = now - self.finish_times[-1]
        self.finish_times.append(now)
        self.done += 1
        rate = (now - self.finish_times[0]) / (len(self.finish_times) - 1)
        elapsed, remaining = now - self.started, rate * (self.total - self.done)
        self.report(
            TileDone(
                index, self.done, self.total, seconds, elapsed, remaining, self.stage
            )
        )

    def finish(
        self, failed: Iterable[Index] = (), *, cancelled: bool = False
    ) -> RunFinished:
        event = RunFinished(
            self.done,
            self.total,
            tuple(sorted(failed)),
            cancelled,
            time.monotonic() - self.started,
            self.stage,
        )
        self.report(event)
        return event


class _Run:
    """What one run has to remember; all of it belongs to the calling thread."""

    def __init__(
        self, runner: Runner, blocks: Blocks, sink: Sink, meter: Meter
    ) -> None:
        self.runner, self.blocks, self.sink, self.meter = runner, blocks, sink, meter
        self.failed: dict[Index, BaseException] = {}
        self.attempt, self.in_a_row = 1, 0

    @property
    def so_far(self) -> str:
        return f"{self.meter.done} of {self.meter.total}"

    def attempt_all(self, todo: list[Index], pool: Executor, window: int) -> None:
        """Give every tile an attempt, and then the failed ones further attempts."""
        while True:
            self.failed, self.in_a_row = {}, 0
            self.once(todo, pool, window)
            todo = sorted(self.failed)
            if not todo or self.attempt > self.runner.retries:
                return
            self.pause(_PAUSE_SECONDS * 2 ** (self.attempt - 1))
            self.attempt += 1

    def once(self, todo: list[Index], pool: Executor, window: int) -> None:
        """Give every tile of `todo` one attempt; at most `window` are in flight."""
        waiting = iter(todo)
        running: dict[Future[float], Index] = {}
        try:
            while True:
                self.check_cancel()
                for index in itertools.islice(waiting, window - len(running)):
                    future = pool.submit(write_block, self.blocks, self.sink, index)
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
        """Start nothing more, and let the tiles in flight come to their end."""
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
        self.in_a_row = 0
        self.meter.tile_done(index, seconds)

    def tile_failed(self, index: Index, error: BaseException) -> None:
        fatal = _strikes_every_tile(error)
        self.failed[index] = error
        self.in_a_row += 1
        # Later attempts are at failed tiles only, so a row of failures tells nothing.
        hopeless = self.attempt == 1 and self.in_a_row >= self.runner.give_up_after
        final = fatal or hopeless or self.attempt > self.runner.retries
        logger.warning("tile %s failed (attempt %d): %r", index, self.attempt, error)
        self.meter.report(
            TileFailed(index, error, self.attempt, final, self.meter.stage)
        )
        if isinstance(error, OSError) and error.errno in _NOTHING_WRITES:
            raise OutputError(
                f"writing stopped after {self.so_far} tiles, which are kept: {error}. "
                "Make room (or the place writable) and run the same command again; it "
                "goes on from there"
            ) from error
        if fatal:
            raise error
        if hopeless:
            raise TilesFailedError(
                f"{self.in_a_row} tiles failed one after the other, so the run "
                f"stopped; {self.so_far} are finished and kept. The last "
                f"error: {_one_line(error)}",
                failed=self.failed,
            ) from error

    def check_cancel(self) -> None:
        check_cancel(self.runner.cancel, f"; {self.so_far} tiles are finished")

    def pause(self, seconds: float) -> None:
        """Wait before failed tiles are tried again; a slow disk may recover."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check_cancel()
            time.sleep(min(left, _POLL_SECONDS))


def write_block(blocks: Blocks, sink: Sink, index: Index) -> float:
    """Compute one block and write it, in a worker; return the seconds it took."""
    start = time.monotonic()
    sink[blocks.slices_at(index)] = blocks.block_at(index)
    return time.monotonic() - start


def part_of(grid: tuple[int, ...], part: tuple[int, int] | None) -> Iterable[Index]:
    """Yield the blocks of a grid that belong to a part of the run; all for None."""
    first, step = check_part(part) or (0, 1)
    every = itertools.product(*(range(n) for n in grid))
    return itertools.islice(every, first, None, step)


@contextmanager
def _pool(
    executor: Executor | None, workers: int | None, n_tiles: int
) -> Iterator[tuple[Executor, int]]:
    """Give the executor and how many tiles may be in flight in it."""
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
    if isinstance(
        error, (WeightsError, MissingDependencyError, OptionError, MemoryLimitError)
    ):
        return True
    # A CUDA error other than out-of-memory stays until the process ends.
    return type(error).__name__ == "AcceleratorError"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:300]}"


def _failed_text(
    blocks: Blocks, failed: dict[Index, BaseException], total: int, shown: int = 5
) -> str:
    lines = []
    for index in sorted(failed)[:shown]:
        where = ", ".join(f"{s.start}:{s.stop}" for s in blocks.slices_at(index))
        lines.append(f"tile {index} at [{where}]: {_one_line(failed[index])}")
    more = f"\n... and {len(failed) - shown} more" if len(failed) > shown else ""
    return (
        f"{len(failed)} of {total} tiles are missing; the others are finished and "
        "kept. Run the same command again to try only these.\n"
        + "\n".join(lines)
        + more
    )
