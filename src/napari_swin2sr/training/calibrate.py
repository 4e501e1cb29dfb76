"""Calibration of error bars on images whose truth is known: their own pixels.

Each image is binned by the model's factor, super-resolved and compared with itself.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.engine.upscaler import Upscaler, load_model
from napari_swin2sr.errors import InputError, OptionError, OutputError, check_cancel
from napari_swin2sr.model.swin2sr import load_network, save_network
from napari_swin2sr.replace import write_bytes
from napari_swin2sr.training.data import Sampler, find_images, read_sources
from napari_swin2sr.training.degrade import add_noise, downscale, resize_bicubic
from napari_swin2sr.training.error_head import CROP_SIDE, CROPS, train_error_head
from napari_swin2sr.training.options import TrainOptions
from napari_swin2sr.trust.calibration import (
    DEFAULT_LEVEL,
    Calibration,
    Group,
    calibrate_group,
    level_index,
    risk_curve,
)
from napari_swin2sr.weights.catalog import resolve_model
from napari_swin2sr.weights.download import file_sha256
from napari_swin2sr.weights.error_head import (
    ERROR_HEAD_NAME,
    write_calibration,
    write_error_head,
)
from napari_swin2sr.weights.registry import CONFIG_NAME, published_models
from napari_swin2sr.weights.safety import WEIGHTS_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from os import PathLike

    from numpy.typing import NDArray

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.training.data import ImageSet, Source
    from napari_swin2sr.weights.catalog import ResolvedModel

    Image = NDArray[np.float32]

logger = logging.getLogger("napari_swin2sr")

FEWEST = 9
"""Images without which nothing can be promised for 90 % of the pixels."""

SIDE = 256
"""Side of what is taken from an image, at most [px]."""

MARGIN = 8
"""Low-resolution pixels at its edge that are not compared."""

NOISE: dict[str, tuple[float, float] | None] = {
    "clean": None,
    "600 photons": (600, 0.005),
    "150 photons": (150, 0.01),
    "60 photons": (60, 0.02),
}
"""Photons at the white level and read-out noise as a share of it."""

AS_THEY_ARE = "as they are"


@dataclass(frozen=True, slots=True)
class Measured:
    """How an image came out.

    Attributes
    ----------
    error, half_width, truth : (C, H, W) float32, in the scale of the network
    gain : PSNR over bicubic interpolation [dB]
    """

    error: Image
    half_width: Image
    truth: Image
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """What a calibration has found.

    Attributes
    ----------
    folder : Path
        The model folder with the calibration, to be used as model.
    images : int
        How many images the factors come from.
    calibration : Calibration
        The factors.
    gain : tuple of float
        PSNR over bicubic interpolation on these images [dB]: the mean, and a 95 %
        interval for it from resampling the images.
    trained : bool
        Whether an error head was made, because the model had none.
    """

    folder: Path
    images: int
    calibration: Calibration
    gain: tuple[float, float, float]
    trained: bool


def calibrate(
    images: Iterable[str | PathLike[str]],
    model: str | PathLike[str] = "default",
    *,
    output: str | PathLike[str] | None = None,
    device: str = "auto",
    report: Callable[[str], None] | None = None,
    cancel: CancelToken | None = None,
) -> CalibrationReport:
    """Calibrate a model's error bars on one's own images.

    Each image is binned by the factor of the model and super-resolved; its own pixels
    are the truth. So the bars hold for images like these, binned; noise of the truth
    counts as error. A model without an error head gets one, trained on half of the
    images and calibrated on the others.

    Parameters
    ----------
    images : iterable of str or PathLike
        Files, or folders of them. Each has to be an image of its own (another field
        of view, slide or scene), not a part of another.
    model : str or PathLike, optional
        A name, a model folder or a weights file.
    output : str or PathLike, optional
        Model folder to write: the weights with their error head and calibration. By
        default the folder that `model` is.
    device : str, optional
        As for `load_model`.
    report : callable, optional
        Gets lines of text on the way.
    cancel : CancelToken, optional
        When set, nothing is written.

    Returns
    -------
    CalibrationReport
        The factors, and the gain over bicubic interpolation.

    Raises
    ------
    InputError
        If there are fewer than nine usable images (18 if an error head has to be
        made), or two are the same.
    OutputError
        If no folder is given where one is needed, or it holds another model.
    WeightsError, Cancelled
        If the model cannot be read; if `cancel` was set.
    """
    say = report or logger.info
    resolved = resolve_model(model)
    folder = _output_folder(resolved, output)
    upscaler = load_model(model, device=device)
    unit = upscaler.upscale * upscaler.window_size
    smallest = unit * (-(-(2 * MARGIN + 8) // upscaler.window_size))
    if not upscaler.has_error:
        smallest = max(smallest, upscaler.upscale * CROP_SIDE)
    sources = _read(images, smallest)
    _refuse_duplicates(sources)
    needed = FEWEST if upscaler.has_error else 2 * FEWEST
    if len(sources) < needed:
        why = (
            "with fewer, nothing can be promised about the next image"
            if upscaler.has_error
            else f"the model {upscaler.name} has no error head: half of them train one"
        )
        raise InputError(
            f"{len(sources)} usable image(s) given; at least {needed} independent ones "
            f"are needed: {why}. Parts of one image do not count"
        )
    trained, head = not upscaler.has_error, None
    if trained:
        half = len(sources) // 2
        train, sources = sources[:half], sources[half:]
        say(f"training an error head on {half} images")
        net = load_network(resolved.path, resolved.config, sha256=resolved.sha256)
        options = TrainOptions(noise=0.0, jpeg=0.0, hot=0.0, smooth=0.0)
        crops = min(CROPS, 40 * half)
        head = train_error_head(
            net, Sampler(train), options, crops=crops, cancel=cancel
        )
        upscaler = Upscaler(net, device, name=upscaler.name, error_head=head)
    curves, gains = [], []
    for number, source in enumerate(sources, 1):
        check_cancel(cancel)
        truth = center(source, unit)
        lowres = downscale(truth, upscaler.upscale, "area")
        found = measure(upscaler, lowres, truth)
        curves.append(risk_curve(found.error, found.half_width))
        gains.append(found.gain)
        say(f"{number} of {len(sources)}: {source.path.name} {found.gain:+.2f} dB")
    names = [str(number) for number in range(len(sources))]
    group = calibrate_group(curves, names, noise=AS_THEY_ARE)
    calibration = write_trust(folder, resolved, head, [group])
    return CalibrationReport(
        folder=folder,
        images=len(sources),
        calibration=calibration,
        gain=mean_and_interval(gains),
        trained=trained,
    )


def add_error_bars(
    folder: Path,
    net: Swin2SRForImageSuperResolution,
    images: ImageSet,
    options: TrainOptions,
    *,
    crops: int,
    say: Callable[[str], None],
    cancel: CancelToken | None = None,
) -> None:
    """Give a model that was just trained an error head, and calibrate it.

    The head learns from the images that the model learned from, the factors come from
    those held out; with fewer than nine of them there is a head only.
    """
    u = net.config.upscale
    large = [x for x in images.training if min(x.pixels.shape[1:]) >= u * CROP_SIDE]
    if not large:
        say(f"no error bars: no training image has {u * CROP_SIDE} px on each side")
        return
    sampler = Sampler(large, {k: v for k, v in options.mix.items() if _has(large, k)})
    head = train_error_head(net, sampler, options, crops=crops, cancel=cancel)
    upscaler = Upscaler(net, "cpu", error_head=head)
    unit = u * upscaler.window_size
    smallest = unit * (-(-(2 * MARGIN + 8) // upscaler.window_size))
    held_out = {x.path: x for x in images.validation}
    used = [x for x in held_out.values() if min(x.pixels.shape[1:]) >= smallest]
    groups = []
    if len(used) >= FEWEST:
        curves = []
        for source in used:
            check_cancel(cancel)
            truth = center(source, unit)
            lowres = downscale(truth, u, "area")
            found = measure(upscaler, lowres, truth)
            curves.append(risk_curve(found.error, found.half_width))
        names = [str(number) for number in range(len(used))]
        groups = [calibrate_group(curves, names, noise=AS_THEY_ARE)]
        say(f"error bars are calibrated on the {len(used)} images held out")
    else:
        say(
            f"error bars are not calibrated: {len(used)} usable images were held out, "
            f"{FEWEST} are needed. napari-swin2sr calibrate takes others"
        )
    write_trust(folder, resolve_model(folder), head, groups)


def _has(sources: Sequence[Source], kind: str) -> bool:
    return any(source.kind == kind for source in sources)


def center(source: Source, unit: int, side: int = SIDE) -> Image:
    """Return the center (C, H, W) of an image from 0 to 1: RGB, or one channel."""
    height, width = source.pixels.shape[-2:]
    rows, columns = (min(n, side) // unit * unit for n in (height, width))
    y, x = (height - rows) // 2, (width - columns) // 2
    channels = slice(3) if source.rgb else slice(1)
    part = source.pixels[channels, y : y + rows, x : x + columns].astype(np.float32)
    return source.normalized(part, channels)


def measure(upscaler: Upscaler, lowres: Image, truth: Image) -> Measured:
    """Super-resolve (C, h, w), and compare what is not at the edge with the truth."""
    image, half_width = upscaler.with_error(lowres[None])
    inner = slice(MARGIN * upscaler.upscale, -MARGIN * upscaler.upscale)
    place = (..., inner, inner)
    bicubic = resize_bicubic(lowres, (truth.shape[-2], truth.shape[-1]))
    error = image[0][place] - truth[place]
    plain = np.square(bicubic[place] - truth[place], dtype=np.float64).mean()
    ours = np.square(error, dtype=np.float64).mean()
    gain = 10 * np.log10((plain + 1e-12) / (ours + 1e-12))
    return Measured(error, half_width[0][place], truth[place], float(gain))


def noisy(lowres: Image, noise: str, name: str) -> Image:
    """Add one of `NOISE` to (C, h, w); the name of the image fixes the pattern."""
    amount = NOISE[noise]
    if amount is None:
        return lowres
    seed = int.from_bytes(hashlib.sha256(f"{name} {noise}".encode()).digest()[:8])
    return add_noise(lowres, *amount, np.random.default_rng(seed))


def mean_and_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean, and the 95 % interval that resampling the values gives."""
    rng, found = np.random.default_rng(0), np.asarray(values)
    draws = found[rng.integers(0, len(found), (2000, len(found)))].mean(1)
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(found.mean()), float(low), float(high)


def write_trust(
    folder: Path,
    resolved: ResolvedModel,
    head: Any,
    groups: Sequence[Group],
) -> Calibration:
    """Write what belongs to a model's error bars, and the model if it is not there.

    Without a new head, that of the model is written; without groups no calibration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS_NAMES[0]
    if resolved.path.suffix != weights.suffix and not weights.exists():
        save_network(load_network(resolved.path, resolved.config), folder)
    elif not weights.exists():
        write_bytes(weights, resolved.path.read_bytes())
        config = resolved.path.with_name(CONFIG_NAME)
        if config.exists():
            write_bytes(folder / CONFIG_NAME, config.read_bytes())
    sha256 = file_sha256(weights)
    file = folder / ERROR_HEAD_NAME
    if head is not None:
        write_error_head(head.state_dict(), folder, sha256)
    elif not file.exists() or file != resolved.path.with_name(ERROR_HEAD_NAME):
        assert resolved.error_head is not None
        write_bytes(file, resolved.error_head.path.read_bytes())
    calibration = Calibration(
        model_sha256=sha256,
        error_head_sha256=file_sha256(file),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        groups=tuple(groups),
    )
    if groups:
        write_calibration(calibration.to_dict(), folder)
    return calibration


def _output_folder(resolved: ResolvedModel, output: str | PathLike[str] | None) -> Path:
    """Return where to write; never inside of this package or a cache."""
    if output is None:
        own = Path(resolved.name)
        if resolved.name in published_models() or not own.is_dir():
            raise OutputError(
                f"{resolved.name} is no folder of yours: say where to write a copy of "
                "the model with its calibration (-o FOLDER, or output=)"
            )
        return own
    folder = Path(output)
    if Path(__file__).parents[1] in (folder.absolute(), *folder.absolute().parents):
        raise OutputError(f"{folder} lies inside of the installed package")
    weights = folder / WEIGHTS_NAMES[0]
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is no folder")
    if weights.exists() and file_sha256(weights) != resolved.sha256:
        raise OutputError(f"{folder} holds another model; choose another folder")
    return folder


def _read(images: Iterable[str | PathLike[str]], smallest: int) -> list[Source]:
    """Read the middle plane of every file."""
    if isinstance(images, (str, Path)):
        images = [images]
    paths = [path for place in images for path in find_images(Path(place))]
    found, skipped = [], []
    for path in paths:
        try:
            planes = read_sources(path, "", smallest)
        except InputError as error:
            skipped.append(str(error))
            logger.warning("left out: %s", error)
            continue
        found.append(planes[len(planes) // 2])
    if not found:
        reasons = "".join(f"\n  {line}" for line in skipped[:10])
        raise InputError(f"no usable image among {len(paths)} file(s){reasons}")
    return found


def _refuse_duplicates(sources: Sequence[Source]) -> None:
    """Refuse images that were given twice, whatever their file is called."""
    seen: dict[str, Path] = {}
    for source in sources:
        pixels = np.ascontiguousarray(source.pixels)
        key = hashlib.sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()
        if key in seen:
            raise InputError(
                f"{seen[key]} and {source.path} are the same image: each counts once, "
                "or the error bars would look surer than they are. Leave one out"
            )
        seen[key] = source.path


def trust_section(calibration: Calibration) -> str:
    """Return the section of a model card that tells of its error bars."""
    level = level_index(DEFAULT_LEVEL)
    lines = [
        "## Error bars",
        "",
        f"`trust.safetensors` and `trust.json`, made {calibration.date}: half-widths "
        "times a factor hold the truth of 90 % of the pixels, on the average over "
        "images of the kind. Without a kind, the largest factor counts.",
        "",
        "| kind | noise | images | sources | factor | pixels beyond it |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {g.kind or 'own images'} | {g.noise} | {g.images} | {g.clusters} | "
        f"{g.factors[level]:.2f} | {100 * g.risks[level]:.1f} % |"
        for g in calibration.groups
    ]
    return "\n".join(lines) + "\n"


def summary(report: CalibrationReport, level: float = DEFAULT_LEVEL) -> list[str]:
    """Return a calibration in words."""
    if not 0.5 <= level <= 0.99:
        raise OptionError(f"level={level!r} is not between 0.5 and 0.99")
    mean, low, high = report.gain
    group = report.calibration.groups[0]
    number = level_index(level)
    lines = [
        f"{report.images} images: {mean:+.2f} dB over bicubic interpolation "
        f"(95 % interval {low:+.2f} to {high:+.2f})",
        f"half-widths times {group.factors[number]:.3g} held for "
        f"{100 * (1 - group.risks[number]):.1f} % of their pixels "
        f"(asked for: {100 * level:.0f} %)",
    ]
    if group.certified < level:
        lines.append(
            f"so few images can promise {100 * group.certified:.0f} % at most; above, "
            "the factor holds on the average over these images only"
        )
    if high < 0:
        lines.append("interpolation is better for such images")
    return lines
