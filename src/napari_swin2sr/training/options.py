"""Every option of a training run, once: default, help and check.

`napari-swin2sr train` makes its flags from this list; nothing heavy is imported here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

DOWNSCALES = ("bicubic", "area", "psf")
"""Ways to make the low-resolution image: antialiased bicubic as benchmarks do, the mean
of u x u pixels as camera binning does, a Gaussian point spread then decimation."""

_START = "what to start from"
_LOOP = "how long and how"
_IMAGES = "images and their degradation"

_POSITIVE = (lambda value: 0 < value < math.inf, "is not positive and finite")
_NATURAL = (lambda value: value >= 0, "is below 0")
_SHARE = (lambda value: 0 <= value <= 1, "is not a share between 0 and 1")
_SPLIT = (lambda value: 0 < value < 1, "is not a share between 0 and 1, both excluded")
_RANGE = (
    lambda value: 0 < value[0] <= value[1] < math.inf,
    "is not a range LOW,HIGH with 0 < LOW <= HIGH",
)


def _option(
    default: Any, text: str, group: str, check: Any = None, **metadata: Any
) -> Any:
    known = {"help": text, "group": group, "check": check, "unit": "", "choices": None}
    if isinstance(default, dict):
        return dataclasses.field(
            default_factory=default.copy, metadata=known | metadata
        )
    return dataclasses.field(default=default, metadata=known | metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What a person can choose about a training run; validated when it is made.

    Raises
    ------
    OptionError
        If a value is not allowed.
    """

    start: str | None = _option(
        None,
        "Fine-tune this model (a name, folder or file); default: a new network that "
        "computes bicubic interpolation",
        _START,
        flag="--from",
    )
    upscale: int | None = _option(
        None, "Factor, a multiple of that of the model after --from [its own]", _START
    )
    embed_dim: int = _option(48, "Width of a new network", _START)
    depths: tuple[int, ...] = _option((4, 4), "Layers of its stages", _START)
    heads: tuple[int, ...] = _option((3, 3), "Attention heads of its stages", _START)
    teacher: str | None = _option(
        None,
        "A stronger model whose results are learned too, on clean samples",
        _START,
    )
    teacher_crops: int = _option(
        1500, "Crops the teacher labels before training starts", _START, _POSITIVE
    )
    teacher_share: float = _option(
        0.3, "Share of samples taken from them", _START, _SHARE
    )
    teacher_weight: float = _option(
        0.5, "Weight of the teacher in the loss of such a sample", _START, _SHARE
    )

    minutes: float | None = _option(
        10.0, "Time budget; no limit if only --steps is given", _LOOP, _POSITIVE
    )
    steps: int | None = _option(None, "Number of optimizer steps", _LOOP, _POSITIVE)
    batch: int = _option(8, "Crops per step", _LOOP, _POSITIVE)
    patch: int = _option(
        32,
        "Side of a low-resolution crop, a multiple of the model's window",
        _LOOP,
        _POSITIVE,
        unit="px",
    )
    learning_rate: float = _option(
        5e-4, "After the warm-up; falls along a cosine to 2 %", _LOOP, _POSITIVE
    )
    psnr_share: float = _option(
        0.25,
        "Last share of the budget that raises the PSNR of each sample instead of "
        "lowering its absolute error, so that dim and smooth images count in full",
        _LOOP,
        _SHARE,
    )
    ema: float = _option(
        0.999, "Decay of the averaged weights, which are what is kept", _LOOP, _SHARE
    )
    seed: int = _option(0, "Fixes all random choices", _LOOP, _NATURAL)
    validate_every: int = _option(250, "Steps between validations", _LOOP, _POSITIVE)
    device: str = _option("auto", "auto, cpu, cuda, cuda:N or mps", _LOOP)
    precision: str = _option(
        "auto",
        "Arithmetic inside the transformer; auto: bf16 where the device has it",
        _LOOP,
        choices=("auto", "fp32", "bf16"),
    )
    threads: int | None = _option(None, "CPU threads", _LOOP, _POSITIVE)

    validation: float = _option(
        0.15, "Share of files held out, chosen by file name", _IMAGES, _SPLIT
    )
    mix: Mapping[str, float] = _option(
        {}, "Shares of the kinds of images (folder names)", _IMAGES
    )
    smooth: float = _option(
        0.1,
        "Share of samples blurred before, as if out of focus: where nothing is sharp, "
        "nothing shall be sharpened",
        _IMAGES,
        _SHARE,
    )
    downscale: Mapping[str, float] = _option(
        {"bicubic": 0.5, "area": 0.25, "psf": 0.25},
        "Shares of the ways to make the low-resolution image: bicubic (benchmarks), "
        "area (camera binning), psf (blur)",
        _IMAGES,
    )
    noise: float = _option(0.35, "Share of samples with camera noise", _IMAGES, _SHARE)
    photons: tuple[float, float] = _option(
        (60.0, 3000.0),
        "Photons at full scale of noisy samples (drawn log-uniformly)",
        _IMAGES,
        _RANGE,
    )
    read_noise: tuple[float, float] = _option(
        (0.002, 0.02), "Their read-out noise, as a share of full scale", _IMAGES, _RANGE
    )
    hot: float = _option(
        0.05, "Share of samples with hot pixels, absent in the target", _IMAGES, _SHARE
    )
    rounding: float = _option(
        0.5, "Share of samples rounded to 8 bits", _IMAGES, _SHARE
    )
    jpeg: float = _option(
        0.0, "Share of noise-free color samples compressed as JPEG", _IMAGES, _SHARE
    )

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.minutes is None and self.steps is None:
            raise OptionError("neither minutes nor steps given: training would not end")
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            holds, text = field.metadata["check"] or (lambda _: True, "")
            if choices is not None and value not in choices:
                text = f"is not one of {', '.join(choices)}"
            elif value is None or holds(value):
                continue
            shown = repr(value)
            if isinstance(value, tuple):
                shown = ",".join(map(repr, value))
            raise OptionError(f"{field.name}={shown} {text}")
        for way in self.downscale:
            if way not in DOWNSCALES:
                raise OptionError(
                    f"downscale names {way!r}, which is not one of "
                    f"{', '.join(DOWNSCALES)}"
                )
        shares = self.downscale.values()
        if not shares or min(shares) < 0 or not sum(shares) > 0:
            raise OptionError(
                f"downscale={dict(self.downscale)!r}: the shares must be 0 or more and "
                "not all 0"
            )
