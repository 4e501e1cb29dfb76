"""Use an installed wheel as a newcomer does, away from the repository.

    python -I .ci/try_wheel.py

A sample image is opened in napari, a live layer is added to it, and its pixels are
compared with those of `apply`. Needs a screen; on Linux `xvfb-run` gives one.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

import napari
import numpy as np
from qtpy.QtTest import QTest

import napari_swin2sr as nsr
from napari_swin2sr.plugin.commands import upscale_live

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 120


def wait_for(condition, what: str) -> None:
    """Let napari work until a condition holds, or exit."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"no {what} after {LIMIT_S} s")
        QTest.qWait(50)


def main() -> None:
    """Open, sharpen, compare."""
    package = Path(nsr.__file__)
    if package.is_relative_to(ROOT / "src"):
        sys.exit(f"{package} is not an installed wheel")
    viewer = napari.Viewer(show=True)
    cells = viewer.open_sample("napari-swin2sr", "cells")[0]
    viewer.layers.selection = {cells}
    before = len(viewer.layers)
    upscale_live(viewer)
    wait_for(lambda: len(viewer.layers) == before + 1, "live layer")
    live = viewer.layers[-1]
    expected = nsr.apply(cells.data).compute()

    def shown() -> np.ndarray:
        return np.asarray(live.data[0])

    wait_for(lambda: np.array_equal(shown(), expected), "sharpened pixels")
    viewer.close()
    sys.stdout.write(
        f"{nsr.__version__} in {package.parent}: the live layer of {cells.name!r}, "
        f"{expected.shape} {expected.dtype}, holds the pixels of apply\n"
    )


if __name__ == "__main__":
    main()
