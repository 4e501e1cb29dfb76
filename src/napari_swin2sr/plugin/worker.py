"""A run in a worker thread: its progress, its cancel buttons, and its end.

Whatever happens in the thread, the end arrives on the main thread: generator workers
would lose every `RuntimeError`, and `torch.OutOfMemoryError` is one, so the job is a
plain function that returns its outcome.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from napari.qt.threading import create_worker
from napari.utils.progress import cancelable_progress

from napari_swin2sr.errors import Cancelled
from napari_swin2sr.plugin.main_thread import posted
from napari_swin2sr.runs.runner import RunStarted, TileDone

logger = logging.getLogger("napari_swin2sr")

SHOW_SECONDS = 0.1
"""Progress is shown at most this often."""

Report: TypeAlias = Callable[[object], None]


class Token:
    """Asks a run to end: set by a Cancel button or by a closing window."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.worker: Any = None

    def set(self) -> None:
        """Ask the run to end after the tile that it is at."""
        self._event.set()

    def is_set(self) -> bool:
        """Tell whether the run should end."""
        quitting = self.worker is not None and self.worker.abort_requested
        return self._event.is_set() or quitting


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work, usually a layer.

    Attributes
    ----------
    title : what people read while it runs
    work : runs in the worker thread; takes a reporter of `runs.runner` events
        (or of texts) and a token; must not touch layers or Qt
    done : takes the result of `work` on the main thread
    """

    title: str
    work: Callable[[Report, Token], Any]
    done: Callable[[Any], None]


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    error: Exception | None = None
    cancelled: bool = False
    finished: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """What there is to show of a run.

    Attributes
    ----------
    text : one line
    done, total : tiles; total 0 while not known
    """

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
    """Jobs one after the other in a worker thread.

    Made, started and told about on the main thread.

    Parameters
    ----------
    jobs : what to do
    changed : called with each new state
    ended : called once, with the outcome, whatever it is
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        changed: Callable[[State], None],
        ended: Callable[[Outcome], None],
    ) -> None:
        self.jobs = tuple(jobs)
        self.token = Token()
        self._changed, self._ended = changed, ended
        self._bar: _Bar | None = None
        self._outcome = Outcome()
        self._last_shown = 0.0
        self._worker: Any = None

    @property
    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self._worker is not None

    def start(self) -> None:
        """Begin; returns at once."""
        self._post = posted(self._show)
        self._hand_over = posted(self._done)
        self._finish = posted(self._end)
        self._worker = create_worker(self._work, _start_thread=False)
        self.token.worker = self._worker
        title = ", ".join(job.title for job in self.jobs)
        self._bar = _Bar(total=0, desc=title[:60], cancel_callback=self.cancel)
        self._worker.start()

    def cancel(self) -> None:
        """Ask the run to end; it does so after the tile that it is at."""
        self.token.set()
        self._changed(State("Ends after this tile ..."))

    def _work(self) -> None:
        """Run in the worker thread; nothing may be raised from here."""
        outcome = self._outcome
        try:
            for job in self.jobs:
                if self.token.is_set():
                    raise Cancelled("cancelled")
                self._report(job, f"{job.title}: preparing")
                report = functools.partial(self._report, job)
                self._hand_over(job, job.work(report, self.token))
        except Cancelled:
            outcome.cancelled = True
        except Exception as error:  # whatever it is, somebody waits for the end
            logger.debug("run failed", exc_info=True)
            outcome.error = error
        self._finish(outcome)

    def _report(self, job: Job, event: object) -> None:
        """Turn an event into a state; in the worker thread, so no Qt."""
        now = time.monotonic()
        if isinstance(event, str):
            self._post(State(event))
        elif isinstance(event, RunStarted):
            text = f"{job.title}: {_STAGES.get(event.stage, event.stage)}"
            self._post(State(text, event.done, event.total))
        elif isinstance(event, TileDone):
            last = event.done == event.total
            if last or now - self._last_shown >= SHOW_SECONDS:
                self._last_shown = now
                self._post(State(_progress_text(job, event), event.done, event.total))

    def _show(self, state: State) -> None:
        bar = self._bar
        if bar is None:
            return
        if not self.token.is_set():
            self._changed(state)
        # napari's bar turns the event loop, so that the end may come in here
        if state.total and bar.total != state.total:
            bar.reset(total=state.total)
        if self._bar is bar:
            bar.set_description(state.text[:60])
        if self._bar is bar and state.total:
            bar.update(state.done - bar.n)

    def _done(self, job: Job, result: Any) -> None:
        if self.token.worker.abort_requested:  # the window is closing
            return
        try:
            job.done(result)
            self._outcome.finished += 1
        except Exception as error:  # a result that cannot be shown is an error too
            logger.debug("result could not be shown", exc_info=True)
            self._outcome.error = self._outcome.error or error

    def _end(self, outcome: Outcome) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._worker = None
        self._ended(outcome)


_STAGES = {
    "tiles": "super-resolving",
    "pyramid": "coarser levels",
    "export": "writing the file",
    "check": "checking",
}


def _progress_text(job: Job, event: TileDone) -> str:
    stage = _STAGES.get(event.stage, event.stage)
    rate = event.elapsed / max(event.done, 1)
    speed = f"{1 / rate:.1f} tiles/s" if rate < 1 else f"{rate:.1f} s per tile"
    return (
        f"{job.title}: {stage}, {event.done} of {event.total} tiles, {speed}, "
        f"{duration(event.remaining)} left"
    )


def duration(seconds: float) -> str:
    """Return a time as people say it: 0:07, 12:30, 3 h 05 min, 4 d 2 h."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
