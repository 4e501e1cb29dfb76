"""Every choice about a training run: meaning, default, check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_swin2sr.errors import OptionError
from napari_swin2sr.training.degrade import Degradation

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What a person can choose about a training run; validated when it is made.

    Attributes
    ----------
    minutes : time budget on the clock, all interruptions excluded; None for no limit
    steps : number of optimiser steps; None for no limit (one of the two is needed)
    batch : crops per step
    patch : side of a low-resolution crop [px], a multiple of the model's window
    learning_rate : of Muon and Adam, after the warm-up; falls along a cosine to 2 %
    seed : fixes all random choices
    mix : share of each kind of image (first folder level), or empty for natural shares
    smooth : share of the samples whose truth is blurred first, as out-of-focus and
        oversampled images are; where nothing is sharp, nothing shall be sharpened
    degradation : how the low-resolution side is made
    teacher_share : share of the samples that come from the teacher's crops
    teacher_weight : weight of the teacher's opinion in the loss of such a sample
    psnr_share : last share of the budget, whose loss is the PSNR of a sample instead of
        its mean absolute error, so that dim and smooth images count in full
    ema : decay of the averaged weights, which are what is kept
    validate_every : steps between validations
    precision : "auto", "fp32" or "bf16" inside the transformer
    threads : CPU threads, or None for torch's choice
    """

    minutes: float | None = 10.0
    steps: int | None = None
    batch: int = 8
    patch: int = 32
    learning_rate: float = 5e-4
    seed: int = 0
    mix: Mapping[str, float] = field(default_factory=dict)
    smooth: float = 0.1
    degradation: Degradation = field(default_factory=Degradation)
    teacher_share: float = 0.3
    teacher_weight: float = 0.5
    psnr_share: float = 0.25
    ema: float = 0.999
    validate_every: int = 250
    precision: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.minutes is None and self.steps is None:
            raise OptionError("neither minutes nor steps given: training would not end")
        for name in ("minutes", "steps", "batch", "patch", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"{name}={value!r} is not positive")
        if self.validate_every < 1:
            raise OptionError(f"validate_every={self.validate_every!r} is not positive")
        for name in ("smooth", "teacher_share", "teacher_weight", "psnr_share", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(
                    f"{name}={getattr(self, name)!r} is not between 0 and 1"
                )
        if self.precision not in ("auto", "fp32", "bf16"):
            raise OptionError(
                f"precision={self.precision!r} is not one of auto, fp32, bf16"
            )
