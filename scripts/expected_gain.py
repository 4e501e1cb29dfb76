"""Measure what the embedded models gain at each level of noise.

    python scripts/expected_gain.py FOLDER

FOLDER holds images and a `manifest.json`: a list of records with `file`, `kind` and
`down2_bicubic_psnr` (dB). Each image is binned 2 x 2, given noise, super-resolved and
compared with itself. The result is written to `expected_gain.json` of the package:
the mean gain over bicubic interpolation, and the range that holds 90 % of the images,
at some levels of the noise *that is estimated from the image*, since that is all that
is known when a model has to be chosen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import napari_swin2sr as nsr
from napari_swin2sr.formats import open_image
from napari_swin2sr.training.evaluate import enlarge
from napari_swin2sr.trust.noise import estimate_noise

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "src" / "napari_swin2sr" / "trust" / "expected_gain.json"

MODELS = ("default", "default-clean")

NOISE = ((None, 0.0), (3000, 0.002), (600, 0.005), (150, 0.01), (60, 0.02))
"""Photons at the white level, and read-out noise as a share of it."""

SHARPEST_DB = 42.0
"""Images that interpolation already brings above this have nothing to add."""

IMAGES_PER_KIND = 36

TOP = 0.7  # where the white level of an image lies in the network's scale


def main(folder: Path) -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    rows = []
    for record in chosen(json.loads((folder / "manifest.json").read_text()), rng):
        truth = gray(folder / record["file"])
        if truth is not None:
            rows += list(measure(truth, rng))
    TARGET.write_text(json.dumps(summary(rows), indent=1) + "\n", encoding="utf-8")


def chosen(records: list[dict[str, Any]], rng: np.random.Generator) -> list[Any]:
    """Draw as many images of each kind."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["down2_bicubic_psnr"] <= SHARPEST_DB:
            kinds.setdefault(record["kind"], []).append(record)
    return [
        group[number]
        for group in kinds.values()
        for number in rng.permutation(len(group))[:IMAGES_PER_KIND]
    ]


def gray(path: Path) -> np.ndarray | None:
    """Return (Y, X) float64 between 0 and about `TOP`, sides multiples of 16."""
    image = open_image(path)
    pixels = np.asarray(image.data[...], np.float64)
    for axis in ("S", "C"):
        if axis in image.axes:
            pixels = np.take(pixels, range(3), image.axes.index(axis))
            pixels = pixels.mean(image.axes.index(axis))
    height, width = (n // 16 * 16 for n in pixels.shape)
    if min(height, width) < 64 or not np.isfinite(pixels).all():
        return None
    low, high = np.percentile(pixels, (0.1, 99.9))
    return np.clip((pixels - low) / (high - low) * TOP, 0, None)[:height, :width]


def measure(truth: np.ndarray, rng: np.random.Generator) -> Any:
    """Yield (estimated noise, gain of each model in dB) for each level of noise."""
    height, width = truth.shape
    small = truth.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    for photons, read in NOISE:
        noisy = small
        if photons is not None:
            noisy = rng.poisson(small * photons) / photons
            noisy = noisy + rng.normal(0, read, small.shape)
        noisy = noisy.astype(np.float32)
        found = estimate_noise([noisy])
        level = 0.0 if found is None else float(found.sigma(noisy.mean()))
        start = psnr(enlarge(noisy[None], "bicubic", 2)[0], truth)
        results = [
            np.asarray(nsr.apply(noisy, name, value_range=(0, 1), device="cpu"))
            for name in MODELS
        ]
        yield (level, *(psnr(result, truth) - start for result in results))


def psnr(result: np.ndarray, truth: np.ndarray) -> float:
    """Return PSNR in dB, peak 1, without a border of 4 px."""
    inner = (slice(4, -4), slice(4, -4))
    return float(-10 * np.log10(np.mean((result[inner] - truth[inner]) ** 2)))


def summary(rows: list[tuple[float, ...]]) -> dict[str, Any]:
    """Summarize rows of equal count, sorted by their noise."""
    table = np.array(sorted(rows))
    groups = np.array_split(table, max(1, len(table) // 50))
    return {
        "images": len(table) // len(NOISE),
        "noise_level": [round(float(max(g[:, 0].mean(), 1e-6)), 6) for g in groups],
        "models": {
            name: {
                "mean": [round(float(g[:, k].mean()), 3) for g in groups],
                "low": [round(float(np.quantile(g[:, k], 0.05)), 3) for g in groups],
                "high": [round(float(np.quantile(g[:, k], 0.95)), 3) for g in groups],
            }
            for k, name in enumerate(MODELS, 1)
        },
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
