"""Measure a live layer of a 30,000 x 30,000 16-bit dask image, in a real window.

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/napari_live.py

Prints: time until the layer is visible, until the first sharpened tile, until the view
is filled; the longest gap of the event loop meanwhile; memory above the start.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

import dask.array as da
import napari
import numpy as np
import psutil
from napari.layers import Image
from qtpy.QtCore import QTimer
from qtpy.QtTest import QTest
from skimage.data import camera

from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.estimate import warm_up
from napari_swin2sr.plugin.live.layer import add_live_layer, live_layers

SIDE, CHUNK = 30_000, 2048


def big_image() -> da.Array:
    """Return a lazy image; no pixel of it exists before it is read."""
    tile = np.tile(camera().astype(np.uint16) * 100, (CHUNK // 512, CHUNK // 512))

    def block(block_info=None):
        (y0, y1), (x0, x1) = block_info[None]["array-location"]
        return tile[: y1 - y0, : x1 - x0].copy()

    sizes = (CHUNK,) * (SIDE // CHUNK) + (SIDE % CHUNK,)
    meta = np.empty((0, 0), np.uint16)
    return da.map_blocks(block, chunks=(sizes, sizes), dtype=np.uint16, meta=meta)


def main() -> None:
    """Measure and print."""
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.add_image(np.zeros((9, 9), np.uint8))  # the first layer pays for OpenGL
    warm_up().join()  # as opening the widget does
    QTest.qWait(500)
    process = psutil.Process()
    before = process.memory_info().rss
    beats: list[float] = [time.perf_counter()]
    timer = QTimer()
    timer.timeout.connect(lambda: beats.append(time.perf_counter()))

    # Shown, a single-scale layer would be read whole by napari itself.
    layer = Image(big_image(), contrast_limits=(0, 25500), name="big", visible=False)
    start = time.perf_counter()
    new = add_live_layer(viewer, layer, UpscaleOptions(), ModelHandle.open("default"))
    viewer.reset_view()
    QTest.qWait(1)
    print(f"layer visible after          {time.perf_counter() - start:6.2f} s")

    pyramid = live_layers()[0].pyramid
    finest = pyramid.arrays[0]

    def tiles() -> int:
        return sum(key[0] == finest._key for key in list(finest.cache._tiles))

    beats[:] = [time.perf_counter()]
    timer.start(5)
    start = time.perf_counter()
    viewer.scene.camera.center, viewer.scene.camera.zoom = (15_000, 15_000), 4
    while not tiles():
        QTest.qWait(5)
    print(f"first sharpened tile after   {time.perf_counter() - start:6.2f} s")
    while not pyramid._model_thread.idle:
        QTest.qWait(20)
    spent = time.perf_counter() - start
    print(
        f"view of {tiles():3d} tiles after     {spent:6.2f} s (level {new.data_level})"
    )
    gaps = np.diff(beats)
    print(f"longest gap of the loop      {max(gaps):6.2f} s")
    while not pyramid.idle:
        QTest.qWait(50)
    print(f"all coarse levels after      {time.perf_counter() - start:6.2f} s")
    above = (process.memory_info().rss - before) / 1e6
    print(f"memory above the start       {above:6.0f} MB")
    print(f"tiles in the cache           {finest.cache.nbytes / 1e6:6.0f} MB")
    print(f"load of the machine          {os.getloadavg()[0]:6.1f}")
    viewer.close()


if __name__ == "__main__":
    main()
