"""`SpatialImage`: a lazy array with everything that must not get lost on the way.

All half-pixel arithmetic is here. A grid of other pixels over the same image shares
its outer corner, so the centers of pixels move, and corner-based transforms do not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_swin2sr.formats.geo_tags import GeoTags

SPATIAL_AXES = "ZYX"

Factor = TypeVar("Factor", float, "NDArray[np.float64]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialImage:
    """An image of any size: lazy pixels plus physical and geographic meaning.

    Attributes
    ----------
    data : array-like with shape, dtype and slicing; never read here
    axes : one letter of TCZYXS per axis of `data`
    pixel_size : axis letter -> size of one pixel in `unit`
    unit : axis letter -> name of the unit (OME spelling: "micrometer", "second")
    origin : axis letter -> position of the *center* of pixel 0, in `unit`
    channel_names, channel_colors : one per channel ("RRGGBB"), or empty
    value_range : (low, high) per channel that the file itself declares, or None
    nodata : value that marks missing pixels, or None
    transform : (a, b, c, d, e, f) pixel-corner affine of a georeferenced raster:
        x = a*col + b*row + c, y = d*col + e*row + f, in the units of `crs`
    crs : coordinate reference system as WKT or authority string, or None
    geo_tags : what else a GeoTIFF says, or None
    icc_profile : ICC color profile of the pixels, or None
    min_is_white : whether low gray values are shown light (TIFF's "miniswhite")
    source : where the pixels come from, for messages and provenance
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
    geo_tags: GeoTags | None = None
    icc_profile: bytes | None = None
    min_is_white: bool = False
    source: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pixels, in the order of `axes`."""
        return tuple(int(n) for n in self.data.shape)

    def upscaled(self, data: Any, upscale: int) -> SpatialImage:
        """Return the record of the super-resolved pixels `data`."""
        return self.scaled(data, {"Y": upscale, "X": upscale})

    def scaled(self, data: Any, factors: Mapping[str, float]) -> SpatialImage:
        """Return the record of `data`: the same image on a grid of other pixels.

        Parameters
        ----------
        data : array-like
            The pixels on the new grid.
        factors : mapping of str to float
            New pixels per old pixel along an axis: 2 after super-resolution by 2, 0.5
            for the next lower resolution level of a pyramid.
        """
        pixel_size, origin = dict(self.pixel_size), dict(self.origin)
        for axis, factor in factors.items():
            if axis in pixel_size:
                old = pixel_size[axis]
                pixel_size[axis] = old / factor
                origin[axis] = origin.get(axis, 0.0) + center_shift(factor) * old
        x, y = factors.get("X", 1.0), factors.get("Y", 1.0)
        transform, geo_tags = self.transform, self.geo_tags
        if transform is not None:  # all linear terms shrink, rotation included
            a, b, c, d, e, f = transform
            transform = (a / x, b / y, c, d / x, e / y, f)
        return dataclasses.replace(
            self,
            data=data,
            pixel_size=pixel_size,
            origin=origin,
            transform=transform,
            geo_tags=None if geo_tags is None else geo_tags.scaled(x, y),
        )


def center_shift(factor: Factor) -> Factor:
    """Return where the center of the first new pixel lies [old px].

    Counted from the center of the first old pixel, for `factor` new pixels per old
    one along an axis: negative, towards the corner, where new pixels are smaller.
    """
    return (1 - factor) / (2 * factor)


def pixel_centers(n: int, factor: int) -> NDArray[np.float64]:
    """Return where the centers of n * factor new pixels lie among n old ones [old px].

    Counted from the center of the first old pixel.
    """
    return (np.arange(n * factor) + 0.5) / factor - 0.5
