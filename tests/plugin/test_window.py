"""A real window and its widget: nothing freezes, ghosts, doubles or gets lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.progress import progress
from npe2 import PluginManifest
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton

from helpers.window import (
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
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin import widget as widget_module
from napari_swin2sr.plugin.modes import (
    DISK,
    LIVE,
    MEMORY,
    REGION,
    VIEWER_TILE,
    cut_out,
    in_viewer,
)
from napari_swin2sr.plugin.placement import METADATA_KEY
from napari_swin2sr.plugin.widget import SuperResolutionWidget
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import plan_tiles

ROOT = Path(__file__).resolve().parents[2]
PIXELS = (np.arange(64 * 48).reshape(64, 48) % 251).astype(np.uint8)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True, strict_qt="raise")


@pytest.fixture
def errors(monkeypatch):
    shown: list[Any] = []
    monkeypatch.setattr(widget_module, "show_error", shown.append)
    return shown


@pytest.fixture
def open_widget(viewer, errors, wait_until):
    return lambda: opened(viewer, wait_until)


@pytest.fixture
def finish(wait_until):
    def run(widget, mode):
        pick(widget, mode)
        press(widget, "Run")
        wait_until(lambda: not widget.running)

    return run


# -- results --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.ome.zarr"])
def test_a_result_in_any_format_is_shown(
    viewer, open_widget, finish, errors, tmp_path, name
):
    viewer.add_image(PIXELS, name="a")
    widget = open_widget()
    pick(widget, DISK)
    enter(widget, "target", str(tmp_path / name))
    finish(widget, DISK)
    assert errors == []
    new = viewer.layers["a upscaled"]
    assert new.data.shape == (128, 96)
    assert abs(np.asarray(new.data, float).mean() - PIXELS.mean()) < 4


@pytest.mark.parametrize("mode", [LIVE, MEMORY])
def test_the_source_of_an_additive_result_does_not_shine_through(
    viewer, open_widget, finish, fake_run, mode
):
    spots = np.zeros((64, 64), np.uint8)
    spots[16:48, 16:48] = 100
    source = viewer.add_image(
        spots, name="a", blending="additive", contrast_limits=(0, 255)
    )
    before = viewer.screenshot(flash=False)[..., :3].max()
    finish(open_widget(), mode)
    QTest.qWait(300)
    after = viewer.screenshot(flash=False)[..., :3].max()
    assert int(after) <= int(before) + 1
    assert not source.visible
    result = viewer.layers[-1]
    result.contrast_limits = (0, 120)
    assert source.contrast_limits == [0, 120]


def test_deleting_the_source_does_not_make_the_result_the_next_input(
    qapp, errors, fake_run, finish, wait_until
):
    """Without a window: napari's software OpenGL may crash when a layer goes."""
    viewer = ViewerModel()
    layer = viewer.add_image(PIXELS, name="a")
    widget = SuperResolutionWidget(viewer)
    finish(widget, MEMORY)
    viewer.layers.remove(layer)
    assert METADATA_KEY in viewer.layers[0].metadata
    assert widget.layer is None
    texts(widget)
    assert not button(widget, "Run").isEnabled()
    other = viewer.add_image(PIXELS, name="b")
    assert widget.layer is other


def test_a_slash_in_the_name_of_a_layer_is_no_folder(viewer, open_widget):
    viewer.add_image(PIXELS, name="plate/A 1:2")
    target = editor(open_widget(), "target").text()
    assert Path(target).name == "plate-A 1-2-upscaled.ome.zarr"


# -- the event loop -------------------------------------------------------------------


def test_many_small_layers_leave_the_event_loop_alone(
    viewer, open_widget, fake_run, wait_until, responsive
):
    for name in "abcde":
        viewer.add_image(PIXELS, name=name)
    viewer.layers.selection = set(viewer.layers)
    widget = open_widget()
    pick(widget, MEMORY)
    fake_run.seconds = 0.01
    depth, deepest = 0, 0
    bars = []
    update = progress.update

    def watched(bar, n=1):
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        bars.append(bar)
        try:
            update(bar, n)
        finally:
            depth -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "update", watched)
        QTest.qWait(200)
        with responsive(0.5):  # five layers are added to the window
            press(widget, "Run")
            wait_until(lambda: not widget.running)
    assert len(viewer.layers) == 10
    assert bars, "progress was shown"
    assert deepest == 1, "no update inside another"


# -- opening and closing the widget ---------------------------------------------------


def test_a_closed_widget_computes_nothing_more(
    viewer, open_widget, fake_run, wait_until
):
    viewer.add_image(PIXELS, name="a")
    widget = open_widget()
    pick(widget, REGION)
    tick(widget, "Follow the view")
    wait_until(lambda: fake_run.calls > 0 and not widget.running)
    close_dock(viewer, widget)
    count = fake_run.calls
    viewer.scene.camera.center = (10, 10)
    viewer.scene.camera.zoom *= 2
    QTest.qWait(700)
    assert fake_run.calls == count
    assert not widget.running


def test_closing_ends_a_preview_that_is_under_way(
    viewer, open_widget, fake_run, wait_until
):
    viewer.add_image(np.zeros((256, 256), np.uint8), name="a")
    widget = open_widget()
    fake_run.seconds = 0.1
    pick(widget, REGION)
    tick(widget, "Follow the view")
    wait_until(lambda: fake_run.calls > 0)
    close_dock(viewer, widget)
    wait_until(lambda: not widget.running)
    assert [layer.name for layer in viewer.layers] == ["a"]


def test_closing_ends_what_it_started_and_opening_restores_the_choices(
    viewer, open_widget, fake_run, wait_until
):
    viewer.add_image(np.zeros((256, 256), np.uint8), name="a")
    first = open_widget()
    fake_run.seconds = 0.1
    pick(first, MEMORY)
    enter(first, "tile", "96")
    press(first, "Run")
    wait_until(lambda: fake_run.calls > 2)
    close_dock(viewer, first)
    second = open_widget()
    wait_until(lambda: not second.running)
    assert fake_run.calls < 256
    assert editor(second, "tile").text() == "96"
    assert "256" in texts(second)
    assert button(second, "Run").isEnabled()
    assert second.findChild(QAbstractButton, MEMORY).isChecked()
    assert len(viewer.layers) == 1


# -- tiles ----------------------------------------------------------------------------


def test_the_viewer_uses_tiles_between_which_a_run_can_be_cancelled():
    assert in_viewer(UpscaleOptions()).tile == VIEWER_TILE <= 512
    assert in_viewer(UpscaleOptions(tile=1024)).tile == 1024
    assert in_viewer(UpscaleOptions(halo="exact")).tile is None


@pytest.mark.parametrize(
    ("axes", "bounds"),
    [
        ("YX", ((700, 836), (500, 628))),
        ("YX", ((0, 40), (960, 1003))),
        ("CYX", ((1, 2), (33, 77), (200, 900))),
        ("YXS", ((300, 340), (0, 9), (0, 3))),
    ],
)
def test_a_region_is_computed_from_its_own_pixels_and_halo(axes, bounds):
    """The same pixels as of the whole image, for a network that sees 16 px far."""
    ndimage = pytest.importorskip("scipy.ndimage")
    sides = {"Y": 1001, "X": 1003, "C": 2, "S": 3}
    shape = tuple(sides[axis] for axis in axes)
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    seen = []

    def network(tiles):
        seen.append(tiles.shape[-2] * tiles.shape[-1])
        means = ndimage.uniform_filter(tiles, (0, 0, 31, 31))
        return means.repeat(2, -1).repeat(2, -2)

    layout = resolve_axes(shape, axes)
    plan = plan_tiles(layout.plane_shape, core=512, halo=16)
    ranges = (ValueRange(0, 255), ValueRange(0, 200))[: layout.n_channels]
    whole = LazyUpscaled(pixels, layout, plan, ranges, network)
    part, inner = cut_out(whole, bounds)
    result = np.asarray(part)[inner]
    computed = sum(seen)
    expected = np.asarray(whole)[
        tuple(
            slice(2 * lo, 2 * hi) if axis in "YX" else slice(lo, hi)
            for axis, (lo, hi) in zip(axes, bounds, strict=True)
        )
    ]
    np.testing.assert_allclose(result, expected, atol=1)
    sizes = [
        hi - lo for axis, (lo, hi) in zip(axes, bounds, strict=True) if axis in "YX"
    ]
    assert computed <= (sizes[0] + 48) * (sizes[1] + 48) * 1.2


# -- files ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ome.zarr", ".ome.tif"])
def test_a_live_layer_is_saved_and_opened_again_as_it_was(
    npe2pm,
    viewer,
    open_widget,
    finish,
    fake_run,
    wait_until,
    tmp_path,
    monkeypatch,
    suffix,
):
    npe2pm.register(PluginManifest.from_file(ROOT / "napari.yaml"))
    viewer.add_image(
        PIXELS,
        name="my cells",
        scale=(0.5, 0.25),
        translate=(3, 5),
        units=("um", "um"),
        colormap="green",
        contrast_limits=(7, 99),
    )
    widget = open_widget()
    finish(widget, LIVE)
    live = viewer.layers["my cells live"]
    live.data[0].level._lazy = fake_run.lazy_of(PIXELS)
    viewer.layers.selection = {live}
    target = tmp_path / f"out{suffix}"
    monkeypatch.setattr(
        widget_module.QFileDialog,
        "getSaveFileName",
        lambda *args: (str(target), f"OME (*{suffix})"),
    )
    press(widget, "Save layer...")
    wait_until(lambda: not widget.running)
    assert "Done" in texts(widget)
    live.name = "elsewhere"
    (again,) = viewer.open(target, plugin="napari-swin2sr")
    np.testing.assert_array_equal(again.data, PIXELS.repeat(2, 0).repeat(2, 1))
    assert again.name == "my cells live"
    np.testing.assert_allclose(again.colormap.map(1.0)[0], [0, 1, 0, 1])
    np.testing.assert_allclose(again.scale, live.scale)
    assert again.units == live.units
    if suffix == ".ome.zarr":  # OME-TIFF has no place for these
        np.testing.assert_allclose(again.translate, live.translate)
        assert again.contrast_limits == [7, 99]


def test_errors_speak_of_the_widget_not_of_the_command_line(
    viewer, open_widget, finish, errors, tmp_path
):
    target = tmp_path / "a.ome.tif"
    target.write_bytes(b"something else")
    viewer.add_image(PIXELS, name="a")
    widget = open_widget()
    pick(widget, DISK)
    enter(widget, "target", str(target))
    finish(widget, DISK)
    assert 'tick "Replace a finished file"' in errors[0]
    assert "--overwrite" not in errors[0]
    assert target.read_bytes() == b"something else"


def test_a_live_layer_says_how_much_of_the_view_is_sharp(
    viewer, open_widget, finish, fake_model, fake_run, wait_until
):
    viewer.add_image(np.zeros((300, 300), np.uint8), name="a")
    widget = open_widget()
    fake_model.seconds = 0.1
    pick(widget, LIVE)
    enter(widget, "tile", "32")
    finish(widget, LIVE)
    viewer.scene.camera.zoom *= 2
    wait_until(lambda: "visible tiles are sharp" in texts(widget))
    fake_model.made[0].seconds = 0
    wait_until(lambda: "a live: all you see is sharp" in texts(widget))
