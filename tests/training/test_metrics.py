"""Quality measures: against scikit-image, definitions and published numbers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from helpers.shared import shared_path
from napari_swin2sr.errors import InputError
from napari_swin2sr.training.degrade import resize_bicubic
from napari_swin2sr.training.metrics import (
    benchmark_scores,
    linear_scores,
    luma,
    psnr,
    ssim,
)


def two_images(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.random(shape)
    return np.clip(target + rng.normal(0, 0.1, shape), 0, 1), target


def test_psnr_agrees_with_scikit_image() -> None:
    image, target = two_images(40, 30)
    expected = peak_signal_noise_ratio(target, image, data_range=1.0)
    assert psnr(image, target, 1.0) == pytest.approx(expected, abs=1e-9)
    assert psnr(target, target, 1.0) == float("inf")


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_ssim_agrees_with_scikit_image_inside(peak: float) -> None:
    image, target = two_images(40, 30)
    _, full = structural_similarity(
        target * peak,
        image * peak,
        data_range=peak,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    ours = ssim(image * peak, target * peak, peak)
    assert ours == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-7)


def test_ssim_of_color_is_the_mean_of_the_channels() -> None:
    image, target = two_images(20, 20, 3)
    each = [ssim(image[..., c], target[..., c], 1.0) for c in range(3)]
    assert ssim(image, target, 1.0) == pytest.approx(np.mean(each))


def test_luma_is_studio_swing() -> None:
    rgb = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]])
    np.testing.assert_allclose(luma(rgb), [[16, 235, 81.481]], atol=1e-9)
    np.testing.assert_allclose(luma(np.array([[0, 255]])), [[16, 235]])


def test_benchmark_scores_round_clip_and_drop_the_border() -> None:
    target = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(float)
    image = target + 0.4
    image[0] = 300.0
    score, similarity = benchmark_scores(image, target, 2)
    assert score == float("inf")
    assert similarity == pytest.approx(1.0)


def test_linear_scores_do_not_round() -> None:
    target = np.full((20, 20, 1), 0.5)
    assert linear_scores(target + 0.001, target, 2)[0] == pytest.approx(60.0)


def test_different_shapes_and_tiny_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"different shape.*\(3, 3\) and \(4, 3\)"):
        psnr(np.zeros((3, 3)), np.zeros((4, 3)), 1.0)
    with pytest.raises(InputError, match="at least 11 x 11"):
        ssim(np.zeros((10, 20)), np.zeros((10, 20)), 1.0)


def test_published_numbers_of_bicubic_interpolation() -> None:
    """33.66 dB and 0.9299 in the papers, with MATLAB's 8-bit result."""
    base = shared_path("testsets", "Set5")
    scores = []
    for path in sorted((base / "HR").glob("*.png")):
        target = np.asarray(Image.open(path))
        coarse = np.asarray(
            Image.open(base / "LR_bicubic" / "X2" / f"{path.stem}x2.png")
        )
        height, width = (n - n % 2 for n in target.shape[:2])
        large = resize_bicubic(
            np.moveaxis(coarse, -1, 0).astype(float), (height, width)
        )
        image = np.moveaxis(large, 0, -1)
        scores.append(benchmark_scores(image, target[:height, :width], 2))
    mean = np.mean(scores, axis=0)
    assert mean[0] == pytest.approx(33.66, abs=0.03)
    assert mean[1] == pytest.approx(0.9299, abs=0.001)
