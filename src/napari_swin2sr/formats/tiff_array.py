"""`TiffArray`: the pixels of a TIFF file, read region by region in any process."""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

CACHE_BYTES = 256 * 2**20
"""Decoded strips and tiles kept per array, as neighbouring tiles need them again."""


@contextmanager
def tifffile_logs() -> Iterator[list[str]]:
    """Collect what tifffile logs in this thread, instead of showing it to the user."""
    thread, lines, log = threading.get_ident(), [], logging.getLogger("tifffile")

    def keep(record: logging.LogRecord) -> bool:
        if record.thread != thread:
            return True
        lines.append(record.getMessage())
        return False

    log.addFilter(keep)
    try:
        yield lines
    finally:
        log.removeFilter(keep)


class TiffArray:
    """One level of one series of a TIFF file as a lazy array.

    It pickles as a path and two numbers; every process opens the file for itself.
    Reading is thread-safe. Pixels that lie uncompressed in one piece are mapped for
    the moment of the copy; all others are decoded strip by strip or tile by tile.
    """

    def __init__(self, path: Path, series: int = 0, level: int = 0) -> None:
        import tifffile

        self.path, self.series, self.level = Path(path), series, level
        with tifffile.TiffFile(self.path) as tif:
            pages = tif.series[series].levels[level]
            self.shape: tuple[int, ...] = tuple(int(n) for n in pages.shape)
            self._offset = _offset_of_plain_pixels(pages)
            self._stored = np.dtype(pages.dtype).newbyteorder(tif.byteorder)
        self.dtype: np.dtype[Any] = np.dtype(pages.dtype)
        self.ndim = len(self.shape)
        self._lock = threading.Lock()
        self._opened: Any = None
        self._cache: _Cache | None = None

    @property
    def chunks(self) -> tuple[int, ...]:
        """Strip or tile that is decoded as a whole; of plain pixels, one run."""
        if self._offset is not None:
            return (1,) * (self.ndim - 1) + self.shape[-1:]
        return tuple(int(n) for n in self._zarr().chunks)

    def __repr__(self) -> str:
        return (
            f"TiffArray({str(self.path)!r}, series={self.series}, level={self.level}, "
            f"shape={self.shape}, dtype={self.dtype})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return TiffArray, (self.path, self.series, self.level)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Name the pixels by the file's place, size and time of change."""
        facts = self.path.stat()
        place = str(self.path.resolve())
        return (place, facts.st_size, facts.st_mtime_ns, self.series, self.level)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a region: slices and whole numbers, one per axis, as in NumPy."""
        if self._offset is not None:
            pixels = np.memmap(
                self.path, self._stored, "r", offset=self._offset, shape=self.shape
            )
            return np.array(pixels[index], self.dtype)
        slices, then = as_slices(index, self.shape)
        region: NDArray[Any] = self._decoded(slices)[then]
        return region

    def _decoded(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        """Put a region together from the strips or tiles that it touches."""
        out = np.empty([s.stop - s.start for s in slices], self.dtype)
        if out.size == 0:
            return out
        chunks = self.chunks
        touched = (
            range(s.start // n, -(-s.stop // n))
            for s, n in zip(slices, chunks, strict=True)
        )
        for number in itertools.product(*touched):
            chunk = self._chunk(number)
            source, target = [], []
            for s, i, n, length in zip(
                slices, number, chunks, chunk.shape, strict=True
            ):
                start, stop = max(s.start, i * n), min(s.stop, i * n + length)
                source.append(slice(start - i * n, stop - i * n))
                target.append(slice(start - s.start, stop - s.start))
            out[tuple(target)] = chunk[tuple(source)]
        return out

    def _chunk(self, number: tuple[int, ...]) -> NDArray[Any]:
        array = self._zarr()
        assert self._cache is not None
        return self._cache.get(number, lambda: self._decode(array, number))

    def _decode(self, array: Any, number: tuple[int, ...]) -> NDArray[Any]:
        region = tuple(
            slice(i * n, min((i + 1) * n, length))
            for i, n, length in zip(number, self.chunks, self.shape, strict=True)
        )
        try:
            return np.asarray(array[region])
        except Exception as error:
            if "imagecodecs" in str(error):
                raise
            raise FileError(
                f"{self.path}: the pixels {[(s.start, s.stop) for s in region]} cannot "
                f"be decoded: {type(error).__name__}: {error}"
            ) from error

    def _zarr(self) -> Any:
        with self._lock:
            if self._opened is None:
                import tifffile
                import zarr

                store = tifffile.imread(
                    self.path, aszarr=True, series=self.series, level=self.level
                )
                weakref.finalize(self, store.close)
                self._opened = zarr.open_array(store, mode="r")
                self._cache = _Cache(CACHE_BYTES)
            return self._opened


class _Cache:
    """Least recently used chunks, up to a number of bytes (at least one chunk)."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self.kept: OrderedDict[tuple[int, ...], NDArray[Any]] = OrderedDict()
        self.lock = threading.Lock()
        self.decoding_big = threading.Lock()
        self.biggest = 0

    def get(
        self, key: tuple[int, ...], make: Callable[[], NDArray[Any]]
    ) -> NDArray[Any]:
        found = self._look_up(key)
        if found is not None:
            return found
        if self.biggest * 8 < self.limit:
            return self._keep(key, make())
        with self.decoding_big:  # never two big ones at once: that is what fills memory
            found = self._look_up(key)
            return self._keep(key, make()) if found is None else found

    def _look_up(self, key: tuple[int, ...]) -> NDArray[Any] | None:
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
            return self.kept.get(key)

    def _keep(self, key: tuple[int, ...], chunk: NDArray[Any]) -> NDArray[Any]:
        with self.lock:
            self.biggest = max(self.biggest, chunk.nbytes)
            if key not in self.kept:
                self.kept[key] = chunk
                self.size += chunk.nbytes
            while self.size > self.limit and len(self.kept) > 1:
                self.size -= self.kept.popitem(last=False)[1].nbytes
        return chunk


def _offset_of_plain_pixels(pages: Any) -> int | None:
    """Return where uncompressed pixels begin that lie in the file in one piece."""
    offset = pages.dataoffset
    plain = pages.keyframe.bitspersample == np.dtype(pages.dtype).itemsize * 8
    return int(offset) if offset is not None and plain else None


def as_slices(
    index: Any, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[Any, ...]]:
    """Return the smallest box with the wanted pixels, and their index in the box."""
    given = index if isinstance(index, tuple) else (index,)
    if Ellipsis in given:
        at = given.index(Ellipsis)
        fill = (slice(None),) * (len(shape) - len(given) + 1)
        given = given[:at] + fill + given[at + 1 :]
    given += (slice(None),) * (len(shape) - len(given))
    if len(given) > len(shape):
        raise IndexError(f"{len(given)} indices for an array of {len(shape)} axes")
    box: list[slice] = []
    then: list[slice | int] = []
    for item, n in zip(given, shape, strict=True):
        if isinstance(item, slice):
            numbers = range(*item.indices(n))
            lo, hi = (min(numbers), max(numbers) + 1) if len(numbers) else (0, 0)
            flipped = slice(None, None, item.step)
            box.append(slice(lo, hi))
            then.append(flipped)
        else:
            number = range(n)[item]
            box.append(slice(number, number + 1))
            then.append(0)
    return tuple(box), tuple(then)
