"""TIFF in: plain, OME, ImageJ, BigTIFF, tiled, pyramidal and GeoTIFF, lazily."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import FileError, Swin2SRError
from napari_swin2sr.formats.geo_tags import read_geo_tags, read_nodata
from napari_swin2sr.formats.tiff_array import CACHE_BYTES, TiffArray
from napari_swin2sr.formats.tiff_check import check_whole
from napari_swin2sr.formats.tiff_metadata import imagej_fields, ome_fields, range_fields
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.tiles.cache import available_memory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

_GEO_KEYS = 34735
_PALETTE, _RGB, _YCBCR = 3, 2, 6
_ALPHA = (1, 2)


def open_tiff(path: Path, *, series: int = 0, level: int = 0) -> SpatialImage:
    """Describe an image in a TIFF file; no pixel is decoded.

    Parameters
    ----------
    path : file
    series : number of the image, for files that hold several
    level : pyramid level; 0 is the full size

    Raises
    ------
    FileError
        If the file is cut off, damaged, or has no such image.
    """
    check_whole(path)
    try:
        image = _open(path, series, level)
    except (Swin2SRError, MemoryError):
        raise
    except Exception as error:
        raise FileError(
            f"{path}: not a TIFF file that can be read: {type(error).__name__}: {error}"
        ) from error
    _check_pieces(image.data)
    return image


def _open(path: Path, number: int, level: int) -> SpatialImage:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        all_series = tif.series
        if not 0 <= number < len(all_series):
            raise FileError(
                f"{path}: there is no series {number}; the file has {len(all_series)}: "
                + ", ".join(f"{k} {s.shape}" for k, s in enumerate(all_series))
            )
        series = all_series[number]
        if not 0 <= level < len(series.levels):
            raise FileError(
                f"{path}: series {number} has no level {level}; it has "
                f"{len(series.levels)}"
            )
        _check_series(path, series.levels[level])
        page = series.keyframe
        if int(page.photometric) == _PALETTE:
            raise FileError(
                f"{path}: its pixels are numbers of a colour table, which cannot be "
                "interpolated. Convert it to RGB first"
            )
        axes = _letters(series.axes, page, path)
        tags = {int(tag.code): tag.value for tag in page.tags}
        fields = _fields(tif, number, axes, tags, path)
        shape0, shape = series.levels[0].shape, series.levels[level].shape
    image = SpatialImage(
        data=TiffArray(path, number, level),
        axes=axes,
        source=str(path),
        **fields,
    )
    return coarser(image, _factors(axes, shape0, shape))


def _fields(
    tif: Any, number: int, axes: str, tags: Mapping[int, Any], path: Path
) -> dict[str, Any]:
    """Collect what the file says about its pixels."""
    fields: dict[str, Any] = range_fields(tags)
    if tif.is_ome:
        fields |= ome_fields(tif.ome_metadata, number)
    elif tif.is_imagej:
        fields |= imagej_fields(tif.imagej_metadata or {}, tags, axes)
    fields["nodata"] = read_nodata(tags)
    if _GEO_KEYS in tags:
        fields["transform"], geo = read_geo_tags(tags, path)
        fields["crs"] = geo.crs
        names = geo.band_names
        if names:
            fields["channel_names"] = tuple(
                names.get(k, "") for k in range(max(names) + 1)
            )
        fields["extra"] = {"geo": geo}
    if int(tags.get(262, 1)) == 0:
        fields["extra"] = {**fields.get("extra", {}), "photometric": "miniswhite"}
    return fields


def _letters(axes: str, page: Any, path: Path) -> str:
    """Translate tifffile's axes; what it does not know only counts planes."""
    if "S" in axes and not _is_colour(page):
        if "C" in axes:
            raise FileError(
                f"{path}: its axes {axes} have channels and samples that are no "
                "colours. Save them as one channel axis"
            )
        axes = axes.replace("S", "C")
    unknown = [letter for letter in axes if letter not in "TCZYXS"]
    free = [letter for letter in "TCZ" if letter not in axes]
    if len(unknown) > len(free):
        raise FileError(f"{path}: the meaning of its axes {axes} is unknown")
    for letter, name in zip(unknown, free[len(free) - len(unknown) :], strict=True):
        axes = axes.replace(letter, name, 1)
    return axes


def _is_colour(page: Any) -> bool:
    samples, extra = int(page.samplesperpixel), [int(e) for e in page.extrasamples]
    if int(page.photometric) not in (_RGB, _YCBCR):
        return False
    return samples == 3 or (samples == 4 and len(extra) == 1 and extra[0] in _ALPHA)


def _check_series(path: Path, series: Any) -> None:
    """Refuse a series with pages that the metadata promise but the file lacks."""
    missing = sum(page is None for page in series.pages)
    if missing:
        raise FileError(
            f"{path}: {missing} of {len(series.pages)} planes are missing: the file is "
            "cut off, or other files of the same image are not beside it"
        )
    if series.dataoffset is not None:
        end = series.dataoffset + math.prod(series.shape) * series.dtype.itemsize
        if end > path.stat().st_size:
            raise FileError(
                f"{path}: the file is cut off: an image of shape {series.shape} would "
                f"reach to byte {end}, but the file ends at {path.stat().st_size}"
            )


def _check_pieces(array: TiffArray) -> None:
    """Refuse pixels that can be decoded only in one piece larger than memory."""
    piece = math.prod(array.chunks) * array.dtype.itemsize
    if piece <= CACHE_BYTES:
        return
    free = available_memory()
    if free is not None and 2 * piece > free:
        raise FileError(
            f"{array.path}: its pixels are compressed in pieces of {piece / 1e9:.1f} "
            f"GB and {free / 1e9:.1f} GB of memory are free. Convert it to a tiled TIFF"
        )
    logger.warning(
        "%s: every piece of %.1f GB has to be decoded as a whole; a tiled TIFF would "
        "be read faster",
        *(array.path, piece / 1e9),
    )


def _factors(
    axes: str, full: tuple[int, ...], level: tuple[int, ...]
) -> dict[str, float]:
    return {
        letter: n0 / n
        for letter, n0, n in zip(axes, full, level, strict=True)
        if n0 != n
    }


def coarser(image: SpatialImage, factors: Mapping[str, float]) -> SpatialImage:
    """Return the record of a pyramid level whose pixels are `factors` times larger.

    Both levels share their outer corner, so the centre of the first pixel moves by
    half the difference of the pixel sizes.
    """
    if not factors:
        return image
    pixel_size, origin = dict(image.pixel_size), dict(image.origin)
    for axis, factor in factors.items():
        if axis in pixel_size:
            old = pixel_size[axis]
            pixel_size[axis] = old * factor
            origin[axis] = origin.get(axis, 0.0) + (factor - 1) / 2 * old
    transform = image.transform
    if transform is not None:
        a, b, c, d, e, f = transform
        fx, fy = factors.get("X", 1.0), factors.get("Y", 1.0)
        transform = (a * fx, b * fy, c, d * fx, e * fy, f)
    return dataclasses.replace(
        image, pixel_size=pixel_size, origin=origin, transform=transform
    )
