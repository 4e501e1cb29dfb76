"""What an image is like, told before anything is computed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.ndimage
import skimage.data

from napari_swin2sr.formats import as_image
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.trust.suitability import INTERPOLATION, assess, expected_gain


def scene(seed: int = 0) -> np.ndarray:
    """Blobs and edges, 0 to 1, sharp to the pixel."""
    rng = np.random.default_rng(seed)
    smooth = scipy.ndimage.gaussian_filter(rng.random((512, 512)), 6)
    return (smooth > np.median(smooth)) * 0.6 + 0.2 * rng.random((512, 512)).round()


def noisy(photons: float, read: float) -> np.ndarray:
    """16-bit camera counts of a picture: 100 is no light, 20,100 the white level."""
    image = skimage.data.camera() / 255
    rng = np.random.default_rng(0)
    light = rng.poisson(image * photons) / photons + rng.normal(0, read, image.shape)
    return np.clip(np.rint(100 + 20_000 * light), 0, 65535).astype(np.uint16)


@pytest.mark.parametrize("photons", [60, 150, 600])
def test_photons_and_read_noise_are_those_of_the_simulation(photons: float) -> None:
    report = assess(as_image(noisy(photons, 0.01)), (100, 20_100)).channels[0]
    assert report.photons == pytest.approx(photons, rel=0.25)
    mean = skimage.data.camera().mean() / 255
    expected = 20_000 * np.sqrt(mean / photons + 0.01**2)
    assert report.sigma == pytest.approx(expected, rel=0.15)
    assert report.noise_level == pytest.approx(report.sigma / 20_000, rel=1e-6)


def test_a_noisy_image_gets_the_model_that_removes_noise() -> None:
    found = assess(as_image(noisy(100, 0.01)))
    assert found.recommendation == "default"
    assert "photons" in found.reason
    assert "default is expected to gain" in found.reason
    assert found.expected_gain["default-clean"].mean < 0


def test_shares_of_saturated_and_missing_pixels() -> None:
    image = np.full((100, 100), 1000, np.uint16)
    image[:10] = 65535
    image[50:52] = 7
    report = assess(as_image(image), nodata=7).channels[0]
    assert report.missing == pytest.approx(0.02)
    assert report.saturated == pytest.approx(0.1 / 0.98)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_bandwidth_is_where_the_spectrum_was_cut(share: float) -> None:
    image = np.random.default_rng(0).normal(0, 1, (512, 512))
    spectrum = np.fft.fft2(image)
    ring = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512))
    image = np.fft.ifft2(np.where(ring < share / 2, spectrum, 0)).real
    image += np.random.default_rng(1).normal(0, 0.002, image.shape)
    found = assess(as_image(image.astype(np.float32)))
    assert found.channels[0].bandwidth == pytest.approx(share, abs=0.07)
    assert ("little to add" in found.reason) == (share < 0.4)


def test_every_channel_is_looked_at_and_the_noisiest_decides() -> None:
    image = np.stack([noisy(1e6, 0), noisy(50, 0.01)])
    found = assess(as_image(image, UpscaleOptions(axes="CYX")))
    quiet, loud = found.channels
    assert loud.noise_level > 10 * quiet.noise_level
    level = loud.noise_level
    assert found.expected_gain["default"] == expected_gain("default", level)


def test_everything_fits_into_json() -> None:
    found = assess(as_image(noisy(100, 0.01)))
    again = json.loads(json.dumps(found.to_dict()))
    assert again["recommendation"] == found.recommendation
    assert again["channels"][0]["photons"] == found.channels[0].photons


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.full((64, 64), np.nan, np.float32),
        np.zeros((1, 300), bool),
        np.full((40, 40, 3), 200, np.uint8),
    ],
    ids=["tiny", "all missing", "one row", "constant RGB"],
)
def test_images_that_show_nothing(image: np.ndarray) -> None:
    found = assess(as_image(image, UpscaleOptions(rgb=image.ndim == 3 or None)))
    assert found.recommendation in {"default", "default-clean", INTERPOLATION}
    assert json.dumps(found.to_dict(), allow_nan=True)


def test_gains_follow_the_table_between_its_levels() -> None:
    low, high = expected_gain("default", 1e-9), expected_gain("default", 1e-6)
    assert low == high  # nothing is extrapolated
    for model in ("default", "default-clean"):
        gain = expected_gain(model, 0.02)
        assert gain.low <= gain.mean <= gain.high
