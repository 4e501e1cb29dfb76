"""What a run looks like to a person at a terminal, and to a script that reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import Cancelled, OptionError, Swin2SRError, TilesFailedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_TILES = 0, 1, 2, 3
EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong usage, 3 some tiles are missing, "
    "130 interrupted (128 + the number of the signal)"
)


def fail(
    args: argparse.Namespace, error: BaseException, signum: int = signal.SIGINT
) -> int:
    """Say in one line what went wrong, and where asked for as a traceback and JSON.

    Returns the exit code.
    """
    code = EXIT_FAILURE
    if isinstance(error, OptionError):
        code = EXIT_USAGE
    elif isinstance(error, TilesFailedError):
        code = EXIT_TILES
    elif isinstance(error, (Cancelled, KeyboardInterrupt)):
        code = 128 + signum
    if isinstance(error, KeyboardInterrupt):
        text = "interrupted"
    elif isinstance(error, (Swin2SRError, OSError)):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error} (--debug shows where)"
    if args.debug:
        traceback.print_exception(error)
    if getattr(args, "json", False):
        kind = type(error).__name__
        write_json_line(
            {"event": "error", "type": kind, "message": text, "exit_code": code}
        )
    print_error(text)
    return code


def write_json_line(record: Any) -> None:
    """Write one JSON line to standard output, at once."""
    sys.stdout.write(json.dumps(record, default=_plain) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else repr(value)


class Report:
    """Show the events of a run: a bar on standard error, JSON lines on standard output.

    The bar has a rate and the time left, and appears only when standard error is a
    terminal. Failed tiles are not shown: `runs.runner` logs them.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self._quiet, self._as_json = quiet, as_json
        self._bar: Any = None

    def __call__(self, event: Any) -> None:
        """Take one event of `napari_swin2sr.runs.runner`."""
        kind = type(event).__name__
        if self._as_json:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
            write_json_line({"event": name} | _plain(event))
        if kind == "RunStarted":
            self._bar = self._new_bar(event.stage, event.total, event.done)
            facts = []  # until the first tile tells more
            if event.expected_seconds is not None:
                facts.append(
                    f"about {self._bar.format_interval(event.expected_seconds)}"
                )
            if event.pixel_overhead is not None:
                facts.append(f"halos add {event.pixel_overhead - 1:.0%}")
            self._bar.set_postfix_str(", ".join(facts))
        elif kind == "TileDone" and self._bar is not None:
            self._bar.set_postfix_str("", refresh=False)
            self._bar.update()
        elif kind == "RunFinished":
            self.close()

    def _new_bar(self, stage: str, total: int, done: int) -> Any:
        from tqdm import tqdm

        self.close()
        # disable=None: only on a terminal
        return tqdm(
            desc=stage,
            total=total,
            initial=done,
            unit="tile",
            dynamic_ncols=True,
            file=sys.stderr,
            disable=True if self._quiet else None,
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def print_error(message: str) -> None:
    """Write one line to standard error, past a bar if there is one."""
    line = " ".join(f"napari-swin2sr: {message}".split())
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(line + "\n")


class _LogLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_error(f"{record.levelname.lower()}: {record.getMessage()}")


@contextlib.contextmanager
def one_line_messages() -> Iterator[None]:
    """Write what the package warns of and logs as single lines, without file names."""
    logger, handler = logging.getLogger("napari_swin2sr"), _LogLines()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print_error(f"warning: {message}")

    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)


class Interrupt(threading.Event):
    """Set by the first Ctrl-C; remembers which signal it was."""

    signum: int = signal.SIGINT


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Turn Ctrl-C (and SIGTERM) into a cancel token; a second one stops at once.

    Outside the main thread, which alone receives signals, the token is never set.
    """
    token = Interrupt()

    def stop(signum: int, _frame: object) -> None:
        if token.is_set():
            raise KeyboardInterrupt
        token.signum = signum
        token.set()
        # os.write: printing is not safe inside a signal handler
        os.write(2, b"\nstopping after this tile; press Ctrl-C again to stop at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield token
        return
    previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield token
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
