"""Missing pixels: what the network sees in their place, and what users get back.

One pixel that is no number would spoil the network's whole field of view, so every
missing pixel is filled first and put back afterwards. What it is filled with depends
on its neighborhood alone, not on the tile that it is in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import correlate1d

from napari_swin2sr.image.intensity import as_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

REACH = 8
"""How far a missing pixel looks for others; read so much more around a tile."""


def fill(values: NDArray[Any], missing: NDArray[np.bool_]) -> None:
    """Replace missing values, in place.

    A missing pixel gets the mean of those of its 8 neighbors that are there, else of
    the 17 x 17 pixels around it, else 0, the range's low end.

    Both arrays are (S, Y, X), `values` in the network's scale.
    """
    for plane, plane_missing in zip(values, missing, strict=True):
        if not plane_missing.any():
            continue
        window = _around(plane_missing)
        part, absent = plane[window], plane_missing[window]
        known = np.where(absent, 0.0, part).astype(np.float64)
        filled = np.zeros_like(known)
        empty = absent
        for radius in (1, REACH):
            count = _box_sum((~absent).astype(np.float64), radius)
            found = empty & (count > 0)
            filled[found] = _box_sum(known, radius)[found] / count[found]
            empty = empty & ~found
        part[absent] = filled[absent]


def restore(
    result: NDArray[Any],
    original: NDArray[Any],
    missing: NDArray[np.bool_] | None,
    upscale: int,
    nodata: float | None,
) -> None:
    """Put missing pixels back as `upscale` x `upscale` blocks, in place.

    NaN and infinity stay what they are, and so do `nodata` and finite values that
    float32 cannot hold. Masked pixels become `nodata`, or NaN without one. In a type
    that has no NaN it becomes `nodata`, or 0 without one; masked pixels then keep the
    value under the mask. A result that happens to equal `nodata` where nothing is
    missing moves to the next value of its type.

    `result` is (S, uY, uX) of any output type; `original` and `missing` (or None when
    nothing is) are (S, Y, X), as read.
    """
    mark = None if nodata is None else as_dtype(nodata, result.dtype)
    if mark is not None and mark == mark:  # not NaN
        result[result == mark] = _beside(mark)
    if missing is None:
        return
    values = _as_result(original, missing, result.dtype, mark)
    planes, rows, columns = missing.nonzero()
    for i in range(upscale):
        for j in range(upscale):
            result[planes, rows * upscale + i, columns * upscale + j] = values


def _as_result(
    original: NDArray[Any],
    missing: NDArray[np.bool_],
    dtype: np.dtype[Any],
    mark: np.generic | None,
) -> NDArray[Any]:
    """Return the missing pixels' values in the result's type, as a list."""
    values = np.ma.getdata(original)[missing]
    masked = np.ma.getmaskarray(original)[missing]
    nothing = values != values  # NaN
    if dtype.kind == "f":
        finite = np.isfinite(values)
        with np.errstate(over="ignore", invalid="ignore"):
            out = values.astype(dtype)
        lost = finite & np.isinf(out)
        out[lost] = np.copysign(np.finfo(dtype).max, out[lost])
        out[masked] = math.nan if mark is None else mark
        return out
    info = None if dtype.kind == "b" else np.iinfo(dtype)
    low, high = (0, 1) if info is None else (int(info.min), int(info.max))
    exact = [
        0 if empty else int(max(low, min(high, value)))
        for value, empty in zip(values.tolist(), nothing.tolist(), strict=True)
    ]
    out = np.array(exact, dtype)
    if mark is not None:
        out[nothing | masked] = mark
    return out


def _beside(mark: Any) -> Any:
    """Return the value next to a mark, away from the end of its type."""
    dtype = mark.dtype
    if dtype.kind == "f":
        return np.nextafter(mark, dtype.type(0 if mark else 1))
    if dtype.kind == "b":
        return not mark
    number = int(mark)
    return number - 1 if number == np.iinfo(dtype).max else number + 1


def _around(missing: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the smallest window with all missing pixels and what they look at."""
    bounds = []
    for axis in (1, 0):
        (hit,) = np.nonzero(missing.any(axis=axis))
        bounds.append(slice(max(0, int(hit[0]) - REACH), int(hit[-1]) + REACH + 1))
    return bounds[0], bounds[1]


def _box_sum(plane: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """Sum (2 radius + 1)**2 pixels around each, beyond the edges 0.

    Every sum is made in the same order, so its bits do not depend on the position.
    """
    ones = np.ones(2 * radius + 1)
    rows = correlate1d(plane, ones, axis=0, mode="constant")
    result: NDArray[np.float64] = correlate1d(rows, ones, axis=1, mode="constant")
    return result
