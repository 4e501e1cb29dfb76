"""A run in a worker thread: its progress, its cancel buttons, and its end.

Whatever happens in the thread, the end arrives on the main thread: generator workers
would lose every `RuntimeError`, and `torch.OutOfMemoryError` is one, so the work is a
plain function.

Nothing is posted to the main thread. The worker leaves results and its latest state,
and a timer fetches them one at a time. Queued calls would pile up: napari's progress
bars turn the event loop, which would deliver the next call inside the one before.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from napari.qt.threading import create_worker
from napari.utils.progress import cancelable_progress
from qtpy.QtCore import QTimer

from napari_swin2sr.errors import Cancelled
from napari_swin2sr.runs.runner import CancelToken, RunStarted, TileDone

logger = logging.getLogger("napari_swin2sr")

TICK_MS = 50
"""How often results and progress are fetched from the worker [ms]."""

Report: TypeAlias = Callable[[object], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work, usually a layer.

    Attributes
    ----------
    title : what people read while it runs
    work : runs in the worker thread; takes a reporter of `runs.runner` events (or of
        texts) and a cancel token; must not touch layers or Qt
    done : takes the result of `work` on the main thread
    """

    title: str
    work: Callable[[Report, CancelToken], Any]
    done: Callable[[Any], None]


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    error: Exception | None = None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """What there is to show of a run: a line, and tiles (total 0 while not known)."""

    text: str = ""
    done: int = 0
    total: int = 0


class _Bar(cancelable_progress):  # type: ignore[misc]  # napari has no types
    """napari's progress bar, whose Cancel button really calls back."""

    def cancel(self) -> None:
        if not self.is_canceled:
            super().cancel()
            self.cancel_callback()


class Run:
    """Jobs one after the other in a worker thread; also the token that cancels them.

    Made, started and told about on the main thread. `changed` is called with each
    state that is shown, `ended` once, with the outcome, whatever it is; both may be
    replaced while it runs.
    """

    _delivering: ClassVar[bool] = False

    def __init__(
        self,
        jobs: Sequence[Job],
        changed: Callable[[State], None],
        ended: Callable[[Outcome], None],
    ) -> None:
        self.jobs = tuple(jobs)
        self.changed, self.ended = changed, ended
        self.state = State()
        self._cancelled = threading.Event()
        self._outcome = Outcome()
        self._results: deque[tuple[Job, Any]] = deque()
        self._latest: deque[State] = deque(maxlen=1)
        self._finished = threading.Event()
        self._bar: _Bar | None = None
        self._worker: Any = None
        self._timer = QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)

    def __repr__(self) -> str:
        return f"super-resolution of {', '.join(job.title for job in self.jobs)}"

    def __call__(self) -> None:
        """Work, in the worker thread; nothing may be raised from here."""
        try:
            for job in self.jobs:
                if self.is_set():
                    raise Cancelled("cancelled")
                self._report(job, f"{job.title}: preparing")
                report = functools.partial(self._report, job)
                self._results.append((job, job.work(report, self)))
        except Cancelled:
            self._outcome.cancelled = True
        except Exception as error:  # whatever it is, somebody waits for the end
            logger.debug("run failed", exc_info=True)
            self._outcome.error = error
        self._finished.set()

    @property
    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._worker is not None

    def start(self) -> None:
        """Begin; returns at once."""
        self._worker = create_worker(self, _start_thread=False)
        title = ", ".join(job.title for job in self.jobs)
        self._bar = _Bar(total=0, desc=title[:60], cancel_callback=self.cancel)
        self._timer.start()
        self._worker.start()

    def cancel(self) -> None:
        """Ask the run to end; it does so after the tile that it is at."""
        self._cancelled.set()
        self.state = State("Cancelling...", self.state.done, self.state.total)
        self.changed(self.state)

    def is_set(self) -> bool:
        """Tell whether the run should end: a button, or a closing window, asks so."""
        quitting = self._worker is not None and self._worker.abort_requested
        return self._cancelled.is_set() or quitting

    def _report(self, job: Job, event: object) -> None:
        """Turn an event into the latest state; in the worker thread, so no Qt."""
        if isinstance(event, str):
            self._latest.append(State(event))
        elif isinstance(event, RunStarted):
            text = f"{job.title}: {_STAGES.get(event.stage, event.stage)}"
            if event.done:
                text += f", going on after {event.done} of {event.total} tiles"
            self._latest.append(State(text, event.done, event.total))
        elif isinstance(event, TileDone):
            text = _progress_text(job, event)
            self._latest.append(State(text, event.done, event.total))

    def _tick(self) -> None:
        """Deliver one result, the latest state or the end, but not inside another."""
        if Run._delivering:
            return
        Run._delivering = True
        try:
            finished = self._finished.is_set()
            if self._results:
                self._deliver(*self._results.popleft())
            elif finished:
                self._end()
            elif self._latest:
                self._show(self._latest.popleft())
        finally:
            Run._delivering = False

    def _show(self, state: State) -> None:
        if not self.is_set():
            self.state = state
            self.changed(state)
        if self._bar is not None:
            if state.total and self._bar.total != state.total:
                self._bar.reset(total=state.total)
            self._bar.set_description(state.text[:60])
            if state.total:
                self._bar.update(state.done - self._bar.n)

    def _deliver(self, job: Job, result: Any) -> None:
        if self._worker.abort_requested:  # the window is closing
            return
        try:
            job.done(result)
        except Exception as error:  # a result that cannot be shown is an error too
            logger.debug("result could not be shown", exc_info=True)
            self._outcome.error = self._outcome.error or error

    def _end(self) -> None:
        self._timer.stop()
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._worker = None
        self.ended(self._outcome)


_STAGES = {
    "tiles": "super-resolving",
    "pyramid": "lower resolutions",
    "export": "writing the file",
    "check": "checking",
}


def _progress_text(job: Job, event: TileDone) -> str:
    stage = _STAGES.get(event.stage, event.stage)
    rate = event.elapsed / max(event.done, 1)
    speed = f"{1 / rate:.1f} tiles/s" if 0 < rate < 1 else f"{rate:.1f} s per tile"
    return (
        f"{job.title}: {stage}, {event.done} of {event.total} tiles, {speed}, "
        f"{duration(event.remaining)} left"
    )


def duration(seconds: float) -> str:
    """Return a time as people say it: 7 s, 12 min 30 s, 3 h 05 min, 4 d 2 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(whole, 1)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
