"""`napari-swin2sr train`: a model of one's own images."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_options, add_output_flags, chosen
from napari_swin2sr.cli.console import (
    EXIT_CODES,
    EXIT_OK,
    interruptible,
    print_error,
    print_path,
    write_json_line,
)
from napari_swin2sr.training.options import TrainOptions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "train",
        help="train or fine-tune a model on your own images",
        description="Train a model on a folder of sharp images. Their low-resolution "
        "sides are made from them. The result is a model folder for --model; running "
        "the same command again continues an interrupted run. Folders inside FOLDER "
        "are kinds of images, scored separately.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", type=Path, help="images to learn from"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="model folder"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget an interrupted run in OUT"
    )
    parser.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="stop early, as by Ctrl-C but with exit code 0, when the standard input "
        "ends: for programs that watch over a training, and may die",
    )
    add_output_flags(parser, progress="progress lines")
    add_options(parser, TrainOptions)
    flags = {**parser.get_default("flags"), "num_heads": "--heads"}
    parser.set_defaults(run=run, flags=flags)


def chosen_options(args: argparse.Namespace) -> TrainOptions:
    """Return the options of a command; a number of steps lifts the limit of time."""
    values = chosen(args, TrainOptions)
    if values["steps"] is not None and not hasattr(args, "minutes"):
        values["minutes"] = None
    return TrainOptions(**values)


def run(args: argparse.Namespace) -> int:
    """Train; return the exit code."""
    options = chosen_options(args)

    from napari_swin2sr.training.run import train

    def report(record: Mapping[str, Any]) -> None:
        if args.json:
            write_json_line(record)
        elif not args.quiet:
            print_error(_line(record))

    with interruptible() as token:
        asked = _stop_with_stdin(token) if args.stop_with_stdin else threading.Event()
        folder = train(
            args.folders,
            args.output,
            options,
            fresh=args.fresh,
            report=report,
            cancel=token,
            preview=args.json,
        )
        if token.is_set() and not asked.is_set():
            print_error(f"stopped; the same command continues. So far: {folder}")
            return 128 + token.signum
    if args.json:
        write_json_line({"event": "result", "output": folder})
    else:
        print_path(folder)
    return EXIT_OK


def _stop_with_stdin(token: threading.Event) -> threading.Event:
    """Set the token when the standard input ends; return what tells that it was so."""
    asked = threading.Event()

    def wait() -> None:
        # Not through sys.stdin: its lock, held here, would break the exit.
        while os.read(0, 1024):
            pass
        if not token.is_set():
            asked.set()
            token.set()

    threading.Thread(target=wait, name="standard input", daemon=True).start()
    return asked


def _line(record: Mapping[str, Any]) -> str:
    """One line of text for a progress record."""
    if record["event"] != "validation":  # a message, or the gain in the end
        return str(record["message"])
    gains = "  ".join(f"{k} {v:+.2f}" for k, v in record["validation"].items())
    loss = "" if record["loss"] is None else f"loss {record['loss']:.5f}  "
    return (
        f"step {record['step']}  {record['seconds'] / 60:.1f} min  "
        f"{loss}{record['samples_per_second']:.1f} crops/s  "
        f"dB over bicubic: {gains}"
    )
