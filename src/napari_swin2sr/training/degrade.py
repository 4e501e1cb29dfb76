"""Low-resolution images made from high-resolution ones, as cameras make them.

Arrays are (C, H, W) float32, nominally 0 (black level) to 1 (full scale), unless said
otherwise. Every random choice comes from the generator that is passed in.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_swin2sr.errors import OptionError
from napari_swin2sr.image.resample import keys_cubic
from napari_swin2sr.training.options import DOWNSCALES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_swin2sr.training.options import TrainOptions

    Image = NDArray[np.float32]


# Not Pillow's, scipy's or skimage's resize: benchmarks are made with MATLAB's imresize,
# whose kernel has a = -0.5 and whose edges are mirrored; only the same taps give the
# same 8-bit files. Not `image.resample` either: it enlarges by whole factors only.
def resize_bicubic(image: NDArray[np.floating], shape: tuple[int, int]) -> Image:
    """Resize the last two axes with the Keys cubic (a = -0.5), as MATLAB does.

    (..., H, W) -> (..., *shape) float32, same value range, overshooting at sharp edges.
    A smaller result widens the kernel (antialiasing); beyond the edges the image is
    mirrored with the edge pixel repeated.
    """
    rows = _resize_last(np.swapaxes(image, -1, -2), shape[0])
    return _resize_last(np.swapaxes(rows, -1, -2), shape[1])


def downscale_levels(levels: NDArray[np.uint8], upscale: int) -> NDArray[np.uint8]:
    """Make the 8-bit benchmark input (..., H // u, W // u) of levels (..., H, W).

    MATLAB's imresize rounds after each axis; so does this, and the benchmark files
    come out identical. H and W are multiples of `upscale`.
    """
    height, width = (n // upscale for n in levels.shape[-2:])
    rows = _round_half_up(_resize_last(np.swapaxes(levels, -1, -2), height))
    return _round_half_up(_resize_last(np.swapaxes(rows, -1, -2), width))


def _round_half_up(image: Image) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)
    return levels


def _resize_last(image: NDArray[np.floating], n_out: int) -> Image:
    index, weight = _taps(image.shape[-1], n_out)
    result = np.zeros((*image.shape[:-1], n_out), np.float32)
    for columns, factors in zip(index.T, weight.T, strict=True):
        result += image[..., columns] * factors
    return result


@lru_cache(maxsize=256)
def _taps(n_in: int, n_out: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Source index and weight of every tap, (n_out, taps) each."""
    scale = n_out / n_in
    stretch = max(1.0, 1.0 / scale)
    center = (np.arange(n_out) + 0.5) / scale - 0.5
    n_taps = int(np.ceil(4 * stretch)) + 2
    first = np.floor(center - 2 * stretch).astype(np.intp)
    index = first[:, None] + np.arange(n_taps)
    weight = keys_cubic((center[:, None] - index) / stretch)
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored = np.mod(index, 2 * n_in)
    mirrored = np.where(mirrored < n_in, mirrored, 2 * n_in - 1 - mirrored)
    used = np.flatnonzero(np.any(weight != 0, axis=0))
    return mirrored[:, used], weight[:, used].astype(np.float32)


def downscale(image: Image, upscale: int, kind: str, sigma: float = 0.7) -> Image:
    """Make the low-resolution image that an `upscale` times finer one belongs to.

    (C, H, W) float32 -> (C, H // upscale, W // upscale) on the same grid of pixel
    corners; `kind` is one of `DOWNSCALES`, `sigma` the width of "psf" in pixels of
    `image`. H and W are multiples of `upscale`.
    """
    if kind not in DOWNSCALES:
        raise OptionError(f"downscale={kind!r} is not one of {', '.join(DOWNSCALES)}")
    channels, height, width = image.shape
    shape = (height // upscale, width // upscale)
    if kind == "bicubic":
        return resize_bicubic(image, shape)
    used = slice(None)
    if kind == "psf":
        image = blurred(image, sigma)
        # The middle pixel of a block; for an even factor the mean of the middle ones,
        # between which the center of the large pixel lies.
        used = slice((upscale - 1) // 2, upscale // 2 + 1)
    blocks = image.reshape(channels, shape[0], upscale, shape[1], upscale)
    mean: Image = blocks[:, :, used, :, used].mean(axis=(2, 4), dtype=np.float32)
    return mean


def blurred(image: Image, sigma: float) -> Image:
    """Blur (C, H, W) by a Gaussian of this standard deviation in pixels."""
    result: Image = gaussian_filter(image, (0, sigma, sigma), truncate=3)
    return result


def defocused(image: Image, rng: np.random.Generator) -> Image:
    """Blur (C, H, W) by a Gaussian, 0.7 to 4 pixels wide, as out-of-focus regions are.

    Used on the target: such an image holds no more detail than its small version.
    """
    return blurred(image, float(np.exp(rng.uniform(np.log(0.7), np.log(4.0)))))


def rounded(image: Image) -> Image:
    """Round values from 0 to 1 to 8 bits, without clipping.

    Detectors have an offset: noise below zero must stay there. Clipped, the mean of a
    dark image would rise, and a network would learn to lower it.
    """
    levels: Image = np.rint(image * 255).astype(np.float32)
    return levels / np.float32(255)


def add_noise(
    image: Image, photons: float, read_noise: float, rng: np.random.Generator
) -> Image:
    """Add shot noise (1.0 means `photons` photons) and Gaussian read-out noise.

    The result is not clipped, so it can be slightly negative. `read_noise` is a
    standard deviation, as a share of full scale.
    """
    shot = rng.poisson(np.maximum(image, 0) * photons) / photons
    return (shot + rng.normal(0.0, read_noise, image.shape)).astype(np.float32)


def add_hot_pixels(image: Image, rng: np.random.Generator) -> Image:
    """Replace one pixel in a thousand (at least one) of (C, H, W) by a bright value."""
    height, width = image.shape[-2:]
    count = 1 + int(rng.poisson(height * width / 1000))
    rows, columns = rng.integers(0, height, count), rng.integers(0, width, count)
    image = image.copy()
    image[:, rows, columns] = rng.uniform(0.3, 1.0, count)
    return image


def through_jpeg(image: Image, quality: int) -> Image:
    """Write and read (3, H, W) float32 in [0, 1] as an 8-bit JPEG."""
    from PIL import Image as pil  # noqa: N813

    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    file = io.BytesIO()
    pil.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0))).save(
        file, "JPEG", quality=quality
    )
    with pil.open(file) as read:
        decoded: Image = np.asarray(read).transpose(2, 0, 1).astype(np.float32)
    return decoded / np.float32(255)


def degrade(
    image: Image,
    upscale: int,
    gray: bool,
    options: TrainOptions,
    rng: np.random.Generator,
) -> Image:
    """Make the low-resolution side of one sample, as the options say.

    (3, H, W) -> (3, H // upscale, W // upscale). All channels of a `gray` image are
    equal and stay so.
    """
    source = image[:1] if gray else image
    shares = np.array([options.downscale.get(way, 0.0) for way in DOWNSCALES])
    kind = DOWNSCALES[int(rng.choice(len(shares), p=shares / shares.sum()))]
    lowres = downscale(source, upscale, kind, sigma=rng.uniform(0.4, 1.0))
    noisy = rng.random() < options.noise
    if noisy:
        photons = np.exp(rng.uniform(*np.log(options.photons)))
        read_noise = np.exp(rng.uniform(*np.log(options.read_noise)))
        lowres = add_noise(lowres, photons, read_noise, rng)
    if rng.random() < options.hot:
        lowres = add_hot_pixels(lowres, rng)
    if not (noisy or gray) and rng.random() < options.jpeg:
        lowres = through_jpeg(lowres, int(rng.integers(75, 96)))
    if rng.random() < options.rounding:
        lowres = rounded(lowres)
    return np.repeat(lowres, 3, axis=0) if gray else lowres
