"""The training loop: one function that can be stopped and continued at any time.

Sample number n of step k depends on the seed, k and n only, so a run that was
interrupted continues exactly where it was, and two runs with the same seed and number
of steps give the same weights on the same machine. (A budget of minutes also fixes
the learning rate by the clock; then runs differ slightly.)
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_swin2sr.errors import FileError, InferenceError, OptionError, OutputError
from napari_swin2sr.model.swin2sr import Layer
from napari_swin2sr.replace import set_aside, written_beside
from napari_swin2sr.training.data import FLAT, ImageSet, Sampler
from napari_swin2sr.training.degrade import (
    add_noise,
    defocused,
    degrade,
    downscale,
    resize_bicubic,
)
from napari_swin2sr.training.metrics import crop_border, psnr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.training.data import Source
    from napari_swin2sr.training.options import TrainOptions
    from napari_swin2sr.training.teacher import TeacherPool

    Image = NDArray[np.float32]

logger = logging.getLogger("napari_swin2sr")

MARGIN = 8
"""Pixels around a low-resolution crop that keep its edges free of made-up context."""

INTENSITY = 0.5
"""Weight of the intensity that a crop gains or loses. The absolute error alone is least
at the median, below the mean for photon noise: dim images would get dimmer. The square
error is least at the mean of all images that look like this one: darker ones would get
brighter."""

FLOOR = 1e-6
"""Mean square error that counts as none: a quarter of an 8-bit level, squared, less
than what rounding to 8 bits leaves. Without it nearly empty samples would rule."""

VALIDATION_CROP = 64
"""Low-resolution side of a validation crop [px]."""

VALIDATION_CROPS = 6
"""Crops of each kind of image."""

VALIDATION_NOISE = (150.0, 0.01)
"""Photons at full scale and read-out noise of the noisy copy."""

STATE_NAME = "state.pt"
"""File in the output folder from which an interrupted run continues."""


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a run after a validation (or at its end)."""

    step: int
    seconds: float
    loss: float | None
    samples_per_second: float
    learning_rate: float
    validation: Mapping[str, float]


@dataclass(slots=True)
class _State:
    """Everything that an interrupted run needs."""

    step: int = 0
    seconds: float = 0.0
    runs: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """One training run on one device.

    `network` holds the starting weights and is trained in place; the state is kept in
    `folder`; `pool` holds crops labeled by a teacher.
    """

    def __init__(
        self,
        network: Swin2SRForImageSuperResolution,
        images: ImageSet,
        options: TrainOptions,
        folder: Path,
        *,
        pool: TeacherPool | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.options, self.folder, self.pool = options, folder, pool
        self.device = torch.device(device)
        self.network = network.to(self.device).train()
        self.upscale = network.config.upscale
        window = network.config.window_size
        if options.patch % window:
            raise OptionError(
                f"patch={options.patch} is not a multiple of the model's window of "
                f"{window} px; the next one is {-(-options.patch // window) * window}"
            )
        self.sampler = Sampler(images.training, options.mix)
        self.validation = ValidationSet(images.validation, self.upscale)
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.best, self.best_score = self.average, -math.inf
        self.optimizers = optimizers(network, options.learning_rate)
        self.state = _State()
        if use_bfloat16(options.precision, self.device):
            mixed_precision(self.network, self.device)

    # -- samples -----------------------------------------------------------------

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        """Make the samples of a step: input, target, teacher's output or target."""
        rows = [self.sample(step, n) for n in range(self.options.batch)]
        return tuple(
            torch.from_numpy(np.stack(column)).to(self.device)
            for column in zip(*rows, strict=True)
        )

    def sample(self, step: int, number: int) -> tuple[Image, ...]:
        """Make one sample; the same for the same seed, step and number."""
        options, u = self.options, self.upscale
        rng = np.random.default_rng([options.seed, 0, step, number])
        if self.pool is not None and rng.random() < options.teacher_share:
            return self.pool.draw(options.patch, rng)
        crop, gray = self.sampler.draw(u * (options.patch + 2 * MARGIN), rng)
        if rng.random() < options.smooth:
            crop = defocused(crop, rng)
        lowres = degrade(crop, u, gray, options, rng)
        inner = slice(MARGIN, MARGIN + options.patch)
        fine = slice(u * MARGIN, u * (MARGIN + options.patch))
        target = crop[:, fine, fine]
        return lowres[:, inner, inner], target, target

    # -- steps -------------------------------------------------------------------

    def step(self) -> float:
        """Do one optimizer step; return the loss."""
        batch = self.batch(self.state.step)
        rate = self.options.learning_rate * schedule(self.done(), self.state.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = self.loss(*batch)
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise InferenceError(
                f"training diverged at step {self.state.step}: the gradient is not "
                f"finite. Choose a learning rate below {self.options.learning_rate:g}"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        self.state.step += 1
        self._update_average()
        return float(loss.detach())

    def loss(
        self, lowres: torch.Tensor, target: torch.Tensor, teacher: torch.Tensor
    ) -> torch.Tensor:
        """Mean absolute error to the target and, where there is one, the teacher.

        In the last share of the budget, what the PSNR to the target lacks to 60 dB (see
        `FLOOR`), / 200. Intensity that a crop gains or loses costs extra.
        """
        result = self.network.upscale_tile(lowres)
        error = result - target
        if self.done() >= 1 - self.options.psnr_share:
            square = error.square().mean(dim=(1, 2, 3))
            loss = 0.05 * torch.log10(1 + square / FLOOR).mean()
        else:
            loss = error.abs().mean()
            if self.pool is not None:
                weight = self.options.teacher_weight
                loss = (1 - weight) * loss + weight * (result - teacher).abs().mean()
        gained = result.mean(dim=(1, 2, 3)) - lowres.mean(dim=(1, 2, 3))
        return loss + INTENSITY * gained.abs().mean()

    def _update_average(self) -> None:
        decay = min(self.options.ema, (1 + self.state.step) / (10 + self.state.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def note_run(self, description: dict[str, Any]) -> None:
        """Record the options of this run, and where it began."""
        runs = self.state.runs
        if not runs or {**description, "from_step": 0} != {**runs[-1], "from_step": 0}:
            runs.append({"from_step": self.state.step, **description})

    def done(self) -> float:
        """Return the share of the budget that is used, 0 to 1."""
        shares = [0.0]
        if self.options.steps is not None:
            shares.append(self.state.step / self.options.steps)
        if self.options.minutes is not None:
            shares.append(self.state.seconds / (60 * self.options.minutes))
        return min(1.0, max(shares))

    def run(
        self,
        *,
        report: Callable[[Progress], None] = lambda progress: None,
        cancel: CancelToken | None = None,
    ) -> list[dict[str, Any]]:
        """Train until the budget is used or `cancel` is set; return the history.

        The state is written at every validation and at the end; the averaged
        weights end up in `network` (see `use_best`).
        """
        last = time.monotonic()
        losses: list[float] = []
        first = self.state.step
        started = self.state.seconds
        if not self.state.history:
            self._validate(None, 0.0, report)
        while self.done() < 1 and not (cancel is not None and cancel.is_set()):
            losses.append(self.step())
            now = time.monotonic()
            self.state.seconds += now - last
            last = now
            if self.state.step % self.options.validate_every == 0 or self.done() >= 1:
                samples = (self.state.step - first) * self.options.batch
                rate = samples / max(self.state.seconds - started, 1e-9)
                self._validate(float(np.mean(losses)), rate, report)
                self.save()
                losses = []
        if losses:  # stopped between two validations
            self._validate(float(np.mean(losses)), 0.0, report)
        self.save()
        return self.state.history

    def _check_finite(self) -> None:
        """Refuse to keep weights that are not numbers, in place of earlier ones."""
        if not all(value.isfinite().all() for value in self.average.values()):
            raise InferenceError(
                f"training diverged before step {self.state.step}: the weights are not "
                "finite and are not kept. Choose a learning rate below "
                f"{self.options.learning_rate:g}"
            )

    def _validate(
        self, loss: float | None, rate: float, report: Callable[[Progress], None]
    ) -> None:
        self._check_finite()
        training = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        scores = self.validation.scores(self.network)
        self.network.load_state_dict(training)
        progress = Progress(
            step=self.state.step,
            seconds=self.state.seconds,
            loss=loss,
            samples_per_second=rate,
            learning_rate=self.optimizers[0].param_groups[0]["lr"],
            validation=scores,
        )
        self.state.history.append(asdict(progress))
        score = float(np.mean(list(scores.values()))) if scores else 0.0
        if self.state.step and score >= self.best_score:
            self.best_score = score
            self.best = {k: v.clone() for k, v in self.average.items()}
        report(progress)

    # -- state -------------------------------------------------------------------

    def save(self) -> None:
        """Write the state so that a crash leaves the old or the new one, whole."""
        self._check_finite()
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / STATE_NAME
        stored = {
            "network": self.network.state_dict(),
            "average": self.average,
            "best": self.best,
            "best_score": self.best_score,
            "optimizers": [each.state_dict() for each in self.optimizers],
            "state": json.dumps(asdict(self.state)),
            "config": json.dumps(self.network.config.to_dict()),
        }
        try:
            with written_beside(target) as part:
                torch.save(stored, part)
        except (OSError, RuntimeError) as error:
            raise OutputError(
                f"{target}: the training state cannot be written ({error}). Free some "
                "space or choose another output folder, then run the command again"
            ) from error

    def start_anew(self) -> None:
        """Forget an earlier state; a file that is no state is kept beside it."""
        path = self.folder / STATE_NAME
        if not path.exists():
            return
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            known = "optimizers" in stored and "average" in stored
        except Exception:
            known = False
        if not known:
            kept = set_aside(path)
            logger.warning("%s is no training state; kept as %s", path, kept.name)

    def resume(self) -> bool:
        """Continue from the state in the folder; False if there is none."""
        path = self.folder / STATE_NAME
        if not path.exists():
            return False
        try:
            stored = torch.load(path, map_location=self.device, weights_only=True)
            states = stored["optimizers"]
        except Exception as error:
            raise FileError(
                f"{path}: the training state cannot be read ({type(error).__name__}); "
                "start again with --fresh, or choose another output folder"
            ) from error
        if json.loads(stored["config"]) != json.loads(
            json.dumps(self.network.config.to_dict())
        ):
            raise OptionError(
                f"{path} continues a network of another geometry; choose another "
                "output folder, or remove this one to start again"
            )
        self.network.load_state_dict(stored["network"])
        self.average = stored["average"]
        self.best = stored.get("best", self.average)
        self.best_score = stored.get("best_score", -math.inf)
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self.state = _State(**json.loads(stored["state"]))
        return True

    def use_best(self) -> None:
        """Put those averaged weights into the network that were best when validated."""
        self.network.load_state_dict(self.best)
        self.network.eval()


class ValidationSet:
    """Fixed center crops of the held-out images, clean and noisy.

    RGB stays RGB, other planes are gray.
    """

    def __init__(self, sources: Sequence[Source], upscale: int) -> None:
        self.upscale = upscale
        self.items: list[tuple[str, Image, Image]] = []
        by_kind: dict[str, list[Image]] = {}
        for source in sources:
            size = min(upscale * VALIDATION_CROP, *source.pixels.shape[-2:])
            size -= size % (8 * upscale)
            y, x = ((n - size) // 2 for n in source.pixels.shape[-2:])
            crop = source.crop(y, x, size)
            crop = crop if source.rgb else crop[:1]
            if crop.std() >= FLAT:
                by_kind.setdefault(source.kind or "images", []).append(crop)
        for kind, crops in sorted(by_kind.items()):
            for number in np.linspace(
                0, len(crops) - 1, min(len(crops), VALIDATION_CROPS)
            ):
                target = crops[int(number)]
                clean = downscale(target, upscale, "bicubic")
                rng = np.random.default_rng([len(self.items), 7])
                self.items.append((kind, clean, target))
                noisy = add_noise(clean, *VALIDATION_NOISE, rng)
                self.items.append((f"{kind}, noisy", noisy, target))
        self.bicubic = self._mean(
            [
                self._psnr(self.enlarged(lowres), target)
                for _, lowres, target in self.items
            ]
        )

    def enlarged(self, lowres: Image) -> Image:
        """Bicubic interpolation of (C, h, w)."""
        height, width = (n * self.upscale for n in lowres.shape[-2:])
        return resize_bicubic(lowres, (height, width))

    def scores(self, network: Swin2SRForImageSuperResolution) -> dict[str, float]:
        """PSNR gain over bicubic interpolation in dB, per kind, clean and noisy."""
        device = next(network.parameters()).device
        values = []
        with torch.inference_mode():
            for _, lowres, target in self.items:
                pixels = torch.from_numpy(lowres[None]).to(device)
                result = network.upscale_tile(pixels)[0].float().cpu().numpy()
                values.append(self._psnr(result, target))
        means = self._mean(values)
        return {name: means[name] - self.bicubic[name] for name in means}

    def _psnr(self, image: Image, target: Image) -> float:
        a, b = (crop_border(np.moveaxis(x, 0, -1), 4) for x in (image, target))
        return min(psnr(a, b, peak=1.0), 99.0)

    def _mean(self, values: list[float]) -> dict[str, float]:
        grouped: dict[str, list[float]] = {}
        for (name, _, _), value in zip(self.items, values, strict=True):
            grouped.setdefault(name, []).append(value)
        return {name: float(np.mean(found)) for name, found in grouped.items()}


def optimizers(
    network: Swin2SRForImageSuperResolution, learning_rate: float
) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the transformer's layers, Adam for everything else.

    Muon's orthogonal steps learn more per sample: 500 steps from bicubic gained
    0.1 to 0.3 dB over Adam alone on all four kinds of validation images. Its step is
    scaled to the length of Adam's, so that both share a learning rate.
    """
    matrices = {
        module.weight
        for layer in network.modules()
        if isinstance(layer, Layer)
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear) and "position" not in name
    }
    rest = [each for each in network.parameters() if each not in matrices]
    return (
        torch.optim.Muon(
            [each for each in network.parameters() if each in matrices],
            lr=learning_rate,
            weight_decay=0.0,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.Adam(rest, lr=learning_rate, betas=(0.9, 0.99), fused=True),
    )


def schedule(done: float, step: int, warm_up: int = 50) -> float:
    """Factor on the learning rate: linear warm-up, then a cosine down to 2 %."""
    return min(1.0, (step + 1) / warm_up) * (0.51 + 0.49 * math.cos(math.pi * done))


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the transformer trains in bfloat16: if asked, or if the device has it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def mixed_precision(
    network: Swin2SRForImageSuperResolution, device: torch.device
) -> None:
    """Let the transformer compute in bfloat16.

    The convolutions at both ends, the residual stream, the loss and the weights stay
    float32: all in bfloat16, the result could not be better than about 58 dB.
    """
    encoder = network.swin2sr.encoder
    mixed = torch.autocast(device.type, torch.bfloat16)(encoder.forward)
    encoder.forward = mixed  # type: ignore[method-assign]
