"""One tile from its source to its result: read, fill, normalize, run, cast, restore."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_swin2sr.errors import Cancelled, InferenceError
from napari_swin2sr.image import nodata, resample
from napari_swin2sr.image.box import Box
from napari_swin2sr.image.intensity import ValueRange, cast, missing_pixels
from napari_swin2sr.image.sources import read_block

if TYPE_CHECKING:
    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.axes import AxisLayout
    from napari_swin2sr.tiles.plan import Tile
    from napari_swin2sr.weights.config import Swin2SRConfig

BlockFn: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(N, C, H, W) -> (N, C, uH, uW): normalized tiles, C 1 or 3, H and W on the grid."""

FAR_AWAY = 1e30
"""Normalized values beyond are treated like infinity: float32 sums would overflow."""

STRIP = 2**15
"""Numbers converted at a time: their float64 copies stay in a core's own cache."""


@runtime_checkable
class ConfiguredBlockFn(Protocol):
    """What a block function may offer: its network's configuration, and a device."""

    config: Swin2SRConfig
    device: str


@runtime_checkable
class ConcurrentBlockFn(Protocol):
    """What a block function may offer: several tiles at a time, and an early end."""

    tiles_at_once: int

    def __call__(
        self, tiles: NDArray[np.float32], *, cancel: CancelToken | None = None
    ) -> NDArray[np.float32]:
        """Run the network; raises `Cancelled` soon after the token is set."""


class CancellableBlockFn:
    """A block function that gives up its tile once a run is cancelled.

    Tiles of a device wait for each other anyway. Here they wait where the token is
    looked at, and those that were read ahead are not begun.
    """

    def __init__(self, block: BlockFn, cancel: CancelToken) -> None:
        self._block, self._cancel = block, cancel
        at_once = 1
        if isinstance(block, ConcurrentBlockFn):
            at_once, self._block = block.tiles_at_once, partial(block, cancel=cancel)
        self._turn = threading.Semaphore(at_once)

    def __call__(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network; raises `Cancelled` instead if it is too late."""
        with self._turn:
            if self._cancel.is_set():
                raise Cancelled("cancelled before this tile was computed")
            return self._block(tiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileWorker:
    """How every tile of an image is computed: the arguments of `LazyUpscaled`."""

    source: Any
    layout: AxisLayout
    block: BlockFn
    dtype: np.dtype[Any]
    nodata: float | None

    def compute(
        self, stack: tuple[int, ...], tile: Tile, values: ValueRange
    ) -> NDArray[Any]:
        """Return one tile of the result, (S|1, uY, uX), masked if the source is.

        The network does not run where all pixels are missing, or where the range says
        that the whole image is one constant; a constant tile alone is no exception, as
        its border would show.
        """
        has_alpha = self.layout.samples == 4
        part = self._read(stack, tile, values, resample.REACH if has_alpha else 0)
        if part.missing is not None and not part.missing[part.index(tile.core)].all():
            # Read again, with what missing pixels near the border look at: they must be
            # filled as they are inside another tile. Few tiles have any.
            part = self._read(stack, tile, values, nodata.REACH)
        core = part.index(tile.core)
        result = self._colors(part, tile, values)
        if has_alpha:
            alpha = part.alpha(tile, self.layout.plane_shape)
            result = np.concatenate([result, cast(alpha[None], self.dtype)])
        original = part.pixels[core]
        missing = None if part.missing is None else part.missing[core]
        nodata.restore(result, original, missing, tile.upscale, self.nodata)
        if not isinstance(original, np.ma.MaskedArray):
            return result
        mask = _repeat(np.ma.getmaskarray(original), tile.upscale)
        return np.ma.MaskedArray(result, mask)

    def _read(
        self, stack: tuple[int, ...], tile: Tile, values: ValueRange, margin: int
    ) -> _Part:
        """Read a tile and, where the image goes on, a margin around it."""
        box = tile.read.grown(margin).intersect(Box(0, 0, *self.layout.plane_shape))
        assert box is not None
        block = read_block(self.source, self.layout.plane_index(stack, box))
        pixels = self.layout.to_plane(block)
        missing = missing_pixels(pixels, self.nodata)
        model = _by_rows(values.to_model, np.ma.getdata(pixels[:3]), np.float32)
        far = ~(np.abs(model) <= FAR_AWAY)
        if far.any():
            missing = np.zeros(pixels.shape, bool) if missing is None else missing
            missing[:3] |= far
        return _Part(box, pixels, model, missing)

    def _colors(self, part: _Part, tile: Tile, values: ValueRange) -> NDArray[Any]:
        """Return the core's colors or gray values, cast, missing ones filled."""
        core = part.index(tile.core)
        missing = None if part.missing is None else part.missing[core][:3]
        if missing is not None and missing.all():
            shape = (min(3, self.layout.samples), *tile.write.shape)
            return np.zeros(shape, self.dtype)
        if values.is_constant:
            pixels = np.ma.getdata(part.pixels[core][:3])
            if missing is not None:
                pixels = np.where(missing, pixels.dtype.type(0), pixels)
            same = pixels.dtype == self.dtype
            return _repeat(pixels if same else cast(pixels, self.dtype), tile.upscale)

        def finish(model: NDArray[np.float32]) -> NDArray[Any]:
            return cast(values.from_model(model), self.dtype)

        return _by_rows(finish, self._run(part, tile), self.dtype)

    def _run(self, part: _Part, tile: Tile) -> NDArray[np.float32]:
        """Return the network's result for the core, normalized."""
        model = part.model
        if part.missing is not None:
            nodata.fill(model, part.missing[:3])
        padding = ((0, 0), (0, tile.pad.bottom), (0, tile.pad.right))
        padded = np.pad(model[part.index(tile.read)], padding, mode="symmetric")
        (result,) = np.asarray(self.block(np.ascontiguousarray(padded)[None]))
        samples, height, width = padded.shape
        expected = (samples, height * tile.upscale, width * tile.upscale)
        if result.shape != expected:
            raise InferenceError(
                f"the network made {result.shape} of a tile of shape {padded.shape}; "
                f"{expected} was expected"
            )
        core: NDArray[np.float32] = result[(slice(None), *tile.crop)]
        if not np.isfinite(core).all():
            raise InferenceError(
                f"the network gave {np.count_nonzero(~np.isfinite(core))} numbers that "
                f"are not finite for a tile of {core.size} finite ones; try "
                "precision='fp32'"
            )
        return core


@dataclass(frozen=True, slots=True)
class _Part:
    """What was read for a tile."""

    box: Box  # where [input px]
    pixels: NDArray[Any]  # (S, Y, X) as read, masked if the source is
    model: NDArray[np.float32]  # (1|3, Y, X) normalized, without alpha
    missing: NDArray[np.bool_] | None  # (S, Y, X), or None when nothing is

    def index(self, box: Box) -> tuple[slice, slice, slice]:
        """Return the index of a box of the image."""
        return (slice(None), *box.shifted(-self.box.y0, -self.box.x0).slices)

    def alpha(self, tile: Tile, plane_shape: tuple[int, int]) -> NDArray[np.float64]:
        """Return the interpolated transparency of the core; edges are repeated."""
        wanted = tile.core.grown(resample.REACH)
        there = wanted.intersect(Box(0, 0, *plane_shape))
        assert there is not None
        alpha = np.ma.getdata(self.pixels[3:]).astype(np.float64)
        if self.missing is not None:
            nodata.fill(alpha, self.missing[3:])
        padding = (
            (there.y0 - wanted.y0, wanted.y1 - there.y1),
            (there.x0 - wanted.x0, wanted.x1 - there.x1),
        )
        around = np.pad(alpha[self.index(there)][0], padding, mode="edge")
        return resample.upscale_plane(around, tile.upscale)


def _by_rows(
    convert: Callable[[NDArray[Any]], NDArray[Any]],
    planes: NDArray[Any],
    dtype: DTypeLike,
) -> NDArray[Any]:
    """Convert every number on its own, some rows at a time."""
    out = np.empty(planes.shape, dtype)
    step = max(1, STRIP * planes.shape[-2] // max(1, planes.size))
    for first in range(0, planes.shape[-2], step):
        rows = (..., slice(first, first + step), slice(None))
        out[rows] = convert(planes[rows])
    return out


def _repeat(planes: NDArray[Any], upscale: int) -> NDArray[Any]:
    return planes.repeat(upscale, axis=-2).repeat(upscale, axis=-1)
