"""Bicubic interpolation against Pillow's, block means against scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage.measure import block_reduce

from napari_swin2sr.image.resample import REACH, block_means, upscale_plane


@pytest.mark.parametrize("upscale", [1, 2, 3, 4, 8])
def test_inside_it_is_that_of_pillow(upscale):
    plane = np.random.default_rng(0).random((20, 27)).astype(np.float32)
    picture = Image.fromarray(plane).resize(
        (27 * upscale, 20 * upscale), Image.Resampling.BICUBIC
    )
    margin = REACH * upscale
    want = np.asarray(picture)[margin:-margin, margin:-margin]
    np.testing.assert_allclose(upscale_plane(plane, upscale), want, atol=2e-6)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_constants_stay_constant(upscale):
    got = upscale_plane(np.full((9, 8), 255, np.uint8), upscale)
    assert got.shape == (5 * upscale, 4 * upscale)
    np.testing.assert_array_equal(np.rint(got), 255)
    np.testing.assert_allclose(got, 255, rtol=1e-14)


def test_a_part_gives_the_same_bits():
    plane = np.random.default_rng(1).random((30, 30))
    whole = upscale_plane(plane, 2)
    part = upscale_plane(plane[7:20, 3:17], 2)
    np.testing.assert_array_equal(part, whole[14:32, 6:26])


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize(("shape", "axes"), [((13, 18), (0, 1)), ((3, 12, 7), (1, 2))])
def test_block_means_are_those_of_scikit_image(shape, axes, factor, dtype):
    rng = np.random.default_rng(2)
    pixels = (rng.random(shape) * 200).astype(dtype)
    blocks = tuple(factor if axis in axes else 1 for axis in range(len(shape)))
    want = block_reduce(pixels.astype(float), blocks, np.nanmean, cval=np.nan)
    got = block_means(pixels, axes, factor)
    assert got.dtype == pixels.dtype
    if got.dtype.kind in "iu":
        np.testing.assert_array_equal(got, np.rint(want))
    else:
        np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(block_means(pixels, axes, factor, dtype=float), want)


@pytest.mark.parametrize("nodata", [None, -5.0])
def test_missing_pixels_do_not_count_in_block_means(nodata):
    rng = np.random.default_rng(3)
    pixels = rng.random((9, 14))
    missing = rng.random((9, 14)) < 0.5
    missing[2:4, 6:8] = True
    pixels[missing] = np.nan if nodata is None else nodata
    seen = np.where(missing, np.nan, pixels)
    blocks = np.pad(seen, ((0, 1), (0, 0)), constant_values=np.nan)
    blocks = blocks.reshape(5, 2, 7, 2)
    there = np.isfinite(blocks).any((1, 3))
    assert not there[1, 3]
    got = block_means(pixels, (0, 1), nodata=nodata)
    np.testing.assert_allclose(
        got[there], np.nanmean(blocks.swapaxes(1, 2)[there], (1, 2))
    )
    np.testing.assert_array_equal(got[~there], np.nan if nodata is None else nodata)


def test_block_means_of_truth_are_votes():
    pixels = np.array([[True, False, False, False], [True, False, True, False]])
    np.testing.assert_array_equal(block_means(pixels, (0, 1)), [[True, False]])
