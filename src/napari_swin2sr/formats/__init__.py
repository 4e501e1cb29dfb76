"""Images in files: what a path holds is found out here, the rest by its own module."""

from __future__ import annotations

import dataclasses
import os
import warnings
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import InputError
from napari_swin2sr.options import UpscaleOptions

if TYPE_CHECKING:
    from napari_swin2sr.image.record import SpatialImage

__all__ = ["as_image", "open_image"]

RGB_SIDE = 16
"""A uint8 array with 3 or 4 places last is RGB(A) if its other sides are longer."""


def open_image(
    source: str | os.PathLike[str],
    *,
    series: int = 0,
    level: int = 0,
    axes: str | None = None,
    rgb: bool | None = None,
) -> SpatialImage:
    """Describe an image file of any size; its pixels are read when they are needed.

    OME-Zarr (0.4, 0.5) and plain Zarr, also at URLs that fsspec knows; TIFF, OME-TIFF,
    BigTIFF, ImageJ TIFF and GeoTIFF; PNG, JPEG, GIF, BMP and WebP, which are decoded at
    once. With the extra `geo` also JPEG 2000, Sentinel-2 SAFE folders and GeoTIFFs at
    URLs; with the extra `instrument` files of microscopes and slide scanners, such as
    CZI, ND2, LIF, OIR, VSI, SVS, NDPI and MRXS.

    Parameters
    ----------
    source : path or URL
        File or folder.
    series : int, optional
        Number of the image (scene, position), for files that hold several.
    level : int, optional
        Level of a pyramid; 0 is the full size.
    axes : str, optional
        One letter of TCZYXS per axis, instead of what the file says.
    rgb : bool, optional
        Whether three or four channels are samples of one color image.

    Returns
    -------
    SpatialImage
        With axes, pixel size, unit, channel names and whatever else the file knows:
        colors, value range, nodata, transform, coordinate reference system.

    Raises
    ------
    FileError
        If there is no such file, or it is cut off, damaged or no image.
    InputError
        If the meaning of the axes is not clear.
    MissingDependencyError
        If an optional library is needed.
    """
    from napari_swin2sr.formats.detect import Kind, Location, kind_of
    from napari_swin2sr.image.axes import agree_axes

    location = Location.from_user(source)
    kind = kind_of(location)
    if kind is Kind.ZARR:
        from napari_swin2sr.formats.ome_zarr import open_zarr

        image = open_zarr(location, series=series, level=level)
    elif kind is Kind.RASTER:
        from napari_swin2sr.formats.geotiff import open_raster

        image = open_raster(location, series=series, level=level)
    elif kind is Kind.TIFF:
        from napari_swin2sr.formats.tiff import open_tiff

        image = open_tiff(location.path, series=series, level=level)
    elif kind is Kind.INSTRUMENT:
        from napari_swin2sr.formats.instrument import open_instrument

        image = open_instrument(location.path, series=series, level=level)
    else:
        from napari_swin2sr.formats.png_jpeg import open_picture

        image = open_picture(location.path)
    try:
        names = agree_axes(image.shape, image.axes or None, axes, rgb).axes
    except InputError as error:
        raise InputError(f"{location}: {error}") from error
    return dataclasses.replace(image, axes=names)


def as_image(array: Any, options: UpscaleOptions | None = None) -> SpatialImage:
    """Describe anything that holds an image; pixels stay where they are.

    Takes what `apply` takes, or a `SpatialImage`. The options' `axes` and `rgb`
    overrule what the image says about itself.
    """
    from napari_swin2sr.image.axes import agree_axes
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.image.sources import as_pixels, check_dtype
    from napari_swin2sr.image.xarray import axes_of, from_dataarray, is_dataarray

    options = UpscaleOptions() if options is None else options
    asked, rgb = options.axes, options.rgb
    if isinstance(array, (str, os.PathLike)):
        array = open_image(array, axes=asked, rgb=rgb)
    if isinstance(array, SpatialImage):
        axes = agree_axes(array.shape, array.axes, asked, rgb).axes
        return dataclasses.replace(array, axes=axes)
    if is_dataarray(array):
        check_dtype(array.dtype)
        known = axes_of(array) if asked is None else None
        return from_dataarray(array, agree_axes(array.shape, known, asked, rgb).axes)
    source, known = as_pixels(array)
    check_dtype(source.dtype)
    if asked is None and rgb is None and known is None and _looks_like_rgb(source):
        warnings.warn(
            f"a uint8 array of shape {tuple(source.shape)} is taken as RGB"
            f"{'A' * (source.shape[-1] == 4)}; rgb=True says so without this message, "
            "and rgb=False makes its last axis columns",
            stacklevel=3,
        )
        rgb = True
    axes = agree_axes(source.shape, known, asked, rgb).axes
    return SpatialImage(data=source, axes=axes, source=type(array).__name__)


def _looks_like_rgb(source: Any) -> bool:
    shape = tuple(source.shape)
    return (
        str(source.dtype) == "uint8"
        and len(shape) == 3
        and shape[-1] in (3, 4)
        and min(shape[:2]) > RGB_SIDE
    )
