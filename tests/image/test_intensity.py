"""Value ranges of every dtype, their sample, and the output cast."""

from __future__ import annotations

import json
import time
import warnings

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_swin2sr.errors import InferenceError, InputError, OptionError
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import (
    DATA_TOP,
    ValueRange,
    as_dtype,
    cast,
    fit_ranges,
    missing_pixels,
)
from napari_swin2sr.image.sampling import sample_places

calm = settings(deadline=None, max_examples=100)
numbers = st.floats(allow_nan=False, allow_infinity=False)


def fit(array, spec=None, axes=None, rgb=None, **options):
    return fit_ranges(array, resolve_axes(array.shape, axes, rgb), spec, **options)


# -- the map --------------------------------------------------------------------------


@calm
@given(numbers, numbers, st.floats(0.01, 2))
def test_ends_map_to_zero_and_top_and_back(a, b, top):
    low, high = min(a, b), max(a, b)
    values = ValueRange(low, high, top)
    ends = np.array([low, high])
    seen = values.to_model(ends)
    assert seen.dtype == np.float32
    if values.is_constant:
        assert abs(seen).max() <= np.finfo(np.float64).tiny
    else:
        np.testing.assert_allclose(seen, [0, top], rtol=1e-6)
    back = values.from_model(seen.astype(np.float64))
    assert back.dtype == np.float64
    # In halves, as the width itself may be beyond float64. A constant range has lost
    # its width, which is less than the smallest normal number.
    width = max(high / 2 - low / 2, np.finfo(np.float64).tiny)
    share = 1 if values.is_constant else 1e-6
    assert (abs(back / 2 - ends / 2) <= share * width + 1e-15 * abs(ends)).all()


@pytest.mark.parametrize(
    "dtype",
    [
        "?",
        *[
            "u1",
            "i1",
            "u2",
            "i2",
            "u4",
            "i4",
            "u8",
            "i8",
            "f2",
            "f4",
            "f8",
            "g",
            ">u2",
            ">f4",
            "<i8",
        ],
    ],
)
def test_every_dtype_gives_the_float64_reference(dtype):
    values = np.array([[0, 1], [1, 0]]).astype(dtype)
    if np.dtype(dtype).kind != "b":
        values *= 100
    before = values.copy()
    got = ValueRange(-20.0, 130.0, 0.7).to_model(values)
    want = (values.astype(np.float64) + 20) / 150 * 0.7
    np.testing.assert_allclose(got, want, rtol=1e-7)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(values, before)


def test_uint8_is_divided_by_255_as_in_the_reference():
    values = np.arange(256, dtype=np.uint8)
    (mapped,) = fit(values.reshape(16, 16))
    np.testing.assert_allclose(
        mapped.to_model(values), values.astype(np.float32) / np.float32(255), rtol=6e-8
    )


def test_values_outside_are_not_clipped():
    np.testing.assert_allclose(
        ValueRange(100, 200, 0.7).to_model(np.array([0, 65535], np.uint16)),
        [-0.7, 458.045],
    )


def test_far_from_zero_differences_survive():
    values = np.array([2**24, 2**24 + 1, 2**24 + 3], np.uint32)
    got = ValueRange(2**24, 2**24 + 3).to_model(values)
    np.testing.assert_allclose(got, [0, 1 / 3, 1], rtol=1e-7)


def test_huge_and_tiny_ranges():
    huge = ValueRange(-1.7e308, 1.7e308)
    np.testing.assert_allclose(
        huge.to_model(np.array([-1.7e308, 0, 1.7e308])), [0, 0.5, 1]
    )
    np.testing.assert_allclose(
        huge.from_model(np.array([0, 0.5, 1], np.float32)), [-1.7e308, 0, 1.7e308]
    )
    assert np.isinf(ValueRange(0, 1).to_model(np.array([1e300]))).all()
    denormal = ValueRange(0.0, 1e-310)
    assert denormal.is_constant
    assert np.isfinite(denormal.to_model(np.array([0.0, 1e-310]))).all()
    single = ValueRange(0.0, float(np.float32(1e-40)))  # denormal in float32 only
    np.testing.assert_allclose(
        single.to_model(np.array([0, 1e-40], np.float32)), [0, 1]
    )


@pytest.mark.parametrize(
    "numbers", [(1, 0), (0, np.inf), (np.nan, 1), (0, 1, 0), (0, 1, -1), (0, 1, np.nan)]
)
def test_impossible_ranges_are_refused(numbers):
    with pytest.raises(OptionError, match="is impossible; low <= high"):
        ValueRange(*numbers)


@calm
@given(numbers, numbers, st.floats(0.01, 2))
def test_json_round_trip_is_exact(a, b, top):
    values = ValueRange(min(a, b), max(a, b), top)
    assert ValueRange(**json.loads(json.dumps(values.to_json()))) == values


# -- choosing -------------------------------------------------------------------------


class Unreadable:
    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __getitem__(self, index):
        raise AssertionError("pixels were read")


@pytest.mark.parametrize(
    ("dtype", "spec", "limits"),
    [
        ("u1", None, (0, 255)),
        ("?", None, (0, 1)),
        ("u1", "dtype", (0, 255)),
        ("i1", "dtype", (-128, 127)),
        ("u2", "dtype", (0, 65535)),
        (">u2", "dtype", (0, 65535)),
        ("f4", "dtype", (0, 1)),
        ("u2", (0, 4095), (0, 4095)),
        ("f4", [-1.5, 2], (-1.5, 2)),
        ("u1", np.array([10, 20]), (10, 20)),
    ],
)
def test_dtype_and_explicit_ranges_read_nothing(dtype, spec, limits):
    source = Unreadable((3, 100_000, 100_000), dtype)
    low, high = limits
    assert fit(source, spec, "CYX") == (ValueRange(low, high, 1.0),) * 3


def test_pairs_per_channel():
    source = Unreadable((9, 9, 2), "u2")
    assert fit(source, [(0, 1), (2, 9)], "YXC") == (ValueRange(0, 1), ValueRange(2, 9))


@pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "u4", "i8", "f2", "f4", "f8", "g"])
def test_data_is_the_default_for_the_rest(dtype):
    array = np.tile(np.arange(8, 40), (32, 1)).astype(dtype)
    assert fit(array) == (ValueRange(8, 39, DATA_TOP),)


def test_big_endian_equals_little_endian():
    array = np.random.default_rng(0).integers(0, 4000, (50, 60)).astype("<u2")
    assert fit(array.astype(">u2")) == fit(array)


def test_each_channel_has_its_own_range_and_rgb_share_one():
    array = np.ones((2, 16, 16, 3), np.uint16)
    array[0, 4:9, 4:9] = 50
    array[1, 4:9, 4:9, 1] = 900
    assert [r.high for r in fit(array, axes="CYXS")] == [50, 900]
    assert fit(array, axes="ZYXS") == (ValueRange(1, 900, DATA_TOP),)
    assert [r.high for r in fit(array, axes="ZYXC")] == [50, 900, 50]


def test_alpha_does_not_count():
    array = np.ones((16, 16, 4), np.uint16)
    array[4:9, 4:9, 2], array[..., 3] = 80, 65535
    assert fit(array, rgb=True) == (ValueRange(1, 80, DATA_TOP),)


def test_hot_pixels_nan_inf_nodata_and_masked_pixels_do_not_count():
    array = np.full((64, 64), 100.0, np.float32)
    array[10:20, 10:20] = 300
    want = (ValueRange(100, 300, DATA_TOP),)
    assert fit(array) == want
    array[40, 40], array[50, 3] = 65535, -9000
    assert fit(array) == want
    array[30, :], array[31, :], array[32, :] = np.nan, np.inf, -np.inf
    assert fit(array) == want
    array[:9] = -9999
    assert fit(array, nodata=-9999) == want
    masked = np.ma.masked_array(array, np.zeros(array.shape, bool))
    masked.data[60:] = 1e6
    masked.mask[60:] = True
    assert fit(masked, nodata=-9999) == want
    assert fit(da.from_array(masked, chunks=7), nodata=-9999) == want


def test_isolated_pixels_alone_still_make_a_range():
    array = np.zeros((30, 30), np.uint16)
    array[10, 10] = 500
    assert fit(array) == (ValueRange(0, 500, DATA_TOP),)


def test_constant_and_missing_channels():
    assert fit(np.full((20, 20), 7, np.uint16)) == (ValueRange(7, 7, DATA_TOP),)
    assert fit(np.full((20, 20), 7, np.uint16))[0].is_constant
    assert fit(np.full((20, 20), np.nan)) == (ValueRange(0, 1),)
    assert fit(np.zeros((20, 20), np.uint16), nodata=0) == (ValueRange(0, 65535),)
    assert fit(np.zeros((0, 20), np.uint16)) == (ValueRange(0, 65535),)
    assert fit(np.zeros((0, 5, 5), np.uint16), axes="CYX") == ()


def test_a_constant_sample_is_no_constant_image():
    big = da.zeros((60_000, 60_000), dtype=np.uint16, chunks=4096)
    with pytest.warns(
        UserWarning, match=r"sampled pixels of channel 0 are 0.*low, high"
    ):
        assert fit(big) == (ValueRange(0, 65535, DATA_TOP),)
    with pytest.warns(UserWarning, match="sampled pixels of channel 0 are 5"):
        assert fit(big.astype("f4") + 5) == (ValueRange(5, 10, DATA_TOP),)


def test_extreme_floats():
    tall = np.repeat(np.linspace(-1e300, 1e300, 30), 30).reshape(30, 30)
    (values,) = fit(tall)
    seen = values.to_model(tall)
    assert seen.min() == 0
    assert seen.max() == pytest.approx(DATA_TOP)
    wide = np.repeat(np.array([1, 2, 3], np.longdouble) * 10, 100).reshape(30, 10)
    assert fit(wide) == (ValueRange(10, 30, DATA_TOP),)
    wide[:5] = np.longdouble("1e400")
    assert fit(wide) == (ValueRange(10, 30, DATA_TOP),)


def test_integers_beyond_float64_are_warned_of():
    array = np.full((9, 9), 2**63, np.uint64)
    array[3:6, 3:6] = 2**63 + 2**40
    with pytest.warns(UserWarning, match=r"uint64 pixels .* exact only up to 2\*\*53"):
        fit(array)
    with pytest.warns(UserWarning, match=r"2\*\*53"):
        fit(array, "dtype")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(array // 2**40)


@pytest.mark.parametrize(
    ("spec", "axes", "match"),
    [
        ("percentile", "CYX", r"value_range='percentile' is not \(low, high\)"),
        (5, "CYX", "value_range=5 is not"),
        ((1, 2, 3), "CYX", "is not"),
        ({"low": 1}, "CYX", "is not"),
        (((1, 2), (3,)), "CYX", "is not"),
        (((1, 2), (3, 4)), "CYX", "2 pairs, but the image has 3 channels"),
        (((1, 2), (3, 4), (5, 6)), "ZYX", "3 pairs, but the image has 1 channels"),
        ((5, 5), "CYX", r"\(5, 5\) must be two finite numbers"),
        ((5, 1), "CYX", r"\(5, 1\) must be two finite numbers, the lower one first"),
        ((0, np.nan), "CYX", r"\(0, nan\) must be"),
        ((-np.inf, 0), "CYX", r"\(-inf, 0\) must be"),
    ],
)
def test_wrong_specs_are_refused(spec, axes, match):
    with pytest.raises(OptionError, match=match):
        fit(np.zeros((3, 8, 8), np.uint16), spec, axes)


def test_a_layout_of_another_array_is_refused():
    with pytest.raises(InputError, match=r"shape \(8, 8\), its axes \(8, 9\)"):
        fit_ranges(np.zeros((8, 8)), resolve_axes((8, 9)), None)


@settings(deadline=None, max_examples=5)
@given(st.integers(90, 3000), st.integers(90, 3000))
def test_the_range_does_not_depend_on_the_chunks(rows, columns):
    array = np.random.default_rng(7).integers(0, 5000, (3, 4, 2100, 700), np.uint16)
    want = fit(array)
    assert fit(da.from_array(array, chunks=(1, 3, rows, columns))) == want
    assert len(sample_places(resolve_axes(array.shape), 0)[0]) == 16


class Counting:
    """A huge image that is computed where it is read, and counts what is read."""

    def __init__(self, shape):
        self.shape, self.dtype = shape, np.dtype(np.uint16)
        self.pixels = self.reads = 0

    def __getitem__(self, index):
        grids = np.ogrid[index]
        block = (sum(grids) * 37 % 4001).astype(np.uint16)
        self.pixels += block.size
        self.reads += 1
        return block


def test_a_huge_image_is_sampled_in_bounds_and_time():
    source = Counting((50, 100_000, 100_000))
    start = time.perf_counter()
    (values,) = fit(source)
    assert time.perf_counter() - start < 5  # well under 1 s on a quiet machine
    assert source.reads == 16
    assert source.pixels == 16 * 512 * 512
    assert values == fit(Counting(source.shape))[0]
    assert values.high > 3900


# -- missing pixels -------------------------------------------------------------------


def test_missing_pixels():
    assert missing_pixels(np.zeros((3, 3), np.uint8), None) is None
    assert missing_pixels(np.zeros((3, 3)), 5) is None
    got = missing_pixels(np.array([1, np.nan, np.inf, -np.inf, 7]), 7)
    np.testing.assert_array_equal(got, [False, True, True, True, True])
    masked = np.ma.masked_array([1, 2, 3], [False, True, False])
    np.testing.assert_array_equal(missing_pixels(masked, 3), [False, True, True])
    assert missing_pixels(np.ma.masked_array([1, 2, 3]), None) is None


@pytest.mark.parametrize(
    ("dtype", "nodata", "hits"),
    [
        ("u1", 255, [True]),
        ("u1", -9999, None),
        ("u1", 255.5, None),
        ("u1", np.nan, None),
        ("i2", -9999, [True]),
        ("f4", -3.4028234663852886e38, [True]),
        ("f4", -3.4e38, [True]),
        ("f2", 1e10, None),
        ("u8", 2**64 - 1, [True]),
        ("?", 1, [True]),
        ("?", 2, None),
    ],
)
def test_nodata_is_compared_in_the_pixels_type(dtype, nodata, hits):
    value = as_dtype(nodata, np.dtype(dtype))
    array = np.array([3 if value is None or not np.isfinite(value) else value], dtype)
    got = missing_pixels(array, nodata)
    assert (None if got is None else got.tolist()) == hits


# -- the cast -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "want"),
    [
        ([-5, 0.5, 1.5, 2.5, 254.5, 255.5, 300.7], "u1", [0, 0, 2, 2, 254, 255, 255]),
        ([-200, -0.5, 127.4, 1e30], "i1", [-128, 0, 127, 127]),
        ([-1, 65534.5, 65535.5, 1e9], "u2", [0, 65534, 65535, 65535]),
        ([-1e30, 1e30], "i4", [-(2**31), 2**31 - 1]),
        ([-0.1, 0.5, 0.51, 7], "?", [False, False, True, True]),
        ([1e5, -1e5, 0.1], "f2", [65504, -65504, np.float16(0.1)]),
        ([1e300, -1e300], "f4", [3.4028234663852886e38, -3.4028234663852886e38]),
        ([1e300, -0.1], "f8", [1e300, -0.1]),
    ],
)
def test_cast(values, dtype, want):
    values = np.array(values, np.float64)
    before = values.copy()
    got = cast(values, dtype)
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got, np.array(want, dtype))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_cast_to_64_bits_does_not_wrap_around(dtype):
    got = cast(np.array([-1e30, 1e30, 2.0**62]), dtype)
    info = np.iinfo(dtype)
    assert got[0] == info.min
    assert info.max - 2048 <= int(got[1]) <= info.max
    assert got[2] == 2**62


@calm
@given(
    hnp.arrays(np.float64, st.integers(1, 20), elements=numbers),
    hnp.integer_dtypes(endianness="=") | hnp.unsigned_integer_dtypes(endianness="="),
)
def test_cast_is_exact_in_python_integers(values, dtype):
    info = np.iinfo(dtype)
    slack = 2048 if dtype.itemsize == 8 else 0
    for value, got in zip(values, cast(values, dtype), strict=True):
        want = min(max(round(float(value)), int(info.min)), int(info.max))
        assert abs(int(got) - want) <= slack * (want > 2**53)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "?"])
def test_a_result_that_is_not_finite_is_never_cast(bad, dtype):
    with pytest.raises(
        InferenceError, match=r"1 of 6 values .*\(2, 3\) are not finite"
    ):
        cast(np.array([[0, 1, 2], [3, bad, 5]], np.float32), dtype)


@pytest.mark.parametrize("dtype", [complex, object, "S2", "M8[s]"])
def test_cast_to_what_is_no_image_is_refused(dtype):
    with pytest.raises(OptionError, match="cannot hold an image"):
        cast(np.zeros(3), dtype)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8"]), st.integers(0, 999))
def test_there_and_back_changes_nothing(dtype, seed):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 100, (12, 13)).astype(dtype)
    (values,) = fit(array)
    back = cast(values.from_model(values.to_model(array)), dtype)
    if array.dtype.kind == "f":
        np.testing.assert_allclose(back, array, atol=2e-5)
    else:
        np.testing.assert_array_equal(back, array)


def test_more_channels_than_can_be_sampled_are_refused():
    source = np.broadcast_to(np.uint16(0), (2**28, 4, 4))
    layout = resolve_axes(source.shape, "CYX")
    for spec in (None, "data", "dtype", (0, 1)):
        with pytest.raises(InputError, match=r"268,435,456 channels.*another letter"):
            fit_ranges(source, layout, spec)


def test_colors_under_transparent_pixels_do_not_count():
    image = np.full((40, 40, 4), 60000, np.uint16)
    image[10:20, :, :3] = [300, 400, 500]
    image[..., 3] = 0
    image[10:20, :, 3] = 7
    (found,) = fit(image, axes="YXS")
    assert (found.low, found.high) == (300, 500)
    image[..., 3] = 1
    (found,) = fit(image, axes="YXS")
    assert (found.low, found.high) == (300, 60000)
