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

from napari_swin2sr.errors import (
    Cancelled,
    MissingDependencyError,
    OptionError,
    OutputError,
    Swin2SRError,
    TilesFailedError,
    WeightsError,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_INCOMPLETE = 0, 1, 2, 3
EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong usage, 3 some tiles or files are missing, "
    "130 interrupted (128 + the number of the signal)"
)

LONGEST_MESSAGE = 4000
"""Characters of a message; names in files may be megabytes long."""


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
        code = EXIT_INCOMPLETE
    elif isinstance(error, (Cancelled, KeyboardInterrupt)):
        code = 128 + signum
    text = in_flags(_message(args, error), getattr(args, "flags", {}))
    if args.debug:
        traceback.print_exception(error)
    if getattr(args, "json", False):
        record = {"event": "error", "type": type(error).__name__, "message": text}
        if hasattr(args, "source"):
            record |= {"source": args.source, "output": args.target}
        write_json_line(record | {"exit_code": code})
    print_error(text)
    return code


def _message(args: argparse.Namespace, error: BaseException) -> str:
    """Return the text of an error, with the file that it is about."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = str(error)
    if not isinstance(error, (Swin2SRError, OSError)):
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    source = str(getattr(args, "source", ""))
    named = (Path(source).name, Path(str(getattr(args, "target", ""))).name)
    if isinstance(error, (OptionError, WeightsError, MissingDependencyError)) or any(
        name in text for name in named
    ):
        return text
    return f"{source}: {text}"


def in_flags(text: str, flags: Mapping[str, str]) -> str:
    """Say options as the command line does: "--rgb" for "rgb=True".

    `flags` are the names of options and their flags. "--overwrite (overwrite=True)",
    which says both, loses the Python part.
    """
    if not flags:
        return text
    text = re.sub(r"(--[a-z][a-z-]*) \((\w+)=\w+\)", r"\1", text)

    def said(match: re.Match[str]) -> str:
        flag, value = flags[match["name"]], match["value"]
        if value in ("True", "False"):
            return flag if value == "True" else flag.replace("--", "--no-")
        if value[:1] in "[(":
            value = re.sub(r"[\[\]() ]", "", value)
        return f"{flag} {value.strip(chr(39))}"

    names = "|".join(flags)
    value = r"'[^' ]*'|\[[^\]]*\]|\([^)]*\)|[^\s,;:)]+"
    return re.sub(rf"(?<![\w.-])(?P<name>{names})=(?P<value>{value})", said, text)


def printable(text: str) -> str:
    """Return text that cannot drive a terminal: on one line, escapes spelled out."""
    line = " ".join(text.split())
    if len(line) > LONGEST_MESSAGE:
        line = f"{line[: LONGEST_MESSAGE // 2]} ... {line[-LONGEST_MESSAGE // 2 :]}"
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in line
    )


def make_folder(folder: Path) -> None:
    """Make a folder for results, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: this folder cannot be made ({error.strerror}). Choose another"
        ) from error


def print_path(place: Path | str) -> None:
    """Write a path to standard output; as it is, unless people look at it."""
    text = str(place)
    if sys.stdout.isatty():
        text = printable(text)
    with _past_the_bars():
        try:
            print(text, flush=True)
        except UnicodeEncodeError:  # a name that is no text
            sys.stdout.buffer.write(os.fsencode(text + "\n"))
            sys.stdout.buffer.flush()


def _past_the_bars() -> contextlib.AbstractContextManager[Any]:
    """Take progress bars away while something is written."""
    if "tqdm" not in sys.modules:
        return contextlib.nullcontext()
    from tqdm import tqdm

    bars: contextlib.AbstractContextManager[Any] = tqdm.external_write_mode(sys.stdout)
    return bars


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
    terminal; of many files a second one counts the files. Failed tiles are not shown:
    `runs.runner` logs them.
    """

    def __init__(
        self, *, quiet: bool = False, as_json: bool = False, files: int = 0
    ) -> None:
        self._quiet, self._as_json = quiet, as_json
        self._bar: Any = None
        self._n_files, self._number, self._name = files, 0, ""
        self._files = self._new_bar("files", files, 0, "file") if files else None

    def __call__(self, event: Any) -> None:
        """Take one event of `napari_swin2sr.runs.runner`."""
        kind = type(event).__name__
        if self._as_json:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
            write_json_line({"event": name} | _plain(event))
        if kind == "RunStarted":
            self._close_tiles()
            stage = f"{self._name}: {event.stage}" if self._n_files else event.stage
            self._bar = self._new_bar(stage, event.total, event.done, "tile")
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
            self._close_tiles()

    def next_file(self, source: str, output: Path) -> None:
        """Tell which of many files the following events are about."""
        self._number += 1
        self._name = printable(Path(source).name)
        if self._as_json:
            record = {"event": "file_started", "source": source, "output": output}
            write_json_line(record | {"number": self._number, "total": self._n_files})

    def file_done(self) -> None:
        """Count a file, whether it has failed or not."""
        self._close_tiles()
        if self._files is not None:
            self._files.update()

    def _new_bar(self, stage: str, total: int, done: int, unit: str) -> Any:
        from tqdm import tqdm

        # disable=None: only on a terminal
        return tqdm(
            desc=stage,
            total=total,
            initial=done,
            unit=unit,
            dynamic_ncols=True,
            file=sys.stderr,
            leave=unit == "file" or not self._n_files,
            disable=True if self._quiet else None,
        )

    def _close_tiles(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """Leave the bars as they stand."""
        self._close_tiles()
        if self._files is not None:
            self._files.close()


def print_error(message: str) -> None:
    """Write one line to standard error, past a bar if there is one."""
    line = printable(f"napari-swin2sr: {message}")
    with _past_the_bars():
        sys.stderr.write(line + "\n")


class _LogLines(logging.Handler):
    def __init__(self, flags: Mapping[str, str]) -> None:
        super().__init__()
        self._flags = flags

    def emit(self, record: logging.LogRecord) -> None:
        text = in_flags(record.getMessage(), self._flags)
        print_error(f"{record.levelname.lower()}: {text}")


@contextlib.contextmanager
def one_line_messages(flags: Mapping[str, str]) -> Iterator[None]:
    """Write what the package warns of and logs as single lines, in terms of `flags`."""
    logger, handler = logging.getLogger("napari_swin2sr"), _LogLines(flags)

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print_error(f"warning: {in_flags(str(message), flags)}")

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
        os.write(2, b"\nstopping; press Ctrl-C again to stop at once\n")

    if threading.current_thread() is not threading.main_thread():
        yield token
        return
    previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield token
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
