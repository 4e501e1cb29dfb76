"""Image quality as the super-resolution field computes it.

Published tables quantise both images to 8 bits, take the luma of ITU-R BT.601 in its
studio swing (16 to 235), drop a border as wide as the factor and compare with a peak
of 255. For scientific images the same measures are taken on linear values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_swin2sr.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float64]


def luma(rgb: NDArray[np.number]) -> Plane:
    """Return the BT.601 luma (16..235) of (H, W, 3) levels from 0 to 255.

    A grey image (H, W) stands for three equal channels.
    """
    levels = np.asarray(rgb, np.float64)
    if levels.ndim == 2:
        return 16.0 + levels * (219.0 / 255.0)
    weighted: Plane = 16.0 + levels @ np.array([65.481, 128.553, 24.966]) / 255.0
    return weighted


def psnr(image: NDArray[np.number], truth: NDArray[np.number], peak: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite when the images are equal."""
    difference = _same(image, truth)
    error = float(np.mean(difference**2))
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ssim(image: NDArray[np.number], truth: NDArray[np.number], peak: float) -> float:
    """Mean structural similarity of (H, W) or (H, W, C) images.

    Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, only where the
    window fits inside the image. Channels are averaged.
    """
    _same(image, truth)
    a, b = np.asarray(image, np.float64), np.asarray(truth, np.float64)
    if min(a.shape[:2]) < 11:
        raise InputError(
            f"SSIM needs at least 11 x 11 pixels, this image has {a.shape[:2]}"
        )
    if a.ndim == 3:
        channels = range(a.shape[2])
        return float(np.mean([ssim(a[..., c], b[..., c], peak) for c in channels]))
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    var_a = _window_mean(a * a) - mean_a**2
    var_b = _window_mean(b * b) - mean_b**2
    covariance = _window_mean(a * b) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return float(similarity.mean())


def _window_mean(plane: Plane) -> Plane:
    x = np.arange(11) - 5.0
    kernel = np.exp(-0.5 * (x / 1.5) ** 2)
    kernel /= kernel.sum()
    view = np.lib.stride_tricks.sliding_window_view
    rows = view(plane, 11, axis=0) @ kernel
    means: Plane = view(rows, 11, axis=1) @ kernel
    return means


def crop_border(image: NDArray[np.number], border: int) -> NDArray[np.number]:
    """Drop `border` pixels on each side of the first two axes."""
    if border == 0:
        return image
    return image[border:-border, border:-border]


def benchmark_scores(
    image: NDArray[np.number], truth: NDArray[np.number], border: int
) -> tuple[float, float]:
    """PSNR (dB) and SSIM on Y, as published tables compute them.

    Parameters
    ----------
    image, truth : (H, W, 3) or (H, W), levels 0..255; rounded and clipped here
    border : pixels dropped on each side; the factor of the model in published tables
    """
    levels = (
        np.clip(np.rint(np.asarray(x, np.float64)), 0, 255) for x in (image, truth)
    )
    a, b = (crop_border(luma(x), border) for x in levels)
    return psnr(a, b, 255.0), ssim(a, b, 255.0)


def linear_scores(
    image: NDArray[np.number], truth: NDArray[np.number], border: int
) -> tuple[float, float]:
    """PSNR (dB) and SSIM of linear values from 0 to 1, neither rounded nor clipped."""
    a, b = crop_border(image, border), crop_border(truth, border)
    return psnr(a, b, peak=1.0), ssim(a, b, peak=1.0)


def _same(image: NDArray[np.number], truth: NDArray[np.number]) -> Plane:
    if image.shape != truth.shape:
        raise InputError(
            f"images of different shape cannot be compared: {image.shape} and "
            f"{truth.shape}"
        )
    return np.asarray(image, np.float64) - np.asarray(truth, np.float64)
