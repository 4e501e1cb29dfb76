"""Low-resolution images made from high-resolution ones, as cameras make them.

Arrays are (C, H, W) float32, nominally 0 (dark) to 1 (full scale), unless said
otherwise. Every random choice comes from the generator that is passed in.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_swin2sr.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]

DOWNSCALES = ("bicubic", "area", "psf")
"""Ways to make the small image: antialiased bicubic as benchmarks do, the mean of
u x u pixels as camera binning does, a Gaussian point spread then decimation."""


def resize_bicubic(image: NDArray[np.floating], shape: tuple[int, int]) -> Image:
    """Resize the last two axes with the Keys cubic (a = -0.5), as MATLAB does.

    Making an image smaller widens the kernel (antialiasing); beyond the edges the
    image is mirrored with the edge pixel repeated.

    Parameters
    ----------
    image : (..., H, W), any value range
    shape : new (height, width) in pixels

    Returns
    -------
    (..., *shape) float32, same value range; it may overshoot at sharp edges.
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
    centre = (np.arange(n_out) + 0.5) / scale - 0.5
    n_taps = int(np.ceil(4 * stretch)) + 2
    first = np.floor(centre - 2 * stretch).astype(np.intp)
    index = first[:, None] + np.arange(n_taps)
    weight = keys_cubic((centre[:, None] - index) / stretch)
    weight /= weight.sum(axis=1, keepdims=True)
    mirrored = np.mod(index, 2 * n_in)
    mirrored = np.where(mirrored < n_in, mirrored, 2 * n_in - 1 - mirrored)
    used = np.flatnonzero(np.any(weight != 0, axis=0))
    return mirrored[:, used], weight[:, used].astype(np.float32)


def keys_cubic(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cubic convolution kernel of Keys with a = -0.5, support (-2, 2)."""
    a = np.abs(np.asarray(x, np.float64))
    near = (1.5 * a - 2.5) * a * a + 1
    far = ((-0.5 * a + 2.5) * a - 4) * a + 2
    return np.where(a <= 1, near, np.where(a < 2, far, 0.0))


def downscale(image: Image, upscale: int, kind: str, sigma: float = 0.7) -> Image:
    """Make the low-resolution image that an `upscale` times finer one belongs to.

    Parameters
    ----------
    image : (C, H, W) float32; H and W are multiples of `upscale`
    upscale : how many times smaller the result is
    kind : one of `DOWNSCALES`
    sigma : width of the point spread function in pixels of `image` ("psf" only)

    Returns
    -------
    (C, H // upscale, W // upscale) float32, on the same pixel-corner grid.
    """
    channels, height, width = image.shape
    small = (height // upscale, width // upscale)
    if kind == "bicubic":
        return resize_bicubic(image, small)
    if kind == "psf":
        image = blurred(image, sigma)
    elif kind != "area":
        raise OptionError(f"downscale={kind!r} is not one of {', '.join(DOWNSCALES)}")
    blocks = image.reshape(channels, small[0], upscale, small[1], upscale)
    if kind == "area" or upscale % 2 == 0:
        # For an even factor the centre of a large pixel lies between four small
        # ones; their mean keeps the grid in place.
        if kind == "psf" and upscale > 2:
            middle = slice(upscale // 2 - 1, upscale // 2 + 1)
            blocks = blocks[:, :, middle, :, middle]
        mean: Image = blocks.mean(axis=(2, 4), dtype=np.float32)
        return mean
    return np.ascontiguousarray(blocks[:, :, upscale // 2, :, upscale // 2])


def blurred(image: Image, sigma: float) -> Image:
    """Blur (C, H, W) by a Gaussian of this standard deviation in pixels."""
    result: Image = gaussian_filter(image, (0, sigma, sigma), truncate=3)
    return result


def defocused(image: Image, rng: np.random.Generator) -> Image:
    """Blur (C, H, W) by a Gaussian, 0.7 to 4 pixels wide, as out-of-focus regions are.

    Used on the truth: such an image holds no more detail than its small version.
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
    """Add shot noise and read-out noise.

    Parameters
    ----------
    image : (C, H, W) float32; 1.0 means `photons` photons
    photons : photons of a pixel at full scale
    read_noise : standard deviation of the Gaussian part, as a share of full scale
    rng : source of the noise

    Returns
    -------
    Array of the same shape, float32; not clipped, so it can be slightly negative.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """How training samples are degraded; shares are probabilities.

    Attributes
    ----------
    bicubic, area, psf : relative shares of the ways to make the image smaller
    noise : share of samples with noise
    photons : smallest and largest photon count at full scale (drawn log-uniformly)
    read_noise : smallest and largest read-out noise, as a share of full scale
    hot : share of samples with a few hot pixels, which the truth does not have
    rounding : share of samples rounded to 8 bits
    jpeg : share of noise-free colour samples that go through JPEG
    """

    bicubic: float = 0.5
    area: float = 0.25
    psf: float = 0.25
    noise: float = 0.35
    photons: tuple[float, float] = (60.0, 3000.0)
    read_noise: tuple[float, float] = (0.002, 0.02)
    hot: float = 0.05
    rounding: float = 0.5
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares and ranges that mean nothing."""
        shares = (self.bicubic, self.area, self.psf)
        if min(shares) < 0 or sum(shares) <= 0:
            raise OptionError(
                f"shares of bicubic, area and psf are {shares}; they must be 0 or "
                "more and not all 0"
            )
        for name in ("noise", "hot", "rounding", "jpeg"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(
                    f"{name}={getattr(self, name)!r} is not a share between 0 and 1"
                )
        for name in ("photons", "read_noise"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise OptionError(
                    f"{name}={low!r},{high!r} is not a range LOW,HIGH with 0 < LOW "
                    "<= HIGH"
                )

    def draw(
        self, image: Image, upscale: int, grey: bool, rng: np.random.Generator
    ) -> tuple[Image, bool]:
        """Degrade one sample.

        Parameters
        ----------
        image : (3, H, W) float32, nominally 0..1
        upscale : factor between `image` and the result
        grey : all channels are equal and must stay so
        rng : source of all choices

        Returns
        -------
        The small image (3, H // upscale, W // upscale) float32, and whether it is
        what benchmarks call clean: bicubic, without noise or compression.
        """
        source = image[:1] if grey else image
        shares = np.array([self.bicubic, self.area, self.psf])
        kind = DOWNSCALES[int(rng.choice(3, p=shares / shares.sum()))]
        small = downscale(source, upscale, kind, sigma=rng.uniform(0.4, 1.0))
        noisy = rng.random() < self.noise
        if noisy:
            photons = np.exp(rng.uniform(*np.log(self.photons)))
            read_noise = np.exp(rng.uniform(*np.log(self.read_noise)))
            small = add_noise(small, photons, read_noise, rng)
        hot = rng.random() < self.hot
        if hot:
            small = add_hot_pixels(small, rng)
        compressed = not (noisy or grey) and rng.random() < self.jpeg
        if compressed:
            small = through_jpeg(small, int(rng.integers(75, 96)))
        if rng.random() < self.rounding:
            small = rounded(small)
        clean = kind == "bicubic" and not (noisy or hot or compressed)
        return np.repeat(small, 3, axis=0) if grey else small, clean
