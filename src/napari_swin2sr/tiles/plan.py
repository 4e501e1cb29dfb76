"""How a plane is cut into tiles: integers only, nothing is read or computed here.

Every tile starts on the attention windows' own grid, counted from the corner of
the image, and carries real context on all sides; so the network sees in a tile
what it would see in the whole image, and tiles need no blending.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, overload

from napari_swin2sr.errors import InputError, OptionError
from napari_swin2sr.image.box import Box
from napari_swin2sr.options import DEFAULT_HALO, DEFAULT_TILE, check_halo

if TYPE_CHECKING:
    from napari_swin2sr.options import Halo
    from napari_swin2sr.weights.config import Swin2SRConfig

EXACT_TILE = 2048
"""Core of a tile when the halo, which is then wide, is exact [input px]."""

HALO_SHARE = 0.15
"""What the halo may add to the pixels of a tile where nobody chose the tile."""

DEFAULT_FORWARD_BYTES = 2.5e9
"""What one forward over the core of a tile may take where nobody chose the tile."""

MAX_BLOCKS = 10**7
"""Tiles times planes that an image may have: at the default tile 10 terapixels."""

_FEATURE_MAPS = 4  # of all features: one forward holds up to three, and some more


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
    index : tuple of int
        (row, column) in the plan.
    core : Box
        The part that is kept [input px of the image].
    read : Box
        The part to read, core included [input px of the image].
    pad : Pad
        Pixels to add after reading, mirrored ("symmetric") [input px].
    upscale : int
        Output pixels per input pixel and axis.
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

    def part(self, core: Box, reach: int) -> Tile:
        """Return a smaller tile that gives the same pixels as this one.

        `core` lies in the core and on the window grid, or ends where the core does;
        `reach` is the exact halo: what lies beyond cannot change a pixel [input px].
        """
        wide = core.grown(reach)
        read = wide.intersect(self.read)
        assert read is not None
        pad = Pad(
            self.pad.bottom if read.y1 == self.read.y1 else 0,
            self.pad.right if read.x1 == self.read.x1 else 0,
        )
        return Tile(self.index, core, read, pad, self.upscale)


@dataclass(frozen=True, slots=True)
class TilePlan(Sequence[Tile]):
    """The tiles of a plane, row by row; made on demand, so a plan is a few integers.

    Made by `plan_tiles`, which checks the numbers. It depends on nothing else: not
    on chunks of dask or of a file, not on the number of workers.

    Attributes
    ----------
    shape : tuple of int
        (height, width) of the plane [input px].
    core : int
        Side of a core; only the last of a row or column is shorter [input px].
    halo : int
        Real context per side [input px].
    multiple_of : int
        The attention window; tiles start and end on its grid [input px].
    upscale : int
        Output pixels per input pixel and axis.
    padded : bool
        Whether the plane already ends on the grid and gets no padding.
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
        side = self.core * self.upscale
        rows, columns = (
            (side,) * (n // side) + ((n % side,) if n % side else ()) or (0,)
            for n in self.output_shape
        )
        return rows, columns

    @property
    def pixel_overhead(self) -> float:
        """Pixels that the network sees per pixel of the plane (1 for an empty one)."""
        if not all(self.shape):
            return 1.0
        seen = self._pixels_read(0) * self._pixels_read(1)
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
        """Return the tile in row `i` and column `j` of the grid; neither negative."""
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

    def _pixels_read(self, axis: int) -> int:
        """Return the pixels along an axis that all tiles together read or pad."""
        n, n_tiles = self.shape[axis], self.grid_shape[axis]
        # Tiles from `first` to before `last` have their whole halo inside the image.
        first = min(_ceil(self.halo, self.core), n_tiles)
        last = max(first, (n - self.halo) // self.core)
        spans = (self._span(i, axis) for i in (*range(first), *range(last, n_tiles)))
        edges = sum(stop + pad - start for start, stop, pad in spans)
        return edges + (last - first) * (self.core + 2 * self.halo)

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
    shape : tuple of int
        (height, width) of the plane, 0 allowed [input px].
    core : int, optional
        Side of a core; rounded up to the window [input px].
    halo : int, optional
        Real context per side, a multiple of the window [input px].
    multiple_of : int, optional
        The attention window [input px].
    upscale : int, optional
        Output pixels per input pixel and axis.
    padded : bool, optional
        The plane already ends on the window grid; add nothing. For cutting a tile into
        smaller ones.

    Returns
    -------
    TilePlan
        The tiles, row by row.

    Raises
    ------
    OptionError
        If the halo is not a multiple of the window, or a number is too small.
    InputError
        If the shape has a negative side, or is not on the grid when `padded`.

    Examples
    --------
    >>> plan = plan_tiles((1000, 1500), core=512, halo=40)
    >>> plan.grid_shape
    (2, 3)
    >>> plan[0].read  # the core, and the halo where the image goes on
    Box(y0=0, x0=0, y1=552, x1=552)
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
    check_halo(halo, multiple_of)
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


def default_tile(config: Swin2SRConfig, halo: Halo) -> int:
    """Return the core of a tile for a model where nobody asks for another [input px].

    The least, in steps of 128 px, in which the halo adds less than `HALO_SHARE`, if
    one forward fits in `DEFAULT_FORWARD_BYTES`. It follows from the model alone, not
    from the memory of this machine: a run may go on elsewhere, and several machines
    may share it.
    """
    if halo == "exact":
        return EXACT_TILE
    wanted = 2 * config.halo(halo) / (math.sqrt(1 + HALO_SHARE) - 1)
    fits = math.sqrt(DEFAULT_FORWARD_BYTES / forward_bytes(config))
    return max(DEFAULT_TILE, min(math.ceil(wanted / 128), int(fits / 128)) * 128)


def forward_bytes(config: Swin2SRConfig) -> int:
    """Return the memory of one forward per input pixel."""
    return _FEATURE_MAPS * config.embed_dim * 4


def check_n_blocks(n_blocks: int) -> None:
    """Refuse an image of more tiles than could ever be computed or even counted."""
    if n_blocks > MAX_BLOCKS:
        raise InputError(
            f"the image has {n_blocks:,} tiles in all planes, and at most "
            f"{MAX_BLOCKS:,} are possible. Choose a larger tile, or upscale a part; if "
            "the image is not that large, its file is damaged"
        )
