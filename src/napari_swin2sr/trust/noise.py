"""Camera noise, estimated from the image alone.

The noise of a camera has a part from counting photons, whose variance grows with the
signal, and a part that does not depend on it (A. Foi, M. Trimeche, V. Katkovnik and
K. Egiazarian, IEEE Trans. Image Process. 17, 1737, 2008). Both are read off the
flattest patches of the image: there the diagonal detail of 2 x 2 pixels,
(a - b - c + d) / 2, has the variance of the noise and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.image.intensity import missing_pixels
from napari_swin2sr.image.sampling import sample_places
from napari_swin2sr.image.sources import read_block

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import ArrayLike, NDArray

    from napari_swin2sr.image.axes import AxisLayout

PATCH = 8
"""Side of the patches whose mean and noise are compared [px]."""

_FLAT_SHARE = 0.15  # of the patches of similar brightness, the flattest count
_LEVELS = 12  # of brightness, at most
_PATCHES_PER_LEVEL = 32
_FEWEST_PATCHES = 4


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Noise of variance ``gain * value + offset``, in the units of the values.

    Attributes
    ----------
    gain : value of one photon
    offset : variance without light: read-out noise and rounding
    """

    gain: float
    offset: float

    def sigma(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the standard deviation of the noise at given values."""
        variance = self.gain * np.asarray(values, np.float64) + self.offset
        return np.sqrt(np.maximum(variance, 0.0))


def estimate_noise(planes: Iterable[NDArray[Any]]) -> NoiseModel | None:
    """Fit a noise model to parts of an image.

    Parameters
    ----------
    planes : iterable of (Y, X) floating-point arrays
        NaN where pixels are missing; values are linear in the light, 0 is no light.

    Returns
    -------
    NoiseModel or None
        None where too few patches without missing pixels were given.
    """
    from scipy.optimize import nnls

    parts = [_patches(plane) for plane in planes]
    mean, variance, structure = (np.concatenate(c) for c in zip(*parts, strict=True))
    if len(mean) < _FEWEST_PATCHES:
        return None
    levels = max(1, min(_LEVELS, len(mean) // _PATCHES_PER_LEVEL))
    points = []
    for level in np.array_split(np.argsort(mean), levels):
        count = max(_FEWEST_PATCHES, int(_FLAT_SHARE * len(level)))
        flat = level[np.argsort(structure[level])[:count]]
        points.append((mean[flat].mean(), variance[flat].mean()))
    signal, noise = np.transpose(points)
    # The spread of an estimated variance grows with the variance.
    floor = 0.05 * np.median(noise) + (1e-9 * np.abs(signal).max()) ** 2 or 1.0
    weight = 1 / np.maximum(noise, floor)
    design = np.stack([np.maximum(signal, 0), np.ones_like(signal)], axis=1)
    (gain, offset), _ = nnls(design * weight[:, None], noise * weight)
    return NoiseModel(float(gain), float(offset))


def sampled_planes(
    source: Any, layout: AxisLayout, channel: int, nodata: float | None
) -> Iterator[NDArray[np.float64]]:
    """Read the bounded sample of a channel: (Y, X) planes, NaN where missing.

    RGB pixels become their mean, without alpha.
    """
    places, _complete = sample_places(layout, channel)
    for place in places:
        block = read_block(source, layout.plane_index(*place))
        samples = layout.to_plane(block)[:3]
        values = np.ma.getdata(samples).astype(np.float64)
        missing = missing_pixels(samples, nodata)
        if missing is not None:
            values[missing] = np.nan
        yield values.mean(axis=0)


def _patches(plane: NDArray[Any]) -> tuple[NDArray[np.float64], ...]:
    """Return the mean, noise variance and structure of each patch without NaN.

    Structure is measured on means of 2 x 2 pixels, whose noise is independent of
    that of the diagonal detail: choosing flat patches does not choose quiet ones.
    """
    rows, columns = (n // PATCH for n in plane.shape)
    cut = plane[: rows * PATCH, : columns * PATCH].astype(np.float64)
    grid = cut.reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2)
    patches = grid.reshape(-1, PATCH, PATCH)
    patches = patches[np.isfinite(patches).all(axis=(1, 2))]
    a, b = patches[:, ::2, ::2], patches[:, ::2, 1::2]
    c, d = patches[:, 1::2, ::2], patches[:, 1::2, 1::2]
    detail = (a - b - c + d) / 2
    means = (a + b + c + d) / 4
    return (
        patches.mean(axis=(1, 2)),
        np.square(detail).mean(axis=(1, 2)),
        means.var(axis=(1, 2)),
    )
