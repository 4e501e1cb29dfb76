"""`SpatialImage`: a lazy array with everything that must not get lost on the way."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

SPATIAL_AXES = "ZYX"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialImage:
    """An image of any size: lazy pixels plus physical and geographic meaning.

    Attributes
    ----------
    data : array-like with shape, dtype and slicing; never read here
    axes : one letter of TCZYXS per axis of `data`
    pixel_size : axis letter -> size of one pixel in `unit`
    unit : axis letter -> name of the unit (OME spelling: "micrometer", "second")
    origin : axis letter -> position of the *centre* of pixel 0, in `unit`
    channel_names, channel_colors : one per channel ("RRGGBB"), or empty
    value_range : (low, high) per channel that the file itself declares, or None
    nodata : value that marks missing pixels, or None
    transform : (a, b, c, d, e, f) pixel-corner affine of a georeferenced raster:
        x = a*col + b*row + c, y = d*col + e*row + f, in the units of `crs`
    crs : coordinate reference system as WKT or authority string, or None
    source : where the pixels come from, for messages and provenance
    extra : anything a format wants to carry through unchanged
    """

    data: Any
    axes: str
    pixel_size: Mapping[str, float] = field(default_factory=dict)
    unit: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    channel_colors: tuple[str, ...] = ()
    value_range: tuple[tuple[float, float], ...] | None = None
    nodata: float | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    crs: str | None = None
    source: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pixels, in the order of `axes`."""
        return tuple(int(n) for n in self.data.shape)

    def upscaled(self, data: Any, upscale: int) -> SpatialImage:
        """Return the record of the super-resolved pixels `data`.

        A pixel of size p becomes p / upscale. The first new pixel is centred
        (1 - 1/upscale) / 2 old pixels *before* the centre of the first old one,
        since both grids share their outer corner. Corner-based transforms keep
        their origin; all four linear terms shrink, rotation included.
        """
        pixel_size, origin = dict(self.pixel_size), dict(self.origin)
        for axis in "YX":
            if axis in pixel_size:
                old = pixel_size[axis]
                pixel_size[axis] = old / upscale
                origin[axis] = (
                    origin.get(axis, 0.0) - (upscale - 1) / (2 * upscale) * old
                )
        transform = self.transform
        if transform is not None:
            a, b, c, d, e, f = transform
            transform = (a / upscale, b / upscale, c, d / upscale, e / upscale, f)
        return dataclasses.replace(
            self, data=data, pixel_size=pixel_size, origin=origin, transform=transform
        )
