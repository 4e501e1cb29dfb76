"""Live layers and commands with the embedded model: the same pixels as `apply`."""

from __future__ import annotations

import time
from typing import Any

import dask.array as da
import numpy as np
import psutil
import pytest
from napari.components import ViewerModel
from napari.layers import Points

import napari_swin2sr as nsr
from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.plugin import commands
from napari_swin2sr.plugin.live.layer import add_live_layer, exact_result, live_layers

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(90) * 5, np.arange(70) * 3)
PIXELS: dict[str, np.ndarray] = {
    "gray": (SMOOTH % 251).astype(np.uint8),
    "16 bit": (SMOOTH * 40 + RNG.integers(0, 50, SMOOTH.shape)).astype(np.uint16),
    "color": np.stack([SMOOTH % n for n in (251, 199, 151)], -1).astype(np.uint8),
}


@pytest.mark.parametrize("kind", list(PIXELS))
@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_a_live_layer_has_the_pixels_of_apply(qapp, kind, lazy):
    pixels, rgb = PIXELS[kind], kind == "color"
    viewer = ViewerModel()
    layer = viewer.add_image(
        da.from_array(pixels, chunks=(40, 40, 3)[: pixels.ndim]) if lazy else pixels,
        rgb=rgb,
    )
    options = nsr.UpscaleOptions(tile=32)
    new = add_live_layer(viewer, layer, options, ModelHandle.open("default"))
    np.asarray(new.data[0])
    (controller,) = live_layers()
    controller.pyramid.arrays[0].filler.join(120)
    expected = nsr.apply(pixels, rgb=rgb, tile=32).compute(scheduler="sync")
    np.testing.assert_array_equal(np.asarray(new.data[0]), expected)
    compute = exact_result(new)
    assert compute is not None
    exact = compute()
    np.testing.assert_array_equal(exact[:10, :10], expected[:10, :10])
    viewer.layers.remove(new)
    assert live_layers() == []


def test_the_command_upscales_every_selected_image(qapp, fake_run, wait_until):
    viewer = ViewerModel()
    for name in "ab":
        viewer.add_image(PIXELS["gray"], name=name)
    viewer.layers.selection = set(viewer.layers)
    commands.upscale_live(viewer)
    wait_until(lambda: not commands._RUNS)
    names = {layer.name for layer in viewer.layers}
    assert {"a live", "b live"} <= names


def test_the_command_says_why_it_cannot(qapp, monkeypatch):
    said: list[Any] = []
    monkeypatch.setattr(commands, "show_error", said.append)
    viewer = ViewerModel()
    commands.upscale_live(viewer)
    viewer.add_layer(Points([[1, 2]], name="dots"))
    commands.upscale_live(viewer)
    assert "no layer" in said[0]
    assert "dots cannot be upscaled: it has no pixels" in said[1]


def test_a_huge_lazy_image(qapp, slowness):
    """30,000 x 30,000: there at once, a tile soon, memory bounded by the cache."""
    base = np.tile(PIXELS["16 bit"], (23, 30))[:2048, :2048]

    def block(block_info=None):
        (y0, y1), (x0, x1) = block_info[None]["array-location"]
        return base[: y1 - y0, : x1 - x0].copy()

    sizes = (2048,) * 14 + (1328,)
    data = da.map_blocks(
        block, chunks=(sizes, sizes), dtype=np.uint16, meta=np.empty((0, 0), np.uint16)
    )
    viewer = ViewerModel()
    layer = viewer.add_image(data, contrast_limits=(0, 40000), visible=False)
    handle = ModelHandle.open("default")
    handle.load()
    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    new = add_live_layer(viewer, layer, nsr.UpscaleOptions(), handle)
    added = time.perf_counter() - start
    (controller,) = live_layers()
    finest = controller.pyramid.arrays[0]
    np.asarray(new.data[0][30000:30100, 30000:30100])
    finest.filler.join(120)
    first_tile = time.perf_counter() - start - added
    controller.pyramid.chain[-1].filler.join(120)
    assert added < 2 * slowness()
    assert first_tile < 2 * slowness()
    assert finest.cache.n_bytes < finest.cache.limit_bytes
    assert process.memory_info().rss - before < 6e8
