"""Finished pixels into one file: written beside the target, renamed when whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import (
    CancelToken,
    OutputError,
    Swin2SRError,
    check_cancel,
)
from napari_swin2sr.formats.png_jpeg import write_picture
from napari_swin2sr.formats.tiff_write import write_tiff
from napari_swin2sr.replace import scratch_file, written_beside
from napari_swin2sr.runs.runner import Meter, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
    last: Callable[[], None] | None = None,
) -> None:
    """Write an image (and its lower levels) as TIFF, PNG or JPEG, by the suffix.

    Nothing appears under the target's name before it is whole and on the disk; an
    older file of that name is replaced at that moment. What belongs to it is written
    by `last`, directly before.
    """
    meter = Meter(progress, "export")

    def tick(done: int, total: int) -> None:
        check_cancel(cancel, " while the finished tiles were being exported")
        if done == 0:
            meter.total = total
            meter.start()
        else:
            meter.tile_done((done - 1,))

    try:
        with written_beside(target, replace=overwrite) as draft:
            if draft.suffix.lower() in (".png", ".jpg", ".jpeg"):
                tick(0, 1)
                write_picture(image, draft)
            elif cog:
                from napari_swin2sr.formats.geotiff import as_cloud_optimized

                with scratch_file(target) as plain:
                    write_tiff(image, levels, plain, software=software, tick=tick)
                    as_cloud_optimized(plain, draft)
            else:
                write_tiff(image, levels, draft, software=software, tick=tick)
            meter.tile_done((meter.total - 1,))
            meter.finish()
            if last is not None:
                last()
    except Swin2SRError:
        raise
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error}") from error
