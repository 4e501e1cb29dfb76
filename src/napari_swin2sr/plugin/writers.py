"""File > Save for what napari's own writers lose: multiscale layers, scale, units."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils.notifications import show_warning
from napari.utils.progress import progress as napari_progress
from numpy.typing import NDArray

from napari_swin2sr.errors import CancelToken
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.image.sources import read_block
from napari_swin2sr.plugin.layer_source import layer_source, spatial_image
from napari_swin2sr.plugin.live.layer import exact_result
from napari_swin2sr.plugin.worker import Job, Report
from napari_swin2sr.runs.runner import RunStarted, TileDone
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import plan_tiles

if TYPE_CHECKING:
    from napari_swin2sr.formats.detect import Kind

_KNOWN = ("name", "rgb", "axis_labels", "multiscale", "contrast_limits", "colormap")
_TRANSFORM = ("scale", "translate", "units", "rotate", "shear", "affine")


def write_zarr(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as OME-Zarr with a pyramid, scale, units and position."""
    return _write(path, data, attributes, (".zarr",), ".ome.zarr")


def write_tiff(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as OME-TIFF with a pyramid, scale, units and position."""
    return _write(path, data, attributes, (".tif", ".tiff"), ".ome.tif")


def _write(
    path: str,
    data: Any,
    attributes: dict[str, Any],
    suffixes: tuple[str, ...],
    suffix: str,
) -> list[str]:
    """Write exact pixels: of a live layer also those that nobody has looked at."""
    if not path.lower().endswith(suffixes):
        path += suffix
    wanted = (*_KNOWN, *_TRANSFORM)
    keywords = {key: attributes[key] for key in wanted if key in attributes}
    layer = Image(data, visible=False, **{"contrast_limits": (0, 1)} | keywords)
    job = save_job(layer, Path(path), limits_known="contrast_limits" in attributes)
    bar = napari_progress(total=0, desc=f"Saving {layer.name}")

    def report(event: object) -> None:
        if isinstance(event, RunStarted):
            bar.reset(total=event.total)
        elif isinstance(event, TileDone):
            bar.update(event.done - bar.n)

    try:
        job.work(report, threading.Event())
    finally:
        bar.close()
    return [path]


def save_job(
    layer: Image,
    path: Path,
    done: Callable[[Any], None] = lambda result: None,
    *,
    limits_known: bool = True,
) -> Job:
    """Return the work of saving a layer's exact pixels; to be made on the main thread.

    Raises
    ------
    InputError
        If it has no pixels.
    """
    source = layer_source(layer)
    straight = np.diag(np.asarray(layer.scale))
    turned = np.subtract(
        [layer.data_to_world(row) for row in np.eye(layer.ndim)],
        layer.data_to_world(np.zeros(layer.ndim)),
    ).T
    if not np.allclose(turned, straight):
        show_warning(
            f"{path}: rotation, shear and affine of {layer.name} are not stored, as "
            "the format has no place for them"
        )
    look = _look(layer, limits_known, source.layout.n_channels)
    image = dataclasses.replace(spatial_image(layer, source), **look)
    exact = exact_result(layer)

    def work(report: Report, cancel: CancelToken) -> Path:
        blocks = Unchanged(image) if exact is None else exact()
        write_image(dataclasses.replace(image, data=blocks), path, report, cancel)
        return path

    return Job(f"saving {layer.name}", work, done)


def _look(layer: Image, limits_known: bool, n_channels: int) -> dict[str, Any]:
    """Return name, color and contrast of a layer as the record of its channels."""
    if layer.rgb:
        return {}
    red, green, blue = (round(255 * float(x)) for x in layer.colormap.map(1.0)[0][:3])
    look: dict[str, Any] = {
        "channel_names": (str(layer.name),) * n_channels,
        "channel_colors": (f"{red:02X}{green:02X}{blue:02X}",) * n_channels,
    }
    if limits_known:
        limits = tuple(map(float, layer.contrast_limits))
        look["value_range"] = (limits,) * n_channels
    return look


class Unchanged(LazyUpscaled):
    """An image as it is, in blocks to be stored; no network."""

    def __init__(self, image: SpatialImage) -> None:
        layout = resolve_axes(image.shape, image.axes)
        tiles = plan_tiles(
            layout.plane_shape, halo=0, multiple_of=1, upscale=1, padded=True
        )
        ranges = (ValueRange(0, 1),) * layout.n_channels
        super().__init__(image.data, layout, tiles, ranges, lambda pixels: pixels)

    def block_at(self, index: tuple[int, ...]) -> NDArray[Any]:
        """Read a block."""
        return read_block(self.source, self.slices_at(index))


def write_image(
    image: SpatialImage, target: Path, progress: Report, cancel: CancelToken
) -> None:
    """Write an image whose `data` are a `LazyUpscaled`.

    The blocks go into a hidden store beside the target first, so that nothing
    unfinished ever has its name, and an old file stays until the new one is whole. A
    folder is replaced only if it is one image that this program has made.

    Raises
    ------
    OutputError
        If the target cannot be written, must not be replaced, or is being written by
        another run.
    """
    from napari_swin2sr.formats.detect import Kind, kind_of_target
    from napari_swin2sr.replace import check_replaceable
    from napari_swin2sr.runs.lock import locked

    kind = kind_of_target(target)
    with locked(target):
        check_replaceable(target, by_file=kind is not Kind.ZARR, only_own=True)
        _write_locked(image, target, kind, progress, cancel)


def _write_locked(
    image: SpatialImage,
    target: Path,
    kind: Kind,
    progress: Report,
    cancel: CancelToken,
) -> None:
    from napari_swin2sr.formats.detect import Kind, Location
    from napari_swin2sr.image.intensity import fit_ranges
    from napari_swin2sr.replace import (
        discard_store,
        draft_of,
        remove_drafts,
        replace_folder,
    )
    from napari_swin2sr.runs.export import export
    from napari_swin2sr.runs.job import Job as FileJob
    from napari_swin2sr.runs.runner import Runner

    remove_drafts(target)
    draft = draft_of(target)
    job = FileJob(source=image.source, target=Location(target), kind=kind, image=image)
    store = job.create_store(Location(draft))
    runner = Runner(progress=progress, cancel=cancel)
    blocks = image.data
    try:
        job.compute_tiles(store, runner)
        job.compute_pyramid(store, runner)
        if kind is Kind.ZARR:
            ranges = blocks.ranges
            if isinstance(blocks, Unchanged) and image.value_range is None:
                ranges = fit_ranges(blocks.source, blocks.layout, None)
            store.complete(job.ome_attributes(ranges))
            replace_folder(draft, target, only_own=True)
        else:
            levels = [store.level(number) for number in range(store.n_levels)]
            whole = dataclasses.replace(image, data=levels[0])
            export(whole, levels[1:], target, progress=progress, cancel=cancel)
    finally:
        discard_store(draft)
