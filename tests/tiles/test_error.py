"""Error bars: from the same forward as the image, in its units, NaN where it is not."""

from __future__ import annotations

import pickle
import threading

import dask
import numpy as np
import pytest

from helpers.toy_network import neighbors, repeat
from napari_swin2sr.errors import Cancelled, InferenceError, OptionError
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange, fit_ranges
from napari_swin2sr.tiles.lazy import ErrorScale, LazyUpscaled
from napari_swin2sr.tiles.plan import plan_tiles


class Toy:
    """A network of 5 x 5 px reach, whose half-width is a quarter of the sums' size."""

    def __init__(self):
        self.forwards, self.lock = 0, threading.Lock()

    def __call__(self, tiles):
        with self.lock:
            self.forwards += 1
        return neighbors(tiles)

    def with_error(self, tiles):
        image = self(tiles)
        return image, np.abs(image) / 4

    def __getstate__(self):
        return {}

    def __setstate__(self, state):
        self.forwards, self.lock = 0, threading.Lock()


def make(source, axes=None, *, core=16, halo=8, spec=(0.0, 100.0), factor=2.0, **more):
    layout = resolve_axes(source.shape, axes)
    plan = plan_tiles(layout.plane_shape, core=core, halo=halo)
    ranges = fit_ranges(source, layout, spec, nodata=more.get("nodata"))
    more.setdefault("block", Toy())
    scale = None if factor is None else ErrorScale(factor)
    return LazyUpscaled(source, layout, plan, ranges, error_scale=scale, **more)


def numbers(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).integers(1, 100, shape).astype(dtype)


def sums(plane):
    """What `Toy` makes of a plane, in the plane's own units, by other means."""
    from scipy.ndimage import uniform_filter

    mean = uniform_filter(plane.astype(np.float64), 5, mode="constant")
    return (25 * mean).repeat(2, 0).repeat(2, 1)


def inside(array):
    return array[..., 8:-8, 8:-8]


def test_the_error_is_in_the_units_of_the_image():
    array = numbers((48, 48))
    _, error = make(array).dask_pair()
    want = 2 * sums(array) / 4
    np.testing.assert_allclose(inside(error.compute()), inside(want), rtol=1e-5)


def test_a_range_that_does_not_begin_at_zero_shifts_the_image_and_not_its_error():
    array = numbers((48, 48)) + 1000
    _, error = make(array, spec=(1000.0, 1100.0)).dask_pair()
    want = 2 * sums(array - 1000.0) / 4
    np.testing.assert_allclose(inside(error.compute()), inside(want), rtol=1e-4)


def test_each_channel_has_the_units_of_its_own_range():
    array = np.stack([numbers((48, 48)), 10 * numbers((48, 48))])
    _, error = make(array, "CYX", spec=[(0, 100), (0, 5000)]).dask_pair()
    one, ten = inside(error.compute())
    np.testing.assert_allclose(10 * one, ten, rtol=1e-5)


def test_widths_take_neither_low_end_nor_top_for_a_shift():
    values = ValueRange(-1e308, 1e308, 0.5)
    (width,) = values.widths(np.array([0.25], np.float32))
    np.testing.assert_allclose(width, 1e308)
    assert ValueRange(500, 600, 0.7).widths(np.array([0.7]))[0] == pytest.approx(100)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((40, 40), "YX"),
        ((2, 3, 40, 40), "TCYX"),
        ((40, 3, 40), "YZX"),
        ((40, 40, 3), "YXS"),
        ((40, 40, 4), "YXS"),
        ((0, 40), "YX"),
    ],
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8", "?"])
def test_both_have_the_same_axes_and_chunks_and_the_image_is_the_same(
    shape, axes, dtype
):
    array = numbers(shape, dtype)
    image, error = make(array, axes).dask_pair()
    assert error.dtype == np.float32
    assert image.dtype == array.dtype
    assert image.chunks == error.chunks == make(array, axes).chunks
    alone = make(array, axes, factor=None).dask().compute()
    both = dask.compute(image, error)
    np.testing.assert_array_equal(both[0], alone)
    assert both[1].shape == alone.shape
    if shape[-1] == 4:  # nobody has super-resolved the alpha channel
        assert np.isnan(both[1][..., 3]).all()
        assert np.isfinite(both[1][..., :3]).all()
    else:
        assert np.isfinite(both[1]).all()


def test_both_cost_one_forward(no_cache):
    lazy = make(numbers((64, 64)))
    image, error = lazy.dask_pair()
    dask.compute(image, error)
    assert lazy.block.forwards == lazy.n_blocks == 16
    # parts of both meet the same two tiles
    dask.compute(image[3:30, 4:40], error[:20, 10:50])
    assert lazy.block.forwards == 16 + 2
    (image + error).mean().compute()
    assert lazy.block.forwards == 16 + 2 + 16


def test_one_after_the_other_comes_from_the_cache():
    lazy = make(numbers((64, 64)))
    image, error = lazy.dask_pair()
    image.compute()
    error.compute()
    np.asarray(lazy[:20])
    np.asarray(lazy.error[:20])
    assert lazy.error.block_at((0, 0)) is lazy.cached((0, 0)).error
    assert lazy.block.forwards == 16


@pytest.fixture
def no_cache(monkeypatch):
    from napari_swin2sr.tiles import cache

    monkeypatch.setattr(cache.CACHE, "limit_bytes", 0)


@pytest.mark.parametrize("part", [0, 1])
def test_each_can_be_computed_alone(no_cache, part):
    lazy = make(numbers((64, 64)))
    both = dask.compute(*lazy.dask_pair())
    alone = lazy.dask_pair()[part].compute()
    np.testing.assert_array_equal(alone, both[part])
    view = lazy.error if part else lazy
    np.testing.assert_array_equal(np.asarray(view), both[part])
    np.testing.assert_array_equal(view[5:90:7, ::-1], both[part][5:90:7, ::-1])


@pytest.mark.parametrize("core", [8, 24, 40, 100])
def test_the_error_does_not_depend_on_the_tiles(core):
    array = numbers((61, 50))
    array[np.random.default_rng(1).random(array.shape) < 0.1] = np.nan
    # the border of `Toy` is zeros, where a tile's is pixels; both see the same here
    array = np.pad(array, 8, constant_values=np.nan)
    one, many = (make(array, core=n).error for n in (200, core))
    np.testing.assert_array_equal(np.asarray(one)[16:-24], np.asarray(many)[16:-24])


HOLES = [
    ("f4", np.nan, {}),
    ("f8", np.inf, {}),
    ("u2", 0, {"nodata": 0}),
    ("i2", -9999, {"nodata": -9999}),
]


@pytest.mark.parametrize(("dtype", "hole", "options"), HOLES)
@pytest.mark.parametrize("share", [0.02, 1.0])
def test_it_is_nan_exactly_where_the_image_is_missing(dtype, hole, options, share):
    array = numbers((50, 41), dtype)
    holes = np.random.default_rng(1).random(array.shape) < share
    array[holes] = hole
    error = make(array, **options).dask_pair()[1].compute()
    np.testing.assert_array_equal(np.isnan(error), holes.repeat(2, 0).repeat(2, 1))


def test_it_is_nan_under_a_mask_and_has_none_itself():
    array = np.ma.masked_greater(numbers((40, 40), "u1"), 90)
    image, error = dask.compute(*make(array).dask_pair())
    assert not isinstance(error, np.ma.MaskedArray)
    np.testing.assert_array_equal(np.isnan(error), np.ma.getmaskarray(image))


def test_a_missing_sample_has_no_error_and_its_neighbors_have():
    array = numbers((40, 40, 3))
    array[20, 20, 1] = np.nan
    error = np.asarray(make(array, "YXS").error)
    assert np.isnan(error).sum() == 4
    assert np.isnan(error[40:42, 40:42, 1]).all()


def test_transparent_pixels_have_no_error():
    array = np.full((40, 40, 4), 50, np.uint8)
    array[:, :10, 3] = 0
    error = np.asarray(make(array, "YXS").error)
    assert np.isnan(error[:, :20]).all()
    assert np.isfinite(error[:, 20:, :3]).all()


def test_a_constant_image_is_certain():
    array = np.full((20, 20), 5.0, np.float32)
    assert (np.asarray(make(array, spec="data").error) == 0).all()


def test_it_pickles_and_names_its_factor():
    array = numbers((20, 20))
    lazy = make(array, block=repeat_with_error)
    again = pickle.loads(pickle.dumps(lazy))
    np.testing.assert_array_equal(np.asarray(again.error), np.asarray(lazy.error))
    assert again.token == lazy.token
    assert make(array, block=repeat_with_error, factor=3.0).token != lazy.token
    assert make(array, block=repeat_with_error, factor=None).token != lazy.token


class _Repeat:
    def __call__(self, tiles):
        return repeat(tiles)

    def with_error(self, tiles):
        return repeat(tiles), repeat(np.abs(tiles))

    def __dask_tokenize__(self):
        return "repeat with error"


repeat_with_error = _Repeat()


def test_a_cancelled_run_takes_no_tile_for_its_error_either():
    lazy, cancel = make(numbers((40, 40))), threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        lazy.until(cancel).pair_at((0, 0))
    assert lazy.block.forwards == 0


def test_without_a_scale_there_is_no_error():
    with pytest.raises(OptionError, match="without trust"):
        _ = make(numbers((20, 20)), factor=None).error


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_error_that_is_no_number_is_refused(bad):
    class Broken(Toy):
        def with_error(self, tiles):
            return self(tiles), np.full_like(repeat(tiles), bad)

    with pytest.raises(InferenceError, match="not finite"):
        np.asarray(make(numbers((20, 20)), block=Broken()).error)


def test_an_error_of_another_shape_is_refused():
    class Broken(Toy):
        def with_error(self, tiles):
            return self(tiles), tiles

    with pytest.raises(InferenceError, match="was expected"):
        np.asarray(make(numbers((20, 20)), block=Broken()).error)
