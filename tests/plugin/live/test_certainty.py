"""Errors of a live layer: same forwards, same cache, and what one sees of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtTest import QTest

from napari_swin2sr.errors import InputError
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin import certainty
from napari_swin2sr.plugin.certainty import CertaintyRow, add_error_layer, fade
from napari_swin2sr.plugin.live.layer import add_live_layer, live_layers

TRUST = UpscaleOptions(tile=64, trust=0.9)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True, strict_qt="raise")


def picture(side=400):
    y, x = np.mgrid[:side, :side]
    return (127 + 60 * np.sin(y / 9) + 60 * np.cos(x / 7)).astype(np.uint16)


def look_at(viewer, center, zoom):
    viewer.scene.camera.center = center
    viewer.scene.camera.zoom = zoom


def start(viewer, fake_model, pixels=None, **keywords):
    layer = viewer.add_image(picture() if pixels is None else pixels, **keywords)
    return layer, add_live_layer(viewer, layer, TRUST, fake_model)


def test_adding_the_errors_computes_nothing(viewer, fake_model, n_calls, settle):
    keywords = {"scale": (0.5, 0.5), "translate": (3, 4)}
    _, live = start(viewer, fake_model, picture(1600), **keywords)
    look_at(viewer, (100, 100), 8)
    settle()
    count = n_calls()
    assert count > 0
    error = add_error_layer(viewer, live)
    assert error is add_error_layer(viewer, live)
    settle()
    assert n_calls() == count
    assert error.data_level == 0
    np.testing.assert_array_equal(error.scale, live.scale)
    np.testing.assert_array_equal(error.translate, live.translate)
    (y0, x0), (y1, x1) = error.corner_pixels
    shown = np.asarray(error.data[0][y0:y1, x0:x1])
    expected = fake_model.made[0].expected()[y0:y1, x0:x1] / 10
    np.testing.assert_allclose(shown, expected, rtol=1e-6)
    assert viewer.layers.selection.active is live

    look_at(viewer, (400, 400), 8)
    settle()
    calls = fake_model.made[0].calls
    assert len(calls) > count
    assert len(calls) == len(set(calls)), "one forward for both"


def test_a_hidden_image_gets_its_tiles_with_the_errors(
    viewer, fake_model, n_calls, settle
):
    _, live = start(viewer, fake_model)
    settle()
    add_error_layer(viewer, live)
    live.visible = False
    look_at(viewer, (100, 100), 4)
    settle()
    count = n_calls()
    assert count > 0
    live.visible = True
    settle()
    assert n_calls() == count


def test_color_images_have_the_largest_error_of_their_samples(
    viewer, fake_model, settle
):
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    _, live = start(viewer, fake_model, pixels, rgb=True)
    look_at(viewer, (48, 48), 6)
    settle()
    error = add_error_layer(viewer, live)
    settle()
    assert error.data[0].shape == (192, 192)
    expected = fake_model.made[0].expected()[80:90, 80:90].max(-1) / 10
    np.testing.assert_allclose(np.asarray(error.data[0][80:90, 80:90]), expected)


def test_the_status_bar_reads_value_and_error(viewer, fake_model, settle):
    _, live = start(viewer, fake_model, picture(1600))
    settle()
    position = 100.2, 120.2  # in the middle of a pixel of the source
    keywords = {"dims_displayed": [0, 1], "world": True}
    assert "±" not in live.get_status(position, **keywords)["coordinates"]
    look_at(viewer, position, 8)
    settle()
    value = picture(1600)[100, 120]
    status = live.get_status(position, **keywords)
    assert status["value"].endswith(f"± {value / 10:.3g} (90 %)")
    assert str(value) in status["coordinates"]
    assert "±" not in live.get_status((-50, -50), **keywords)["coordinates"]


def test_the_slider_fades_what_is_uncertain(viewer, fake_model, settle):
    pixels = np.full((128, 128), 10, np.uint8)
    pixels[:, 64:] = 200
    pixels[0, 0] = 255
    start(viewer, fake_model, pixels, contrast_limits=(0, 255))
    row = CertaintyRow(viewer)
    viewer.window.add_dock_widget(row, name="certainty")
    look_at(viewer, (64, 64), 4)
    settle()

    def shown():
        QTest.qWait(50)
        picture = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
        y, x = (n // 2 for n in picture.shape[:2])
        return [picture[y, x + dx].mean() for dx in (-40, 40)]

    before = shown()
    assert before == pytest.approx([10, 200], abs=2)
    row.box.click()
    settle()
    colored = shown()
    assert colored[1] > before[1], "additive colors"
    row.slider.setValue(20)  # 10.2: errors are 1 and 20
    assert shown() == pytest.approx([10, 40], abs=3)
    assert "10.2" in row.text.text()
    row.box.click()
    assert shown() == pytest.approx(before, abs=1)
    assert len(viewer.layers) == 2


def test_errors_end_with_their_layer(viewer, fake_model, settle, wait_until):
    _, live = start(viewer, fake_model)
    settle()
    error = add_error_layer(viewer, live)
    viewer.layers.remove(error)
    assert live_layers()[0].error_layer is None
    error = add_error_layer(viewer, live)
    viewer.layers.remove(live)
    wait_until(lambda: error not in viewer.layers)
    assert not live_layers()


def test_where_there_are_no_errors_it_is_said(viewer, fake_model, monkeypatch):
    said: list[Any] = []
    monkeypatch.setattr(certainty, "show_info", said.append)
    row = CertaintyRow(viewer)
    viewer.window.add_dock_widget(row, name="certainty")
    row.box.click()
    assert said == [certainty.NO_LIVE]
    source, _ = start(viewer, fake_model)
    row.follow()
    assert not row.isHidden()
    live_layers()[0].error = None
    row.follow()
    assert row.isHidden()
    row.box.click()
    assert said[1:] == [certainty.NO_ERROR]
    assert not row.box.isChecked()
    with pytest.raises(InputError, match="no live layer"):
        add_error_layer(viewer, source)


def test_fading_is_undone(viewer):
    layer = viewer.add_image(np.zeros((4, 4)), colormap="magma", blending="additive")
    fade(layer, 3.0)
    assert layer.contrast_limits == [0, 6]
    fade(layer, None)
    assert (layer.colormap.name, str(layer.blending)) == ("magma", "additive")
