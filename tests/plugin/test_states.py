"""What the widget says and shows in its states; without a viewer's window."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QPlainTextEdit

from helpers.window import button, enter, pick, press, texts
from napari_swin2sr.engine.upscaler import load_model
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin import estimate
from napari_swin2sr.plugin import widget as widget_module
from napari_swin2sr.plugin.before import need_in_view
from napari_swin2sr.plugin.choices import model_choices
from napari_swin2sr.plugin.layer_source import layer_source
from napari_swin2sr.plugin.modes import (
    MEMORY,
    REGION,
    VIEWER_TILE,
    cut_out,
    visible_bounds,
)
from napari_swin2sr.plugin.widget import SuperResolutionWidget
from napari_swin2sr.plugin.worker import Job, Run
from napari_swin2sr.runs.runner import RunStarted
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import plan_tiles

PIXELS = (np.arange(64 * 48).reshape(64, 48) % 251).astype(np.uint8)


@pytest.fixture
def viewer(qapp):
    return ViewerModel()


@pytest.fixture
def errors(monkeypatch):
    shown: list[Any] = []
    monkeypatch.setattr(widget_module, "show_error", shown.append)
    return shown


@pytest.fixture
def widget(viewer, errors, wait_until):
    made = SuperResolutionWidget(viewer)
    made.resize(330, 700)
    made.show()
    wait_until(lambda: made.findChild(QAbstractButton, "default") is not None)
    yield made
    made.close_for_good()
    wait_until(lambda: not made.running)
    made.close()
    viewer.layers.clear()


def test_an_empty_window_offers_a_sample(viewer, widget, responsive, wait_until):
    assert "Open an image to begin" in texts(widget)
    assert not button(widget, "Run").isEnabled()
    viewer.layers.remove(viewer.add_image(PIXELS, units=("um", "um")))  # loads pint
    with responsive():
        press(widget, "Open sample")
        wait_until(lambda: "1000 photons" in texts(widget))
    assert [layer.name for layer in viewer.layers] == [
        "cells: nuclei",
        "cells: filaments",
    ]
    said = texts(widget)
    assert "320 × 320 px, 16-bit, 0.26 µm/px" in said
    assert "default is right" in said
    assert button(widget, "Run").isEnabled()


def test_a_model_for_clean_images_is_warned_of(viewer, widget, wait_until):
    noisy = np.random.default_rng(0).poisson(40, (96, 96)).astype(np.uint16)
    viewer.add_image(noisy)
    pick(widget, "default-clean")
    wait_until(lambda: "would amplify the noise" in texts(widget))
    press(widget, "Use default")
    assert "amplify the noise." not in texts(widget)
    assert widget.findChild(QAbstractButton, "default").isChecked()


@pytest.mark.parametrize("size", ["9pt", "15pt"])
def test_nothing_is_cut_off_at_330_px(viewer, widget, size):
    viewer.add_image(
        np.zeros((2, 3, 4, 32, 32), np.uint8), axis_labels=("t", "c", "z", "y", "x")
    )
    widget.setStyleSheet(f"* {{ font-size: {size}; }}")
    press(widget, "More models...")
    next(
        b for b in widget.findChildren(QAbstractButton) if b.text() == "Advanced"
    ).click()
    QTest.qWait(300)
    widget.resize(330, 700)
    QTest.qWait(50)
    assert widget.width() == 330
    for part in widget.findChildren((QAbstractButton, QComboBox, QLineEdit)):
        if not part.isVisible() or part.parent().metaObject().className()[1] == "S":
            continue
        right = part.mapTo(widget, part.rect().topRight()).x()
        assert right < 330, part.objectName()
        if isinstance(part, QAbstractButton) and part.text() != "⋯":
            assert part.width() >= part.minimumSizeHint().width(), part.text()


def test_every_editor_has_a_tooltip_and_a_name_for_screen_readers(viewer, widget):
    viewer.add_image(PIXELS)
    QTest.qWait(250)
    for part in widget.tabs.widget(0).findChildren((QComboBox, QLineEdit)):
        assert part.toolTip(), part.objectName()
        assert part.accessibleName() or part.objectName() == "range_text"
    for text in ("Run", "More models...", "Restore defaults"):
        assert button(widget, text).toolTip(), text


def test_3d_says_that_a_live_layer_shows_the_original(
    viewer, widget, fake_model, fake_run, wait_until
):
    viewer.add_image(np.zeros((3, 32, 32), np.uint8), name="a")
    press(widget, "Run")
    wait_until(lambda: not widget.running and "a live" in viewer.layers)
    viewer.dims.ndisplay = 3
    wait_until(lambda: "a live: 3-D shows the original" in texts(widget))


def test_a_result_tells_source_and_model_in_its_tooltip(
    viewer, widget, fake_run, wait_until
):
    viewer.add_image(PIXELS, name="a")
    pick(widget, MEMORY)
    press(widget, "Run")
    wait_until(lambda: "a upscaled" in viewer.layers)
    tooltip = viewer.layers["a upscaled"].get_source_str().split("\n")
    assert tooltip == ["a upscaled", "Source: a", "Model: fake (×2)"]


def test_a_failure_is_one_sentence_with_details_on_demand(
    viewer, widget, fake_run, errors, wait_until, monkeypatch
):
    monkeypatch.setattr("napari_swin2sr.runs.runner._PAUSE_SECONDS", 0.01)
    viewer.add_image(PIXELS[:16, :16])
    fake_run.error = ValueError("odd pixels")
    pick(widget, MEMORY)
    press(widget, "Run")
    wait_until(lambda: errors)
    assert "Error" not in errors[0]
    assert "odd pixels" in errors[0]
    details = widget.findChild(QPlainTextEdit)
    assert not details.isVisible()
    next(
        b for b in widget.findChildren(QAbstractButton) if b.text() == "Details"
    ).click()
    assert details.isVisible()
    assert "Traceback" in details.toPlainText()


def test_a_resumed_run_says_so(qapp, wait_until):
    said: list[Any] = []
    ended: list[Any] = []

    def work(report, cancel):
        report(RunStarted(stage="tiles", done=3, total=10))
        time.sleep(0.2)

    run = Run([Job("a", work, lambda result: None)], said.append, ended.append)
    run.start()
    wait_until(lambda: ended)
    assert any("going on after 3 of 10 tiles" in state.text for state in said)


@pytest.mark.parametrize("zoom", [0.9, 2.0, 6.0])
def test_the_estimate_of_the_view_counts_what_is_computed(viewer, monkeypatch, zoom):
    layer = viewer.add_image(np.zeros((1500, 1400), np.uint8))
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 700, 600), zoom
    source, computed = layer_source(layer), []
    (model,) = (m for m in model_choices() if m.name == "default")
    options = UpscaleOptions(tile=VIEWER_TILE)
    halo = model.config.halo(None)

    def network(tiles):
        computed.append(tiles.shape[-2] * tiles.shape[-1])
        return tiles.repeat(2, -1).repeat(2, -2)

    plan = plan_tiles(source.layout.plane_shape, core=VIEWER_TILE, halo=halo)
    ranges = (estimate.ValueRange(0, 255),)
    whole = LazyUpscaled(layer.data, source.layout, plan, ranges, network)
    bounds = visible_bounds(viewer, layer)
    np.asarray(cut_out(whole, bounds)[0])
    monkeypatch.setitem(estimate._SPEED, ("default", "auto"), 1.0)
    need = need_in_view(source, bounds, options, model)
    assert need.seconds == pytest.approx(sum(computed), rel=0.5)
    assert need.n_tiles == len(computed)


@pytest.mark.parametrize("mode", [REGION, MEMORY])
def test_cancel_ends_inside_a_tile(viewer, widget, errors, wait_until, slowness, mode):
    load_model("default")(np.zeros((1, 3, 16, 16), np.float32))
    viewer.add_image(np.zeros((800, 800), np.uint8))
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 400, 400), 0.5
    pick(widget, mode)
    enter(widget, "tile", "1024")
    press(widget, "Run")
    wait_until(lambda: "super-resolving" in texts(widget))
    QTest.qWait(500)
    start = time.monotonic()
    button(widget, "Cancel").click()
    wait_until(lambda: not widget.running)
    assert time.monotonic() - start < 2 * slowness()
    assert "Cancelled" in texts(widget)
    assert len(viewer.layers) == 1
