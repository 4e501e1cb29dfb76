"""Which pixels are looked at to choose value ranges, and what is seen there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_swin2sr.image.box import Box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_swin2sr.image.axes import AxisLayout

SAMPLE_SIDE = 512
"""Side of a sampled block; its corner is a multiple, so it cuts few chunks."""

SAMPLE_BLOCKS = 16
"""Sampled blocks of a channel; channels of up to four times as many are read whole."""

_ALL_CHANNELS = 64
"""Sampled blocks of all channels together, unless that is under four for each."""


class Place(NamedTuple):
    """A block of one plane [input px]."""

    stack_index: tuple[int, ...]
    box: Box


def sample_places(layout: AxisLayout, channel: int) -> tuple[list[Place], bool]:
    """Choose which blocks of a channel are looked at, and whether they are all of it.

    Depends on the shape alone. Planes are cut in a grid of cells; a small channel is
    taken whole, of a large one a low-discrepancy sequence picks `SAMPLE_BLOCKS`
    (fewer if there are many channels), spread evenly over planes, rows and columns.
    """
    height, width = layout.plane_shape
    rows, columns = -(-height // SAMPLE_SIDE), -(-width // SAMPLE_SIDE)
    stack = [
        1 if axis == layout.c else layout.shape[axis] for axis in layout.stack_axes
    ]
    planes = math.prod(stack)
    n_cells = planes * rows * columns
    wanted = max(4, min(SAMPLE_BLOCKS, _ALL_CHANNELS // max(1, layout.n_channels)))
    complete = n_cells <= 4 * wanted
    cells = range(n_cells) if complete else _spread(wanted, planes, rows, columns)
    places = []
    for cell in cells:
        plane, rest = divmod(cell, rows * columns)
        y, x = (k * SAMPLE_SIDE for k in divmod(rest, columns))
        index = [int(k) for k in np.unravel_index(plane, stack)] if stack else []
        if layout.c is not None:
            index[layout.stack_axes.index(layout.c)] = channel
        box = Box(y, x, min(y + SAMPLE_SIDE, height), min(x + SAMPLE_SIDE, width))
        places.append(Place(tuple(index), box))
    return places, complete


def _spread(wanted: int, planes: int, rows: int, columns: int) -> list[int]:
    """Pick different cells: the points of Hammersley over planes, rows, columns."""
    cells: dict[int, None] = {}
    for k in range(16 * wanted):
        plane = int((k + 0.5) / wanted % 1 * planes)
        row = int((_mirrored(k, 2) + 0.5 / wanted) % 1 * rows)
        column = int((_mirrored(k, 3) + 0.5 / wanted) % 1 * columns)
        cells[(plane * rows + row) * columns + column] = None
        if len(cells) == wanted:
            break
    return list(cells)


def _mirrored(k: int, base: int) -> float:
    """Return the number whose digits behind the point are those of k, reversed."""
    number, unit = 0.0, 1.0
    while k:
        k, digit = divmod(k, base)
        unit /= base
        number += digit * unit
    return number


@dataclass(frozen=True, slots=True)
class Extrema:
    """Lowest and highest pixel of a block, with and without isolated ones."""

    low: float
    high: float
    robust_low: float
    robust_high: float

    @classmethod
    def from_pixels(
        cls, planes: NDArray[Any], missing: NDArray[np.bool_] | None
    ) -> Extrema | None:
        """Look at (S, Y, X) pixels of any real dtype; None if all are missing."""
        values = np.ma.getdata(planes)
        if missing is not None:
            valid = values[~missing]
            if not valid.size:
                return None
            values = values.copy()
            values[missing] = np.partition(valid, valid.size // 2)[valid.size // 2]
        bands = [(band.min(), band.max()) for band in median_bands(values)]
        return cls(
            float(values.min()),
            float(values.max()),
            float(min(low for low, _ in bands)),
            float(max(high for _, high in bands)),
        )


# scipy.ndimage.median_filter gives the same and takes 22 times as long.
def median_bands(planes: NDArray[Any], rows: int = 64) -> Iterator[NDArray[Any]]:
    """Yield bands of (S, Y, X): medians of every pixel and its 8 neighbors.

    Edges are repeated. A band of a few rows stays in the processor's cache.
    """
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = planes.shape[1:]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        v = [
            padded[:, top + i : bottom + i, j : width + j]
            for i in range(3)
            for j in range(3)
        ]
        for i, j in _MEDIAN_OF_9:
            v[i], v[j] = np.minimum(v[i], v[j]), np.maximum(v[i], v[j])
        yield v[4]


_MEDIAN_OF_9 = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8)),
    *((0, 3), (5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)
"""Compare-and-swap steps that bring the median of nine numbers to place 4."""
