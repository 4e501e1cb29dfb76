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
    from napari_swin2sr.formats.picture_tags import PictureTags

SPATIAL_AXES = "ZYX"

Factor = TypeVar("Factor", float, "NDArray[np.float64]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpatialImage:
    """An image of any size: lazy pixels plus physical and geographic meaning.

    Attributes
    ----------
    data : array-like
        Pixels with shape, dtype and slicing; never read here.
    axes : str
        One letter of TCZYXS per axis of `data`.
    pixel_size : mapping of str to float
        Size of one pixel along an axis in its `unit`.
    unit : mapping of str to str
        Name of the unit of an axis (OME spelling: "micrometer", "second").
    origin : mapping of str to float
        Position of the *center* of pixel 0 along an axis in its `unit`.
    channel_names, channel_colors : tuple of str
        One per channel ("RRGGBB"), or empty.
    value_range : tuple of (float, float), optional
        (low, high) per channel that the file itself declares.
    nodata : float, optional
        Value that marks missing pixels.
    transform : tuple of float, optional
        (a, b, c, d, e, f): pixel-corner affine of a georeferenced raster,
        x = a*col + b*row + c, y = d*col + e*row + f, in the units of `crs`.
    crs : str, optional
        Coordinate reference system as WKT or authority string.
    geo_tags : GeoTags, optional
        What else a GeoTIFF says.
    icc_profile : bytes, optional
        ICC color profile of the pixels.
    picture_tags : PictureTags, optional
        What a photograph says about itself: EXIF, XMP, IPTC, resolution, texts.
    min_is_white : bool
        Whether low gray values are shown light (TIFF's "miniswhite").
    source : str
        Where the pixels come from, for messages and provenance.
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
    picture_tags: PictureTags | None = None
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
        tags = self.picture_tags
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
            picture_tags=None if tags is None else tags.scaled(x, y),
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
