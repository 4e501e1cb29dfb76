"""`Job`: what a run is, decided and checked before its first tile."""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
import math
import os
import platform
import warnings
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from napari_swin2sr.errors import OutputError, TilesFailedError
from napari_swin2sr.formats.detect import Kind, Location
from napari_swin2sr.formats.geotiff import check_cloud_optimized
from napari_swin2sr.formats.ome_zarr import (
    ZARR_FORMAT,
    georeference,
    ome_attributes,
    stored_axes,
    stored_shape,
)
from napari_swin2sr.formats.png_jpeg import check_picture
from napari_swin2sr.formats.pyramid import BlockMeans, level_shapes
from napari_swin2sr.formats.tiff_write import check_tiff
from napari_swin2sr.image.intensity import as_dtype
from napari_swin2sr.replace import (
    ERROR_GROUP,
    check_name,
    check_replaceable,
    discard_store,
    has_own_error,
    remove_drafts,
    undo_replacement,
)
from napari_swin2sr.runs.error_bars import (
    Pairs,
    PairSink,
    error_image,
    error_path,
    shown_ranges,
)
from napari_swin2sr.runs.fingerprint import (
    as_json,
    differences,
    fingerprint_of,
    identity_of,
)
from napari_swin2sr.runs.runner import Index, Runner, part_of
from napari_swin2sr.runs.tile_store import (
    BlockSink,
    DamagedStoreError,
    TileStore,
    tile_grid,
)
from napari_swin2sr.upscale import prepare, provenance

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_swin2sr.image.intensity import ValueRange
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.options import RunOptions, UpscaleOptions

logger = logging.getLogger(__name__)

SMALL_RESULT_BYTES = 2**27
"""Results up to this size are computed in memory and need no tile store."""

RECENT_SECONDS = 120.0
"""A power cut may have damaged tiles written in the last moments before it."""


class TargetState(enum.Enum):
    """What is at a target before a run, and what the run does about it.

    ========== ========================== ==================== ======================
    state      what is there              run                  run with `overwrite`
    ========== ========================== ==================== ======================
    ABSENT     nothing                    begins               begins
    UNFINISHED an OME-Zarr whose run      resumes; refused if  resumes, or begins
               has not ended              the job is another   anew if it is another
    FINISHED   the result of this job     has nothing to do    replaces it at its end
    OUTDATED   the result of another job  is refused           replaces it at its end
    DAMAGED    an OME-Zarr whose          is refused           replaces it at its end
               metadata cannot be read
    FOREIGN    anything else              is refused           replaces it at its end,
                                                               if it is one image
    ========== ========================== ==================== ======================

    Tiles are kept in the target itself if it is an OME-Zarr that is absent or
    unfinished, and in ``NAME.unfinished.zarr`` beside it otherwise. With ``resume``
    off an unfinished store is deleted first, and a damaged target replaced.
    """

    ABSENT = enum.auto()
    UNFINISHED = enum.auto()
    FINISHED = enum.auto()
    OUTDATED = enum.auto()
    DAMAGED = enum.auto()
    FOREIGN = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run is: pixels to compute, and the file that they become.

    Attributes
    ----------
    source : what messages call the source
    target, kind : where the result goes, and its format
    image : the record of the result; its `data` computes the pixels
    error : the record of its error bars, where they were asked for
    fingerprint : what must be the same for tiles of two runs to fit together
    ome_version : of an OME-Zarr, "0.5" or "0.4"
    cog : whether a GeoTIFF is to be a cloud optimized one
    """

    source: str | os.PathLike[str]
    target: Location
    kind: Kind
    image: SpatialImage
    error: SpatialImage | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    ome_version: str = "0.5"
    cog: bool = False

    @classmethod
    def plan(
        cls,
        source: str | os.PathLike[str],
        target: Location,
        kind: Kind,
        image: SpatialImage,
        options: UpscaleOptions,
        settings: RunOptions,
    ) -> Job:
        """Plan a run and check that its target can hold it; reads the range sample."""
        lazy = prepare(image, options)
        fingerprint = fingerprint_of(source, image, lazy)
        result = image
        if kind is Kind.ZARR:
            fingerprint["ome_version"] = settings.ome_version
            # Without a pixel size, the grid of the source's pixels is laid over it.
            size = {"Y": 1.0, "X": 1.0, **image.pixel_size}
            result = dataclasses.replace(result, pixel_size=size)
        if options.nodata is not None:
            result = dataclasses.replace(result, nodata=options.nodata)
        result = result.upscaled(lazy, lazy.upscale)
        error = None
        if lazy.error_scale is not None:
            error = error_image(result, lazy, as_file=kind is not Kind.ZARR)
        job = cls(
            source=source,
            target=target,
            kind=kind,
            image=result,
            error=error,
            fingerprint=fingerprint,
            ome_version=settings.ome_version,
            cog=settings.cog,
        )
        job._check_format()
        job._warn_missing_chunks()
        return job

    def _check_format(self) -> None:
        """Refuse what the target cannot hold, its metadata included."""
        if not self.target.is_url:
            check_name(self.unfinished.path)
        if self.error_file is not None:
            assert self.error is not None
            check_tiff(self.error, self.error_file)
        if self.kind is Kind.PICTURE:
            lazy = self.lazy
            check_picture(lazy.axes, lazy.shape, lazy.dtype, self.target.path)
        elif self.kind is Kind.TIFF:
            check_tiff(self.image, self.target.path)
            if self.cog:
                check_cloud_optimized(self.target.path)
        elif 0 in self.lazy.shape:
            raise OutputError(f"{self.target}: an empty image, {self.lazy.shape}")
        else:
            self._check_ome_attributes()

    def _check_ome_attributes(self) -> None:
        """Build the metadata that are written after the last tile."""
        try:
            json.dumps(self.ome_attributes(self.lazy.ranges))
        except (ValueError, TypeError, OverflowError) as error:
            raise OutputError(
                f"{self.target}: what {self.source} says about its pixels cannot be "
                f"written as OME-Zarr ({type(error).__name__}: {error}). Choose .tif"
            ) from error

    def _warn_missing_chunks(self) -> None:
        """Log when a local Zarr array has chunks without an object.

        That is how Zarr stores chunks without content; a copy that was broken off
        looks the same.
        """
        array, stored = self.lazy.source, self.fingerprint["source"].get("files")
        if stored is None or not hasattr(array, "metadata"):
            return
        n = math.prod(tile_grid(array).grid_shape)
        if stored < n:
            logger.warning(
                "%s: %d of %d chunks are not there and read as %s; fine for an image "
                "with empty parts, but a copy that was broken off looks the same",
                *(self.source, n - stored, n, array.fill_value),
            )

    # -- what is stored ---------------------------------------------------------------

    @property
    def lazy(self) -> Any:
        """The pixels: a `LazyUpscaled`, or blocks like it."""
        return self.image.data

    @property
    def axes(self) -> str:
        """Axes of the stored arrays; in OME-Zarr samples (S) are channels (C)."""
        axes: str = self.lazy.axes
        return stored_axes(axes) if self.kind is Kind.ZARR else axes

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all levels of the pyramid."""
        shape = self.lazy.shape
        if self.kind is Kind.ZARR:
            shape = stored_shape(self.lazy.axes, shape)
        return level_shapes(shape, self.axes)

    @property
    def block(self) -> tuple[int, ...]:
        """Shape of a tile in the store."""
        side = self.lazy.plan.core * self.lazy.upscale
        samples = self.lazy.layout.samples
        merged = "S" in self.lazy.axes and "S" not in self.axes
        sides = {"Y": side, "X": side, "C": samples if merged else 1, "S": samples}
        return tuple(sides.get(axis, 1) for axis in self.axes)

    @property
    def fits_in_memory(self) -> bool:
        """Whether no tile store is needed."""
        n_bytes = self.lazy.nbytes + (
            0 if self.error is None else self.error.data.nbytes
        )
        is_small: bool = n_bytes <= SMALL_RESULT_BYTES
        return self.kind is not Kind.ZARR and is_small

    @property
    def software(self) -> str:
        """Provenance as one line of ASCII, for TIFF."""
        return json.dumps({"napari_swin2sr": {"fingerprint": self.fingerprint}})

    def ome_attributes(self, ranges: tuple[ValueRange, ...]) -> dict[str, Any]:
        """Return the metadata that make the finished store an OME-Zarr image."""
        return ome_attributes(self.image, self.shapes, self._version, ranges)

    @property
    def _version(self) -> Literal["0.4", "0.5"]:
        return "0.4" if self.ome_version == "0.4" else "0.5"

    @property
    def error_file(self) -> Path | None:
        """The file of the error bars, unless they are in the target itself."""
        if self.error is None or self.kind is Kind.ZARR:
            return None
        return error_path(self.target.path)

    # -- what is there ----------------------------------------------------------------

    @property
    def unfinished(self) -> Location:
        """Where tiles are kept until the target can be made or replaced."""
        path = self.target.path
        return Location(path.with_name(path.name + ".unfinished.zarr"))

    def store_location(self, state: TargetState) -> Location:
        """Return where the tiles are kept."""
        here = state in (TargetState.ABSENT, TargetState.UNFINISHED)
        return self.target if self.kind is Kind.ZARR and here else self.unfinished

    def check_target(self, *, overwrite: bool, resume: bool) -> TargetState:
        """Return what the target is now; refuse if it must not be replaced."""
        if not self.target.is_url:
            undo_replacement(self.target.path)
        state, detail = self._target_state()
        if not self.check_error_file(overwrite) and state is TargetState.FINISHED:
            state, detail = TargetState.OUTDATED, ", but its error bars are not there"
        if state in (TargetState.ABSENT, TargetState.UNFINISHED):
            return state
        if overwrite or (state is TargetState.DAMAGED and not resume):
            if self.target.is_url:
                raise OutputError(
                    f"{self.target}: a result at a URL cannot be replaced in one go. "
                    "Delete it or choose another name"
                )
            check_replaceable(self.target.path, by_file=self.kind is not Kind.ZARR)
        elif state is TargetState.DAMAGED:
            raise OutputError(detail)
        elif state is not TargetState.FINISHED:
            raise OutputError(
                f"{self.target}: exists already{detail}. Choose another name, or "
                "replace it with --overwrite (overwrite=True)"
            )
        return state

    def check_error_file(self, overwrite: bool) -> bool:
        """Tell whether the error bars are there; refuse to replace a foreign file.

        Those of a file may be there before it: they are given their name first.
        """
        path = self.error_file
        if path is None:
            if self.error is None or self.target.is_url:
                return True
            return not self.target.path.exists() or has_own_error(self.target.path)
        if not os.path.lexists(path):
            return False
        theirs = _fingerprint_of_tiff(path)
        is_ours = isinstance(theirs, dict) and not differences(self.fingerprint, theirs)
        if not is_ours and not overwrite:
            raise OutputError(
                f"{path}: exists already, and the error bars would be written there. "
                "Choose another name, or replace it with --overwrite (overwrite=True)"
            )
        check_replaceable(path, by_file=True)
        return True

    def _target_state(self) -> tuple[TargetState, str]:
        """Return what the target is now, and what a message says about it."""
        if not self.target.is_url and not os.path.lexists(self.target.path):
            return TargetState.ABSENT, ""
        if self.kind is Kind.ZARR:
            try:
                store = TileStore.find(self.target)
            except DamagedStoreError as error:
                return TargetState.DAMAGED, str(error)
            except OutputError:
                return TargetState.FOREIGN, ""
            if store is None:
                return TargetState.ABSENT, ""
            theirs, is_complete = store.record.get("fingerprint"), store.is_complete
        else:
            theirs, is_complete = _fingerprint_of_tiff(self.target.path), True
        if not isinstance(theirs, dict):
            return TargetState.FOREIGN, ""
        if not is_complete:
            return TargetState.UNFINISHED, ""
        if changed := differences(self.fingerprint, theirs):
            detail = f" (made with other settings: {'; '.join(changed)})"
            return TargetState.OUTDATED, detail
        return TargetState.FINISHED, ""

    def find_store(
        self, location: Location, *, resume: bool, overwrite: bool
    ) -> TileStore | None:
        """Return the unfinished store to resume, if there is one.

        One that must not be resumed is deleted if the options allow it.
        """
        try:
            store = TileStore.find(location)
        except DamagedStoreError:
            if location.is_url or not (overwrite or not resume):
                raise
            discard_store(location.path)
            return None
        if store is None:
            return None
        if not resume or (overwrite and self.changed_since(store)):
            store.discard()
            return None
        self._check_same(store)
        return store

    def create_store(self, location: Location) -> TileStore:
        """Make an empty tile store, unless another part of the job has just made it."""
        nodata = self.lazy.nodata
        mark = None if nodata is None else as_dtype(nodata, self.lazy.dtype)
        as_ome = self.kind is Kind.ZARR
        store = TileStore.create(
            location,
            shapes=self.shapes,
            block=self.block,
            axes=self.axes,
            dtype=self.lazy.dtype,
            fill_value=0 if mark is None else mark.item(),
            zarr_format=ZARR_FORMAT[self.ome_version] if as_ome else 3,
            record={
                **self._provenance(),
                "fingerprint": dict(self.fingerprint),
                "complete": False,
            },
            error_record=self._error_record(),
        )
        self._check_same(store)
        return store

    def _error_record(self) -> dict[str, Any] | None:
        """Return our own attributes of the group of error bars."""
        if self.error is None:
            return None
        return {
            "image": "..",
            **as_json(dict(self.lazy.error_scale.record)),
            "georeference": as_json(georeference(self.error)),
            "complete": False,
        }

    def complete(
        self, store: TileStore, ranges: tuple[ValueRange, ...], **record: Any
    ) -> None:
        """Write the metadata that make the stores images; that of the error first."""
        if self.error is not None and store.error is not None:
            shown = shown_ranges(ranges)
            store.error.complete(
                ome_attributes(self.error, self.shapes, self._version, shown)
            )
            trust = {**store.record.get("trust", {}), "path": ERROR_GROUP}
            record = {**record, "trust": trust}
        store.complete(self.ome_attributes(ranges), **record)

    def _provenance(self) -> dict[str, Any]:
        if not self.fingerprint:  # a copy, which no network has made
            return {}
        names = ("numpy", "tifffile", "torch", "zarr")
        versions = {name: metadata.version(name) for name in names}
        return {
            **as_json(provenance(self.lazy)),
            "pixel_overhead": self.lazy.plan.pixel_overhead,
            "versions": {"python": platform.python_version(), **versions},
            "nodata": as_json(self.image.nodata),
            "georeference": as_json(georeference(self.image)),
        }

    def changed_since(self, store: TileStore) -> list[str]:
        """Return what is different now from when the store was made."""
        theirs = store.record.get("fingerprint")
        if not isinstance(theirs, dict):
            return ["everything: it was not made by this program"]
        return differences(self.fingerprint, theirs)

    def _check_same(self, store: TileStore) -> None:
        """Refuse to resume the tiles of a different job."""
        if changed := self.changed_since(store):
            raise OutputError(
                f"{store.location}: an unfinished result of a different run. Finish "
                "that one with its own settings, choose another name, or start anew "
                f"with --no-resume (resume=False). Different are: {'; '.join(changed)}"
            )

    # -- running ----------------------------------------------------------------------

    def compute_tiles(
        self,
        store: TileStore,
        runner: Runner,
        *,
        verify: bool = False,
        expected_seconds: float | None = None,
    ) -> None:
        """Compute the tiles of the full size that are missing.

        Tiles from the last moments of an earlier run are decoded first, and all of
        them with `verify`; damaged ones are computed again.
        """
        place = self.sink(store)
        sink: Any = place
        blocks: Any = self.lazy
        if self.error is not None:
            assert store.error is not None
            blocks, sink = Pairs(self.lazy), PairSink(place, self.sink(store.error))

        def tile_of(index: Index) -> Index:
            return place.index_of(self.lazy.slices_at(index))

        own = {tile_of(index) for index in part_of(self.lazy.grid, runner.part)}
        done = set.intersection(
            *(_intact_tiles(part, 0, own, runner, verify) for part in store.parts)
        )
        runner.run(
            blocks,
            sink,
            is_done=lambda index: tile_of(index) in done,
            expected_seconds=expected_seconds,
            pixel_overhead=self.lazy.plan.pixel_overhead,
        )

    def compute_pyramid(
        self, store: TileStore, runner: Runner, *, verify: bool = False
    ) -> None:
        """Compute the tiles of all lower levels that are missing."""
        for part, nodata in zip(store.parts, (self.lazy.nodata, None), strict=False):
            for number, shape in enumerate(self.shapes[1:], start=1):
                finer = part.level(number - 1)
                means = BlockMeans(finer, self.axes, shape, self.block, nodata)
                done = _intact_tiles(part, number, None, runner, verify)
                runner.run(
                    means,
                    BlockSink(part.level(number), self.axes, self.axes),
                    is_done=done.__contains__,
                    stage="pyramid",
                )

    def has_all_tiles(self, store: TileStore) -> bool:
        """Tell whether no tile of the full size is missing."""
        n_blocks: int = self.lazy.n_blocks
        return all(len(part.finished(0)) >= n_blocks for part in store.parts)

    def sink(self, store: TileStore) -> BlockSink:
        """Return what takes the blocks of `lazy`."""
        layout = self.lazy.layout
        return BlockSink(store.level(0), layout.axes, self.axes, layout.samples)

    def warn_if_source_changed(self) -> bool:
        """Tell whether the source was changed while it was read."""
        image = dataclasses.replace(self.image, data=self.lazy.source)
        try:
            now = as_json(identity_of(self.source, image))
        except OSError:
            now = None
        if now == self.fingerprint["source"]:
            return False
        warnings.warn(
            f"{self.source}: was changed while it was read; the result may mix old and "
            "new pixels and is marked as such",
            stacklevel=2,
        )
        return True

    def remove_temporary_files(self) -> None:
        """Delete what killed runs left beside the target; nobody else may write it."""
        if not self.target.is_url:
            remove_drafts(self.target.path)
            remove_drafts(self.unfinished.path)
        if self.error_file is not None:
            remove_drafts(self.error_file)


def _fingerprint_of_tiff(path: os.PathLike[str]) -> Any:
    """Return what an earlier export wrote into the tag Software, or None."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            text = tif.pages.first.tags.valueof("Software")
        return json.loads(text)["napari_swin2sr"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


# -- damaged tiles --------------------------------------------------------------------


def _intact_tiles(
    store: TileStore, level: int, own: set[Index] | None, runner: Runner, verify: bool
) -> set[Index]:
    """Return the finished tiles; suspicious ones are decoded, damaged ones deleted."""
    finished = store.finished(level)
    if own is not None:
        finished = {index: s for index, s in finished.items() if index in own}
    newest = max((s.changed for s in finished.values()), default=0.0)
    suspects = [
        index
        for index, s in finished.items()
        if verify or (s.changed and s.changed > newest - RECENT_SECONDS)
    ]
    damaged = damaged_tiles(store, level, suspects, runner)
    for index in damaged:
        logger.warning("level %d, tile %s is damaged: recomputed", level, index)
        store.remove(level, index)
    return set(finished) - damaged


def damaged_tiles(
    store: TileStore, level: int, tiles: Iterable[Index], runner: Runner
) -> set[Index]:
    """Return those of the tiles that cannot be decoded or fail their checksum."""
    stored = _StoredTiles(store.level(level), tuple(sorted(tiles)))
    if not stored.tiles:
        return set()
    checker = Runner(
        progress=runner.progress,
        cancel=runner.cancel,
        workers=runner.workers,
        retries=0,
        give_up_after=len(stored.tiles) + 1,
    )
    try:
        checker.run(stored, _Discard(), stage="check")
    except TilesFailedError as error:
        return {stored.tiles[number] for (number,) in error.failed}
    return set()


@dataclass(frozen=True)
class _StoredTiles:
    """Stored tiles as a row of blocks to be read."""

    array: Any
    tiles: tuple[Index, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        return (len(self.tiles),)

    def slices_at(self, index: Index) -> tuple[slice, ...]:
        return tile_grid(self.array).slices_at(self.tiles[index[0]])

    def block_at(self, index: Index) -> NDArray[Any]:
        pixels: NDArray[Any] = self.array[self.slices_at(index)]
        return pixels


class _Discard:
    """A sink that keeps nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        return None
