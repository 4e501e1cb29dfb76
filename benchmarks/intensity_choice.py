"""Which statistic should set the value range, and where its bright end should land.

Usage: python benchmarks/intensity_choice.py [--model default] [--images FOLDER]

Every 16-bit (or --bits 8) grey picture below FOLDER is halved, rounded to its own
levels, and enlarged again through each choice of range; results are compared with
the original in two crops: the brightest and the most typical one. Printed are gains
over bicubic interpolation in dB of PSNR: the mean over pictures, and the worst one.

FOLDER is `traindata` of the reference material, beside the repository or in
NAPARI_SWIN2SR_SHARED. Random numbers have a fixed seed.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from napari_swin2sr.engine.upscaler import load_model
from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.image.resample import REACH, upscale_plane
from napari_swin2sr.image.sampling import median_bands

CROP = 48  # input px
HALO = 8  # around a crop, so that its border is like its middle
CONDITIONS = ("as recorded", "8 hot pixels", "100 photons")


def median_extrema(image):
    bands = list(median_bands(image[None]))
    return min(b.min() for b in bands), max(b.max() for b in bands)


def neighbor_extrema(image):
    """No pixel counts for more than the brightest of its eight neighbors."""
    padded = np.pad(image, 1, mode="reflect")
    height, width = image.shape
    around = np.stack(
        [
            padded[i : i + height, j : j + width]
            for i in range(3)
            for j in range(3)
            if (i, j) != (1, 1)
        ]
    )
    low = np.maximum(image, around.min(0)).min()
    return low, np.minimum(image, around.max(0)).max()


STATISTICS = {
    "min, max": lambda image: (image.min(), image.max()),
    "p1, p99.8": lambda image: np.percentile(image, (1, 99.8)),
    "p0.1, p99.9": lambda image: np.percentile(image, (0.1, 99.9)),
    "3x3 median": median_extrema,
    "brightest neighbor": neighbor_extrema,
}


def half(image):
    height, width = (n // 2 for n in image.shape)
    small = Image.fromarray(image[: height * 2, : width * 2].astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.clip(np.rint(small), 0, np.iinfo(image.dtype).max).astype(image.dtype)


def degrade(small, condition, rng):
    """Return the picture and where it must not be judged (3 px around hot pixels)."""
    judged, top = np.ones(small.shape, bool), np.iinfo(small.dtype).max
    if condition == "8 hot pixels":
        small = small.copy()
        for y, x in rng.integers(4, np.array(small.shape) - 4, (8, 2)):
            small[y, x] = top
            judged[y - 3 : y + 4, x - 3 : x + 4] = False
    if condition == "100 photons":
        dark, bright = np.percentile(small, (0.1, 99.9))
        photons = np.clip(small - dark, 0, None) / (bright - dark) * 100
        noisy = rng.poisson(photons) + rng.normal(0, 1, small.shape)
        counts = np.rint(noisy / 100 * (bright - dark) + dark)
        small = np.clip(counts, 0, top).astype(small.dtype)
    return small, judged


def crops_of(small):
    """Return corners of the brightest crop and of the one with the median contrast."""
    height, width = small.shape
    side = CROP + 2 * HALO
    if height < side or width < side:
        return []
    corners = [
        (y, x)
        for y in range(0, height - side + 1, side // 2)
        for x in range(0, width - side + 1, side // 2)
    ]
    inner = [small[y + HALO :, x + HALO :][:CROP, :CROP] for y, x in corners]
    brightest = int(np.argmax([np.partition(c.ravel(), -50)[-50] for c in inner]))
    spread = np.array([c.std() for c in inner])
    typical = int(np.argsort(spread)[len(spread) // 2])
    return [corners[k] for k in dict.fromkeys((brightest, typical))]


def psnr(got, want, judged, peak):
    wrong = np.mean((got - want)[judged] ** 2)
    return float(10 * np.log10(peak**2 / max(wrong, 1e-12 * peak**2)))


def choices(tops):
    yield "type", 1.0
    for name in STATISTICS:
        for top in tops:
            yield name, top


def gains_of(net, image, tops, condition, rng):
    """Return {(statistic, top): gain over bicubic [dB]} of a picture, mean of crops."""
    clean = half(image)
    small, judged = degrade(clean, condition, rng)
    limits = {name: statistic(small) for name, statistic in STATISTICS.items()}
    top_level = np.iinfo(image.dtype).max
    limits["type"] = (0, top_level)
    low, high = np.percentile(image, (0.1, 99.9))
    rows = []
    side = CROP + 2 * HALO
    for y, x in crops_of(clean):
        tile = small[y : y + side, x : x + side]
        inner = slice(HALO * 2, -HALO * 2)
        want = image[2 * y :, 2 * x :][: 2 * side, : 2 * side].astype(float)
        want = want[inner, inner]
        good = (
            judged[y : y + side, x : x + side].repeat(2, 0).repeat(2, 1)[inner, inner]
        )
        ranges = []
        for name, top in choices(tops):
            dark, bright = map(float, limits[name])
            ranges.append(ValueRange(dark, max(bright, dark + 1), top))
        tiles = np.stack([r.to_model(tile)[None] for r in ranges])
        results = np.concatenate(
            [net(tiles[k : k + 8]) for k in range(0, len(tiles), 8)]
        )
        base = upscale_plane(np.pad(tile, REACH, mode="edge"), 2)[inner, inner]
        base = psnr(np.clip(np.rint(base), 0, top_level), want, good, high - low)
        row = []
        for values, result in zip(ranges, results, strict=True):
            got = np.rint(values.from_model(result[0, inner, inner]))
            got = np.clip(got, 0, top_level)
            row.append(psnr(got, want, good, high - low) - base)
        rows.append(row)
    if not rows:
        return None
    return dict(zip(choices(tops), np.mean(rows, axis=0), strict=True))


def report(condition, gains, tops):
    print(f"\n### {condition}: mean gain over bicubic (worst picture) [dB]\n")
    print("| range | " + " | ".join(f"top {top:g}" for top in tops) + " |")
    print("|---|" + "---|" * len(tops))
    for name in STATISTICS:
        cells = []
        for top in tops:
            values = [gain[name, top] for gain in gains]
            cells.append(f"{np.mean(values):+.2f} ({min(values):+.1f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    values = [gain["type", 1.0] for gain in gains]
    text = f"{np.mean(values):+.2f} ({min(values):+.1f})"
    print(f"\nThe type's range: {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shared = Path(__file__).resolve().parents[2] / "shared"
    shared = Path(os.environ.get("NAPARI_SWIN2SR_SHARED", shared))
    parser.add_argument("--model", default="default")
    parser.add_argument("--images", type=Path, default=shared / "traindata")
    parser.add_argument(
        "--tops", type=float, nargs="+", default=[0.35, 0.5, 0.7, 0.85, 1]
    )
    parser.add_argument("--bits", type=int, choices=(8, 16), default=16)
    parser.add_argument("--every", type=int, default=1, help="take every n-th picture")
    options = parser.parse_args()
    start = time.perf_counter()
    net = load_model(options.model)
    images = []
    for path in sorted(options.images.rglob("*.*")):
        if path.suffix.lower() not in (".tif", ".tiff", ".png"):
            continue
        is_tiff = path.suffix.lower() != ".png"
        image = tifffile.imread(path) if is_tiff else np.asarray(Image.open(path))
        if image.dtype == f"u{options.bits // 8}" and image.ndim == 2:
            images.append(image)
    images = images[:: options.every]
    everything = {}
    for condition in CONDITIONS:
        rng = np.random.default_rng(0)
        found = (gains_of(net, i, options.tops, condition, rng) for i in images)
        gains = [gain for gain in found if gain is not None]
        everything[condition] = gains
        if condition == CONDITIONS[0]:
            print(f"{len(gains)} pictures of {len(images)}, model {options.model}")
        report(condition, gains, options.tops)
    report(
        "all three", [g for gains in everything.values() for g in gains], options.tops
    )
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
