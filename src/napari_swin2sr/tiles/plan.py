"""How a plane is cut into tiles: integers only, nothing is read or computed here.

Every tile starts on the attention windows' own grid, counted from the corner of
the image, and carries real context on all sides; so the network sees in a tile
what it would see in the whole image, and tiles need no blending.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from napari_swin2sr.errors import InputError, OptionError
from napari_swin2sr.options import DEFAULT_TILE

DEFAULT_HALO = 48
"""Input pixels of real context per side: no seam above 0.02 of 255 levels."""


@dataclass(frozen=True, slots=True)
class Box:
    """Rectangle [y0, y1) x [x0, x1) of pixels; which pixels, the owner says."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        """Rows in the box."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Columns in the box."""
        return self.x1 - self.x0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index of a (Y, X) array."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def scaled(self, upscale: int) -> Box:
        """Return the same area on a grid that is `upscale` times finer."""
        return Box(
            self.y0 * upscale, self.x0 * upscale, self.y1 * upscale, self.x1 * upscale
        )

    def shifted(self, dy: int, dx: int) -> Box:
        """Return the box moved by (dy, dx)."""
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def grown(self, margin: int) -> Box:
        """Return the box with `margin` more pixels on every side."""
        return Box(
            self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin
        )

    def intersect(self, other: Box) -> Box | None:
        """Return what both boxes share, or None when that is nothing."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Box(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


class Pad(NamedTuple):
    """Made-up pixels beyond the far edges of the image (never on the near sides)."""

    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Tile:
    """One call of the network: what to read, how to pad, what to keep.

    The last tile of a plane whose far corner lies inside it::

        window grid   :       :       :       :       :       :
                      +-------------------------------+-------+
                      |  read (real pixels)           |       |
                      |       +-----------------------+       |
                      |       |  core                 |  pad  |
                      | halo  |  (kept)               |       |
                      |       |                       |       |
                      +-------+-----------------------+       |   <- image edge
                      |          pad (mirrored pixels)        |
                      +---------------------------------------+   <- padded_shape

    Cores partition the plane. `read` = core + halo, clipped to the image; it starts
    on the window grid. `pad` completes the last window beyond the far edges.

    Attributes
    ----------
    index : (row, column) of the tile in its plan
    core : the part that is kept [input px of the image]
    read : the part to read, core included [input px of the image]
    pad : pixels to add after reading, mirrored ("symmetric") [input px]
    upscale : output pixels per input pixel and axis
    """

    index: tuple[int, int]
    core: Box
    read: Box
    pad: Pad
    upscale: int

    @property
    def padded_shape(self) -> tuple[int, int]:
        """Size of the network's input, multiples of the window [input px]."""
        return self.read.height + self.pad.bottom, self.read.width + self.pad.right

    @property
    def crop(self) -> tuple[slice, slice]:
        """The core's place in the network's output for this tile [output px]."""
        return (
            self.core.shifted(-self.read.y0, -self.read.x0).scaled(self.upscale).slices
        )

    @property
    def write(self) -> Box:
        """The core's place in the whole result [output px]."""
        return self.core.scaled(self.upscale)


@dataclass(frozen=True, slots=True)
class TilePlan(Sequence[Tile]):
    """The tiles of a plane, row by row; made on demand, so a plan is a few integers.

    Made by `plan_tiles`, which checks the numbers. It depends on nothing else: not
    on chunks of dask or of a file, not on the number of workers.

    Attributes
    ----------
    shape : (height, width) of the plane [input px]
    core : side of a core; only the last of a row or column is shorter [input px]
    halo : real context per side [input px]
    multiple_of : the attention window; tiles start and end on its grid [input px]
    upscale : output pixels per input pixel and axis
    padded : the plane itself already ends on the grid and gets no padding
    """

    shape: tuple[int, int]
    core: int
    halo: int
    multiple_of: int
    upscale: int
    padded: bool = False

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Tiles per column and per row; 0 along an empty axis."""
        rows, columns = (_ceil(n, self.core) for n in self.shape)
        return rows, columns

    @property
    def output_shape(self) -> tuple[int, int]:
        """(height, width) of the result [output px]."""
        return self.shape[0] * self.upscale, self.shape[1] * self.upscale

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sizes of the cores along Y and X, as dask writes them [output px]."""
        rows, columns = (
            tuple(
                min(self.core, n - i * self.core) * self.upscale
                for i in range(_ceil(n, self.core))
            )
            or (0,)
            for n in self.shape
        )
        return rows, columns

    @property
    def pixel_overhead(self) -> float:
        """Pixels that the network sees per pixel of the plane (1 for an empty one)."""
        if not all(self.shape):
            return 1.0
        seen = 1
        for axis, n_tiles in enumerate(self.grid_shape):
            spans = (self._span(i, axis) for i in range(n_tiles))
            seen *= sum(stop + pad - start for start, stop, pad in spans)
        return seen / (self.shape[0] * self.shape[1])

    def __len__(self) -> int:
        rows, columns = self.grid_shape
        return rows * columns

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tile]: ...
    def __getitem__(self, index: int | slice) -> Tile | list[Tile]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        return self.tile_at(*divmod(numbers, self.grid_shape[1]))

    def __iter__(self) -> Iterator[Tile]:
        rows, columns = self.grid_shape
        return (self.tile_at(i, j) for i in range(rows) for j in range(columns))

    def tile_at(self, i: int, j: int) -> Tile:
        """Return the tile in row `i` and column `j` of the grid.

        Raises
        ------
        IndexError
            If the grid has no such row or column; negative numbers are not allowed.
        """
        rows, columns = self.grid_shape
        if not (0 <= i < rows and 0 <= j < columns):
            raise IndexError(f"no tile ({i}, {j}) in a grid of {rows} x {columns}")
        (top, end_y, bottom), (left, end_x, right) = self._span(i, 0), self._span(j, 1)
        core = Box(
            i * self.core,
            j * self.core,
            min((i + 1) * self.core, self.shape[0]),
            min((j + 1) * self.core, self.shape[1]),
        )
        read = Box(top, left, end_y, end_x)
        return Tile((i, j), core, read, Pad(bottom, right), self.upscale)

    def tiles_touching(self, box: Box) -> list[Tile]:
        """Return the tiles that share pixels with `box` [output px], row by row."""
        inside = box.intersect(Box(0, 0, *self.output_shape))
        if inside is None:
            return []
        side = self.core * self.upscale
        return [
            self.tile_at(i, j)
            for i in range(inside.y0 // side, _ceil(inside.y1, side))
            for j in range(inside.x0 // side, _ceil(inside.x1, side))
        ]

    def _span(self, index: int, axis: int) -> tuple[int, int, int]:
        """Return where reading starts and stops along an axis, and the padding."""
        n, window = self.shape[axis], self.multiple_of
        # The reference pads to the *next* multiple, a whole window if n is one.
        line = n if self.padded else (n // window + 1) * window
        core_stop = min((index + 1) * self.core, n)
        far = min(line, _ceil(core_stop, window) * window + self.halo)
        start, stop, pad = max(0, index * self.core - self.halo), min(far, n), 0
        if far > n:
            pad = far - n
            # Without a halo a short last tile may have fewer pixels than its padding
            # mirrors: one window more, which the crop takes away again, makes the
            # mirror image the same as in the whole image.
            if n - start < pad:
                start = max(0, start - window)
        return start, stop, pad


def plan_tiles(
    shape: tuple[int, int],
    *,
    core: int = DEFAULT_TILE,
    halo: int = DEFAULT_HALO,
    multiple_of: int = 8,
    upscale: int = 2,
    padded: bool = False,
) -> TilePlan:
    """Cut a plane into tiles.

    Parameters
    ----------
    shape : (height, width) of the plane, 0 allowed [input px]
    core : side of a core; rounded up to the window [input px]
    halo : real context per side, a multiple of the window [input px]
    multiple_of : the attention window [input px]
    upscale : output pixels per input pixel and axis
    padded : the plane already ends on the window grid; add nothing (for cutting a
        tile into smaller ones)

    Raises
    ------
    OptionError
        If the halo is not a multiple of the window (the text names the next one),
        or a number is too small.
    InputError
        If the shape has a negative side, or is not on the grid when `padded`.
    """
    for name, value, least in (
        ("tile", core, 1),
        ("halo", halo, 0),
        ("window", multiple_of, 1),
        ("upscale", upscale, 1),
    ):
        if value < least:
            raise OptionError(
                f"{name}={value} is too small; at least {least} is needed"
            )
    if halo % multiple_of:
        raise OptionError(
            f"halo={halo} is not a multiple of the model's window of {multiple_of} px, "
            f"so tiles would leave the window grid; use {_up(halo, multiple_of)}"
        )
    height, width = shape
    if height < 0 or width < 0:
        raise InputError(f"a plane of {height} x {width} px cannot exist")
    if padded and (height % multiple_of or width % multiple_of):
        raise InputError(
            f"a padded plane of {height} x {width} px must have sides that are "
            f"multiples of {multiple_of}"
        )
    return TilePlan(
        (height, width), _up(core, multiple_of), halo, multiple_of, upscale, padded
    )


def _ceil(n: int, step: int) -> int:
    return -(-n // step)


def _up(n: int, step: int) -> int:
    return _ceil(n, step) * step
