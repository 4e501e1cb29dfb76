"""TIFF out: tiled, BigTIFF when needed, as OME-TIFF or GeoTIFF, with a pyramid.

A TIFF that is interrupted while it is written cannot be opened, so this module only
exports what is complete elsewhere; the caller renames the file when it is whole.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import OutputError
from napari_swin2sr.formats.color import profile_for
from napari_swin2sr.formats.geo_tags import GeoTags, write_geo_tags, write_nodata
from napari_swin2sr.formats.picture_tags import description, tiff_tags
from napari_swin2sr.formats.units import OME_SIZES, unit_symbol
from napari_swin2sr.image.axes import AxisLayout, resolve_axes
from napari_swin2sr.image.box import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_swin2sr.image.record import SpatialImage

TIFF_TILE = 512
"""Side of a stored tile [px]; viewers read tile by tile."""

_CLASSIC_LIMIT = 2**32 - 2**25
_TIFF_TYPES = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64"
_TIFF_TYPES += " float16 float32 float64"
_OME_LACKS = {"float16": "float32", "uint64": "float64", "int64": "float64"}


def check_tiff(image: SpatialImage, path: Path) -> None:
    """Refuse an image that a TIFF cannot hold, before it is computed.

    A small one with the same metadata is written into memory.
    """
    dtype = np.dtype(image.data.dtype)
    if 0 in image.shape:
        raise OutputError(
            f"{path}: an image of axes {image.axes} and shape {image.shape} is empty"
        )
    wider = _OME_LACKS.get(str(dtype)) if not is_geo(image) else None
    if str(dtype) not in _TIFF_TYPES.split() or wider is not None:
        raise OutputError(
            f"{path}: {'OME-TIFF' if wider else 'TIFF'} cannot hold numbers of type "
            f"{dtype}. Choose .ome.zarr, or the type {wider or 'float32'} "
            f"(dtype='{wider or 'float32'}', --dtype {wider or 'float32'})"
        )
    lengths = {"Y": 1, "X": 1, "T": 1, "Z": 1}
    shape = (lengths.get(a, n) for a, n in zip(image.axes, image.shape, strict=True))
    small = dataclasses.replace(image, data=np.zeros(tuple(shape), dtype))
    try:
        write_tiff(small, [], io.BytesIO())
    except (ValueError, TypeError, OverflowError, struct.error) as error:
        raise OutputError(
            f"{path}: what the source says about its pixels cannot be written as TIFF "
            f"({type(error).__name__}: {error}). Choose .ome.zarr"
        ) from error


def write_tiff(
    image: SpatialImage,
    levels: Sequence[Any],
    path: Path | io.BytesIO,
    *,
    software: str = "",
    compression: str | None = "zlib",
    tick: Callable[[int, int], None] | None = None,
) -> None:
    """Write an image and its pyramid.

    Georeferenced images become GeoTIFFs: bands as separate planes of one page, with
    overviews where GDAL looks for them. All others become OME-TIFFs, pyramid levels
    as sub-directories.

    `image` is the full size, read tile by tile, `levels` the lower resolution levels,
    largest first. `software` is the ASCII text of that tag; `tick` is called with
    (tiles written, all tiles) before each tile, and may raise.
    """
    import tifffile

    arrays = [image.data, *levels]
    as_geo = is_geo(image)
    n_bytes = sum(math.prod(a.shape) * image.data.dtype.itemsize for a in arrays)
    layout = resolve_axes(image.shape, image.axes)
    common: dict[str, Any] = _storage(layout, image, compression, as_geo)
    counter = _Counter(arrays, image.axes, common["tile"], tick)
    with tifffile.TiffWriter(
        path, bigtiff=n_bytes > _CLASSIC_LIMIT, ome=not as_geo
    ) as writer:
        for number, array in enumerate(arrays):
            level = AxisLayout(image.axes, tuple(int(n) for n in array.shape))
            options = dict(common)
            if number == 0:
                options["software"] = software or False
                options["metadata"] = None if as_geo else _ome(image, layout)
                options["extratags"] = _extra_tags(image, layout, as_geo)
                if image.picture_tags is not None and image.picture_tags.new_dpi:
                    options["resolution"] = image.picture_tags.new_dpi
                    options["resolutionunit"] = "inch"
                options["subifds"] = 0 if as_geo else len(levels)
            else:
                options |= {"subfiletype": 1, "metadata": None, "software": False}
            writer.write(
                _tiles(array, level, common["tile"], counter),
                shape=_stored_shape(level, as_geo),
                dtype=image.data.dtype,
                **options,
            )


def is_geo(image: SpatialImage) -> bool:
    """Tell whether a TIFF of this image should be a GeoTIFF."""
    return (
        image.transform is not None
        or image.geo_tags is not None
        or image.crs is not None
    )


def _storage(
    layout: AxisLayout, image: SpatialImage, compression: str | None, as_geo: bool
) -> dict[str, Any]:
    dtype = np.dtype(image.data.dtype)
    side = [min(TIFF_TILE, -(-n // 16) * 16) for n in layout.plane_shape]
    gray = "miniswhite" if image.min_is_white else "minisblack"
    is_more_than_rgb = as_geo and image.channel_names[:3] == ("red", "green", "blue")
    is_more_than_rgb &= layout.n_planes == layout.n_channels > 3
    photometric = "rgb" if layout.is_rgb or is_more_than_rgb else gray
    storage: dict[str, Any] = {"tile": tuple(side), "photometric": photometric}
    if layout.samples == 4:
        storage["extrasamples"] = ["unassalpha"]
    if is_more_than_rgb:
        storage["extrasamples"] = ["unspecified"] * (layout.n_planes - 3)
    if as_geo and layout.n_planes > 1:
        storage["planarconfig"] = "separate"
    if compression is not None and dtype.kind != "b":
        storage["compression"] = compression
        if dtype.kind in "iu" and dtype.itemsize <= 4:
            storage["predictor"] = True
    profile = profile_for(image)
    if profile is not None:
        storage["iccprofile"] = profile
    return storage


def _stored_shape(layout: AxisLayout, as_geo: bool) -> tuple[int, ...]:
    """Return the shape in the file's order: T C Z Y X S, or bands Y X (S)."""
    samples = (layout.samples,) if layout.is_rgb else ()
    lengths = [layout.shape[axis] for axis in _file_order(layout)]
    if as_geo:  # one page; a single band has no axis of bands
        lengths = [layout.n_planes] if layout.n_planes > 1 else []
    stack = tuple(lengths)
    return (*stack, *layout.plane_shape, *samples)


def _file_order(layout: AxisLayout) -> list[int]:
    """Return the stack axes' numbers in the order T C Z."""
    return [layout.axes.index(letter) for letter in "TCZ" if letter in layout.axes]


def _tiles(
    array: Any, layout: AxisLayout, tile: tuple[int, int], counter: _Counter
) -> Iterator[NDArray[Any]]:
    """Yield the tiles of all planes in the file's order, edge tiles padded."""
    height, width = layout.plane_shape
    order = _file_order(layout)
    for place in itertools.product(*(range(layout.shape[axis]) for axis in order)):
        of_axis = dict(zip(order, place, strict=True))
        stack = tuple(of_axis[axis] for axis in layout.stack_axes)
        for y in range(0, height, tile[0]):
            for x in range(0, width, tile[1]):
                counter.step()
                box = Box(y, x, min(y + tile[0], height), min(x + tile[1], width))
                block = np.asarray(array[layout.plane_index(stack, box)])
                plane = np.moveaxis(layout.to_plane(block), 0, -1)
                rest = (tile[0] - box.height, tile[1] - box.width)
                padded = np.pad(plane, ((0, rest[0]), (0, rest[1]), (0, 0)), "edge")
                yield padded if layout.is_rgb else padded[..., 0]


class _Counter:
    """Counts the tiles of all levels and tells it."""

    def __init__(
        self,
        arrays: Sequence[Any],
        axes: str,
        tile: tuple[int, int],
        tick: Callable[[int, int], None] | None,
    ) -> None:
        self.done, self.tick = 0, tick
        self.total = 0
        for array in arrays:
            layout = AxisLayout(axes, tuple(array.shape))
            height, width = layout.plane_shape
            per_plane = -(-height // tile[0]) * -(-width // tile[1])
            self.total += per_plane * layout.n_planes

    def step(self) -> None:
        if self.tick is not None:
            self.tick(self.done, self.total)
        self.done += 1


def _extra_tags(
    image: SpatialImage, layout: AxisLayout, as_geo: bool
) -> list[tuple[int, str, int, Any, bool]]:
    extra = _geo(image) if as_geo else list(write_nodata(image.nodata))
    if image.picture_tags is not None:
        height, width = layout.plane_shape
        extra += tiff_tags(image.picture_tags, width, height, with_text=as_geo)
    return extra


def _geo(image: SpatialImage) -> list[tuple[int, str, int, Any, bool]]:
    geo = image.geo_tags
    if geo is None:
        geo = GeoTags()
        if image.crs is not None:
            from napari_swin2sr.formats.geotiff import tags_of_crs

            geo = tags_of_crs(image.crs)
    return write_geo_tags(image.transform, geo, image.nodata, image.channel_names)


def _ome(image: SpatialImage, layout: AxisLayout) -> dict[str, Any]:
    """Return the metadata from which tifffile makes the OME-XML."""
    stack = "".join(letter for letter in "TCZ" if letter in layout.axes)
    metadata: dict[str, Any] = {"axes": stack + ("YXS" if layout.is_rgb else "YX")}
    for axis, size in image.pixel_size.items():
        if axis in OME_SIZES:
            metadata[OME_SIZES[axis]] = size
            usual = "s" if axis == "T" else "pixel"
            if image.unit.get(axis):
                usual = "s" if axis == "T" else "reference frame"
            symbol = unit_symbol(image.unit.get(axis, "")) or usual
            metadata[OME_SIZES[axis] + "Unit"] = symbol
    if image.picture_tags is not None and description(image.picture_tags):
        metadata["Description"] = description(image.picture_tags)
    n_planes = layout.n_planes
    for axis in "YX":
        of_place = unit_symbol(image.unit.get(axis, ""))
        if image.origin.get(axis) and of_place:
            plane = metadata.setdefault("Plane", {})
            plane["Position" + axis] = [image.origin[axis]] * n_planes
            plane[f"Position{axis}Unit"] = [of_place] * n_planes
    channels: dict[str, Any] = {}
    n = layout.n_channels
    if len(image.channel_names) == n:
        channels["Name"] = list(image.channel_names)
    if len(image.channel_colors) == n and all(image.channel_colors):
        channels["Color"] = [_signed(int(c + "FF", 16)) for c in image.channel_colors]
    if channels:
        metadata["Channel"] = channels
    return metadata


def _signed(value: int) -> int:
    """Return an unsigned 32-bit number as OME-XML writes colors."""
    return value - 2**32 if value >= 2**31 else value
