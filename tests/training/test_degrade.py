"""Making low-resolution images: against MATLAB's files, Pillow and formulas."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from helpers.shared import shared_path
from napari_swin2sr.errors import OptionError
from napari_swin2sr.training.degrade import (
    add_hot_pixels,
    add_noise,
    defocused,
    degrade,
    downscale,
    downscale_levels,
    resize_bicubic,
    through_jpeg,
)
from napari_swin2sr.training.options import TrainOptions


def picture(channels: int = 3, side: int = 48) -> np.ndarray:
    rng = np.random.default_rng(0)
    return resize_bicubic(rng.random((channels, 12, 12)), (side, side)).clip(0, 1)


@pytest.mark.parametrize("name", ["baby", "bird", "butterfly", "head", "woman"])
@pytest.mark.parametrize("factor", [2, 4])
def test_eight_bit_downscaling_gives_the_benchmark_files(
    name: str, factor: int
) -> None:
    base = shared_path("testsets", "Set5")
    fine = np.asarray(Image.open(base / "HR" / f"{name}.png"))
    coarse = np.asarray(
        Image.open(base / f"LR_bicubic/X{factor}/{name}x{factor}.png")
    ).astype(int)
    height, width = (n - n % factor for n in fine.shape[:2])
    levels = np.moveaxis(fine[:height, :width], -1, 0)
    made = np.moveaxis(downscale_levels(levels, factor), 0, -1)
    np.testing.assert_array_equal(made, coarse[: made.shape[0], : made.shape[1]])


@pytest.mark.parametrize("size", [(24, 24), (16, 30), (96, 96), (100, 70)])
def test_resizing_agrees_with_pillow_away_from_the_edges(size: tuple[int, int]) -> None:
    plane = picture(1)[0]
    ours = resize_bicubic(plane, size)
    theirs = np.asarray(
        Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC)
    )
    inner = (slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=2e-6)


@pytest.mark.parametrize("kind", ["bicubic", "area", "psf"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_ramp_stays_on_the_pixel_corner_grid(kind: str, factor: int) -> None:
    side = 24 * factor
    ramp = np.tile(np.arange(side, dtype=np.float32) + 0.5, (1, side, 1))
    small = downscale(ramp, factor, kind, sigma=0.8)
    expected = (np.arange(24) + 0.5) * factor
    np.testing.assert_allclose(small[0, 12, 4:-4], expected[4:-4], rtol=1e-5)


def test_area_is_the_mean_of_blocks() -> None:
    small = downscale(picture(), 2, "area")
    np.testing.assert_allclose(
        small[:, 3, 5], picture()[:, 6:8, 10:12].mean((1, 2)), rtol=1e-6
    )


def test_a_defocused_image_loses_nothing_when_made_smaller() -> None:
    rng = np.random.default_rng(0)
    sharp = rng.random((3, 64, 64), np.float32)
    errors = {}
    for name, fine in (("sharp", sharp), ("blurred", defocused(sharp, rng))):
        again = resize_bicubic(downscale(fine, 2, "bicubic"), (64, 64))
        errors[name] = np.abs(again - fine)[:, 8:-8, 8:-8].mean() / fine.std()
    assert errors["blurred"] < 0.1 * errors["sharp"]
    level = defocused(np.full((1, 16, 16), 0.3, np.float32), rng)
    np.testing.assert_allclose(level, 0.3, rtol=1e-6)


def test_unknown_way_to_downscale_is_refused() -> None:
    with pytest.raises(OptionError, match="'cubic' is not one of bicubic, area, psf"):
        downscale(picture(), 2, "cubic")


def test_noise_has_the_variance_of_photons_and_readout() -> None:
    rng = np.random.default_rng(1)
    level, photons, sigma = 0.4, 150.0, 0.01
    noisy = add_noise(np.full((1, 400, 400), level, np.float32), photons, sigma, rng)
    assert noisy.dtype == np.float32
    assert noisy.mean() == pytest.approx(level, abs=1e-3)
    assert noisy.var() == pytest.approx(level / photons + sigma**2, rel=0.02)


def test_hot_pixels_are_few_and_in_all_channels() -> None:
    image = picture(3, 100)
    hot = add_hot_pixels(image, np.random.default_rng(0))
    changed = np.any(hot != image, axis=0)
    assert 1 <= changed.sum() <= 30
    np.testing.assert_array_equal(hot[0][changed], hot[2][changed])
    assert hot[0][changed].min() >= 0.3


def test_jpeg_changes_little_and_keeps_the_shape() -> None:
    image = picture()
    read = through_jpeg(image, 95)
    assert read.shape == image.shape
    assert 0 < np.abs(read - image).mean() < 0.05


def test_samples_repeat_with_the_seed_and_gray_stays_gray() -> None:
    options = TrainOptions(noise=1.0)
    gray = np.repeat(picture(1), 3, axis=0)
    one = degrade(gray, 2, True, options, np.random.default_rng(3))
    two = degrade(gray, 2, True, options, np.random.default_rng(3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[0], one[2])
    assert one.shape == (3, 24, 24)


def test_clean_means_bicubic_without_noise() -> None:
    options = TrainOptions(downscale={"bicubic": 1}, noise=0, hot=0, rounding=0)
    lowres = degrade(picture(), 2, False, options, np.random.default_rng(0))
    np.testing.assert_array_equal(lowres, downscale(picture(), 2, "bicubic"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"noise": 1.5}, "noise=1.5 is not a share"),
        ({"downscale": {"bicubic": 0, "area": 0, "psf": 0}}, "not all 0"),
        ({"downscale": {}}, "not all 0"),
        ({"downscale": {"bicubic": -1, "area": 2}}, "0 or more"),
        ({"photons": (0.0, 10.0)}, "photons=0.0,10.0 is not a range"),
        ({"read_noise": (0.1, 0.01)}, "read_noise=0.1,0.01 is not a range"),
    ],
)
def test_impossible_degradations_are_refused(options: dict, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        TrainOptions(**options)
