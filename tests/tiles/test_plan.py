"""Rules of the tiling: each is a property that holds for every plane and plan."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.toy_network import window_network
from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.errors import InputError, OptionError
from napari_swin2sr.image.box import Box
from napari_swin2sr.model import Swin2SRConfig
from napari_swin2sr.runs import resources
from napari_swin2sr.tiles import cache
from napari_swin2sr.tiles.plan import (
    MAX_BLOCKS,
    Pad,
    TilePlan,
    check_n_blocks,
    default_tile,
    plan_tiles,
)

sides = st.integers(0, 90)
calm = settings(max_examples=60, deadline=None)  # this machine may be busy


@st.composite
def plans(draw, least_side: int = 0, max_halo: int = 4) -> TilePlan:
    window = draw(st.integers(1, 9))
    side = st.integers(least_side, 90)
    return plan_tiles(
        (draw(side), draw(side)),
        core=draw(st.integers(1, 40)),
        halo=window * draw(st.integers(0, max_halo)),
        multiple_of=window,
        upscale=draw(st.integers(1, 4)),
    )


@calm
@given(plans())
def test_cores_partition_the_plane(plan):
    hits = np.zeros(plan.shape, int)
    for tile in plan:
        assert 0 < tile.core.height <= plan.core
        assert 0 < tile.core.width <= plan.core
        hits[tile.core.slices] += 1
    assert (hits == 1).all()
    written = np.zeros(plan.output_shape, int)
    for tile in plan:
        written[tile.write.slices] += 1
    assert (written == 1).all()


@calm
@given(plans())
def test_last_core_is_short_never_shifted(plan):
    for tile in plan:
        assert (tile.core.y0, tile.core.x0) == (
            tile.index[0] * plan.core,
            tile.index[1] * plan.core,
        )


@calm
@given(plans())
def test_reads_lie_inside_the_image_and_start_on_the_window_grid(plan):
    for tile in plan:
        read = tile.read
        assert 0 <= read.y0 <= tile.core.y0
        assert 0 <= read.x0 <= tile.core.x0
        assert tile.core.y1 <= read.y1 <= plan.shape[0]
        assert tile.core.x1 <= read.x1 <= plan.shape[1]
        assert read.y0 % plan.multiple_of == 0 == read.x0 % plan.multiple_of


@calm
@given(plans())
def test_padded_size_is_a_multiple_of_the_window(plan):
    for tile in plan:
        for size in tile.padded_shape:
            assert size > 0
            assert size % plan.multiple_of == 0


@calm
@given(plans())
def test_crop_is_the_core_times_the_upscale(plan):
    for tile in plan:
        rows, columns = tile.crop
        assert (
            rows.stop - rows.start,
            columns.stop - columns.start,
        ) == tile.write.shape
        assert rows.start == (tile.core.y0 - tile.read.y0) * plan.upscale
        assert rows.start >= 0
        assert rows.stop <= tile.padded_shape[0] * plan.upscale
        assert columns.stop <= tile.padded_shape[1] * plan.upscale


@calm
@given(plans())
def test_only_tiles_at_the_far_edges_are_padded(plan):
    for tile in plan:
        if tile.pad.bottom:
            assert tile.read.y1 == plan.shape[0]
        if tile.pad.right:
            assert tile.read.x1 == plan.shape[1]
        assert 0 <= tile.pad.bottom <= plan.multiple_of
        assert 0 <= tile.pad.right <= plan.multiple_of


@calm
@given(plans())
def test_halo_is_there_or_the_image_ends(plan):
    line = [(n // plan.multiple_of + 1) * plan.multiple_of for n in plan.shape]
    for tile in plan:
        assert tile.read.y0 <= max(0, tile.core.y0 - plan.halo)
        reach = tile.read.y1 + tile.pad.bottom
        assert reach >= min(line[0], tile.core.y1 + plan.halo)
        assert reach <= line[0]
        assert tile.read.x1 + tile.pad.right <= line[1]


@calm
@given(plans())
def test_padding_mirrors_the_pixels_that_the_whole_image_would(plan):
    rows = np.arange(plan.shape[0])
    for tile in plan:
        if not tile.pad.bottom:
            continue
        here = np.pad(
            rows[tile.read.y0 : tile.read.y1], (0, tile.pad.bottom), mode="symmetric"
        )
        whole = np.pad(rows, (0, plan.multiple_of), mode="symmetric")
        np.testing.assert_array_equal(here, whole[tile.read.y0 :][: len(here)])


@calm
@given(plans())
def test_the_overhead_is_what_all_tiles_read_and_pad(plan):
    seen = sum(math.prod(tile.padded_shape) for tile in plan)
    area = math.prod(plan.shape)
    assert plan.pixel_overhead == pytest.approx(seen / area if area else 1.0)


@calm
@given(plans())
def test_plan_is_a_sequence_of_its_tiles(plan):
    tiles = list(plan)
    rows, columns = plan.grid_shape
    assert len(plan) == len(tiles) == rows * columns
    assert [plan[k] for k in range(len(plan))] == tiles
    assert plan[1:5] == tiles[1:5]
    if tiles:
        assert plan[-1] == tiles[-1] == plan.tile_at(rows - 1, columns - 1)
        assert tiles[0] in plan
    assert pickle.loads(pickle.dumps(plan)) == plan


@calm
@given(plans())
def test_chunks_add_up_and_match_the_tiles(plan):
    assert tuple(map(sum, plan.chunks)) == plan.output_shape
    for tile in plan:
        i, j = tile.index
        assert (plan.chunks[0][i], plan.chunks[1][j]) == tile.write.shape


@calm
@given(plans(least_side=1))
def test_pixel_overhead_counts_what_the_network_sees(plan):
    seen = sum(tile.padded_shape[0] * tile.padded_shape[1] for tile in plan)
    assert plan.pixel_overhead == pytest.approx(seen / (plan.shape[0] * plan.shape[1]))


def run_whole(image, window, layers, upscale):
    height, width = image.shape
    bottom, right = ((n // window + 1) * window - n for n in (height, width))
    padded = np.pad(image, ((0, bottom), (0, right)), mode="symmetric")
    out = window_network(padded, window, layers, upscale)
    return out[: height * upscale, : width * upscale]


def run_tiled(image, plan, layers):
    out = np.full(plan.output_shape, -1, np.int64)
    for tile in plan:
        padded = np.pad(
            image[tile.read.slices],
            ((0, tile.pad.bottom), (0, tile.pad.right)),
            mode="symmetric",
        )
        result = window_network(padded, plan.multiple_of, layers, plan.upscale)
        out[tile.write.slices] = result[tile.crop]
    return out


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    window=st.sampled_from([2, 4, 6, 7, 8]),
    core=st.integers(1, 40),
    layers=st.integers(1, 4),
    upscale=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_tiles_equal_the_whole_image(shape, window, core, layers, upscale, seed):
    image = np.random.default_rng(seed).integers(0, 100_003, shape)
    # ceil: the shifted windows of an odd window reach one pixel further to one side
    halo = -(-(-(-window // 2) * layers) // window) * window
    plan = plan_tiles(shape, core=core, halo=halo, multiple_of=window, upscale=upscale)
    whole = run_whole(image, window, layers, upscale)
    np.testing.assert_array_equal(run_tiled(image, plan, layers), whole)


def test_toy_network_notices_a_tile_off_the_grid_or_a_short_halo():
    image = np.random.default_rng(0).integers(0, 100_003, (64, 64))
    whole = run_whole(image, 8, 4, 1)
    plan = plan_tiles((64, 64), core=16, halo=16, multiple_of=8, upscale=1)
    assert (run_tiled(image, plan, 4) == whole).all()
    short = plan_tiles((64, 64), core=16, halo=8, multiple_of=8, upscale=1)
    assert (run_tiled(image, short, 4) != whole).any()
    shifted = window_network(image[4:60, 4:60], 8, 4, 1)
    assert (shifted[16:40, 16:40] != whole[20:44, 20:44]).any()


@settings(max_examples=50, deadline=None)
@given(
    windows=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    core=st.integers(1, 40),
    layers=st.integers(1, 4),
)
def test_a_padded_plane_can_be_cut_again(windows, core, layers):
    shape = (windows[0] * 8, windows[1] * 8)
    image = np.random.default_rng(1).integers(0, 100_003, shape)
    plan = plan_tiles(shape, core=core, halo=16, padded=True)
    assert all(tile.pad == Pad(0, 0) for tile in plan)
    np.testing.assert_array_equal(
        run_tiled(image, plan, layers), window_network(image, 8, layers, 2)
    )


@calm
@given(plans(), st.integers(0, 8), st.integers(0, 8))
def test_no_tile_outside_the_grid(plan, i, j):
    assume(i >= plan.grid_shape[0] or j >= plan.grid_shape[1])
    with pytest.raises(IndexError, match=r"no tile .* in a grid of"):
        plan.tile_at(i, j)


def test_a_plan_written_out():
    plan = plan_tiles((20, 41), core=16, halo=8, multiple_of=8, upscale=2)
    assert plan.grid_shape == (2, 3)
    assert plan.chunks == ((32, 8), (32, 32, 18))
    assert plan.output_shape == (40, 82)
    last = plan.tile_at(1, 2)
    assert last.core == Box(16, 32, 20, 41)
    assert last.read == Box(8, 24, 20, 41)
    assert last.pad == Pad(4, 7)
    assert last.padded_shape == (16, 24)
    assert last.crop == (slice(16, 24), slice(16, 34))
    assert last.write == Box(32, 64, 40, 82)


def test_a_full_window_is_added_at_an_exact_multiple():
    (tile,) = plan_tiles((16, 16), halo=8)
    assert tile.pad == Pad(8, 8)
    assert tile.padded_shape == (24, 24)


def test_short_last_tile_without_halo_reads_one_window_more():
    tile = plan_tiles((17, 8), core=16, halo=0).tile_at(1, 0)
    assert tile.core == Box(16, 0, 17, 8)
    assert tile.read == Box(8, 0, 17, 8)
    assert tile.pad == Pad(7, 0)
    assert tile.crop == (slice(16, 18), slice(0, 16))


def test_core_is_rounded_up_to_the_window():
    assert plan_tiles((500, 500), core=100).core == 104
    assert plan_tiles((500, 500), core=100, halo=49, multiple_of=7).core == 105


def test_default_overheads_are_those_of_the_documents():
    for core, halo, overhead in [
        (512, 48, 1.41),
        (1024, 48, 1.20),
        (1152, 40, 1.15),
        (1408, 48, 1.14),
        (2048, 48, 1.10),
        (1024, 104, 1.45),
    ]:
        plan = plan_tiles((100_000, 100_000), core=core, halo=halo)
        assert plan.pixel_overhead == pytest.approx(overhead, abs=0.02)


def test_huge_plans_cost_nothing():
    plan = plan_tiles((10**9, 10**9), core=1024)
    assert plan.tile_at(10**5, 10**5).core.y0 == 1024 * 10**5
    plan = plan_tiles((2**60, 2**60), core=1024, halo=512)
    assert plan.pixel_overhead == pytest.approx(4)
    assert plan_tiles((2**36, 5)).chunks[0][-2:] == (2048, 2048)


@pytest.mark.parametrize("shape", [(0, 10), (10, 0), (0, 0)])
def test_empty_planes_have_no_tiles(shape):
    plan = plan_tiles(shape)
    assert list(plan) == []
    assert plan.pixel_overhead == 1.0
    assert tuple(map(sum, plan.chunks)) == (shape[0] * 2, shape[1] * 2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"halo": 20}, r"halo=20 is not a multiple .* window of 8 px.* use 24"),
        ({"halo": 8, "multiple_of": 7}, "use 14"),
        ({"halo": -8}, "halo=-8 is too small; at least 0"),
        ({"core": 0}, "tile=0 is too small; at least 1"),
        ({"multiple_of": 0}, "window=0 is too small"),
        ({"upscale": 0}, "upscale=0 is too small"),
    ],
)
def test_wrong_options_are_refused(arguments, match):
    with pytest.raises(OptionError, match=match):
        plan_tiles((10, 10), **arguments)


def test_impossible_planes_are_refused():
    with pytest.raises(InputError, match="-1 x 4 px cannot exist"):
        plan_tiles((-1, 4))
    with pytest.raises(InputError, match=r"9 x 16 px .* multiples of 8"):
        plan_tiles((9, 16), padded=True)


def test_boxes():
    box = Box(1, 2, 4, 8)
    assert (box.height, box.width, box.shape) == (3, 6, (3, 6))
    assert box.slices == (slice(1, 4), slice(2, 8))
    assert box.scaled(3) == Box(3, 6, 12, 24)
    assert box.shifted(-1, 5) == Box(0, 7, 3, 13)
    assert box.grown(2) == Box(-1, 0, 6, 10)
    assert box.intersect(Box(3, 0, 9, 3)) == Box(3, 2, 4, 3)
    assert box.intersect(Box(4, 0, 9, 3)) is None


LIGHT = Swin2SRConfig(embed_dim=60, depths=(6,) * 4, num_heads=(6,) * 4)
WIDE = Swin2SRConfig(embed_dim=180, depths=(6,) * 6, num_heads=(6,) * 6)


@pytest.fixture
def any_machine(monkeypatch):
    """A run may go on elsewhere, so nobody may ask what this machine has."""

    def refuse():
        raise AssertionError("a default tile that depends on the machine")

    monkeypatch.setattr(cache, "available_memory", refuse)
    monkeypatch.setattr(resources, "available_memory", refuse)
    monkeypatch.setattr(resources, "_only_a_cpu", refuse)


@pytest.mark.parametrize("config", [ModelHandle.open("default").config, LIGHT])
def test_halos_cost_less_than_15_percent(config, any_machine):
    halo = config.halo(None)
    core = default_tile(config, None)
    plan = plan_tiles((100 * core, 100 * core), core=core, halo=halo)
    assert 1.10 < plan.pixel_overhead < 1.15


@pytest.mark.parametrize(
    ("config", "halo", "tile"),
    [
        (LIGHT, None, 1408),
        (LIGHT, 0, 1024),
        (LIGHT, 40, 1152),
        (LIGHT, 104, 1536),  # more would need too much memory
        (LIGHT, "exact", 2048),
        (WIDE, None, 1024),
        (WIDE, 96, 1024),
    ],
)
def test_the_tile_follows_from_model_and_halo(config, halo, tile, any_machine):
    assert default_tile(config, halo) == tile


def test_more_tiles_than_can_be_computed_are_refused():
    check_n_blocks(MAX_BLOCKS)
    with pytest.raises(InputError, match=r"10,000,001 tiles .* file is damaged"):
        check_n_blocks(MAX_BLOCKS + 1)
