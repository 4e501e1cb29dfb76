"""The command line: parse, call one function, show what happens.

No pixel is touched and no default is chosen here: options, their help and their checks
come from `napari_swin2sr.options`. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some
tiles are missing, 130 interrupted (128 + the number of the signal).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.console import (
    Report,
    complain,
    emit,
    interruptible,
    one_line_messages,
)
from napari_swin2sr.errors import Cancelled, OptionError, Swin2SRError, TilesFailedError
from napari_swin2sr.options import UpscaleOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_TILES = 0, 1, 2, 3
EXIT_CODES = (
    "exit codes: 0 done, 1 failed, 2 wrong usage, 3 some tiles are missing, "
    "130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process).

    Returns
    -------
    The exit code.
    """
    args = build_parser().parse_args(argv)
    with one_line_messages():
        try:
            code = int(args.run(args))
            sys.stdout.flush()
            return code
        except OptionError as error:
            return _fail(args, error, EXIT_USAGE)
        except KeyboardInterrupt as error:
            return _fail(args, error, 128 + signal.SIGINT)
        except BrokenPipeError:  # the reader of our output has left: nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_FAILURE
        except Exception as error:
            return _fail(args, error, EXIT_FAILURE)


def _fail(args: argparse.Namespace, failure: BaseException, code: int) -> int:
    """Say in one line what went wrong, and where asked for as a traceback and JSON."""
    if isinstance(failure, KeyboardInterrupt):
        text = "interrupted"
    elif isinstance(failure, (Swin2SRError, OSError)):
        text = str(failure)
    else:
        text = f"{type(failure).__name__}: {failure} (--debug shows where)"
    if args.debug:
        traceback.print_exception(failure)
    if getattr(args, "json", False):
        kind = type(failure).__name__
        emit({"event": "error", "type": kind, "message": text, "exit_code": code})
    complain(text)
    return code


# ------------------------------------------------------------------ parsing


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command; imports nothing heavy."""
    from napari_swin2sr.cli.train import add_parsers

    parser = argparse.ArgumentParser(
        prog="napari-swin2sr",
        description="Super-resolution of images too large for memory, with Swin2SR.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_upscale(commands)
    _add_models(commands)
    _add_info(commands)
    _add_demo(commands)
    add_parsers(commands)
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


def parse_halo(text: str) -> int | str:
    """Return a halo: a whole number of pixels or the word "exact"."""
    if text != "exact" and not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a whole number of pixels nor the word exact"
        )
    return text if text == "exact" else int(text)


def parse_range(text: str) -> str | tuple[float, float] | list[tuple[float, float]]:
    """Return a value range: a word, LOW,HIGH or LOW,HIGH,LOW,HIGH,... per channel."""
    if text in ("dtype", "data"):
        return text
    try:
        numbers = [float(part) for part in text.split(",")]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not LOW,HIGH (one pair, or one per channel), dtype or data"
        ) from None
    return pairs[0] if len(pairs) == 1 else pairs


_PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "TEXT"),
    "str | None": (str, "TEXT"),
    "int | None": (int, "N"),
    "float | None": (float, "VALUE"),
    "Halo": (parse_halo, "N|exact"),
    "RangeSpec": (parse_range, "LOW,HIGH"),
}
"""Annotation of an option -> how its text is read, what stands for it in the help."""


def add_options(parser: argparse.ArgumentParser, names: Iterable[str] = ()) -> None:
    """Add one flag per field of `UpscaleOptions`, or only for the fields `names`."""
    wanted = set(names)
    group = parser.add_argument_group("what to compute")
    for field in dataclasses.fields(UpscaleOptions):
        if wanted and field.name not in wanted:
            continue
        flag = "--" + field.name.replace("_", "-")
        unit = f", in {field.metadata['unit']}" if field.metadata["unit"] else ""
        text = (field.metadata["help"] + unit).replace("%", "%%")
        if field.default is not None:
            text += " [%(default)s]"
        common: dict[str, Any] = {"default": field.default, "help": text}
        if field.type == "bool | None":
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
            continue
        read, metavar = _PARSERS[str(field.type)]
        if field.metadata["choices"]:  # checked by UpscaleOptions, which allows more
            metavar = "|".join(field.metadata["choices"])
        group.add_argument(flag, type=read, metavar=metavar, **common)


def chosen(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the option fields that the command has."""
    names = (field.name for field in dataclasses.fields(UpscaleOptions))
    values = {name: getattr(args, name) for name in names if hasattr(args, name)}
    UpscaleOptions(**values)  # refuse wrong values before anything heavy is imported
    return values


# ------------------------------------------------------------------ upscale


def _add_upscale(commands: Any) -> None:
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
    add_options(parser)
    _add_file_flags(parser.add_argument_group("files"))
    _add_run_flags(parser.add_argument_group("how to run"))
    parser.set_defaults(run=_upscale)


def _add_file_flags(group: Any) -> None:
    group.add_argument(
        "--series", type=int, default=0, metavar="N", help="which image of IN [0]"
    )
    group.add_argument(
        "--level", type=int, default=0, metavar="N", help="level of its pyramid [0]"
    )
    group.add_argument(
        "--ome-version", default="0.5", metavar="0.5|0.4", help="of OME-Zarr [0.5]"
    )
    group.add_argument(
        "--cog", action="store_true", help="write a Cloud Optimized GeoTIFF"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace OUT if it exists"
    )
    group.add_argument(
        "--check-space",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="refuse to begin when the disk has no room for OUT",
    )


def _add_run_flags(group: Any) -> None:
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on where an interrupted run of the same job stopped",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="check every finished tile and make damaged ones again",
    )
    group.add_argument(
        "--part",
        metavar="I/N",
        help="compute only part I (from 0) of N, for array jobs on a cluster",
    )
    group.add_argument("--workers", type=int, metavar="N", help="tiles in work at once")
    _add_output_flags(group)


_FILE_AND_RUN = (
    "series",
    "level",
    "ome_version",
    "cog",
    "overwrite",
    "check_space",
    "resume",
    "verify",
    "part",
    "workers",
)
"""Arguments of `upscale_file` that are no options of the result."""


def _add_output_flags(group: Any, *, bar: bool = True) -> None:
    if bar:
        group.add_argument("--quiet", action="store_true", help="no progress bar")
    group.add_argument(
        "--json",
        action="store_true",
        help="one JSON record per line on stdout",
    )


def _upscale(args: argparse.Namespace) -> int:
    options = chosen(args)
    options |= {name: getattr(args, name) for name in _FILE_AND_RUN}
    report = Report(quiet=args.quiet, as_json=args.json)
    _fetch_model(options["model"], quiet=args.quiet)
    with interruptible() as token:
        try:
            from napari_swin2sr import upscale_file

            target = upscale_file(
                args.source, args.target, progress=report, cancel=token, **options
            )
        except Cancelled as error:
            return _fail(args, error, 128 + token.signum)
        except TilesFailedError as error:
            return _fail(args, error, EXIT_TILES)
        finally:
            report.close()
    if args.json:
        emit({"event": "result", "output": target})
    elif not args.quiet:
        print(target)
    return EXIT_OK


def _fetch_model(name: str, *, quiet: bool) -> None:
    """Download a model while Ctrl-C still ends the program at once."""
    from napari_swin2sr.weights.catalog import resolve_model

    resolve_model(name, progress=(lambda *_: None) if quiet else None)


# ------------------------------------------------------------- models, info


def _add_models(commands: Any) -> None:
    parser = commands.add_parser(
        "models",
        help="list the models",
        description="List the models by name.",
    )
    _add_output_flags(parser, bar=False)
    parser.set_defaults(run=_models)


def _models(args: argparse.Namespace) -> int:
    from napari_swin2sr.weights.catalog import list_models

    models = list_models()
    if args.json:
        for model in models:
            emit(model)
        return EXIT_OK
    width = max(len(model.name) for model in models)
    for model in models:
        size = f"{model.n_bytes / 1e6:.1f} MB" if model.n_bytes else "size unknown"
        state = "here" if model.downloaded else "downloaded on first use"
        print(f"{model.name:<{width}}  x{model.upscale}  {model.purpose}")
        print(f"{'':<{width}}      {size}, {state}, {model.licence}")
    return EXIT_OK


def _add_info(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="show versions, devices and folders",
        description="Show what a bug report needs: versions, devices, folders.",
    )
    _add_output_flags(parser, bar=False)
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    from napari_swin2sr.cli.info import environment

    facts = environment()
    if args.json:
        emit(facts)
        return EXIT_OK
    for title, entries in facts.items():
        print(title)
        for name, value in entries.items():
            print(f"  {name:<20} {value}")
    return EXIT_OK


# --------------------------------------------------------------------- demo


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="super-resolve a real image and compare with the truth",
        description="Halve a real image, super-resolve it again, and write the result "
        "and a picture that compares it with bicubic and the truth, without network.",
    )
    parser.add_argument("folder", nargs="?", default="demo-output", metavar="FOLDER")
    add_options(parser, ("model", "device", "precision"))
    _add_output_flags(parser, bar=False)
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    options = chosen(args)
    from napari_swin2sr.cli.demo import run_demo

    result = run_demo(args.folder, **options)
    if args.json:
        emit(result)
    else:
        print(result.summary())
    return EXIT_OK
