"""Chunks of a grid and indices, against NumPy's own indexing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_swin2sr.tiles.chunks import ChunkGrid, bounds, forward


@st.composite
def grids(draw):
    """Draw a shape with a grid on it, of equal sides or of any sizes, even 0."""
    sizes = draw(
        st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=3)
    )
    shape = tuple(map(sum, sizes))
    if draw(st.booleans()):
        sides = draw(st.tuples(*[st.integers(1, 9)] * len(shape)))
        return shape, ChunkGrid.from_sides(shape, sides)
    return shape, ChunkGrid.from_sizes(sizes)


def cut(array, grid):
    """Return every chunk of an array."""
    numbers = itertools.product(*map(range, grid.grid_shape))
    return {number: array[grid.slices_at(number)] for number in numbers}


@given(st.data())
def test_a_region_put_together_from_chunks_is_what_numpy_returns(data):
    shape, grid = data.draw(grids())
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=False))
    array = np.arange(np.prod(shape)).reshape(shape)
    chunks = cut(array, grid)
    region, finish = forward(index, shape)
    out = np.full([len(part) for part in region], -1)
    met = list(grid.meeting(region))
    for chunk in met:
        assert out[chunk.local].size > 0
        out[chunk.local] = chunks[chunk.index][chunk.inner]
        assert grid.chunk_at(chunk.index, region) == chunk
    np.testing.assert_array_equal(out[finish], array[index])
    assert len({chunk.index for chunk in met}) == len(met)
    box = bounds(region)
    inside = tuple(slice(None, None, part.step) for part in region)
    np.testing.assert_array_equal(array[box][inside][finish], array[index])


@given(st.data())
def test_the_chunks_between_the_first_and_the_last_are_touched(data):
    shape, grid = data.draw(grids())
    pairs = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in shape]
    region = [range(*pair) for pair in pairs]
    touched = set(itertools.product(*grid.touched(region)))
    met = {chunk.index for chunk in grid.meeting(region)}
    assert met <= touched
    for index in touched - met:  # in between, but of length 0
        assert 0 in [s.stop - s.start for s in grid.slices_at(index)]
        assert 0 in [s.stop - s.start for s in grid.chunk_at(index, region).local]


def test_a_grid_of_any_number_of_chunks_costs_nothing():
    grid = ChunkGrid.from_sides((10**15, 10**15), (7, 7))
    assert grid.grid_shape == (-(-(10**15) // 7),) * 2
    region, _ = forward((slice(10**14, 10**14 + 8), -1), grid.shape)
    first, last = grid.meeting(region)
    assert first.index == (10**14 // 7, (10**15 - 1) // 7)
    assert last.local[0] == slice(7 - 10**14 % 7, 8)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda grid: grid.slices_at((3,)), "no chunk 3 among 3"),
        (lambda grid: grid.slices_at((-1,)), "no chunk -1"),
        (lambda grid: list(grid.meeting([range(4, 11)])), "outside an axis of 10"),
        (lambda grid: list(grid.meeting([range(-1, 3)])), "outside an axis of 10"),
        (lambda grid: forward(10, grid.shape), "index 10 is outside"),
    ],
)
def test_what_is_not_in_the_array_is_an_index_error(call, match):
    with pytest.raises(IndexError, match=match):
        call(ChunkGrid.from_sides((10,), (4,)))
