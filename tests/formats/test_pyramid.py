"""Coarser levels of a pyramid, against NumPy's means."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from helpers.io_images import noise
from napari_swin2sr.formats.pyramid import BlockMeans, block_means, level_shapes


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("shape", [(8, 10), (7, 9), (1, 1), (3, 5, 6), (1, 9)])
def test_means_of_two_by_two(dtype, shape):
    pixels = noise(shape, dtype)
    axes = "ZYX"[-len(shape) :]
    padded = np.pad(
        pixels.astype(float),
        [(0, 0)] * (len(shape) - 2) + [(0, n % 2) for n in shape[-2:]],
        constant_values=np.nan,
    )
    *head, h, w = padded.shape
    wanted = np.nanmean(padded.reshape(*head, h // 2, 2, w // 2, 2), axis=(-3, -1))
    found = block_means(pixels, axes)
    assert found.dtype == dtype
    if pixels.dtype.kind in "iu":
        np.testing.assert_array_equal(found, np.rint(wanted))
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_any_order_of_axes():
    pixels = noise((8, 3, 10), "uint8")
    moved = block_means(pixels.transpose(0, 2, 1), "YXS").transpose(0, 2, 1)
    np.testing.assert_array_equal(block_means(pixels, "YCX"), moved)


def test_missing_pixels_do_not_count():
    pixels = np.array([[1.0, np.nan, np.nan, np.nan], [3.0, np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(block_means(pixels, "YX"), [[2.0, np.nan]])
    marked = np.array([[10, 7, 7, 7], [20, 7, 7, 7]], np.uint8)
    np.testing.assert_array_equal(block_means(marked, "YX", nodata=7), [[15, 7]])
    mixed = np.array([[-9.0, np.nan], [-9.0, 5.0]])
    np.testing.assert_array_equal(block_means(mixed, "YX", nodata=-9.0), [[5.0]])


def test_true_and_false_are_voted():
    pixels = np.array([[1, 0, 0, 0], [1, 0, 1, 0]], bool)
    np.testing.assert_array_equal(block_means(pixels, "YX"), [[True, False]])


def test_levels_end_at_about_a_thousand():
    shapes = level_shapes((3, 10_000, 2_001), "CYX")
    assert shapes[0] == (3, 10_000, 2_001)
    assert shapes[1] == (3, 5_000, 1_001)
    assert max(shapes[-1]) <= 1024 < max(shapes[-2])
    assert level_shapes((1024, 1024), "YX") == [(1024, 1024)]


@pytest.mark.parametrize("block", [(1, 8, 8), (1, 6, 16), (2, 100, 100)])
def test_blocks_put_together_are_the_whole(block):
    pixels = noise((2, 37, 51))
    whole = block_means(pixels, "CYX")
    level = pickle.loads(pickle.dumps(BlockMeans(pixels, "CYX", whole.shape, block)))
    out = np.zeros_like(whole)
    for index in np.ndindex(level.grid):
        out[level.slices_at(index)] = level.block_at(index)
    np.testing.assert_array_equal(out, whole)
