"""`LazyUpscaled`: a super-resolved image that is computed where it is looked at.

Its tiles are fixed when it is made. A small read computes that part of a tile alone
that can reach it, which gives the tile's own pixels: what a pixel is does not depend
on how the array is sliced, by whom, or in which order. The network is any function of
normalized tiles; nothing of models is known here but how far they reach.
"""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import InputError, OptionError
from napari_swin2sr.image.box import Box
from napari_swin2sr.image.intensity import as_dtype, cast
from napari_swin2sr.image.sources import check_dtype, is_masked
from napari_swin2sr.tiles import cache
from napari_swin2sr.tiles.chunks import ChunkGrid, forward
from napari_swin2sr.tiles.worker import (
    BlockFn,
    CancellableBlockFn,
    ConfiguredBlockFn,
    ErrorScale,
    TileWorker,
    UpscaledTile,
)

if TYPE_CHECKING:
    import dask.array as da
    from numpy.typing import DTypeLike, NDArray

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.axes import AxisLayout
    from napari_swin2sr.image.intensity import ValueRange
    from napari_swin2sr.tiles.chunks import Chunk
    from napari_swin2sr.tiles.plan import TilePlan

__all__ = ["BlockFn", "ErrorScale", "LazyError", "LazyUpscaled"]


PART = 128
"""Small reads compute a tile in multiples of this [input px]."""

_owners = itertools.count()


class LazyUpscaled:
    """A super-resolved image with a numpy-like interface; nothing runs until indexed.

    Threads may share it, and it pickles as what it was made from.

    Parameters
    ----------
    source : array-like
        Array of `layout`'s shape: NumPy, zarr, dask or anything with shape, dtype and
        slicing. Read tile by tile, never written to.
    layout : AxisLayout
        Meaning of the axes.
    plan : TilePlan
        Tiles of a plane.
    ranges : tuple of ValueRange
        Value range of each channel.
    block : callable
        The network.
    dtype : dtype, optional
        Type of the result; by default that of the source.
    nodata : float, optional
        Value that marks missing pixels, in the source and in the result.
    token : str, optional
        Names the result for dask; by default made from all other arguments.
    error_scale : ErrorScale, optional
        Makes error bars of the half-widths that `block.with_error` gives: see `error`.

    Attributes
    ----------
    shape : tuple of int
        Shape of the result; Y and X in output px.
    dtype : numpy.dtype
        Type of the result, in native byte order.

    Raises
    ------
    InputError
        If the arguments do not fit each other or pixels are no real numbers.
    OptionError
        If `dtype` cannot hold an image, or not `nodata`.
    """

    def __init__(
        self,
        source: Any,
        layout: AxisLayout,
        plan: TilePlan,
        ranges: tuple[ValueRange, ...],
        block: BlockFn,
        *,
        dtype: DTypeLike | None = None,
        nodata: float | None = None,
        token: str | None = None,
        error_scale: ErrorScale | None = None,
    ) -> None:
        kind = check_dtype(source.dtype)
        if tuple(source.shape) != layout.shape or plan.shape != layout.plane_shape:
            raise InputError(
                f"an image of shape {tuple(source.shape)}, axes for {layout.shape} and "
                f"tiles for planes of {plan.shape} do not belong together"
            )
        if len(ranges) != layout.n_channels:
            raise InputError(
                f"{len(ranges)} value ranges for {layout.n_channels} channels"
            )
        self.source, self.layout, self.plan = source, layout, plan
        self.ranges, self.block, self.nodata = tuple(ranges), block, nodata
        self.shape = layout.output_shape(plan.upscale)
        self.dtype = kind if dtype is None else np.dtype(dtype).newbyteorder("=")
        cast(np.empty(0), self.dtype)  # refuses what cannot hold an image
        if (
            nodata is not None
            and as_dtype(nodata, kind) is not None
            and as_dtype(nodata, self.dtype) is None
        ):
            raise OptionError(
                f"nodata={nodata} cannot be marked in a result of dtype={self.dtype}; "
                "choose a type that holds it"
            )
        self._is_masked = is_masked(source)
        self._token = token
        self.error_scale = error_scale
        self._enter_cache()

    # -- what an array is -------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of pixels times samples."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole result."""
        return self.size * self.dtype.itemsize

    @property
    def axes(self) -> str:
        """One letter of TCZYXS per axis."""
        return self.layout.axes

    @property
    def upscale(self) -> int:
        """Output pixels per input pixel along Y and X."""
        return self.plan.upscale

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the blocks along each axis, as dask writes them."""
        chunks = [(1,) * n or (0,) for n in self.layout.shape]
        chunks[self.layout.y], chunks[self.layout.x] = self.plan.chunks
        if self.layout.s is not None:
            chunks[self.layout.s] = (self.layout.samples,)
        return tuple(chunks)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of blocks along each axis; 0 along an empty one."""
        return self._chunk_grid.grid_shape

    @property
    def n_blocks(self) -> int:
        """Number of blocks: tiles times planes."""
        return math.prod(self.grid)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return (
            f"LazyUpscaled(shape={self.shape}, dtype={self.dtype}, axes={self.axes!r}, "
            f"upscale={self.upscale}, blocks={self.n_blocks})"
        )

    # -- blocks -----------------------------------------------------------------------

    def block_at(self, index: tuple[int, ...]) -> NDArray[Any]:
        """Compute one block: one tile of one plane, all samples; nothing is cached.

        Errors have a note that says which block it was.
        """
        return self.pair_at(index).image

    def pair_at(self, index: tuple[int, ...], part: Box | None = None) -> UpscaledTile:
        """Compute one block and, with an error scale, its error, from one forward.

        With a part of the image [input px], only that of the block is computed.
        """
        stack, (i, j) = self._split(index)
        tile = self.plan.tile_at(i, j)
        if part is not None:
            block: object = self.block
            assert isinstance(block, ConfiguredBlockFn)
            tile = tile.part(part, block.config.exact_halo)
        worker = TileWorker(
            source=self.source,
            layout=self.layout,
            block=self.block,
            dtype=self.dtype,
            nodata=self.nodata,
            error=self.error_scale,
        )
        values = self.ranges[self.layout.channel_of(stack)]
        with cache.TILES:
            try:
                image, error = worker.compute(stack, tile, values)
            except Exception as error:
                error.add_note(f"in block {tuple(index)}, input pixels {tile.core}")
                raise
        return UpscaledTile(
            self.layout.from_plane(image),
            None if error is None else self.layout.from_plane(error),
        )

    @property
    def error(self) -> LazyError:
        """The half-widths of its error bars, as an array like this one.

        Raises
        ------
        OptionError
            If it was made without an error scale.
        """
        return LazyError(self)

    def until(self, cancel: CancelToken) -> LazyUpscaled:
        """Return the same image for one run: no tile is begun once `cancel.is_set()`.

        Computing then raises `Cancelled`.
        """
        cancellable = copy.copy(self)
        cancellable.block = CancellableBlockFn(self.block, cancel)
        return cancellable

    def slices_at(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Return where the block at `index` lies in the result."""
        stack, (i, j) = self._split(index)
        return self.layout.plane_index(stack, self.plan.tile_at(i, j).write)

    def _split(self, index: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, int]]:
        grid = self.grid
        if len(index) != len(grid) or not all(
            0 <= k < n for k, n in zip(index, grid, strict=True)
        ):
            raise IndexError(f"no block {tuple(index)} in a grid of {grid}")
        stack = tuple(index[axis] for axis in self.layout.stack_axes)
        return stack, (index[self.layout.y], index[self.layout.x])

    # -- slicing ----------------------------------------------------------------------

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Compute the tiles that are touched and return the pixels asked for.

        Integers, slices of any step and `...` are understood, nothing else; `dask()`
        understands more.
        """
        return self.read(key)

    def read(self, key: Any, *, error: bool = False) -> NDArray[Any]:
        """Return the pixels asked for, or their error."""
        region, finish = forward(key, self.shape)
        shape = tuple(map(len, region))
        out = np.empty(shape, np.float32) if error else self._empty(shape)
        # Going through an image that the cache cannot hold would only push out of it
        # what is being looked at.
        fits = self._bytes_with_error <= cache.CACHE.limit_bytes
        for chunk in self._chunk_grid.meeting(region):
            whole = [slice(0, s.stop - s.start, 1) for s in self.slices_at(chunk.index)]
            keep = fits or list(chunk.inner) != whole
            part, inner = self._part(chunk)
            tile = self.cached(chunk.index, part, keep=keep)[int(error)]
            assert tile is not None
            out[chunk.local] = tile[inner]
        view: NDArray[Any] = out[finish]
        return view

    def _part(self, chunk: Chunk) -> tuple[Box | None, tuple[slice, ...]]:
        """Return the part of a tile to compute [input px], and the index in it.

        None for the whole tile: where that is here already, most of it is wanted, or
        nothing is known of the network's reach.
        """
        block: object = self.block
        if not isinstance(block, ConfiguredBlockFn):
            return None, chunk.inner
        if cache.CACHE.get(self._owner, chunk.index) is not None:
            return None, chunk.inner
        core = self.plan.tile_at(*self._split(chunk.index)[1]).core
        side = -(-PART // self.plan.multiple_of) * self.plan.multiple_of
        step, inner = side * self.upscale, list(chunk.inner)
        corners = []
        for axis, length in ((self.layout.y, core.height), (self.layout.x, core.width)):
            wanted = inner[axis]
            first, last = wanted.start // step, -(-wanted.stop // step)
            corners.append((first * side, min(last * side, length)))
            offset = first * step
            inner[axis] = slice(
                wanted.start - offset, wanted.stop - offset, wanted.step
            )
        (y0, y1), (x0, x1) = corners
        if 2 * (y1 - y0) * (x1 - x0) > core.height * core.width:
            return None, chunk.inner
        return Box(y0, x0, y1, x1).shifted(core.y0, core.x0), tuple(inner)

    @property
    def _bytes_with_error(self) -> int:
        return self.nbytes + (0 if self.error_scale is None else 4 * self.size)

    @property
    def _chunk_grid(self) -> ChunkGrid:
        sides = [1] * self.ndim
        sides[self.layout.y] = sides[self.layout.x] = self.plan.core * self.upscale
        if self.layout.s is not None:
            sides[self.layout.s] = self.layout.samples
        return ChunkGrid.from_sides(self.shape, sides)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        """Compute everything."""
        if copy is False:
            raise ValueError("a lazy array cannot be an array without computing it")
        return np.asarray(self[...], dtype)

    def cached(
        self, index: tuple[int, ...], part: Box | None = None, *, keep: bool = True
    ) -> UpscaledTile:
        """Return a block, or part of it, and its error, cached or made; read-only."""

        def make() -> UpscaledTile:
            if self.error_scale is None and part is None:
                tile = UpscaledTile(self.block_at(index), None)
            else:
                tile = self.pair_at(index, part)
            for array in tile:
                if array is not None:
                    array.flags.writeable = False
            return tile

        wait = not cache.TILES.is_mine
        key = index if part is None else (*index, part)
        tile: UpscaledTile = cache.CACHE.get_or_make(
            self._owner, key, make, wait=wait, keep=keep
        )
        return tile

    def _empty(self, shape: tuple[int, ...]) -> NDArray[Any]:
        out = np.empty(shape, self.dtype)
        return np.ma.MaskedArray(out, np.zeros(shape, bool)) if self._is_masked else out

    # -- dask, pickle -----------------------------------------------------------------

    @property
    def token(self) -> str:
        """Names the result: equal for equal arguments, in every process."""
        if self._token is None:
            from dask.base import tokenize

            self._token = tokenize(
                self.source,
                self.layout,
                self.plan,
                self.ranges,
                self.block,
                self.dtype,
                self.nodata,
                *([] if self.error_scale is None else [self.error_scale.factor]),
            )
        return self._token

    def __dask_tokenize__(self) -> tuple[str, str]:
        """Name the result without computing it."""
        return "napari_swin2sr.LazyUpscaled", self.token

    def dask(self) -> da.Array:
        """Return a dask array of the result: one task per block, nothing computed."""
        import dask.array as da

        view: da.Array = da.from_array(
            Indexable(self),  # so dask hands slices on, and a small one costs little
            chunks=self.chunks,
            name=f"swin2sr-{self.token}",
            asarray=False,
            meta=self._empty((0,) * self.ndim),
        )
        return view

    def dask_pair(self) -> tuple[da.Array, da.Array]:
        """Return dask arrays of the result and of its error; nothing is computed.

        A block and its error come from one task, so that computing both, or parts of
        both, costs one forward per tile.
        """
        import dask.array as da
        from dask.highlevelgraph import HighLevelGraph

        source, pair = f"swin2sr-of-{self.token}", f"swin2sr-pair-{self.token}"
        places = list(itertools.product(*map(range, map(len, self.chunks))))
        empty = 0 in self.shape
        tasks: dict[Any, Any] = {source: self}
        tasks |= {(pair, *k): (_pair_of, source, k, empty) for k in places}
        arrays = []
        for number, part in enumerate(("image", "error")):
            name = f"swin2sr-{part}-{self.token}"
            parts: Any = {(name, *k): (_part_of, (pair, *k), number) for k in places}
            graph = HighLevelGraph(
                {pair: tasks, name: parts}, {pair: set(), name: {pair}}
            )
            nothing = (0,) * self.ndim
            meta = np.empty(nothing, np.float32) if number else self._empty(nothing)
            arrays.append(da.Array(graph, name, self.chunks, meta=meta))
        return arrays[0], arrays[1]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_owner"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._enter_cache()

    def _enter_cache(self) -> None:
        self._owner = next(_owners)
        weakref.finalize(self, cache.CACHE.forget, self._owner)


class Indexable:
    """An image that is indexed with lists, too, as dask does."""

    def __init__(self, of: LazyUpscaled) -> None:
        self.of, self.shape, self.dtype, self.ndim = of, of.shape, of.dtype, of.ndim

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read the box around what is asked for, and take it from there."""
        parts = key if isinstance(key, tuple) else (key,)
        if not any(isinstance(part, (list, np.ndarray)) for part in parts):
            return self.of[key]
        boxes, inner = [], []
        for part, length in zip(parts, self.shape, strict=False):
            if isinstance(part, slice):
                box, rest = part, slice(None)
            else:
                places = np.arange(length)[part]
                first = int(places.min(initial=length))
                box, rest = (
                    slice(first, int(places.max(initial=-1)) + 1),
                    places - first,
                )
            boxes.append(box)
            inner.append(rest)
        view: NDArray[Any] = self.of[tuple(boxes)][tuple(inner)]
        return view


class LazyError:
    """How far a super-resolved image may be off, computed where it is looked at.

    Half-widths [units of the image], float32, of the same shape and chunks; NaN where
    a pixel is missing or transparent, and in the alpha channel. A tile and its error
    come from one forward and one cache.

    Parameters
    ----------
    of : LazyUpscaled
        The image, with an error scale.

    Raises
    ------
    OptionError
        If it has none.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, of: LazyUpscaled) -> None:
        if of.error_scale is None:
            raise OptionError("this image was made without trust, so it has no error")
        self.of, self.shape, self.ndim = of, of.shape, of.ndim

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return self.of.size * self.dtype.itemsize

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Sizes of the blocks along each axis, as dask writes them."""
        return self.of.chunks

    def block_at(self, index: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the error of one block; the image's is computed and cached with it."""
        error = self.of.cached(index).error
        assert error is not None
        return error

    def slices_at(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Return where the block at `index` lies."""
        return self.of.slices_at(index)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        """Compute the tiles that are touched, as for the image."""
        return self.of.read(key, error=True)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        """Compute everything."""
        if copy is False:
            raise ValueError("a lazy array cannot be an array without computing it")
        return np.asarray(self[...], dtype)


def _pair_of(lazy: LazyUpscaled, index: tuple[int, ...], empty: bool) -> UpscaledTile:
    if empty:
        shape = tuple(sizes[k] for sizes, k in zip(lazy.chunks, index, strict=True))
        return UpscaledTile(np.empty(shape, lazy.dtype), np.empty(shape, np.float32))
    return lazy.cached(index)


def _part_of(pair: UpscaledTile, number: int) -> NDArray[Any]:
    part = pair[number]
    assert part is not None
    return part
