"""Finished files as layers, opened lazily."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from napari_swin2sr.errors import FileError


def open_levels(path: Path, axes: str) -> list[Any]:
    """Return every level of an image file as a dask array; no pixels are read.

    napari indexes the displayed axes before the others, so that an array which is not
    lazy would be read for all times and depths at once.

    Parameters
    ----------
    path : OME-Zarr or TIFF
    axes : letters in the order that the arrays shall have; files may keep another one
    """
    levels: list[Any] = []
    for number in itertools.count():
        try:
            levels.append(_level(path, number, axes))
        except FileError:
            if not levels:
                raise
            return levels
    raise AssertionError("unreachable")


def _level(path: Path, number: int, axes: str) -> Any:
    import dask.array as da

    from napari_swin2sr.formats import open_image

    image = open_image(path, level=number, rgb=True if "S" in axes else None)
    chunks = getattr(image.data, "chunks", "auto")
    from_array: Any = da.from_array
    array = from_array(image.data, chunks=chunks, name=False)
    letters = image.axes
    for letter in image.axes:
        if letter not in axes:  # axes of length 1 that the format asks for
            array = array.take(0, axis=letters.index(letter))
            letters = letters.replace(letter, "")
    return array.transpose([letters.index(letter) for letter in axes])
