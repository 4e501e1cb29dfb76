"""Live layers and commands with the embedded model: the same pixels as `apply`."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Points

import napari_swin2sr as nsr
from napari_swin2sr.model.handle import ModelHandle
from napari_swin2sr.plugin import commands
from napari_swin2sr.plugin.live import add_live_layer, exact_result, live_layers

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(90) * 5, np.arange(70) * 3)
PIXELS = {
    "grey": (SMOOTH % 251).astype(np.uint8),
    "16 bit": (SMOOTH * 40 + RNG.integers(0, 50, SMOOTH.shape)).astype(np.uint16),
    "colour": np.stack([SMOOTH % n for n in (251, 199, 151)], -1).astype(np.uint8),
}


@pytest.mark.parametrize("kind", list(PIXELS))
@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_a_live_layer_has_the_pixels_of_apply(qapp, kind, lazy):
    pixels, rgb = PIXELS[kind], kind == "colour"
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
    exact = exact_result(new)
    np.testing.assert_array_equal(exact[:10, :10], expected[:10, :10])
    viewer.layers.remove(new)
    assert live_layers() == []


def test_the_command_upscales_every_selected_image(qapp, fake_run, wait_until):
    viewer = ViewerModel()
    for name in "ab":
        viewer.add_image(PIXELS["grey"], name=name)
    viewer.layers.selection = set(viewer.layers)
    commands.upscale_live(viewer)
    wait_until(lambda: not commands._RUNS)
    names = {layer.name for layer in viewer.layers}
    assert {"a live", "b live"} <= names


def test_the_command_says_why_it_cannot(qapp, monkeypatch):
    said = []
    monkeypatch.setattr(commands, "show_error", said.append)
    viewer = ViewerModel()
    commands.upscale_live(viewer)
    viewer.add_layer(Points([[1, 2]], name="dots"))
    commands.upscale_live(viewer)
    assert "no layer" in said[0]
    assert "dots cannot be upscaled: it has no pixels" in said[1]
