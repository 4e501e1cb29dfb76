"""Finished pixels into one file: written beside the target, renamed when whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import Cancelled, OutputError, Swin2SRError
from napari_swin2sr.replace import scratch_file, written_beside
from napari_swin2sr.runs.runner import (
    CancelToken,
    Progress,
    RunFinished,
    RunStarted,
    TileDone,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_swin2sr.image.record import SpatialImage


def export(
    image: SpatialImage,
    levels: Sequence[Any],
    target: Path,
    *,
    cog: bool = False,
    software: str = "",
    overwrite: bool = True,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> None:
    """Write an image as TIFF, PNG or JPEG, by the target's suffix.

    Nothing appears under the target's name before it is whole and on the disk; an
    older file of that name is replaced at that moment.

    Parameters
    ----------
    image : the full size
    levels : arrays of the coarser levels, for TIFF
    target : file to make
    cog : make a Cloud Optimized GeoTIFF (needs the extra geo)
    software : text for the TIFF tag of that name
    overwrite : replace a file that has the target's name by then
    progress, cancel : as for `store.run`, stage "export"

    Raises
    ------
    OutputError
        If the disk does not take it.
    Cancelled
        If `cancel` was set; nothing is left behind.
    """
    ticker = _Ticker(progress, cancel)
    try:
        with written_beside(target, replace=overwrite) as draft:
            _write(image, levels, target, draft, cog, software, ticker)
    except Swin2SRError:
        raise
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error}") from error
    ticker.finish()


def _write(
    image: SpatialImage,
    levels: Sequence[Any],
    target: Path,
    draft: Path,
    cog: bool,
    software: str,
    ticker: _Ticker,
) -> None:
    if draft.suffix.lower() in (".png", ".jpg", ".jpeg"):
        from napari_swin2sr.formats.png_jpeg import write_picture

        ticker(0, 1)
        write_picture(image, draft)
        return
    from napari_swin2sr.formats.tiff_write import write_tiff

    if not cog:
        write_tiff(image, levels, draft, software=software, tick=ticker)
        return
    from napari_swin2sr.formats.geotiff import as_cloud_optimized

    with scratch_file(target) as plain:
        write_tiff(image, levels, plain, software=software, tick=ticker)
        as_cloud_optimized(plain, draft)


class _Ticker:
    """Turns "tile n of m" into events, and a set token into `Cancelled`."""

    def __init__(self, progress: Progress | None, cancel: CancelToken | None) -> None:
        self.progress, self.cancel = progress, cancel
        self.total = 0
        self.start = self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("cancelled while the finished tiles were being exported")
        if done == 0:
            self.total = total
            self._report(RunStarted(total, 0, "export"))
        else:
            self._tile_done(done)

    def finish(self) -> None:
        self._tile_done(self.total)
        seconds = time.monotonic() - self.start
        self._report(
            RunFinished(self.total, self.total, seconds=seconds, stage="export")
        )

    def _tile_done(self, done: int) -> None:
        now = time.monotonic()
        elapsed, seconds = now - self.start, now - self.last
        self.last = now
        left = elapsed / max(done, 1) * (self.total - done)
        self._report(
            TileDone((done - 1,), done, self.total, seconds, elapsed, left, "export")
        )

    def _report(self, event: RunStarted | TileDone | RunFinished) -> None:
        if self.progress is not None:
            self.progress(event)
