"""`napari-swin2sr export`: a model as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_output_flags
from napari_swin2sr.cli.console import EXIT_OK, print_path, write_json_line

if TYPE_CHECKING:
    import argparse

_FLAGS = {name: f"--{name}" for name in ("format", "gray", "license", "overwrite")}


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help="write a model for other programs: ONNX, bioimage.io",
        description="Write a model as one ONNX file, or as a package of bioimage.io "
        "that states tile size, step and halo. The file is run with ONNX Runtime and "
        'compared with the network before it stays. Needs the extra "export".',
    )
    parser.add_argument("model", metavar="MODEL", help="name, folder or weights file")
    parser.add_argument("target", metavar="OUT", type=Path, help=".onnx or .zip")
    parser.add_argument("--format", help="onnx or bioimageio [as the ending of OUT]")
    parser.add_argument(
        "--gray", action="store_true", help="one channel in and out, for gray images"
    )
    parser.add_argument("--license", metavar="SPDX", help="license to state")
    parser.add_argument(
        "--author",
        action="append",
        default=[],
        dest="authors",
        metavar="NAME",
        help="author to state; may be repeated",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that exists"
    )
    add_output_flags(parser)
    parser.set_defaults(run=run, flags=_FLAGS)


def run(args: argparse.Namespace) -> int:
    """Export; return the exit code."""
    from napari_swin2sr.export.write import export_model

    target = export_model(
        args.model,
        args.target,
        format=args.format,
        gray=args.gray,
        license=args.license,
        authors=args.authors,
        overwrite=args.overwrite,
    )
    if args.json:
        size = target.stat().st_size
        record = {"event": "exported", "model": args.model, "output": str(target)}
        write_json_line(record | {"n_bytes": size})
    else:
        print_path(target)
    return EXIT_OK
