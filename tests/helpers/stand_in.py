"""A model that costs nothing but sees windows, so that misplaced tiles show.

Set into `napari_swin2sr.upscale.ModelHandle`, everything from the file to the file
runs as ever, and the expected result can be written down in NumPy.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.errors import CancelToken
from napari_swin2sr.image.box import Box
from napari_swin2sr.weights.catalog import ResolvedModel
from napari_swin2sr.weights.config import Swin2SRConfig

WINDOW = 8
SECONDS = "STAND_IN_SECONDS"
"""Environment variable: how long a tile takes."""


class StandIn(ModelHandle):
    """Repeats pixels and adds the mean of each 8 x 8 window."""

    tiles_at_once = 1  # without PyTorch, which is asked for devices

    @classmethod
    def open(cls, name_or_path, device="auto", precision="auto"):
        config = Swin2SRConfig(
            embed_dim=12, depths=(2, 2), num_heads=(2, 2), window_size=WINDOW, upscale=2
        )
        model = ResolvedModel(f"stand-in {name_or_path}", Path(), config, "0" * 64)
        return cls(model, device, precision)

    def load(self):
        return self

    def __call__(
        self,
        tiles: np.ndarray,
        *,
        core: Box | None = None,
        cancel: CancelToken | None = None,
    ) -> np.ndarray:
        time.sleep(float(os.environ.get(SECONDS, "0")))
        result = kernel(tiles)
        return result if core is None else result[..., *core.scaled(2).slices]


def kernel(tiles: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (..., 2H, 2W), H and W multiples of 8."""
    *head, height, width = tiles.shape
    windows = tiles.reshape(*head, height // 8, 8, width // 8, 8)
    means = windows.mean((-3, -1), dtype=np.float64).astype(np.float32)
    out = np.repeat(np.repeat(tiles, 2, -2), 2, -1) * np.float32(0.75)
    out += np.repeat(np.repeat(means, 16, -2), 16, -1) * np.float32(0.25)
    return out


def whole(plane: np.ndarray, low: float, high: float, top: float = 1.0) -> np.ndarray:
    """The expected result of one integer plane (Y, X) as float64, before rounding."""
    height, width = plane.shape
    pads = [(0, (n // 8 + 1) * 8 - n) for n in (height, width)]
    padded = np.pad(plane.astype(np.float64), pads, "symmetric")
    x = ((padded - low) / (high - low) * top).astype(np.float32)
    y = kernel(x)[: 2 * height, : 2 * width].astype(np.float64)
    return y / top * (high - low) + low


def install() -> None:
    """Let this process compute with the stand-in."""
    from napari_swin2sr import upscale

    upscale.ModelHandle = StandIn  # type: ignore[misc]


def run_in_new_process(source, target, options: dict, smallest_level: int) -> list[str]:
    """Return a command that upscales a file with the stand-in.

    It says "ready" when the first tile begins, and "done" at the end.
    """
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from helpers import stand_in; stand_in.install()\n"
        "from napari_swin2sr import upscale_file\n"
        "from napari_swin2sr.runs import job as work\n"
        "work.SMALL_RESULT_BYTES = 0\n"
        "from napari_swin2sr.formats import pyramid as blocks\n"
        f"blocks.SMALLEST_LEVEL = {smallest_level}\n"
        "def tell(event):\n"
        "    if type(event).__name__ == 'RunStarted' and event.stage == 'tiles':\n"
        "        print('ready', flush=True)\n"
        f"options = {options!r}\n"
        f"upscale_file({str(source)!r}, {str(target)!r}, progress=tell, **options)\n"
        "print('done', flush=True)\n"
    )
    return [sys.executable, "-c", code, str(Path(__file__).parents[1])]
