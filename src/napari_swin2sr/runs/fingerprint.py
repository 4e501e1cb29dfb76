"""What a source was when a run began: enough to notice that it is another now."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.formats.detect import is_url, local_path
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.reading import read_block
from napari_swin2sr.image.sampling import sample_places

if TYPE_CHECKING:
    from napari_swin2sr.image.record import SpatialImage


_ZARR_METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}


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
