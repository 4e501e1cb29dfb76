"""Noise that was simulated is found again."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data

from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.trust.noise import NoiseModel, estimate_noise, sampled_planes


def noisy(image: np.ndarray, gain: float, read: float, seed: int = 0) -> np.ndarray:
    """Image with shot noise of `gain` per photon and read-out noise."""
    rng = np.random.default_rng(seed)
    return rng.poisson(image / gain) * gain + rng.normal(0, read, image.shape)


def ramp(height: int = 512, width: int = 512) -> np.ndarray:
    return np.broadcast_to(np.linspace(100, 4000, width), (height, width))


@pytest.mark.parametrize("gain", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("read", [5.0, 60.0])
def test_both_parts_are_found_where_nothing_else_is(gain: float, read: float) -> None:
    found = estimate_noise([noisy(ramp(), gain, read)])
    assert found is not None
    assert found.gain == pytest.approx(gain, rel=0.15)
    for value in (200, 2000, 4000):
        expected = np.sqrt(gain * value + read**2)
        assert found.sigma(value) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", ["camera", "cell", "coins", "moon"])
def test_pictures_with_structure(name: str) -> None:
    """At 150 photons and 1 % of full scale: within 25 % at the mean of the image."""
    image = getattr(skimage.data, name)().astype(float)
    image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    image = image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean((1, 3))
    found = estimate_noise([noisy(image, 255 / 150, 2.55)])
    assert found is not None
    expected = np.sqrt(255 / 150 * image.mean() + 2.55**2)
    assert found.sigma(image.mean()) == pytest.approx(expected, rel=0.25)


def test_an_image_without_noise_has_none() -> None:
    found = estimate_noise([ramp()])
    assert found is not None
    assert found.sigma(2000) < 1e-6


def test_missing_pixels_do_not_count() -> None:
    image = noisy(ramp(), 4.0, 5.0)
    image[:200] = np.nan
    assert estimate_noise([image[200:]]) == estimate_noise([image])


def test_too_little_to_see_is_no_estimate() -> None:
    assert estimate_noise([np.zeros((8, 16))]) is None
    assert estimate_noise([np.full((64, 64), np.nan)]) is None


def test_the_sample_is_bounded_and_masked() -> None:
    stack = np.ma.masked_equal(np.zeros((2, 100, 90), np.uint16), 1)
    stack[0, 3, 4] = np.ma.masked
    layout = resolve_axes(stack.shape, "CYX")
    (first,) = sampled_planes(stack, layout, 0, None)
    (second,) = sampled_planes(stack, layout, 1, None)
    assert np.isnan(first).sum() == 1
    assert not np.isnan(second).any()


def test_sigma_is_never_negative() -> None:
    assert NoiseModel(1.0, 0.0).sigma(-5.0) == 0
