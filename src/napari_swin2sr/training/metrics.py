"""Image quality as the super-resolution field computes it.

Published tables quantize both images to 8 bits, take the luma of ITU-R BT.601 in its
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

    A gray image (H, W) stands for three equal channels.
    """
    levels = np.asarray(rgb, np.float64)
    if levels.ndim == 2:
        return 16.0 + levels * (219.0 / 255.0)
    weighted: Plane = 16.0 + levels @ np.array([65.481, 128.553, 24.966]) / 255.0
    return weighted


def psnr(image: NDArray[np.number], target: NDArray[np.number], peak: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite when the images are equal."""
    from skimage.metrics import peak_signal_noise_ratio

    image, target = _comparable(image, target)
    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(target, image, data_range=peak))


def ssim(image: NDArray[np.number], target: NDArray[np.number], peak: float) -> float:
    """Mean structural similarity of (H, W) or (H, W, C) images.

    Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, only where the
    window fits inside the image. Channels are averaged.
    """
    from skimage.metrics import structural_similarity

    image, target = _comparable(image, target)
    if min(image.shape[:2]) < 11:
        raise InputError(
            f"SSIM needs at least 11 x 11 pixels, this image has {image.shape[:2]}"
        )
    return float(
        structural_similarity(
            target,
            image,
            data_range=peak,
            channel_axis=-1 if image.ndim == 3 else None,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def crop_border(image: NDArray[np.number], border: int) -> NDArray[np.number]:
    """Drop `border` pixels on each side of the first two axes."""
    return image[border:-border, border:-border] if border else image


def benchmark_scores(
    image: NDArray[np.number], target: NDArray[np.number], border: int
) -> tuple[float, float]:
    """PSNR (dB) and SSIM on Y, as published tables compute them.

    Parameters
    ----------
    image, target : ndarray of shape (H, W, 3) or (H, W)
        Levels from 0 to 255; rounded and clipped here.
    border : int
        Pixels dropped on each side; published tables drop the factor of the model.

    Returns
    -------
    psnr : float
        Decibels.
    ssim : float
        Mean structural similarity.

    Raises
    ------
    InputError
        If the shapes differ, or less than 11 x 11 pixels are left.
    """
    levels = (
        np.clip(np.rint(np.asarray(x, np.float64)), 0, 255) for x in (image, target)
    )
    a, b = (crop_border(luma(x), border) for x in levels)
    return psnr(a, b, 255.0), ssim(a, b, 255.0)


def linear_scores(
    image: NDArray[np.number], target: NDArray[np.number], border: int
) -> tuple[float, float]:
    """PSNR (dB) and SSIM of linear values from 0 to 1, neither rounded nor clipped."""
    a, b = crop_border(image, border), crop_border(target, border)
    return psnr(a, b, peak=1.0), ssim(a, b, peak=1.0)


def _comparable(
    image: NDArray[np.number], target: NDArray[np.number]
) -> tuple[Plane, Plane]:
    if image.shape != target.shape:
        raise InputError(
            f"images of different shape cannot be compared: {image.shape} and "
            f"{target.shape}"
        )
    return np.asarray(image, np.float64), np.asarray(target, np.float64)
