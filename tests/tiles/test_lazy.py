"""The lazy array: the same pixels however it is sliced, chunked, shared or sent."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.toy_network import neighbors, repeat, window_network, windows
from napari_swin2sr.errors import InputError, OptionError
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange, fit_ranges
from napari_swin2sr.tiles import cache
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import plan_tiles

AS_IT_IS = (0.0, 1.0)


def make(
    source,
    axes=None,
    block=repeat,
    *,
    core=16,
    halo=16,
    spec=AS_IT_IS,
    rgb=None,
    **more,
):
    layout = resolve_axes(source.shape, axes, rgb)
    plan = plan_tiles(layout.plane_shape, core=core, halo=halo)
    ranges = fit_ranges(source, layout, spec, nodata=more.get("nodata"))
    return LazyUpscaled(source, layout, plan, ranges, block, **more)


def numbers(shape, seed=0, dtype=np.uint16, top=5000):
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def doubled(array, axes):
    return array.repeat(2, axes.index("Y")).repeat(2, axes.index("X"))


class Lazy:
    """A source that computes its pixels, and notes what is asked for."""

    def __init__(self, shape, dtype=np.uint16):
        self.shape, self.dtype, self.indices = shape, np.dtype(dtype), []

    def __getitem__(self, index):
        self.indices.append(index)
        return (sum(np.ogrid[index]) % 4001).astype(self.dtype)


class Forbidden(Lazy):
    def __getitem__(self, index):
        raise AssertionError("pixels were read")


def forbidden(tiles):
    raise AssertionError("the network was called")


class Counting:
    """A block function that counts its calls and the threads in it."""

    def __init__(self, seconds=0.0):
        self.seconds, self.calls, self.inside, self.most = seconds, 0, 0, 0
        self.lock = threading.Lock()

    def __call__(self, tiles):
        with self.lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(self.seconds)
        with self.lock:
            self.inside -= 1
        return repeat(tiles)


# -- the same pixels ------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    axes=st.sampled_from(["YX", "XY", "CYX", "YXC", "TCZYX", "ZYXS", "SCXTY", "YSX"]),
    dtype=st.sampled_from(["u1", "i2", ">u2", "u4", "f4", ">f8", "?"]),
    core=st.integers(1, 40),
    data=st.data(),
)
def test_slices_are_those_of_numpy(axes, dtype, core, data):
    sizes = {"T": 2, "C": 3, "Z": 2, "S": 3}
    sizes |= {"Y": data.draw(st.integers(1, 40)), "X": data.draw(st.integers(1, 40))}
    array = numbers([sizes[a] for a in axes], top=2 if dtype == "?" else 200)
    array = array.astype(dtype)
    lazy = make(array, axes, core=core, halo=0)
    want = doubled(array, axes).astype(np.dtype(dtype).newbyteorder("="))
    assert (lazy.shape, lazy.dtype) == (want.shape, want.dtype)
    assert (lazy.ndim, lazy.size, lazy.nbytes) == (want.ndim, want.size, want.nbytes)
    for _ in range(4):
        key = tuple(
            data.draw(st.integers(-n, n - 1) | st.slices(n)) for n in lazy.shape
        )
        cut = data.draw(st.integers(0, len(key)))
        key = data.draw(
            st.sampled_from([key, key[:cut], (*key[:cut], ...), (..., *key[cut:])])
        )
        got = lazy[key]
        np.testing.assert_array_equal(got, want[key], strict=True)


@pytest.mark.parametrize("axes", ["YX", "CYX", "ZYXS", "TCZYX", "XCY"])
def test_blocks_cover_the_result(axes):
    sizes = {"T": 2, "C": 3, "Z": 2, "Y": 37, "X": 50, "S": 3}
    array = numbers([sizes[a] for a in axes])
    lazy = make(array, axes)
    assert tuple(map(len, lazy.chunks)) == lazy.grid
    assert tuple(map(sum, lazy.chunks)) == lazy.shape
    assert lazy.n_blocks == np.prod(lazy.grid)
    out = np.zeros(lazy.shape, lazy.dtype)
    for index in np.ndindex(lazy.grid):
        block = lazy.block_at(index)
        sizes_there = tuple(c[k] for c, k in zip(lazy.chunks, index, strict=True))
        assert block.shape == sizes_there
        out[lazy.slices_at(index)] += block
    np.testing.assert_array_equal(out, doubled(array, axes))


def whole_by_hand(image, layers=4):
    bottom, right = ((n // 8 + 1) * 8 - n for n in image.shape)
    padded = np.pad(image, ((0, bottom), (0, right)), mode="symmetric")
    out = window_network(padded.astype(np.int64) * 1000, 8, layers, 2)
    return out[: image.shape[0] * 2, : image.shape[1] * 2].astype(np.uint32)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(1, 50),
    st.integers(0, 999),
)
def test_tiles_of_a_window_network_give_the_whole_image(shape, core, seed):
    array = numbers(shape, seed)
    lazy = make(array, block=windows, core=core, dtype="u4")
    np.testing.assert_array_equal(np.asarray(lazy), whole_by_hand(array))


@pytest.mark.parametrize(
    "chunks", [(7, 9), (16, 16), (60, 1), (64, 64), ((1, 30, 29), (2, 58))]
)
def test_the_sources_chunks_do_not_matter(chunks):
    array = numbers((60, 60))
    source = da.from_array(array, chunks=chunks)
    lazy = make(source, block=windows, dtype="u4")
    np.testing.assert_array_equal(np.asarray(lazy), whole_by_hand(array))
    np.testing.assert_array_equal(lazy.dask().compute(), whole_by_hand(array))


def test_a_zarr_source(tmp_path):
    array = numbers((3, 60, 45))
    source = zarr.create_array(
        tmp_path / "a.zarr", shape=array.shape, chunks=(1, 20, 20), dtype=array.dtype
    )
    source[:] = array
    lazy = make(source, "CYX", block=windows, dtype="u4")
    for c in range(3):
        np.testing.assert_array_equal(lazy[c], whole_by_hand(array[c]))


def test_planar_and_interleaved_channels_are_equal():
    array = numbers((3, 40, 50))
    planar = make(array, "CYX", windows, spec=None, dtype="f8")
    interleaved = make(array.transpose(1, 2, 0), "YXC", windows, spec=None, dtype="f8")
    np.testing.assert_array_equal(
        np.asarray(planar), np.asarray(interleaved).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("core", [8, 16, 24, 100])
def test_a_network_with_a_short_reach_has_no_seams(core):
    array = numbers((50, 70))
    want = np.asarray(make(array, block=neighbors, core=1000, halo=0, dtype="f8"))
    got = np.asarray(make(array, block=neighbors, core=core, halo=8, dtype="f8"))
    # Beyond the image's far edge the tile and the image are padded alike.
    np.testing.assert_array_equal(got, want)


def test_the_source_is_not_modified():
    array = numbers((40, 40), dtype=np.float32)
    array[3, 4] = np.nan
    before = array.copy()
    array.flags.writeable = False
    np.asarray(make(array, spec=None))
    np.testing.assert_array_equal(array, before)


# -- lazy -----------------------------------------------------------------------------


def test_nothing_runs_until_pixels_are_asked_for():
    lazy = make(Forbidden((5, 100_000, 100_000)), "CYX", forbidden, core=1024)
    array = lazy.dask()[:, 5:50_000:3].astype(float) + 1
    assert array.shape == (5, 16_665, 200_000)
    repr(lazy), lazy.chunks, lazy.grid, lazy.token, pickle.dumps(lazy)


def test_dask_has_one_task_per_block_and_calls_no_network_for_its_meta():
    lazy = make(Forbidden((3, 100, 130)), "CYX", forbidden)
    array = lazy.dask()
    assert array.chunks == lazy.chunks
    assert len(array.__dask_graph__()) == lazy.n_blocks + 1
    assert type(array._meta) is np.ndarray


def test_one_block_of_a_huge_image_reads_its_slab_only():
    source = Lazy((3, 100_000, 100_000))
    start = time.perf_counter()
    lazy = make(source, "CYX", core=1024, halo=48, spec=None)
    array = lazy.dask()
    assert time.perf_counter() - start < 10  # under a second on a quiet machine
    del source.indices[:]
    tracemalloc.start()
    block = array.blocks[1, 40, 97].compute(scheduler="sync")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    tile = lazy.plan.tile_at(40, 97)
    assert source.indices == [(slice(1, 2), *tile.read.slices)]
    assert block.shape == (1, *tile.write.shape)
    assert peak < 200e6


def test_a_view_computes_only_the_tiles_that_it_touches():
    block = Counting()
    lazy = make(Lazy((100_000, 100_000)), block=block, core=64, halo=8)
    start = time.perf_counter()
    region = lazy[5100:5200, 7000:7128]
    assert time.perf_counter() - start < 2
    assert region.shape == (100, 128)
    assert block.calls == 4  # of 128 x 128 px each
    lazy[5110:5190, 7000:7100:7]
    assert block.calls == 4  # from the cache
    lazy[::90_000, 50]
    assert block.calls == 7


def test_empty_images_and_slices_call_nothing():
    for shape in [(0, 10), (10, 0), (0, 0)]:
        lazy = make(np.zeros(shape, np.uint16), block=forbidden)
        assert np.asarray(lazy).shape == (shape[0] * 2, shape[1] * 2)
        assert lazy.dask().compute().shape == lazy.shape
        assert lazy.n_blocks == 0
    lazy = make(np.zeros((0, 9, 9), np.uint16), "ZYX", forbidden)
    assert lazy.dask().compute().shape == (0, 18, 18)
    lazy = make(numbers((20, 20)), block=forbidden)
    assert lazy[5:5, ::2].shape == (0, 20)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 2)])
def test_small_images(shape):
    array = numbers(shape)
    np.testing.assert_array_equal(np.asarray(make(array)), doubled(array, "YX"))


# -- dask -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_schedulers_agree(scheduler):
    array = numbers((2, 60, 60))
    lazy = make(array, "CYX", windows, dtype="u4")
    got = lazy.dask().compute(scheduler=scheduler)
    for c in range(2):
        np.testing.assert_array_equal(got[c], whole_by_hand(array[c]))
    with dask.config.set(scheduler=scheduler):
        part = lazy.dask()[1, 13:77:3, ::-1].compute()
    np.testing.assert_array_equal(part, whole_by_hand(array[1])[13:77:3, ::-1])


def test_dask_stores_into_zarr_block_by_block(tmp_path):
    lazy = make(numbers((60, 60)), block=windows, dtype="u4")
    target = zarr.create_array(
        tmp_path / "b.zarr", shape=lazy.shape, chunks=(32, 32), dtype="u4"
    )
    da.store(lazy.dask(), target, lock=False)  # type: ignore[arg-type]
    np.testing.assert_array_equal(target[:], np.asarray(lazy))


PROGRAM = """
import dask, sys, pickle
dask.config.set({"array.query-planning": sys.argv[1] == "on"})
import numpy as np
sys.path.insert(0, sys.argv[2])
from helpers.toy_network import repeat
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import plan_tiles
array = np.arange(100 * 131, dtype=np.uint16).reshape(100, 131)
plan = plan_tiles(array.shape, core=32, halo=8)
ranges = (ValueRange(0, 13100),)
lazy = LazyUpscaled(array, resolve_axes(array.shape), plan, ranges, repeat)
want = array.repeat(2, 0).repeat(2, 1)
assert (lazy.dask().compute(scheduler="sync") == want).all()
assert (lazy.dask()[5:150, ::3].sum(0).compute() == want[5:150, ::3].sum(0)).all()
assert "torch" not in sys.modules and "napari" not in sys.modules
print(lazy.token)
"""


def test_both_dask_back_ends_and_the_token_is_the_same_everywhere():
    folder = str(Path(__file__).parents[1])
    tokens = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, planning, folder],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        for planning in ("on", "off")
    ]
    assert tokens[0] == tokens[1]
    assert len(tokens[0].strip()) == 32


def test_the_token_tells_results_apart():
    array = numbers((30, 30))
    lazies = [
        make(array),
        make(array, core=24),
        make(array, halo=8),
        make(array, block=neighbors),
        make(array, spec=(0, 2)),
        make(array, dtype="f4"),
        make(array, nodata=3),
        make(array + np.uint16(1)),
    ]
    assert len({lazy.token for lazy in lazies}) == len(lazies)
    assert make(array.copy()).token == lazies[0].token
    assert make(array, token="mine").dask().name == "swin2sr-mine"
    with dask.config.set({"tokenize.ensure-deterministic": True}):
        assert dask.base.tokenize(lazies[0]) == dask.base.tokenize(make(array))


def test_pickle_is_small_and_leaves_the_cache_behind():
    lazy = make(Lazy((100_000, 100_000)), core=1024, halo=48)
    token = lazy.token
    lazy[:100, :100]
    text = pickle.dumps(lazy)
    assert len(text) < 3000
    back = pickle.loads(text)
    assert back.token == token
    np.testing.assert_array_equal(back[:50, :60], lazy[:50, :60])


# -- memory and threads ---------------------------------------------------------------


def test_threads_share_tiles_and_at_most_four_are_in_work():
    block = Counting(0.005)
    array = numbers((64, 64))
    lazy = make(array, block=block, core=8, halo=0)
    want = doubled(array, "YX")
    with ThreadPoolExecutor(12) as pool:
        for got in pool.map(lambda k: lazy[k::12, ::-1], range(12)):
            assert got.shape[1] == 128
        assert block.calls == 64
        assert block.most <= cache.TILES.limit
        results = pool.map(lambda k: lazy[k::12, ::-1], range(12))
        for k, got in enumerate(results):
            np.testing.assert_array_equal(got, want[k::12, ::-1])


def test_an_upscaled_image_can_be_upscaled_again_by_many_threads():
    array = numbers((40, 40))
    once = make(array, block=Counting(0.001), core=8, halo=8)
    for middle in (once, once.dask()):
        twice = make(middle, core=8, halo=8)
        got = twice.dask().compute(scheduler="threads", num_workers=12)
        np.testing.assert_array_equal(got, doubled(doubled(array, "YX"), "YX"))


def test_the_cache_is_bounded_and_freed(monkeypatch):
    kept = cache.BlockCache(3 * 32 * 32 * 2)
    monkeypatch.setattr(cache, "CACHE", kept)
    block = Counting()
    lazy = make(numbers((64, 64)), block=block, core=16, halo=0)
    np.asarray(lazy)
    np.asarray(lazy)
    assert block.calls == 32
    assert kept.n_bytes == 0  # larger than the cache: gone through, nothing kept
    for start in (0, 16, 32, 48):
        lazy[:, start : start + 3]
    assert block.calls == 48
    assert 0 < kept.n_bytes <= kept.limit_bytes
    np.asarray(lazy[96:, 50:51])  # a tile that is still there
    assert block.calls == 48
    lazy[0, 0]  # what is returned is a copy: writing to it changes nothing
    part = lazy[:4, :4]
    part[...] = 0
    assert lazy[:4, :4].any()
    del lazy
    assert kept.n_bytes == 0


def test_block_at_is_not_cached():
    block = Counting()
    lazy = make(numbers((20, 20)), block=block)
    lazy.block_at((0, 0))
    lazy.block_at((0, 0))
    assert block.calls == 2


# -- wrong use ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ((1, 2, 3), "3 indices for 2 axes"),
        ((..., ...), "only one"),
        (40, "index 40 is outside an axis of length 40"),
        (-41, "index -41 is outside"),
        (None, "None is not understood"),
        ([1, 2], r"\[1, 2\] is not understood.*dask"),
        (True, "True is not understood"),
        (1.0, "is not understood"),
        (np.array([1, 2]), "is not understood"),
    ],
)
def test_indices_that_are_not_understood(key, match):
    with pytest.raises(IndexError, match=match):
        make(numbers((20, 20)), block=forbidden)[key]


def test_numpy_integers_and_rows_are_fine():
    array = numbers((20, 20))
    lazy = make(array)
    assert lazy[np.int64(3), -1] == array[1, 19]
    assert len(lazy) == 40
    rows = list(lazy)
    np.testing.assert_array_equal(rows, doubled(array, "YX"))


def test_array_protocol():
    array = numbers((20, 20))
    lazy = make(array)
    assert np.asarray(lazy, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="without computing"):
        np.array(lazy, copy=False)


@pytest.mark.parametrize("index", [(0,), (0, 0, 0), (-1, 0), (0, 2), (2, 0)])
def test_no_such_block(index):
    lazy = make(numbers((20, 20)), block=forbidden)
    for call in (lazy.block_at, lazy.slices_at):
        with pytest.raises(IndexError, match=r"no block .* in a grid of \(2, 2\)"):
            call(index)


def test_arguments_that_do_not_fit():
    array = numbers((2, 20, 20))
    layout = resolve_axes(array.shape, "CYX")
    plan, one = plan_tiles((20, 20)), ValueRange(0, 1)
    with pytest.raises(InputError, match="1 value ranges for 2 channels"):
        LazyUpscaled(array, layout, plan, (one,), repeat)
    with pytest.raises(InputError, match="do not belong together"):
        LazyUpscaled(array[:1], layout, plan, (one, one), repeat)
    with pytest.raises(InputError, match=r"\(20, 21\) do not belong together"):
        LazyUpscaled(array, layout, plan_tiles((20, 21)), (one, one), repeat)
    with pytest.raises(InputError, match="complex"):
        LazyUpscaled(array * 1j, layout, plan, (one, one), repeat)
    with pytest.raises(OptionError, match="complex128 cannot hold an image"):
        LazyUpscaled(array, layout, plan, (one, one), repeat, dtype=complex)
    with pytest.raises(OptionError, match=r"nodata=-9999.* dtype=uint8"):
        LazyUpscaled(
            array.astype("i4"),
            layout,
            plan,
            (one, one),
            repeat,
            dtype="u1",
            nodata=-9999,
        )
