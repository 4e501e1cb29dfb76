"""Before and after in a real window: what is drawn where, and that nothing remains."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_swin2sr.plugin import compare
from napari_swin2sr.plugin.compare import (
    OFF,
    SIDE,
    WIPE,
    CompareRow,
    comparer_of,
    pairs_of,
)
from napari_swin2sr.plugin.placement import (
    METADATA_KEY,
    layer_keywords,
    made_from,
    show_result,
)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True, strict_qt="raise")


@pytest.fixture
def open_row(viewer):
    def make():
        row = CompareRow(viewer)
        viewer.window.add_dock_widget(row, name="compare")
        return row

    return make


def add_pair(viewer, before=50, after=200, name="a", shape=(64, 64), **keywords):
    """Add a source of one value and a result of another, placed upon it."""
    from napari.layers import Image

    source = viewer.add_image(
        np.full(shape, before, np.uint8),
        name=name,
        contrast_limits=(0, 255),
        **keywords,
    )
    made = layer_keywords(
        source, 2, (0, 1), name=f"{name} upscaled", provenance={"source": name}
    )
    result = Image(np.full((2 * shape[0], 2 * shape[1]), after, np.uint8), **made)
    show_result(viewer, source, result)
    viewer.reset_view()
    return source, result


def shot(viewer):
    """Return what is on the canvas, one value per pixel."""
    QTest.qWait(50)
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].mean(-1)


def state(viewer):
    """Return everything that comparing may touch."""
    QTest.qWait(10)  # deletes what waits for it
    grid = compare._grid(viewer)
    canvas = viewer.window._qt_viewer.canvas
    return (
        [(layer.name, layer.visible, layer.opacity) for layer in viewer.layers],
        (grid.enabled, grid.shape, grid.stride),
        [
            len(visual.node._vshare.filters)
            for layer in viewer.layers
            for visual in [canvas.layer_to_visual[layer]]
        ],
        {type(child).__name__ for child in canvas.native.findChildren(QWidget)},
    )


def halves(viewer, at=0.5):
    """Return the value just left and right of a place, a third down the canvas."""
    picture = shot(viewer)
    y, x = picture.shape[0] // 3, round(picture.shape[1] * at)
    return picture[y, x - 12], picture[y, x + 12]


@pytest.mark.parametrize(
    "keywords",
    [
        {"rotate": 30},
        {"blending": "additive"},
        {"scale": (0.1, 0.3), "shear": [0.2]},
    ],
    ids=["rotated", "additive", "sheared"],
)
def test_left_of_the_line_is_the_original(viewer, keywords):
    add_pair(viewer, **keywords)
    before = state(viewer)
    comparer = comparer_of(viewer)
    comparer.set_mode(WIPE)
    assert halves(viewer) == pytest.approx((50, 200), abs=2)
    comparer.split = 0.55
    assert halves(viewer, 0.55) == pytest.approx((50, 200), abs=2)
    viewer.scene.camera.zoom *= 1.3
    viewer.scene.camera.center = (0, *np.add(viewer.scene.camera.center[1:], 0.5))
    assert halves(viewer, 0.55) == pytest.approx((50, 200), abs=2)
    comparer.set_mode(OFF)
    assert state(viewer) == before


def test_several_channels_are_cut_at_the_same_place(viewer):
    for name, before, after in (("a", 20, 90), ("b", 30, 120)):
        add_pair(viewer, before, after, name, blending="additive")
    comparer_of(viewer).set_mode(WIPE)
    assert halves(viewer) == pytest.approx((50, 210), abs=3)


def test_the_wipe_survives_3d(viewer):
    add_pair(viewer)
    before = state(viewer)
    comparer = comparer_of(viewer)
    comparer.set_mode(WIPE)
    viewer.dims.ndisplay = 3
    picture = shot(viewer)
    left, right = np.array_split(picture, 2, axis=1)
    assert 0 < left.max() < 100, "the original"
    assert right.max() > 150, "the result"
    viewer.dims.ndisplay = 2
    assert halves(viewer) == pytest.approx((50, 200), abs=2)
    comparer.set_mode(OFF)
    assert state(viewer) == before


def test_an_image_in_several_textures_is_cut_whole(viewer, monkeypatch):
    add_pair(viewer)
    comparer = comparer_of(viewer)
    comparer.set_mode(WIPE)
    shot(viewer)
    _, result = viewer.layers
    visual = viewer.window._qt_viewer.canvas.layer_to_visual[result]
    nodes = visual._layer_node
    monkeypatch.setattr(nodes, "MAX_TEXTURE_SIZE_2D", 100)
    nodes._tiledimage_node.tile_size = 100
    result.data = result.data.copy()
    assert visual.node is nodes._tiledimage_node
    assert len(visual.node.adopted_children) == 4
    assert halves(viewer) == pytest.approx((50, 200), abs=2)
    comparer.set_mode(OFF)
    assert halves(viewer) == pytest.approx((200, 200), abs=2)


def test_the_handle_is_dragged_and_moved_by_keys(viewer):
    add_pair(viewer)
    comparer = comparer_of(viewer)
    comparer.set_mode(WIPE)
    QTest.qWait(50)
    handle = viewer.window._qt_viewer.canvas.native.findChild(QWidget, "compare_handle")
    center = viewer.scene.camera.center
    middle = handle.rect().center()
    QTest.mousePress(handle, Qt.MouseButton.LeftButton, pos=middle)
    QTest.mouseMove(handle, middle + QPoint(60, 5))
    QTest.mouseRelease(handle, Qt.MouseButton.LeftButton)
    width = handle.parentWidget().width()
    assert comparer.split == pytest.approx(0.5 + 60 / width, abs=2 / width)
    assert viewer.scene.camera.center == center, "the image is not dragged along"
    assert halves(viewer, comparer.split) == pytest.approx((50, 200), abs=2)
    moved = comparer.split
    QTest.keyClick(handle, Qt.Key.Key_Left)
    assert comparer.split == pytest.approx(moved - 0.02, abs=2 / width)


def test_side_by_side_is_one_view_twice(viewer):
    extra = viewer.add_points([[5, 5]], name="points")
    add_pair(viewer, name="a", blending="additive")
    add_pair(viewer, 30, 120, name="b", blending="additive")
    before = state(viewer)
    comparer = comparer_of(viewer)
    comparer.set_mode(SIDE)
    assert not extra.visible
    picture = shot(viewer)
    width = picture.shape[1]
    left, right = (picture[:, part * width // 4].max() for part in (1, 3))
    assert (left, right) == pytest.approx((80, 255), abs=4)
    comparer.set_mode(OFF)
    assert state(viewer) == before


def test_the_original_shows_as_long_as_it_is_held(viewer, open_row):
    add_pair(viewer)
    row = open_row()
    before = state(viewer)
    QTest.mousePress(row.original, Qt.MouseButton.LeftButton)
    assert halves(viewer) == pytest.approx((50, 50), abs=2)
    QTest.mouseRelease(row.original, Qt.MouseButton.LeftButton)
    assert halves(viewer) == pytest.approx((200, 200), abs=2)
    assert state(viewer) == before
    canvas = viewer.window._qt_viewer.canvas.native
    QTest.keyPress(canvas, Qt.Key.Key_B)
    assert halves(viewer) == pytest.approx((50, 50), abs=2)
    QTest.keyRelease(canvas, Qt.Key.Key_B)
    assert halves(viewer) == pytest.approx((200, 200), abs=2)
    row.wipe.click()
    QTest.keyPress(canvas, Qt.Key.Key_B)
    assert halves(viewer) == pytest.approx((50, 50), abs=2)
    QTest.keyRelease(canvas, Qt.Key.Key_B)
    assert halves(viewer) == pytest.approx((50, 200), abs=2), "the wipe goes on"
    row.wipe.click()
    assert state(viewer) == before


def test_the_blink_key_of_a_person_is_left_alone(viewer, open_row):
    pressed = []
    viewer.bind_key("B", lambda viewer: pressed.append(True))
    open_row()
    add_pair(viewer)
    QTest.keyClick(viewer.window._qt_viewer.canvas.native, Qt.Key.Key_B)
    assert pressed


@pytest.mark.parametrize("mode", [WIPE, SIDE])
@pytest.mark.parametrize("which", [0, 1])
def test_deleting_a_compared_layer_ends_the_comparison(viewer, open_row, mode, which):
    add_pair(viewer, name="b", blending="additive")
    layers = add_pair(viewer, name="a", blending="additive")
    before = {layer: layer.visible for layer in viewer.layers}
    row = open_row()
    (row.wipe if mode == WIPE else row.side).click()
    assert comparer_of(viewer).mode == mode
    viewer.layers.remove(layers[which])
    assert comparer_of(viewer).mode == OFF
    assert not row.wipe.isChecked()
    assert not row.side.isChecked()
    assert {layer: layer.visible for layer in viewer.layers} == {
        layer: seen for layer, seen in before.items() if layer is not layers[which]
    }
    assert not compare._grid(viewer).enabled
    shot(viewer)


def test_nothing_to_compare_is_said(viewer, open_row, monkeypatch):
    said: list[Any] = []
    monkeypatch.setattr(compare, "show_info", said.append)
    viewer.add_image(np.zeros((8, 8)))
    row = open_row()
    row.wipe.click()
    assert said == [compare.NOTHING]
    assert not row.wipe.isChecked()


def test_closing_the_window_while_comparing(make_napari_viewer):
    for mode in (WIPE, SIDE):
        viewer = make_napari_viewer(show=True, strict_qt="raise")
        add_pair(viewer)
        comparer_of(viewer).set_mode(mode)
        shot(viewer)
        viewer.close()


def test_a_gone_row_does_not_hear_of_changes(viewer, open_row):
    add_pair(viewer)
    row = open_row()
    viewer.window.remove_dock_widget(row)
    QTest.qWait(50)
    compare.toggle_wipe(viewer)
    assert comparer_of(viewer).mode == WIPE
    compare.toggle_wipe(viewer)
    assert comparer_of(viewer).mode == OFF


def test_which_result_is_compared(viewer):
    source, first = add_pair(viewer)
    keywords = layer_keywords(source, 2, (0, 1), name="again", provenance={})
    second = type(first)(first.data, **keywords)
    show_result(viewer, source, second)
    assert pairs_of(viewer) == [(source, second)], "the topmost"
    viewer.layers.selection = {first}
    assert pairs_of(viewer) == [(source, first)], "the selected one"
    comparer_of(viewer).set_mode(WIPE)
    assert not second.visible
    comparer_of(viewer).set_mode(OFF)
    assert second.visible


def test_a_result_that_was_opened_again_knows_its_source(viewer):
    for name in ("cell", "cells"):
        viewer.add_image(np.zeros((4, 4)), name=name)
    again = viewer.add_image(
        np.zeros((8, 8)),
        name="cells upscaled",
        metadata={METADATA_KEY: {"source": "cells"}},
    )
    assert made_from(again, viewer.layers) is viewer.layers["cells"]
    assert made_from(viewer.layers["cell"], viewer.layers) is None


def test_any_sequence_of_clicks_ends_as_it_began(viewer, open_row):
    add_pair(viewer, name="a", blending="additive")
    add_pair(viewer, name="b", rotate=20)
    row = open_row()
    before = state(viewer)
    random.seed(0)
    comparer = comparer_of(viewer)
    actions = [
        row.wipe.click,
        row.side.click,
        lambda: comparer.hold_original(True),
        lambda: comparer.hold_original(False),
        lambda: setattr(comparer, "split", random.random()),
        lambda: setattr(viewer.dims, "ndisplay", random.choice((2, 3))),
        lambda: QTest.qWait(1),
    ]
    for action in itertools.chain(
        random.choices(actions, k=30),
        (lambda: setattr(viewer.dims, "ndisplay", 2), lambda: QTest.qWait(20)),
    ):
        action()
    comparer.hold_original(False)
    comparer.set_mode(OFF)
    shot(viewer)
    assert state(viewer) == before
