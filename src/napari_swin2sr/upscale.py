"""`apply`: an image of any kind in, a lazy super-resolved one out.

Wires the rooms below; importing it loads neither PyTorch nor dask.
"""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.errors import InputError, OptionError
from napari_swin2sr.image.axes import agree_axes, resolve_axes
from napari_swin2sr.image.intensity import fit_ranges
from napari_swin2sr.image.reading import check_dtype
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.image.sources import as_pixels
from napari_swin2sr.image.xarray import (
    axes_of,
    from_dataarray,
    is_dataarray,
    like_dataarray,
)
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import default_tile, plan_tiles

if TYPE_CHECKING:
    import dask.array as da

    from napari_swin2sr.image.axes import AxisLayout
    from napari_swin2sr.options import Halo, RangeSpec
    from napari_swin2sr.weights.config import Swin2SRConfig

SMALL_BYTES = 2**24
"""Arrays in memory are named by their content up to this size, else at random."""


def apply(
    array: Any,
    model: str | os.PathLike[str] = "default",
    *,
    axes: str | None = None,
    rgb: bool | None = None,
    value_range: RangeSpec = None,
    nodata: float | None = None,
    tile: int | None = None,
    halo: Halo = None,
    device: str = "auto",
    precision: str = "auto",
    dtype: Any = None,
) -> da.Array:
    """Super-resolve an image of any size, lazily.

    Nothing is computed here: a bounded sample of pixels is read to choose the value
    range, and every chunk of the result reads its own part of the image when it is
    computed. The result does not depend on how the image is cut into tiles or chunks.

    Parameters
    ----------
    array : NumPy, dask, zarr or xarray array, PyTorch tensor, Pillow picture, nested
        list, path of an image file, or anything with shape, dtype and slicing; numbers
        of any integer or floating-point type. Never modified.
    model : a name of `list_models()`, a folder or a weight file
    axes : one letter per axis, from T C Z Y X S (S: RGB or RGBA samples). Without it
        the last two are Y X (Y X S with `rgb`); names of xarray dimensions are used
    rgb : the last axis holds RGB or RGBA samples
    value_range : (low, high), one pair per channel, "dtype" or "data"; by default
        "dtype" for 8-bit images and "data" (robust, from a sample) for the rest
    nodata : value of missing pixels, which stay missing; as NaN and masked ones do
    tile : core of a tile [input px], rounded up to the model's window
    halo : context around a tile [input px]: a multiple of the window, "exact", or
        None for the default, which is within 1/1000 of the value range of "exact"
    device : "auto", "cpu", "cuda", "cuda:N" or "mps"
    precision : "auto" (float32), "fp32", "bf16" or "fp16"
    dtype : type of the result's numbers; that of the input by default

    Returns
    -------
    dask.array.Array, or xarray.DataArray for an xarray.DataArray: axes in the same
    order, Y and X times the model's factor, one chunk per tile, same value range

    Raises
    ------
    InputError
        If the image cannot be processed as it is.
    OptionError
        If an option has a value that is not allowed.
    WeightsError
        If the model cannot be found or downloaded.
    """
    options = UpscaleOptions(
        model=os.fspath(model),
        axes=axes,
        rgb=rgb,
        value_range=value_range,
        nodata=nodata,
        tile=tile,
        halo=halo,
        device=device,
        precision=precision,
        dtype=None if dtype is None else _dtype_name(dtype),
    )
    image = as_image(array, options)
    lazy = prepare(image, options)
    result: da.Array = lazy.dask()
    if is_dataarray(array):
        record = {"napari_swin2sr": json.dumps(provenance(lazy))}
        result = like_dataarray(array, result, image.axes, lazy.upscale, record)
    return result


def as_image(array: Any, options: UpscaleOptions | None = None) -> SpatialImage:
    """Describe anything that holds an image; pixels stay where they are.

    Parameters
    ----------
    array : as for `apply`, or a `SpatialImage`
    options : its `axes` and `rgb` overrule what the image says about itself

    Returns
    -------
    SpatialImage with a lazy, sliceable `data` and one letter per axis

    Raises
    ------
    InputError
        If it is no image, or its axes are not clear.
    FileError
        If it is a path, and the file cannot be read.
    """
    options = UpscaleOptions() if options is None else options
    if isinstance(array, (str, os.PathLike)):
        from napari_swin2sr.formats import open_image

        array = open_image(array, axes=options.axes, rgb=options.rgb)
    if isinstance(array, SpatialImage):
        axes = agree_axes(array.shape, array.axes, options.axes, options.rgb).axes
        return dataclasses.replace(array, axes=axes)
    if is_dataarray(array):
        check_dtype(array.dtype)
        known = axes_of(array) if options.axes is None else None
        return from_dataarray(
            array, agree_axes(array.shape, known, options.axes, options.rgb).axes
        )
    pixels = as_pixels(array)
    check_dtype(pixels.source.dtype)
    axes = agree_axes(pixels.source.shape, pixels.axes, options.axes, options.rgb).axes
    return SpatialImage(data=pixels.source, axes=axes, source=type(array).__name__)


def prepare(image: SpatialImage, options: UpscaleOptions) -> LazyUpscaled:
    """Plan the super-resolution of an image; only the range sample is read.

    Parameters
    ----------
    image : what to super-resolve
    options : how; its `axes` and `rgb` are already in the image

    Returns
    -------
    LazyUpscaled, whose `block` is the model's handle

    Raises
    ------
    InputError, OptionError, WeightsError
        As for `apply`.
    """
    layout = resolve_axes(image.shape, image.axes)
    check_dtype(image.data.dtype)
    dtype = _output_dtype(image.data.dtype, options.dtype)
    handle = ModelHandle.open(options.model, options.device, options.precision)
    config = handle.config
    _check_channels(layout, config)
    plan = plan_tiles(
        layout.plane_shape,
        core=options.tile or default_tile(config, options.halo),
        halo=config.halo(options.halo),
        multiple_of=config.window_size,
        upscale=config.upscale,
    )
    nodata = image.nodata if options.nodata is None else options.nodata
    _warn_about_choices(layout, np.dtype(image.data.dtype), dtype, options)
    ranges = fit_ranges(image.data, layout, options.value_range, nodata=nodata)
    return LazyUpscaled(
        image.data,
        layout,
        plan,
        ranges,
        handle,
        dtype=dtype,
        nodata=nodata,
        token=None if _names_itself(image.data) else uuid.uuid4().hex,
    )


def provenance(lazy: LazyUpscaled) -> dict[str, Any]:
    """Return what must be known to make the result again, as JSON can hold it."""
    from napari_swin2sr import __version__

    handle = lazy.block
    assert isinstance(handle, ModelHandle)
    return {
        "software": f"napari-swin2sr {__version__}",
        "model": handle.name,
        "sha256": handle.sha256,
        "upscale": lazy.upscale,
        "tile": lazy.plan.core,
        "halo": lazy.plan.halo,
        "precision": "fp32" if handle.precision == "auto" else handle.precision,
        "value_range": [value_range.to_json() for value_range in lazy.ranges],
    }


# -- details --------------------------------------------------------------------------


def _names_itself(source: Any) -> bool:
    """Tell whether dask can name an array without reading much of it."""
    if isinstance(source, np.ndarray):
        return source.nbytes <= SMALL_BYTES
    library = type(source).__module__.partition(".")[0]
    return library in ("h5py", "zarr") or hasattr(source, "__dask_tokenize__")


def _dtype_name(dtype: Any) -> str:
    try:
        return str(np.dtype(dtype))
    except TypeError as error:
        raise OptionError(f"dtype={dtype!r} is no type of numbers") from error


def _output_dtype(source: Any, wanted: str | None) -> np.dtype[Any]:
    """Return the result's type: asked for, or the input's in native byte order."""
    if wanted is None:
        return check_dtype(source)
    dtype: np.dtype[Any] = np.dtype(_dtype_name(wanted))
    if dtype.kind not in "buif":
        raise OptionError(
            f"dtype={wanted!r} cannot hold pixels; choose an integer or floating-point "
            "type, such as uint16 or float32"
        )
    return dtype


def _check_channels(layout: AxisLayout, config: Swin2SRConfig) -> None:
    if config.num_channels not in (1, 3):
        raise InputError(
            f"this model takes images of {config.num_channels} channels; only grey (1) "
            "and RGB (3) models can be applied"
        )
    if layout.is_rgb and config.num_channels == 1:
        raise InputError(
            "this model is for grey images. Call the samples channels (axes with C "
            "instead of S, or rgb=False) to process each one on its own"
        )


def _warn_about_choices(
    layout: AxisLayout,
    source: np.dtype[Any],
    dtype: np.dtype[Any],
    options: UpscaleOptions,
) -> None:
    """Say what happens where a person might expect something else."""
    if source.kind == "b" and options.dtype is None:
        warnings.warn(
            "a true/false image is upscaled as 0 and 1 and cut at 0.5; "
            "dtype='float32' keeps the values between",
            stacklevel=4,
        )
    if layout.samples == 4:
        warnings.warn(
            "the alpha channel is interpolated; only the colours are super-resolved",
            stacklevel=4,
        )
    if options.precision in ("bf16", "fp16") and dtype.itemsize > 1:
        warnings.warn(
            f"precision={options.precision!r} is exact to about 8 bits, and the result "
            f"is {dtype}; precision='fp32' keeps its depth",
            stacklevel=4,
        )
