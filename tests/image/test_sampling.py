"""The sample: bounded, spread out, the same for the same shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.sampling import (
    SAMPLE_BLOCKS,
    SAMPLE_SIDE,
    Extrema,
    median_bands,
    sample_places,
)


@settings(deadline=None, max_examples=60)
@given(
    axes=st.sampled_from(["YX", "CYX", "YXC", "TCZYX", "ZYXS", "XZCY"]),
    big=st.integers(0, 40_000),
    wide=st.integers(0, 40_000),
    few=st.integers(1, 9),
    many=st.integers(1, 300),
)
def test_places_are_bounded_distinct_and_inside(axes, big, wide, few, many):
    sizes = {"T": few, "C": few, "Z": many, "Y": big, "X": wide, "S": 3}
    layout = resolve_axes([sizes[a] for a in axes], axes)
    for channel in range(layout.n_channels):
        places, complete = sample_places(layout, channel)
        assert len(places) <= 4 * SAMPLE_BLOCKS
        assert len(set(places)) == len(places)
        for stack, box in places:
            assert layout.channel_of(stack) == channel
            assert all(
                0 <= k < n for k, n in zip(stack, layout.stack_shape, strict=True)
            )
            assert 0 <= box.y0 < box.y1 <= min(big, box.y0 + SAMPLE_SIDE)
            assert 0 <= box.x0 < box.x1 <= min(wide, box.x0 + SAMPLE_SIDE)
            assert box.y0 % SAMPLE_SIDE == 0 == box.x0 % SAMPLE_SIDE
        pixels = sum(box.height * box.width for _, box in places)
        channel_pixels = layout.n_planes // layout.n_channels * big * wide
        assert complete == (pixels == channel_pixels)
        if not complete:
            assert len(places) >= 4


def test_large_images_are_sampled_everywhere():
    layout = resolve_axes((100, 100_000, 100_000), "ZYX")
    places, complete = sample_places(layout, 0)
    assert not complete
    assert len(places) == SAMPLE_BLOCKS
    planes = sorted(stack[0] for stack, _ in places)
    assert max(np.diff(planes)) <= 2 * 100 / SAMPLE_BLOCKS
    for values in ([b.y0 for _, b in places], [b.x0 for _, b in places]):
        hits, _ = np.histogram(values, 6, (0, 100_000))
        assert hits.min() >= 1


@pytest.mark.parametrize("channels", [1, 4, 32, 200])
def test_many_channels_share_the_budget(channels):
    layout = resolve_axes((channels, 50_000, 50_000), "CYX")
    n = len(sample_places(layout, channels - 1)[0])
    assert n == max(4, min(16, 64 // channels))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 99),
    st.integers(1, 30),
)
def test_median_is_that_of_scipy(shape, seed, rows):
    planes = np.random.default_rng(seed).integers(0, 9, shape).astype(np.float32)
    want = ndimage.median_filter(planes, (1, 3, 3), mode="nearest")
    got = np.concatenate(list(median_bands(planes, rows)), axis=1)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("place", [(0, 0), (0, 7), (9, 9), (5, 5), (9, 3)])
def test_one_hot_pixel_does_not_count(place):
    planes = np.random.default_rng(0).normal(100, 3, (1, 10, 10))
    clean = Extrema.from_pixels(planes, None)
    planes[0][place] = 65535
    seen = Extrema.from_pixels(planes, None)
    assert seen.high == 65535
    assert seen.robust_high <= clean.high


def test_missing_pixels_do_not_count():
    planes = np.full((1, 9, 9), 7.0)
    planes[0, 2:7, 3:9] = 40
    missing = np.zeros(planes.shape, bool)
    planes[0, :5, :5], missing[0, :5, :5] = np.nan, True
    assert Extrema.from_pixels(planes, missing) == Extrema(7, 40, 7, 40)
    assert Extrema.from_pixels(planes, np.ones_like(missing)) is None


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f2", "f4", "f8", "g"])
def test_extrema_are_exact_in_every_type(dtype):
    planes = np.array([[[3, 100], [100, 100]]], dtype)
    assert Extrema.from_pixels(planes, None) == Extrema(3, 100, 100, 100)
