"""TIFF in: plain, OME, ImageJ, BigTIFF, tiled, pyramidal and GeoTIFF, lazily."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import FileError, Swin2SRError
from napari_swin2sr.formats import color
from napari_swin2sr.formats.color import ConvertedArray, OrientedArray, WithMask
from napari_swin2sr.formats.geo_tags import (
    read_geo_tags,
    read_nodata,
    read_sidecar,
    read_world_file,
)
from napari_swin2sr.formats.picture_tags import tags_of_tiff
from napari_swin2sr.formats.tiff_array import CACHE_BYTES, TiffArray, tifffile_logs
from napari_swin2sr.formats.units import OME_SIZES, in_named_unit
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.tiles.cache import available_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

_GEO_KEYS = 34735
_GEO = {33550, 33922, 34264, _GEO_KEYS, 42112}
_ORIENTATION, _INK_SET, _PROFILE = 274, 332, 34675
_LUMA, _BLACK_WHITE = 529, 532
_X_RESOLUTION, _Y_RESOLUTION = 282, 283
_SMALLEST, _LARGEST = 340, 341
_WHITE_IS_ZERO, _GRAY, _RGB, _PALETTE = 0, 1, 2, 3
_INKS, _YCBCR, _CIE_LAB, _ICC_LAB = 5, 6, 8, 9
_N_COLORS = {_RGB: 3, _INKS: 4, _YCBCR: 3, _CIE_LAB: 3, _ICC_LAB: 3}
"""Photometric interpretation -> samples of a color; 1 for all others."""
_REFUSED = {10: "ITU L*a*b*", 32803: "a raw sensor mosaic"}
_REFUSED |= dict.fromkeys((32844, 32845), "logarithmic luminance (LogLuv)")
_PREMULTIPLIED, _STRAIGHT = 1, 2
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""Compressions that keep YCbCr as it is; the others give RGB when they are decoded."""

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
            array = image.data
            while not isinstance(array, TiffArray):
                array = array.source
            _check_pieces(array)
            image.data[(slice(0, 1),) * image.data.ndim]  # can it be decoded?
        except (Swin2SRError, MemoryError):
            raise
        except Exception as error:
            raise FileError(
                f"{path}: not a TIFF file that can be read, or cut off: "
                f"{type(error).__name__}: {error}"
            ) from error
        for line in filter(_DAMAGE.search, lines):
            raise FileError(f"{path}: the file is damaged or cut off: {line}")
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
        axes = _letters(series.axes, page, path)
        tags = {int(tag.code): tag.value for tag in page.tags}
        fields = _fields(tif, number, axes, tags, path)
        shape0, shape = series.levels[0].shape, series.levels[level].shape
        masks = [k for k, other in enumerate(all_series) if other.keyframe.is_mask]
    image = SpatialImage(
        data=TiffArray(path, number, level), axes=axes, source=str(path), **fields
    )
    sides = zip(axes, shape0, shape, strict=True)
    factors = {letter: n / n0 for letter, n0, n in sides if n0 != n}
    image = _as_color(image.scaled(image.data, factors), page, tags)
    image = _with_mask(image, path, masks)
    return _upright(image, int(tags.get(_ORIENTATION, 1)))


# -- is the file whole? ---------------------------------------------------------------


def _pages(pages: Any) -> Iterator[Any]:
    """Go through all pages and their sub-directories."""
    for page in pages:
        yield page
        if page.subifds:
            yield from _pages(page.pages)


def _check_page(path: Path, page: Any) -> None:
    """Refuse strips or tiles that lie outside the file."""
    n = math.prod(page.chunked)
    if min(len(page.dataoffsets), len(page.databytecounts)) < n:
        raise FileError(
            f"{path}: damaged or cut off: an image of shape {page.shape} has {n} "
            f"strips or tiles, but the file lists {len(page.dataoffsets)}"
        )
    n_bytes, stored = page.size * page.bitspersample // 8, sum(page.databytecounts)
    is_sparse = 0 in page.databytecounts  # pieces left out on purpose
    is_plain = page.compression == 1 and page.photometric != _YCBCR
    if is_plain and not is_sparse and stored < n_bytes:
        raise FileError(
            f"{path}: damaged or cut off: an image of shape {page.shape} needs "
            f"{n_bytes} bytes, but its strips or tiles hold fewer bytes: {stored}"
        )
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
    fields: dict[str, Any] = {"channel_names": (), **_range_fields(tags)}
    if tif.is_ome:
        fields |= _ome_fields(tif.ome_metadata, number)
    elif tif.is_imagej:
        fields |= _imagej_fields(tif.imagej_metadata or {}, tags, axes)
    fields["nodata"] = read_nodata(tags)
    if _GEO_KEYS in tags or (_GEO & tags.keys() and not (tif.is_ome or tif.is_imagej)):
        fields["transform"], geo = read_geo_tags(tags, path)
        fields["crs"] = geo.crs
        names = geo.band_names
        if names:
            fields["channel_names"] = tuple(
                names.get(k, "") for k in range(max(names) + 1)
            )
        fields["geo_tags"] = geo
    beside = read_sidecar(path)
    if fields.get("geo_tags") is not None and fields["geo_tags"].keys:
        beside.pop("crs", None)  # the file's own are complete
    elif "crs" in beside:
        fields["geo_tags"] = None
    for name, value in beside.items():
        fields[name] = fields.get(name) or value
    if fields.get("transform") is None:
        fields["transform"] = read_world_file(path)
    if int(tags.get(262, 1)) == _RGB and "C" in axes and not fields["channel_names"]:
        fields["channel_names"] = ("red", "green", "blue")
    fields["min_is_white"] = int(tags.get(262, 1)) == _WHITE_IS_ZERO
    fields["icc_profile"] = bytes(tags.get(_PROFILE) or b"") or None
    has_own_text = tif.is_ome or tif.is_imagej or tif.is_shaped
    fields["picture_tags"] = tags_of_tiff(tags, has_own_text=bool(has_own_text))
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


def _with_mask(image: SpatialImage, path: Path, masks: list[int]) -> SpatialImage:
    """Apply GDAL's mask of valid pixels, in the file or in a .msk beside it."""
    beside = path.with_name(path.name + ".msk")
    if masks:
        mask = TiffArray(path, masks[0])
    elif beside.is_file():
        mask = TiffArray(beside)
    else:
        return image
    kind, plane = (
        image.data.dtype.kind,
        tuple(image.shape[image.axes.index(a)] for a in "YX"),
    )
    value = math.nan if kind == "f" and image.nodata is None else image.nodata
    to_alpha = value is None and kind == "u" and image.axes.endswith("S")
    if mask.shape != plane or not (to_alpha or value is not None):
        why = (
            "the image has no value for missing pixels (gdal_translate -a_nodata)"
            if mask.shape == plane
            else f"its shape is {mask.shape}, that of the image {plane}"
        )
        logger.warning(
            "%s: its mask of valid pixels (%s) is not read: %s",
            path,
            mask.path.name,
            why,
        )
        return image
    if to_alpha and image.shape[-1] != 3:
        return image  # it has alpha
    data = WithMask(image.data, mask, image.axes, value)
    return dataclasses.replace(image, data=data)


# -- what its samples mean ------------------------------------------------------------


def _alpha_of(page: Any) -> int:
    """Return the kind of the last sample if it is alpha and there is no other, or 0."""
    extra = [int(e) for e in page.extrasamples]
    n_colors = _N_COLORS.get(int(page.photometric), 1)
    is_alpha = int(page.samplesperpixel) == n_colors + 1 and len(extra) == 1
    return extra[0] if is_alpha and extra[0] in (_PREMULTIPLIED, _STRAIGHT) else 0


def _is_color(page: Any) -> bool:
    """Tell whether the samples of a pixel are one color, perhaps with alpha."""
    kind, samples = int(page.photometric), int(page.samplesperpixel)
    if kind == _INKS and page.tags.valueof(_INK_SET, 1) != 1:
        return False
    return bool(_alpha_of(page)) or (samples > 1 and samples == _N_COLORS.get(kind))


def _as_color(image: SpatialImage, page: Any, tags: Mapping[int, Any]) -> SpatialImage:
    """Return the image with samples that are gray, RGB or RGBA."""
    kind, bits, alpha = int(page.photometric), page.bitspersample, _alpha_of(page)
    if kind in _REFUSED:
        raise FileError(
            f"{image.source}: stored as {_REFUSED[kind]}, which cannot be "
            "interpolated. Convert it to RGB first"
        )
    if kind == _PALETTE:
        return _from_table(image, page)
    steps: list[Any] = []
    samples = None
    if bits < 8 or (image.min_is_white and page.dtype.kind in "iu"):
        steps.append(functools.partial(color.rescale, bits, image.min_is_white))
        image = _same_for_values(image, steps[0])
    if alpha == _PREMULTIPLIED:
        steps.append(color.straighten)
    if _is_color(page) and kind != _RGB:
        samples = 4 if alpha else 3
        steps += _to_rgb(image.source, kind, page, tags)
    if not steps:
        return image
    has_samples = int(page.samplesperpixel) > 1
    axis = image.axes.index("S" if "S" in image.axes else "C") if has_samples else None
    convert = functools.partial(color.chain, tuple(steps))
    return dataclasses.replace(
        image, data=ConvertedArray(image.data, convert, axis, samples)
    )


def _to_rgb(path: str, kind: int, page: Any, tags: Mapping[int, Any]) -> list[Any]:
    if kind in (_WHITE_IS_ZERO, _GRAY):
        return [color.gray_alpha_to_rgba]
    if kind == _YCBCR and int(page.compression) not in _LOSSLESS:
        return []
    if page.dtype not in ("uint8", "uint16"):
        raise FileError(
            f"{path}: {page.photometric.name} of type {page.dtype} is not understood. "
            "Convert it to RGB first"
        )
    if kind == _INKS:
        return [color.cmyk_to_rgb]
    if kind == _YCBCR:
        top = 2 ** int(page.bitspersample) - 1
        half = top // 2 + 1
        luma = _floats(tags.get(_LUMA)) or (0.299, 0.587, 0.114)
        reference = _floats(tags.get(_BLACK_WHITE)) or (0, top, half, top, half, top)
        return [functools.partial(color.ycbcr_to_rgb, luma, reference)]
    return [functools.partial(color.lab_to_rgb, kind == _ICC_LAB)]


def _floats(value: Any) -> tuple[float, ...]:
    """Return rationals, which tifffile gives as a flat tuple, as numbers."""
    flat = tuple(value or ())
    return tuple(a / b for a, b in zip(flat[::2], flat[1::2], strict=True) if b)


def _from_table(image: SpatialImage, page: Any) -> SpatialImage:
    """Look colors up; the number that means missing becomes transparent."""
    if int(page.samplesperpixel) != 1 or page.colormap is None:
        raise FileError(
            f"{image.source}: a color table with {page.samplesperpixel} samples per "
            "pixel is not understood. Convert it to RGB first"
        )
    table = np.asarray(page.colormap).T
    table = (table >> 8 if table.max(initial=0) > 255 else table).astype(np.uint8)
    return color.with_table(image, table)


def _same_for_values(image: SpatialImage, step: Any) -> SpatialImage:
    """Convert what the file says about values like its pixels."""
    dtype = image.data.dtype
    most = 1 if dtype.kind == "b" else np.iinfo(dtype).max
    least = -most - 1 if dtype.kind == "i" else 0

    def convert(value: float) -> float:
        inside = np.clip([[value]], least, most).astype(dtype)
        return float(step(inside)[0, 0])

    ends = (tuple(map(convert, pair)) for pair in image.value_range or ())
    ranges = tuple((min(pair), max(pair)) for pair in ends)
    nodata = image.nodata
    if nodata is not None and least <= nodata <= most:
        nodata = convert(nodata)
    return dataclasses.replace(
        image,
        nodata=nodata,
        value_range=ranges or None,
        min_is_white=False,
    )


def _upright(image: SpatialImage, orientation: int) -> SpatialImage:
    """Turn the image as its tag says; georeferenced pixels lie where they lie."""
    if orientation not in color.ORIENTATIONS or image.transform is not None:
        return image
    rows, columns = image.axes.index("Y"), image.axes.index("X")
    data = OrientedArray(image.data, orientation, rows, columns)
    other = {"X": "Y", "Y": "X"} if color.ORIENTATIONS[orientation][0] else {}

    def turned(facts: Mapping[str, Any]) -> dict[str, Any]:
        return {other.get(axis, axis): value for axis, value in facts.items()}

    return dataclasses.replace(
        image,
        data=data,
        pixel_size=turned(image.pixel_size),
        unit=turned(image.unit),
        origin=turned(image.origin),
    )


# -- what the metadata say ------------------------------------------------------------


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
            symbol = str(pixels.get(key + "Unit", usual))
            pixel_size[axis], name = in_named_unit(float(size), symbol)
            if name:
                unit[axis] = name
    planes = _as_list(pixels, "Plane")
    origin = _ome_origin(planes[0], pixel_size, unit) if planes else {}
    channels = _as_list(pixels, "Channel")
    names = tuple(str(c.get("Name", "")) for c in channels)
    colors = tuple(
        f"{int(c['Color']) & 0xFFFFFFFF:08X}"[:6] if "Color" in c else ""
        for c in channels
    )
    return {
        "pixel_size": pixel_size,
        "unit": unit,
        "origin": origin,
        "channel_names": names if any(names) else (),
        "channel_colors": colors if any(colors) else (),
    }


def _ome_origin(
    plane: Mapping[str, Any], pixel_size: Mapping[str, float], unit: Mapping[str, str]
) -> dict[str, float]:
    """Return where the first pixel lies, if the file says it in a unit of length."""
    origin = {}
    for axis in "YX":
        place = plane.get("Position" + axis)
        if axis in pixel_size and isinstance(place, (int, float)):
            symbol = str(plane.get(f"Position{axis}Unit", ""))
            value, name = in_named_unit(float(place), symbol)
            if name and name == unit.get(axis) and math.isfinite(value):
                origin[axis] = value
    return origin


def _imagej_fields(
    metadata: Mapping[str, Any], tags: Mapping[int, Any], axes: str
) -> dict[str, Any]:
    """Return pixel sizes, units, colors and display ranges of an ImageJ file."""
    factor, name = in_named_unit(1.0, str(metadata.get("unit", "")))
    pixel_size, unit = {}, {}
    if name:
        for axis, tag in (("X", _X_RESOLUTION), ("Y", _Y_RESOLUTION)):
            per_unit = _ratio(tags.get(tag))
            if per_unit:
                pixel_size[axis], unit[axis] = factor / per_unit, name
        if "spacing" in metadata and float(metadata["spacing"]) > 0:
            pixel_size["Z"], unit["Z"] = factor * float(metadata["spacing"]), name
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
    lows = low if isinstance(low, tuple | bytes) else (low,)
    highs = high if isinstance(high, tuple | bytes) else (high,)
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
