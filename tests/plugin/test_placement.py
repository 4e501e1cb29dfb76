"""Super-resolved layers lie exactly on their original, whatever its transform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari")
from napari.components import ViewerModel
from napari.layers import Image

from napari_swin2sr.plugin.placement import (
    METADATA_KEY,
    free_name,
    layer_keywords,
    placement,
)

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")

AFFINE = np.array([[1.1, 0.2, 5.0], [-0.3, 0.9, -7.0], [0, 0, 1]])

CASES: dict[str, Any] = {
    "plain": ((5, 7), {}, (0, 1)),
    "scaled": ((5, 7), {"scale": (0.5, 0.5), "translate": (3, 4)}, (0, 1)),
    "anisotropic": ((5, 7), {"scale": (0.2, 3.0)}, (0, 1)),
    "flipped": ((5, 7), {"scale": (-1.0, 2.0)}, (0, 1)),
    "rotated": (
        (5, 7),
        {"rotate": 33, "scale": (0.3, 0.7), "translate": (9, -1)},
        (0, 1),
    ),
    "sheared": ((5, 7), {"shear": [0.4], "scale": (2, 1.5)}, (0, 1)),
    "affine": ((5, 7), {"affine": AFFINE, "scale": (0.4, 0.6)}, (0, 1)),
    "everything": (
        (5, 7),
        {
            "affine": AFFINE,
            "scale": (0.4, 0.6),
            "rotate": 20,
            "shear": [0.3],
            "translate": (2, 8),
        },
        (0, 1),
    ),
    "rgb": (
        (5, 7, 3),
        {"rgb": True, "rotate": 10, "scale": (0.3, 0.2)},
        (0, 1),
    ),
    "TCZYX": (
        (2, 3, 4, 5, 7),
        {"scale": (1, 1, 2.5, 0.3, 0.2), "translate": (0, 0, 7, 1, 2)},
        (3, 4),
    ),
    "volume, rotated in 3-D": (
        (4, 5, 7),
        {"rotate": (10, 20, 30), "scale": (2.5, 0.3, 0.2)},
        (1, 2),
    ),
    "Y X not last": ((5, 7, 6), {"scale": (0.3, 0.2, 2.0), "rgb": False}, (0, 1)),
}


@pytest.fixture(params=list(CASES), ids=list(CASES))
def case(request):
    shape, keywords, axes = CASES[request.param]
    return Image(np.zeros(shape, np.uint8), **keywords), axes


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_every_old_pixel_lies_on_the_center_of_its_new_ones(case, upscale):
    layer, axes = case
    shape = list(layer.data.shape)
    for axis in axes:
        shape[axis] *= upscale
    new = Image(
        np.zeros(shape, np.uint8), rgb=layer.rgb, **placement(layer, upscale, axes)
    )
    rng = np.random.default_rng(0)
    for old in rng.uniform(-3, 9, (20, layer.ndim)):
        there = old.copy()
        there[list(axes)] = (old[list(axes)] + 0.5) * upscale - 0.5
        np.testing.assert_allclose(
            new.data_to_world(there), layer.data_to_world(old), atol=1e-9
        )


def test_the_outer_corners_of_both_grids_are_the_same(case):
    layer, axes = case
    upscale = 2
    shape = list(layer.data.shape)
    for axis in axes:
        shape[axis] *= upscale
    new = Image(
        np.zeros(shape, np.uint8), rgb=layer.rgb, **placement(layer, upscale, axes)
    )
    viewer = ViewerModel()
    viewer.add_layer(layer)
    viewer.add_layer(new)
    np.testing.assert_allclose(
        layer._extent_augmented.world, new._extent_augmented.world, atol=1e-9
    )


def test_a_part_of_the_image_lies_where_it_was_cut(case):
    layer, axes = case
    start = dict.fromkeys(axes, 2)
    part = Image(
        np.zeros([4 if axis in axes else n for axis, n in enumerate(layer.data.shape)]),
        rgb=layer.rgb,
        **placement(layer, 2, axes, start),
    )
    old, new = np.zeros(layer.ndim), np.zeros(layer.ndim)
    old[list(axes)] = 3
    new[list(axes)] = (3 - 2 + 0.5) * 2 - 0.5
    np.testing.assert_allclose(
        part.data_to_world(new), layer.data_to_world(old), atol=1e-9
    )


def test_units_axis_labels_looks_and_metadata_are_carried():
    layer = Image(
        np.zeros((5, 7), np.uint16),
        scale=(0.5, 0.25),
        units=("um", "um"),
        axis_labels=("y", "x"),
        contrast_limits=(3, 99),
        colormap="magma",
        gamma=0.7,
        blending="additive",
        opacity=0.6,
        metadata={"mine": 1},
    )
    keywords = layer_keywords(
        layer, 2, (0, 1), name="new", provenance={"model": "default"}
    )
    new = Image(np.zeros((10, 14), np.uint16), **keywords)
    assert new.units == layer.units
    assert new.axis_labels == ("y", "x")
    assert new.contrast_limits == [3, 99]
    assert new.colormap.name == "magma"
    assert (new.gamma, new.blending, new.opacity) == (0.7, "additive", 0.6)
    assert new.metadata == {"mine": 1, METADATA_KEY: {"model": "default"}}
    assert "mine" in layer.metadata
    assert METADATA_KEY not in layer.metadata


def test_data_coordinates_of_the_old_grid_are_not_carried():
    layer = Image(
        np.zeros((5, 6, 7), np.uint8),
        experimental_clipping_planes=[{"position": (1, 1, 1), "normal": (1, 0, 0)}],
    )
    keywords = layer_keywords(layer, 2, (1, 2), name="new", provenance={})
    assert not {"plane", "experimental_clipping_planes", "multiscale"} & set(keywords)


def test_rgb_has_no_colormap_and_says_that_it_is_rgb():
    layer = Image(np.zeros((5, 7, 3), np.uint8), rgb=True)
    keywords = layer_keywords(layer, 2, (0, 1), name="new", provenance={})
    assert keywords["rgb"] is True
    assert "contrast_limits" not in keywords


def test_names_are_never_taken_twice():
    assert free_name([], "a") == "a"
    assert free_name(["a"], "a") == "a [2]"
    assert free_name(["a", "a [2]"], "a") == "a [3]"
