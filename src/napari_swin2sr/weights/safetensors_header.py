"""The header of a safetensors file, read more strictly than the format asks."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from napari_swin2sr.weights.state_dict import Shape

MAX_HEADER = 1 << 20
"""Bytes; that of the largest Swin2SR has a fifth of it."""

_ITEM_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Types that may occur, with bytes per number."""

_ADVICE = "Delete it and download it again, or convert it anew."


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself.

    Attributes
    ----------
    shapes : shape of each tensor
    metadata : free texts
    """

    shapes: Mapping[str, Shape]
    metadata: Mapping[str, str]


def read_header(path: Path, data: bytes) -> Header:
    """Parse and check the header; the tensors must fill the file exactly.

    Raises
    ------
    WeightsError
        If the file is damaged or ambiguous.
    """
    if len(data) < 8:
        raise WeightsError(path, f"it is truncated: only {len(data)} bytes", _ADVICE)
    (size,) = struct.unpack("<Q", data[:8])
    if size > MAX_HEADER:
        reason = f"its header claims {size} bytes; at most {MAX_HEADER} are allowed"
        raise WeightsError(path, reason, _ADVICE)
    if len(data) < 8 + size:
        reason = f"it is truncated: {len(data)} bytes, and the header needs {8 + size}"
        raise WeightsError(path, reason, _ADVICE)
    try:
        content = json.loads(
            data[8 : 8 + size].decode("utf-8"), object_pairs_hook=_without_duplicates
        )
        metadata = _metadata(content)
        spans = {name: _span(name, entry) for name, entry in content.items()}
        _check_layout([span for _, span in spans.values()], len(data) - 8 - size)
    except (ValueError, RecursionError) as error:
        why = "too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise WeightsError(path, f"its header is damaged: {why}", _ADVICE) from None
    return Header({name: shape for name, (shape, _) in spans.items()}, metadata)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what most readers accept silently: the last of two values wins."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} occurs twice")
    return found


def _metadata(content: Any) -> dict[str, str]:
    """Take the free texts out of the header."""
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} instead of named tensors")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise ValueError("__metadata__ holds something else than texts")
    return metadata


def _span(name: str, entry: Any) -> tuple[Shape, tuple[int, int]]:
    """Return shape and byte range of a tensor."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZES:
        allowed = ", ".join(_ITEM_SIZES)
        raise ValueError(f"{name!r} has the type {dtype!r}; allowed are {allowed}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r} has a shape or offsets that are no whole numbers")
    begin, end = offsets
    if len(shape) > 8 or math.prod(shape) * _ITEM_SIZES[dtype] != end - begin:
        raise ValueError(f"{name!r} does not have the size of its shape {shape[:8]}")
    return tuple(shape), (begin, end)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 48 for value in values
    )


def _check_layout(spans: list[tuple[int, int]], available: int) -> None:
    """Refuse holes, overlaps, and bytes too few or too many."""
    spans = sorted(spans)
    needed = max((end for _, end in spans), default=0)
    if needed > available:
        raise ValueError(f"truncated: {available} of {needed} bytes of tensors")
    if needed < available:
        raise ValueError(f"{available - needed} bytes follow the last tensor")
    if spans and spans[0][0] != 0:
        raise ValueError(f"{spans[0][0]} bytes before the first tensor")
    for (_, end), (begin, _) in pairwise(spans):
        if begin != end:
            raise ValueError(f"a hole or an overlap at byte {min(begin, end)}")
