"""GeoTIFF tags to a pixel-corner transform and back; no GDAL needed.

The rules are those of the OGC GeoTIFF standard 1.1: a scale and a tie point for
north-up rasters, a 4 x 4 matrix for all others, and keys that say what the numbers
mean. `PixelIsPoint` files tie the *center* of a pixel; here every transform is of
pixel corners.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from napari_swin2sr.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

Transform: TypeAlias = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): x = a*col + b*row + c, y = d*col + e*row + f."""

_SCALE, _TIE_POINTS, _MATRIX = 33550, 33922, 34264
_KEYS, _DOUBLES, _ASCII = 34735, 34736, 34737
_GDAL_METADATA, _GDAL_NODATA = 42112, 42113
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_MOST_SIDECAR = 2**20
"""Bytes of an .aux.xml; one with histograms of many bands has a tenth of that."""
_POINT, _USER_DEFINED = 2, 32767


@dataclass(frozen=True, slots=True)
class GeoTags:
    """What a GeoTIFF says besides transform and nodata.

    Attributes
    ----------
    keys, doubles, ascii : the coordinate reference system as GeoKeys, unchanged
    ground_points : (col, row, 0, x, y, z) per point, for rasters without transform
    metadata : items of GDAL's XML: (name, band or None, role, text)
    """

    keys: tuple[int, ...] = ()
    doubles: tuple[float, ...] = ()
    ascii: str = ""
    ground_points: tuple[tuple[float, ...], ...] = ()
    metadata: tuple[tuple[str, int | None, str, str], ...] = ()

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> GeoTags:
        """Make them again from their dictionary, lists as tuples."""
        return cls(
            keys=tuple(record["keys"]),
            doubles=tuple(record["doubles"]),
            ascii=record["ascii"],
            ground_points=tuple(map(tuple, record["ground_points"])),
            metadata=tuple(map(tuple, record["metadata"])),
        )

    @property
    def key_values(self) -> dict[int, int]:
        """The keys that are plain numbers."""
        rows = zip(*[iter(self.keys[4:])] * 4, strict=False)
        return {key: value for key, where, _, value in rows if where == 0}

    @property
    def is_point(self) -> bool:
        """Whether the file ties the centers of pixels."""
        return self.key_values.get(_RASTER_TYPE) == _POINT

    @property
    def crs(self) -> str | None:
        """The authority's name of the reference system, such as "EPSG:32633"."""
        for key in (_PROJECTED, _GEOGRAPHIC):
            code = self.key_values.get(key)
            if code is not None and code not in (0, _USER_DEFINED):
                return f"EPSG:{code}"
        return None

    def scaled(self, columns: float, rows: float) -> GeoTags:
        """Return the tags for so many times as many columns and rows."""
        half = 0.5 if self.is_point else 0.0  # places are centers or corners of pixels
        points = tuple(
            ((col + half) * columns - half, (row + half) * rows - half, *rest)
            for col, row, *rest in self.ground_points
        )
        return replace(self, ground_points=points)

    @property
    def band_names(self) -> dict[int, str]:
        """Band number from 0 -> its description."""
        return {
            band: text
            for _, band, role, text in self.metadata
            if role == "description" and band is not None
        }


def read_geo_tags(
    tags: Mapping[int, Any], path: object
) -> tuple[Transform | None, GeoTags]:
    """Return the corner transform, if there is one, and all the rest.

    `tags` are those of the first page, `path` is for messages. Raises FileError if
    the tags contradict themselves.
    """
    geo = GeoTags(
        keys=tuple(int(k) for k in tags.get(_KEYS, ())),
        doubles=_numbers(tags.get(_DOUBLES)),
        ascii=str(tags.get(_ASCII, "")),
        metadata=_metadata_items(str(tags.get(_GDAL_METADATA, ""))),
    )
    ties = _numbers(tags.get(_TIE_POINTS))
    scale, matrix = _numbers(tags.get(_SCALE)), _numbers(tags.get(_MATRIX))
    if len(matrix) >= 8:
        a, b, _, c, d, e, _, f = matrix[:8]
    elif len(scale) >= 2 and len(ties) >= 6:
        a, b, d, e = scale[0], 0.0, 0.0, -scale[1]
        c, f = ties[3] - a * ties[0], ties[4] - e * ties[1]
    else:
        points = tuple(zip(*[iter(ties)] * 6, strict=False))
        return None, replace(geo, ground_points=points)
    transform = (a, b, c, d, e, f)
    if a * e == b * d or not all(map(math.isfinite, transform)):
        raise FileError(
            f"{path}: its geographic transform {transform} maps the image to a line "
            "or to nowhere"
        )
    return (_moved(transform, -0.5) if geo.is_point else transform), geo


def write_geo_tags(
    transform: Transform | None,
    geo: GeoTags,
    nodata: float | None,
    band_names: tuple[str, ...],
) -> list[tuple[int, str, int, Any, bool]]:
    """Return the tags as tifffile's `extratags` takes them."""
    tags: list[tuple[int, str, int, Any, bool]] = []

    def add(code: int, kind: str, value: Any) -> None:
        if kind == "s":  # GDAL writes and reads UTF-8
            value = value.encode("utf-8", "replace")
        if len(value):
            count = len(value) + 1 if kind == "s" else len(value)
            tags.append((code, kind, count, value, True))

    if transform is not None:
        a, b, c, d, e, f = _moved(transform, 0.5) if geo.is_point else transform
        if b == 0 and d == 0 and a > 0 > e:
            add(_SCALE, "d", (a, -e, 0.0))
            add(_TIE_POINTS, "d", (0.0, 0.0, 0.0, c, f, 0.0))
        else:
            rows = ((a, b, 0.0, c), (d, e, 0.0, f), (0.0,) * 4, (0.0, 0.0, 0.0, 1.0))
            add(_MATRIX, "d", tuple(x for row in rows for x in row))
    else:
        add(_TIE_POINTS, "d", tuple(x for point in geo.ground_points for x in point))
    add(_KEYS, "H", geo.keys)
    add(_DOUBLES, "d", geo.doubles)
    add(_ASCII, "s", geo.ascii)
    add(_GDAL_METADATA, "s", _metadata_xml(geo, band_names))
    return tags + write_nodata(nodata)


def write_nodata(nodata: float | None) -> list[tuple[int, str, int, Any, bool]]:
    """Return GDAL's tag for the value of missing pixels."""
    text = b"" if nodata is None else f"{nodata:.17g}".encode()
    return [(_GDAL_NODATA, "s", len(text) + 1, text, True)] if text else []


def read_nodata(tags: Mapping[int, Any]) -> float | None:
    """Return GDAL's value for missing pixels, or None."""
    try:
        return float(str(tags[_GDAL_NODATA]).strip().strip("\0"))
    except (KeyError, ValueError):
        return None


def read_world_file(path: Path) -> Transform | None:
    """Return the corner transform of a world file beside an image, as GDAL does."""
    suffix = path.suffix
    endings = (suffix[:2] + suffix[-1:] + "w", suffix + "w", ".wld")
    for place in map(path.with_suffix, endings):
        try:
            numbers = [float(text) for text in place.read_text().split()]
        except (OSError, ValueError):
            continue
        if len(numbers) == 6 and numbers[0] * numbers[3] != numbers[1] * numbers[2]:
            a, d, b, e, c, f = numbers
            return _moved((a, b, c, d, e, f), -0.5)
    return None


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what the .aux.xml of GDAL beside an image says about its pixels.

    The keys are those fields of `SpatialImage` that it names: nodata, transform, crs,
    channel_names. Its ground control points are named in a warning.
    """
    from xml.etree import ElementTree

    place = path.with_name(path.name + ".aux.xml")
    try:
        text = place.read_bytes()[:_MOST_SIDECAR]
        if b"<!" in text:  # declarations of entities, of which GDAL writes none
            return {}
        root = ElementTree.fromstring(text)  # noqa: S314
        bands = root.findall("PAMRasterBand")
        missing = {float(b.findtext("NoDataValue", "nan")) for b in bands}
        numbers = [float(t) for t in root.findtext("GeoTransform", "").split(",") if t]
    except (OSError, ValueError, ElementTree.ParseError):
        return {}
    found: dict[str, Any] = {}
    if len(missing) == 1 and not math.isnan(*missing):
        found["nodata"] = missing.pop()
    if len(numbers) == 6 and numbers[1] * numbers[5] != numbers[2] * numbers[4]:
        c, a, b, f, d, e = numbers
        found["transform"] = (a, b, c, d, e, f)
    if root.findtext("SRS"):
        found["crs"] = root.findtext("SRS")
    names = tuple(band.findtext("Description", "") for band in bands)
    if any(names):
        found["channel_names"] = names
    if root.find("GCPList") is not None:
        logger.warning(
            "%s: the ground control points in %s beside it are not read. Put them into "
            "the file with gdal_translate first",
            *(path, place.name),
        )
    return found


def _moved(transform: Transform, pixels: float) -> Transform:
    """Return the transform for pixel coordinates that are `pixels` smaller."""
    a, b, c, d, e, f = transform
    return a, b, c + (a + b) * pixels, d, e, f + (d + e) * pixels


def _numbers(value: Any) -> tuple[float, ...]:
    if value is None:
        return ()
    return tuple(float(x) for x in (value if hasattr(value, "__len__") else (value,)))


def _metadata_items(xml: str) -> tuple[tuple[str, int | None, str, str], ...]:
    """Read GDAL's items; statistics are dropped, as they describe other pixels."""
    from html import unescape

    items = []
    for attributes, text in re.findall(r"<Item\s+([^>]*)>(.*?)</Item>", xml, re.S):
        known = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
        name = unescape(known.get("name", ""))
        if name.startswith("STATISTICS_"):
            continue
        band = known.get("sample", "")
        number = int(band) if band.isdecimal() else None
        items.append((name, number, known.get("role", ""), unescape(text)))
    return tuple(items)


def _metadata_xml(geo: GeoTags, band_names: tuple[str, ...]) -> str:
    from html import escape

    items = [item for item in geo.metadata if item[2] != "description"]
    items += [
        ("DESCRIPTION", band, "description", name)
        for band, name in enumerate(band_names)
        if name
    ]
    if not items:
        return ""
    lines = []
    for name, band, role, text in items:
        sample = "" if band is None else f' sample="{band}"'
        kind = f' role="{escape(role)}"' if role else ""
        lines.append(
            f'  <Item name="{escape(name)}"{sample}{kind}>{escape(text)}</Item>'
        )
    return "\n".join(["<GDALMetadata>", *lines, "</GDALMetadata>", ""])
