"""Resampling that is not the network's: Keys' cubic, and means of blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

REACH = 2
"""Pixels that `upscale_plane` needs on each side."""


def keys_cubic(distance: NDArray[Any] | float) -> NDArray[np.float64]:
    """Return the cubic convolution kernel of Keys with a = -1/2, support (-2, 2)."""
    t = np.abs(np.asarray(distance, np.float64))
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def upscale_plane(plane: NDArray[Any], upscale: int) -> NDArray[np.float64]:
    """Interpolate by Keys' cubic; both grids of pixels share their outer corners.

    Parameters
    ----------
    plane : array of shape (REACH + Y + REACH, REACH + X + REACH)
        Pixels of any real dtype.
    upscale : int
        Output pixels per input pixel and axis.

    Returns
    -------
    array of shape (upscale Y, upscale X)
        Every pixel is a fixed sum of 25: it depends on nothing else in the plane.
    """
    half = _upscale_rows(plane.astype(np.float64), upscale)
    return _upscale_rows(half.T, upscale).T


def _upscale_rows(plane: NDArray[np.float64], upscale: int) -> NDArray[np.float64]:
    height = len(plane) - 2 * REACH
    out = np.empty((height * upscale, plane.shape[1]))
    for phase in range(upscale):
        # The new pixel's center, in old pixels from the old one's center.
        place = (phase + 0.5) / upscale - 0.5
        out[phase::upscale] = sum(
            keys_cubic(place - offset) * plane[REACH + offset : REACH + offset + height]
            for offset in range(-REACH, REACH + 1)
        )
    return out


def block_means(
    pixels: NDArray[Any],
    axes: Sequence[int],
    factor: int = 2,
    *,
    nodata: float | None = None,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """Return the means of blocks of `factor` pixels along each of `axes`.

    Pyramids, binned samples and low-resolution targets are made with it. A block at a
    far edge may be smaller; pixels that are NaN or `nodata` do not count.

    Parameters
    ----------
    pixels : array
        Any real dtype.
    axes : sequence of int
        The axes that get shorter, such as those of Y and X.
    factor : int
        Pixels per block along each of them.
    nodata : float, optional
        Value of missing pixels.
    dtype : dtype, optional
        Of the means; by default that of `pixels`, integers being rounded half to even
        and bool voted on (one half is True).

    Returns
    -------
    array
        Blocks without any pixel are `nodata`, or NaN without one.
    """
    wanted = pixels.dtype if dtype is None else np.dtype(dtype)
    there = _present(pixels, nodata)
    if there is None:
        means = _block_sums(pixels, axes, factor)
        missing = None
        for axis in axes:
            n = pixels.shape[axis]
            sizes = np.minimum(factor, n - np.arange(0, n, factor))
            shape = [1] * pixels.ndim
            shape[axis] = -1
            means /= sizes.reshape(shape)
    else:
        means = _block_sums(np.where(there, pixels, 0), axes, factor)
        count = _block_sums(there, axes, factor)
        missing = count == 0
        means /= np.maximum(count, 1)
    if wanted.kind in "iu":
        np.rint(means, out=means)
    result: NDArray[Any] = (means >= 0.5 if wanted.kind == "b" else means).astype(
        wanted
    )
    if missing is not None and missing.any():
        result[missing] = np.nan if nodata is None else nodata
    return result


def _present(pixels: NDArray[Any], nodata: float | None) -> NDArray[np.bool_] | None:
    """Return which pixels count, or None if all do."""
    there: NDArray[np.bool_] | None = None
    if pixels.dtype.kind == "f":
        there = ~np.isnan(pixels)
    if nodata is not None and not math.isnan(nodata):
        same = pixels != nodata
        there = same if there is None else there & same
    return None if there is None or there.all() else there


def _block_sums(
    pixels: NDArray[Any], axes: Sequence[int], factor: int
) -> NDArray[np.float64]:
    # One strided sum per place in a block is ten times faster than `add.reduceat`.
    sums = pixels
    for axis in axes:
        lines = np.moveaxis(sums, axis, 0)
        out = np.zeros((-(-len(lines) // factor), *lines.shape[1:]))
        for place in range(factor):
            part = lines[place::factor]
            out[: len(part)] += part
        sums = np.moveaxis(out, 0, axis)
    return sums.astype(np.float64, copy=False)
