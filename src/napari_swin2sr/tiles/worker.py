"""One tile from its source to its result: read, fill, normalize, run, cast, restore."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    Protocol,
    TypeAlias,
    runtime_checkable,
)

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
    """What a block function may offer: several tiles at a time, cores, an early end."""

    tiles_at_once: int

    def __call__(
        self,
        tiles: NDArray[np.float32],
        *,
        core: Box | None = None,
        cancel: CancelToken | None = None,
    ) -> NDArray[np.float32]:
        """Run the network and return the core's part of its result.

        Raises `Cancelled` soon after the token is set.
        """


class ErrorBlockFn(Protocol):
    """What a block function must offer to tell how far its result may be off."""

    def __call__(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the result alone."""

    def with_error(
        self, tiles: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the same result and, of the same shape, nonnegative half-widths."""


@dataclass(frozen=True, slots=True)
class ErrorScale:
    """What makes error bars of a block function's half-widths."""

    factor: float
    record: tuple[tuple[str, Any], ...] = ()  # where it comes from, for provenance


class UpscaledTile(NamedTuple):
    """One tile of the result, and how far it may be off where that was asked for."""

    image: NDArray[Any]
    error: NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.image.nbytes + (0 if self.error is None else self.error.nbytes)


class CancellableBlockFn:
    """A block function that gives up its tile once a run is cancelled.

    Tiles of a device wait for each other anyway. Here they wait where the token is
    looked at, and those that were read ahead are not begun.
    """

    def __init__(self, block: BlockFn, cancel: CancelToken) -> None:
        self._block: Any = block
        self._cancel, self._early, at_once = cancel, {}, 1
        if isinstance(block, ConcurrentBlockFn):  # then this is one, too
            self.tiles_at_once = at_once = block.tiles_at_once
            self._early = {"cancel": cancel}
        self._turn = threading.Semaphore(at_once)

    def __call__(self, tiles: NDArray[np.float32], **core: Box) -> NDArray[np.float32]:
        """Run the network; raises `Cancelled` instead if it is too late."""
        result: NDArray[np.float32] = self._run(self._block, tiles, core)
        return result

    def with_error(
        self, tiles: NDArray[np.float32], **core: Box
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the network with its error; raises `Cancelled` if it is too late."""
        result, error = self._run(self._block.with_error, tiles, core)
        return result, error

    def _run(
        self,
        block: Callable[..., Any],
        tiles: NDArray[np.float32],
        core: dict[str, Box],
    ) -> Any:
        with self._turn:
            if self._cancel.is_set():
                raise Cancelled("cancelled before this tile was computed")
            return block(tiles, **core, **self._early)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileWorker:
    """How every tile of an image is computed: the arguments of `LazyUpscaled`."""

    source: Any
    layout: AxisLayout
    block: BlockFn
    dtype: np.dtype[Any]
    nodata: float | None
    error: ErrorScale | None = None

    def compute(
        self, stack: tuple[int, ...], tile: Tile, values: ValueRange
    ) -> UpscaledTile:
        """Return one tile of the result, (S|1, uY, uX), masked if the source is.

        Its error is NaN where a pixel is missing or transparent, and in the alpha
        channel, which no network makes.

        The network does not run where all pixels are missing, or where the range says
        that the whole image is one constant; a constant tile alone is no exception, as
        its border would show.
        """
        has_alpha = self.layout.samples == 4
        part = self._read(stack, tile, values, resample.REACH if has_alpha else 0)
        if part.absent is not None and not self._is_absent(part, tile):
            # Read again, with what absent pixels near the border look at: they must be
            # filled as they are inside another tile. Few tiles have any.
            part = self._read(stack, tile, values, nodata.REACH)
        core = part.index(tile.core)
        absent = None if part.absent is None else part.absent[core]
        original = part.pixels[core]
        result, error = self._colors(part, tile, values)
        if error is not None and absent is not None:
            error[_repeat(absent, tile.upscale)] = np.nan
        if has_alpha:
            alpha = cast(part.alpha(tile, self.layout.plane_shape)[None], self.dtype)
            _show_hidden(result, original, alpha, tile.upscale)
            result = np.concatenate([result, alpha])
            if error is not None:
                unknown = np.full(alpha.shape, np.nan, np.float32)
                error = np.concatenate([error, unknown])
        missing = None if part.missing is None else part.missing[core]
        nodata.restore(result, original, missing, tile.upscale, self.nodata)
        if isinstance(original, np.ma.MaskedArray):
            mask = _repeat(np.ma.getmaskarray(original), tile.upscale)
            result = np.ma.MaskedArray(result, mask)
        return UpscaledTile(result, error)

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
        absent = None if missing is None else missing[:3]
        if len(pixels) == 4 and (hidden := np.ma.getdata(pixels[3:]) == 0).any():
            # Color programs leave black, or anything, under transparent pixels.
            absent = hidden.repeat(3, axis=0) if absent is None else absent | hidden
        return _Part(box, pixels, model, missing, absent)

    def _is_absent(self, part: _Part, tile: Tile) -> bool:
        """Tell whether nothing of the core will be seen.

        Interpolated, a pixel may be seen where its own alpha is 0.
        """
        assert part.absent is not None
        reach = resample.REACH if self.layout.samples == 4 else 0
        around = tile.core.grown(reach).intersect(Box(0, 0, *self.layout.plane_shape))
        assert around is not None
        return bool(part.absent[part.index(around)].all())

    def _colors(
        self, part: _Part, tile: Tile, values: ValueRange
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Return the core's colors or gray values, cast, absent ones filled; error."""
        core = part.index(tile.core)
        shape = (min(3, self.layout.samples), *tile.write.shape)
        nothing = None if self.error is None else np.zeros(shape, np.float32)
        if part.absent is not None and self._is_absent(part, tile):
            return np.zeros(shape, self.dtype), nothing
        if values.is_constant:
            pixels = np.ma.getdata(part.pixels[core][:3])
            if part.absent is not None:  # as the others are
                color = pixels.dtype.type(values.low)
                pixels = np.where(part.absent[core], color, pixels)
            cast_pixels = pixels
            if pixels.dtype != self.dtype:
                cast_pixels = cast(pixels, self.dtype)
            return _repeat(cast_pixels, tile.upscale), nothing

        def finish(model: NDArray[np.float32]) -> NDArray[Any]:
            return cast(values.from_model(model), self.dtype)

        def scale(half_width: NDArray[np.float32]) -> NDArray[np.float32]:
            assert self.error is not None
            return cast(self.error.factor * values.widths(half_width), np.float32)

        image, *error = self._run(part, tile)
        colors = _by_rows(finish, image, self.dtype)
        return colors, _by_rows(scale, error[0], np.float32) if error else None

    def _run(self, part: _Part, tile: Tile) -> list[NDArray[np.float32]]:
        """Return the network's result for the core, normalized, and its error."""
        model = part.model
        if part.absent is not None:
            nodata.fill(model, part.absent)
        padding = ((0, 0), (0, tile.pad.bottom), (0, tile.pad.right))
        padded = np.pad(model[part.index(tile.read)], padding, mode="symmetric")
        tiles = np.ascontiguousarray(padded)[None]
        box = tile.core.shifted(-tile.read.y0, -tile.read.x0)
        (samples, *_), whole = padded.shape, Box(0, 0, *padded.shape[1:])
        only: dict[str, Box] = (
            {"core": box} if isinstance(self.block, ConcurrentBlockFn) else {}
        )
        if self.error is None:
            results = (self.block(tiles, **only),)
        else:
            results = self.block.with_error(tiles, **only)  # type: ignore[attr-defined]
        found = box if only else whole
        return [self._core(one, tile, (samples, *found.shape)) for one in results]

    def _core(
        self, results: NDArray[np.float32], tile: Tile, shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """Cut the core out of what the network made of a part of this shape."""
        (result,) = np.asarray(results)
        samples, height, width = shape
        crop = tile.crop if (height, width) != tile.core.shape else (slice(None),) * 2
        expected = (samples, height * tile.upscale, width * tile.upscale)
        if result.shape != expected:
            raise InferenceError(
                f"the network made {result.shape} of a tile of shape {shape}; "
                f"{expected} was expected"
            )
        core: NDArray[np.float32] = result[(slice(None), *crop)]
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
    absent: NDArray[np.bool_] | None  # (1|3, Y, X): missing or transparent, or None

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


def _show_hidden(
    colors: NDArray[Any], original: NDArray[Any], alpha: NDArray[Any], upscale: int
) -> None:
    """Give back the colors under transparent pixels where they stay invisible."""
    pixels = np.ma.getdata(original)
    hidden = _repeat(pixels[3:] == 0, upscale) & (alpha <= 0)
    if hidden.any():
        hidden = np.broadcast_to(hidden, colors.shape)
        under = pixels[:3]
        if under.dtype != colors.dtype:
            with np.errstate(invalid="ignore"):
                under = cast(np.nan_to_num(under), colors.dtype)
        colors[hidden] = _repeat(under, upscale)[hidden]


def _repeat(planes: NDArray[Any], upscale: int) -> NDArray[Any]:
    return planes.repeat(upscale, axis=-2).repeat(upscale, axis=-1)
