"""A bounded pool of clean crops labeled by a stronger model, computed once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_swin2sr.engine.backends import prepare
from napari_swin2sr.errors import Cancelled
from napari_swin2sr.replace import written_beside
from napari_swin2sr.training.data import turn
from napari_swin2sr.training.degrade import downscale, rounded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.training.data import Sampler

LABELED_SIZE = 48
"""Low-resolution side of a labeled crop [px]; training cuts smaller ones from it."""

CONTEXT = 8
"""Low-resolution pixels around it that only the teacher sees."""


class TeacherPool:
    """Clean low-resolution crops, their targets and the teacher's output.

    All float16: `lowres` (N, 3, s, s), `target` and `output` (N, 3, u*s, u*s).
    `origin` says what they were made from.
    """

    def __init__(
        self,
        lowres: NDArray[np.float16],
        target: NDArray[np.float16],
        output: NDArray[np.float16],
        origin: str = "",
    ) -> None:
        self.lowres, self.target, self.output = lowres, target, output
        self.origin = origin
        self.upscale = target.shape[-1] // lowres.shape[-1]

    def __len__(self) -> int:
        return len(self.lowres)

    def draw(
        self, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], ...]:
        """Return a window of a random crop: input, target and teacher's output."""
        number, orientation = int(rng.integers(len(self))), int(rng.integers(8))
        y, x = (int(v) for v in rng.integers(0, self.lowres.shape[-1] - size + 1, 2))
        return tuple(
            np.ascontiguousarray(
                turn(
                    part[
                        number, :, u * y : u * (y + size), u * x : u * (x + size)
                    ].astype(np.float32),
                    orientation,
                )
            )
            for u, part in (
                (1, self.lowres),
                (self.upscale, self.target),
                (self.upscale, self.output),
            )
        )

    def save(self, path: Path) -> None:
        """Write the pool, so that a resumed run need not compute it again."""
        with written_beside(path) as part, part.open("wb") as file:
            np.savez(
                file,
                lowres=self.lowres,
                target=self.target,
                output=self.output,
                origin=np.array(self.origin),
            )

    @classmethod
    def load(cls, path: Path) -> TeacherPool:
        """Read what `save` wrote."""
        with path.open("rb") as file, np.load(file) as stored:
            origin = str(stored["origin"])
            return cls(stored["lowres"], stored["target"], stored["output"], origin)


def label_crops(
    teacher: Swin2SRForImageSuperResolution,
    sampler: Sampler,
    count: int,
    seed: int,
    *,
    precision: str = "fp32",
    progress: Callable[[str], None],
    cancel: CancelToken | None = None,
) -> TeacherPool:
    """Let the teacher upscale `count` random crops; `cancel` raises Cancelled.

    They are kept in float16, next to which the error of `precision` "bf16" (80 dB) is
    no loss.
    """
    device = teacher.device
    upscale_tile = prepare(teacher.eval(), device, precision)
    u, s = teacher.config.upscale, LABELED_SIZE
    lowres = np.empty((count, 3, s, s), np.float16)
    target = np.empty((count, 3, u * s, u * s), np.float16)
    output = np.empty_like(target)
    reported = time.monotonic()
    for number in range(count):
        if cancel is not None and cancel.is_set():
            raise Cancelled("cancelled while the teacher labeled crops")
        rng = np.random.default_rng([seed, 1, number])
        crop, _ = sampler.draw(u * (s + 2 * CONTEXT), rng)
        low = downscale(crop, u, "bicubic")
        if rng.random() < 0.5:
            low = rounded(low)
        with torch.inference_mode():
            pixels = torch.from_numpy(low[None]).float().to(device)
            result = upscale_tile(pixels)[0].float().cpu().numpy()
        inner = slice(CONTEXT, CONTEXT + s)
        fine = slice(u * CONTEXT, u * (CONTEXT + s))
        lowres[number] = low[:, inner, inner]
        target[number] = crop[:, fine, fine]
        output[number] = result[:, fine, fine]
        if time.monotonic() - reported > 20:
            reported = time.monotonic()
            progress(f"teacher: {number + 1} of {count} crops")
    return TeacherPool(lowres, target, output)
