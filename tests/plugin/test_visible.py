"""The visible region: the same for layers with one and with many scales."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_swin2sr.plugin.placement import visible_region

TRANSFORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": (0.5, 0.25), "translate": (7, -3)},
    "rotated": {"rotate": 30},
}


def test_it_is_what_napari_shows_of_single_scale_layers(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True, strict_qt="raise")
    pixels = np.zeros((900, 1000), np.uint8)
    for transform in TRANSFORMS.values():
        single = viewer.add_image(pixels, **transform)
        many = viewer.add_image([pixels, pixels[::2, ::2]], **transform)
        viewer.scene.camera.center = single.data_to_world((400, 500))
        viewer.scene.camera.zoom = 3 / abs(single.scale[0])
        qtbot.wait(100)
        region = visible_region(viewer, many)
        assert region == visible_region(viewer, single)
        low, high = single.corner_pixels
        shown = np.array(region)
        assert np.abs(shown[:, 0] - low).max() <= 1
        assert np.abs(shown[:, 1] - 1 - high).max() <= 1
        viewer.layers.clear()


@pytest.mark.parametrize("ndisplay", [2, 3])
def test_stacks_give_the_current_plane(qapp, ndisplay):
    from napari.components import ViewerModel

    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((2, 5, 60, 70), np.uint8), scale=(1, 2, 1, 1))
    viewer.dims.set_current_step(0, 1)
    viewer.dims.set_current_step(1, 3)
    viewer.dims.ndisplay = ndisplay
    region = visible_region(viewer, layer)
    assert region[0] == (1, 2)
    assert region[1] == ((3, 4) if ndisplay == 2 else (0, 5))
    if ndisplay == 3:
        assert region[2:] == ((0, 60), (0, 70))


def test_out_of_sight_is_empty(qapp):
    from napari.components import ViewerModel

    viewer = ViewerModel()
    layer = viewer.add_image(np.zeros((60, 70), np.uint8))
    viewer.scene.camera.center = (1e5, 1e5)
    assert all(first == last for first, last in visible_region(viewer, layer))
