"""`upscale_file`: from a file of any size to a file, resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import Cancelled, CancelToken, OutputError
from napari_swin2sr.formats import as_image, open_image
from napari_swin2sr.formats.detect import (
    Kind,
    Location,
    check_place,
    is_url,
    kind_of_target,
)
from napari_swin2sr.formats.pyramid import block_means
from napari_swin2sr.options import RunOptions, UpscaleOptions, check_part
from napari_swin2sr.replace import finish_replacement, replace_folder
from napari_swin2sr.runs import resources
from napari_swin2sr.runs.error_bars import Pairs, PairSink
from napari_swin2sr.runs.export import export
from napari_swin2sr.runs.fingerprint import sample_hash
from napari_swin2sr.runs.job import Job, TargetState, damaged_tiles
from napari_swin2sr.runs.lock import finishing, locked
from napari_swin2sr.runs.runner import (
    DEFAULT_WORKERS,
    Progress,
    RunFinished,
    Runner,
    RunStarted,
)
from napari_swin2sr.runs.tile_store import TileStore, tile_grid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.options import Halo, RangeSpec

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
    trust: bool | float = False,
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
    source : str or path-like
        Image file, folder or URL: see `open_image`.
    target : str or path-like
        Result; the suffix is the format: .ome.zarr, .zarr (also at URLs), .ome.tif,
        .tif (GeoTIFF if the source is georeferenced), .png, .jpg.
    model : str or path-like
        A name of `list_models()`, a folder or a weight file.
    resume : bool
        Go on with an unfinished result of the same job; False starts anew.
    overwrite : bool
        Replace a finished target, at the moment when the new one is whole.
    part : tuple of (int, int) or str, optional
        (i, n) or "i/n", i from 0: compute every n-th tile only, for n jobs of a
        cluster; the job that finishes last completes the file.
    executor : concurrent.futures.Executor, optional
        Any executor to compute the tiles.
    workers : int, optional
        Tiles in flight [4].
    progress : callable, optional
        Called with each event of `napari_swin2sr.runs.runner`.
    cancel : CancelToken, optional
        Such as a `threading.Event`; when set, the run ends in a second or two.
    verify : bool
        Decode every finished tile and compare checksums; recompute damaged ones.
    series, level : int
        Which image, and which level of its pyramid, of the source.
    ome_version : {"0.5", "0.4"}
        Of an OME-Zarr.
    cog : bool
        Write a Cloud Optimized GeoTIFF (extra `geo`).
    check_space : bool
        Refuse to begin when the disk has no space for the result.
    axes, rgb, value_range, nodata, tile, halo, device, precision, dtype : optional
        As for `apply`.
    trust : bool or float, optional
        Write error bars too, as for `apply`: of an OME-Zarr as a second image, the
        group ``trust`` inside it; of a file ``NAME.SUFFIX`` as ``NAME_trust.tif``.

    Returns
    -------
    pathlib.Path or str
        The target, as a path or the URL as given.

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
    upscale_options = UpscaleOptions(
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
        trust=trust,
    )
    options = RunOptions(
        series=series,
        level=level,
        ome_version=ome_version,
        cog=cog,
        overwrite=overwrite,
        check_space=check_space,
        resume=resume,
        verify=verify,
        part=part,
        workers=workers,
    )
    kind = kind_of_target(target)
    check_place(source, target)
    image = as_image(
        open_image(source, series=series, level=level, axes=axes, rgb=rgb),
        upscale_options,
    )
    location = Location.from_user(target)
    job = Job.plan(source, location, kind, image, upscale_options, options)
    if job.error_file is not None:
        check_place(source, job.error_file)
    _execute(job, options, progress, cancel, executor)
    return location.place


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
    """Super-resolve pixels that are in memory, or behind any array: see `upscale_file`.

    An unfinished result is resumed if a sample of the pixels is the same as when it
    was begun. `options.axes` and `options.rgb` overrule the image's.
    """
    upscale_options = UpscaleOptions() if options is None else options
    run_options = RunOptions(
        resume=resume,
        overwrite=overwrite,
        ome_version=ome_version,
        check_space=check_space,
    )
    kind = kind_of_target(target)
    image = as_image(image, upscale_options)
    named = Path(image.source).expanduser() if image.source else Path()
    is_file = bool(image.source) and not is_url(image.source) and named.exists()
    source = f"array:/{named.name}?{sample_hash(image)}"
    check_place(image.source if is_file else source, target)
    location = Location.from_user(target)
    job = Job.plan(source, location, kind, image, upscale_options, run_options)
    if job.error_file is not None and is_file:
        check_place(image.source, job.error_file)
    _execute(job, run_options, progress, cancel)
    return location.place


def verify_file(
    target: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> dict[int, list[tuple[int, ...]]]:
    """Decode every tile of an OME-Zarr result and compare the checksums.

    Parameters
    ----------
    target : str or path-like
        A finished or unfinished result of `upscale_file`.
    progress, cancel : optional
        As for `upscale_file`, stage "check".

    Returns
    -------
    dict of int to list of tuple of int
        Number of the level -> tiles that are missing or damaged, in the image or in
        its error bars; {} if all is well.

    Raises
    ------
    OutputError
        If there is no such result.
    Cancelled
        If `cancel` was set.
    """
    store = TileStore.find(Location.from_user(target))
    if store is None or not store.record:
        raise OutputError(f"{target}: no OME-Zarr result of this program")
    runner = Runner(progress=progress, cancel=cancel)
    bad = {}
    for number in range(store.n_levels):
        wrong = set()
        for part in store.parts:
            there = set(part.finished(number))
            every = set(np.ndindex(*tile_grid(part.level(number)).grid_shape))
            wrong |= damaged_tiles(part, number, there, runner) | (every - there)
        if wrong:
            bad[number] = sorted(wrong)
    return bad


# -- how a job is carried out ---------------------------------------------------------


def _execute(
    job: Job,
    options: RunOptions,
    progress: Progress | None,
    cancel: CancelToken | None,
    executor: Executor | None = None,
) -> None:
    """Make the target, whatever it is now: see `TargetState`."""
    part = check_part(options.part)
    runner = Runner(
        progress=progress,
        cancel=cancel,
        workers=options.workers,
        executor=executor,
        part=part,
    )
    with _exclusive(job.target, part):
        state = job.check_target(overwrite=options.overwrite, resume=options.resume)
        if not job.target.is_url:
            finish_replacement(job.target.path)
        if state is TargetState.FINISHED and not options.overwrite:
            _confirm(job, runner, options.verify)
            return
        if part is None:
            job.remove_temporary_files()
        if job.fits_in_memory and executor is None and part is None:
            _run_in_memory(job, runner, options)
        else:
            _run_in_store(job, runner, options, job.store_location(state))


def _exclusive(
    target: Location, part: tuple[int, int] | None
) -> contextlib.AbstractContextManager[None]:
    """Keep a second run away; object stores have no locks."""
    return contextlib.nullcontext() if target.is_url else locked(target.path, part)


def _confirm(job: Job, runner: Runner, verify: bool) -> None:
    """Report a finished result as done; with `verify`, recompute damaged tiles."""
    if not verify or job.target.is_url or job.kind is not Kind.ZARR:
        n = job.lazy.n_blocks
        if runner.progress is not None:
            runner.progress(RunStarted(n, n))
            runner.progress(RunFinished(n, n))
        return
    store = TileStore(job.target)
    job.compute_tiles(store, runner, verify=True)
    if runner.part is None:
        job.compute_pyramid(store, runner, verify=True)


def _run_in_memory(job: Job, runner: Runner, options: RunOptions) -> None:
    """Compute a small result as a NumPy array and write the file."""
    pixels = np.empty(job.lazy.shape, job.lazy.dtype)
    blocks: Any = job.lazy
    sink: Any = pixels
    error = None
    if job.error is not None:
        error = np.empty(pixels.shape, job.error.data.dtype)
        blocks, sink = Pairs(job.lazy), PairSink(pixels, error)
    try:
        runner.run(blocks, sink, pixel_overhead=job.lazy.plan.pixel_overhead)
        has_levels = job.kind is Kind.TIFF
        levels = _in_memory_levels(job, pixels, job.lazy.nodata, has_levels)
        of_error = () if error is None else _in_memory_levels(job, error, None, True)
        _export(job, levels, of_error, runner, options)
    except Cancelled as error:
        raise Cancelled(f"{error}; nothing was written") from error


def _in_memory_levels(
    job: Job, pixels: Any, nodata: float | None, is_pyramid: bool
) -> list[Any]:
    levels = [pixels]
    for _ in job.shapes[1:] if is_pyramid else ():
        levels.append(block_means(levels[-1], job.axes, nodata))
    return levels


def _run_in_store(
    job: Job, runner: Runner, options: RunOptions, location: Location
) -> None:
    """Compute into a tile store, and complete the target when no tile is missing."""
    store = job.find_store(location, resume=options.resume, overwrite=options.overwrite)
    finished = 0 if store is None else len(store.finished(0))
    expected = _check_limits(job, runner, location, finished, options.check_space)
    if store is None:
        store = job.create_store(location)
    if runner.part is None:
        store.clean()
    try:
        job.compute_tiles(
            store, runner, verify=options.verify, expected_seconds=expected
        )
        if runner.part is None:
            _complete(job, store, runner, options)
        elif job.has_all_tiles(store):
            _complete_as_last_part(job, store, runner, options)
    except Cancelled as error:
        raise Cancelled(
            f"{error} and kept in {location}; the same command goes on from there"
        ) from error


def _complete_as_last_part(
    job: Job, store: TileStore, runner: Runner, options: RunOptions
) -> None:
    """Complete the target after the last tile, unless another part is at it."""
    with (
        contextlib.nullcontext(True)
        if job.target.is_url
        else finishing(job.target.path)
    ) as is_ours:
        if not is_ours:
            logger.info("%s: another part is completing it", job.target)
            return
        found = TileStore.find(store.location)  # not there: it has been completed
        if found is not None and not found.is_complete:
            whole = dataclasses.replace(runner, part=None)
            _complete(job, found, whole, dataclasses.replace(options, verify=False))


def _complete(job: Job, store: TileStore, runner: Runner, options: RunOptions) -> None:
    """Make the pyramid, write the metadata, and give the target its name."""
    job.compute_pyramid(store, runner, verify=options.verify)
    store.clean()
    job.remove_temporary_files()
    if job.kind is Kind.ZARR:
        changed = job.warn_if_source_changed()
        job.complete(store, job.lazy.ranges, source_changed=changed)
        if store.location != job.target:
            replace_folder(store.location.path, job.target.path)
        return
    levels, *of_error = (
        [part.level(number) for number in range(part.n_levels)] for part in store.parts
    )
    _export(job, levels, of_error[0] if of_error else (), runner, options)
    try:
        store.discard()
    except OutputError as error:  # somebody has put something into it
        logger.warning("%s", error)


def _export(
    job: Job,
    levels: Sequence[Any],
    of_error: Sequence[Any],
    runner: Runner,
    options: RunOptions,
) -> None:
    """Write the file, and its error bars directly before it gets its name."""
    job.warn_if_source_changed()
    common: dict[str, Any] = {
        "cog": job.cog,
        "software": job.software,
        "progress": runner.progress,
        "cancel": runner.cancel,
    }

    def write_error() -> None:
        if job.error is not None and job.error_file is not None:
            job.check_error_file(options.overwrite)  # that nobody has put one there
            error = dataclasses.replace(job.error, data=of_error[0])
            export(error, of_error[1:], job.error_file, **common)

    image = dataclasses.replace(job.image, data=levels[0])
    target, overwrite = job.target.path, options.overwrite
    export(
        *(image, levels[1:], target), overwrite=overwrite, last=write_error, **common
    )


def _check_limits(
    job: Job, runner: Runner, location: Location, finished: int, check_space: bool
) -> float | None:
    """Compare what the run needs with what there is; return the seconds it may take."""
    need = resources.estimate(job.lazy, runner.workers or DEFAULT_WORKERS)
    if runner.executor is None:
        resources.check_memory(need.peak_bytes)
    missing = 1 - finished / max(need.n_tiles, 1)
    n_bytes = need.output_bytes * _PYRAMID_SHARE * missing
    if job.kind is not Kind.ZARR:
        n_bytes += need.output_bytes * _PYRAMID_SHARE
    if check_space and not location.is_url:
        resources.check_space(location.path.parent, int(n_bytes))
    seconds = None
    if runner.executor is None and need.n_tiles - finished > _FEW_TILES:
        share = missing / (runner.part[1] if runner.part else 1)
        seconds = resources.expected_seconds(job.lazy) * share
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
