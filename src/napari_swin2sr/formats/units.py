"""Names of units in OME-Zarr, and their symbols in OME-XML and ImageJ."""

from __future__ import annotations

OME_SIZES = {
    "X": "PhysicalSizeX",
    "Y": "PhysicalSizeY",
    "Z": "PhysicalSizeZ",
    "T": "TimeIncrement",
}
"""Axis -> attribute of OME-XML with the size of a pixel along it."""

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
_NAMES = {symbol: name for name, symbol in _SYMBOLS.items()}
_NAMES |= dict.fromkeys(("um", "μm", "micron", "microns"), "micrometer")
_NAMES |= {"sec": "second"}


def unit_name(symbol: str) -> str:
    """Return OME-Zarr's name of a unit, or "" for pixels and unknown symbols."""
    symbol = symbol.strip().replace("\\u00B5", "µ")
    return symbol if symbol in _SYMBOLS else _NAMES.get(symbol, "")


def unit_symbol(name: str) -> str | None:
    """Return OME-XML's symbol of a unit, or None for an unknown one."""
    return _SYMBOLS.get(name)
