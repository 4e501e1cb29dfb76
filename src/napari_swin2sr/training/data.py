"""Training images: find, read, check, split into training and validation, crop.

An image becomes a `Source`: (C, H, W) in its own number type plus its black and white
level. RGB has three channels that belong together; so do the channels of other images,
from which false colors are drawn. Every time point and slice is a source of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_swin2sr.errors import FileError, InputError, OptionError, Swin2SRError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.float32]

logger = logging.getLogger("napari_swin2sr")

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".zarr", ".bmp", ".webp")
"""File names (and .zarr folders) that are taken from a folder of training images."""

MAX_PLANES = 32
"""Planes of one file that are read, evenly spread, so that a stack cannot dominate."""

FLAT = 0.02
"""Standard deviation (of the range) under which a crop counts as empty."""


@dataclass(frozen=True, slots=True)
class Source:
    """One training image."""

    path: Path
    kind: str  # first folder below the training folder, "" for files directly in it
    pixels: NDArray[np.generic]  # (C, H, W) in the file's number type
    low: NDArray[np.float32]  # (C,) values that mean 0 and 1
    high: NDArray[np.float32]
    rgb: bool  # the channels are red, green and blue

    def crop(self, y: int, x: int, size: int) -> Image:
        """Return a square crop as (C, size, size) float32 from 0 to 1."""
        part = self.pixels[:, y : y + size, x : x + size].astype(np.float32)
        return self.normalized(part)

    def normalized(self, part: Image, channels: slice = slice(None)) -> Image:
        """Map (C, h, w) values of this image to 0..1; outliers end at -0.1 and 1.5."""
        low, high = (level[channels, None, None] for level in (self.low, self.high))
        return np.clip((part - low) / (high - low), -0.1, 1.5)


def find_images(folder: Path) -> list[Path]:
    """Return every image below `folder` in a fixed order; no image is a FileError."""
    folder = Path(folder)
    if folder.is_file() or folder.suffix == ".zarr":
        return [folder]
    if not folder.is_dir():
        raise FileError(
            f"{folder}: there is no such folder of images, and no such file"
        )
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(parent.suffix == ".zarr" for parent in path.parents)
    )
    if not found:
        raise FileError(
            f"{folder}: no images in this folder; expected files that end in "
            f"{', '.join(SUFFIXES)}"
        )
    return found


def read_sources(path: Path, kind: str, min_size: int) -> list[Source]:
    """Read all planes of one file that can be learned from.

    Without one (too small, constant, not finite) an InputError names the reason.
    """
    stack, rgb = _read_stack(path)
    if min(stack.shape[-2:]) < min_size:
        raise InputError(
            f"{path}: {stack.shape[-1]} x {stack.shape[-2]} pixels are too few, "
            f"training crops need {min_size} x {min_size}"
        )
    if not (
        np.issubdtype(stack.dtype, np.integer)
        or np.issubdtype(stack.dtype, np.floating)
    ):
        raise InputError(
            f"{path}: pixels of type {stack.dtype} cannot be trained on, only integers "
            "and real numbers"
        )
    picked = np.linspace(0, len(stack) - 1, min(len(stack), MAX_PLANES))
    sources = []
    reason = "constant"
    for number in np.unique(picked.astype(int)):
        pixels = stack[number]
        if not np.all(np.isfinite(pixels)):
            reason = "not finite (NaN or infinite pixels; cut them off first)"
            continue
        low, high = _range(pixels, rgb)
        if np.all(high > low):
            sources.append(Source(path, kind, pixels, low, high, rgb))
    if not sources:
        raise InputError(f"{path}: every plane is {reason}, nothing can be learned")
    return sources


def _read_stack(path: Path) -> tuple[NDArray[np.generic], bool]:
    """Return (N, C, H, W) and whether C is RGB."""
    from napari_swin2sr.formats import open_image

    image = open_image(path)
    pixels = np.asarray(image.data[(slice(None),) * len(image.shape)])
    axes = image.axes
    last = "S" if "S" in axes else "C" if "C" in axes else ""
    order = [axes.index(a) for a in axes if a not in last + "YX"]
    pixels = pixels.transpose(*order, *(axes.index(a) for a in last + "YX"))
    if not last:
        pixels = pixels[..., None, :, :]
    rgb = last == "S" and pixels.shape[-3] >= 3
    if last == "S":  # the rest is alpha
        pixels = pixels[..., : 3 if rgb else 1, :, :]
    return pixels.reshape(-1, *pixels.shape[-3:]), rgb


def _range(
    pixels: NDArray[np.generic], rgb: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values for 0 and 1: the type's range for 8 bits, robust percentiles else."""
    channels = len(pixels)
    if pixels.dtype == np.uint8:
        high = 255.0 if np.ptp(pixels) else 0.0
        return np.zeros(channels, np.float32), np.full(channels, high, np.float32)
    step = max(1, int(np.sqrt(pixels[0].size / 1e6)))
    sample = pixels[:, ::step, ::step].reshape(1 if rgb else channels, -1)
    low, high = np.percentile(sample.astype(np.float64), (0.1, 99.9), axis=1)
    ones = np.ones(channels, np.float32)
    return (low * ones).astype(np.float32), (high * ones).astype(np.float32)


def held_out(paths: Sequence[Path], share: float) -> set[Path]:
    """Choose the files of one kind that training never sees.

    The choice depends on the file names alone: those with the lowest hashes, so that
    neither the order nor the place of the files matters. The share is rounded up, but
    one file is always left to train on.
    """
    count = min(int(np.ceil(len(paths) * share)), len(paths) - 1)
    ordered = sorted(paths, key=lambda p: hashlib.sha256(p.name.encode()).hexdigest())
    return set(ordered[:count])


def split_in_two(
    source: Source, share: float, min_size: int
) -> tuple[Source, Source] | None:
    """Cut a strip off the end of the longer side, to validate on; None if too small."""
    height, width = source.pixels.shape[-2:]
    side = max(height, width)
    if side < 2 * min_size:
        return None
    cut = side - min(max(round(side * share), min_size), side - min_size)
    axis = -2 if height >= width else -1
    parts = np.split(source.pixels, [cut], axis=axis)
    train, check = (dataclasses.replace(source, pixels=part) for part in parts)
    return train, check


@dataclass(frozen=True, slots=True)
class ImageSet:
    """All sources, split; `skipped` tells which files were refused and why."""

    training: tuple[Source, ...]
    validation: tuple[Source, ...]
    skipped: tuple[str, ...]

    @property
    def kinds(self) -> dict[str, int]:
        """Number of training files of each kind."""
        files = {(source.kind, source.path) for source in self.training}
        return dict(sorted(Counter(kind for kind, _ in files).items()))


def load_images(
    folders: Sequence[Path], *, min_size: int, validation: float = 0.15
) -> ImageSet:
    """Read every image of some folders (or single files) into memory and split them.

    Images with a side below `min_size` [px] and others that cannot be used are left
    out; with fewer than two usable ones an InputError lists them. `validation` is the
    share of each kind that is held out; of a single image, a strip is.
    """
    by_kind: dict[str, list[tuple[Path, list[Source]]]] = {}
    skipped = []
    for folder in map(Path, folders):
        for path in find_images(folder):
            inside = path.relative_to(folder).parts if path != folder else (path.name,)
            kind = inside[0] if len(inside) > 1 else ""
            try:
                sources = read_sources(path, kind, min_size)
            except Swin2SRError as error:
                logger.warning("left out: %s", error)
                skipped.append(str(error))
                continue
            by_kind.setdefault(kind, []).append((path, sources))
    training: list[Source] = []
    validating: list[Source] = []
    if [len(files) for files in by_kind.values()] == [1]:
        for source in next(iter(by_kind.values()))[0][1]:
            if (parts := split_in_two(source, validation, min_size)) is not None:
                training.append(parts[0])
                validating.append(parts[1])
        by_kind.clear()
    for files in by_kind.values():
        chosen = held_out([path for path, _ in files], validation)
        for path, sources in files:
            (validating if path in chosen else training).extend(sources)
    if not training or not validating:
        listed = "".join(f"\n  {line}" for line in skipped[:10])
        raise InputError(
            "too few usable training images: at least two are needed, one to train on "
            f"and one to validate on, or one with a side of at least {2 * min_size} "
            f"pixels and the other of {min_size}.{listed}"
        )
    return ImageSet(tuple(training), tuple(validating), tuple(skipped))


class Sampler:
    """Draws augmented high-resolution crops.

    `mix` is the share of each kind; by default the square root of area decides.
    """

    def __init__(
        self, sources: Sequence[Source], mix: Mapping[str, float] | None = None
    ) -> None:
        self.sources = tuple(sources)
        weight = np.sqrt([float(np.prod(s.pixels.shape[-2:])) for s in self.sources])
        if mix:
            kinds = np.array([s.kind for s in self.sources])
            unknown = sorted(set(mix) - {s.kind for s in self.sources})
            if unknown:
                raise OptionError(
                    f"mix names {unknown[0]!r}, but the kinds of training images are "
                    f"{', '.join(sorted({repr(s.kind) for s in self.sources}))}"
                )
            for kind in set(kinds):
                mine = kinds == kind
                weight[mine] *= mix.get(kind, 0.0) / weight[mine].sum()
        if not np.sum(weight) > 0:
            raise OptionError(f"mix={dict(mix or {})!r} leaves no image to train on")
        self.cumulative = np.cumsum(weight / weight.sum())

    def draw(self, size: int, rng: np.random.Generator) -> tuple[Image, bool]:
        """Return a crop (3, size, size) float32 around 0..1, and whether it is gray.

        The emptier a crop, the more often another is drawn instead, at most nine times
        in ten: dim images have to be learned, too. Colors are sometimes replaced by
        one channel or permuted; brightness and contrast vary and are sometimes
        inverted, since detectors and stains do not agree on them.
        """
        for _ in range(20):
            number = int(np.searchsorted(self.cumulative, rng.random()))
            source = self.sources[min(number, len(self.sources) - 1)]
            height, width = source.pixels.shape[-2:]
            y = int(rng.integers(0, height - size + 1))
            x = int(rng.integers(0, width - size + 1))
            crop = source.crop(y, x, size)
            if rng.random() < max(0.1, float(crop.std()) / FLAT):
                break
        crop, gray = _choose_channels(crop, source.rgb, rng)
        return _vary_intensity(turn(crop, int(rng.integers(8))), rng), gray


def _choose_channels(
    crop: Image, rgb: bool, rng: np.random.Generator
) -> tuple[Image, bool]:
    channels = len(crop)
    choice = rng.random()
    if channels < 3 or choice < 0.35:
        return np.repeat(crop[rng.integers(channels)][None], 3, axis=0), True
    if choice < 0.5 or not rgb:
        return crop[rng.permutation(channels)[:3]], False
    return crop[:3], False


def _vary_intensity(crop: Image, rng: np.random.Generator) -> Image:
    if rng.random() < 0.1:
        crop = 1 - crop
    if rng.random() < 0.5:
        gain = np.exp(rng.uniform(np.log(0.1), 0.0))
        crop = crop * np.float32(gain) + np.float32(rng.uniform(0, 1 - gain))
    return np.ascontiguousarray(crop, np.float32)


def turn(image: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """Apply one of the eight flips and quarter turns to the last two axes."""
    if number & 4:
        image = np.swapaxes(image, -1, -2)
    return image[..., :: -1 if number & 1 else 1, :: -1 if number & 2 else 1]
