"""Images in files: what a path holds is found out here, the rest by its own room."""

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
    series : number of the image, for files that hold several
    level : level of a pyramid; 0 is the full size
    axes : one letter of TCZYXS per axis, instead of what the file says
    rgb : whether three or four channels are samples of one colour image

    Returns
    -------
    SpatialImage with axes, pixel size, unit, channel names and whatever else the file
    knows: colours, value range, nodata, transform, coordinate reference system

    Raises
    ------
    FileError
        If there is no such file, or it is cut off, damaged or no image.
    InputError
        If the meaning of the axes is not clear.
    MissingDependencyError
        If an optional library is needed.
    """
    from napari_swin2sr.formats.detect import Kind, kind_of, local_path

    kind = kind_of(source)
    if kind is Kind.ZARR:
        from napari_swin2sr.formats.ome_zarr import open_zarr

        return open_zarr(source, series=series, level=level, axes=axes, rgb=rgb)
    if kind is Kind.RASTER:
        from napari_swin2sr.formats.geotiff import open_raster

        image = open_raster(source, series=series, level=level)
    elif kind is Kind.TIFF:
        from napari_swin2sr.formats.tiff import open_tiff

        image = open_tiff(local_path(source), series=series, level=level)
    else:
        from napari_swin2sr.formats.png_jpeg import open_picture

        image = open_picture(local_path(source))
    return agree(image, axes, rgb)


def agree(image: SpatialImage, axes: str | None, rgb: bool | None) -> SpatialImage:
    """Return the image with the axes that a person has asked for.

    Raises
    ------
    InputError
        If they do not fit its shape.
    """
    import dataclasses

    from napari_swin2sr.image.axes import resolve_axes

    known = image.axes
    if axes is None and rgb is True and "S" not in known:
        known = known.replace("C", "S")
    elif axes is None and rgb is False and "C" not in known:
        known = known.replace("S", "C")
    names = resolve_axes(image.shape, axes or known, rgb).axes
    return image if names == image.axes else dataclasses.replace(image, axes=names)
