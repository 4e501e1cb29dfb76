"""A resumable run into a tile store: what is there, what is missing, what is next."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from napari_swin2sr.errors import OutputError, TilesFailedError
from napari_swin2sr.formats.pyramid import BlockMeans, level_shapes
from napari_swin2sr.image.intensity import as_dtype
from napari_swin2sr.runs.lock import differences
from napari_swin2sr.runs.runner import (
    CancelToken,
    Progress,
    check_part,
    run,
)
from napari_swin2sr.runs.tile_store import BlockSink, Stored, TileStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from napari_swin2sr.tiles.lazy import LazyUpscaled

Index: TypeAlias = tuple[int, ...]

logger = logging.getLogger(__name__)

RECENT_SECONDS = 120.0
"""A power cut may have damaged tiles written in the last moments before it."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """How a job is run, the same for tiles, checks and pyramid."""

    progress: Progress | None = None
    cancel: CancelToken | None = None
    workers: int | None = None
    executor: Executor | None = None
    part: tuple[int, int] | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class TileJob:
    """What is to be stored where.

    Attributes
    ----------
    place : folder or URL of the tile store
    lazy : the result to compute
    axes : axes of the stored arrays; samples (S) may have become channels (C)
    shape : shape of the stored full size
    zarr_format : 2 or 3
    fingerprint : what must be the same for going on with an unfinished store
    provenance : further facts to record
    """

    place: str | Path
    lazy: LazyUpscaled
    axes: str
    shape: tuple[int, ...]
    zarr_format: Literal[2, 3]
    fingerprint: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all levels of the pyramid."""
        return level_shapes(self.shape, self.axes)

    @property
    def block(self) -> tuple[int, ...]:
        """Shape of a tile in the store."""
        side = self.lazy.plan.core * self.lazy.upscale
        samples = self.lazy.layout.samples
        merged = "S" in self.lazy.axes and "S" not in self.axes
        channel = samples if merged else 1
        sides = {"Y": side, "X": side, "C": channel, "S": samples}
        return tuple(sides.get(axis, 1) for axis in self.axes)

    # -- opening ----------------------------------------------------------------------

    def open(self) -> TileStore:
        """Open the store, or make it.

        Raises
        ------
        OutputError
            If it was begun by a different job.
        """
        store = existing_store(self.place)
        if store is None:
            store = self._create()
        self.check_same(store)
        return store

    def check_same(self, store: TileStore) -> None:
        """Refuse to go on with the tiles of a different job.

        Raises
        ------
        OutputError
            With what is different.
        """
        changed = self.changed_since(store)
        if changed:
            raise OutputError(
                f"{self.place}: an unfinished result of a different run. Finish that "
                "one with its own settings, choose another name, or start anew with "
                f"--no-resume (resume=False). Different are: {'; '.join(changed)}"
            )

    def changed_since(self, store: TileStore) -> list[str]:
        """Return what is different now from when the store was made."""
        theirs = store.record.get("fingerprint")
        if not isinstance(theirs, dict):
            return ["everything: it was not made by this program"]
        return differences(self.fingerprint, theirs)

    def _create(self) -> TileStore:
        nodata = self.lazy.nodata
        mark = None if nodata is None else as_dtype(nodata, self.lazy.dtype)
        record = {
            **self.provenance,
            "fingerprint": dict(self.fingerprint),
            "complete": False,
        }
        return TileStore.create(
            self.place,
            shapes=self.shapes,
            block=self.block,
            axes=self.axes,
            dtype=self.lazy.dtype,
            fill_value=0 if mark is None else mark.item(),
            zarr_format=self.zarr_format,
            record=record,
        )

    # -- running ----------------------------------------------------------------------

    def run_tiles(
        self,
        store: TileStore,
        how: Running,
        *,
        verify: bool = False,
        expected_seconds: float | None = None,
    ) -> None:
        """Compute the tiles of the full size that are missing.

        Tiles from the last moments of an earlier run are decoded first, and all of
        them with `verify`; damaged ones are computed again.
        """
        sink = self.sink(store)
        own = {
            sink.index_of(self.lazy.slices_at(i)) for i in self._own_blocks(how.part)
        }
        done = self._sound(store, 0, own, how, verify)
        run(
            self.lazy,
            sink,
            is_done=lambda index: sink.index_of(self.lazy.slices_at(index)) in done,
            progress=how.progress,
            cancel=how.cancel,
            workers=how.workers,
            executor=how.executor,
            part=how.part,
            expected_seconds=expected_seconds,
            pixel_overhead=self.lazy.plan.pixel_overhead,
        )

    def has_all_tiles(self, store: TileStore) -> bool:
        """Tell whether no tile of the full size is missing."""
        return len(store.finished(0)) >= self.lazy.n_blocks

    def run_pyramid(
        self, store: TileStore, how: Running, *, verify: bool = False
    ) -> None:
        """Compute the tiles of all coarser levels that are missing."""
        for number, shape in enumerate(self.shapes[1:], start=1):
            means = BlockMeans(
                store.level(number - 1), self.axes, shape, self.block, self.lazy.nodata
            )
            done = self._sound(store, number, None, how, verify)
            run(
                means,
                BlockSink(store.level(number), self.axes, self.axes),
                is_done=done.__contains__,
                progress=how.progress,
                cancel=how.cancel,
                workers=how.workers,
                executor=how.executor,
                stage="pyramid",
            )

    def sink(self, store: TileStore) -> BlockSink:
        """Return what takes the blocks of `lazy`."""
        layout = self.lazy.layout
        return BlockSink(store.level(0), layout.axes, self.axes, layout.samples)

    def _own_blocks(self, part: tuple[int, int] | None) -> itertools.islice[Index]:
        first, step = check_part(part) or (0, 1)
        every = itertools.product(*(range(n) for n in self.lazy.grid))
        return itertools.islice(every, first, None, step)

    def _sound(
        self,
        store: TileStore,
        level: int,
        own: set[Index] | None,
        how: Running,
        verify: bool,
    ) -> set[Index]:
        """Return the finished tiles; suspicious ones are decoded, bad ones deleted."""
        finished = store.finished(level)
        if own is not None:
            finished = {i: s for i, s in finished.items() if i in own}
        suspects = list(finished) if verify else _recent(finished)
        damaged = damaged_tiles(store, level, suspects, how)
        for index in damaged:
            logger.warning("level %d, tile %s is damaged: made again", level, index)
            store.remove(level, index)
        return set(finished) - damaged


def existing_store(place: str | Path) -> TileStore | None:
    """Return the store at `place`, or None if nothing is there.

    Raises
    ------
    OutputError
        If something else is there.
    """
    if isinstance(place, Path) and not place.exists():
        return None
    try:
        return TileStore(place)
    except FileNotFoundError:
        if isinstance(place, str):
            return None
        raise OutputError(f"{place}: exists and is not a Zarr group") from None


def damaged_tiles(
    store: TileStore, level: int, tiles: list[Index], how: Running
) -> set[Index]:
    """Return those of the tiles that cannot be decoded or fail their checksum."""
    if not tiles:
        return set()
    reader = _Reader(store.level(level), tuple(sorted(tiles)))
    try:
        run(
            reader,
            _Nothing(),
            progress=how.progress,
            cancel=how.cancel,
            workers=how.workers,
            retries=0,
            give_up_after=len(tiles) + 1,
            stage="check",
        )
    except TilesFailedError as error:
        return {reader.tiles[number] for (number,) in error.failed}
    return set()


def _recent(finished: Mapping[Index, Stored]) -> list[Index]:
    newest = max((s.changed for s in finished.values()), default=0.0)
    return [
        index
        for index, stored in finished.items()
        if stored.changed and stored.changed > newest - RECENT_SECONDS
    ]


@dataclass(frozen=True)
class _Reader:
    """Stored tiles as blocks that can be read; the pixels are thrown away."""

    array: Any
    tiles: tuple[Index, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        return (len(self.tiles),)

    def slices_at(self, index: Index) -> tuple[slice, ...]:
        unit = self.array.shards or self.array.chunks
        return tuple(
            slice(i * n, min((i + 1) * n, length))
            for i, n, length in zip(
                self.tiles[index[0]], unit, self.array.shape, strict=True
            )
        )

    def block_at(self, index: Index) -> NDArray[Any]:
        pixels: NDArray[Any] = self.array[self.slices_at(index)]
        return pixels


class _Nothing:
    """A sink that keeps nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        return None
