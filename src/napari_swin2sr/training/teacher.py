"""A bounded pool of clean crops labelled by a stronger model, computed once."""

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

    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.training.data import Sampler

LABELLED_SIZE = 48
"""Low-resolution side of a labelled crop [px]; training cuts smaller ones from it."""

CONTEXT = 8
"""Low-resolution pixels around it that only the teacher sees."""


class TeacherPool:
    """Crops, their clean low-resolution sides and the teacher's opinion of them.

    Parameters
    ----------
    small : (N, 3, s, s) float16, network input
    truth, opinion : (N, 3, u*s, u*s) float16, high resolution and teacher's output
    """

    def __init__(
        self,
        small: NDArray[np.float16],
        truth: NDArray[np.float16],
        opinion: NDArray[np.float16],
    ) -> None:
        self.small, self.truth, self.opinion = small, truth, opinion
        self.upscale = truth.shape[-1] // small.shape[-1]

    def __len__(self) -> int:
        return len(self.small)

    def draw(
        self, size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return a window of a random crop: input, truth and teacher's output."""
        number, orientation = int(rng.integers(len(self))), int(rng.integers(8))
        y, x = (int(v) for v in rng.integers(0, self.small.shape[-1] - size + 1, 2))
        u = self.upscale
        parts = (
            self.small[number, :, y : y + size, x : x + size],
            self.truth[number, :, u * y : u * (y + size), u * x : u * (x + size)],
            self.opinion[number, :, u * y : u * (y + size), u * x : u * (x + size)],
        )
        small, truth, opinion = (
            np.ascontiguousarray(turn(part.astype(np.float32), orientation))
            for part in parts
        )
        return small, truth, opinion

    def save(self, path: Path) -> None:
        """Write the pool, so that a resumed run need not compute it again."""
        with written_beside(path) as part, part.open("wb") as file:
            np.savez(file, small=self.small, truth=self.truth, opinion=self.opinion)

    @classmethod
    def load(cls, path: Path) -> TeacherPool:
        """Read what `save` wrote."""
        with np.load(path) as stored:
            return cls(stored["small"], stored["truth"], stored["opinion"])


def label_crops(
    teacher: Swin2SRForImageSuperResolution,
    sampler: Sampler,
    count: int,
    seed: int,
    *,
    precision: str = "fp32",
    progress: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> TeacherPool:
    """Let the teacher upscale `count` random crops.

    They are kept in float16, next to which the error of `precision` "bf16" (80 dB) is
    no loss.

    Raises
    ------
    Cancelled
        If `cancelled()` turns true on the way.
    """
    device = teacher.device
    upscale_tile = prepare(teacher.eval(), device, precision)
    u, s = teacher.config.upscale, LABELLED_SIZE
    small = np.empty((count, 3, s, s), np.float16)
    truth = np.empty((count, 3, u * s, u * s), np.float16)
    opinion = np.empty_like(truth)
    reported = time.monotonic()
    for number in range(count):
        if cancelled():
            raise Cancelled("cancelled while the teacher labelled crops")
        rng = np.random.default_rng([seed, 1, number])
        crop, _ = sampler.draw(u * (s + 2 * CONTEXT), rng)
        low = downscale(crop, u, "bicubic")
        if rng.random() < 0.5:
            low = rounded(low)
        with torch.inference_mode():
            pixels = torch.from_numpy(low[None]).float().to(device)
            output = upscale_tile(pixels)[0].float().cpu().numpy()
        inner = slice(CONTEXT, CONTEXT + s)
        fine = slice(u * CONTEXT, u * (CONTEXT + s))
        small[number] = low[:, inner, inner]
        truth[number] = crop[:, fine, fine]
        opinion[number] = output[:, fine, fine]
        if time.monotonic() - reported > 20:
            reported = time.monotonic()
            progress(f"teacher: {number + 1} of {count} crops")
    return TeacherPool(small, truth, opinion)
