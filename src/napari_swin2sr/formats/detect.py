"""Which format a path or URL has, and whether a result may be written there."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_swin2sr.errors import FileError, OutputError

if TYPE_CHECKING:
    import os

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
JP2_MAGIC = (b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51")

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


@dataclass(frozen=True, slots=True)
class Location:
    """Where an image is or shall be: a path with ~ replaced, or a URL.

    Attributes
    ----------
    place : what libraries that take both open
    """

    place: Path | str

    @classmethod
    def from_user(cls, place: str | os.PathLike[str] | Location) -> Location:
        """Tell paths and URLs (s3://..., https://...) apart."""
        if isinstance(place, Location):
            return place
        return cls(str(place) if is_url(place) else local_path(place))

    def __str__(self) -> str:
        return str(self.place)

    def __truediv__(self, name: str) -> Location:
        if isinstance(self.place, Path):
            return Location(self.place / name)
        return Location(f"{self.place.rstrip('/')}/{name}")

    @property
    def is_url(self) -> bool:
        """Whether it is no path of this machine."""
        return isinstance(self.place, str)

    @property
    def path(self) -> Path:
        """The path; only asked for where a URL has been refused before."""
        assert isinstance(self.place, Path), f"{self.place} is a URL"
        return self.place

    @property
    def name(self) -> str:
        """The last part, of URLs without query."""
        return re.split(r"[/\\]", str(self.place).split("?")[0].rstrip("/\\"))[-1]


def is_url(source: str | os.PathLike[str]) -> bool:
    """Tell whether `source` is something like s3://..., https://...; not file://..."""
    return isinstance(source, str) and bool(
        re.match(r"(?!file:)[a-z][a-z0-9+.-]+:/", source)
    )


def local_path(source: str | os.PathLike[str]) -> Path:
    """Return a path with ~ replaced, or that of a file URL."""
    if isinstance(source, str) and source.startswith("file:/"):
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        return Path(url2pathname(urlsplit(source).path))
    return Path(source).expanduser()


def kind_of(source: str | os.PathLike[str] | Location) -> Kind:
    """Find out what a file or folder holds, from its content rather than its name.

    Raises
    ------
    FileError
        If there is nothing, or nothing that can be read.
    """
    location = Location.from_user(source)
    if location.is_url:
        is_raster = location.name.lower().endswith((*_TIFF_SUFFIXES, ".jp2"))
        return Kind.RASTER if is_raster else Kind.ZARR
    path = location.path
    if not path.exists():
        raise FileError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return _kind_of_folder(path)
    if not path.is_file():
        raise FileError(f"{path}: is neither a file nor a folder")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(TIFF_MAGIC):
        return Kind.TIFF
    if head.startswith((PNG_MAGIC, JPEG_MAGIC)):
        return Kind.PICTURE
    if head.startswith(JP2_MAGIC) or path.name.startswith("MTD_MSIL"):
        return Kind.RASTER
    what = "is empty" if not head else f"begins with {head[:8]!r}"
    raise FileError(f"{path}: {what}, which is no image known here: {_READABLE}")


def _kind_of_folder(path: Path) -> Kind:
    if any((path / name).exists() for name in _ZARR_FILES):
        return Kind.ZARR
    if path.suffix.upper() == ".SAFE" or any(path.glob("MTD_MSIL*.xml")):
        return Kind.RASTER
    raise FileError(
        f"{path}: this folder is neither a Zarr store (no zarr.json, .zgroup or "
        ".zarray in it) nor a SAFE product"
    )


def kind_of_target(target: str | os.PathLike[str] | Location) -> Kind:
    """Return what a result at `target` will be, from its suffix.

    Raises
    ------
    OutputError
        If the suffix is unknown.
    """
    location = Location.from_user(target)
    name = str(location).rstrip("/\\").lower()
    if name.endswith(".zarr"):
        return Kind.ZARR
    if location.is_url:
        raise OutputError(f"{target}: only OME-Zarr (.ome.zarr) is written to URLs")
    if name.endswith(_TIFF_SUFFIXES):
        return Kind.TIFF
    if name.endswith(_PICTURE_SUFFIXES):
        return Kind.PICTURE
    raise OutputError(
        f"{target}: the suffix {Path(name).suffix or '(none)'!r} is no format that can "
        f"be written: {_WRITABLE}"
    )


def check_place(
    source: str | os.PathLike[str] | Location, target: str | os.PathLike[str] | Location
) -> None:
    """Refuse a result that would destroy its own source, or has nowhere to go.

    Raises
    ------
    OutputError
        If the two are the same file, one lies inside the other, or the folder of the
        target is missing.
    """
    old, new = Location.from_user(source), Location.from_user(target)
    if old.is_url or new.is_url:
        if str(old).rstrip("/") == str(new).rstrip("/"):
            raise OutputError(f"{target}: the result would replace its own source")
        return
    here, there = old.path.resolve(), new.path.resolve()
    if _same_file(here, there):
        raise OutputError(f"{target}: the result would replace its own source")
    if any(_same_file(here, p) for p in there.parents):
        raise OutputError(
            f"{target}: the result would lie inside its own source {source}"
        )
    if any(_same_file(there, p) for p in here.parents):
        raise OutputError(f"{target}: the source {source} lies inside this folder")
    if not there.parent.is_dir():
        raise OutputError(f"{target}: the folder {there.parent} does not exist")


def _same_file(a: Path, b: Path) -> bool:
    try:
        return a == b or a.samefile(b)
    except OSError:
        return False
