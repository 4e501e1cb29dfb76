"""What a run does in its thread: whole images, visible regions, files.

Nothing here touches a layer or Qt: all that is needed of a layer is taken before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_swin2sr.errors import Cancelled, MemoryLimitError
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.estimate import remember_speed
from napari_swin2sr.plugin.live.tiles import Bounds
from napari_swin2sr.plugin.worker import Report, Token

if TYPE_CHECKING:
    from napari_swin2sr.engine.reference import ModelHandle
    from napari_swin2sr.tiles.lazy import LazyUpscaled


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has made.

    Attributes
    ----------
    handle : the model that made it
    pixels : the result, or None if it is in a file
    record : how it was made, for provenance
    """

    handle: ModelHandle
    pixels: NDArray[Any] | None = None
    record: dict[str, Any] | None = None


def handle(options: UpscaleOptions) -> Callable[[Report, Token], ModelHandle]:
    """Return work that gives the model, ready to be used."""
    return lambda report, token: find_model(options, report, token)


def find_model(options: UpscaleOptions, report: Report, token: Token) -> ModelHandle:
    """Return the model, downloaded if it is not on this machine."""
    from napari_swin2sr.engine.reference import ModelHandle
    from napari_swin2sr.weights.catalog import resolve_model

    def downloading(done: int, total: int | None) -> None:
        if token.is_set():
            raise Cancelled("cancelled during the download")
        of = "" if total is None else f" of {total / 1e6:.0f}"
        report(f"downloading {options.model}: {done / 1e6:.0f}{of} MB")

    resolve_model(options.model, progress=downloading)
    return ModelHandle.open(options.model, options.device, options.precision)


def plan(
    image: SpatialImage, options: UpscaleOptions, report: Report, token: Token
) -> LazyUpscaled:
    """Return the result, not computed yet; the network is loaded."""
    from napari_swin2sr.upscale import prepare

    find_model(options, report, token)
    report("choosing the value range")
    lazy = prepare(image, options)
    report("loading the network")
    load = getattr(lazy.block, "load", None)
    if load is not None:
        load()
    return lazy


def in_memory(
    image: SpatialImage, options: UpscaleOptions
) -> Callable[[Report, Token], Result]:
    """Return work that gives the whole result as an array."""

    def work(report: Report, token: Token) -> Result:
        lazy = plan(image, options, report, token)
        out = _room_for(lazy.shape, lazy.dtype)
        return _run(lazy, lazy, out, out, options, report, token)

    return work


def region(
    image: SpatialImage, options: UpscaleOptions, bounds: Bounds
) -> Callable[[Report, Token], Result]:
    """Return work that gives the part of the result that shows some input pixels.

    Parameters
    ----------
    bounds : (first, last + 1) per axis of the image [input px]
    """

    def work(report: Report, token: Token) -> Result:
        lazy = plan(image, options, report, token)
        part = Part(lazy, bounds)
        out = _room_for(part.shape, lazy.dtype)
        return _run(lazy, part, _Cropping(out, part), out, options, report, token)

    return work


def to_disk(
    image: SpatialImage, options: UpscaleOptions, target: Path, overwrite: bool
) -> Callable[[Report, Token], Result]:
    """Return work that writes the result to a file."""

    def work(report: Report, token: Token) -> Result:
        from napari_swin2sr.files import upscale_image

        model = find_model(options, report, token)
        upscale_image(
            image,
            target,
            options,
            overwrite=overwrite,
            progress=report,
            cancel=token,
        )
        return Result(model, record={"file": str(target)})

    return work


def _run(
    lazy: LazyUpscaled,
    blocks: Any,
    sink: Any,
    out: NDArray[Any],
    options: UpscaleOptions,
    report: Report,
    token: Token,
) -> Result:
    from napari_swin2sr.runs.runner import Runner
    from napari_swin2sr.upscale import provenance

    start = time.monotonic()
    finished = Runner(progress=report, cancel=token).run(blocks, sink)
    tile = math.prod(lazy.plan.tile_at(0, 0).padded_shape)
    remember_speed(options, tile * finished.total, time.monotonic() - start)
    return Result(cast("ModelHandle", lazy.block), out, provenance(lazy))


class Part:
    """The blocks of a lazy image that meet a region: what `store.run` takes.

    Parameters
    ----------
    lazy : the whole result
    bounds : (first, last + 1) per axis [input px along Y and X]

    Attributes
    ----------
    bounds : the region in the result [output px along Y and X]
    shape : of the region
    grid : blocks per axis that meet it
    """

    def __init__(self, lazy: LazyUpscaled, bounds: Bounds) -> None:
        layout, upscale = lazy.layout, lazy.upscale
        factors = [
            upscale if axis in (layout.y, layout.x) else 1 for axis in range(lazy.ndim)
        ]
        self.lazy = lazy
        self.bounds = tuple(
            (lo * factor, hi * factor)
            for (lo, hi), factor in zip(bounds, factors, strict=True)
        )
        self.shape = tuple(hi - lo for lo, hi in self.bounds)
        self._first = []
        grid = []
        for (lo, hi), sizes in zip(self.bounds, lazy.chunks, strict=True):
            edges = np.concatenate([[0], np.cumsum(sizes)])
            first = int(np.searchsorted(edges, lo, side="right")) - 1
            self._first.append(first)
            grid.append(int(np.searchsorted(edges, hi, side="left")) - first)
        self.grid = tuple(grid)

    def block_at(self, index: tuple[int, ...]) -> NDArray[Any]:
        """Compute one block, whole."""
        return self.lazy.block_at(self._shifted(index))

    def slices_at(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Tell where a block belongs in the whole result."""
        return self.lazy.slices_at(self._shifted(index))

    def _shifted(self, index: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(i + first for i, first in zip(index, self._first, strict=True))


@dataclass(frozen=True, slots=True)
class _Cropping:
    """Writes what lies in the region, and drops the rest of a block."""

    out: NDArray[Any]
    part: Part

    def __setitem__(self, where: tuple[slice, ...], block: NDArray[Any]) -> None:
        there, here = [], []
        for span, (lo, hi) in zip(where, self.part.bounds, strict=True):
            first, last = max(span.start, lo), min(span.stop, hi)
            there.append(slice(first - lo, last - lo))
            here.append(slice(first - span.start, last - span.start))
        self.out[tuple(there)] = block[tuple(here)]


def _room_for(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array for the result, if it fits in memory."""
    from napari_swin2sr.tiles.cache import available_memory

    needed = math.prod(shape) * dtype.itemsize
    free = available_memory()
    if free is not None and needed > 0.8 * free:
        raise MemoryLimitError(
            f"the result needs {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB "
            "are free. Run to disk, or use a live layer"
        )
    return np.zeros(shape, dtype)
