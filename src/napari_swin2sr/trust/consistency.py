"""Compare any super-resolved image with the image it was made from.

Binning the result must give the input back, up to the noise of the input. What
binning cannot see (detail that cancels in each input pixel) was added by the network;
how much that is can be measured, whether it is right cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_swin2sr.errors import InputError
from napari_swin2sr.formats import as_image
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import missing_pixels
from napari_swin2sr.image.resample import REACH, upscale_plane
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.trust.noise import NoiseModel, estimate_noise, sampled_planes

if TYPE_CHECKING:
    import dask.array as da
    from numpy.typing import NDArray

    from napari_swin2sr.image.axes import AxisLayout
    from napari_swin2sr.image.record import SpatialImage


class Consistency(NamedTuple):
    """How a super-resolved image stands to its source.

    Attributes
    ----------
    z : difference between the source and the binned result, in standard deviations of
        the source's noise; of the source's shape, float32, NaN where it is missing
    added : detail that the source does not hold, in the units of the image; of the
        result's shape, float32, NaN where the source is missing
    """

    z: da.Array
    added: da.Array


def consistency(
    lowres: Any,
    highres: Any,
    *,
    axes: str | None = None,
    rgb: bool | None = None,
    nodata: float | None = None,
    sigma: float | None = None,
) -> Consistency:
    r"""Compare a super-resolved image with its source, lazily.

    ``z = (lowres - bin(highres)) / sigma`` and
    ``added = |highres - interpolate(bin(highres))|``, where `bin` is the mean over
    the pixels of one source pixel, and `interpolate` Keys' cubic (a = -1/2). An image
    that keeps its source's light has \\|z\\| above 3 in 0.3 % of the pixels if the
    result shows the true scene, and in fewer where it followed the noise. Changes
    whose mean over each source pixel is zero do not show in `z`, only in `added`.

    Parameters
    ----------
    lowres : array_like or path
        The source: anything that `apply` takes.
    highres : array_like or path
        The result, of `apply` or of any other program, in the same axes; Y and X are a
        whole number of times as long.
    axes : str, optional
        One letter per axis of both, from T C Z Y X S.
    rgb : bool, optional
        The last axis holds RGB or RGBA samples.
    nodata : float, optional
        Value of missing pixels of the source.
    sigma : float, optional
        Standard deviation of the source's noise, in its units. By default it is
        estimated for each channel, as photon and read-out noise, from a bounded
        sample of pixels.

    Returns
    -------
    Consistency
        `(z, added)`, lazy dask arrays.

    Raises
    ------
    InputError
        If one of them is no image, or their shapes do not belong together.
    OptionError
        If the axes are not clear.
    """
    import dask.array as da

    options = UpscaleOptions(axes=axes, rgb=rgb, nodata=nodata)
    low, high = as_image(lowres, options), as_image(highres, options)
    layout = resolve_axes(low.shape, low.axes)
    factor = _factor(low, high)
    if sigma is not None and not 0 < sigma < np.inf:
        raise InputError(f"sigma={sigma!r} is not a positive, finite number")
    nodata = low.nodata if nodata is None else nodata
    noise = [
        _noise(low.data, layout, c, nodata, sigma) for c in range(layout.n_channels)
    ]
    source, result = _lazy(low.data), _lazy(high.data)
    result = result.rechunk(
        tuple(
            tuple(n * factor for n in sizes) if letter in "YX" else sizes
            for letter, sizes in zip(low.axes, source.chunks, strict=True)
        )
    )
    missing = da.map_blocks(_missing, source, nodata=nodata, dtype=bool)
    plane = (layout.y, layout.x)
    binned = da.coarsen(
        np.mean, result.astype(np.float64), dict.fromkeys(plane, factor)
    )
    gain, offset = (_per_channel(noise, name, layout) for name in ("gain", "offset"))
    spread = da.sqrt(da.maximum(gain * binned + offset, offset))
    z = da.where(missing, np.nan, (source - binned) / spread).astype(np.float32)
    around = da.overlap.overlap(
        binned, depth=dict.fromkeys(plane, REACH), boundary="nearest"
    )
    added = da.map_blocks(
        _added, result, around, missing, plane=plane, factor=factor, dtype=np.float32
    )
    return Consistency(z, added)


# -- details --------------------------------------------------------------------------


def _factor(low: SpatialImage, high: SpatialImage) -> int:
    """Return how many times longer Y and X of the result are."""
    pairs = dict(zip(low.axes, zip(low.shape, high.shape, strict=False), strict=False))
    factors = {
        big // small if small and big % small == 0 else 0
        for axis, (small, big) in pairs.items()
        if axis in "YX"
    }
    others = all(
        small == big for axis, (small, big) in pairs.items() if axis not in "YX"
    )
    same_axes = low.axes == high.axes and len(low.shape) == len(high.shape)
    if not same_axes or not others or len(factors) != 1 or min(factors) < 1:
        raise InputError(
            f"a result of axes {high.axes} and shape {high.shape} does not belong to a "
            f"source of axes {low.axes} and shape {low.shape}: Y and X must be the "
            "same whole number of times as long, all other axes equal. Give axes=, or "
            "crop what was padded"
        )
    return factors.pop()


def _noise(
    source: Any,
    layout: AxisLayout,
    channel: int,
    nodata: float | None,
    sigma: float | None,
) -> NoiseModel:
    """Return a channel's noise, with the rounding of its type as the least."""
    dtype = np.dtype(source.dtype)
    least = 1 / 12 if dtype.kind in "iub" else float(np.finfo(np.float32).tiny)
    if sigma is not None:
        return NoiseModel(0.0, max(sigma**2, least))
    planes = sampled_planes(source, layout, channel, nodata)
    found = estimate_noise(planes) or NoiseModel(0.0, 0.0)
    return NoiseModel(found.gain, max(found.offset, least))


def _per_channel(
    noise: list[NoiseModel], name: str, layout: AxisLayout
) -> NDArray[np.float64]:
    """Return a number per channel in a shape that fits the image."""
    shape = [
        layout.n_channels if k == layout.c else 1 for k in range(len(layout.shape))
    ]
    return np.reshape([getattr(model, name) for model in noise], shape)


def _lazy(array: Any) -> Any:
    """Return an array as dask sees it."""
    import dask.array as da

    if isinstance(array, da.Array):
        return array
    return da.from_array(array, asarray=False, fancy=False)


def _missing(block: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    missing = missing_pixels(block, nodata)
    return np.zeros(block.shape, bool) if missing is None else missing


def _added(
    result: NDArray[Any],
    around: NDArray[np.float64],
    missing: NDArray[np.bool_],
    plane: tuple[int, int],
    factor: int,
) -> NDArray[np.float32]:
    """Return what a block has beyond the interpolation of its own binned pixels."""
    smooth = np.moveaxis(around, plane, (-2, -1))
    smooth = np.stack(
        [upscale_plane(p, factor) for p in smooth.reshape(-1, *smooth.shape[-2:])]
    ).reshape(
        *smooth.shape[:-2], *(factor * (n - 2 * REACH) for n in smooth.shape[-2:])
    )
    added = np.abs(result - np.moveaxis(smooth, (-2, -1), plane))
    for axis in plane:
        missing = missing.repeat(factor, axis)
    return np.where(missing, np.nan, added).astype(np.float32)
