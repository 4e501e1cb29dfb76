"""`apply`: an image of any kind in, a lazy super-resolved one out.

Wires the layers below; importing it loads neither PyTorch nor dask.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import uuid
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.errors import InputError, OptionError
from napari_swin2sr.formats import as_image
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import fit_ranges
from napari_swin2sr.image.sources import ReadOnce, check_dtype
from napari_swin2sr.image.xarray import is_dataarray, like_dataarray, with_error
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.tiles.lazy import ErrorScale, LazyUpscaled
from napari_swin2sr.tiles.plan import check_n_blocks, default_tile, plan_tiles
from napari_swin2sr.trust.calibration import level_index, load_calibration
from napari_swin2sr.trust.suitability import (
    CLEAN_ONLY,
    INTERPOLATION,
    Inspection,
    assess,
)

if TYPE_CHECKING:
    import os

    import dask.array as da

    from napari_swin2sr.image.axes import AxisLayout
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.options import Halo, RangeSpec
    from napari_swin2sr.weights.config import Swin2SRConfig

logger = logging.getLogger(__name__)

SMALL_BYTES = 2**24
"""Arrays in memory are named by their content up to this size, else at random."""


class ImageWithError(NamedTuple):
    """A super-resolved image, and the half-width of the error bar of each pixel."""

    image: da.Array
    error: da.Array


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
    trust: bool | float = False,
) -> Any:
    """Super-resolve an image of any size, lazily.

    Nothing is computed here: a bounded sample of pixels is read to choose the value
    range, and every chunk of the result reads its own part of the image when it is
    computed. The result does not depend on how the image is cut into tiles or chunks.

    Parameters
    ----------
    array : array-like, path or image
        NumPy, dask, zarr or xarray array, PyTorch tensor, Pillow image, nested list,
        path of an image file, or anything with shape, dtype and slicing; numbers of
        any integer or floating-point type. Never modified.
    model : str or path, optional
        A name of `list_models()`, a folder or a weight file.
    axes : str, optional
        One letter per axis, from T C Z Y X S (S: RGB or RGBA samples). Without it the
        names of xarray dimensions are used, else the last axes are Y X, or Y X S with
        `rgb` and for a uint8 image of more than 16 x 16 px and 3 or 4 samples.
    rgb : bool, optional
        Whether the last axis holds RGB or RGBA samples.
    value_range : (float, float) or one such pair per channel or str, optional
        Intensities that are black and white, "dtype" or "data" (robust, from a
        sample); by default "dtype" for 8-bit images and "data" for the rest.
    nodata : float, optional
        Value of missing pixels, which stay missing, as NaN and masked ones do.
    tile : int, optional
        Core of a tile [input px], rounded up to the model's window.
    halo : int or "exact", optional
        Context around a tile [input px], a multiple of the window; by default so much
        that the result is within 1/1000 of the value range of "exact".
    device : str, optional
        "auto", "cpu", "cuda", "cuda:N" or "mps".
    precision : str, optional
        "auto" (float32), "fp32", "bf16" or "fp16".
    dtype : dtype, optional
        Type of the result's numbers; by default that of the input.
    trust : bool or float, optional
        Return error bars too: half-widths within which the truth lies for this share
        of the pixels of images like the calibration's, 0.5 to 0.99; True is 0.9.

    Returns
    -------
    dask.array.Array or xarray.DataArray
        As the input: axes in the same order, Y and X times the model's factor, one
        chunk per tile, same value range. With `trust` a named pair ``(image, error)``
        of dask arrays, or for a DataArray an xarray.Dataset with variables `image` and
        `error`. The image is the same as without `trust`. `error` is float32, >= 0, in
        the units of the image, with the same axes and chunks; NaN where the image is
        missing or transparent, and in an alpha channel, which is interpolated. Both
        come from one forward: computing them together costs one.

    Raises
    ------
    InputError
        If the image cannot be processed as it is.
    OptionError
        If an option has a value that is not allowed.
    WeightsError
        If the model cannot be found or downloaded; with `trust` also if it has no
        error head or no calibration.

    Examples
    --------
    >>> import numpy as np
    >>> apply(np.zeros((30, 40), np.uint8)).shape
    (60, 80)
    """
    options = UpscaleOptions(
        model=model,  # type: ignore[arg-type]  # the options make text of it
        axes=axes,
        rgb=rgb,
        value_range=value_range,
        nodata=nodata,
        tile=tile,
        halo=halo,
        device=device,
        precision=precision,
        dtype=None if dtype is None else _dtype_name(dtype),
        trust=trust,
    )
    image = as_image(array, options)
    lazy = prepare(image, options)
    pixels, error = lazy.dask_pair() if options.trust else (lazy.dask(), None)
    if not is_dataarray(array):
        return pixels if error is None else ImageWithError(pixels, error)
    record = {"napari_swin2sr": json.dumps(provenance(lazy))}
    result = like_dataarray(array, pixels, image.axes, lazy.upscale, record)
    if error is None:
        return result
    text = f"half-width of the error bars that hold {100 * options.trust:g} % of pixels"
    return with_error(result, error, text)


def inspect(
    array: Any,
    *,
    axes: str | None = None,
    rgb: bool | None = None,
    value_range: RangeSpec = None,
    nodata: float | None = None,
) -> Inspection:
    """Tell what an image is like and which model suits it; nothing is super-resolved.

    Only a bounded sample of pixels is read, the one that value ranges are chosen from.
    The noise is fitted as shot noise and read-out noise, and the gain to expect is that
    of calibration images with as much noise.

    Parameters
    ----------
    array : array_like or path
        As for `apply`.
    axes : str, optional
        One letter per axis, from T C Z Y X S.
    rgb : bool, optional
        The last axis holds RGB or RGBA samples.
    value_range : optional
        As for `apply`.
    nodata : float, optional
        Value of missing pixels.

    Returns
    -------
    Inspection
        Value range, noise, bandwidth, saturated and missing pixels of each channel; the
        gain over interpolation to expect of the embedded models, in dB; and the
        recommendation, which ``apply(array, model="auto")`` takes.

    Raises
    ------
    InputError
        If it is no image, or its axes are not clear.
    FileError
        If it is a path, and the file cannot be read.
    """
    options = UpscaleOptions(axes=axes, rgb=rgb)
    image = as_image(array, options)
    image = dataclasses.replace(image, data=ReadOnce(image.data))
    return assess(image, value_range, nodata)


def prepare(image: SpatialImage, options: UpscaleOptions) -> LazyUpscaled:
    """Plan the super-resolution of an image; only the range sample is read.

    The options' `axes` and `rgb` are already in the image. The `block` of what is
    returned is a `ModelHandle`.
    """
    layout = resolve_axes(image.shape, image.axes)
    check_dtype(image.data.dtype)
    sample = image
    if options.model == "auto" or options.model in CLEAN_ONLY:
        sample = dataclasses.replace(image, data=ReadOnce(image.data))
        options = _with_suitable_model(sample, options)
    dtype = _output_dtype(image.data.dtype, options.dtype)
    handle = ModelHandle.open(options.model, options.device, options.precision)
    config = handle.config
    _check_channels(layout, config)
    scale = _error_scale(handle, options.trust) if options.trust else None
    plan = plan_tiles(
        layout.plane_shape,
        core=options.tile or default_tile(config, options.halo),
        halo=config.halo(options.halo),
        multiple_of=config.window_size,
        upscale=config.upscale,
    )
    check_n_blocks(math.prod(plan.grid_shape) * layout.n_planes)
    nodata = image.nodata if options.nodata is None else options.nodata
    _warn_about_choices(layout, np.dtype(image.data.dtype), dtype, options)
    ranges = fit_ranges(sample.data, layout, options.value_range, nodata=nodata)
    return LazyUpscaled(
        image.data,
        layout,
        plan,
        ranges,
        handle,
        dtype=dtype,
        nodata=nodata,
        token=None if _names_itself(image.data) else uuid.uuid4().hex,
        error_scale=scale,
    )


def provenance(lazy: LazyUpscaled) -> dict[str, Any]:
    """Return what must be known to make the result again, as JSON can hold it."""
    from importlib.metadata import version

    handle = lazy.block
    assert isinstance(handle, ModelHandle)
    scale = lazy.error_scale
    trust = {} if scale is None else {"trust": dict(scale.record)}
    return {
        "software": f"napari-swin2sr {version('napari-swin2sr')}",
        "model": handle.name,
        "sha256": handle.sha256,
        "upscale": lazy.upscale,
        "tile": lazy.plan.core,
        "halo": lazy.plan.halo,
        "precision": "fp32" if handle.precision == "auto" else handle.precision,
        "value_range": [value_range.to_json() for value_range in lazy.ranges],
        **trust,
    }


# -- details --------------------------------------------------------------------------


def _with_suitable_model(
    image: SpatialImage, options: UpscaleOptions
) -> UpscaleOptions:
    """Choose the model for "auto"; say so where one amplifies the noise of an image."""
    found = assess(image, options.value_range, options.nodata)
    if options.model == "auto":
        if found.recommendation == INTERPOLATION:
            logger.warning("%s; model='auto' takes 'default'", found.reason)
            return options.replace(model="default")
        logger.warning("model='auto' takes %r: %s", found.recommendation, found.reason)
        return options.replace(model=found.recommendation)
    gain = found.expected_gain["default-clean"]
    if gain.mean < 0:
        logger.warning(
            "model=%r is for clean images and amplifies noise: on images as noisy as "
            "this one, such models were %.1f dB worse than interpolation (%.1f to "
            "%.1f); model='default' removes noise",
            *(options.model, -gain.mean, -gain.high, -gain.low),
        )
    return options


def _error_scale(handle: ModelHandle, level: float) -> ErrorScale:
    """Return what makes error bars of the model's half-widths, for the worst kind."""
    calibration = load_calibration(handle.resolved)
    number = level_index(level)
    worst = max(calibration.groups, key=lambda group: group.factors[number])
    record = {
        "level": level,
        "factor": worst.factors[number],
        "kind": worst.kind,
        "noise": worst.noise,
        "images": worst.images,
        "certified": level <= worst.certified,
        "model_sha256": calibration.model_sha256,
        "error_head_sha256": calibration.error_head_sha256,
        "date": calibration.date,
    }
    return ErrorScale(calibration.factor(level), tuple(record.items()))


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
            f"this model takes images of {config.num_channels} channels; only gray (1) "
            "and RGB (3) models can be applied"
        )
    if layout.is_rgb and config.num_channels == 1:
        raise InputError(
            "this model is for gray images. Call the samples channels (axes with C "
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
            "the alpha channel is interpolated; only the colors are super-resolved",
            stacklevel=4,
        )
    if options.precision in ("bf16", "fp16") and dtype.itemsize > 1:
        warnings.warn(
            f"precision={options.precision!r} is exact to about 8 bits, and the result "
            f"is {dtype}; precision='fp32' keeps its depth",
            stacklevel=4,
        )
