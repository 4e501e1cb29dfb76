"""What to do with a layer: live, the visible region, in memory, to disk.

What is needed of a layer is taken on the main thread; the work of a `Job` touches
neither layers nor Qt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray

from napari_swin2sr.errors import Cancelled, CancelToken, InputError, MemoryLimitError
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.estimate import remember_speed
from napari_swin2sr.plugin.layer_source import LayerSource, layer_source, spatial_image
from napari_swin2sr.plugin.live.layer import add_live_layer
from napari_swin2sr.plugin.placement import (
    METADATA_KEY,
    free_name,
    layer_keywords,
    record,
    show_result,
    visible_region,
)
from napari_swin2sr.plugin.readers import open_levels
from napari_swin2sr.plugin.worker import Job, Report, State
from napari_swin2sr.tiles.plan import plan_tiles

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_swin2sr.engine.reference import ModelHandle
    from napari_swin2sr.tiles.lazy import LazyUpscaled

LIVE, REGION, MEMORY, DISK = "live", "region", "memory", "disk"

MODES = (
    ("Live: sharp where you look", LIVE, "A layer that is computed as you move"),
    ("Visible region", REGION, "What the canvas shows now, as a new layer"),
    ("Whole image, in memory", MEMORY, "As a new layer"),
    ("Whole image, to a file", DISK, "Tile by tile; goes on where it was stopped"),
)
"""(what people read, mode, more about it), the recommended one first."""

VIEWER_TILE = 512
"""Core of a tile where nobody chose another [input px].

Progress moves and Cancel acts tile by tile, so they are smaller than elsewhere.
"""

Bounds: TypeAlias = tuple[tuple[int, int], ...]
"""(first, last + 1) per axis of the image [input px]."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked for, for one layer.

    Attributes
    ----------
    viewer, layer : where the pixels come from and the result goes
    options : how; made for this layer
    target, overwrite : for `DISK`
    shown : called with each layer that is made
    refined : told in words how much of the view of a live layer is sharp
    """

    viewer: ViewerModel
    layer: Image
    options: UpscaleOptions
    target: Path | None = None
    overwrite: bool = False
    shown: Callable[[Image], None] = lambda layer: None
    refined: Callable[[State], None] = lambda state: None


@dataclass(frozen=True, slots=True)
class _Result:
    """What the worker thread hands over: pixels, and how they were made."""

    handle: ModelHandle
    pixels: Any
    record: dict[str, Any]


def job(mode: str, request: Request) -> Job:
    """Return the work of a mode, ready for a `Run`.

    Raises
    ------
    InputError
        If the layer cannot be upscaled, or is out of sight.
    """
    source = layer_source(request.layer, request.options.axes)
    make = {LIVE: _live, REGION: _region, MEMORY: _memory, DISK: _disk}[mode]
    return make(request, source)


def in_viewer(options: UpscaleOptions) -> UpscaleOptions:
    """Return the options with the viewer's tile where nobody chose another."""
    if options.tile is None and options.halo != "exact":
        return options.replace(tile=VIEWER_TILE)
    return options


def visible_bounds(viewer: ViewerModel, layer: Image) -> Bounds:
    """Return what the canvas shows of a layer, RGB samples included.

    Raises
    ------
    InputError
        If that is nothing.
    """
    region = visible_region(viewer, layer)
    if any(first == last for first, last in region):
        raise InputError(f"{layer.name} is out of sight: move it into the view first")
    shape = (layer.data[0] if layer.multiscale else layer.data).shape
    return (*region, *((0, n) for n in shape[len(region) :]))


# -- the modes ------------------------------------------------------------------------


def _live(request: Request, source: LayerSource) -> Job:
    def work(report: Report, cancel: CancelToken) -> ModelHandle:
        return find_model(request.options, report, cancel)

    def done(handle: ModelHandle) -> None:
        viewer, layer, options = request.viewer, request.layer, request.options
        request.shown(add_live_layer(viewer, layer, options, handle, request.refined))

    return Job(request.layer.name, work, done)


def _memory(request: Request, source: LayerSource) -> Job:
    image, options = spatial_image(request.layer, source), _prepared(request.options)

    def work(report: Report, cancel: CancelToken) -> _Result:
        return _compute(plan(image, options, report, cancel), options, report, cancel)

    return Job(request.layer.name, work, _adding(request, source, "upscaled"))


def _region(request: Request, source: LayerSource) -> Job:
    bounds = visible_bounds(request.viewer, request.layer)
    image, options = spatial_image(request.layer, source), _prepared(request.options)

    def work(report: Report, cancel: CancelToken) -> _Result:
        lazy, inner = cut_out(plan(image, options, report, cancel), bounds)
        return _compute(lazy, options, report, cancel, inner)

    start = {axis: bounds[axis][0] for axis in range(request.layer.ndim)}
    return Job(request.layer.name, work, _adding(request, source, "view", start))


def _disk(request: Request, source: LayerSource) -> Job:
    if request.target is None:
        raise InputError("say where to write the result: choose a file")
    target, axes = request.target, source.layout.axes
    image, options = spatial_image(request.layer, source), _prepared(request.options)

    def work(report: Report, cancel: CancelToken) -> _Result:
        from napari_swin2sr.files import upscale_image

        handle = find_model(options, report, cancel)
        report("loading the network; the first time, it is timed on this machine")
        handle.load()
        upscale_image(
            image,
            target,
            options,
            overwrite=request.overwrite,
            progress=report,
            cancel=cancel,
        )
        report(f"opening {target.name}")
        return _Result(handle, open_levels(target, axes), {"file": str(target)})

    add = _adding(request, source, "upscaled")

    def done(result: _Result) -> None:
        for layer in request.viewer.layers:
            made = layer.metadata.get(METADATA_KEY, {}).get("run", {})
            if made.get("file") == str(target):
                if not request.overwrite:  # it was finished, and is open already
                    request.viewer.layers.selection.active = layer
                    return
                request.viewer.layers.remove(layer)
                break
        add(result)

    return Job(request.layer.name, work, done)


def _prepared(options: UpscaleOptions) -> UpscaleOptions:
    """Return options for an image whose axes are already resolved."""
    return in_viewer(options).replace(axes=None, rgb=None)


def _adding(
    request: Request,
    source: LayerSource,
    suffix: str,
    start: dict[int, int] | None = None,
) -> Callable[[_Result], None]:
    """Return what shows a result as a layer."""

    def add(result: _Result) -> None:
        layer, viewer = request.layer, request.viewer
        names = [other.name for other in viewer.layers]
        keywords = layer_keywords(
            layer,
            result.handle.upscale,
            (source.layout.y, source.layout.x),
            start,
            name=free_name(names, f"{layer.name} {suffix}"),
            provenance=record(layer, source, request.options, result.handle)
            | {"run": result.record},
        )
        levels = result.pixels
        if isinstance(levels, list) and len(levels) == 1:
            levels = levels[0]
        new = Image(levels, multiscale=isinstance(levels, list), **keywords)
        show_result(viewer, layer, new)
        request.shown(new)

    return add


# -- in the worker thread -------------------------------------------------------------


def find_model(
    options: UpscaleOptions, report: Report, cancel: CancelToken
) -> ModelHandle:
    """Return the model, downloaded if it is not on this machine."""
    from napari_swin2sr.engine.reference import ModelHandle
    from napari_swin2sr.weights.catalog import resolve_model

    def downloading(done: int, total: int | None) -> None:
        if cancel.is_set():
            raise Cancelled("cancelled during the download")
        of = "" if total is None else f" of {total / 1e6:.0f}"
        report(f"downloading {options.model}: {done / 1e6:.0f}{of} MB")

    resolve_model(options.model, progress=downloading)
    return ModelHandle.open(options.model, options.device, options.precision)


def plan(
    image: SpatialImage, options: UpscaleOptions, report: Report, cancel: CancelToken
) -> LazyUpscaled:
    """Return the result, not computed yet; the network is loaded."""
    from napari_swin2sr.upscale import prepare

    handle = find_model(options, report, cancel)
    report("choosing the value range")
    lazy = prepare(image, options)
    report("loading the network; the first time, it is timed on this machine")
    handle.load()
    return lazy


def _compute(
    lazy: LazyUpscaled,
    options: UpscaleOptions,
    report: Report,
    cancel: CancelToken,
    inner: tuple[slice, ...] = (),
) -> _Result:
    """Compute a result, of which `inner` is wanted, if it fits in memory."""
    from napari_swin2sr.runs.runner import Runner
    from napari_swin2sr.tiles.cache import available_memory
    from napari_swin2sr.upscale import provenance

    free = available_memory()
    if lazy.nbytes > 0.8 * free:
        raise MemoryLimitError(
            f"the result needs {lazy.nbytes / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free. Run to disk, or use a live layer"
        )
    out: NDArray[Any] = np.zeros(lazy.shape, lazy.dtype)
    start = time.monotonic()
    finished = Runner(progress=report, cancel=cancel).run(lazy, out)
    tile = math.prod(lazy.plan.tile_at(0, 0).padded_shape)
    remember_speed(options, tile * finished.total, time.monotonic() - start)
    pixels = out[inner].copy() if inner else out
    return _Result(cast("ModelHandle", lazy.block), pixels, provenance(lazy))


def cut_out(
    lazy: LazyUpscaled, bounds: Bounds
) -> tuple[LazyUpscaled, tuple[slice, ...]]:
    """Return the result for a region and its halo, and where the region lies in it.

    It begins on the window grid of the whole image, so that the network sees the same
    as there; what it sees farther away than the halo does not matter.
    """
    from napari_swin2sr.tiles.lazy import LazyUpscaled

    whole, axes = lazy.plan, lazy.axes
    window, halo, factor = whole.multiple_of, whole.halo, whole.upscale
    around, inner = [], []
    for axis, (first, last) in enumerate(bounds):
        if axis in (lazy.layout.y, lazy.layout.x):
            start = max(0, first // window * window - halo)
            stop = -(-last // window) * window + halo
            around.append(slice(start, min(stop, lazy.layout.shape[axis])))
            inner.append(slice((first - start) * factor, (last - start) * factor))
        else:
            around.append(slice(first, last))
            inner.append(slice(0, last - first))
    source = _Window(lazy.source, tuple(around))
    layout = resolve_axes(source.shape, axes)
    # What fits into one tile with its halo is one tile.
    side = max(layout.plane_shape)
    tiles = plan_tiles(
        layout.plane_shape,
        core=side if side <= whole.core + 2 * halo else whole.core,
        halo=halo,
        multiple_of=window,
        upscale=factor,
    )
    channels = around[axes.index("C")] if "C" in axes else slice(None)
    part = LazyUpscaled(
        source,
        layout,
        tiles,
        lazy.ranges[channels],
        lazy.block,
        dtype=lazy.dtype,
        nodata=lazy.nodata,
    )
    return part, tuple(inner)


class _Window:
    """A part of an array, read when it is asked for."""

    def __init__(self, source: Any, around: tuple[slice, ...]) -> None:
        self.source, self.dtype = source, source.dtype
        self.start = [part.start for part in around]
        self.shape = tuple(part.stop - part.start for part in around)

    def __getitem__(self, key: tuple[slice, ...]) -> Any:
        shifted = zip(key, self.start, strict=True)
        return self.source[
            tuple(slice(part.start + at, part.stop + at) for part, at in shifted)
        ]
