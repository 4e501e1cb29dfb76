"""`napari-swin2sr calibrate`: error bars that hold for one's own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_output_flags
from napari_swin2sr.cli.console import (
    EXIT_CODES,
    EXIT_OK,
    interruptible,
    print_error,
    print_path,
    write_json_line,
)

if TYPE_CHECKING:
    import argparse


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "calibrate",
        help="make error bars hold for your own images",
        description="Bin images by the model's factor, super-resolve them, and compare "
        "with their own pixels. The result is a model folder for --model whose error "
        "bars hold for images like these. At least nine independent images are "
        "needed, 18 for a model without an error head: half of them train one.",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", type=Path, help="files, or folders"
    )
    parser.add_argument(
        "-m", "--model", default="default", metavar="MODEL", help="as for upscale"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="model folder to write; default: that of MODEL",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    add_output_flags(parser, progress="progress lines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate; return the exit code."""
    from napari_swin2sr.training.calibrate import calibrate, summary

    def report(text: str) -> None:
        if args.json:
            write_json_line({"event": "message", "message": text})
        elif not args.quiet:
            print_error(text)

    with interruptible() as token:
        found = calibrate(
            args.images,
            args.model,
            output=args.output,
            device=args.device,
            report=report,
            cancel=token,
        )
    if args.json:
        mean, low, high = found.gain
        write_json_line(
            {
                "event": "result",
                "output": found.folder,
                "images": found.images,
                "gain_db": {"mean": mean, "low": low, "high": high},
                "factor": found.calibration.factor(),
            }
        )
        return EXIT_OK
    if not args.quiet:
        for line in summary(found):
            print_error(line)
    print_path(found.folder)
    return EXIT_OK
