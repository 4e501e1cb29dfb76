"""Units of length and time: names in OME-Zarr, symbols in OME-XML and ImageJ."""

from __future__ import annotations

OME_SIZES = {
    "X": "PhysicalSizeX",
    "Y": "PhysicalSizeY",
    "Z": "PhysicalSizeZ",
    "T": "TimeIncrement",
}
"""Axis -> attribute of OME-XML with the size of a pixel along it."""

_PREFIXES = {
    "yotta": "Y", "zetta": "Z", "exa": "E", "peta": "P", "tera": "T", "giga": "G",
    "mega": "M", "kilo": "k", "hecto": "h", "": "", "deci": "d", "centi": "c",
    "milli": "m", "micro": "µ", "nano": "n", "pico": "p", "femto": "f", "atto": "a",
    "zepto": "z", "yocto": "y",
}  # fmt: skip
_SYMBOLS = {
    prefix + unit: sign + symbol
    for prefix, sign in _PREFIXES.items()
    for unit, symbol in (("meter", "m"), ("second", "s"))
}
_SYMBOLS |= {"minute": "min", "hour": "h", "day": "d", "angstrom": "Å", "inch": "in"}
_SYMBOLS |= {"foot": "ft", "yard": "yd", "mile": "mi", "parsec": "pc"}

_NAMES = {symbol: (1.0, name) for name, symbol in _SYMBOLS.items()}
_NAMES |= {name: (1.0, name) for name in _SYMBOLS}
_NAMES |= dict.fromkeys(("um", "μm", "micron", "microns"), (1.0, "micrometer"))
_NAMES |= {
    "μs": (1.0, "microsecond"),
    "us": (1.0, "microsecond"),
    "sec": (1.0, "second"),
}
_NAMES |= {  # OME-XML has them, OME-Zarr has not
    "dam": (10.0, "meter"),
    "das": (10.0, "second"),
    "thou": (1e-3, "inch"),
    "li": (1 / 12, "inch"),
    "pt": (1 / 72, "inch"),
    "ua": (149_597_870_700.0, "meter"),
    "ly": (9_460_730_472_580_800.0, "meter"),
}


def in_named_unit(size: float, symbol: str) -> tuple[float, str]:
    """Return a size and OME-Zarr's name of its unit; "" for pixels and unknown ones."""
    factor, name = _NAMES.get(symbol.strip().replace("\\u00B5", "µ"), (1.0, ""))
    return size * factor, name


def unit_symbol(name: str) -> str | None:
    """Return OME-XML's symbol of a unit, or None for an unknown one."""
    return _SYMBOLS.get(name)
