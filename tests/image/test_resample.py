"""Bicubic interpolation against Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from napari_swin2sr.image.resample import REACH, upscale_plane


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
