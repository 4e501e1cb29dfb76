"""TIFF in: plain, OME, ImageJ, BigTIFF, tiled, pyramidal and GeoTIFF, lazily."""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import FileError, Swin2SRError
from napari_swin2sr.formats.geo_tags import read_geo_tags, read_nodata
from napari_swin2sr.formats.tiff_array import CACHE_BYTES, TiffArray, tifffile_logs
from napari_swin2sr.formats.units import OME_SIZES, unit_name
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.tiles.cache import available_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

_GEO_KEYS = 34735
_X_RESOLUTION, _Y_RESOLUTION = 282, 283
_SMALLEST, _LARGEST = 340, 341
_PALETTE, _RGB, _YCBCR = 3, 2, 6
_ALPHA = (1, 2)

_DAMAGE = re.compile(
    r"page offset|offset to|corrupted|circular reference|incompletely written|zeroed"
    r"|Tag (2[5-9]\d|3[0-3]\d|339|33550|33922|34264|3473[567]|4211[23]|50839) .*offset"
)
"""What tifffile logs about files that are not whole; other lines are harmless."""


def open_tiff(path: Path, *, series: int = 0, level: int = 0) -> SpatialImage:
    """Describe an image in a TIFF file.

    A file that is cut off or damaged often still opens, with fewer pages and missing
    rows; it is refused, as after hours of work the result would be wrong or absent.
    """
    with tifffile_logs() as lines:
        try:
            image = _open(path, series, level)
        except (Swin2SRError, MemoryError):
            raise
        except Exception as error:
            raise FileError(
                f"{path}: not a TIFF file that can be read, or cut off: "
                f"{type(error).__name__}: {error}"
            ) from error
        for line in filter(_DAMAGE.search, lines):
            raise FileError(f"{path}: the file is damaged or cut off: {line}")
        _check_pieces(image.data)
    return image


def _open(path: Path, number: int, level: int) -> SpatialImage:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        for page in _pages(tif.pages):
            _check_page(path, page)
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
                f"{path}: its pixels are numbers of a color table, which cannot be "
                "interpolated. Convert it to RGB first"
            )
        axes = _letters(series.axes, page, path)
        tags = {int(tag.code): tag.value for tag in page.tags}
        fields = _fields(tif, number, axes, tags, path)
        shape0, shape = series.levels[0].shape, series.levels[level].shape
    image = SpatialImage(
        data=TiffArray(path, number, level), axes=axes, source=str(path), **fields
    )
    sides = zip(axes, shape0, shape, strict=True)
    factors = {letter: n / n0 for letter, n0, n in sides if n0 != n}
    return image.scaled(image.data, factors)


# -- is the file whole? ---------------------------------------------------------------


def _pages(pages: Any) -> Iterator[Any]:
    """Go through all pages and their sub-directories."""
    for page in pages:
        yield page
        if page.subifds:
            yield from _pages(page.pages)


def _check_page(path: Path, page: Any) -> None:
    """Refuse strips or tiles that lie outside the file."""
    ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
    last, size = max(ends, default=0), path.stat().st_size
    if last > size:
        raise FileError(
            f"{path}: the file is cut off: image data of page {page.index} reaches to "
            f"byte {last}, but the file ends at {size}. Copy it again"
        )


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


# -- what the file says about its pixels ----------------------------------------------


def _fields(
    tif: Any, number: int, axes: str, tags: Mapping[int, Any], path: Path
) -> dict[str, Any]:
    """Collect what the file says about its pixels."""
    fields: dict[str, Any] = _range_fields(tags)
    if tif.is_ome:
        fields |= _ome_fields(tif.ome_metadata, number)
    elif tif.is_imagej:
        fields |= _imagej_fields(tif.imagej_metadata or {}, tags, axes)
    fields["nodata"] = read_nodata(tags)
    if _GEO_KEYS in tags:
        fields["transform"], geo = read_geo_tags(tags, path)
        fields["crs"] = geo.crs
        names = geo.band_names
        if names:
            fields["channel_names"] = tuple(
                names.get(k, "") for k in range(max(names) + 1)
            )
        fields["geo_tags"] = geo
    fields["min_is_white"] = int(tags.get(262, 1)) == 0
    return fields


def _letters(axes: str, page: Any, path: Path) -> str:
    """Translate tifffile's axes; what it does not know only counts planes."""
    if "S" in axes and not _is_color(page):
        if "C" in axes:
            raise FileError(
                f"{path}: its axes {axes} have channels and samples that are no "
                "colors. Save them as one channel axis"
            )
        axes = axes.replace("S", "C")
    unknown = [letter for letter in axes if letter not in "TCZYXS"]
    free = [letter for letter in "TCZ" if letter not in axes]
    if len(unknown) > len(free):
        raise FileError(f"{path}: the meaning of its axes {axes} is unknown")
    for letter, name in zip(unknown, free[len(free) - len(unknown) :], strict=True):
        axes = axes.replace(letter, name, 1)
    return axes


def _is_color(page: Any) -> bool:
    samples, extra = int(page.samplesperpixel), [int(e) for e in page.extrasamples]
    if int(page.photometric) not in (_RGB, _YCBCR):
        return False
    return samples == 3 or (samples == 4 and len(extra) == 1 and extra[0] in _ALPHA)


def _ome_fields(xml: str | None, series: int) -> dict[str, Any]:
    """Return pixel sizes, units, names and colors of the image number `series`."""
    import tifffile

    images = _as_list(tifffile.xml2dict(xml or "<OME/>").get("OME", {}), "Image")
    if series >= len(images):
        return {}
    pixels = images[series].get("Pixels", {})
    pixel_size, unit = {}, {}
    for axis, key in OME_SIZES.items():
        size, usual = pixels.get(key), "s" if axis == "T" else "µm"
        if isinstance(size, (int, float)) and size > 0 and math.isfinite(size):
            pixel_size[axis] = float(size)
            name = unit_name(str(pixels.get(key + "Unit", usual)))
            if name:
                unit[axis] = name
    channels = _as_list(pixels, "Channel")
    names = tuple(str(c.get("Name", "")) for c in channels)
    colors = tuple(
        f"{int(c['Color']) & 0xFFFFFFFF:08X}"[:6] if "Color" in c else ""
        for c in channels
    )
    return {
        "pixel_size": pixel_size,
        "unit": unit,
        "channel_names": names if any(names) else (),
        "channel_colors": colors if any(colors) else (),
    }


def _imagej_fields(
    metadata: Mapping[str, Any], tags: Mapping[int, Any], axes: str
) -> dict[str, Any]:
    """Return pixel sizes, units, colors and display ranges of an ImageJ file."""
    name = unit_name(str(metadata.get("unit", "")))
    pixel_size, unit = {}, {}
    if name:
        for axis, tag in (("X", _X_RESOLUTION), ("Y", _Y_RESOLUTION)):
            per_unit = _ratio(tags.get(tag))
            if per_unit:
                pixel_size[axis], unit[axis] = 1 / per_unit, name
        if "spacing" in metadata and float(metadata["spacing"]) > 0:
            pixel_size["Z"], unit["Z"] = float(metadata["spacing"]), name
    interval = float(metadata.get("finterval", 0) or 0)
    if interval > 0 and "T" in axes:
        pixel_size["T"], unit["T"] = interval, "second"
    fields: dict[str, Any] = {"pixel_size": pixel_size, "unit": unit}
    luts = metadata.get("LUTs") or []
    if luts and "S" not in axes:
        fields["channel_colors"] = tuple(
            "".join(f"{int(component[-1]):02X}" for component in lut) for lut in luts
        )
    ranges = metadata.get("Ranges") or ()
    if ranges:
        pairs = zip(*[iter(map(float, ranges))] * 2, strict=False)
        fields["value_range"] = tuple(pairs)
    return fields


def _range_fields(tags: Mapping[int, Any]) -> dict[str, Any]:
    """Return the range that the samples use, where a file declares it."""
    low, high = tags.get(_SMALLEST), tags.get(_LARGEST)
    if low is None or high is None:
        return {}
    lows = low if isinstance(low, tuple) else (low,)
    highs = high if isinstance(high, tuple) else (high,)
    pairs = tuple((float(a), float(b)) for a, b in zip(lows, highs, strict=False))
    return {"value_range": pairs} if all(a < b for a, b in pairs) else {}


def _ratio(value: Any) -> float:
    if not isinstance(value, tuple) or len(value) != 2 or 0 in value:
        return 0.0
    return float(value[0]) / float(value[1])


def _as_list(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return children of an XML element: none, one or several of the same name."""
    found = parent.get(key, [])
    found = found if isinstance(found, list) else [found]
    return [child for child in found if isinstance(child, dict)]
