"""Measure models and interpolations on images or pairs of images."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import InputError, OptionError, OutputError
from napari_swin2sr.replace import written_beside
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

SMALLEST = 11
"""Side of the window of SSIM [px]: less cannot be measured."""

CROP = 96
"""Side of the crop that is kept of each image for a contact sheet [output px]."""

ZOOM, GAP, LABEL = 2, 4, 14
"""Contact sheet: magnification, white pixels between crops, height of a text line."""


@dataclass(frozen=True, slots=True)
class Score:
    """Quality of one method on one image."""

    kind: str  # folder of the image, "" for files
    image: str  # file name
    method: str  # model or interpolation
    measure: str  # "y" (8-bit luma, as published) or "linear"
    psnr: float  # dB
    ssim: float  # mean structural similarity
    intensity: float  # sum of the result over the sum of the target
    crop: Image | None = field(default=None, repr=False)  # (h, w, C), for the sheet
    target: Image | None = field(default=None, repr=False)  # the same place

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the crops."""
        names = ("kind", "image", "method", "measure", "psnr", "ssim", "intensity")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Case:
    """One low-resolution image and what it came from."""

    kind: str  # folder
    name: str  # file
    lowres: Image  # (C, h, w) float32 in 0..1, C 1 or 3
    target: Image  # (C, u*h, u*w) float32 in 0..1
    levels: bool  # both are whole 8-bit levels divided by 255


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
    methods : sequence of str
        Models (name, folder, file) or names of `INTERPOLATIONS`; all models have the
        same factor.
    paths : sequence of Path
        Folders of pairs, folders of images, image files.
    measure : {"auto", "y", "linear"}
        "auto" is "y" for 8-bit color and "linear" for the rest.
    border : int, optional
        Pixels dropped on each side; default: the factor.
    noise : (float, float), optional
        Photons at full scale and read-out noise added to the low-resolution image.
    crop : int, optional
        Use only the center of each image [px per side of the target].
    device : str
        Where the network runs.
    keep_crops : bool
        Keep a piece of each result for a contact sheet.
    upscale : int, optional
        Factor, if there is no model among the methods.

    Returns
    -------
    list of Score
        Image by image, in the order of the methods.

    Raises
    ------
    InputError
        If there is nothing to measure, or the models differ in their factor.
    """
    _check(border, noise, crop)
    upscale = common_upscale(methods) if upscale is None else upscale
    border = upscale if border is None else border
    scores = []
    for number, case in enumerate(cases(paths, upscale, crop)):
        lowres = case.lowres
        if noise is not None:
            rng = np.random.default_rng([number, 11])
            lowres = add_noise(lowres, *noise, rng)
        in_levels = measure == "y" or (
            measure == "auto"
            and case.levels
            and len(case.target) == 3
            and noise is None
        )
        for method in methods:
            result = enlarge(lowres, method, upscale, device)
            scores.append(_score(case, method, result, in_levels, border, keep_crops))
    if not scores:
        raise InputError(f"no usable image in {', '.join(map(str, paths))}")
    return scores


def _check(
    border: int | None, noise: tuple[float, float] | None, crop: int | None
) -> None:
    if border is not None and border < 0:
        raise OptionError(f"border={border} is not a number of pixels from 0")
    if crop is not None and crop < 1:
        raise OptionError(f"crop={crop} is not a positive number of pixels")
    if noise is not None and not (0 < noise[0] < math.inf and 0 <= noise[1] < math.inf):
        raise OptionError(
            f"noise={noise[0]:g},{noise[1]:g} is not PHOTONS,SIGMA: photons above 0 at "
            "full scale, and a read-out noise from 0"
        )


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


def enlarge(lowres: Image, method: str, upscale: int, device: str = "auto") -> Image:
    """Enlarge (C, h, w) values from 0 to 1 by a model or an interpolation."""
    height, width = (n * upscale for n in lowres.shape[-2:])
    if method == "nearest":
        return lowres.repeat(upscale, axis=1).repeat(upscale, axis=2)
    if method == "bicubic":
        return resize_bicubic(lowres, (height, width))
    if method == "lanczos":
        from PIL import Image as pil  # noqa: N813

        planes = [
            pil.fromarray(plane).resize((width, height), pil.Resampling.LANCZOS)
            for plane in lowres
        ]
        return np.stack([np.asarray(plane) for plane in planes])
    from napari_swin2sr.upscale import apply

    color = len(lowres) == 3
    pixels = lowres.transpose(1, 2, 0) if color else lowres[0]
    lazy: Any = apply(
        np.ascontiguousarray(pixels),
        method,
        axes="YXS" if color else "YX",
        value_range=(0.0, 1.0),
        device=device,
    )
    result = np.asarray(lazy.compute(scheduler="sync"), np.float32)
    return result.transpose(2, 0, 1) if color else result[None]


def _score(
    case: Case,
    method: str,
    result: Image,
    in_levels: bool,
    border: int,
    keep_crop: bool,
) -> Score:
    image, target = (np.moveaxis(x, 0, -1) for x in (result, case.target))
    if min(image.shape[:2]) - 2 * border < SMALLEST:
        raise InputError(
            f"{case.name}: {image.shape[1]} x {image.shape[0]} pixels less a border of "
            f"{border} on each side are too few to measure, at least {SMALLEST} x "
            f"{SMALLEST} are needed; choose a smaller --border or a larger --crop"
        )
    if in_levels:
        channel = 0 if len(case.target) == 1 else slice(None)
        values = benchmark_scores(
            image[..., channel] * 255, target[..., channel] * 255, border
        )
    else:
        values = linear_scores(image, target, border)
    total = float(case.target.sum(dtype=np.float64))
    ratio = float(result.sum(dtype=np.float64)) / total if total else float("nan")
    crops = _crops(image, target) if keep_crop else (None, None)
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


def _crops(image: Image, target: Image) -> tuple[Image, Image]:
    """Cut the piece with the strongest contrast out of both, coarsely searched."""
    size = min(CROP, *target.shape[:2])
    places = [
        (y, x)
        for y in range(0, target.shape[0] - size + 1, max(size // 2, 1))
        for x in range(0, target.shape[1] - size + 1, max(size // 2, 1))
    ]
    y, x = max(
        places, key=lambda p: target[p[0] : p[0] + size, p[1] : p[1] + size].std()
    )
    place = (slice(y, y + size), slice(x, x + size))
    return image[place].copy(), target[place].copy()


# ------------------------------------------------------------------- images


def cases(paths: Sequence[Path], upscale: int, crop: int | None) -> Iterator[Case]:
    """Yield the images to measure on."""
    for path in map(Path, paths):
        pairs = find_pairs(path, upscale) if path.is_dir() else None
        if pairs is not None:
            for target, lowres in pairs:
                yield _pair_case(path.name, target, lowres, upscale, crop)
            continue
        for file in find_images(path):
            kind = file.parent.name if path.is_dir() else ""
            source = read_sources(file, kind, 16)[0]
            yield _single_case(source, upscale, crop)


def find_pairs(folder: Path, upscale: int) -> list[tuple[Path, Path]] | None:
    """Return (target, low-resolution) files of a benchmark folder; None if it is none.

    The targets lie in a sub-folder HR or GT, the others in one whose path contains LR
    and, if there are several factors, x2 or the like.
    """
    targets = next(
        (f for f in sorted(folder.iterdir()) if f.name.upper() in ("HR", "GT")), None
    )
    if targets is None:
        return None
    inside = {
        f: f.relative_to(folder).as_posix().upper()
        for f in sorted(folder.rglob("*"))
        if f.is_dir()
    }
    lows = [f for f, name in inside.items() if "LR" in name]
    chosen = [f for f in lows if f"X{upscale}" in inside[f]] or lows
    if not chosen:
        return None
    partners = {_stem(p, upscale): p for p in find_images(chosen[-1])}
    pairs = []
    for target in find_images(targets):
        if _stem(target, upscale) not in partners:
            raise InputError(f"{target}: no image of that name in {chosen[-1]}")
        pairs.append((target, partners[_stem(target, upscale)]))
    return pairs


def _stem(path: Path, upscale: int) -> str:
    return re.sub(rf"[_-]?(x{upscale}|hr|lr)$", "", path.stem, flags=re.IGNORECASE)


def _pair_case(
    kind: str, target_file: Path, file: Path, upscale: int, crop: int | None
) -> Case:
    target, lowres = (read_sources(p, kind, 1)[0] for p in (target_file, file))
    height, width = lowres.pixels.shape[-2:]
    rows, columns = (n // upscale for n in target.pixels.shape[-2:])
    if (rows, columns) != (height, width):
        raise InputError(
            f"{file}: {width} x {height} pixels do not belong to {target_file}, whose "
            f"{upscale} times smaller image has {columns} x {rows}"
        )
    window, fine_window = _center(height, width, upscale, crop)
    return Case(
        kind,
        target_file.name,
        target.normalized(lowres.pixels[:, *window].astype(np.float32)),
        target.normalized(target.pixels[:, *fine_window].astype(np.float32)),
        target.pixels.dtype == np.uint8,
    )


def _single_case(source: Source, upscale: int, crop: int | None) -> Case:
    channels = slice(None) if source.rgb else slice(1)
    height, width = (n // upscale for n in source.pixels.shape[-2:])
    _, window = _center(height, width, upscale, crop)
    pixels = source.pixels[channels, *window]
    if pixels.dtype == np.uint8:
        levels = pixels.astype(np.uint8, copy=False)
        lowres = downscale_levels(levels, upscale).astype(np.float32) / np.float32(255)
        target = pixels.astype(np.float32) / np.float32(255)
        return Case(source.kind, source.path.name, lowres, target, True)
    target = source.normalized(pixels.astype(np.float32), channels)
    lowres = downscale(target, upscale, "bicubic")
    return Case(source.kind, source.path.name, lowres, target, False)


def _center(
    height: int, width: int, upscale: int, crop: int | None
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Window of the low-resolution image and of its target.

    It is everything, or `crop` fine pixels at the center.
    """
    rows, columns = (height, width) if crop is None else (crop // upscale,) * 2
    rows, columns = min(rows, height), min(columns, width)
    y, x = (height - rows) // 2, (width - columns) // 2
    return tuple(  # type: ignore[return-value]
        (slice(u * y, u * (y + rows)), slice(u * x, u * (x + columns)))
        for u in (1, upscale)
    )


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


def write_sheet(path: Path, scores: Sequence[Score], rows: int = 12) -> Path:
    """Write a contact sheet: a row per image, a column per method, the target last.

    Every row is shown with one contrast, that of its target.

    Parameters
    ----------
    path : Path
        PNG or JPEG file to write.
    scores : sequence of Score
        Results of `evaluate(..., keep_crops=True)`.
    rows : int
        Most images shown, evenly spread.

    Raises
    ------
    InputError
        If the scores hold no crops.
    OutputError
        If the file cannot be written.
    """
    from PIL import Image as pil  # noqa: N813
    from PIL import ImageDraw

    images: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        if score.crop is not None:
            images.setdefault((score.kind, score.image), []).append(score)
    if not images:
        raise InputError("a contact sheet needs scores that were made to keep crops")
    names = list(images)
    picked = np.unique(
        np.linspace(0, len(names) - 1, min(rows, len(names))).astype(int)
    )
    chosen = [images[names[number]] for number in picked]
    side = max(
        max(row[0].target.shape[:2]) for row in chosen if row[0].target is not None
    )
    cell = side * ZOOM + GAP
    columns = len(chosen[0]) + 1
    sheet = pil.new("RGB", (columns * cell, len(chosen) * (cell + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(chosen):
        top = number * (cell + LABEL)
        target = row[0].target
        assert target is not None
        low, high = np.percentile(target, (0.1, 99.9))
        labels = [f"{s.method} {s.psnr:.2f} dB" for s in row]
        crops = [s.crop for s in row if s.crop is not None]
        for place, (label, crop) in enumerate(
            zip([*labels, row[0].image], [*crops, target], strict=True)
        ):
            draw.text((place * cell + 2, top), label[: cell // 6], fill="black")
            sheet.paste(
                pil.fromarray(_levels(crop, float(low), float(high))),
                (place * cell, top + LABEL),
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as draft:
            sheet.save(draft)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: cannot write the contact sheet ({error})"
        ) from error
    return path


def _levels(crop: Image, low: float, high: float) -> NDArray[np.uint8]:
    """(h, w, C) values -> (ZOOM h, ZOOM w, 3) levels."""
    stretched = (crop - low) / max(high - low, 1e-6)
    levels = np.rint(np.clip(stretched, 0, 1) * 255).astype(np.uint8)
    if levels.shape[-1] == 1:
        levels = np.repeat(levels, 3, axis=-1)
    zoomed: NDArray[np.uint8] = levels.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    return zoomed
