"""The embedded models: what they promise, on images they never saw.

The images are those inside scikit-image; each is measured against bicubic
interpolation of the same lowres image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

import napari_swin2sr
from napari_swin2sr.training.degrade import add_noise, downscale, resize_bicubic
from napari_swin2sr.training.metrics import crop_border, psnr

FOLDER = Path(napari_swin2sr.__file__).parent / "embedded" / "default"
TOLERANCE = 0.3
"""dB that the model may be below bicubic on the worst input."""

INVISIBLE = 69.0
"""PSNR beyond which errors are below a tenth of an 8-bit level, and do not count."""


def target(name: str) -> np.ndarray:
    """Center 160 x 160 pixels as (C, H, W) float32 in 0..1."""
    image = getattr(skimage.data, name)()
    y, x = (n // 2 - 80 for n in image.shape[:2])
    image = np.atleast_3d(image[y : y + 160, x : x + 160]).astype(np.float32) / 255
    return np.ascontiguousarray(np.moveaxis(image, -1, 0))


IMAGES = ("camera", "cell", "moon", "astronaut", "brick")


def model(lowres: np.ndarray, **options: Any) -> np.ndarray:
    color = len(lowres) == 3
    pixels = np.moveaxis(lowres, 0, -1) if color else lowres[0]
    options = {"value_range": (0, 1)} | options
    result = napari_swin2sr.apply(
        pixels, axes="YXS" if color else "YX", **options
    ).compute()
    return np.moveaxis(result, -1, 0) if color else result[None]


def scores(
    lowres: np.ndarray, fine: np.ndarray, result: np.ndarray | None = None
) -> tuple[float, float]:
    """PSNR of the model and of bicubic interpolation, in dB."""
    result = model(lowres) if result is None else result
    bicubic = resize_bicubic(lowres, fine.shape[-2:])

    def inner(image: np.ndarray) -> np.ndarray:
        return crop_border(np.moveaxis(image, 0, -1), 4)

    ours, theirs = (psnr(inner(image), inner(fine), 1.0) for image in (result, bicubic))
    return ours, theirs


def gain(
    lowres: np.ndarray, fine: np.ndarray, result: np.ndarray | None = None
) -> float:
    """PSNR of the model minus that of bicubic interpolation, in dB."""
    ours, theirs = scores(lowres, fine, result)
    return ours - theirs


@pytest.mark.parametrize("name", IMAGES)
def test_clean_images_gain_and_keep_their_intensity(name: str) -> None:
    fine = target(name)
    lowres = downscale(fine, 2, "bicubic")
    result = model(lowres)
    assert gain(lowres, fine, result) > 0
    assert result.mean() == pytest.approx(lowres.mean(), rel=0.005)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("factor", [0.1, 1.0])
def test_the_clean_model_is_safe_on_clean_images(name: str, factor: float) -> None:
    fine = target(name) * np.float32(factor)
    lowres = downscale(fine, 2, "bicubic")
    result = model(lowres, model="default-clean")
    ours, theirs = scores(lowres, fine, result)
    assert ours > min(theirs - TOLERANCE, INVISIBLE)
    assert result.mean() == pytest.approx(lowres.mean(), rel=0.005)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("photons", [None, 150.0])
def test_four_times_larger_gains_and_keeps_the_intensity(
    name: str, photons: float | None
) -> None:
    fine = target(name)
    lowres = downscale(fine, 4, "bicubic")
    if photons is not None:
        lowres = add_noise(lowres, photons, 0.01, np.random.default_rng(0))
    result = model(lowres, model="default-x4")
    assert gain(lowres, fine, result) > (0 if photons is None else 1.0)
    assert result.mean() == pytest.approx(lowres.mean(), rel=0.005)


@pytest.mark.parametrize("name", IMAGES)
def test_noisy_images_gain(name: str) -> None:
    fine = target(name)
    lowres = downscale(fine, 2, "bicubic")
    noisy = add_noise(lowres, 150.0, 0.01, np.random.default_rng(0))
    result = model(noisy)
    assert gain(noisy, fine, result) > 1.0
    assert result.mean() == pytest.approx(noisy.mean(), rel=0.005)


@pytest.mark.parametrize("name", ["camera", "cell"])
@pytest.mark.parametrize("factor", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_any_part_of_the_range_is_safe(name: str, factor: float, offset: float) -> None:
    offset = offset * (1 - factor)
    fine = target(name) * np.float32(factor) + np.float32(offset)
    lowres = downscale(fine, 2, "bicubic")
    result = model(lowres)
    ours, theirs = scores(lowres, fine, result)
    assert ours > min(theirs - TOLERANCE, INVISIBLE)
    assert result.mean() == pytest.approx(lowres.mean(), rel=0.005)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_constant_planes_stay_constant(level: float) -> None:
    result = model(np.full((1, 40, 40), level, np.float32))
    assert np.abs(result - level).mean() < 0.001
    np.testing.assert_allclose(result, level, atol=0.003)  # the outermost corner


@pytest.mark.parametrize("level", [0.1, 0.5])
@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_pure_noise_is_not_amplified(level: float, sigma: float) -> None:
    rng = np.random.default_rng(0)
    lowres = rng.normal(level, sigma, (1, 64, 64)).astype(np.float32)
    flat = np.full((1, 128, 128), level, np.float32)
    assert gain(lowres, flat) > -TOLERANCE


@pytest.mark.parametrize("name", ["camera", "cell"])
def test_hot_pixels_do_no_more_harm_than_in_interpolation(name: str) -> None:
    fine = target(name) * np.float32(0.5)
    lowres = downscale(fine, 2, "bicubic")
    rows, columns = np.random.default_rng(0).integers(0, 80, (2, 6))
    lowres[:, rows, columns] = 1.0
    assert gain(lowres, fine) > -TOLERANCE


def test_gray_is_as_good_as_color() -> None:
    gray = target("camera")
    lowres = downscale(gray, 2, "bicubic")
    one = gain(lowres, gray)
    three = gain(np.repeat(lowres, 3, axis=0), np.repeat(gray, 3, axis=0))
    assert one >= three - 0.01


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_deep_pixels_are_as_good_as_eight_bits(dtype: str) -> None:
    fine = target("camera")
    lowres = downscale(fine, 2, "bicubic").clip(0, 1)
    levels = np.rint(lowres * 255).astype(np.uint8)
    shallow = model(levels, value_range=None).astype(np.float32) / 255
    top = 1.0 if dtype.startswith("float") else 30000
    deep_in = (lowres * top).astype(dtype)
    deep = model(deep_in, value_range=(0, top)).astype(np.float32) / np.float32(top)
    assert gain(lowres, fine, deep) > gain(lowres, fine, shallow) - 0.05


def test_transformers_loads_it_strictly_with_the_same_result() -> None:
    transformers = pytest.importorskip("transformers", reason="not installed")
    theirs, loading = transformers.Swin2SRForImageSuperResolution.from_pretrained(
        FOLDER, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    lowres = downscale(target("astronaut"), 2, "bicubic")[:, :56, :72]
    padded = np.pad(lowres, ((0, 0), (0, 8), (0, 8)), mode="symmetric")
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(padded[None])).reconstruction[0].numpy()
    np.testing.assert_allclose(
        model(lowres, halo="exact"), expected[:, :112, :144], atol=2e-6
    )


def test_the_folder_says_what_it_is() -> None:
    card = (FOLDER / "README.md").read_text()
    for words in ("do not measure", "bicubic", "fluorescence", "satellite"):
        assert words in card.lower()
    assert (FOLDER / "model.safetensors").stat().st_size < 4_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["model_type"] == "swin2sr"
    assert config["upscale"] == 2
