"""`TileStore`: a Zarr group in which one tile is one storage object.

That is what makes a run resumable: an object appears under its name only when it is
whole, so a tile is finished if and only if its object exists. Objects carry
checksums, and empty tiles are stored too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from napari_swin2sr import replace
from napari_swin2sr.errors import OutputError
from napari_swin2sr.formats.ome_zarr import open_zarr_node
from napari_swin2sr.replace import RECORD, flush_to_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

Index: TypeAlias = tuple[int, ...]

INNER_CHUNK = 512
"""Side of the chunks inside a shard, which viewers read one by one [px]."""

_WRITE_EMPTY: Any = {"write_empty_chunks": True}


@dataclass(frozen=True)
class Stored:
    """An object of a tile that exists.

    Attributes
    ----------
    n_bytes : its size
    changed : time of its last change [s since 1970], 0 where a store does not tell
    """

    n_bytes: int
    changed: float


class TileStore:
    """A Zarr group with the levels of one image, finished or not.

    Parameters
    ----------
    place : folder or URL of a group that exists
    """

    def __init__(self, place: str | Path) -> None:
        self.place = place
        self.group = open_zarr_node(place, "r+")

    @classmethod
    def create(
        cls,
        place: str | Path,
        *,
        shapes: Iterable[tuple[int, ...]],
        block: tuple[int, ...],
        axes: str,
        dtype: Any,
        fill_value: float,
        zarr_format: Literal[2, 3],
        record: Mapping[str, Any],
    ) -> TileStore:
        """Make a group with an empty array per level, all at once or not at all.

        Parameters
        ----------
        place : folder or URL where nothing is yet
        shapes : shapes of the levels, full size first
        block : shape of a tile in every level
        axes : names of the axes
        dtype, fill_value : of the pixels; the fill value stands for missing tiles
        zarr_format : 2 or 3; in 3 a tile is a shard of smaller chunks
        record : our own attributes

        Raises
        ------
        OutputError
            If the place cannot be written, or somebody else has just made it.
        """
        shapes = list(shapes)

        def fill(at: str | Path) -> None:
            import zarr

            group = zarr.create_group(
                at, zarr_format=zarr_format, attributes={RECORD: dict(record)}
            )
            for number, shape in enumerate(shapes):
                group.create_array(
                    str(number),
                    shape=shape,
                    dtype=dtype,
                    fill_value=fill_value,
                    config=_WRITE_EMPTY,
                    **_storage(block, shape, axes, zarr_format),
                )

        if isinstance(place, str):  # object stores have no folders to rename
            fill(place)
        else:
            _make_folder(place, fill)
        return cls(place)

    @property
    def record(self) -> dict[str, Any]:
        """Our own attributes; empty if the group is not ours."""
        found = dict(self.group.attrs).get(RECORD)
        return dict(found) if isinstance(found, dict) else {}

    @property
    def is_complete(self) -> bool:
        """Whether everything, pyramid and metadata included, is written."""
        return self.record.get("complete") is True

    @property
    def n_levels(self) -> int:
        """Number of arrays."""
        return len(list(self.group.array_keys()))

    def level(self, number: int) -> Any:
        """Return the Zarr array of a level; it writes empty tiles too."""
        return self.group[str(number)].with_config(_WRITE_EMPTY)

    def finished(self, number: int) -> dict[Index, Stored]:
        """Return the tiles of a level whose objects exist and are not empty files."""
        array = self.level(number)
        prefix, index_of = _key_reader(array)
        tiles = {}
        for key, stored in self._objects(array.path):
            index = index_of(key.removeprefix(prefix))
            if index is not None and stored.n_bytes != 0:
                tiles[index] = stored
        return tiles

    def remove(self, number: int, index: Index) -> None:
        """Delete the object of a tile, so that it counts as missing."""
        array = self.level(number)
        key = f"{array.path}/{array.metadata.encode_chunk_key(index)}"
        if isinstance(self.place, Path):
            replace.remove_file(self.place / key)
        else:
            replace.delete_objects(array.store, [key])

    def refresh(self) -> None:
        """Read the attributes again; another process may have changed them."""
        self.group = open_zarr_node(self.place, "r+")

    def complete(self, attributes: Mapping[str, Any], **record: Any) -> None:
        """Write the attributes that make this an image, in one go: the last act."""
        record = {**self.record, **record, "complete": True}
        flush_to_disk(self.place)
        self.group.update_attributes({**attributes, RECORD: record})
        flush_to_disk(self.place)

    def clean(self) -> int:
        """Delete what killed writers left behind; return how many files.

        Only safe while nobody else writes.
        """
        if isinstance(self.place, str):
            return 0
        return replace.remove_strays(self.place)

    def discard(self) -> None:
        """Delete everything, unless something that is not ours lies in it.

        Raises
        ------
        OutputError
            With what is not ours.
        """
        if isinstance(self.place, Path):
            replace.discard_store(self.place)
            return
        from zarr.core.sync import sync

        keys = sync(_all_keys(self.group.store, ""))
        replace.discard_objects(self.place, self.group.store, keys)

    def _objects(self, prefix: str) -> Iterable[tuple[str, Stored]]:
        """Yield the key below the group and the facts of each object of an array."""
        if isinstance(self.place, str):
            from zarr.core.sync import sync

            for key in sync(_all_keys(self.group.store, prefix + "/")):
                yield key, Stored(-1, 0.0)
            return
        root = self.place / prefix
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                if not name.endswith(".partial"):
                    facts = path.stat()
                    key = path.relative_to(self.place).as_posix()
                    yield key, Stored(facts.st_size, facts.st_mtime)


class BlockSink:
    """Takes blocks in the source's axes and writes them as whole tiles.

    Samples (S) become channels: the stored axes are those of `stored`, a subset of
    TCZYX in that order, or the source's own. When a write returns, the tile is on
    the disk, not only in the cache of the operating system.

    Parameters
    ----------
    array : Zarr array whose storage unit is one tile
    axes : axes of the blocks
    stored : axes of the array
    samples : length of the blocks' S axis, if they have one
    """

    def __init__(self, array: Any, axes: str, stored: str, samples: int = 1) -> None:
        self.array, self.axes, self.stored, self.samples = array, axes, stored, samples

    def __setitem__(self, slices: tuple[slice, ...], block: NDArray[Any]) -> None:
        place, pixels = self.arranged(slices, block)
        self.array[place] = pixels
        self._flush(place)

    def index_of(self, slices: tuple[slice, ...]) -> Index:
        """Return the index of the tile in the store for a block's slices."""
        place = self.arranged(slices, None)[0]
        unit = self.array.shards or self.array.chunks
        return tuple(s.start // n for s, n in zip(place, unit, strict=True))

    def arranged(
        self, slices: tuple[slice, ...], block: Any
    ) -> tuple[tuple[slice, ...], Any]:
        """Return place and pixels in the array's own axes."""
        if self.axes == self.stored:
            return slices, block
        of_axis = dict(zip(self.axes, slices, strict=True))
        if "S" in of_axis:
            channel = of_axis.get("C", slice(0, 1))
            of_axis["C"] = slice(
                channel.start * self.samples, channel.stop * self.samples
            )
        place = tuple(of_axis[letter] for letter in self.stored)
        if block is None:
            return place, None
        order = [letter for letter in "TCSZYX" if letter in self.axes]
        moved = block.transpose([self.axes.index(letter) for letter in order])
        return place, moved.reshape([s.stop - s.start for s in place])

    def _flush(self, place: tuple[slice, ...]) -> None:
        root = getattr(self.array.store, "root", None)
        if not isinstance(root, Path):
            return
        unit = self.array.shards or self.array.chunks
        index = tuple(s.start // n for s, n in zip(place, unit, strict=True))
        key = self.array.metadata.encode_chunk_key(index)
        flush_to_disk(root / self.array.path / key)


async def _all_keys(store: Any, prefix: str) -> list[str]:
    return [key async for key in store.list_prefix(prefix)]


def _make_folder(place: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder under another name and rename it when it is whole."""
    try:
        with replace.folder_beside(place) as draft:
            fill(draft)
    except OSError as error:
        if place.exists():
            return  # another part of the same job was faster; the caller checks it
        raise OutputError(f"{place}: cannot be created: {error}") from error


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


def _key_reader(array: Any) -> tuple[str, Callable[[str], Index | None]]:
    """Return the prefix of an array's tiles and how to read the rest of a key."""
    head = "c/" if array.metadata.zarr_format == 3 else ""
    ndim = array.ndim

    def index_of(text: str) -> Index | None:
        parts = text.split("/")
        if len(parts) != ndim or not all(p.isdecimal() for p in parts):
            return None
        return tuple(int(p) for p in parts)

    return f"{array.path}/{head}", index_of
