"""Make the error heads of the embedded models, and calibrate them.

    python scripts/calibrate_embedded.py TRAINING CALIBRATION [MODEL ...]

TRAINING is the folder of images that the models were trained on; CALIBRATION holds
other images and a `manifest.json`: a list of records with `file`, `kind`, `cluster`
(images of one plate, slide, camera ...) and `down2_bicubic_psnr` (dB). A third of the
clusters of each kind is kept for `scripts/trust_table.py`. The error head of a model is
trained on the degradations of its last training run. Written are `trust.safetensors`
and `trust.json` beside the weights, and a section of the model card.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from napari_swin2sr.engine.upscaler import Upscaler
from napari_swin2sr.errors import Swin2SRError
from napari_swin2sr.model.error_head import load_error_head
from napari_swin2sr.model.swin2sr import load_network
from napari_swin2sr.training.calibrate import (
    NOISE,
    Measured,
    center,
    measure,
    noisy,
    trust_section,
    write_trust,
)
from napari_swin2sr.training.data import Sampler, Source, load_images, read_sources
from napari_swin2sr.training.degrade import downscale
from napari_swin2sr.training.error_head import CROP_SIDE, train_error_head
from napari_swin2sr.training.options import TrainOptions
from napari_swin2sr.training.run import flat_options
from napari_swin2sr.trust.calibration import calibrate_group, risk_curve
from napari_swin2sr.weights.catalog import resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_swin2sr.weights.catalog import ResolvedModel

MODELS = ("default", "default-clean", "default-x4")

CROP = 160
"""Side of what is taken from an image [px], its edge included."""

SMALLEST = 96
"""Side of an image, at least [px]."""

SHARPEST_DB = 42.0
"""Images that interpolation already brings above this have nothing to add."""


class Image(NamedTuple):
    """An image of the calibration folder."""

    file: str
    kind: str
    cluster: str
    source: Source
    test: bool


def main() -> None:
    """Train and calibrate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("training", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--crops", type=int, default=600, help="for the error head")
    parser.add_argument("--keep-heads", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = [i for i in read_images(args.calibration) if not i.test]
    for name in args.models:
        resolved = resolve_model(name)
        head = None
        if not (args.keep_heads and resolved.error_head):
            head = make_head(resolved, args.training, args.crops)
        net = load_network(resolved.path, resolved.config)
        used = head or load_error_head(resolved, net.config)
        upscaler = Upscaler(net, "cpu", name=name, error_head=used)
        groups: dict[tuple[str, str], list[tuple[Any, str]]] = {}
        for image, noise, found in results(upscaler, images, noise_levels(name)):
            curve = risk_curve(found.error, found.half_width)
            groups.setdefault((image.kind, noise), []).append((curve, image.cluster))
        calibration = write_trust(
            resolved.path.parent,
            resolved,
            head,
            [
                calibrate_group(*map(list, zip(*members, strict=True)), *key)
                for key, members in groups.items()
            ],
        )
        write_card(resolved.path.with_name("README.md"), trust_section(calibration))
        print(name, {k: calibration.factor(0.9, k) for k in calibration.kinds})


def noise_levels(model: str) -> tuple[str, ...]:
    """Return what a model was made for."""
    return ("clean",) if model == "default-clean" else tuple(NOISE)


def read_images(folder: Path) -> list[Image]:
    """Read the images that have something to add, and split them by cluster."""
    records = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    records = [r for r in records if r["down2_bicubic_psnr"] <= SHARPEST_DB]
    test = set()
    for kind in {record["kind"] for record in records}:
        names = [r["cluster"] for r in records if r["kind"] == kind]
        order = sorted(set(names), key=lambda x: hashlib.sha256(x.encode()).digest())
        kept = 0
        for name in order[: max(1, len(order) // 3)]:
            if kept < len(names) / 3:
                test.add(name)
                kept += names.count(name)
    found = []
    for record in records:
        try:
            planes = read_sources(folder / record["file"], record["kind"], SMALLEST)
        except Swin2SRError as error:
            print("left out:", error)
            continue
        cluster = record["cluster"]
        place = (record["file"], record["kind"], cluster, planes[0])
        found.append(Image(*place, cluster in test))
    return found


def results(
    upscaler: Upscaler, images: list[Image], levels: tuple[str, ...]
) -> Iterator[tuple[Image, str, Measured]]:
    """Super-resolve each image at each level of noise."""
    for image in images:
        truth, lowres = pair(image, upscaler)
        for noise in levels:
            small = noisy(lowres, noise, image.file)
            yield image, noise, measure(upscaler, small, truth)


def pair(image: Image, upscaler: Upscaler) -> tuple[Any, Any]:
    """Return the truth and its low-resolution image, without noise."""
    unit = upscaler.upscale * upscaler.window_size
    truth = center(image.source, unit, CROP)
    return truth, downscale(truth, upscaler.upscale, "area")


def make_head(resolved: ResolvedModel, folder: Path, crops: int) -> Any:
    """Train the error head of an embedded model."""
    record = json.loads(resolved.path.with_name("training.json").read_text("utf-8"))
    known = {field.name: field for field in dataclasses.fields(TrainOptions)}
    values = flat_options(record["runs"][-1])
    values = {k: v for k, v in values.items() if k in known}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    options = TrainOptions(**{**values, "start": None, "teacher": None})
    net = load_network(resolved.path, resolved.config, sha256=resolved.sha256)
    images = _training_images(
        folder, net.config.upscale * CROP_SIDE, options.validation
    )
    sampler = Sampler(images.training, options.mix)
    return train_error_head(net, sampler, options, crops=crops)


@functools.cache
def _training_images(folder: Path, smallest: int, validation: float) -> Any:
    return load_images([folder], min_size=smallest, validation=validation)


def write_card(file: Path, section: str) -> None:
    """Put the section into the model card, in the place of an earlier one."""
    begin, end = "<!-- error bars -->", "<!-- end error bars -->"
    text = file.read_text(encoding="utf-8")
    block = f"{begin}\n\n{section}\n{end}\n"
    if begin in text:
        before, _, rest = text.partition(begin)
        text = before + block + rest.partition(end)[2].lstrip("\n")
    elif "\n## Limits" in text:
        text = text.replace("\n## Limits", f"\n{block}\n## Limits", 1)
    else:
        text = f"{text.rstrip()}\n\n{block}"
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
