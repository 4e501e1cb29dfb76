"""What to do with a layer: live, the visible region, in memory, to disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image

from napari_swin2sr.errors import InputError
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin import jobs
from napari_swin2sr.plugin.files import open_levels
from napari_swin2sr.plugin.layer_source import LayerSource, layer_source, spatial_image
from napari_swin2sr.plugin.live.layer import add_live_layer
from napari_swin2sr.plugin.live.visible import visible_region
from napari_swin2sr.plugin.placement import free_name, layer_keywords
from napari_swin2sr.plugin.provenance import provenance
from napari_swin2sr.plugin.worker import Job

if TYPE_CHECKING:
    from napari.components import ViewerModel

LIVE, REGION, MEMORY, DISK = "live", "region", "memory", "disk"

MODES = (
    ("Live layer: sharp where you look", LIVE),
    ("Visible region now", REGION),
    ("Whole image, in memory", MEMORY),
    ("Whole image, to disk", DISK),
)
"""(what people read, mode), the recommended one first."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked for, for one layer; taken on the main thread.

    Attributes
    ----------
    viewer, layer : where the pixels come from and the result goes
    options : how; made for this layer
    target, overwrite : for `DISK`
    shown : called with each layer that is made
    """

    viewer: ViewerModel
    layer: Image
    options: UpscaleOptions
    target: Path | None = None
    overwrite: bool = False
    shown: Callable[[Image], None] = lambda layer: None


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


def _live(request: Request, source: LayerSource) -> Job:
    def done(handle: Any) -> None:
        request.shown(
            add_live_layer(request.viewer, request.layer, request.options, handle)
        )

    work = jobs.handle(request.options)
    return Job(request.layer.name, work, done)


def _memory(request: Request, source: LayerSource) -> Job:
    image = spatial_image(request.layer, source)
    work = jobs.in_memory(image, _without_axes(request.options))
    return Job(
        request.layer.name,
        work,
        lambda result: _add(request, source, result, result.pixels, "upscaled"),
    )


def _region(request: Request, source: LayerSource) -> Job:
    layer = request.layer
    region = visible_region(request.viewer, layer)
    if any(first == last for first, last in region):
        raise InputError(f"{layer.name} is out of sight: move it into the view first")
    start = {axis: first for axis, (first, _) in enumerate(region)}
    bounds = list(region)
    bounds += [(0, n) for n in source.data.shape[len(region) :]]  # RGB samples
    image = spatial_image(layer, source)
    work = jobs.region(image, _without_axes(request.options), tuple(bounds))
    return Job(
        layer.name,
        work,
        lambda result: _add(request, source, result, result.pixels, "view", start),
    )


def _disk(request: Request, source: LayerSource) -> Job:
    if request.target is None:
        raise InputError("say where to write the result: choose a file")
    image = spatial_image(request.layer, source)
    work = jobs.to_disk(
        image, _without_axes(request.options), request.target, request.overwrite
    )

    def done(result: jobs.Result) -> None:
        assert request.target is not None
        levels = open_levels(request.target, source.layout.axes)
        pixels = levels if len(levels) > 1 else levels[0]
        _add(request, source, result, pixels, "upscaled")

    return Job(request.layer.name, work, done)


def _add(
    request: Request,
    source: LayerSource,
    result: jobs.Result,
    pixels: Any,
    suffix: str,
    start: dict[int, int] | None = None,
) -> None:
    layer, viewer = request.layer, request.viewer
    record = provenance(layer, source, request.options, result.handle)
    if result.record:
        record["run"] = result.record
    keywords = layer_keywords(
        layer,
        result.handle.upscale,
        (source.layout.y, source.layout.x),
        start,
        name=free_name(
            [other.name for other in viewer.layers], f"{layer.name} {suffix}"
        ),
        provenance=record,
    )
    new = Image(pixels, multiscale=isinstance(pixels, list), **keywords)
    viewer.add_layer(new)
    request.shown(new)


def _without_axes(options: UpscaleOptions) -> UpscaleOptions:
    """Return options for an image whose axes are already resolved."""
    return options.replace(axes=None, rgb=None)
