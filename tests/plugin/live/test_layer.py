"""Live layers in a real window: what is computed, what is shown, and how it ends."""

from __future__ import annotations

import threading
import time
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtWidgets import QApplication

from napari_swin2sr.errors import InputError, OptionError
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.live.layer import add_live_layer, live_layers
from napari_swin2sr.plugin.placement import METADATA_KEY

TILE = UpscaleOptions(tile=64)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True, strict_qt="raise")


def picture(height=1600, width=1600, dtype=np.uint16):
    y, x = np.mgrid[:height, :width]
    return (127 + 60 * np.sin(y / 9) + 60 * np.cos(x / 7)).astype(dtype)


def look_at(viewer, center, zoom):
    viewer.scene.camera.center = center
    viewer.scene.camera.zoom = zoom


def visible_tiles(layer):
    """Tiles of level 0 that meet the region that napari has asked for."""
    (y0, x0), (y1, x1) = layer.corner_pixels[:, -2:]
    side = 2 * 64
    return {
        (i, j)
        for i in range(y0 // side, y1 // side + 1)
        for j in range(x0 // side, x1 // side + 1)
    }


def test_only_what_one_looks_at_is_computed(viewer, fake_model, n_calls, settle):
    layer = viewer.add_image(picture())
    new = add_live_layer(viewer, layer, TILE, fake_model)
    settle()
    assert n_calls() == 0, "adding the layer calls the model zero times"
    assert new.data_level > 0

    look_at(viewer, (400, 400), 4)
    settle()
    assert new.data_level == 0
    seen = visible_tiles(new)
    assert set(fake_model.made[0].calls) == seen
    assert len(fake_model.made[0].calls) == len(seen) < 100
    (y0, x0), (y1, x1) = new.corner_pixels
    np.testing.assert_array_equal(
        np.asarray(new.data[0][y0 : y1 + 1, x0 : x1 + 1]),
        fake_model.made[0].expected()[y0 : y1 + 1, x0 : x1 + 1],
    )

    count = n_calls()
    look_at(viewer, (400, 1200), 4)
    settle()
    assert n_calls() > count
    count = n_calls()
    look_at(viewer, (400, 400), 4)
    settle()
    new.visible = False
    new.visible = True
    new.contrast_limits = (0, 100)
    settle()
    assert n_calls() == count, "panning back computes nothing"

    look_at(viewer, (800, 800), 0.3)
    settle()
    assert n_calls() == count, "zoomed out it shows the original"
    viewer.dims.ndisplay = 3
    settle()
    assert n_calls() == count, "3-D shows the coarsest level"


def test_the_event_loop_goes_on_while_tiles_arrive(
    viewer, fake_model, settle, responsive
):
    fake_model.seconds = 0.1
    layer = viewer.add_image(picture())
    add_live_layer(viewer, layer, TILE, fake_model)
    settle()
    with responsive():
        look_at(viewer, (400, 400), 6)
        settle()


def test_a_slow_source_does_not_stop_the_event_loop(
    viewer, fake_model, settle, responsive
):
    def slow(block):
        time.sleep(0.15)
        return block

    data = da.from_array(picture(800, 800), chunks=400).map_blocks(
        slow, dtype=np.uint16, meta=np.empty((0, 0), np.uint16)
    )
    layer = Image(data, contrast_limits=(0, 255))  # not shown itself
    add_live_layer(viewer, layer, TILE, fake_model)
    QApplication.processEvents()
    with responsive():
        look_at(viewer, (400, 400), 2)
        settle()


def test_zoomed_out_drops_the_tiles_that_have_not_begun(
    viewer, fake_model, n_calls, settle, wait_until
):
    fake_model.seconds = 0.2
    layer = viewer.add_image(picture())
    add_live_layer(viewer, layer, TILE, fake_model)
    settle()
    look_at(viewer, (400, 400), 3)
    wait_until(lambda: n_calls() > 0)
    look_at(viewer, (400, 400), 0.3)
    settle()
    assert n_calls() <= 4


def test_an_error_gives_one_notification_and_interpolated_pixels(
    viewer, fake_model, settle, monkeypatch
):
    shown: list[Any] = []
    monkeypatch.setattr("napari_swin2sr.plugin.live.layer.show_warning", shown.append)
    fake_model.error = RuntimeError("CUDA out of memory")
    layer = viewer.add_image(picture())
    new = add_live_layer(viewer, layer, TILE, fake_model)
    for x in (400, 800, 1200):
        look_at(viewer, (400, x), 4)
        settle()
    assert len(shown) == 1
    assert "CUDA out of memory" in shown[0]
    assert "interpolated" in shown[0]
    (y0, x0), _ = new.corner_pixels
    np.testing.assert_allclose(
        np.asarray(new.data[0][y0 + 50, x0 : x0 + 100]).astype(float),
        picture().repeat(2, 0).repeat(2, 1)[y0 + 50, x0 : x0 + 100],
        atol=20,
    )


def test_deleting_the_layer_ends_its_threads(
    viewer, fake_model, n_calls, settle, wait_until
):
    fake_model.seconds = 0.3
    layer = viewer.add_image(picture())
    new = add_live_layer(viewer, layer, TILE, fake_model)
    look_at(viewer, (400, 400), 4)
    wait_until(lambda: n_calls() > 0)
    viewer.layers.remove(new)
    assert live_layers() == []
    count = n_calls()
    wait_until(lambda: not threads())
    assert n_calls() <= count + 1, "the tile that was at work is the last"


def test_closing_the_window_ends_the_threads(
    make_napari_viewer, fake_model, n_calls, wait_until
):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    fake_model.seconds = 0.3
    layer = viewer.add_image(picture())
    add_live_layer(viewer, layer, TILE, fake_model)
    look_at(viewer, (400, 400), 4)
    wait_until(lambda: n_calls() > 0)
    viewer.close()
    assert live_layers() == []
    wait_until(lambda: not threads())


def test_the_canvas_shows_both_layers_in_the_same_place(viewer, fake_model, settle):
    """With a model that repeats pixels the canvas must not change at all."""
    layer = viewer.add_image(
        picture(300, 380, np.uint8), scale=(0.5, 0.4), rotate=20, shear=[0.2]
    )
    new = add_live_layer(viewer, layer, TILE, fake_model)
    look_at(viewer, layer.data_to_world((150, 190)), 9)
    settle()
    assert new.data_level == 0

    def shot(shown):
        layer.visible, new.visible = shown is layer, shown is new
        settle()
        return viewer.screenshot(flash=False)

    before = shot(layer)
    assert different(before, shot(new)) < 0.002
    new.translate = np.add(new.translate, 0.1)
    assert different(before, shot(new)) > 0.02


def different(one, two):
    return np.mean(np.any(one != two, axis=-1))


def test_it_works_in_asynchronous_mode_with_one_forward_at_a_time(
    viewer, fake_model, n_calls, settle
):
    from napari.settings import get_settings

    get_settings().experimental.async_ = True
    fake_model.seconds = 0.02
    layer = viewer.add_image(picture())
    new = add_live_layer(viewer, layer, TILE, fake_model)
    settle()
    assert n_calls() == 0
    look_at(viewer, (400, 400), 4)
    settle()
    assert n_calls() == len(visible_tiles(new))
    assert {thread.name for thread in fake_model.made[0].threads} == {
        "napari-swin2sr network"
    }


def test_a_live_layer_works_through_what_plugins_really_get(
    make_napari_viewer_proxy, fake_model, settle
):
    viewer = make_napari_viewer_proxy(strict_qt="raise")
    viewer.add_image(picture(64, 64), scale=(2, 2), rotate=10, name="a")
    new = add_live_layer(viewer, viewer.layers["a"], TILE, fake_model)
    settle()
    assert new.name == "a live"
    viewer.layers.remove("a live")
    assert live_layers() == []


INPUTS = {
    "numpy": lambda a: a,
    "dask": lambda a: da.from_array(a, chunks=300),
    "zarr": lambda a: zarr.array(a, chunks=(256, 256)),
    "multiscale": lambda a: [a, a[::2, ::2], a[::4, ::4]],
    "multiscale dask": lambda a: [da.from_array(a[::n, ::n]) for n in (1, 2, 4)],
}


@pytest.mark.parametrize("kind", list(INPUTS))
def test_any_kind_of_pixels(fake_model, settle, qapp, kind):
    pixels = picture(1500, 1200)
    viewer = ViewerModel()
    layer = viewer.add_image(INPUTS[kind](pixels), contrast_limits=(0, 255))
    new = add_live_layer(viewer, layer, TILE, fake_model)
    assert new.multiscale
    assert new.level_shapes[0].tolist() == [3000, 2400]
    assert max(new.level_shapes[-1]) <= 1024
    np.asarray(new.data[0][1000:1100, 100:300])
    arrive()  # without a canvas a refresh would drop level 0, which nobody sees
    np.testing.assert_array_equal(
        np.asarray(new.data[0][1000:1100, 100:300]),
        pixels[500:550, 50:150].repeat(2, 0).repeat(2, 1),
    )
    coarsest = np.asarray(new.data[-1])
    settle()
    assert abs(coarsest.mean() - pixels.mean()) < 2, "filled in the background"
    assert np.shares_memory(np.asarray(new.data[-1]), coarsest) or kind == "multiscale"


def test_rgb(fake_model, settle, qapp):
    pixels = np.stack([picture(80, 60, np.uint8)] * 3, axis=-1)
    viewer = ViewerModel()
    new = add_live_layer(viewer, viewer.add_image(pixels), TILE, fake_model)
    assert new.rgb
    np.asarray(new.data[0][:10, :10])
    arrive()
    np.testing.assert_array_equal(
        np.asarray(new.data[0][:10, :10]), pixels[:5, :5].repeat(2, 0).repeat(2, 1)
    )


def test_stacks_read_one_plane_only(fake_model, settle, qapp):
    read = []

    class Watched:
        shape, dtype, ndim, size = (5, 2, 4, 90, 80), np.dtype(np.uint16), 5, 288000

        def __getitem__(self, key):
            out = np.broadcast_to(np.uint16(7), self.shape)[key]
            read.append(out.shape)
            return out

    viewer = ViewerModel()
    layer = viewer.add_image(
        Watched(), contrast_limits=(0, 9), scale=(1, 1, 2, 0.5, 0.5)
    )
    read.clear()
    new = add_live_layer(viewer, layer, TILE, fake_model)
    settle()
    viewer.dims.set_current_step(0, 3)
    settle()
    assert {shape[:3] for shape in read} == {(1, 1, 1)}
    assert new.level_shapes[0].tolist() == [5, 2, 4, 180, 160]
    assert new.scale.tolist() == [1, 1, 2, 0.25, 0.25]


def test_restoration_models_keep_the_size(fake_model, settle, qapp):
    fake_model.upscale = 1
    fake_model.config = type(fake_model.config)(upscale=1, upsampler="")
    viewer = ViewerModel()
    new = add_live_layer(viewer, viewer.add_image(picture(300, 300)), TILE, fake_model)
    assert new.level_shapes.tolist() == [[300, 300], [150, 150]]
    np.testing.assert_allclose(new.translate, 0, atol=1e-12)


def test_the_record_of_how_it_was_made(fake_model, qapp):
    viewer = ViewerModel()
    layer = viewer.add_image(picture(64, 64), name="a", metadata={"mine": 1})
    new = add_live_layer(
        viewer, layer, UpscaleOptions(tile=64, value_range=(0, 255)), fake_model
    )
    record = new.metadata[METADATA_KEY]
    assert record["model"] == "fake"
    assert record["source"] == "a"
    assert record["live"] is True
    assert record["options"] == {"value_range": (0, 255), "tile": 64}
    assert new.metadata["mine"] == 1


def test_every_run_gets_a_layer_of_its_own(fake_model, qapp):
    viewer = ViewerModel()
    layer = viewer.add_image(picture(64, 64), name="a")
    names = [add_live_layer(viewer, layer, TILE, fake_model).name for _ in range(2)]
    assert names == ["a live", "a live [2]"]


def test_labels_and_wrong_options_are_refused(fake_model, qapp):
    viewer = ViewerModel()
    layer = viewer.add_image(picture(64, 64))
    with pytest.raises(InputError, match="object numbers"):
        add_live_layer(viewer, Labels(np.zeros((9, 9), int)), TILE, fake_model)
    with pytest.raises(OptionError, match="use 16"):
        add_live_layer(viewer, layer, UpscaleOptions(halo=12), fake_model)
    with pytest.raises(InputError, match="axes"):
        add_live_layer(viewer, layer, UpscaleOptions(axes="ZYX"), fake_model)
    assert len(viewer.layers) == 1


def arrive():
    """Wait for tiles without turning the event loop."""
    for controller in live_layers():
        for array in controller.pyramid.arrays:
            array.filler.join(30)


def threads():
    return [t for t in threading.enumerate() if "napari-swin2sr" in t.name]
