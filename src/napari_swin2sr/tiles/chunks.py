"""Which chunks of an array meet a region, and where their pixels belong.

An index is first made of ranges that go up (`forward`), then chunks are looked up,
and in the end the axes that were integers or went down are finished by one more index:

    region, finish = forward(index, array.shape)
    out = np.empty([len(part) for part in region], dtype)
    for chunk in grid.meeting(region):
        out[chunk.local] = read_chunk(chunk.index)[chunk.inner]
    return out[finish]
"""

from __future__ import annotations

import itertools
import operator
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Region: TypeAlias = Sequence[range]
"""Places along each axis, going up; their steps may be larger than 1."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one chunk holds of a region; `inner` and `local` have the same shape."""

    index: tuple[int, ...]  # of the chunk along each axis of the grid
    inner: tuple[slice, ...]  # the shared pixels in the chunk
    local: tuple[slice, ...]  # the same pixels in an array of the region's shape


class ChunkGrid:
    """The chunks of an array: where they start along each axis.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    starts : sequence of int per axis
        First place of each chunk, going up from 0. A `range` is as good as a tuple
        and takes no memory however many chunks there are.
    """

    def __init__(self, shape: Sequence[int], starts: Sequence[Sequence[int]]) -> None:
        self.shape, self._starts = tuple(shape), tuple(starts)

    @classmethod
    def from_sides(cls, shape: Sequence[int], sides: Sequence[int]) -> ChunkGrid:
        """Return the grid of chunks of equal sides, as TIFF and zarr have them."""
        pairs = zip(shape, sides, strict=True)
        return cls(shape, [range(0, length, side) for length, side in pairs])

    @classmethod
    def from_sizes(cls, sizes: Sequence[Sequence[int]]) -> ChunkGrid:
        """Return the grid of chunks of given sizes along each axis, as dask says it."""
        ends = [tuple(itertools.accumulate(axis)) for axis in sizes]
        starts = [(0, *axis[:-1]) if axis else () for axis in ends]
        return cls([axis[-1] if axis else 0 for axis in ends], starts)

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(map(len, self._starts))

    def slices_at(self, index: Sequence[int]) -> tuple[slice, ...]:
        """Return where a chunk lies in the array."""
        return tuple(
            slice(*self._span(axis, number)) for axis, number in enumerate(index)
        )

    def touched(self, region: Region) -> tuple[range, ...]:
        """Return the numbers of the first to the last chunk that meets a region.

        Every one of them does, unless a step is larger than a chunk.
        """
        return tuple(
            range(self._number(axis, part[0]), self._number(axis, part[-1]) + 1)
            if part
            else range(0)
            for axis, part in enumerate(region)
        )

    def chunk_at(self, index: Sequence[int], region: Region) -> Chunk:
        """Return what the chunk at `index` holds of a region; may be nothing."""
        parts = zip(index, region, strict=True)
        slices = [self._slices(axis, *part) for axis, part in enumerate(parts)]
        inner, local = zip(*slices, strict=True)
        return Chunk(tuple(index), inner, local)

    def meeting(self, region: Region) -> Iterator[Chunk]:
        """Return every chunk that holds something of a region, the last axis fastest.

        Raises
        ------
        IndexError
            If the region leaves the array.
        """
        for part, length in zip(region, self.shape, strict=True):
            if part and not (part[0] >= 0 and part[-1] < length):
                raise IndexError(f"places {part} are outside an axis of {length}")
        axes = [self._along(axis, part) for axis, part in enumerate(region)]
        for chunk in itertools.product(*axes):
            index, inner, local = zip(*chunk, strict=True)
            yield Chunk(index, inner, local)

    def _along(self, axis: int, part: range) -> Iterator[tuple[int, slice, slice]]:
        """Yield (number, inner, local) of each chunk that is met along one axis."""
        done = 0
        while done < len(part):
            number = self._number(axis, part[done])
            inner, local = self._slices(axis, number, part)
            yield number, inner, local
            done = local.stop

    def _slices(self, axis: int, number: int, part: range) -> tuple[slice, slice]:
        start, stop = self._span(axis, number)
        first, last = _count_below(part, start), _count_below(part, stop)
        if first >= last:
            return slice(0, 0, part.step), slice(first, first)
        inner = slice(part[first] - start, part[last - 1] - start + 1, part.step)
        return inner, slice(first, last)

    def _span(self, axis: int, number: int) -> tuple[int, int]:
        """Return the first place of a chunk and the first one behind it."""
        starts = self._starts[axis]
        if not 0 <= number < len(starts):
            raise IndexError(f"no chunk {number} among {len(starts)} of axis {axis}")
        last = number + 1 == len(starts)
        return starts[number], self.shape[axis] if last else starts[number + 1]

    def _number(self, axis: int, place: int) -> int:
        return bisect_right(self._starts[axis], place) - 1


def forward(
    index: Any, shape: Sequence[int]
) -> tuple[list[range], tuple[int | slice, ...]]:
    """Split an index into places that go up, and the index of what is made of them.

    Parameters
    ----------
    index : int, slice, `...` or a tuple of them
        As NumPy takes it; axes that are not named are taken whole.
    shape : sequence of int
        Shape of the array that is indexed.

    Returns
    -------
    region : list of range
        One per axis.
    finish : tuple of int and slice
        Takes integer axes away and turns round those that went down.

    Raises
    ------
    IndexError
        If there are too many indices, one is outside, or it is anything else.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    dots = [k for k, part in enumerate(parts) if part is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can have only one '...'")
    if len(parts) - len(dots) > len(shape):
        raise IndexError(f"{len(parts) - len(dots)} indices for {len(shape)} axes")
    at = dots[0] if dots else len(parts)
    whole = [slice(None)] * (len(shape) - len(parts) + len(dots))
    parts[at : at + 1] = whole
    region: list[range] = []
    finish: list[int | slice] = []
    for part, length in zip(parts, shape, strict=True):
        if not isinstance(part, slice):
            place = _place(part, length)
            region.append(range(place, place + 1))
            finish.append(0)
            continue
        wanted = range(length)[part]
        region.append(wanted if wanted.step > 0 else wanted[::-1])
        finish.append(slice(None, None, 1 if wanted.step > 0 else -1))
    return region, tuple(finish)


def bounds(region: Region) -> tuple[slice, ...]:
    """Return the smallest box that holds a region; empty along an empty axis."""
    return tuple(
        slice(part[0], part[-1] + 1) if part else slice(0, 0) for part in region
    )


def _place(part: Any, length: int) -> int:
    try:
        if isinstance(part, (bool, np.bool_)):
            raise TypeError
        number = operator.index(part)
    except TypeError:
        raise IndexError(
            f"{part!r} is not understood as an index; use integers, slices and '...', "
            "or the dask array that .dask() returns"
        ) from None
    if not -length <= number < length:
        raise IndexError(f"index {number} is outside an axis of length {length}")
    return number % length


def _count_below(part: range, place: int) -> int:
    """Return how many places of a range that goes up lie before `place`."""
    return min(max(0, -((part.start - place) // part.step)), len(part))
