"""Progressive arrays with a fake upscaler: what is computed, when and what shown."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from napari_swin2sr.errors import MemoryLimitError
from napari_swin2sr.plugin.live.progressive import Filler, ProgressiveArray, stretch
from napari_swin2sr.plugin.live.pyramid import BlockMeans, SourceTiles
from napari_swin2sr.tiles.cache import BlockCache
from napari_swin2sr.tiles.chunks import ChunkGrid

TILE = 16


@pytest.fixture
def progressive(counting_level):
    def make(source, filler, *, samples=None, cache=None, **keywords):
        level = counting_level(source, tile=TILE, samples=samples)
        cache = cache or BlockCache(2**24)
        array = ProgressiveArray(level, cache, filler, lower=source, **keywords)
        return array, level

    return make


@pytest.fixture
def filler():
    filler = Filler("test tiles")
    yield filler
    filler.close(20)


def image(*shape, dtype=np.uint16):
    return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def test_nothing_is_computed_until_pixels_are_asked_for(filler, progressive):
    array, level = progressive(image(64, 64), filler)
    assert (array.shape, array.ndim, array.size) == ((128, 128), 2, 128 * 128)
    assert array[3:50].shape == (47, 128)
    assert array.chunks == ((TILE,) * 8,) * 2
    assert level.calls == []
    assert filler.idle


def test_first_interpolated_then_exact_pixels_of_the_visible_tiles_only(
    filler, progressive
):
    array, level = progressive(image(64, 64), filler)
    view = array[0:40, 20:40]
    first = np.asarray(view)
    assert first.shape == (40, 20)
    assert first.dtype == np.uint16
    filler.join(20)
    np.testing.assert_array_equal(np.asarray(view), level.expected()[0:40, 20:40])
    assert sorted(level.calls) == [(i, j) for i in range(3) for j in (1, 2)]


def test_asking_again_computes_nothing(filler, progressive):
    array, level = progressive(image(64, 64), filler)
    np.asarray(array[:64, :64])
    filler.join(20)
    count = len(level.calls)
    np.asarray(array[:64, :64])
    np.asarray(array[10:30, 5:60])
    filler.join(20)
    assert len(level.calls) == count == 16


def test_tiles_near_the_center_come_first(filler, progressive):
    array, level = progressive(image(64, 64), filler)
    np.asarray(array[:80, :80])
    filler.join(20)
    assert level.calls[0] == (2, 2)
    assert set(level.calls[-4:]) == {(0, 0), (0, 4), (4, 0), (4, 4)}


def test_what_was_panned_away_before_it_started_is_dropped(
    filler, progressive, wait_until
):
    array, level = progressive(image(64, 64), filler)
    level.gate.clear()
    np.asarray(array[:64, :64])
    wait_until(lambda: level.calls)
    np.asarray(array[96:128, 96:128])
    level.gate.set()
    filler.join(20)
    assert len(level.calls) == 1 + 4
    assert set(level.calls[1:]) == {(6, 6), (6, 7), (7, 6), (7, 7)}


def test_a_tile_at_work_is_not_wanted_twice(filler, progressive, wait_until):
    array, level = progressive(image(16, 16), filler)
    level.gate.clear()
    np.asarray(array[:16, :16])
    wait_until(lambda: level.calls)
    np.asarray(array[:16, :16])
    level.gate.set()
    filler.join(20)
    assert level.calls == [(0, 0)]


def test_the_thread_lives_only_while_there_is_work(filler, progressive, wait_until):
    before = threading.active_count()
    array, _ = progressive(image(64, 64), filler)
    np.asarray(array)
    filler.join(20)
    wait_until(lambda: threading.active_count() == before)


def test_a_closed_filler_takes_nothing_more(filler, progressive, wait_until):
    array, level = progressive(image(64, 64), filler)
    level.gate.clear()
    np.asarray(array)
    wait_until(lambda: level.calls)
    filler.close()
    level.gate.set()
    filler.join(20)
    np.asarray(array)
    assert len(level.calls) == 1
    assert filler.idle


def test_an_error_is_reported_once_and_leaves_interpolated_pixels(filler, progressive):
    errors: list[Any] = []
    array, level = progressive(image(64, 64), filler, failed=errors.append)
    level.error = RuntimeError("CUDA out of memory")
    before = np.asarray(array[:48, :48])
    filler.join(20)
    np.testing.assert_array_equal(np.asarray(array[:48, :48]), before)
    filler.join(20)
    assert [str(error) for error in errors] == ["CUDA out of memory"]
    assert len(level.calls) == 3, "after three failures in a row nothing more is tried"


def test_one_bad_tile_does_not_stop_the_others(filler, counting_level):
    class OneBad(counting_level):  # type: ignore[misc, valid-type]
        def block_at(self, index):
            if index == (1, 1):
                self.calls.append(index)
                raise MemoryError("once")
            return super().block_at(index)

    errors: list[Any] = []
    level = OneBad(image(32, 32), tile=TILE)
    array = ProgressiveArray(level, BlockCache(2**24), filler, failed=errors.append)
    for _ in range(3):
        out = np.asarray(array)
        filler.join(20)
    assert len(errors) == 1
    assert level.calls.count((1, 1)) == 1
    np.testing.assert_array_equal(out[32:], level.expected()[32:])


def test_the_cache_is_bounded_and_visible_tiles_never_push_each_other_out(
    filler, progressive
):
    room = 6 * TILE * TILE * 2
    cache = BlockCache(room)
    array, level = progressive(image(64, 64), filler, cache=cache)
    for _ in range(4):
        np.asarray(array)
        filler.join(20)
        assert cache.n_bytes <= room
    assert len(level.calls) == 3, "half the cache, then no more of this view"


def test_forgetting_an_array_frees_its_tiles_only(filler, progressive):
    cache = BlockCache(2**24)
    one, _ = progressive(image(16, 16), filler, cache=cache)
    two, _ = progressive(image(16, 16), filler, cache=cache)
    np.asarray(one), np.asarray(two)
    filler.join(20)
    half = cache.n_bytes // 2
    one.forget()
    assert cache.n_bytes == half


@pytest.mark.parametrize(
    "key",
    [
        (slice(3, 60, 1), slice(5, 9, 1)),
        (slice(None), 7),
        (..., slice(2, 5)),
        (slice(None, None, 5), slice(20, 3, -2)),
        (-1,),
        (np.int64(3), slice(None)),
        (slice(5, 5), slice(None)),
    ],
)
def test_a_view_indexes_like_numpy(filler, key, progressive):
    array, level = progressive(image(64, 64), filler)
    np.asarray(array)
    filler.join(20)
    view, expected = array[key], level.expected()[key]
    assert view.shape == expected.shape
    assert (view.ndim, view.size) == (expected.ndim, expected.size)
    np.testing.assert_array_equal(np.asarray(view), expected)


def test_views_of_views_read_only_what_the_last_one_selects(filler, progressive):
    source = image(4, 3, 32, 32)
    array, level = progressive(source, filler)
    view = array[:, :, 10:40, 0:20][2, 1]
    assert level.calls == []
    np.asarray(view)
    filler.join(20)
    assert {index[:2] for index in level.calls} == {(2, 1)}
    np.testing.assert_array_equal(np.asarray(view), level.expected()[2, 1, 10:40, 0:20])


def test_rgb_samples_stay_together(filler, progressive):
    array, level = progressive(image(32, 32, 3, dtype=np.uint8), filler, samples=2)
    np.asarray(array[:10, :10])
    filler.join(20)
    assert level.calls == [(0, 0, 0)]


def test_fancy_indices_and_giants_are_refused_with_advice(filler, progressive):
    array, _ = progressive(image(16, 16), filler)
    with pytest.raises(IndexError, match="integers, slices"):
        array[[1, 2]]
    with pytest.raises(IndexError, match="3 indices"):
        array[1, 2, 3]
    big = np.broadcast_to(np.zeros(1, np.uint8), (40000, 40000))
    array = ProgressiveArray(SourceTiles(big, (0, 1)), BlockCache(10), filler)
    with pytest.raises(MemoryLimitError, match="in memory or to disk"):
        np.asarray(array)


def test_exact_pixels_can_be_had_at_once(filler, progressive):
    array, level = progressive(image(40, 40), filler)
    np.testing.assert_array_equal(
        array.exact([range(3, 70), range(20, 21)]), level.expected()[3:70, 20:21]
    )
    assert filler.idle


def test_a_buffer_is_filled_in_place(filler, counting_level):
    level = counting_level(image(32, 32), tile=TILE)
    buffer = np.zeros(level.shape, level.dtype)
    array = ProgressiveArray(level, BlockCache(2**20), filler, buffer=buffer)
    once = np.asarray(array)
    assert np.shares_memory(once, buffer)
    filler.join(20)
    np.testing.assert_array_equal(once, level.expected())
    np.asarray(array)
    filler.join(20)
    assert len(level.calls) == 16


def test_missing_tiles_of_a_missing_level_come_from_the_next(filler, counting_level):
    source = image(64, 64)
    coarse = np.full((32, 32), 777, np.uint16)
    middle = ProgressiveArray(
        SourceTiles(source, (0, 1), tile=16),
        BlockCache(2**24),
        filler,
        lower=coarse,
        number=1,
    )
    level = counting_level(source, tile=TILE)
    level.gate.clear()
    fine = ProgressiveArray(
        level, BlockCache(2**24), reader := Filler("fine"), lower=middle
    )
    assert (np.asarray(fine[:32, :32]) == 777).all()
    filler.join(20)
    assert not (np.asarray(fine[:32, :32]) == 777).any(), "now from the middle level"
    level.gate.set()
    reader.join(20)
    np.testing.assert_array_equal(
        np.asarray(fine[:32, :32]), level.expected()[:32, :32]
    )


@pytest.mark.parametrize("shape", [(64, 64), (61, 67), (3, 50, 41)])
@pytest.mark.parametrize("factor", [2, 3, 8])
def test_block_means_are_means_of_the_source(shape, factor):
    source = image(*shape)
    axes = (len(shape) - 2, len(shape) - 1)
    level = BlockMeans(source, axes, factor)
    assert level.shape[-1] == -(-shape[-1] // factor)
    whole = np.empty(level.shape, level.dtype)
    grid = ChunkGrid.from_sizes(level.chunks)
    for index in np.ndindex(*grid.grid_shape):
        whole[grid.slices_at(index)] = level.block_at(index)
    if shape == (64, 64) and factor != 3:
        n = 64 // factor
        means = source.reshape(n, factor, n, factor).mean((1, 3))
        np.testing.assert_array_equal(whole, np.rint(means).astype(np.uint16))
    assert abs(whole.mean() - source.mean()) < 2


def test_source_tiles_follow_the_chunks_of_the_source():
    dask = pytest.importorskip("dask.array")
    level = SourceTiles(dask.zeros((900, 900), chunks=(300, 100)), (0, 1))
    assert level.chunks == ((300, 300, 300), (500, 400))
    level = SourceTiles(np.zeros((900, 900)), (0, 1))
    assert level.chunks == ((512, 388), (512, 388))


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_interpolation_matches_scipy(ratio):
    ndimage = pytest.importorskip("scipy.ndimage")
    coarse = image(9, 12, dtype=np.float32)
    fine = tuple(n * ratio for n in coarse.shape)
    whole = [range(n) for n in fine]
    ours = stretch(coarse, (0, 0), coarse.shape, fine, whole, np.dtype(np.float32))
    theirs = ndimage.zoom(coarse, ratio, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_interpolation_of_a_part_equals_the_part_of_the_interpolation(
    filler, progressive
):
    array, _ = progressive(image(64, 64), filler)
    filler.close()
    whole = np.asarray(array)
    np.testing.assert_array_equal(np.asarray(array[17:90, 33:64]), whole[17:90, 33:64])
