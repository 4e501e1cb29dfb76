"""One tile: missing pixels, masks, alpha, constants, lies and networks that fail."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.toy_network import neighbors, repeat, windows
from napari_swin2sr.errors import FileError, InferenceError, InputError, Swin2SRError
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange, cast, fit_ranges
from napari_swin2sr.tiles import worker
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import plan_tiles


def make(source, axes=None, block=repeat, *, core=16, halo=16, spec=(0.0, 1.0), **more):
    layout = resolve_axes(source.shape, axes)
    plan = plan_tiles(layout.plane_shape, core=core, halo=halo)
    ranges = fit_ranges(source, layout, spec, nodata=more.get("nodata"))
    return LazyUpscaled(source, layout, plan, ranges, block, **more)


def numbers(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).integers(1, 4000, shape).astype(dtype)


def doubled(array):
    return array.repeat(2, -1).repeat(2, -2)


def finite(tiles):
    """Stands for a network that one bad number would spoil."""
    assert tiles.dtype == np.float32
    assert tiles.flags.c_contiguous
    assert np.isfinite(tiles).all()
    assert np.abs(tiles).max() <= 1e30
    return repeat(tiles)


@pytest.mark.parametrize("strip", [1, 500, 10**6])
@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_converting_some_rows_at_a_time_changes_no_bit(monkeypatch, strip, dtype):
    array = numbers((3, 61, 50), dtype=dtype)
    values = ValueRange(3.0, 3777.0)
    monkeypatch.setattr(worker, "STRIP", strip)
    got = make(array, "CYX", core=24, halo=8, spec=(3.0, 3777.0)).dask().compute()
    want = cast(values.from_model(doubled(values.to_model(array))), dtype)
    np.testing.assert_array_equal(got, want)
    colors = np.moveaxis(array, 0, -1)
    got = make(colors, "YXS", core=24, halo=8, spec=(3.0, 3777.0)).dask().compute()
    np.testing.assert_array_equal(got, np.moveaxis(want, 0, -1))


# -- missing pixels -------------------------------------------------------------------

HOLES = [
    ("f4", np.nan, {}),
    ("f4", np.inf, {}),
    ("f8", -np.inf, {}),
    ("f8", 1e300, {}),
    ("f4", 3e38, {}),
    ("f2", np.nan, {}),
    ("g", np.longdouble("1e4000"), {}),
    ("f4", -9999.0, {"nodata": -9999}),
    ("u2", 0, {"nodata": 0}),
    ("i2", -32768, {"nodata": -32768}),
    ("u1", 255, {"nodata": 255.0}),
]


@pytest.mark.parametrize(("dtype", "hole", "options"), HOLES)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999, 1.0])
def test_missing_pixels_come_back_as_blocks(dtype, hole, options, share):
    array = (numbers((50, 41)) % 250).astype(dtype)
    holes = np.random.default_rng(1).random(array.shape) < share
    array[array == (0 if hole == 0 else 255)] = 7
    array[holes] = hole
    lazy = make(array, block=finite, core=16, halo=8, **options)
    np.testing.assert_array_equal(np.asarray(lazy), doubled(array))
    # A result that is not the source again, next to the holes.
    brighter = make(array, block=lambda x: finite(x) + 0.25, **options, dtype="f8")
    largest = np.finfo("f8").max
    want = doubled(np.where(holes, array, array + 0.25))
    if dtype == "g":  # finite numbers beyond float64 become its largest
        want = np.clip(want, -largest, largest)
    want = want.astype("f8")
    np.testing.assert_allclose(np.asarray(brighter), want, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    core=st.sampled_from([8, 16, 24, 40]),
    share=st.sampled_from([0.003, 0.05, 0.6, 0.97]),
    seed=st.integers(0, 999),
    block=st.booleans(),
)
def test_the_fill_does_not_depend_on_the_tiles(core, share, seed, block):
    array = numbers((61, 50), seed)
    rng = np.random.default_rng(seed)
    array[rng.random(array.shape) < share] = np.nan
    if block:
        array[5:30, 11:40] = np.nan
    whole = make(array, block=windows, core=100, dtype="f8")
    tiled = make(array, block=windows, core=core, dtype="f8")
    assert whole.n_blocks == 1
    np.testing.assert_array_equal(np.asarray(tiled), np.asarray(whole))


def test_a_tile_without_pixels_does_not_call_the_network():
    array = numbers((32, 32))
    array[:16] = np.nan
    calls = []

    def block(tiles):
        calls.append(tiles.shape)
        return finite(tiles)

    lazy = make(array, block=block)
    assert np.isnan(lazy.block_at((0, 0))).all()
    assert not calls
    np.testing.assert_array_equal(np.asarray(lazy), doubled(array))
    assert len(calls) == 2


def test_only_tiles_with_gaps_read_a_margin():
    class Source:
        shape, dtype = (64, 64), np.dtype("f4")

        def __init__(self):
            self.indices: list[Any] = []

        def __getitem__(self, index):
            self.indices.append(index)
            return pixels[index]

    pixels, source = numbers((64, 64)), Source()
    pixels[40, 40] = np.nan
    lazy = make(source, core=16, halo=8)
    lazy.block_at((0, 0))
    assert source.indices == [(slice(0, 24), slice(0, 24))]
    del source.indices[:]
    lazy.block_at((2, 2))
    assert source.indices == [
        (slice(24, 56), slice(24, 56)),
        (slice(16, 64), slice(16, 64)),
    ]


def test_missing_pixels_in_an_integer_result():
    array = np.array([[5, np.nan], [np.inf, -np.inf]], np.float32).repeat(9, 0)
    got = np.asarray(make(array, block=finite, dtype="u1"))
    np.testing.assert_array_equal(
        got, doubled(np.array([[5, 0], [255, 0]]).repeat(9, 0))
    )
    got = np.asarray(make(array, block=finite, dtype="u1", nodata=7))
    np.testing.assert_array_equal(
        got, doubled(np.array([[5, 7], [255, 0]]).repeat(9, 0))
    )


def test_a_valid_result_never_looks_like_nodata():
    array = numbers((20, 20), dtype=np.uint8)
    array[3:6, 3:6] = 0
    zeros = make(array, block=lambda x: repeat(x) * 0, nodata=0)
    np.testing.assert_array_equal(np.asarray(zeros) == 0, doubled(array) == 0)
    assert np.asarray(zeros).max() == 1
    top = make(array, block=lambda x: repeat(x) * 0 + 300, nodata=255)
    np.testing.assert_array_equal(np.asarray(top) == 255, doubled(array) == 255)


@pytest.mark.parametrize("lazy_source", [False, True])
def test_masked_arrays_stay_masked(lazy_source):
    array = np.ma.masked_less(numbers((40, 40), dtype=np.int32), 900)
    source = da.from_array(array, chunks=13) if lazy_source else array
    lazy = make(source, block=finite)
    for got in (lazy[...], lazy.dask().compute(), lazy.block_at((0, 0))):
        want = doubled(array.data)[: got.shape[0], : got.shape[1]]
        assert isinstance(got, np.ma.MaskedArray)
        np.testing.assert_array_equal(got.mask, want < 900)
        np.testing.assert_array_equal(got.data, want)
    marked = make(source, block=finite, nodata=-1)
    np.testing.assert_array_equal(
        np.asarray(marked), np.where(doubled(array.data) < 900, -1, doubled(array.data))
    )
    floats = make(source, block=finite, dtype="f4")
    np.testing.assert_array_equal(
        np.isnan(np.asarray(floats)), doubled(array.data) < 900
    )


def test_all_masked_stays_all_masked():
    array = np.ma.masked_all((20, 20), np.float32)
    array.data[...] = 3
    got = make(array, block=None)[...]
    assert got.mask.all()
    assert np.ma.masked_all((20, 20)).shape == (20, 20)


def test_a_mask_in_a_source_that_does_not_declare_it():
    class Source:
        shape, dtype = (20, 20), np.dtype("f4")

        def __getitem__(self, index):
            return np.ma.masked_less(pixels, 900)[index]

    pixels = numbers((20, 20))
    got = np.asarray(make(Source(), block=finite))
    np.testing.assert_array_equal(np.isnan(got), doubled(pixels) < 900)


# -- constants ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i2", "u8", "f4", "f8"])
def test_a_constant_image_comes_back_without_the_network(dtype):
    def unused(_):
        raise AssertionError("the network has run")

    value = 2**63 + 1 if dtype == "u8" else 101
    array = np.full((30, 20), value, dtype)
    layout = resolve_axes(array.shape)
    ranges = (ValueRange(float(value), float(value)),)
    lazy = LazyUpscaled(array, layout, plan_tiles(array.shape), ranges, unused)
    np.testing.assert_array_equal(np.asarray(lazy), doubled(array))
    floats = LazyUpscaled(
        array, layout, plan_tiles(array.shape), ranges, unused, dtype="f4"
    )
    np.testing.assert_array_equal(np.asarray(floats), doubled(array).astype("f4"))


def test_a_constant_image_with_gaps():
    array = np.full((30, 20), 101, "f4")
    array[4:9, 3] = np.nan
    array[5, 9] = np.inf
    lazy = make(array, block=None, spec=None)
    np.testing.assert_array_equal(np.asarray(lazy), doubled(array))


def test_a_constant_tile_of_a_varied_image_does_call_the_network():
    array = np.zeros((32, 32), np.uint16)
    array[:, 16:] = numbers((32, 16))
    calls = []
    lazy = make(array, block=lambda x: calls.append(1) or repeat(x), halo=0, spec=None)
    lazy.block_at((0, 0))
    assert calls


# -- colors ---------------------------------------------------------------------------


def test_rgb_goes_through_the_network_in_one_piece():
    array = numbers((20, 30, 3))
    shapes = []
    lazy = make(array, "YXS", lambda x: shapes.append(x.shape) or repeat(x), core=64)
    np.testing.assert_array_equal(np.asarray(lazy), array.repeat(2, 0).repeat(2, 1))
    assert shapes == [(1, 3, 24, 32)]


@pytest.mark.parametrize("core", [8, 16, 64])
@pytest.mark.parametrize("halo", [0, 8])
@pytest.mark.parametrize("axes", ["YXS", "SYX", "XSY"])
def test_alpha_is_interpolated_not_imagined(core, halo, axes):
    array = numbers((25, 30, 4), dtype=np.uint8)
    array[..., 3] |= 1  # not transparent: what is has no color of its own
    moved = array.transpose(["YXS".index(a) for a in axes])
    shapes = []
    lazy = make(
        moved,
        axes,
        lambda x: shapes.append(x.shape[1]) or repeat(x),
        core=core,
        halo=halo,
        spec="dtype",
    )
    got = np.asarray(lazy).transpose([axes.index(a) for a in "YXS"])
    assert set(shapes) == {3}
    np.testing.assert_array_equal(
        got[..., :3], array[..., :3].repeat(2, 0).repeat(2, 1)
    )
    picture = Image.fromarray(array[..., 3].astype(np.float32)).resize((60, 50), 3)
    want = np.clip(np.rint(np.asarray(picture)), 0, 255)
    assert abs(got[4:-4, 4:-4, 3] - want[4:-4, 4:-4]).max() <= 1


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 99), st.sampled_from([0, 8]))
def test_alpha_does_not_depend_on_the_tiles(seed, halo):
    array = numbers((40, 40, 4), seed)
    array[np.random.default_rng(seed).random(array.shape) < 0.1] = np.nan
    whole = np.asarray(make(array, "YXS", core=100, halo=halo))
    tiled = np.asarray(make(array, "YXS", core=8, halo=halo))
    np.testing.assert_array_equal(tiled, whole)
    np.testing.assert_array_equal(
        np.isnan(whole), np.isnan(array.repeat(2, 0).repeat(2, 1))
    )


def smooth(tiles):
    """Means of 5 x 5 pixels: colors of neighbors flow into each other."""
    return neighbors(tiles) / 25


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("hidden", [0, 1])
@pytest.mark.parametrize("core", [16, 100])
def test_what_is_hidden_under_transparent_pixels_leaves_no_rim(dtype, hidden, core):
    top = np.iinfo(dtype).max if dtype[0] == "u" else 1
    rows, columns = np.mgrid[:64, :64]
    disc = np.hypot(rows - 31, columns - 33) < 22
    array = np.full((64, 64, 4), hidden * top, dtype)
    color = (np.array([0.8, 0.5, 0.3]) * top).astype(dtype)
    array[disc, :3] = color
    array[..., 3] = disc * top
    lazy = make(array, "YXS", smooth, core=core, halo=8, spec=(0.0, float(top)))
    got = np.asarray(lazy)
    # Any interpolation of one color is that color, wherever it can be seen.
    seen = got[..., 3] > 0
    assert 4 * disc.sum() < seen.sum() < 4.6 * disc.sum()
    np.testing.assert_allclose(got[seen][:, :3], np.tile(color, (seen.sum(), 1)), 1e-4)
    # A range from the pixels that can be seen: that of one color.
    alone = np.asarray(make(array, "YXS", smooth, core=core, halo=8, spec="data"))
    if dtype != "u1":
        assert (alone[seen][:, :3].max(0) <= color.astype(float) * 1.0001).all()
        assert (alone[seen][:, :3].min(0) >= color.astype(float) * 0.9999).all()
    # What cannot be seen is kept.
    far = got[:12, :12]
    np.testing.assert_array_equal(
        far[..., :3], np.full_like(far[..., :3], hidden * top)
    )


def test_one_color_with_a_varied_alpha():
    array = np.full((20, 20, 4), 9, np.float32)
    array[..., 3] = numbers((20, 20)) / 4000
    got = np.asarray(make(array, "YXS", None, spec="data"))
    assert (got[..., :3] == 9).all()
    assert len(np.unique(got[..., 3])) > 300
    opaque = np.full((20, 20, 4), 255, np.uint8)
    opaque[3:5, 3:5, :3] = 7
    assert (np.asarray(make(opaque, "YXS"))[..., 3] == 255).all()


# -- what goes wrong ------------------------------------------------------------------


class Liar:
    def __init__(self, answer, shape=(40, 40), dtype="u2"):
        self.answer, self.shape, self.dtype = answer, shape, np.dtype(dtype)

    def __getitem__(self, index):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(numbers((40, 40), dtype=np.uint16)[index])


@pytest.mark.parametrize(
    ("answer", "kind", "match"),
    [
        (lambda b: b[:3, :5], InputError, r"\[8:40, 0:24\] have shape \(3, 5\)"),
        (lambda b: b.astype(float), InputError, "have type float64"),
        (lambda b: b.astype(complex), InputError, "have type complex128"),
        (lambda b: [["x"]], InputError, "have shape"),
        (ZeroDivisionError("0/0"), InputError, "failed: ZeroDivisionError: 0/0"),
        (OSError("disk"), FileError, r"\[8:40, 0:24\] .* failed: OSError: disk"),
    ],
)
def test_lying_sources_are_found_out_with_the_place(answer, kind, match):
    lazy = make(Liar(answer), core=16, halo=8)
    with pytest.raises(kind, match=match) as caught:
        lazy.block_at((1, 0))
    (note,) = caught.value.__notes__
    assert "block (1, 0)" in note
    assert "y0=16" in note


@pytest.mark.parametrize(
    ("block", "match"),
    [
        (lambda x: x, r"made \(1, 32, 32\) of a tile of shape \(1, 32, 32\)"),
        (lambda x: repeat(x)[:, :0], r"\(1, 64, 64\) was expected"),
        (lambda x: repeat(x) * np.nan, "gave 1024 numbers that are not finite"),
        (lambda x: repeat(x) + np.inf, "precision='fp32'"),
    ],
)
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_a_network_that_fails_is_never_written(block, match, dtype):
    lazy = make(
        numbers((40, 40), dtype=np.uint16), block=block, core=16, halo=8, dtype=dtype
    )
    with pytest.raises(InferenceError, match=match) as caught:
        lazy.block_at((1, 1))
    assert "block (1, 1)" in caught.value.__notes__[0]


def test_bad_numbers_in_the_halo_do_no_harm():
    def block(tiles):
        out = repeat(tiles)
        out[..., :4, :] = np.nan
        return out

    array = numbers((40, 40))
    lazy = make(array, block=block, core=16, halo=8)
    np.testing.assert_array_equal(lazy.block_at((1, 1)), doubled(array[16:32, 16:32]))


def test_errors_of_the_network_pass_with_a_note():
    def block(tiles):
        raise Swin2SRError("no device")

    with pytest.raises(Swin2SRError, match="no device") as caught:
        make(numbers((20, 20)), block=block)[0, 0]
    assert "block (0, 0)" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "u1", "i2", ">u2", "i4", "u4", "i8", "u8", "f2", ">f4", "f8", "g"],
)
def test_every_dtype_keeps_its_values(dtype):
    array = (numbers((20, 30)) % (2 if dtype == "?" else 100)).astype(dtype)
    for spec in ("data", "dtype", (0, 200)):
        if spec == "dtype" and array.dtype.itemsize > 2 and array.dtype.kind != "f":
            continue  # 100 of 2**32 levels are beyond float32, by the caller's wish
        got = np.asarray(make(array, spec=spec))
        assert got.dtype == array.dtype.newbyteorder("=")
        if array.dtype.kind == "f":
            np.testing.assert_allclose(got, doubled(array), atol=2e-5, rtol=1e-3)
        elif not (dtype == "?" and spec == (0, 200)):
            np.testing.assert_array_equal(got, doubled(array))


def test_a_view_an_unaligned_and_a_fortran_array():
    array = numbers((40, 50))
    raw = np.zeros(array.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(array.shape)
    unaligned[...] = array
    for same in (
        unaligned,
        np.asfortranarray(array),
        array[::-1, ::-1].copy()[::-1, ::-1],
        array.view(np.matrix),
        array.view(np.recarray),
    ):
        np.testing.assert_array_equal(np.asarray(make(same)), doubled(array))


@pytest.mark.parametrize("places", [1, 2])
def test_a_gate_lets_in_as_many_tiles_as_a_device_works_on(places: int) -> None:
    inside, most = 0, 0
    changed = threading.Condition()

    def block(tiles: np.ndarray, cancel: object = None) -> np.ndarray:
        nonlocal inside, most
        with changed:
            inside += 1
            most = max(most, inside)
            changed.notify_all()
            changed.wait_for(lambda: most >= places, timeout=5)
            changed.wait_for(lambda: most > places, timeout=0.05)
            inside -= 1
        return tiles

    if places > 1:
        vars(block)["tiles_at_once"] = places
    gate = worker.CancellableBlockFn(block, threading.Event())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(gate, [np.zeros(1, np.float32)] * 4))
    assert most == places
