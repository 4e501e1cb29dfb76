"""The command line: parse, call one function, show what happens.

No pixel is touched and no default is chosen here: options, their help and their checks
come from `napari_swin2sr.options` and `napari_swin2sr.training.options`.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from napari_swin2sr.cli import (
    calibrate,
    demo,
    evaluate,
    export,
    info,
    inspect,
    page,
    train,
    upscale,
)
from napari_swin2sr.cli.console import (
    EXIT_CODES,
    EXIT_FAILURE,
    fail,
    one_line_messages,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process).

    Returns
    -------
    int
        The exit code.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest and hasattr(args, "paths") and not any(r.startswith("-") for r in rest):
        args.paths += rest  # argparse takes no names on both sides of a flag
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with one_line_messages(getattr(args, "flags", {})):
        try:
            code = int(args.run(args))
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # the reader of our output has left: nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_FAILURE
        except (Exception, KeyboardInterrupt) as error:
            return fail(args, error)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="napari-swin2sr",
        description="Super-resolution of images too large for memory, with Swin2SR.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    upscale.add_parser(commands)
    inspect.add_parser(commands)
    info.add_parsers(commands)
    demo.add_parser(commands)
    page.add_parser(commands)
    train.add_parser(commands)
    calibrate.add_parser(commands)
    evaluate.add_parser(commands)
    export.add_parser(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", help="show a traceback when something fails"
        )
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print("napari-swin2sr", version("napari-swin2sr"))
        parser.exit()
