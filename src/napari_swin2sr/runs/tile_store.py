"""`TileStore`: a Zarr group in which one tile is one storage object.

That is what makes a run resumable: an object appears under its name only when it is
whole, so a tile is finished if and only if its object exists. Objects carry
checksums, and empty tiles are stored too.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from napari_swin2sr import replace
from napari_swin2sr.errors import OutputError
from napari_swin2sr.formats.ome_zarr import open_zarr_node
from napari_swin2sr.replace import ERROR_GROUP, RECORD, flush_to_disk
from napari_swin2sr.tiles.chunks import ChunkGrid

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from napari_swin2sr.formats.detect import Location

Index: TypeAlias = tuple[int, ...]

INNER_CHUNK = 512
"""Side of the chunks inside a shard, which viewers read one by one [px]."""

_WRITE_EMPTY: Any = {"write_empty_chunks": True}


@dataclass(frozen=True)
class Stored:
    """The object of a tile: bytes, and time of change (0 where a store has none)."""

    n_bytes: int
    changed: float


class DamagedStoreError(OutputError):
    """What is there has metadata of Zarr, and they cannot be read."""


class TileStore:
    """A Zarr group, at a folder or URL, with the levels of one image."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.group = open_zarr_node(location.place, "r+")

    @classmethod
    def find(cls, location: Location) -> TileStore | None:
        """Open the store at a place; None for nothing, an error for something else.

        A power failure may leave metadata that are empty or cut off.
        """
        if not location.is_url and not location.path.exists():
            return None
        try:
            store = cls(location)
            if store.record:
                for part in store.parts:
                    for number in range(part.n_levels):
                        part.level(number)
            return store
        except FileNotFoundError:
            if location.is_url:
                return None
            raise OutputError(f"{location}: exists and is not a Zarr group") from None
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            way_out = (
                "Delete it or choose another name"
                if location.is_url
                else "Start anew with --no-resume (resume=False) or --overwrite "
                "(overwrite=True)"
            )
            raise DamagedStoreError(
                f"{location}: the metadata of this Zarr group cannot be read, as after "
                f"a power failure ({type(error).__name__}: {error}). {way_out}"
            ) from error

    @classmethod
    def create(
        cls,
        location: Location,
        *,
        shapes: Iterable[tuple[int, ...]],
        block: tuple[int, ...],
        axes: str,
        dtype: Any,
        fill_value: float,
        zarr_format: Literal[2, 3],
        record: Mapping[str, Any],
        error_record: Mapping[str, Any] | None = None,
    ) -> TileStore:
        """Make a group with an empty array per level, all at once or not at all.

        A tile has the shape `block` in every level; the fill value stands for missing
        tiles. `record` are our own attributes, `error_record` those of a second group
        for error bars inside it, which has the same levels.
        """
        shapes = list(shapes)

        def make(at: str | Path) -> None:
            import zarr

            group = zarr.create_group(
                at, zarr_format=zarr_format, attributes={RECORD: dict(record)}
            )
            parts = [(group, dtype, fill_value)]
            if error_record is not None:
                attributes = {RECORD: dict(error_record)}
                inside = group.create_group(ERROR_GROUP, attributes=attributes)
                parts.append((inside, "float32", math.nan))
            for owner, kind, fill in parts:
                for number, shape in enumerate(shapes):
                    owner.create_array(
                        str(number),
                        shape=shape,
                        dtype=kind,
                        fill_value=fill,
                        config=_WRITE_EMPTY,
                        **_storage(block, shape, axes, zarr_format),
                    )

        if location.is_url:  # object stores have no folders to rename
            make(str(location))
            return cls(location)
        try:
            with replace.folder_beside(location.path) as draft:
                make(draft)
        except OSError as error:
            # Another part of the same job may have been faster; the caller checks it.
            if not location.path.exists():
                raise OutputError(f"{location}: cannot be created: {error}") from error
        return cls(location)

    @property
    def record(self) -> dict[str, Any]:
        """Our own attributes; empty if the group is not ours."""
        found = dict(self.group.attrs).get(RECORD)
        return dict(found) if isinstance(found, dict) else {}

    @property
    def error(self) -> TileStore | None:
        """The store of the error bars, if there is one of ours."""
        if ERROR_GROUP not in self.group:
            return None
        store = TileStore(self.location / ERROR_GROUP)
        return store if store.record else None

    @property
    def parts(self) -> list[TileStore]:
        """The store itself, and that of the error bars if there is one."""
        return [self] if (error := self.error) is None else [self, error]

    @property
    def is_complete(self) -> bool:
        """Whether everything, pyramid and metadata included, is written."""
        return self.record.get("complete") is True

    @property
    def n_levels(self) -> int:
        """Number of arrays."""
        # Looked up one by one: a listing leaves tasks with errors of damaged metadata.
        return next(n for n in itertools.count() if str(n) not in self.group)

    def level(self, number: int) -> Any:
        """Return the Zarr array of a level; it writes empty tiles too."""
        return self.group[str(number)].with_config(_WRITE_EMPTY)

    def finished(self, number: int) -> dict[Index, Stored]:
        """Return the tiles of a level whose objects exist and are not empty files."""
        array = self.level(number)
        head = "c/" if array.metadata.zarr_format == 3 else ""
        tiles = {}
        for key, stored in self._objects(array.path):
            parts = key.removeprefix(f"{array.path}/{head}").split("/")
            is_tile = len(parts) == array.ndim and all(p.isdecimal() for p in parts)
            if is_tile and stored.n_bytes != 0:
                tiles[tuple(map(int, parts))] = stored
        return tiles

    def remove(self, number: int, index: Index) -> None:
        """Delete the object of a tile, so that it counts as missing."""
        array = self.level(number)
        key = f"{array.path}/{array.metadata.encode_chunk_key(index)}"
        if self.location.is_url:
            replace.delete_objects(array.store, [key])
        else:
            replace.remove_file(self.location.path / key)

    def complete(self, attributes: Mapping[str, Any], **record: Any) -> None:
        """Write the attributes that make this an image, in one go: the last act."""
        record = {**self.record, **record, "complete": True}
        flush_to_disk(self.location.place)
        self.group.update_attributes({**attributes, RECORD: record})
        if not self.location.is_url:
            for name in ("zarr.json", ".zattrs"):
                if (path := self.location.path / name).exists():
                    flush_to_disk(path)
        flush_to_disk(self.location.place)

    def clean(self) -> None:
        """Delete what killed writers left behind; only safe while nobody writes."""
        if not self.location.is_url:
            replace.remove_strays(self.location.path)

    def discard(self) -> None:
        """Delete everything, unless something that is not ours lies in it."""
        if not self.location.is_url:
            replace.discard_store(self.location.path)
            return
        keys = _all_keys(self.group.store, "")
        has_error = self.error is not None
        replace.discard_objects(str(self.location), self.group.store, keys, has_error)

    def _objects(self, prefix: str) -> Iterable[tuple[str, Stored]]:
        """Yield the key below the group and the facts of each object of an array."""
        if self.location.is_url:
            for key in _all_keys(self.group.store, prefix + "/"):
                yield key, Stored(-1, 0.0)
            return
        root = self.location.path
        for folder, _, names in os.walk(root / prefix):
            for name in names:
                path = Path(folder, name)
                if not name.endswith(".partial"):
                    facts = path.stat()
                    key = path.relative_to(root).as_posix()
                    yield key, Stored(facts.st_size, facts.st_mtime)


def tile_grid(array: Any) -> ChunkGrid:
    """Return the grid of an array's storage objects."""
    return ChunkGrid.from_sides(array.shape, array.shards or array.chunks)


class BlockSink:
    """Takes blocks with some axes, and writes them as whole tiles with the stored axes.

    Those are the same, or a subset of TCZYX in that order, in which samples (S) are
    channels (C). When a write returns, the tile is on the disk, not only in the cache
    of the operating system.
    """

    def __init__(self, array: Any, axes: str, stored: str, samples: int = 1) -> None:
        self.array, self.axes, self.stored, self.samples = array, axes, stored, samples

    def __setitem__(self, slices: tuple[slice, ...], block: NDArray[Any]) -> None:
        self.array[self._place(slices)] = self._arranged(block)
        root = getattr(self.array.store, "root", None)
        if isinstance(root, Path):
            key = self.array.metadata.encode_chunk_key(self.index_of(slices))
            flush_to_disk(root / self.array.path / key)

    def index_of(self, slices: tuple[slice, ...]) -> Index:
        """Return the index of the tile in the store for a block's slices."""
        unit = self.array.shards or self.array.chunks
        return tuple(
            s.start // n for s, n in zip(self._place(slices), unit, strict=True)
        )

    def _place(self, slices: tuple[slice, ...]) -> tuple[slice, ...]:
        """Return slices of a block as slices of the array."""
        if self.axes == self.stored:
            return slices
        of_axis = dict(zip(self.axes, slices, strict=True))
        if "S" in of_axis:
            channel = of_axis.get("C", slice(0, 1))
            of_axis["C"] = slice(
                channel.start * self.samples, channel.stop * self.samples
            )
        return tuple(of_axis[letter] for letter in self.stored)

    def _arranged(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return a block in the axes of the array."""
        if self.axes == self.stored:
            return block
        length = dict(zip(self.axes, block.shape, strict=True))
        length["C"] = length.get("C", 1) * length.get("S", 1)
        order = [letter for letter in "TCSZYX" if letter in self.axes]
        moved = block.transpose([self.axes.index(letter) for letter in order])
        return moved.reshape([length[letter] for letter in self.stored])


def _all_keys(store: Any, prefix: str) -> list[str]:
    from zarr.core.sync import sync

    async def collect() -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    keys: list[str] = sync(collect())
    return keys


def _storage(
    block: tuple[int, ...], shape: tuple[int, ...], axes: str, zarr_format: int
) -> dict[str, Any]:
    """Return how an array is cut and compressed: a tile is a shard or a chunk.

    A tile larger than the array is cut down to it; that changes no tile's index.
    """
    if zarr_format == 2:
        import numcodecs  # type: ignore[import-untyped]

        return {
            "chunks": tuple(
                min(b, max(n, 1)) for b, n in zip(block, shape, strict=True)
            ),
            "compressors": numcodecs.Zstd(level=1, checksum=True),
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }
    from zarr.codecs import ZstdCodec

    inner, unit = [], []
    for axis, b, n in zip(axes, block, shape, strict=True):
        side = _inner_side(b) if axis in "YX" else b
        inner.append(side)
        unit.append(min(b, max(1, -(-n // side)) * side))
    return {
        "chunks": tuple(inner),
        "shards": tuple(unit) if inner != unit else None,
        "compressors": ZstdCodec(level=1, checksum=True),
        "dimension_names": [letter.lower() for letter in axes],
    }


def _inner_side(side: int) -> int:
    """Return the largest divisor of a tile's side that is no larger than wanted."""
    if side <= INNER_CHUNK:
        return side
    divisors = (n for n in range(INNER_CHUNK, INNER_CHUNK // 4, -1) if side % n == 0)
    return next(divisors, side)
