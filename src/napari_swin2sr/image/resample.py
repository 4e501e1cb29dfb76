"""Bicubic interpolation by a whole factor, for what the network must not touch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

REACH = 2
"""Pixels that are needed on each side."""


def upscale_plane(plane: NDArray[Any], upscale: int) -> NDArray[np.float64]:
    """Interpolate with Keys' cubic (a = -1/2); pixels keep their outer corners.

    Parameters
    ----------
    plane : (REACH + Y + REACH, REACH + X + REACH), any real dtype

    Returns
    -------
    (upscale Y, upscale X); every pixel is a fixed sum of 25, so that it does not
    depend on what else is in the plane
    """
    half = _along_rows(plane.astype(np.float64), upscale)
    return _along_rows(half.T, upscale).T


def _along_rows(plane: NDArray[np.float64], upscale: int) -> NDArray[np.float64]:
    height = len(plane) - 2 * REACH
    out = np.empty((height * upscale, plane.shape[1]))
    for phase in range(upscale):
        # The new pixel's centre, in old pixels from the old one's centre.
        place = (phase + 0.5) / upscale - 0.5
        out[phase::upscale] = sum(
            _keys(place - offset) * plane[REACH + offset : REACH + offset + height]
            for offset in range(-REACH, REACH + 1)
        )
    return out


def _keys(distance: float) -> float:
    t = math.fabs(distance)
    if t >= 2:
        return 0.0
    if t > 1:
        return ((-0.5 * t + 2.5) * t - 4) * t + 2
    return (1.5 * t - 2.5) * t * t + 1
