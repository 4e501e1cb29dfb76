"""File > Open for results: all levels, lazily, with scale, units, colors and names."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from napari_swin2sr.errors import FileError
from napari_swin2sr.image.record import SpatialImage

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]

_RGB_NAMES = ("red", "green", "blue")


def get_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """Return what opens a path, as napari asks for it; stacks of files are not ours."""
    return read_image if isinstance(path, str) else None


def read_image(path: str) -> list[LayerData]:
    """Return the layers of an image file, one per channel; no pixels are read.

    Raises
    ------
    FileError
        If it cannot be read.
    """
    from napari_swin2sr.formats import open_image

    image = open_image(path)
    if "S" not in image.axes and image.channel_names[:3] == _RGB_NAMES:
        image = open_image(path, rgb=True)
    letters = image.axes.replace("S", "")
    axes = letters + "S" * ("S" in image.axes)
    levels = open_levels(Path(path), axes)
    keywords: dict[str, Any] = {"rgb": "S" in axes, "name": _name(path)}
    channels = image.axes.find("C")
    placed = letters.replace("C", "") if channels >= 0 else letters
    keywords |= {
        "scale": [image.pixel_size.get(letter, 1.0) for letter in placed],
        "translate": [image.origin.get(letter, 0.0) for letter in placed],
        "units": [image.unit.get(letter) or "pixel" for letter in placed],
        "axis_labels": [letter.lower() for letter in placed],
    }
    if channels < 0:
        look = {} if "S" in axes else _look(image, 0)
        return [(_as_data(levels), keywords | look | _kind(levels), "image")]
    layers = []
    for number in range(image.shape[channels]):
        part = [level.take(number, axis=letters.index("C")) for level in levels]
        look = _look(image, number) | {"blending": "additive"}
        look.setdefault("name", f"{_name(path)} {number}")
        layers.append((_as_data(part), keywords | look | _kind(part), "image"))
    return layers


def open_levels(path: Path, axes: str) -> list[Any]:
    """Return every level of an image file as a dask array; no pixels are read.

    napari indexes the displayed axes before the others, so that an array which is not
    lazy would be read for all times and depths at once.

    Parameters
    ----------
    path : pathlib.Path
        Any image file; PNG and JPEG have one level and are decoded.
    axes : str
        Letters in the order that the arrays shall have; files may keep another one.
    """
    from napari_swin2sr.formats import open_image
    from napari_swin2sr.formats.detect import Kind, kind_of

    has_levels = kind_of(path) in (Kind.ZARR, Kind.TIFF, Kind.INSTRUMENT)
    levels: list[Any] = []
    for number in itertools.count() if has_levels else (0,):
        try:
            image = open_image(path, level=number, rgb=True if "S" in axes else None)
        except FileError:
            if not levels:
                raise
            break
        levels.append(_as_dask(image, axes))
    return levels


def _as_dask(image: SpatialImage, axes: str) -> Any:
    import dask.array as da

    chunks = getattr(image.data, "chunks", "auto")
    from_array: Any = da.from_array
    array = from_array(image.data, chunks=chunks, name=False)
    letters = image.axes
    for letter in image.axes:
        if letter not in axes:  # axes of length 1 that the format asks for
            array = array.take(0, axis=letters.index(letter))
            letters = letters.replace(letter, "")
    return array.transpose([letters.index(letter) for letter in axes])


def _as_data(levels: list[Any]) -> Any:
    return levels if len(levels) > 1 else levels[0]


def _kind(levels: list[Any]) -> dict[str, Any]:
    return {"multiscale": len(levels) > 1}


def _name(path: str) -> str:
    return Path(path.rstrip("/")).name.split(".ome.")[0].removesuffix(".zarr")


def _look(image: SpatialImage, channel: int) -> dict[str, Any]:
    """Return name, color and contrast limits of a channel, as far as they are known."""
    look: dict[str, Any] = {}
    if image.value_range and channel < len(image.value_range):
        look["contrast_limits"] = image.value_range[channel]
    if channel < len(image.channel_names) and image.channel_names[channel]:
        look["name"] = image.channel_names[channel]
    if channel < len(image.channel_colors) and image.channel_colors[channel]:
        color = image.channel_colors[channel]
        look["colormap"] = "gray" if color == "FFFFFF" else f"#{color}"
    return look
