"""Published numbers: the official weights through `apply`, cut into small tiles."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

import napari_swin2sr as nsr
from helpers.shared import shared_path

logger = logging.getLogger(__name__)

PAPER = 38.17, 0.9613
"""PSNR [dB] and SSIM on Y of Swin2SR lightweight x2 on Set5."""

BORDER = 2


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def luma(rgb: np.ndarray) -> np.ndarray:
    """Return Y of 8-bit RGB as the field computes it (BT.601, 16 to 235)."""
    return rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, data_range=255, **options))


def test_the_papers_numbers_on_set5() -> None:
    """8-bit in, 8-bit out, 64-px tiles, default halo: nothing is lost on the way."""
    model = shared_path("weights", "swin2sr-lightweight-x2-64")
    scores = []
    for truth in sorted(shared_path("testsets", "Set5", "HR").glob("*.png")):
        low = shared_path("testsets", "Set5", "LR_bicubic", "X2", f"{truth.stem}x2.png")
        result = nsr.apply(read(low), model, rgb=True, tile=64).compute()
        assert result.dtype == np.uint8
        height, width = result.shape[:2]
        inner = np.s_[BORDER : height - BORDER, BORDER : width - BORDER]
        ours, theirs = luma(result)[inner], luma(read(truth)[:height, :width])[inner]
        scores.append((psnr(ours, theirs), ssim(ours, theirs)))
    assert len(scores) == 5
    mean_psnr, mean_ssim = np.mean(scores, axis=0)
    logger.info("%s: %s", "psnr", mean_psnr)
    logger.info("%s: %s", "ssim", mean_ssim)
    assert round(mean_psnr, 2) == PAPER[0]
    assert round(mean_ssim, 4) == PAPER[1]
