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

_PICTURE_MAGIC = (PNG_MAGIC, JPEG_MAGIC, b"GIF87a", b"GIF89a", b"BM")
_ZIP_MAGIC = b"PK\x03\x04"
_INSTRUMENT_MAGIC = (
    b"ZISRAWFILE",  # CZI
    b"\xda\xce\xbe\x0a",  # ND2
    b"\x70\0\0\0",  # LIF
    b"OLYMPUSRAWFORMAT",  # OIR
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",  # OIB and ZVI, both OLE documents
    b"\x89HDF\r\n\x1a\n",  # IMS
)
_INSTRUMENT_SUFFIXES = (
    *(".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".vsi", ".lsm", ".stk"),  # TIFF
    *(".mrxs", ".nd2"),  # JPEG, and JPEG 2000 before 2009
)
"""What is another format by its first bytes, and says more in its maker's own way."""

_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".tf2")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
_READABLE = (
    "OME-Zarr, TIFF, GeoTIFF, PNG, JPEG, GIF, BMP, WebP, JPEG 2000 or SAFE with the "
    "extra geo, and files of microscopes with the extra instrument"
)
_WRITABLE = ".ome.zarr, .zarr, .ome.tif, .tif, .png and .jpg"


class Kind(enum.Enum):
    """A way of reading or writing."""

    ZARR = "zarr"
    TIFF = "tiff"
    RASTER = "raster"
    INSTRUMENT = "instrument"
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
    kind = _kind_of_file(head, path.name)
    if kind is not None:
        return kind
    if head.startswith(b"<VRTDataset"):
        raise FileError(
            f"{path}: a VRT only names the files that hold its pixels, from anywhere. "
            f"Make one file of it first: gdal_translate {path.name} {path.stem}.tif"
        )
    what = "is empty" if not head else f"begins with {head[:8]!r}"
    raise FileError(f"{path}: {what}, which is no image known here: {_READABLE}")


def _kind_of_file(head: bytes, name: str) -> Kind | None:
    """Return the kind of a file that begins with `head`, or None."""
    is_image = head.startswith((*TIFF_MAGIC, JPEG_MAGIC, *JP2_MAGIC))
    if is_image and name.lower().endswith(_INSTRUMENT_SUFFIXES):
        return Kind.INSTRUMENT
    if head.startswith(TIFF_MAGIC):
        return Kind.TIFF
    if head.startswith(_PICTURE_MAGIC) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP"):
        return Kind.PICTURE
    if head.startswith(JP2_MAGIC) or name.startswith("MTD_MSIL"):
        return Kind.RASTER
    if head.startswith(_INSTRUMENT_MAGIC):
        return Kind.INSTRUMENT
    is_zip = head.startswith(_ZIP_MAGIC) and name.lower().endswith(".zarr.zip")
    return Kind.ZARR if is_zip else None


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
