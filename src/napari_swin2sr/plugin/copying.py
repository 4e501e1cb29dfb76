"""Pixels as they are into OME-Zarr or OME-TIFF, block by block, with a pyramid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.image.reading import read_block
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.tiles.plan import plan_tiles


class Copied:
    """An image as blocks to be stored: what a `LazyUpscaled` is, without a network."""

    upscale, nodata = 1, None

    def __init__(self, image: SpatialImage) -> None:
        self.source = image.data
        self.axes = image.axes
        self.layout = resolve_axes(image.shape, image.axes)
        self.shape = self.layout.shape
        self.dtype = image.data.dtype
        self.plan = plan_tiles(
            self.layout.plane_shape, halo=0, multiple_of=1, upscale=1, padded=True
        )
        grid = list(self.shape)
        grid[self.layout.y], grid[self.layout.x] = self.plan.grid_shape
        if self.layout.s is not None:
            grid[self.layout.s] = 1
        self.grid = tuple(grid)
        self.n_blocks = self.layout.n_planes * len(self.plan)

    def slices_at(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        """Tell where a block lies."""
        stack = tuple(index[axis] for axis in self.layout.stack_axes)
        tile = self.plan.tile_at(index[self.layout.y], index[self.layout.x])
        return self.layout.plane_index(stack, tile.core)

    def block_at(self, index: tuple[int, ...]) -> NDArray[Any]:
        """Read a block."""
        return read_block(self.source, self.slices_at(index))


def write_image(
    image: SpatialImage, target: Path, progress: Callable[[object], None]
) -> None:
    """Write an image whose `data` are blocks: `Copied` or `LazyUpscaled`.

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
        _write_alone(image, target, kind is Kind.ZARR, progress)


def _write_alone(
    image: SpatialImage,
    target: Path,
    as_zarr: bool,
    progress: Callable[[object], None],
) -> None:
    from napari_swin2sr.formats.detect import Kind, Location
    from napari_swin2sr.replace import (
        discard_store,
        draft_of,
        remove_drafts,
        replace_folder,
    )
    from napari_swin2sr.runs.export import export
    from napari_swin2sr.runs.job import Job
    from napari_swin2sr.runs.runner import Runner

    remove_drafts(target)
    draft = draft_of(target)
    kind = Kind.ZARR if as_zarr else Kind.TIFF
    job = Job(source=image.source, target=Location(target), kind=kind, image=image)
    store = job.create_store(Location(draft))
    runner = Runner(progress=progress)
    try:
        job.compute_tiles(store, runner)
        job.compute_pyramid(store, runner)
        if as_zarr:
            ranges = getattr(image.data, "ranges", None) or _ranges(image)
            store.complete(job.ome_attributes(ranges))
            replace_folder(draft, target, only_own=True)
        else:
            levels = [store.level(number) for number in range(store.n_levels)]
            whole = SpatialImage(
                data=levels[0],
                axes=image.axes,
                pixel_size=image.pixel_size,
                unit=image.unit,
                origin=image.origin,
                source=image.source,
            )
            export(whole, levels[1:], target, progress=progress)
    finally:
        discard_store(draft)


def _ranges(image: SpatialImage) -> tuple[ValueRange, ...]:
    from napari_swin2sr.image.intensity import fit_ranges

    layout = resolve_axes(image.shape, image.axes)
    source = image.data.source if isinstance(image.data, Copied) else image.data
    return fit_ranges(source, layout, None)
