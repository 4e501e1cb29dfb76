"""Measure models and interpolations on images or pairs of images."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import InputError
from napari_swin2sr.training.data import Source, find_images, read_sources
from napari_swin2sr.training.degrade import (
    add_noise,
    downscale,
    downscale_levels,
    resize_bicubic,
)
from napari_swin2sr.training.metrics import benchmark_scores, linear_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.float32]

INTERPOLATIONS = ("nearest", "bicubic", "lanczos")
"""Names that mean an interpolation and not a model."""

SHEET_CROP = 96
"""Side of the crop that is kept of each image for a picture sheet [output px]."""


@dataclass(frozen=True, slots=True)
class Score:
    """Quality of one method on one image.

    Attributes
    ----------
    kind : folder of the image, "" for files
    image : file name
    method : model or interpolation
    measure : "y" (8-bit luma, as published) or "linear"
    psnr : dB
    ssim : mean structural similarity
    intensity : sum of the result over the sum of the truth
    crop, truth : (h, w, C) float32 for the picture sheet, or None
    """

    kind: str
    image: str
    method: str
    measure: str
    psnr: float
    ssim: float
    intensity: float
    crop: Image | None = field(default=None, repr=False)
    truth: Image | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the pictures."""
        names = ("kind", "image", "method", "measure", "psnr", "ssim", "intensity")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Case:
    """One low-resolution image and what it came from.

    Attributes
    ----------
    kind, name : folder and file
    small : (C, h, w) float32 in 0..1, C 1 or 3
    truth : (C, u*h, u*w) float32 in 0..1
    levels : both are whole 8-bit levels divided by 255
    """

    kind: str
    name: str
    small: Image
    truth: Image
    levels: bool


def evaluate(
    methods: Sequence[str],
    paths: Sequence[Path],
    *,
    measure: str = "auto",
    border: int | None = None,
    noise: tuple[float, float] | None = None,
    crop: int | None = None,
    device: str = "auto",
    keep_crops: bool = False,
    upscale: int | None = None,
) -> list[Score]:
    """Score every method on every image.

    Parameters
    ----------
    methods : models (name, folder, file) or names of `INTERPOLATIONS`; all models
        have the same factor
    paths : folders of pairs, folders of images, image files
    measure : "y", "linear" or "auto" (y for 8-bit colour, linear for the rest)
    border : pixels dropped on each side, or None for the factor
    noise : photons at full scale and read-out noise added to the small image
    crop : use only the centre of each image [px per side of the fine image]
    device : where the network runs
    keep_crops : keep a piece of each result for a picture sheet
    upscale : factor, if there is no model among the methods

    Raises
    ------
    InputError
        If there is nothing to measure, or the models differ in their factor.
    """
    upscale = common_upscale(methods) if upscale is None else upscale
    border = upscale if border is None else border
    scores = []
    for number, case in enumerate(cases(paths, upscale, crop)):
        small = case.small
        if noise is not None:
            rng = np.random.default_rng([number, 11])
            small = add_noise(small, *noise, rng)
        in_levels = measure == "y" or (
            measure == "auto" and case.levels and len(case.truth) == 3 and noise is None
        )
        for method in methods:
            result = enlarge(small, method, upscale, device)
            scores.append(_score(case, method, result, in_levels, border, keep_crops))
    if not scores:
        raise InputError(f"no usable image in {', '.join(map(str, paths))}")
    return scores


def common_upscale(methods: Sequence[str]) -> int:
    """Return the factor that all models among the methods share."""
    from napari_swin2sr.engine.reference import ModelHandle

    factors = {
        method: ModelHandle.open(method, "cpu", "auto").upscale
        for method in methods
        if method not in INTERPOLATIONS
    }
    if len(set(factors.values())) != 1:
        raise InputError(f"models of one factor are needed to compare, got {factors}")
    return int(next(iter(factors.values())))


def enlarge(small: Image, method: str, upscale: int, device: str = "auto") -> Image:
    """Enlarge (C, h, w) values from 0 to 1 by a model or an interpolation."""
    height, width = (n * upscale for n in small.shape[-2:])
    if method == "nearest":
        return small.repeat(upscale, axis=1).repeat(upscale, axis=2)
    if method == "bicubic":
        return resize_bicubic(small, (height, width))
    if method == "lanczos":
        from PIL import Image as pil  # noqa: N813

        planes = [
            pil.fromarray(plane).resize((width, height), pil.Resampling.LANCZOS)
            for plane in small
        ]
        return np.stack([np.asarray(plane) for plane in planes])
    from napari_swin2sr.upscale import apply

    colour = len(small) == 3
    pixels = small.transpose(1, 2, 0) if colour else small[0]
    lazy: Any = apply(
        np.ascontiguousarray(pixels),
        method,
        axes="YXS" if colour else "YX",
        value_range=(0.0, 1.0),
        device=device,
    )
    result = np.asarray(lazy.compute(scheduler="sync"), np.float32)
    return result.transpose(2, 0, 1) if colour else result[None]


def _score(
    case: Case,
    method: str,
    result: Image,
    in_levels: bool,
    border: int,
    keep_crop: bool,
) -> Score:
    image, truth = (np.moveaxis(x, 0, -1) for x in (result, case.truth))
    if in_levels:
        channel = 0 if len(case.truth) == 1 else slice(None)
        values = benchmark_scores(
            image[..., channel] * 255, truth[..., channel] * 255, border
        )
    else:
        values = linear_scores(image, truth, border)
    total = float(case.truth.sum(dtype=np.float64))
    ratio = float(result.sum(dtype=np.float64)) / total if total else float("nan")
    crops = _crops(image, truth) if keep_crop else (None, None)
    name = method if method in INTERPOLATIONS else Path(method).name
    return Score(
        case.kind,
        case.name,
        name,
        "y" if in_levels else "linear",
        *values,
        ratio,
        *crops,
    )


def _crops(image: Image, truth: Image) -> tuple[Image, Image]:
    """Cut the piece with the strongest contrast out of both, coarsely searched."""
    size = min(SHEET_CROP, *truth.shape[:2])
    places = [
        (y, x)
        for y in range(0, truth.shape[0] - size + 1, max(size // 2, 1))
        for x in range(0, truth.shape[1] - size + 1, max(size // 2, 1))
    ]
    y, x = max(
        places, key=lambda p: truth[p[0] : p[0] + size, p[1] : p[1] + size].std()
    )
    place = (slice(y, y + size), slice(x, x + size))
    return image[place].copy(), truth[place].copy()


# ------------------------------------------------------------------- images


def cases(paths: Sequence[Path], upscale: int, crop: int | None) -> Iterator[Case]:
    """Yield the images to measure on.

    Raises
    ------
    InputError
        If a fine picture has no coarse partner, or its size does not fit.
    FileError
        If a path does not exist.
    """
    for path in map(Path, paths):
        pairs = find_pairs(path, upscale) if path.is_dir() else None
        if pairs is not None:
            for fine, coarse in pairs:
                yield _pair_case(path.name, fine, coarse, upscale, crop)
            continue
        for file in find_images(path):
            kind = file.parent.name if path.is_dir() else ""
            source = read_sources(file, kind, 16)[0]
            yield _single_case(source, upscale, crop)


def find_pairs(folder: Path, upscale: int) -> list[tuple[Path, Path]] | None:
    """Return (fine, coarse) files of a benchmark folder, or None if it is not one.

    The fine pictures lie in a sub-folder HR or GT, the coarse ones in one whose path
    contains LR and, if there are several factors, x2 or the like.
    """
    fine_folder = next(
        (f for f in sorted(folder.iterdir()) if f.name.upper() in ("HR", "GT")), None
    )
    if fine_folder is None:
        return None
    lows = [
        f
        for f in sorted(folder.rglob("*"))
        if f.is_dir() and "LR" in str(f.relative_to(folder)).upper()
    ]
    factor = f"X{upscale}"
    chosen = [f for f in lows if factor in str(f.relative_to(folder)).upper()] or lows
    if not chosen:
        return None
    coarse = {_stem(p, upscale): p for p in find_images(chosen[-1])}
    pairs = []
    for fine in find_images(fine_folder):
        if _stem(fine, upscale) not in coarse:
            raise InputError(f"{fine}: no picture of that name in {chosen[-1]}")
        pairs.append((fine, coarse[_stem(fine, upscale)]))
    return pairs


def _stem(path: Path, upscale: int) -> str:
    return re.sub(rf"[_-]?(x{upscale}|hr|lr)$", "", path.stem, flags=re.IGNORECASE)


def _pair_case(
    kind: str, fine: Path, coarse: Path, upscale: int, crop: int | None
) -> Case:
    truth, small = (read_sources(p, kind, 1)[0] for p in (fine, coarse))
    height, width = small.pixels.shape[-2:]
    rows, columns = (n // upscale for n in truth.pixels.shape[-2:])
    if (rows, columns) != (height, width):
        raise InputError(
            f"{coarse}: {width} x {height} pixels do not belong to {fine}, whose "
            f"{upscale} times smaller image has {columns} x {rows}"
        )
    window = _centre(height, width, upscale, crop)
    cut = tuple(slice(s.start * upscale, s.stop * upscale) for s in window)
    return Case(
        kind,
        fine.name,
        truth.normalised(small.pixels[:, *window].astype(np.float32)),
        truth.normalised(truth.pixels[:, *cut].astype(np.float32)),
        truth.pixels.dtype == np.uint8,
    )


def _single_case(source: Source, upscale: int, crop: int | None) -> Case:
    pixels = source.pixels if source.rgb else source.pixels[:1]
    height, width = (n // upscale for n in pixels.shape[-2:])
    window = _centre(height, width, upscale, crop)
    pixels = pixels[:, *(slice(s.start * upscale, s.stop * upscale) for s in window)]
    if pixels.dtype == np.uint8:
        levels = pixels.astype(np.uint8, copy=False)
        small = downscale_levels(levels, upscale).astype(np.float32) / np.float32(255)
        truth = pixels.astype(np.float32) / np.float32(255)
        return Case(source.kind, source.path.name, small, truth, True)
    low, high = source.low[: len(pixels)], source.high[: len(pixels)]
    truth = (pixels.astype(np.float32) - low[:, None, None]) / (high - low)[
        :, None, None
    ]
    truth = np.clip(truth, -0.1, 1.5)
    small = downscale(truth, upscale, "bicubic")
    return Case(source.kind, source.path.name, small, truth, False)


def _centre(
    height: int, width: int, upscale: int, crop: int | None
) -> tuple[slice, slice]:
    """Window of the small image: everything, or `crop` fine pixels at the centre."""
    side = (height, width) if crop is None else (crop // upscale,) * 2
    side = (min(side[0], height), min(side[1], width))
    y, x = (height - side[0]) // 2, (width - side[1]) // 2
    return slice(y, y + side[0]), slice(x, x + side[1])


# ------------------------------------------------------------------ results


def summary(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Mean scores per kind and method, in the order of the scores."""
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        key = (score.kind, score.measure, score.method)
        groups.setdefault(key, []).append(score)
    return [
        {
            "kind": kind,
            "measure": measure,
            "method": method,
            "images": len(found),
            "psnr": float(np.mean([score.psnr for score in found])),
            "ssim": float(np.mean([score.ssim for score in found])),
        }
        for (kind, measure, method), found in groups.items()
    ]


def table(scores: Sequence[Score]) -> str:
    """Return the scores and their means as text, one line each."""
    means = summary(scores)
    width = max(len(s.image) for s in scores)
    method = max(len(s.method) for s in scores)
    lines = [
        f"{s.image:<{width}}  {s.method:<{method}}  {s.psnr:6.2f} dB  {s.ssim:.4f}"
        for s in scores
    ]
    lines.append("")
    for mean in means:
        how = "Y, 8 bits" if mean["measure"] == "y" else "linear"
        lines.append(
            f"{mean['kind'] or 'images'} ({mean['images']}, {how})  "
            f"{mean['method']:<{method}}  {mean['psnr']:6.2f} dB  {mean['ssim']:.4f}"
        )
    return "\n".join(lines) + "\n"
