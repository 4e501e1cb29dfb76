"""`napari-swin2sr train`: a model of one's own images."""

from __future__ import annotations

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
        folder = train(
            args.folders,
            args.output,
            options,
            fresh=args.fresh,
            report=report,
            cancel=token,
        )
        if token.is_set():
            print_error(f"stopped; the same command continues. So far: {folder}")
            return 128 + token.signum
    if args.json:
        write_json_line({"event": "result", "output": folder})
    else:
        print_path(folder)
    return EXIT_OK


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
