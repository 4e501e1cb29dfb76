"""The widget: what it offers, every way a run can end, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import html
import shlex
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from napari.layers import Labels
from napari.utils.progress import progress
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QProgressBar, QRadioButton

from helpers.window import (
    axes,
    axis_boxes,
    button,
    close_dock,
    editor,
    enter,
    opened,
    pick,
    press,
    texts,
    tick,
)
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin import widget as widget_module
from napari_swin2sr.plugin.live.layer import live_layers
from napari_swin2sr.plugin.modes import DISK, LIVE, MEMORY, REGION
from napari_swin2sr.plugin.placement import METADATA_KEY, visible_region

PIXELS = (np.arange(64 * 48).reshape(64, 48) % 251).astype(np.uint8)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(strict_qt="raise")


@pytest.fixture
def errors(monkeypatch):
    shown: list[Any] = []
    monkeypatch.setattr(widget_module, "show_error", shown.append)
    return shown


@pytest.fixture
def widget(viewer, errors, wait_until):
    return opened(viewer, wait_until)


@pytest.fixture
def finish(widget, wait_until):
    def run(mode):
        pick(widget, mode)
        press(widget, "Run")
        wait_until(lambda: not widget.running)

    return run


def radio(widget, text):
    (found,) = (
        b
        for b in widget.findChildren(QRadioButton)
        if b.text() == text and b.isVisibleTo(widget)
    )
    return found


def options_of(widget):
    """Return the options that the widget would use, as it copies them."""
    called: dict[str, Any] = {}

    class Recorder:
        @staticmethod
        def apply(data, **options):
            called.update(options)

    press(widget, "Copy as Python")
    code = QApplication.clipboard().text().replace("import napari_swin2sr\n", "")
    layers = {widget.layer.name: widget.layer}
    viewer = type("viewer", (), {"layers": layers})
    exec(code, {"viewer": viewer, "napari_swin2sr": Recorder})
    return UpscaleOptions(**called)


def test_there_is_one_editor_per_option_with_its_default(viewer, widget):
    viewer.add_image(PIXELS)
    for field in dataclasses.fields(UpscaleOptions):
        if field.name in ("model", "axes", "rgb", "trust"):  # have their own places
            continue
        part = editor(widget, field.name)
        assert html.unescape(part.toolTip()) == f"<qt>{field.metadata['help']}</qt>"
        if field.metadata["choices"]:
            shown = [part.itemText(i) for i in range(part.count())]
            assert shown == list(field.metadata["choices"])
    assert options_of(widget) == UpscaleOptions(axes="YX")


def test_the_factor_comes_first_and_more_models_on_demand(viewer, widget):
    viewer.add_image(PIXELS)
    assert "Gray and color images with noise" in texts(widget)
    assert widget.findChild(QRadioButton, "classical-x4") is None
    radio(widget, "×4").click()
    assert options_of(widget).model == "default-x4"
    press(widget, "More models...")
    QTest.qWait(20)
    pick(widget, "classical-x4")
    viewer.add_image(PIXELS)
    assert options_of(widget).model == "classical-x4"
    assert "49 MB download" in texts(widget)
    radio(widget, "Same size").click()
    assert options_of(widget).model == "jpeg-dynamic"


def test_the_layer_follows_the_active_one_and_axes_follow_the_layer(viewer, widget):
    one = viewer.add_image(PIXELS, name="one")
    two = viewer.add_image(np.zeros((3, 8, 9, 3), np.uint8), rgb=True, name="two")
    assert widget.layer is two
    assert axes(widget) == "ZYXS"
    viewer.layers.selection.active = one
    assert widget.layer is one
    assert axes(widget) == "YX"
    labeled = viewer.add_image(np.zeros((2, 3, 8, 9)), axis_labels=("t", "c", "y", "x"))
    assert widget.layer is labeled
    assert axes(widget) == "TCYX"


def test_what_was_typed_stays_when_other_layers_come_and_go(viewer, widget, tmp_path):
    layer = viewer.add_image(np.zeros((3, 8, 9)), name="one")
    axis_boxes(widget)[0].setCurrentText("C")
    enter(widget, "target", str(tmp_path / "mine.ome.zarr"))
    viewer.add_points([[1, 2]])
    viewer.layers.remove(viewer.layers[-1])
    assert widget.layer is layer
    assert axes(widget) == "CYX"
    assert editor(widget, "target").text() == str(tmp_path / "mine.ome.zarr")


def test_samples_can_be_made_channels_and_axes_change_places(viewer, widget):
    viewer.add_image(np.zeros((8, 9, 3), np.uint8), rgb=True)
    axis_boxes(widget)[2].setCurrentText("C")
    assert options_of(widget).axes == "YXC"
    axis_boxes(widget)[0].setCurrentText("X")
    assert options_of(widget).axes == "XYC"


def test_labels_are_refused_with_a_reason_and_run_is_off(viewer, widget, errors):
    viewer.add_layer(Labels(np.zeros((8, 8), int), name="cells"))
    assert "object numbers" in texts(widget)
    assert not button(widget, "Run").isEnabled()
    widget.run()
    assert "object numbers" in errors[0]


def test_when_the_last_layer_goes_run_goes_off(viewer, widget):
    layer = viewer.add_image(PIXELS)
    texts(widget)
    assert button(widget, "Run").isEnabled()
    viewer.layers.remove(layer)
    assert "Open an image to begin" in texts(widget)
    assert widget.layer is None
    assert not button(widget, "Run").isEnabled()


def test_the_estimate_tells_size_tiles_and_wrong_options(viewer, widget):
    viewer.add_image(PIXELS, name="a")
    pick(widget, MEMORY)
    assert "128 × 96 (12.3 kB), 1 tile" in texts(widget)
    assert button(widget, "Run").isEnabled()
    for wrong, advice in (("12", "use 16"), ("a lot", "a lot")):
        enter(widget, "halo", wrong)
        assert advice in texts(widget)
        assert not button(widget, "Run").isEnabled()


def test_axes_that_do_not_fit_are_said_and_run_is_off(viewer, widget):
    viewer.add_image(np.zeros((2, 1, 1, 1, 1, 8, 8), np.uint8))
    assert "axes" in texts(widget).lower()
    assert not button(widget, "Run").isEnabled()


def test_the_estimate_of_the_view_is_not_that_of_the_image(viewer, widget):
    layer = viewer.add_image(np.zeros((4000, 4000), np.uint8), name="a")
    pick(widget, REGION)
    look_at(viewer, (2000, 2000), 100)
    (top, bottom), (left, right) = visible_region(viewer, layer)
    assert f"{bottom - top} × {right - left} px in view" in texts(widget)
    assert bottom - top < 200
    pick(widget, LIVE)
    viewer.reset_view()
    assert "Shows the original until you zoom in" in texts(widget)


def test_value_ranges(viewer, widget):
    viewer.add_image(PIXELS, contrast_limits=(3, 77))
    enter(widget, "value_range", "contrast limits of the layer")
    assert options_of(widget).value_range == (3, 77)
    enter(widget, "value_range", "given:")
    enter(widget, "range_text", "5, 80")
    assert options_of(widget).value_range == (5, 80)
    enter(widget, "range_text", "0,1; 0,2")
    assert options_of(widget).value_range == ((0, 1), (0, 2))
    enter(widget, "value_range", "data")
    assert options_of(widget).value_range == "data"
    press(widget, "Restore defaults")
    assert options_of(widget).value_range is None


def test_in_memory(viewer, widget, fake_run, finish, errors):
    layer = viewer.add_image(PIXELS, name="a", scale=(0.5, 0.5), units=("um", "um"))
    finish(MEMORY)
    assert errors == []
    new = viewer.layers["a upscaled"]
    np.testing.assert_array_equal(new.data, PIXELS.repeat(2, 0).repeat(2, 1))
    assert new.scale.tolist() == [0.25, 0.25]
    assert new.translate.tolist() == [-0.125, -0.125]
    assert new.units == layer.units
    assert new.metadata[METADATA_KEY]["model"] == "fake"
    assert threading.main_thread() not in fake_run.threads
    assert "Done" in texts(widget)
    assert button(widget, "Run").isEnabled()
    assert not widget.findChild(QProgressBar).isVisible()


def test_live(viewer, widget, fake_run, finish):
    viewer.add_image(PIXELS, name="a")
    finish(LIVE)
    assert viewer.layers["a live"].multiscale
    assert len(live_layers()) == 1


def test_all_selected_layers(viewer, widget, fake_run, finish):
    for name in "abc":
        viewer.add_image(PIXELS, name=name)
    viewer.layers.selection = {viewer.layers["a"], viewer.layers["c"]}
    assert editor(widget, "layer").currentText() == "2 selected layers"
    finish(MEMORY)
    names = {layer.name for layer in viewer.layers}
    assert "a upscaled" in names
    assert "c upscaled" in names


def test_the_visible_region(viewer, widget, fake_run, finish):
    layer = viewer.add_image(
        np.stack([PIXELS, 255 - PIXELS]), name="a", scale=(2, 0.5, 0.5), rotate=0
    )
    viewer.dims.set_current_step(0, 1)
    viewer.scene.camera.center = (16, 12)
    viewer.scene.camera.zoom = min(viewer.canvas.size) / 8
    finish(REGION)
    new = viewer.layers["a view"]
    assert new.data.shape[0] == 1
    assert new.data.size < PIXELS.size * 4
    first = np.rint(layer.world_to_data(new.data_to_world((0, 0.5, 0.5)))).astype(int)
    assert first[0] == 1
    height, width = (n // 2 for n in new.data.shape[1:])
    np.testing.assert_array_equal(
        new.data[0, ::2, ::2],
        layer.data[1, first[1] : first[1] + height, first[2] : first[2] + width],
    )


def test_following_the_view_keeps_one_preview(
    viewer, widget, fake_run, finish, wait_until
):
    viewer.add_image(PIXELS, name="a")
    pick(widget, REGION)
    tick(widget, "Follow the view")
    for center in ((20, 20), (40, 30)):
        viewer.scene.camera.center = center
        viewer.scene.camera.zoom = min(viewer.canvas.size) / 10
        count = fake_run.calls
        wait_until(lambda n=count: fake_run.calls > n and not widget.running)
    assert [layer.name for layer in viewer.layers] == ["a", "a view"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("bad tile"),
        MemoryError("no room"),
        torch.OutOfMemoryError("CUDA out of memory"),
        ValueError("odd"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_reaches_the_person_and_run_works_again(
    viewer, widget, fake_run, finish, errors, error, monkeypatch
):
    monkeypatch.setattr("napari_swin2sr.runs.runner._PAUSE_SECONDS", 0.01)
    viewer.add_image(PIXELS[:16, :16], name="a")
    fake_run.error = error
    finish(MEMORY)
    assert len(errors) == 1
    assert str(error) in errors[0]
    assert str(error) in texts(widget)
    assert button(widget, "Run").isEnabled()
    fake_run.error = None
    finish(MEMORY)
    assert "a upscaled" in viewer.layers


@pytest.mark.parametrize("where", ["widget", "activity dock", "task manager"])
def test_cancel_ends_within_a_tile(viewer, widget, fake_run, errors, wait_until, where):
    viewer.add_image(np.zeros((256, 256), np.uint8), name="a")
    fake_run.seconds = 0.2
    pick(widget, MEMORY)
    press(widget, "Run")
    wait_until(lambda: fake_run.calls > 0)
    if where == "widget":
        button(widget, "Cancel").click()
    elif where == "activity dock":
        (bar,) = progress._all_instances
        bar.cancel()
    else:
        viewer.window._task_status_manager.cancel_all()
    count, start = fake_run.calls, time.monotonic()
    wait_until(lambda: not widget.running)
    assert fake_run.calls <= count + 4, "only the tiles that were in flight"
    assert time.monotonic() - start < 10
    assert errors == []
    texts(widget)
    assert button(widget, "Run").isEnabled()
    assert len(viewer.layers) == 1


def test_closing_the_window_during_a_run(
    make_napari_viewer, fake_run, wait_until, errors
):
    viewer = make_napari_viewer(strict_qt="raise")
    widget = opened(viewer, wait_until)
    viewer.add_image(np.zeros((256, 256), np.uint8), name="a")
    fake_run.seconds = 0.1
    pick(widget, MEMORY)
    press(widget, "Run")
    wait_until(lambda: fake_run.calls > 0)
    (told,) = viewer.window._task_status_manager.get_status()
    assert "super-resolution of a" in told, "what napari asks about"
    viewer.close()
    wait_until(lambda: not widget.running)
    assert fake_run.calls < 256


def test_deleting_the_layer_during_a_run(viewer, widget, fake_run, wait_until, errors):
    layer = viewer.add_image(PIXELS, name="a")
    fake_run.seconds = 0.05
    pick(widget, MEMORY)
    press(widget, "Run")
    wait_until(lambda: fake_run.calls > 0)
    viewer.layers.remove(layer)
    wait_until(lambda: not widget.running)
    assert errors == []
    assert [one.name for one in viewer.layers] == ["a upscaled"]


def test_closing_the_widget_stops_its_listening(viewer, widget, wait_until):
    viewer.add_image(PIXELS)
    close_dock(viewer, widget)
    viewer.add_image(PIXELS)
    viewer.scene.camera.zoom *= 2
    viewer.layers.clear()


def test_copy_as_python_is_the_exact_call(viewer, widget, fake_run):
    layer = viewer.add_image(PIXELS, name="my cells", contrast_limits=(0, 200))
    enter(widget, "tile", "256")
    enter(widget, "halo", "exact")
    enter(widget, "value_range", "contrast limits of the layer")
    called: dict[str, Any] = {}

    class Recorder:
        @staticmethod
        def apply(data, **options):
            called.update(options, data=data)

    press(widget, "Copy as Python")
    code = QApplication.clipboard().text().replace("import napari_swin2sr\n", "")
    exec(code, {"viewer": viewer, "napari_swin2sr": Recorder})
    assert called.pop("data") is layer.data
    assert UpscaleOptions(**called) == UpscaleOptions(
        axes="YX", tile=256, halo="exact", value_range=(0, 200)
    )


def test_copy_as_command_line_is_the_exact_command(viewer, widget):
    from napari_swin2sr.cli import main as cli
    from napari_swin2sr.cli.arguments import chosen

    viewer.add_image(PIXELS, name="my cells")
    pick(widget, DISK)
    enter(widget, "target", "out file.ome.zarr")
    enter(widget, "value_range", "given:")
    enter(widget, "range_text", "-1.5, 80")
    enter(widget, "halo", "exact")
    press(widget, "Copy as command line")
    words = shlex.split(QApplication.clipboard().text())
    assert words[0] == "napari-swin2sr"
    args = cli.build_parser().parse_args(words[1:])
    assert args.paths[-1].endswith("out file.ome.zarr")
    assert UpscaleOptions(**chosen(args, UpscaleOptions)) == UpscaleOptions(
        axes="YX", halo="exact", value_range=(-1.5, 80)
    )


def test_to_disk_with_the_embedded_model_and_again(
    viewer, widget, finish, errors, tmp_path
):
    layer = viewer.add_image(
        PIXELS, name="a", scale=(0.5, 0.5), units=("um", "um"), rotate=30
    )
    target = tmp_path / "a.ome.zarr"
    pick(widget, DISK)
    enter(widget, "target", str(target))
    finish(DISK)
    assert errors == []
    new = viewer.layers["a upscaled"]
    assert new.data.shape == (128, 96)
    assert abs(np.asarray(new.data, float).mean() - PIXELS.mean()) < 3
    old, there = np.array([10.0, 20.0]), np.array([20.5, 40.5])
    np.testing.assert_allclose(
        new.data_to_world(there), layer.data_to_world(old), atol=1e-9
    )
    record = new.metadata[METADATA_KEY]
    assert record["run"]["file"] == str(target)
    assert len(record["sha256"]) == 64
    finish(DISK)  # finished already, and open
    assert errors == []
    assert [layer.name for layer in viewer.layers] == ["a", "a upscaled"]
    assert viewer.layers.selection.active is new


def test_results_are_the_same_in_memory_and_for_the_visible_region(
    viewer, widget, finish, errors
):
    viewer.add_image(PIXELS, name="a")
    viewer.scene.camera.center = (30, 20)
    viewer.scene.camera.zoom = min(viewer.canvas.size) / 16
    finish(MEMORY)
    finish(REGION)
    assert errors == []
    whole, part = viewer.layers["a upscaled"], viewer.layers["a view"]
    first = np.rint(whole.world_to_data(part.data_to_world((0, 0)))).astype(int)
    height, width = part.data.shape
    np.testing.assert_array_equal(
        part.data,
        whole.data[first[0] : first[0] + height, first[1] : first[1] + width],
    )


def look_at(viewer, center, pixels):
    """Show about so many pixels of an image with scale 1."""
    viewer.scene.camera.center = center
    viewer.scene.camera.zoom = min(viewer.canvas.size) / pixels
