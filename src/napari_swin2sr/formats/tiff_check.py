"""Is a TIFF file whole? Walks every directory and checks what it points to.

A TIFF that was cut off while it was copied often still opens, with fewer pages and
missing rows; after hours of work the result would be wrong or absent. The walk
reads the directories only, not the pixels.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from napari_swin2sr.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_OFFSETS, _COUNTS = {273, 324}, {279, 325}  # strips, tiles
_SUB_IFDS = 330
_METADATA = {270, 33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113, 50839}
_INTEGER_TYPES = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_TYPE_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)


class _Flavour(NamedTuple):
    """How the numbers of this file are written."""

    order: str
    big: bool

    @property
    def word(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def word_bytes(self) -> int:
        return 8 if self.big else 4


def is_tiff(head: bytes) -> bool:
    """Tell whether a file that begins with `head` is a TIFF, classic or big."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def check_whole(path: Path) -> None:
    """Refuse a TIFF file that is cut off or points outside itself.

    Raises
    ------
    FileError
        With the place where the file ends too early.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            for where, last in _segments(file, size):
                if last > size:
                    raise _cut_off(path, where, last, size)
        except (struct.error, ValueError) as error:
            raise FileError(
                f"{path}: the TIFF directories are damaged ({error}), so the file of "
                f"{size} bytes is cut off or was never finished. Copy it again"
            ) from error


def _cut_off(path: Path, where: str, last: int, size: int) -> FileError:
    return FileError(
        f"{path}: the file is cut off: {where} reaches to byte {last}, but the file "
        f"ends at {size}. Copy it again"
    )


def _segments(file: BinaryIO, size: int) -> Iterator[tuple[str, int]]:
    """Yield what each directory points to and the byte where that ends."""
    flavour, first = _header(file)
    todo, seen, page = [first], {0}, 0
    while todo:
        offset = todo.pop()
        if offset in seen:  # sub-directories are listed, and may form a chain as well
            continue
        seen.add(offset)
        yield f"directory {page}", offset + 2
        starts, counts, subs, following, end = _directory(file, flavour, offset)
        yield f"directory {page}", end
        if starts.size and starts.size == counts.size:
            present = (counts > 0) & (starts > 0)  # both 0: a tile left out on purpose
            if present.any():
                yield (
                    f"image data of page {page}",
                    int((starts + counts)[present].max()),
                )
        todo += [following, *subs]
        page += 1
        if size < offset:
            return


def _header(file: BinaryIO) -> tuple[_Flavour, int]:
    head = file.read(16)
    if not is_tiff(head):
        raise ValueError("it does not begin like a TIFF")
    order = "<" if head[:2] == b"II" else ">"
    flavour = _Flavour(order, head[2:4] in (b"+\0", b"\0+"))
    (first,) = struct.unpack_from(flavour.word, head, 8 if flavour.big else 4)
    if first == 0:
        raise ValueError("it has no first directory")
    return flavour, first


def _directory(
    file: BinaryIO, flavour: _Flavour, offset: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], list[int], int, int]:
    """Return data offsets, byte counts, sub-directories, next directory and end.

    The end is that of the directory itself or of the metadata that it points to.
    """
    file.seek(offset)
    n_format, entry = ("Q", 20) if flavour.big else ("H", 12)
    n_bytes = struct.calcsize(n_format)
    (n,) = struct.unpack(flavour.order + n_format, file.read(n_bytes))
    if n > 4096:
        raise ValueError(f"directory at byte {offset} claims {n} entries")
    body = file.read(n * entry + flavour.word_bytes)
    (following,) = struct.unpack_from(flavour.word, body, n * entry)
    empty = np.zeros(0, np.uint64)
    starts, counts, subs = empty, empty, empty
    end = offset + n_bytes + n * entry + flavour.word_bytes
    for k in range(n):
        tag, kind = struct.unpack_from(flavour.order + "HH", body, k * entry)
        if tag in _OFFSETS:
            starts = _values(file, flavour, body, k * entry, kind)
        elif tag in _COUNTS:
            counts = _values(file, flavour, body, k * entry, kind)
        elif tag == _SUB_IFDS:
            subs = _values(file, flavour, body, k * entry, kind)
        elif tag in _METADATA:
            end = max(end, _value_end(flavour, body, k * entry, kind))
    return starts, counts, [int(s) for s in subs], following, end


def _value_end(flavour: _Flavour, body: bytes, at: int, kind: int) -> int:
    """Return the byte where a value that lies outside its entry ends, or 0."""
    (count,) = struct.unpack_from(flavour.word, body, at + 4)
    n_bytes = count * (_TYPE_BYTES[kind] if kind < len(_TYPE_BYTES) else 0)
    if n_bytes <= flavour.word_bytes:
        return 0
    (where,) = struct.unpack_from(flavour.word, body, at + 4 + flavour.word_bytes)
    return int(where + n_bytes)


def _values(
    file: BinaryIO, flavour: _Flavour, body: bytes, at: int, kind: int
) -> NDArray[np.uint64]:
    """Return the integers of a directory entry, inside it or where it points."""
    if kind not in _INTEGER_TYPES:
        raise ValueError(f"an offset has the type {kind}")
    (count,) = struct.unpack_from(flavour.word, body, at + 4)
    inline = at + 4 + flavour.word_bytes
    n_bytes = count * _TYPE_BYTES[kind]
    if n_bytes <= flavour.word_bytes:
        raw = body[inline : inline + n_bytes]
    else:
        (where,) = struct.unpack_from(flavour.word, body, inline)
        file.seek(where)
        raw = file.read(n_bytes)
    if len(raw) < n_bytes:
        raise ValueError("a list of offsets ends too early")
    return np.frombuffer(raw, flavour.order + _INTEGER_TYPES[kind]).astype(np.uint64)
