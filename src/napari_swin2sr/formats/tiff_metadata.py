"""Pixel sizes, channels and ranges from OME-XML and ImageJ's metadata."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNITS = {
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "nm": "nanometer",
    "pm": "picometer",
    "Å": "angstrom",
    "inch": "inch",
    "s": "second",
    "sec": "second",
    "ms": "millisecond",
    "µs": "microsecond",
    "min": "minute",
    "h": "hour",
}
"""Symbols of OME-XML and ImageJ -> names of OME-Zarr."""

_SYMBOLS = {
    "meter": "m",
    "centimeter": "cm",
    "millimeter": "mm",
    "micrometer": "µm",
    "nanometer": "nm",
    "picometer": "pm",
    "angstrom": "Å",
    "inch": "in",
    "second": "s",
    "millisecond": "ms",
    "microsecond": "µs",
    "minute": "min",
    "hour": "h",
}

_X_RESOLUTION, _Y_RESOLUTION = 282, 283
_SMALLEST, _LARGEST = 340, 341


def unit_name(symbol: str) -> str:
    """Return OME-Zarr's name of a unit, or "" for pixels and unknown symbols."""
    symbol = symbol.strip().replace("\\u00B5", "µ")
    if symbol in _UNITS.values():
        return symbol
    return _UNITS.get(symbol, "inch" if symbol == "in" else "")


def unit_symbol(name: str) -> str | None:
    """Return OME-XML's symbol of a unit, or None for an unknown one."""
    return _SYMBOLS.get(name)


def ome_fields(xml: str | None, series: int) -> dict[str, Any]:
    """Return pixel sizes, units, names and colours of the image number `series`."""
    import tifffile

    images = _as_list(tifffile.xml2dict(xml or "<OME/>").get("OME", {}), "Image")
    if series >= len(images):
        return {}
    pixels = images[series].get("Pixels", {})
    pixel_size, unit = {}, {}
    for axis, key, usual in (
        ("X", "PhysicalSizeX", "µm"),
        ("Y", "PhysicalSizeY", "µm"),
        ("Z", "PhysicalSizeZ", "µm"),
        ("T", "TimeIncrement", "s"),
    ):
        size = pixels.get(key)
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


def imagej_fields(
    metadata: Mapping[str, Any], tags: Mapping[int, Any], axes: str
) -> dict[str, Any]:
    """Return pixel sizes, units, colours and display ranges of an ImageJ file."""
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


def range_fields(tags: Mapping[int, Any]) -> dict[str, Any]:
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
