"""`napari-swin2sr upscale`: one file, or many into a folder."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_options, add_output_flags, chosen
from napari_swin2sr.cli.console import (
    EXIT_CODES,
    EXIT_INCOMPLETE,
    EXIT_OK,
    Report,
    fail,
    interruptible,
    make_folder,
    print_error,
    print_path,
    write_json_line,
)
from napari_swin2sr.errors import Cancelled, FileError, OptionError
from napari_swin2sr.options import RunOptions, UpscaleOptions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from napari_swin2sr.cli.console import Interrupt

IMAGE_SUFFIXES = (
    *(".tif", ".tiff", ".btf", ".tf8", ".tf2", ".png", ".jpg", ".jpeg"),
    *(".jp2", ".zarr", ".safe"),
)
"""What counts as an image in a folder or among what a pattern finds."""

SAME_RESULT = ("series", "level", "ome_version", "cog")
"""Options of a run, besides those of the pixels, that a result depends on."""

DONE_NAME = ".napari-swin2sr.done"
"""File in an output folder with a JSON record per finished file. By it files that do
not say themselves how they were made, such as PNG, are not made a second time."""

_TWO_PART_SUFFIX = re.compile(r"\.ome(?=\.(?:tiff?|zarr)$)", re.IGNORECASE)


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "upscale",
        help="super-resolve image files of any size",
        description="Super-resolve an image file of any size, tile by tile, or many "
        "into a folder. Prints the path of each result.",
        usage="%(prog)s [options] IN OUT\n"
        "       %(prog)s [options] IN [IN ...] -o FOLDER",
        epilog=EXIT_CODES,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="IN ... OUT",
        help="image file, OME-Zarr or URL, and the result, whose suffix is its format. "
        "With -o, or where OUT ends in a slash: any number of them, of folders of "
        "images, and of quoted patterns such as 'scans/**/*.tif'",
    )
    group = parser.add_argument_group("many files")
    group.add_argument(
        "-o",
        "--output-folder",
        metavar="FOLDER",
        help="where results go, under the names of their sources; made if missing",
    )
    group.add_argument(
        "--format",
        metavar="SUFFIX",
        help="format of all results, such as ome.zarr, ome.tif, tif or png "
        "[that of each source; tif where it cannot be written]",
    )
    add_options(parser, UpscaleOptions, "what to compute")
    add_options(parser, RunOptions, "files and run")
    add_output_flags(parser, progress="progress bar and no output")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Upscale; return the exit code."""
    options = chosen(args, UpscaleOptions) | chosen(args, RunOptions)
    *sources, target = args.paths
    folder = args.output_folder
    if folder is not None:
        sources.append(target)
    elif not sources:
        args.usage_error("the result is missing: IN OUT, or IN ... -o FOLDER")
    elif target.endswith(("/", os.sep)) and "://" not in target:
        folder = target
    elif len(sources) > 1:
        args.usage_error(
            f"{len(sources)} sources need a folder for their results: -o FOLDER, or "
            f"a slash at the end of the last name ({target}/)"
        )
    if folder is not None:
        return _upscale_many(args, sources, Path(folder).expanduser(), options)
    if args.format is not None:
        args.usage_error("--format is for many files; here the suffix of OUT says it")
    args.source, args.target = sources[0], target
    report = Report(quiet=args.quiet, as_json=args.json)
    _fetch_model(options["model"], quiet=args.quiet)
    with interruptible() as token:
        try:
            output = _upscale_file(args.source, target, report, token, options)
        except Cancelled as error:
            return fail(args, error, token.signum)
        finally:
            report.close()
    if args.json:
        write_json_line(
            {"event": "result", "output": output, **_error_of(output, options)}
        )
    elif not args.quiet:
        print_path(output)
    return EXIT_OK


def _upscale_file(
    source: str, target: str | Path, report: Report, token: Interrupt, options: Any
) -> Path | str:
    from napari_swin2sr.files import upscale_file

    return upscale_file(source, target, progress=report, cancel=token, **options)


def _error_of(output: str | Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return what a record says about the error bars of a result."""
    if not options["trust"]:
        return {}
    from napari_swin2sr.runs.error_bars import error_place

    return {"error": error_place(output)}


def _fetch_model(name: str, *, quiet: bool) -> str:
    """Download a model while Ctrl-C still ends the program at once; return its hash."""
    from napari_swin2sr.weights.catalog import resolve_model

    return resolve_model(name, progress=(lambda *_: None) if quiet else None).sha256


# -- many files -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One file of many."""

    source: str
    output: Path


def _upscale_many(
    args: argparse.Namespace, sources: list[str], folder: Path, options: dict[str, Any]
) -> int:
    """Upscale one file after the other; a failing one does not stop the others."""
    items = plan(sources, folder, args.format)
    _check_error_files(items, options)
    sha256 = _fetch_model(options["model"], quiet=args.quiet)
    make_folder(folder)
    run_options = {f.name for f in dataclasses.fields(RunOptions)} - set(SAME_RESULT)
    settings = {k: v for k, v in options.items() if k not in run_options}
    done = DoneList(folder, [sha256, settings])
    report = Report(quiet=args.quiet, as_json=args.json, files=len(items))
    failed: list[Item] = []
    with interruptible() as token:
        try:
            for number, item in enumerate(items, 1):
                args.source, args.target = item.source, item.output
                report.next_file(item.source, item.output)
                try:
                    skipped = not options["overwrite"] and item in done
                    if not skipped:
                        _upscale_file(item.source, item.output, report, token, options)
                        done.add(item)
                except (Cancelled, KeyboardInterrupt) as error:
                    code = fail(args, error, token.signum)
                    print_error(
                        f"stopped at file {number} of {len(items)}; the same command "
                        "goes on from there"
                    )
                    return code
                except BrokenPipeError:
                    raise
                except Exception as error:
                    fail(args, error)
                    failed.append(item)
                else:
                    _report_result(args, item, skipped, options)
                report.file_done()
        finally:
            report.close()
    if args.json:
        write_json_line(
            {
                "event": "summary",
                "done": len(items) - len(failed),
                "total": len(items),
                "failed": [item.source for item in failed],
            }
        )
    if not failed:
        return EXIT_OK
    print_error(f"{len(failed)} of {len(items)} files failed; the others are done:")
    for item in failed:
        print_error(f"failed: {item.source}")
    return EXIT_INCOMPLETE


def _report_result(
    args: argparse.Namespace, item: Item, skipped: bool, options: dict[str, Any]
) -> None:
    if args.json:
        write_json_line(
            {
                "event": "result",
                "source": item.source,
                "output": item.output,
                "skipped": skipped,
                **_error_of(item.output, options),
            }
        )
    elif not args.quiet:
        print_path(item.output)


def plan(sources: list[str], folder: Path, suffix: str | None = None) -> list[Item]:
    """Find the files that are meant and name their results.

    Raises
    ------
    FileError
        If a folder or pattern holds no image.
    OptionError
        If two results would have the same name, or one that of its source.
    """
    from napari_swin2sr.formats.detect import kind_of_target

    items: list[Item] = []
    taken: dict[str, str] = {}
    found = dict.fromkeys(path for name in sources for path in _expand(name, folder))
    for source in found:
        output = folder / output_name(source, suffix)
        kind_of_target(output)
        other = taken.setdefault(output.name.casefold(), source)
        if other != source:
            raise OptionError(
                f"{other} and {source} would both become {output}. Nothing was done; "
                "give them different output folders"
            )
        if "://" not in source and _same(Path(source).expanduser(), output):
            raise OptionError(
                f"{source}: its result would replace it. Nothing was done; choose "
                "another output folder or --format"
            )
        items.append(Item(source, output))
    return items


def _check_error_files(items: list[Item], options: dict[str, Any]) -> None:
    """Refuse results whose error bars would have one name, or that of a result."""
    taken = {str(item.output).casefold(): item.source for item in items}
    for item in items:
        error = _error_of(item.output, options).get("error")
        other = taken.setdefault(str(error).casefold(), item.source) if error else ""
        if error and other != item.source:
            raise OptionError(
                f"{item.source}: its error bars would be {error}, and so would "
                f"something of {other}. Nothing was done; give them different output "
                "folders"
            )


def _expand(name: str, folder: Path) -> Iterator[str]:
    """Yield the images that an argument means, but no results of an earlier run."""
    path = Path(name).expanduser()
    if "://" not in name and path.is_dir() and not _is_image_folder(path):
        base, found = path, sorted(path.iterdir())
        what = "no image in this folder"
    elif "://" not in name and glob.has_magic(name) and not path.exists():
        base = next(p for p in path.parents if not glob.has_magic(str(p)))
        found = sorted(base.glob(str(path.relative_to(base))))
        what = "no image fits this pattern"
    else:
        yield name
        return
    if not (_same(base, folder) or _within(base, folder)):
        found = [p for p in found if not _within(p, folder)]
    images = [str(p) for p in found if _looks_like_an_image(p)]
    if not images:
        raise FileError(
            f"{name}: {what}; looked for names that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    yield from images


def _looks_like_an_image(path: Path) -> bool:
    name = path.name.lower()
    return (
        name.endswith(IMAGE_SUFFIXES)
        and not name.startswith(".")
        and not name.endswith(".unfinished.zarr")
        and not any(p.suffix.lower() in (".zarr", ".safe") for p in path.parents)
    )


def _is_image_folder(path: Path) -> bool:
    from napari_swin2sr.formats.detect import kind_of

    try:
        kind_of(path)
    except OSError:
        return path.suffix.lower() == ".zarr"  # a damaged one is no folder of images
    return True


def _within(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _same(path: Path, other: Path) -> bool:
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except OSError:
        return False


def output_name(source: str, suffix: str | None) -> str:
    """Return the name of a result: that of its source, in a format that is written."""
    from napari_swin2sr.errors import OutputError
    from napari_swin2sr.formats.detect import Location, kind_of_target

    name = Location.from_user(source).name
    if suffix is None:
        try:
            kind_of_target(name)
        except OutputError:
            suffix = "tif"
        else:
            return name
    stem = name[: len(name) - len(Path(name).suffix)] if "." in name[1:] else name
    if _TWO_PART_SUFFIX.search(name):
        stem = stem[: -len(".ome")]
    return f"{stem}.{suffix.lstrip('.')}"


class DoneList:
    """What earlier runs have finished in a folder with the same settings."""

    def __init__(self, folder: Path, settings: Any) -> None:
        self._path = folder / DONE_NAME
        self._settings = json.dumps(settings, sort_keys=True, default=str)
        self._known: set[str] = set()
        if self._path.is_file():
            lines = self._path.read_text("utf-8", errors="replace").splitlines()
            self._known = set(lines)

    def _line(self, item: Item) -> str | None:
        """Return what is written of a finished file; None if only it itself can say."""
        source = Path(item.source).expanduser()
        if not source.is_file() or not item.output.is_file():
            return None
        facts = [self._settings, str(source.resolve())]
        for stat in (source.stat(), item.output.stat()):
            facts += [str(stat.st_size), str(stat.st_mtime_ns)]
        digest = hashlib.sha256("\n".join(facts).encode("utf-8", "replace"))
        return json.dumps({"output": item.output.name, "sha256": digest.hexdigest()})

    def __contains__(self, item: Item) -> bool:
        return self._line(item) in self._known

    def add(self, item: Item) -> None:
        """Note a finished file, if it does not say itself how it was made."""
        line = self._line(item)
        if line is not None and line not in self._known:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
