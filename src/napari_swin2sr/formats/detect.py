"""Which format a path or URL has, and whether a result may be written there."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import TYPE_CHECKING

from napari_swin2sr.errors import FileError, OutputError
from napari_swin2sr.formats.png_jpeg import JPEG_MAGIC, PNG_MAGIC
from napari_swin2sr.formats.tiff_check import is_tiff

if TYPE_CHECKING:
    import os

_JP2_MAGIC = (b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51")
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".tf2")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
_READABLE = (
    "OME-Zarr, TIFF, GeoTIFF, PNG, JPEG, and JPEG 2000 or SAFE with the extra geo"
)
_WRITABLE = ".ome.zarr, .zarr, .ome.tif, .tif, .png and .jpg"


class Kind(enum.Enum):
    """A way of reading or writing."""

    ZARR = "zarr"
    TIFF = "tiff"
    RASTER = "raster"
    PICTURE = "picture"


def is_url(source: str | os.PathLike[str]) -> bool:
    """Tell whether `source` is something like s3://... or https://..."""
    return (
        isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]+:/", source) is not None
    )


def local_path(source: str | os.PathLike[str]) -> Path:
    """Return a path with ~ replaced."""
    return Path(source).expanduser()


def kind_of(source: str | os.PathLike[str]) -> Kind:
    """Find out what a file or folder holds, from its content rather than its name.

    Raises
    ------
    FileError
        If there is nothing, or nothing that can be read.
    """
    if is_url(source):
        return _kind_of_url(str(source))
    path = local_path(source)
    if not path.exists():
        raise FileError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _kind_of_folder(path)
    if not path.is_file():
        raise FileError(f"{path}: is neither a file nor a folder")
    with path.open("rb") as file:
        head = file.read(16)
    if is_tiff(head):
        return Kind.TIFF
    if head.startswith((PNG_MAGIC, JPEG_MAGIC)):
        return Kind.PICTURE
    if head.startswith(_JP2_MAGIC) or path.name.startswith("MTD_MSIL"):
        return Kind.RASTER
    what = "is empty" if not head else f"begins with {head[:8]!r}"
    raise FileError(f"{path}: {what}, which is no image known here: {_READABLE}")


def kind_of_target(target: str | os.PathLike[str]) -> Kind:
    """Return what a result at `target` will be, from its suffix.

    Raises
    ------
    OutputError
        If the suffix is unknown.
    """
    name = str(target).rstrip("/\\").lower()
    if name.endswith(".zarr"):
        return Kind.ZARR
    if is_url(target):
        raise OutputError(f"{target}: only OME-Zarr (.ome.zarr) is written to URLs")
    if name.endswith(_TIFF_SUFFIXES):
        return Kind.TIFF
    if name.endswith(_PICTURE_SUFFIXES):
        return Kind.PICTURE
    raise OutputError(
        f"{target}: the suffix {Path(name).suffix or '(none)'!r} is no format that can "
        f"be written: {_WRITABLE}"
    )


def check_place(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Refuse a result that would destroy its own source, or has nowhere to go.

    Raises
    ------
    OutputError
        If the two are the same file, one lies inside the other, or the folder of the
        target is missing.
    """
    if is_url(source) or is_url(target):
        if str(source).rstrip("/") == str(target).rstrip("/"):
            raise OutputError(f"{target}: the result would replace its own source")
        return
    here, there = local_path(source).resolve(), local_path(target).resolve()
    if here == there or _same_file(here, there):
        raise OutputError(f"{target}: the result would replace its own source")
    if here in there.parents or any(_same_file(here, p) for p in there.parents):
        raise OutputError(
            f"{target}: the result would lie inside its own source {source}"
        )
    if there in here.parents or any(_same_file(there, p) for p in here.parents):
        raise OutputError(f"{target}: the source {source} lies inside this folder")
    if not there.parent.is_dir():
        raise OutputError(f"{target}: the folder {there.parent} does not exist")


def _same_file(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False


def _kind_of_url(url: str) -> Kind:
    name = url.split("?")[0].rstrip("/").lower()
    if name.endswith((*_TIFF_SUFFIXES, ".jp2")):
        return Kind.RASTER
    return Kind.ZARR


def _kind_of_folder(path: Path) -> Kind:
    if any((path / name).exists() for name in _ZARR_FILES):
        return Kind.ZARR
    if path.suffix.upper() == ".SAFE" or any(path.glob("MTD_MSIL*.xml")):
        return Kind.RASTER
    raise FileError(
        f"{path}: this folder is neither a Zarr store (no zarr.json, .zgroup or "
        ".zarray in it) nor a SAFE product"
    )
