"""Missing pixels: a local fill, and what comes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_swin2sr.image import nodata as missing


def holes_and_values(seed, shape, share):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < share, rng.random(shape).astype(np.float32)


def slow_fill(values, holes):
    """The rule as a sentence: mean of 3 x 3, else of 17 x 17, else 0."""
    out = values.astype(np.float64)
    for y, x in zip(*holes.nonzero(), strict=True):
        out[y, x] = 0
        for radius in (1, 8):
            window = (
                slice(max(0, y - radius), y + radius + 1),
                slice(max(0, x - radius), x + radius + 1),
            )
            there = values[window][~holes[window]]
            if there.size:
                out[y, x] = there.astype(np.float64).mean()
                break
    return out


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.sampled_from([0.02, 0.5, 0.97, 0.999, 1]))
def test_fill_is_the_local_mean(seed, share):
    holes, values = holes_and_values(seed, (40, 33), share)
    want = slow_fill(values, holes)
    got = values[None].copy()
    got[0][holes] = np.nan
    missing.fill(got, holes[None])
    np.testing.assert_allclose(got[0], want, atol=1e-6)
    np.testing.assert_array_equal(got[0][~holes], values[~holes])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 999),
    st.sampled_from([0.02, 0.7, 0.99]),
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_a_part_with_its_margin_is_filled_with_the_same_bits(seed, share, corner):
    holes, values = holes_and_values(seed, (60, 60), share)
    whole = values[None].copy()
    missing.fill(whole, holes[None])
    y, x = corner
    part = values[None, y : y + 30, x : x + 30].copy()
    missing.fill(part, holes[None, y : y + 30, x : x + 30])
    inner = slice(missing.REACH, -missing.REACH)
    np.testing.assert_array_equal(
        part[0, inner, inner], whole[0, y : y + 30, x : x + 30][inner, inner]
    )


def test_each_sample_is_filled_on_its_own():
    values = np.zeros((3, 5, 5), np.float32)
    values[1] = 7
    holes = np.zeros(values.shape, bool)
    holes[1, 2, 2] = True
    values[1, 2, 2] = np.inf
    missing.fill(values, holes)
    assert values[1, 2, 2] == 7
    assert not values[0].any()


def test_box_sum_is_that_of_scipy():
    plane = np.random.default_rng(3).random((12, 50))
    for radius in (1, 8):
        want = ndimage.correlate(
            plane, np.ones((2 * radius + 1,) * 2), mode="constant", cval=0
        )
        np.testing.assert_allclose(missing._box_sum(plane, radius), want, rtol=1e-12)


def back(original, holes, dtype, nodata=None):
    original = np.ma.asanyarray(original)[None, None]
    if not np.ma.isMaskedArray(original) or original.mask is np.ma.nomask:
        original = original.data
    result = np.full((1, 2, original.shape[2] * 2), 50, dtype)
    where = np.array(holes, bool)[None, None]
    missing.restore(result, original, where, 2, nodata)
    np.testing.assert_array_equal(result[0, 0], result[0, 1])
    np.testing.assert_array_equal(result[0, 0, ::2], result[0, 0, 1::2])
    return result[0, 0, ::2].tolist()


@pytest.mark.parametrize(
    ("original", "dtype", "nodata", "want"),
    [
        ([np.inf, -np.inf, 1e300], "f8", None, [np.inf, -np.inf, 1e300]),
        ([np.inf, -np.inf, 1e300], "f4", None, [np.inf, -np.inf, np.finfo("f4").max]),
        ([np.inf, -np.inf, -1e300], "u1", None, [255, 0, 0]),
        ([np.inf, np.nan, -9999], "i2", -9999, [32767, -9999, -9999]),
        ([np.nan, np.nan, np.nan], "u2", None, [0, 0, 0]),
        (np.array([2**64 - 1, 5, 0], np.uint64), "i8", None, [2**63 - 1, 5, 0]),
        (np.array([True, False, True]), "?", None, [True, False, True]),
    ],
)
def test_what_comes_back(original, dtype, nodata, want):
    assert back(original, [True] * 3, dtype, nodata) == want


def test_nan_comes_back():
    assert np.isnan(back([np.nan, 3.0], [True, False], "f4")).tolist() == [True, False]


def test_masked_pixels_become_nodata_nan_or_keep_their_value():
    masked = np.ma.masked_array([7.0, 8.0], [True, False])
    assert back(masked, [True, False], "f4", -1) == [-1, 50]
    assert np.isnan(back(masked, [True, False], "f4")).tolist() == [True, False]
    assert back(masked, [True, False], "u1", 9) == [9, 50]
    assert back(masked, [True, False], "u1") == [7, 50]


@pytest.mark.parametrize(
    ("dtype", "nodata", "beside"),
    [("u1", 50, 51), ("i2", 50, 51), ("f4", 50, np.nextafter(np.float32(50), 0))],
)
def test_a_result_that_equals_nodata_moves_aside(dtype, nodata, beside):
    assert back([1.0, nodata], [False, True], dtype, nodata) == [beside, nodata]


@pytest.mark.parametrize(
    ("dtype", "mark", "beside"),
    [("u1", 255, 254), ("u1", 0, 1), ("f8", 0.0, 5e-324), ("?", True, False)],
)
def test_beside(dtype, mark, beside):
    assert missing._beside(np.dtype(dtype).type(mark)) == beside
