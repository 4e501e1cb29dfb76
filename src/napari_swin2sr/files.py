"""`upscale_file`: from a file of any size to a file, resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import Cancelled, OptionError, OutputError
from napari_swin2sr.formats import open_image
from napari_swin2sr.formats.detect import (
    Kind,
    check_place,
    is_url,
    kind_of_target,
    local_path,
)
from napari_swin2sr.formats.ome_zarr import ZARR_FORMAT, ome_attributes
from napari_swin2sr.formats.pyramid import block_means, level_shapes
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.replace import (
    discard_store,
    finish_replacement,
    replace_folder,
)
from napari_swin2sr.runs import resources as limits
from napari_swin2sr.runs.export import export
from napari_swin2sr.runs.fingerprint import sample_hash
from napari_swin2sr.runs.job import Work
from napari_swin2sr.runs.lock import finishing, locked
from napari_swin2sr.runs.runner import (
    DEFAULT_WORKERS,
    CancelToken,
    Progress,
    RunFinished,
    RunStarted,
    check_part,
    run,
)
from napari_swin2sr.runs.tile_job import (
    Running,
    TileJob,
    damaged_tiles,
    existing_store,
)
from napari_swin2sr.upscale import as_image

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.options import Halo, RangeSpec
    from napari_swin2sr.runs.tile_store import TileStore

logger = logging.getLogger(__name__)

_PYRAMID_SHARE = 4 / 3
_FEW_TILES = 4


def upscale_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: str | os.PathLike[str] = "default",
    *,
    resume: bool = True,
    overwrite: bool = False,
    part: tuple[int, int] | str | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    verify: bool = False,
    series: int = 0,
    level: int = 0,
    ome_version: str = "0.5",
    cog: bool = False,
    check_space: bool = True,
    axes: str | None = None,
    rgb: bool | None = None,
    value_range: RangeSpec = None,
    nodata: float | None = None,
    tile: int | None = None,
    halo: Halo = None,
    device: str = "auto",
    precision: str = "auto",
    dtype: str | None = None,
) -> Path | str:
    """Super-resolve an image file into another one; any size, any interruption.

    Tiles are written as soon as they are computed, into the target itself (OME-Zarr)
    or into a store beside it (``NAME.unfinished.zarr``), from which TIFF, PNG and JPEG
    are made at the end. A run that was cancelled, killed or cut off by a power failure
    goes on where it stopped when it is started again. Nothing unfinished looks like a
    result: a file appears when it is whole, and an OME-Zarr folder becomes an image
    when its last tile is there.

    Parameters
    ----------
    source : image file, folder or URL: see `open_image`
    target : result; the suffix is the format: .ome.zarr, .zarr (also at URLs),
        .ome.tif, .tif (GeoTIFF if the source is georeferenced), .png, .jpg
    model : a name of `list_models()`, a folder or a weight file
    resume : go on with an unfinished result of the same job; False starts anew
    overwrite : replace a finished target, at the moment when the new one is whole
    part : (i, n) or "i/n", i from 0: compute every n-th tile only, for n jobs of a
        cluster; the job that finishes last completes the file
    executor : any `concurrent.futures` executor to compute the tiles
    workers : tiles in work at once [4]
    progress : called with each event of `napari_swin2sr.runs.runner`
    cancel : when set, the run ends after the tiles in work
    verify : decode every finished tile and compare checksums; make damaged ones again
    series, level : which image, and which level of its pyramid, of the source
    ome_version : "0.5" or "0.4", for OME-Zarr
    cog : write a Cloud Optimized GeoTIFF (extra `geo`)
    check_space : refuse to begin when the disk has no room for the result
    axes, rgb, value_range, nodata, tile, halo, device, precision, dtype :
        as for `apply`

    Returns
    -------
    the target, as a path (or the URL as given)

    Raises
    ------
    FileError, InputError
        If the source cannot be read, is cut off, or is no image.
    OutputError
        If the target cannot or must not be written; before the first tile wherever
        that can be known.
    OptionError, WeightsError, MemoryLimitError
        As for `apply`.
    TilesFailedError
        If some tiles could not be computed; the others are kept.
    Cancelled
        If `cancel` was set.
    """
    options = UpscaleOptions(
        model=os.fspath(model),
        axes=axes,
        rgb=rgb,
        value_range=value_range,
        nodata=nodata,
        tile=tile,
        halo=halo,
        device=device,
        precision=precision,
        dtype=dtype,
    )
    if ome_version not in ZARR_FORMAT:
        raise OptionError(f"ome_version={ome_version!r} is neither '0.5' nor '0.4'")
    own_part = check_part(part)
    if own_part is not None and (overwrite or not resume):
        raise OptionError(
            "part with overwrite or without resume: a part must not delete what the "
            "others have made. Delete the old result first"
        )
    kind = kind_of_target(target)
    check_place(source, target)
    how = Running(
        progress=progress,
        cancel=cancel,
        workers=workers,
        executor=executor,
        part=own_part,
        overwrite=overwrite,
    )
    image = as_image(
        open_image(source, series=series, level=level, axes=axes, rgb=rgb), options
    )
    work = Work.plan(source, target, kind, image, options, ome_version, cog)
    return _carry_out(work, how, resume, verify, check_space)


def upscale_image(
    image: SpatialImage,
    target: str | os.PathLike[str],
    options: UpscaleOptions | None = None,
    *,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    ome_version: str = "0.5",
    check_space: bool = True,
) -> Path | str:
    """Super-resolve pixels that are in memory, or behind any array, into a file.

    As `upscale_file`. An unfinished result is gone on with if a sample of the pixels
    is the same as when it was begun.

    Parameters
    ----------
    image : pixels and their meaning; its `source` names them in messages
    target, resume, overwrite, progress, cancel, ome_version, check_space :
        as for `upscale_file`
    options : how; its `axes` and `rgb` overrule the image's

    Returns
    -------
    the target, as a path (or the URL as given)
    """
    options = UpscaleOptions() if options is None else options
    if ome_version not in ZARR_FORMAT:
        raise OptionError(f"ome_version={ome_version!r} is neither '0.5' nor '0.4'")
    kind = kind_of_target(target)
    image = as_image(image, options)
    named = Path(image.source).expanduser() if image.source else Path()
    is_file = bool(image.source) and not is_url(image.source) and named.exists()
    source = f"array:/{named.name}?{sample_hash(image)}"
    check_place(image.source if is_file else source, target)
    how = Running(progress=progress, cancel=cancel, overwrite=overwrite)
    work = Work.plan(source, target, kind, image, options, ome_version, cog=False)
    return _carry_out(work, how, resume, False, check_space)


def _carry_out(
    work: Work,
    how: Running,
    resume: bool,
    verify: bool,
    check_space: bool,
) -> Path | str:
    with _alone(work.target, how.part):
        is_done = work.is_done_already(how.overwrite)
        if isinstance(work.target, Path):
            finish_replacement(work.target)
        if is_done:
            if verify and isinstance(work.target, Path) and work.kind is Kind.ZARR:
                _redo_damaged(work, how)
            else:
                _report_done(work, how)
            return work.target
        if how.part is None:
            work.tidy_up()
        if work.fits_in_memory and how.executor is None and how.part is None:
            _run_in_memory(work, how)
        else:
            _run_in_store(work, how, resume, verify, check_space)
    return work.target


def verify_file(
    target: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> dict[int, list[tuple[int, ...]]]:
    """Decode every tile of an OME-Zarr result and compare the checksums.

    Parameters
    ----------
    target : a finished or unfinished result of `upscale_file`
    progress, cancel : as for `upscale_file`, stage "check"

    Returns
    -------
    number of the level -> tiles that are missing or damaged; {} if all is well

    Raises
    ------
    OutputError
        If there is no such result.
    """
    place = str(target) if is_url(target) else local_path(target)
    store = existing_store(place)
    if store is None or not store.record:
        raise OutputError(f"{target}: no OME-Zarr result of this program")
    how = Running(progress=progress, cancel=cancel)
    bad = {}
    for number in range(store.n_levels):
        array = store.level(number)
        unit = array.shards or array.chunks
        grid = [-(-n // u) for n, u in zip(array.shape, unit, strict=True)]
        there = set(store.finished(number))
        wrong = damaged_tiles(store, number, sorted(there), how)
        wrong |= set(np.ndindex(*grid)) - there
        if wrong:
            bad[number] = sorted(wrong)
    return bad


# -- small results --------------------------------------------------------------------


def _run_in_memory(work: Work, how: Running) -> None:
    """Compute a small result as a NumPy array and write the file."""
    assert isinstance(work.target, Path)
    pixels = np.empty(work.lazy.shape, work.lazy.dtype)
    try:
        run(
            work.lazy,
            pixels,
            progress=how.progress,
            cancel=how.cancel,
            workers=how.workers,
            pixel_overhead=work.lazy.plan.pixel_overhead,
        )
        _export(work, pixels, _levels_in_memory(work, pixels), how)
    except Cancelled as error:
        raise Cancelled(f"{error}; nothing was written") from error


def _levels_in_memory(work: Work, pixels: Any) -> list[Any]:
    levels = []
    if work.kind is Kind.TIFF:
        for _ in level_shapes(pixels.shape, work.lazy.axes)[1:]:
            pixels = block_means(pixels, work.lazy.axes, work.lazy.nodata)
            levels.append(pixels)
    return levels


def _export(work: Work, pixels: Any, levels: list[Any], how: Running) -> None:
    assert isinstance(work.target, Path)
    work.warn_if_source_changed()
    export(
        dataclasses.replace(work.result, data=pixels),
        levels,
        work.target,
        cog=work.cog,
        software=work.software,
        overwrite=how.overwrite,
        progress=how.progress,
        cancel=how.cancel,
    )


# -- large results --------------------------------------------------------------------


def _run_in_store(
    work: Work,
    how: Running,
    resume: bool,
    verify: bool,
    check_space: bool,
) -> None:
    """Compute into a tile store, and complete the target when no tile is missing."""
    job = work.job()
    old = existing_store(job.place)
    if old is not None and (not resume or (how.overwrite and job.changed_since(old))):
        old.discard()
        old = None
    if old is not None:
        job.check_same(old)
    expected = _check_limits(work, job, old, how, check_space)
    store = job.open()
    if how.part is None:
        store.clean()
    try:
        job.run_tiles(store, how, verify=verify, expected_seconds=expected)
        if how.part is None:
            _complete(work, job, store, how, verify)
        elif job.has_all_tiles(store):
            _complete_as_one_of_many(work, job, how)
    except Cancelled as error:
        raise Cancelled(
            f"{error} and kept in {job.place}; the same command goes on from there"
        ) from error


def _complete_as_one_of_many(work: Work, job: TileJob, how: Running) -> None:
    """Complete the target after the last tile, unless another part is at it."""
    with (
        finishing(work.target)
        if isinstance(work.target, Path)
        else contextlib.nullcontext(True)
    ) as mine:
        if not mine:
            logger.info("%s: another part is completing it", work.target)
            return
        store = existing_store(job.place)
        if store is not None and not store.is_complete:
            _complete(work, job, store, dataclasses.replace(how, part=None), False)


def _complete(
    work: Work, job: TileJob, store: TileStore, how: Running, verify: bool
) -> None:
    """Make the pyramid, write the metadata, and give the target its name."""
    job.run_pyramid(store, how, verify=verify)
    store.clean()
    changed = work.warn_if_source_changed()
    work.tidy_up()
    if work.kind is Kind.ZARR:
        attributes = ome_attributes(
            work.result,
            job.shapes,
            "0.4" if work.ome_version == "0.4" else "0.5",
            work.lazy.ranges,
        )
        store.complete(attributes, source_changed=changed)
        if job.place != work.target:
            assert isinstance(work.target, Path)
            replace_folder(work.unfinished, work.target)
        return
    levels = [store.level(number) for number in range(store.n_levels)]
    _export(work, levels[0], levels[1:], how)
    try:
        discard_store(work.unfinished)
    except OutputError as error:  # somebody has put something into it
        logger.warning("%s", error)


def _redo_damaged(work: Work, how: Running) -> None:
    """Check a finished result and make damaged tiles again."""
    job = dataclasses.replace(work.job(), place=work.target)
    store = job.open()
    job.run_tiles(store, how, verify=True)
    if how.part is None:
        job.run_pyramid(store, how, verify=True)


# -- checks ---------------------------------------------------------------------------


def _check_limits(
    work: Work,
    job: TileJob,
    store: TileStore | None,
    how: Running,
    check_space: bool,
) -> float | None:
    """Compare what the run needs with what there is; return the seconds it may take."""
    need = limits.estimate(work.lazy, how.workers or DEFAULT_WORKERS)
    if how.executor is None:
        limits.check_memory(need.peak_bytes)
    finished = 0 if store is None else len(store.finished(0))
    missing = 1 - finished / max(need.n_tiles, 1)
    n_bytes = need.output_bytes * _PYRAMID_SHARE * missing
    if work.kind is not Kind.ZARR:
        n_bytes += need.output_bytes * _PYRAMID_SHARE
    if check_space and isinstance(job.place, Path):
        limits.check_space(job.place.parent, int(n_bytes))
    seconds = None
    if how.executor is None and need.n_tiles - finished > _FEW_TILES:
        share = missing / (how.part[1] if how.part else 1)
        seconds = limits.expected_seconds(work.lazy) * share
    logger.info(
        "%d of %d tiles to compute, halos add %.1f %%, %.2f GB to write, "
        "%.2f GB of memory, %s",
        need.n_tiles - finished,
        need.n_tiles,
        100 * (need.pixel_overhead - 1),
        n_bytes / 1e9,
        need.peak_bytes / 1e9,
        "time unknown" if seconds is None else f"about {seconds / 60:.1f} minutes",
    )
    return seconds


def _alone(
    target: Path | str, part: tuple[int, int] | None
) -> contextlib.AbstractContextManager[None]:
    """Keep a second run away; object stores have no locks."""
    return contextlib.nullcontext() if isinstance(target, str) else locked(target, part)


def _report_done(work: Work, how: Running) -> None:
    if how.progress is not None:
        n = work.lazy.n_blocks
        how.progress(RunStarted(n, n))
        how.progress(RunFinished(n, n))
