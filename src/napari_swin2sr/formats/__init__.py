"""Images in files: what a path holds is found out here, the rest by its own module."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from napari_swin2sr.image.record import SpatialImage

__all__ = ["open_image"]


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
    BigTIFF, ImageJ TIFF and GeoTIFF; PNG and JPEG, which are decoded at once. With the
    extra `geo` also JPEG 2000, Sentinel-2 SAFE folders and GeoTIFFs at URLs.

    Parameters
    ----------
    source : path or URL
        File or folder.
    series : int, optional
        Number of the image, for files that hold several.
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
    import dataclasses

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
    else:
        from napari_swin2sr.formats.png_jpeg import open_picture

        image = open_picture(location.path)
    names = agree_axes(image.shape, image.axes or None, axes, rgb).axes
    return dataclasses.replace(image, axes=names)
