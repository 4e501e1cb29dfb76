"""xarray in, xarray out: dimension names to axes, and coordinates to new ones.

xarray is never imported here: who passes a DataArray has loaded it.
"""

from __future__ import annotations

import re
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import InputError
from napari_swin2sr.image.record import SPATIAL_AXES, SpatialImage, pixel_centers
from napari_swin2sr.image.sources import Adapter, Index

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from numpy.typing import NDArray

_DIMENSIONS = {
    "Y": "y lat latitude row rows line lines northing height ny ydim",
    "X": "x lon longitude col cols column columns easting width nx xdim",
    "Z": "z plane planes depth altitude slice level lev",
    "T": "t time frame frames date",
    "C": "c ch channel channels band bands wavelength",
    "S": "s sample samples rgb rgba color color",
}
_AXES = {name: axis for axis, names in _DIMENSIONS.items() for name in names.split()}
_OF_THE_GRID = ("units", "GeoTransform", "transform", "res", "crs", "grid_mapping")
_NODATA_ATTRIBUTES = ("_FillValue", "nodata", "missing_value")


def is_dataarray(array: object) -> bool:
    """Tell whether this is an xarray.DataArray, without importing xarray."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(array, xarray.DataArray)


def from_dataarray(array: Any, axes: str) -> SpatialImage:
    """Describe a DataArray, whose dimensions have these axes; pixels stay there."""
    spacing = {
        axis: _spacing(array[dim].values)
        for axis, dim in zip(axes, array.dims, strict=False)
        if axis in SPATIAL_AXES and dim in array.coords
    }
    steps = {axis: step for axis, step in spacing.items() if step is not None}
    dims = dict(zip(axes, array.dims, strict=False))
    units = {axis: array[dims[axis]].attrs.get("units") for axis in steps}
    channels = array.coords.get(dims.get("C"))
    return SpatialImage(
        data=_source(array),
        axes=axes,
        pixel_size={axis: abs(step) for axis, (_, step) in steps.items()},
        origin={axis: first for axis, (first, _) in steps.items()},
        unit={axis: str(unit) for axis, unit in units.items() if unit},
        channel_names=()
        if channels is None
        else tuple(str(name) for name in channels.values.tolist()),
        nodata=_nodata(array.attrs),
        source=str(array.name or "xarray.DataArray"),
    )


def like_dataarray(
    array: Any, data: Any, axes: str, upscale: int, attrs: Mapping[str, Any]
) -> Any:
    """Wrap super-resolved pixels as a DataArray like the one they came from.

    `data` are the pixels, `upscale` new ones per old one along Y and X; `attrs`
    are added to the attributes. Coordinates along Y and X become those of the new
    pixels' centers. Attributes, the name and all other coordinates are kept.
    """
    xarray = sys.modules["xarray"]
    planar = {dim for axis, dim in zip(axes, array.dims, strict=True) if axis in "YX"}
    coords: dict[Hashable, Any] = {}
    dropped: list[str] = []
    for name, coord in array.coords.items():
        new_attrs = _scaled_geotransform(coord.attrs, upscale)
        if upscale == 1 or not planar & set(coord.dims):
            coords[name] = coord.assign_attrs(new_attrs)
            continue
        values = _refined(coord.values, upscale) if coord.ndim == 1 else None
        if values is None:
            dropped.append(str(name))
        else:
            coords[name] = xarray.Variable(coord.dims, values, new_attrs)
    if dropped:
        warnings.warn(
            f"coordinates {', '.join(dropped)} are dropped: only coordinates with one "
            "dimension, numbers and at least two pixels can be refined",
            stacklevel=3,
        )
    merged = {**_scaled_geotransform(array.attrs, upscale), **attrs}
    return xarray.DataArray(
        data, coords=coords, dims=array.dims, name=array.name, attrs=merged
    )


def with_error(image: Any, error: Any, long_name: str) -> Any:
    """Put a DataArray and its error, pixels on the same grid, into a Dataset.

    The error keeps those attributes that say where it is and in which unit.
    """
    xarray = sys.modules["xarray"]
    taken = {"image", "error"} & {str(name) for name in (*image.coords, *image.dims)}
    if taken:
        raise InputError(
            f"with trust the result has variables image and error, but the array has "
            f"coordinates or dimensions of that name: {', '.join(sorted(taken))}. "
            "Rename them first"
        )
    attrs = {k: v for k, v in image.attrs.items() if k in _OF_THE_GRID}
    error = image.copy(data=error).assign_attrs()
    error.attrs = {"long_name": long_name, **attrs}
    return xarray.Dataset({"image": image, "error": error})


def axes_of(array: Any) -> str | None:
    """Read the axes off the dimensions' names; None if they are all numbered."""
    names = [str(dim) for dim in array.dims]
    if all(re.fullmatch(r"dim_\d+", name) for name in names):
        return None
    letters = [_axis_of(array, dim) for dim in array.dims]
    spare = iter("TZC")
    for i, letter in enumerate(letters):
        if letter == "":
            letters[i] = next((a for a in spare if a not in letters), "")
    axes = "".join(letters)
    if not {"Y", "X"} <= set(axes) or len(set(axes)) < len(names):
        raise InputError(
            f"the dimensions {', '.join(names)} do not tell which axes they are; say "
            f'so, for example axes="{"TCZYX"[-len(names) :]}", or rename them'
        )
    return axes


# -- details --------------------------------------------------------------------------


def _axis_of(array: Any, dim: Hashable) -> str:
    """Return the axis of one dimension: by CF attribute, else by name, else ""."""
    attribute = array[dim].attrs.get("axis") if dim in array.coords else None
    if attribute in ("X", "Y", "Z", "T"):
        return str(attribute)
    return _AXES.get(str(dim).lower(), "")


def _source(array: Any) -> Any:
    if array.chunks is not None:
        return array.data
    return Adapter(array.variable, array.dtype, _read_variable)


def _read_variable(variable: Any, index: Index) -> NDArray[Any]:
    # Indexing first: `.values` of the whole would read a whole file.
    block: NDArray[Any] = variable[index].values
    return block


def _spacing(values: NDArray[Any]) -> tuple[float, float] | None:
    """Return (first, step) of evenly spaced numbers, else None."""
    if values.ndim != 1 or len(values) < 2 or values.dtype.kind not in "uif":
        return None
    numbers = values.astype(np.float64)
    first, step = float(numbers[0]), float(numbers[-1] - numbers[0]) / (len(values) - 1)
    even = first + step * np.arange(len(values))
    if step == 0 or not np.allclose(numbers, even, rtol=0, atol=abs(step) * 1e-2):
        return None
    return first, step


def _refined(values: NDArray[Any], upscale: int) -> NDArray[np.float64] | None:
    """Return the coordinate of each new pixel's center, or None if there is none."""
    if len(values) < 2 or values.dtype.kind not in "uif":
        return None
    at = pixel_centers(len(values), upscale)
    spacing = _spacing(values)
    if spacing is not None:
        return spacing[0] + spacing[1] * at
    numbers = values.astype(np.float64)
    left = np.clip(np.floor(at).astype(np.intp), 0, len(values) - 2)
    refined: NDArray[np.float64] = numbers[left] + (at - left) * np.diff(numbers)[left]
    return refined


def _nodata(attrs: Mapping[Hashable, Any]) -> float | None:
    for name in _NODATA_ATTRIBUTES:
        value = attrs.get(name)
        if isinstance(value, (int, float, np.number)):
            return float(value)
    return None


def _scaled_geotransform(attrs: Mapping[Any, Any], upscale: int) -> dict[Any, Any]:
    """Shrink the pixels of every transform that the attributes hold."""
    scaled = dict(attrs)
    if "GeoTransform" in attrs:  # GDAL: x0 dx rx y0 ry dy
        values = [float(v) for v in str(attrs["GeoTransform"]).split()]
        if len(values) == 6:
            new = [v if i % 3 == 0 else v / upscale for i, v in enumerate(values)]
            scaled["GeoTransform"] = " ".join(repr(v) for v in new)
    if "transform" in attrs and len(tuple(attrs["transform"])) >= 6:  # a b c d e f
        old = tuple(attrs["transform"])[:6]
        scaled["transform"] = tuple(
            v if i % 3 == 2 else v / upscale for i, v in enumerate(old)
        )
    if "res" in attrs:
        scaled["res"] = tuple(v / upscale for v in attrs["res"])
    return scaled
