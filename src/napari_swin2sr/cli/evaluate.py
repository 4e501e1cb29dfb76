"""`napari-swin2sr evaluate`: how good a model is on images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_output_flags, parse_pair
from napari_swin2sr.cli.console import EXIT_OK, print_path, write_json_line

if TYPE_CHECKING:
    import argparse


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on images or pairs of images",
        description="Measure a model. A folder with HR and LR images (sub-folders HR "
        "and LR_bicubic/X2, HR and LR_X2, ...) is a set of pairs; of other images the "
        "low-resolution side is made here, as MATLAB's bicubic imresize does.",
    )
    parser.add_argument("model", metavar="MODEL", help="name, folder or file")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGES", help="folders or files"
    )
    parser.add_argument(
        "--measure",
        choices=("auto", "y", "linear"),
        default="auto",
        help="y: 8-bit luma as in published tables; linear: values as they are, peak "
        "1; auto: y for 8-bit color, linear for the rest",
    )
    parser.add_argument(
        "--border", type=int, metavar="N", help="px dropped on each side [the factor]"
    )
    parser.add_argument(
        "--noise",
        type=parse_pair,
        metavar="PHOTONS,SIGMA",
        help="add this noise to the low-resolution side",
    )
    parser.add_argument(
        "--crop",
        type=int,
        metavar="N",
        help="use only the center N x N px of each image",
    )
    parser.add_argument(
        "--against",
        default="bicubic",
        metavar="NAME,...",
        help="comparisons: nearest, bicubic, lanczos, or models [%(default)s]",
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="write a contact sheet of crops to look at",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps [auto]")
    add_output_flags(parser)
    flags = {name: f"--{name}" for name in ("border", "noise", "crop", "device")}
    parser.set_defaults(run=run, flags=flags)


def run(args: argparse.Namespace) -> int:
    """Measure; return the exit code."""
    from napari_swin2sr.training.evaluate import evaluate, summary, table, write_sheet

    methods = (*(name for name in args.against.split(",") if name), args.model)
    scores = evaluate(
        methods,
        args.images,
        measure=args.measure,
        border=args.border,
        noise=args.noise,
        crop=args.crop,
        device=args.device,
        keep_crops=args.sheet is not None,
    )
    if args.json:
        for score in scores:
            write_json_line({"event": "score", **score.as_dict()})
        write_json_line({"event": "summary", "means": summary(scores)})
    else:
        sys.stdout.write(table(scores))
    if args.sheet is not None:
        write_sheet(args.sheet, scores)
        if not args.json:
            print_path(args.sheet)
    return EXIT_OK
