"""`napari-swin2sr upscale`: a file in, a file out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_options, add_output_flags, chosen
from napari_swin2sr.cli.console import (
    EXIT_CODES,
    EXIT_OK,
    Report,
    fail,
    interruptible,
    write_json_line,
)
from napari_swin2sr.errors import Cancelled
from napari_swin2sr.options import RunOptions, UpscaleOptions

if TYPE_CHECKING:
    import argparse


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "upscale",
        help="super-resolve an image file of any size",
        description="Super-resolve an image file of any size, tile by tile. Prints the "
        "path of the result.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("source", metavar="IN", help="image file or OME-Zarr folder")
    parser.add_argument(
        "target", metavar="OUT", help="result; its suffix is the format"
    )
    add_options(parser, UpscaleOptions, "what to compute")
    add_options(parser, RunOptions, "files and run")
    add_output_flags(parser, progress="progress bar")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Upscale; return the exit code."""
    options = chosen(args, UpscaleOptions) | chosen(args, RunOptions)
    report = Report(quiet=args.quiet, as_json=args.json)
    _fetch_model(options["model"], quiet=args.quiet)
    with interruptible() as token:
        try:
            from napari_swin2sr import upscale_file

            target = upscale_file(
                args.source, args.target, progress=report, cancel=token, **options
            )
        except Cancelled as error:
            return fail(args, error, token.signum)
        finally:
            report.close()
    if args.json:
        write_json_line({"event": "result", "output": target})
    elif not args.quiet:
        print(target)
    return EXIT_OK


def _fetch_model(name: str, *, quiet: bool) -> None:
    """Download a model while Ctrl-C still ends the program at once."""
    from napari_swin2sr.weights.catalog import resolve_model

    resolve_model(name, progress=(lambda *_: None) if quiet else None)
