"""`TiffArray`: the pixels of a TIFF file, read region by region in any process."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import FileError, MissingDependencyError
from napari_swin2sr.tiles.cache import BlockCache
from napari_swin2sr.tiles.chunks import ChunkGrid, forward

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CACHE_BYTES = 256 * 2**20
"""Decoded strips and tiles kept per array, as neighboring tiles need them again."""


@contextlib.contextmanager
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
        with tifffile_logs(), tifffile.TiffFile(self.path) as tif:
            pages = tif.series[series].levels[level]
            self.shape: tuple[int, ...] = tuple(int(n) for n in pages.shape)
            self._offset = _offset_of_plain_pixels(pages)
            self._stored = np.dtype(pages.dtype).newbyteorder(tif.byteorder)
        # Two of NumPy's types are 64-bit integers; Zarr knows one of them.
        self.dtype: np.dtype[Any] = np.dtype(np.dtype(pages.dtype).str)
        self.ndim = len(self.shape)
        self._opening, self._decoding_big = threading.Lock(), threading.Lock()
        self._opened: Any = None
        self._cache = BlockCache(CACHE_BYTES, keep_one=True)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Strip or tile that is decoded as a whole; of plain pixels, one row."""
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
        """Read a region: slices and integers, one per axis, as in NumPy."""
        if self._offset is not None:
            plain = np.memmap(
                self.path, self._stored, "r", offset=self._offset, shape=self.shape
            )
            return np.array(plain[index], self.dtype)
        region, finish = forward(index, self.shape)
        out = np.empty([len(part) for part in region], self.dtype)
        grid = ChunkGrid.from_sides(self.shape, self.chunks)
        for chunk in grid.meeting(region):
            decode = functools.partial(self._decode, grid.slices_at(chunk.index))
            pixels = self._cache.get_or_make(0, chunk.index, decode)
            out[chunk.local] = pixels[chunk.inner]
        finished: NDArray[Any] = out[finish]
        return finished

    def _decode(self, place: tuple[slice, ...]) -> NDArray[Any]:
        n_bytes = math.prod(s.stop - s.start for s in place) * self.dtype.itemsize
        is_big = n_bytes * 8 >= CACHE_BYTES  # two big ones at once fill the memory
        try:
            with (
                tifffile_logs(),
                self._decoding_big if is_big else contextlib.nullcontext(),
            ):
                return np.asarray(self._zarr()[place])
        except Exception as error:
            if isinstance(error, ImportError) or "imagecodecs" in str(error):
                raise MissingDependencyError(
                    f"{self.path}: its compression needs imagecodecs "
                    f'({error}): pip install "napari-swin2sr[tiff]"'
                ) from error
            raise FileError(
                f"{self.path}: the pixels {[(s.start, s.stop) for s in place]} cannot "
                f"be decoded: {type(error).__name__}: {error}"
            ) from error

    def _zarr(self) -> Any:
        with self._opening:
            if self._opened is None:
                import tifffile
                import zarr

                with tifffile_logs():
                    store = tifffile.imread(
                        self.path, aszarr=True, series=self.series, level=self.level
                    )
                weakref.finalize(self, store.close)
                self._opened = zarr.open_array(store, mode="r")
            return self._opened


def _offset_of_plain_pixels(pages: Any) -> int | None:
    """Return where uncompressed pixels begin that lie in the file in one piece."""
    offset = pages.dataoffset
    plain = pages.keyframe.bitspersample == np.dtype(pages.dtype).itemsize * 8
    return int(offset) if offset is not None and plain else None
