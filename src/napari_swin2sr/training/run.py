"""A training run: prepare, train, write the model folder and its card."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_swin2sr.errors import Cancelled, OptionError, OutputError, WeightsError
from napari_swin2sr.model.swin2sr import save_network
from napari_swin2sr.replace import rename_over, scratch_folder, write_bytes
from napari_swin2sr.training.calibrate import add_error_bars
from napari_swin2sr.training.data import ImageSet, Sampler, load_images
from napari_swin2sr.training.error_head import CROPS
from napari_swin2sr.training.gain import Gain, HeldOut
from napari_swin2sr.training.loop import MARGIN, Progress, Trainer, use_bfloat16
from napari_swin2sr.training.start import load, starting_network
from napari_swin2sr.training.teacher import (
    CONTEXT,
    LABELED_SIZE,
    TeacherPool,
    label_crops,
)
from napari_swin2sr.weights.catalog import resolve_model
from napari_swin2sr.weights.download import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.training.options import TrainOptions
    from napari_swin2sr.weights.config import Swin2SRConfig

logger = logging.getLogger("napari_swin2sr")

WORK_FOLDER = "training"
"""Sub-folder of the model folder with everything only training needs."""

RECORD_NAME = "training.json"

PREVIEW_NAME = "preview.npz"
"""Crops in the working folder, with each validation: input, before, after, truth."""

OUTPUTS = ("model.safetensors", "config.json", "README.md")
"""What training writes into the model folder, besides its record."""

WARNING = """\
**Do not measure on invented pixels.** Super-resolution fills in detail that is likely,
not detail that was seen. Count, segment and look with it; take intensities, distances
near the resolution limit and evidence from the original image."""

HEADER = """\
---
library_name: transformers
pipeline_tag: image-to-image
tags: [super-resolution, swin2sr, napari-swin2sr]
---

"""


def train(
    folders: Sequence[Path],
    output: Path,
    options: TrainOptions,
    *,
    fresh: bool = False,
    report: Callable[[Mapping[str, Any]], None] = lambda record: None,
    cancel: CancelToken | None = None,
    preview: bool = False,
) -> Path:
    """Train a model and write its folder; continue an interrupted run.

    A model that is fine-tuned and not better than its start on held-out images (see
    `training.gain`) is not kept: the folder gets the weights of the start, and a record
    with the event "gain" says so.

    Parameters
    ----------
    folders : sequence of Path
        Images to learn from.
    output : Path
        Model folder to write: config.json, model.safetensors, README.md (model card),
        training.json (options, data, history) and training/ (state, may be deleted).
    options : TrainOptions
        Everything else.
    fresh : bool
        Forget the state of an earlier run in the same folder.
    report : callable
        Gets one record per message or validation.
    cancel : CancelToken, optional
        When set, training stops early; the best that was learned so far is written.
    preview : bool
        With each validation, write crops before and after as an .npz file, and report
        its path.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    Cancelled
        If it is stopped before training has begun.
    OutputError
        If the output folder has files of these names that training did not write.
    """
    check_output(output)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    network = starting_network(options)
    side = options.patch + 2 * MARGIN
    if options.teacher is not None:
        side = max(side, LABELED_SIZE + 2 * CONTEXT)
    images = load_images(
        folders,
        min_size=network.config.upscale * side,
        validation=options.validation,
    )

    def say(text: str) -> None:
        report({"event": "message", "message": text})

    kinds = ", ".join(f"{n} {kind or 'images'}" for kind, n in images.kinds.items())
    say(f"training on {kinds}; {len(images.skipped)} files left out")
    work = output / WORK_FOLDER
    trainer = Trainer(network, images, options, work, device=device)
    held_out = None
    if options.start is not None:  # still the start's weights, in training's arithmetic
        held_out = HeldOut(images.validation, trainer.network, options.noise)
    if fresh:
        trainer.start_anew()
    elif trainer.resume():
        say(f"continuing at step {trainer.state.step}")
    if options.teacher is not None:
        trainer.pool = _teacher_pool(trainer, images, options.teacher, say, cancel)
    trainer.note_run(describe(folders, options))
    trainer.run(report=_watch(trainer, held_out, report, preview), cancel=cancel)
    trainer.use_best()
    gain = None if held_out is None else _judge(trainer, held_out, report)
    _write(output, trainer, images, gain)
    if cancel is None or not cancel.is_set():
        with contextlib.suppress(Cancelled):  # the model is there, without error bars
            add_error_bars(
                output,
                trainer.network,
                images,
                options,
                crops=min(CROPS, trainer.state.step * options.batch // 4 + 8),
                say=say,
                cancel=cancel,
            )
    return output


def _watch(
    trainer: Trainer,
    held_out: HeldOut | None,
    report: Callable[[Mapping[str, Any]], None],
    preview: bool,
) -> Callable[[Progress], None]:
    """Return what tells of each validation, and shows a crop."""

    def validated(progress: Progress) -> None:
        report({"event": "validation", **asdict(progress)})
        if preview and held_out is not None and held_out.crops:
            trainer.folder.mkdir(parents=True, exist_ok=True)
            path = trainer.folder / PREVIEW_NAME
            stream = io.BytesIO()
            crops: dict[str, Any]
            crops = dict(held_out.preview(trainer.network, trainer.average))
            np.savez(stream, **crops)
            write_bytes(path, stream.getvalue())
            report({"event": "preview", "path": str(path)})

    return validated


def _judge(
    trainer: Trainer,
    held_out: HeldOut,
    report: Callable[[Mapping[str, Any]], None],
) -> Gain | None:
    """Compare the network with its start; put the start back if it is not better."""
    gain = held_out.gain(trainer.network)
    if gain is None:
        return None
    if not gain.better:
        trainer.network.load_state_dict(held_out.weights)
    text = verdict(gain, Path(str(trainer.options.start)).name)
    record = {"event": "gain", **asdict(gain), "better": gain.better}
    report({**record, "message": text})
    return gain


def verdict(gain: Gain, start: str) -> str:
    """Say in words whether to use the new model."""
    if gain.better:
        return str(gain)
    return (
        f"not better than {start}: keep {start}. {gain}; what was written has the "
        "weights of the start. More images or more minutes may help"
    )


def describe(folders: Sequence[Path], options: TrainOptions) -> dict[str, Any]:
    """Every option of a run as plain values; folders by name only."""
    record = {"folders": [f.resolve().name for f in folders], **asdict(options)}
    for name in ("start", "teacher"):
        if record[name] is not None:
            record[name] = Path(record[name]).name
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain


def flat_options(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a recorded run, which older records nest."""
    flat = dict(run)
    for inner in ("options", "degradation"):
        flat |= flat.pop(inner, {})
    if "downscale" not in flat:
        flat["downscale"] = {way: flat.pop(way) for way in ("bicubic", "area", "psf")}
    del flat["from_step"]
    return flat


def pick_device(name: str) -> torch.device:
    """Return the device to train on; "auto" prefers CUDA."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"device={name!r} cannot be used here ({error}); choose auto or cpu"
        ) from error
    return device


def _teacher_pool(
    trainer: Trainer,
    images: ImageSet,
    name: str,
    say: Callable[[str], None],
    cancel: CancelToken | None,
) -> TeacherPool:
    """Let the teacher label crops, or read those of an earlier run."""
    options = trainer.options
    path = trainer.folder / f"teacher-{options.teacher_crops}-{options.seed}.npz"
    resolved = resolve_model(name)
    origin = json.dumps([resolved.sha256, dict(options.mix), images.kinds])
    if path.exists():
        try:
            pool = TeacherPool.load(path)
        except Exception:  # an older layout, or damaged
            pool = None
        if pool is not None and pool.origin == origin:
            return pool
        logger.warning(
            "%s: is damaged or holds crops of another teacher or other images; the "
            "teacher labels new ones",
            path,
        )
    teacher = load(name).to(trainer.device)
    if (teacher.config.upscale, teacher.config.num_channels) != (trainer.upscale, 3):
        raise WeightsError(
            name,
            f"as a teacher it would have to be an RGB model with upscale "
            f"{trainer.upscale}; it has {teacher.config.num_channels} channel(s) and "
            f"upscale {teacher.config.upscale}",
            "Choose another teacher, or train without one",
        )
    trainer.folder.mkdir(parents=True, exist_ok=True)
    bf16 = use_bfloat16(options.precision, trainer.device)
    pool = label_crops(
        teacher,
        Sampler(images.training, options.mix),
        options.teacher_crops,
        options.seed,
        precision="bf16" if bf16 else "fp32",
        progress=say,
        cancel=cancel,
    )
    pool.origin = origin
    pool.save(path)
    return pool


def _write(output: Path, trainer: Trainer, images: ImageSet, gain: Gain | None) -> None:
    """Replace the files of the model folder, so that a kill leaves no foreign one."""
    record = {
        "runs": trainer.state.runs,
        "data": {
            "training_files": images.kinds,
            "held_out": sorted({source.path.name for source in images.validation}),
            "left_out": len(images.skipped),
        },
        "bicubic": trainer.validation.bicubic,
        "history": trainer.state.history,
        "gain": None if gain is None else {**asdict(gain), "better": gain.better},
    }
    check_output(output)
    with scratch_folder(output / "model") as new:
        save_network(trainer.network, new)
        text = HEADER + card(output.resolve().name, record, trainer.network.config)
        (new / "README.md").write_text(text, "utf-8")
        # The hashes come first, and the old ones stay, so that after a kill at any
        # moment all files are known as training's own.
        record["written"] = {
            file: sorted({*_hash(new / file), *_hash(output / file)})
            for file in OUTPUTS
        }
        text = json.dumps(record, indent=1, default=str) + "\n"
        write_bytes(output / RECORD_NAME, text.encode())
        for file in OUTPUTS:
            rename_over(new / file, output / file)


def check_output(folder: Path) -> None:
    """Refuse a folder in which training would replace what it has not written."""
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise OutputError(
            f"{folder}: no model folder can be made there, since {above} is "
            f"{'read-only' if above.is_dir() else 'no folder'}. Choose another one"
        )
    record, foreign = folder / RECORD_NAME, []
    known: dict[str, set[str]] = {}
    if os.path.lexists(record):
        try:
            written = json.loads(record.read_text(encoding="utf-8"))["written"]
            known = {file: set(written[file]) for file in OUTPUTS}
        except (OSError, ValueError, KeyError, TypeError):
            foreign.append(RECORD_NAME)
    foreign += [
        file for file in OUTPUTS if not _hash(folder / file) <= known.get(file, set())
    ]
    if foreign:
        raise OutputError(
            f"{folder}: holds {', '.join(foreign)}, which training did not write or "
            "somebody has changed since, and would replace. Move them away, or choose "
            "another output folder"
        )


def _hash(path: Path) -> set[str]:
    """Return the SHA-256 of a file; nothing if there is none."""
    if not os.path.lexists(path):
        return set()
    return {file_sha256(path)} if path.is_file() else {"no file"}


def card(name: str, record: Mapping[str, Any], config: Swin2SRConfig) -> str:
    """Return the text of a model card."""
    lines = [
        f"# {name}",
        "",
        f"Swin2SR x{config.upscale}: width {config.embed_dim}, layers "
        f"{list(config.depths)}, heads {list(config.num_heads)}, window "
        f"{config.window_size}, head `{config.upsampler}`. Written by "
        "`napari-swin2sr train`; loads in napari-swin2sr and in transformers.",
        "",
        WARNING,
        "",
        "## Data",
        "",
        "| kind | files for training |",
        "|---|---|",
    ]
    data = record["data"]
    lines += [f"| {k or 'images'} | {n} |" for k, n in data["training_files"].items()]
    lines += [
        "",
        f"{len(data['held_out'])} files were held out for validation (listed in "
        f"`training.json`), {data['left_out']} could not be used.",
        "",
        "## Validation on the held-out files",
        "",
        "PSNR in dB on linear values, center crops; *noisy*: 150 photons at full scale "
        "and 1 % read-out noise.",
        "",
        "| images | bicubic | this model |",
        "|---|---|---|",
    ]
    final = record["history"][-1]["validation"]
    lines += [
        f"| {kind} | {value:.2f} | {value + final[kind]:.2f} |"
        for kind, value in record["bicubic"].items()
    ]
    if (gain := record.get("gain")) is not None:
        start = record["runs"][-1]["start"]
        lines += [
            "",
            verdict(
                Gain(**{each.name: gain[each.name] for each in fields(Gain)}), start
            ),
        ]
    lines += ["", "## Training", ""]
    for number, run in enumerate(record["runs"], 1):
        shown = [
            f"`{k}={v}`" for k, v in flat_options(run).items() if v not in (None, {})
        ]
        lines.append(f"{number}. from step {run['from_step']}: {', '.join(shown)}")
    steps = record["history"][-1]
    lines += [
        "",
        f"{steps['step']} steps in {steps['seconds'] / 60:.0f} minutes on the clock.",
        "",
    ]
    return "\n".join(lines)
