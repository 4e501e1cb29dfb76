"""What must be the same for the tiles of two runs to fit together."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.formats.detect import is_url, local_path
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.sampling import sample_places
from napari_swin2sr.image.sources import read_block
from napari_swin2sr.upscale import provenance

if TYPE_CHECKING:
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.tiles.lazy import LazyUpscaled

_FORMAT = 1
_ZARR_METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}


def fingerprint_of(
    source: str | os.PathLike[str], image: SpatialImage, lazy: LazyUpscaled
) -> dict[str, Any]:
    """Return what must be the same for going on with an unfinished result, as JSON."""
    made: dict[str, Any] = as_json(
        {
            "format": _FORMAT,
            "source": identity_of(source, image),
            **provenance(lazy),
            "window": lazy.plan.multiple_of,
            "axes": lazy.axes,
            "shape": lazy.shape,
            "dtype": str(lazy.dtype),
            "nodata": lazy.nodata,
        }
    )
    return made


def identity_of(source: str | os.PathLike[str], image: SpatialImage) -> dict[str, Any]:
    """Return facts that change when the source's pixels are changed.

    The name without folders, so that a source may be mounted elsewhere; of files the
    size and the time of the last change; of Zarr arrays their metadata and, on a
    local disk, number, bytes and the last change of their objects.
    """
    name = str(source).rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    facts: dict[str, Any] = {"name": name}
    metadata = getattr(image.data, "metadata", None)
    if metadata is not None and hasattr(metadata, "to_dict"):
        text = json.dumps(metadata.to_dict(), sort_keys=True, default=str)
        facts["metadata"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        root = getattr(image.data.store, "root", None)
        if isinstance(root, Path):
            facts |= _folder(root / image.data.path)
    elif not is_url(source):
        path = local_path(source)
        facts |= _folder(path) if path.is_dir() else _file(path)
    return facts


def _file(path: Path) -> dict[str, int]:
    facts = path.stat()
    return {"bytes": facts.st_size, "changed": facts.st_mtime_ns}


def _folder(path: Path) -> dict[str, int]:
    """Return number, bytes and last change of the files in a folder.

    Metadata of Zarr do not count as files, their bytes and changes do.
    """
    n = n_bytes = changed = 0
    for folder, _, names in os.walk(path):
        for name in names:
            facts = Path(folder, name).stat()
            n += name not in _ZARR_METADATA
            n_bytes += facts.st_size
            changed = max(changed, facts.st_mtime_ns)
    return {"files": n, "bytes": n_bytes, "changed": changed}


def sample_hash(image: SpatialImage) -> str:
    """Return a hash of a bounded sample of pixels, for sources that are no files."""
    layout = resolve_axes(image.shape, image.axes)
    found = hashlib.sha256(f"{image.shape} {image.axes} {image.data.dtype}".encode())
    for channel in range(min(layout.n_channels, 8)):
        for place in sample_places(layout, channel)[0][:4]:
            index = layout.plane_index(place.stack_index, place.box)
            block = read_block(image.data, index)
            found.update(np.ascontiguousarray(block).tobytes())
    return found.hexdigest()[:16]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return what two fingerprints disagree on, as "name: theirs, now ours".

    Numbers that differ by rounding only, as between processors, agree.
    """
    keys = [*ours, *(key for key in theirs if key not in ours)]
    return [
        f"{key}: {_short(theirs.get(key))} then, {_short(ours.get(key))} now"
        for key in keys
        if not _same(ours.get(key), theirs.get(key))
    ]


def as_json(value: Any) -> Any:
    """Return a value as JSON gives it back: lists for tuples, text for NaN."""
    if isinstance(value, Mapping):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        try:
            return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-300)
        except TypeError:
            return False
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 80 else text[:77] + "..."
