"""Flags made from the lists of options, and values of options from flags.

No default, help text or check is written here: all come from the fields of
`UpscaleOptions`, `RunOptions` and `TrainOptions`.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


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


def parse_shares(text: str) -> dict[str, float]:
    """Return NAME=NUMBER,NAME=NUMBER,... as shares of the whole."""
    try:
        pairs = [part.rsplit("=", 1) for part in text.split(",")]
        found = {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form NAME=NUMBER,NAME=NUMBER"
        ) from None
    total = sum(found.values())
    if min(found.values()) < 0 or not 0 < total < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: shares must be 0 or more, and not all 0"
        )
    return {name: value / total for name, value in found.items()}


def parse_pair(text: str) -> tuple[float, float]:
    """Return LOW,HIGH as two numbers."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH") from None
    return low, high


def parse_integers(text: str) -> tuple[int, ...]:
    """Return N,N,... as whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers N,N,..."
        ) from None


def parse_trust(text: str) -> float:
    """Return a share of the pixels."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no share of the pixels, such as 0.9. A file does not go "
            "directly behind it: put it behind the files, or write --trust=0.9"
        ) from None


_PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "str": (str, "TEXT"),
    "int": (int, "N"),
    "float": (float, "X"),
    "Halo": (parse_halo, "N|exact"),
    "RangeSpec": (parse_range, "LOW,HIGH"),
    "bool | float": (parse_trust, "LEVEL"),
    "tuple[int, int] | str": (str, "I/N"),
    "tuple[int, ...]": (parse_integers, "N,N,..."),
    "tuple[float, float]": (parse_pair, "LOW,HIGH"),
    "Mapping[str, float]": (parse_shares, "NAME=X,..."),
}
"""Annotation of an option -> how its text is read, what stands for it in the help."""


def add_options(
    parser: argparse.ArgumentParser,
    options: Any,
    title: str = "options",
    names: Iterable[str] = (),
) -> None:
    """Add one flag per field of a class of options, or only for the fields `names`."""
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        if names and field.name not in names:
            continue
        heading = field.metadata.get("group", title)
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        flag = _add_flag(groups[heading], field)
        flags = parser.get_default("flags") or {}  # for messages, see `console`
        parser.set_defaults(flags={**flags, field.name: flag})


def _add_flag(group: Any, field: dataclasses.Field[Any]) -> str:
    flag: str = field.metadata.get("flag", "--" + field.name.replace("_", "-"))
    unit = f", in {field.metadata['unit']}" if field.metadata["unit"] else ""
    text = field.metadata["help"] + unit + _shown_default(field)
    # Without a value the class of options chooses, so the parser has no defaults.
    common: dict[str, Any] = {
        "dest": field.name,
        "default": argparse.SUPPRESS,
        "help": text.replace("%", "%%"),
    }
    annotation = str(field.type).removesuffix(" | None")
    if annotation == "bool":
        negatable = argparse.BooleanOptionalAction
        action = "store_true" if field.default is False else negatable
        group.add_argument(flag, action=action, **common)
        return flag
    read, metavar = _PARSERS[annotation]
    if field.metadata["choices"]:  # checked by the class, which may allow more
        metavar = "|".join(field.metadata["choices"])
    if annotation.startswith("bool |"):  # the flag alone is True
        common |= {"nargs": "?", "const": True}
    group.add_argument(flag, type=read, metavar=metavar, **common)
    return flag


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown_default(field: dataclasses.Field[Any]) -> str:
    value = _default(field)
    if value is None or isinstance(value, bool) or value == {}:
        return ""
    if isinstance(value, dict):
        value = ",".join(f"{name}={share:g}" for name, share in value.items())
    elif isinstance(value, tuple):
        value = ",".join(f"{number:g}" for number in value)
    return f" [{value}]"


def chosen(
    args: argparse.Namespace, options: Any, names: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the value of every field of a class of options, or of `names`.

    Wrong values are refused here, before anything heavy is imported.
    """
    values = {
        field.name: getattr(args, field.name, _default(field))
        for field in dataclasses.fields(options)
        if not names or field.name in names
    }
    options(**values)
    return values


def add_output_flags(parser: Any, *, progress: str = "") -> None:
    """Add `--json` and, where progress is shown, `--quiet`."""
    if progress:
        parser.add_argument("--quiet", action="store_true", help=f"no {progress}")
    parser.add_argument(
        "--json", action="store_true", help="one JSON record per line on stdout"
    )
