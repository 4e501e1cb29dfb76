"""A training run from the command line's point of view: prepare, train, write."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_swin2sr.errors import OptionError, OutputError, WeightsError
from napari_swin2sr.model.swin2sr import load_network, save_network
from napari_swin2sr.replace import rename_over, scratch_folder, write_bytes
from napari_swin2sr.training.card import write_card
from napari_swin2sr.training.data import ImageSet, Sampler, load_images
from napari_swin2sr.training.loop import MARGIN, Trainer, use_bfloat16
from napari_swin2sr.training.options import TrainOptions
from napari_swin2sr.training.start import bicubic_network, enlarge_head
from napari_swin2sr.training.teacher import (
    CONTEXT,
    LABELLED_SIZE,
    TeacherPool,
    label_crops,
)
from napari_swin2sr.weights.catalog import resolve_model
from napari_swin2sr.weights.config import Swin2SRConfig
from napari_swin2sr.weights.download import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution

logger = logging.getLogger("napari_swin2sr")

WORK_FOLDER = "training"
"""Sub-folder of the model folder with everything only training needs."""


RECORD_NAME = "training.json"

OUTPUTS = ("model.safetensors", "config.json", "README.md")
"""What training writes into the model folder, besides its record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to train, on what, and where to put it.

    Attributes
    ----------
    folders : images
    output : model folder to write
    start : model to fine-tune, or None for a new network that computes bicubic
    upscale : factor; None for that of `start`, or 2
    embed_dim, depths, heads : geometry of a new network (upscale 2, RGB)
    teacher : stronger model to learn from as well, or None
    teacher_crops : crops that it labels
    validation : share of files held out
    device : "auto", "cpu", "cuda", "cuda:N" or "mps"
    options : everything about the loop
    """

    folders: tuple[Path, ...]
    output: Path
    start: str | None = None
    upscale: int | None = None
    embed_dim: int = 48
    depths: tuple[int, ...] = (4, 4)
    heads: tuple[int, ...] = (3, 3)
    teacher: str | None = None
    teacher_crops: int = 1500
    validation: float = 0.15
    device: str = "auto"
    options: TrainOptions = field(default_factory=TrainOptions)

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 0 < self.validation < 1:
            raise OptionError(
                f"validation={self.validation!r} is not a share between 0 and 1"
            )
        if self.teacher_crops < 1:
            raise OptionError(f"teacher_crops={self.teacher_crops!r} is not positive")


def train(
    plan: Plan,
    *,
    fresh: bool = False,
    report: Callable[[Mapping[str, Any]], None] = lambda record: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Train a model and write its folder; continue an interrupted run.

    Parameters
    ----------
    plan : what to do
    fresh : forget the state of an earlier run in the same folder
    report : gets one record per message or validation
    cancelled : turns true to stop early; what was learned so far is written

    Returns
    -------
    The model folder: config.json, model.safetensors, README.md (model card),
    training.json (options, data, history) and training/ (state, may be deleted).

    Raises
    ------
    Cancelled
        If it is stopped before training has begun.
    OutputError
        If the output folder has files of these names that training did not write.
    """
    check_output(plan.output)
    if plan.options.threads is not None:
        torch.set_num_threads(plan.options.threads)
    device = pick_device(plan.device)
    network = starting_network(plan)
    side = plan.options.patch + 2 * MARGIN
    if plan.teacher is not None:
        side = max(side, LABELLED_SIZE + 2 * CONTEXT)
    images = load_images(
        plan.folders,
        min_size=network.config.upscale * side,
        validation=plan.validation,
    )
    kinds = ", ".join(f"{n} {kind or 'images'}" for kind, n in images.kinds.items())
    report(_message(f"training on {kinds}; {len(images.skipped)} files left out"))
    work = plan.output / WORK_FOLDER
    trainer = Trainer(network, images, plan.options, work, device=device)
    if fresh:
        trainer.start_anew()
    elif trainer.resume():
        report(_message(f"continuing at step {trainer.state.step}"))
    trainer.pool = _teacher_pool(
        plan, images, trainer.upscale, work, device, report, cancelled
    )
    trainer.note_run(describe(plan))
    trainer.run(
        report=lambda progress: report({"event": "validation", **asdict(progress)}),
        cancelled=cancelled,
    )
    trainer.use_average()
    return _write(plan, trainer, images)


def describe(plan: Plan) -> dict[str, Any]:
    """Every option of a run as plain values; folders by name only."""
    record = asdict(plan)
    record["folders"] = [folder.resolve().name for folder in plan.folders]
    for name in ("start", "teacher"):
        if record[name] is not None:
            record[name] = Path(record[name]).name
    del record["output"]
    plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
    return plain


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


def starting_network(plan: Plan) -> Swin2SRForImageSuperResolution:
    """Load the model to fine-tune, or make one that interpolates bicubically."""
    if plan.start is not None:
        network = load(plan.start)
        if network.config.upscale < 2 or network.config.num_channels != 3:
            raise WeightsError(
                plan.start,
                f"it has upscale {network.config.upscale} and "
                f"{network.config.num_channels} channel(s)",
                "Only RGB models that enlarge can be fine-tuned",
            )
        if plan.upscale in (None, network.config.upscale):
            return network
        return enlarge_head(network, plan.upscale)
    if plan.upscale not in (None, 2):
        raise OptionError(
            f"upscale={plan.upscale} without a model to start from: a new network has "
            "upscale 2. Name one with --from, such as default"
        )
    torch.manual_seed(plan.options.seed)
    config = Swin2SRConfig(
        embed_dim=plan.embed_dim,
        depths=plan.depths,
        num_heads=plan.heads,
        upsampler="pixelshuffledirect",
        upscale=2,
        drop_path_rate=0.0,
    )
    return bicubic_network(config)


def load(name_or_path: str) -> Swin2SRForImageSuperResolution:
    """Load a model by name, folder or file."""
    resolved = resolve_model(name_or_path)
    return load_network(resolved.path, config=resolved.config)


def _teacher_pool(
    plan: Plan,
    images: ImageSet,
    upscale: int,
    work: Path,
    device: torch.device,
    report: Callable[[Mapping[str, Any]], None],
    cancelled: Callable[[], bool],
) -> TeacherPool | None:
    if plan.teacher is None:
        return None
    path = work / f"teacher-{plan.teacher_crops}-{plan.options.seed}.npz"
    if path.exists():
        return TeacherPool.load(path)
    teacher = load(plan.teacher).to(device)
    if (teacher.config.upscale, teacher.config.num_channels) != (upscale, 3):
        raise WeightsError(
            plan.teacher,
            f"as a teacher it would have to be an RGB model with upscale {upscale}; it "
            f"has {teacher.config.num_channels} channel(s) and upscale "
            f"{teacher.config.upscale}",
            "Choose another teacher, or train without one",
        )
    work.mkdir(parents=True, exist_ok=True)
    pool = label_crops(
        teacher,
        Sampler(images.training, plan.options.mix),
        plan.teacher_crops,
        plan.options.seed,
        precision="bf16" if use_bfloat16(plan.options.precision, device) else "fp32",
        progress=lambda text: report(_message(text)),
        cancelled=cancelled,
    )
    pool.save(path)
    return pool


def _message(text: str) -> dict[str, str]:
    return {"event": "message", "message": text}


def _write(plan: Plan, trainer: Trainer, images: ImageSet) -> Path:
    record = {
        "runs": trainer.state.runs,
        "data": {
            "training_files": images.kinds,
            "held_out": sorted({source.path.name for source in images.validation}),
            "left_out": len(images.skipped),
        },
        "bicubic": trainer.validation.bicubic,
        "history": trainer.state.history,
    }
    check_output(plan.output)
    name, config = plan.output.resolve().name, trainer.network.config
    with scratch_folder(plan.output / "model") as new:
        save_network(trainer.network, new)
        write_card(new, name, record, config)
        # The hashes come first, and the old ones stay, so that after a kill at any
        # moment all files are known as training's own.
        record["written"] = {
            file: sorted({*_hash(new / file), *_hash(plan.output / file)})
            for file in OUTPUTS
        }
        text = json.dumps(record, indent=1, default=str) + "\n"
        write_bytes(plan.output / RECORD_NAME, text.encode())
        for file in OUTPUTS:
            rename_over(new / file, plan.output / file)
    return plan.output


def check_output(folder: Path) -> None:
    """Refuse a folder in which training would replace what it has not written.

    Raises
    ------
    OutputError
        With the files that are in the way.
    """
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
