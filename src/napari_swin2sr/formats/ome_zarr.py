"""OME-Zarr 0.4 and 0.5: what its metadata say, and what ours should say."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from napari_swin2sr.errors import FileError, InputError, MissingDependencyError
from napari_swin2sr.formats.geo_tags import GeoTags
from napari_swin2sr.image.record import SpatialImage, center_shift
from napari_swin2sr.replace import RECORD
from napari_swin2sr.tiles.cache import available_memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_swin2sr.formats.detect import Location
    from napari_swin2sr.image.intensity import ValueRange

OmeVersion: TypeAlias = Literal["0.4", "0.5"]

ZARR_FORMAT: dict[str, Literal[2, 3]] = {"0.4": 2, "0.5": 3}
"""Version of OME-Zarr -> of Zarr."""

_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_MOST_BYTES = 2**28
_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
_RGBA = {"red": "FF0000", "green": "00FF00", "blue": "0000FF", "alpha": "FFFFFF"}


# -- reading --------------------------------------------------------------------------


def open_zarr(location: Location, *, series: int = 0, level: int = 0) -> SpatialImage:
    """Describe an image in a Zarr store: OME-Zarr, or a plain array.

    The axes are "" if the store does not name them. Raises FileError if there is no
    image, or only one that a run has not finished.
    """
    try:
        _check_files(location)
        place: Any = location.place
        if not location.is_url and location.path.is_file():
            place = _opened_zip(location.path)
        node, location = _find_image(open_zarr_node(place), location, series)
        if hasattr(node, "dtype"):
            axes = _named_axes(node)
            image = SpatialImage(data=node, axes=axes, source=str(location))
        else:
            image = _multiscale(node, location, level)
        chunk = math.prod(image.data.chunks) * image.data.dtype.itemsize
        free = available_memory()
        if free is not None and 2 * chunk > free:
            raise FileError(
                f"{location}: its chunks of {tuple(image.data.chunks)} pixels have "
                f"{chunk / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free. "
                "Store it in smaller chunks"
            )
        if not location.is_url and chunk <= _MOST_BYTES:
            image.data[(slice(0, 1),) * image.data.ndim]  # can it be decoded?
        return image
    except (FileError, InputError, MissingDependencyError):
        raise
    except Exception as error:
        raise FileError(
            f"{location}: not a Zarr image that can be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def open_zarr_node(place: str | Path, mode: Any = "r") -> Any:
    """Open a Zarr group or array; URLs may need libraries that are not installed."""
    import zarr

    try:
        return zarr.open(place, mode=mode)
    except ImportError as error:
        raise MissingDependencyError(
            f"{place}: {error}. Files at URLs need: "
            'pip install "napari-swin2sr[remote]"'
        ) from error


def _find_image(node: Any, location: Location, series: int) -> tuple[Any, Location]:
    """Go down to the array or the multiscale group, and return where it is."""
    while not hasattr(node, "dtype"):
        ome, record = _ome_of(node), node.attrs.get(RECORD)
        if isinstance(record, dict) and record.get("complete") is False:
            raise FileError(
                f"{location}: the result of a run that is not finished. Run it again "
                "to its end first"
            )
        if "multiscales" in ome:
            break
        for kind, inside in (("plate", "A/1/0"), ("well", "0")):
            if kind in ome:
                raise FileError(
                    f"{location}: a {kind} with many images. Give the path of one of "
                    f"them, such as {location / inside}"
                )
        groups, arrays = sorted(node.group_keys()), sorted(node.array_keys())
        if str(series) in groups and "multiscales" in _ome_of(node[str(series)]):
            node, location = node[str(series)], location / str(series)
        elif len(arrays) == 1:
            node = node[arrays[0]]
        else:
            inside = ", ".join([*groups, *arrays][:10]) or "it is empty"
            raise FileError(
                f"{location}: this group is no image (it has no multiscales). Give the "
                f"path of what is inside: {inside}"
            )
    return node, location


def _ome_of(group: Any) -> dict[str, Any]:
    """Return the OME metadata, wherever this version keeps them."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome")
    return ome if isinstance(ome, dict) else attributes


def _multiscale(group: Any, location: Location, level: int) -> SpatialImage:
    ome, record = _ome_of(group), group.attrs.get(RECORD)
    known: dict[str, Any] = record if isinstance(record, dict) else {}
    if "image-label" in ome:
        raise InputError(
            f"{location}: holds labels; numbers of objects cannot be interpolated"
        )
    multiscale = ome["multiscales"][0]
    _check_version(location, ome.get("version", multiscale.get("version", "0.4")))
    datasets = multiscale["datasets"]
    if not 0 <= level < len(datasets):
        raise FileError(
            f"{location}: there is no level {level}; it has {len(datasets)}"
        )
    _check_files(location / str(datasets[level]["path"]))
    name = str(datasets[level]["path"])
    if name not in group:
        raise FileError(f"{location}: the array {name!r} of level {level} is not there")
    data = group[name]
    axes, units = _axes(multiscale, data.ndim, location)
    scale, origin = _placed(multiscale, datasets[level], len(axes))
    names, colors, ranges = _channels(ome.get("omero"))
    geo = known.get("georeference") or {}
    nodata = known.get("nodata")
    return SpatialImage(
        data=data,
        axes=axes,
        pixel_size=dict(zip(axes, scale, strict=True)) if scale else {},
        unit=units,
        origin=dict(zip(axes, origin, strict=True)) if scale else {},
        channel_names=names,
        channel_colors=colors,
        value_range=ranges,
        nodata=None if nodata is None else float(nodata),
        transform=tuple(geo["transform"]) if geo.get("transform") else None,
        crs=geo.get("crs"),
        source=str(location),
        geo_tags=GeoTags.from_json(geo["tags"]) if geo.get("tags") else None,
    )


def _check_version(location: Location, version: Any) -> None:
    """Refuse a version whose metadata may mean something else."""
    if not re.match(r"0\.[1-5](?!\d)", str(version)):
        raise FileError(
            f"{location}: OME-Zarr of version {version!r} is not understood, only 0.1 "
            "to 0.5. Convert it to 0.5, or give the path of an array inside it, which "
            "is read without pixel size and names"
        )


def _check_files(location: Location) -> None:
    """Refuse metadata that are a device, a pipe or endless."""
    if location.is_url:
        return
    for name in _ZARR_FILES:
        path = location.path / name
        if path.exists() and not (path.is_file() and path.stat().st_size < _MOST_BYTES):
            raise FileError(
                f"{path}: is no regular file of less than {_MOST_BYTES:,} bytes, as "
                "the metadata of a Zarr store must be"
            )


def _opened_zip(path: Path) -> Any:
    """Return the Zarr store in a .zarr.zip."""
    from zipfile import ZipFile

    from zarr.storage import ZipStore

    with ZipFile(path) as file:
        for entry in file.infolist():
            name = entry.filename.rpartition("/")[-1]
            if name in _ZARR_FILES and entry.file_size >= _MOST_BYTES:
                raise FileError(
                    f"{path}: {entry.filename} has {entry.file_size:,} bytes; the "
                    f"metadata of a Zarr store have less than {_MOST_BYTES:,}"
                )
    return ZipStore(path, mode="r")


def _axes(
    multiscale: Mapping[str, Any], ndim: int, place: object
) -> tuple[str, dict[str, str]]:
    described = multiscale.get("axes")
    if described is None:  # versions 0.1 and 0.2
        return "TCZYX"[5 - ndim :], {}
    letters, units = "", {}
    for axis in described:
        axis = {"name": axis} if isinstance(axis, str) else axis
        letter = str(axis["name"]).upper()
        if letter not in _TYPES:
            letter = {"time": "T", "channel": "C"}.get(axis.get("type", ""), "")
        if not letter or letter in letters:
            raise FileError(f"{place}: the meaning of its axis {axis} is unknown")
        letters += letter
        if "unit" in axis:
            units[letter] = str(axis["unit"])
    if len(letters) != ndim:
        raise FileError(
            f"{place}: its metadata name {len(letters)} axes, {letters}, but its array "
            f"has {ndim}"
        )
    return letters, units


def _placed(
    multiscale: Mapping[str, Any], dataset: Mapping[str, Any], ndim: int
) -> tuple[list[float] | None, list[float]]:
    """Return pixel size and position of the first pixel, all steps put together."""
    scale, origin, found = [1.0] * ndim, [0.0] * ndim, False
    for owner in (dataset, multiscale):
        for step in owner.get("coordinateTransformations") or ():
            numbers = step.get(step["type"])
            if isinstance(numbers, list) and len(numbers) != ndim:
                raise ValueError(
                    f"its {step['type']} of {len(numbers)} numbers does not fit {ndim} "
                    "axes"
                )
            if step["type"] == "scale":
                factors, found = [float(v) for v in step["scale"]], True
                scale = [a * b for a, b in zip(scale, factors, strict=True)]
                origin = [a * b for a, b in zip(origin, factors, strict=True)]
            elif step["type"] == "translation":
                moves = [float(v) for v in step["translation"]]
                origin = [a + b for a, b in zip(origin, moves, strict=True)]
            elif step["type"] != "identity":
                raise ValueError(
                    f"its coordinate transformation {step['type']!r} is not "
                    "understood, only scale and translation. Give the path of the "
                    "array inside it, which is read without its place"
                )
    if any(not math.isfinite(v) or v == 0 for v in scale):
        raise ValueError(f"a pixel of size {scale}")
    return (scale if found else None), origin


def _channels(
    omero: Any,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[float, float], ...] | None]:
    """Return names, colors and display ranges of the channels."""
    channels = omero.get("channels", []) if isinstance(omero, dict) else []
    names = tuple(str(c.get("label", "")) for c in channels)
    colors = tuple(_hex_color(c.get("color")) for c in channels)
    windows = [c.get("window") or {} for c in channels]
    ends: list[Any] = [(window.get("start"), window.get("end")) for window in windows]
    is_known = bool(ends) and all(
        isinstance(a, int | float) and isinstance(b, int | float) and a < b
        for a, b in ends
    )
    return (
        names if any(names) else (),
        colors if any(colors) else (),
        tuple((float(a), float(b)) for a, b in ends) if is_known else None,
    )


def _hex_color(color: Any) -> str:
    """Return RRGGBB, or "" for what is written in another way."""
    text = str(color or "").removeprefix("#").upper()
    return text[:6] if re.fullmatch("[0-9A-F]{6}(..)?", text) else ""


def _named_axes(array: Any) -> str:
    """Return the axes of a plain array, or "" if its dimensions have no known names."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    letters = "".join(str(name).upper() for name in names)
    known = len(letters) == array.ndim and set(letters) <= set("TCZYXS")
    return letters if known and {"Y", "X"} <= set(letters) else ""


# -- writing --------------------------------------------------------------------------


def stored_axes(axes: str) -> str:
    """Return the axes in the order that OME-Zarr asks for, samples as channels."""
    letters = set(axes.replace("S", "C"))
    return "".join(letter for letter in "TCZYX" if letter in letters)


def stored_shape(axes: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in the order of `stored_axes`."""
    lengths = dict(zip(axes, shape, strict=True))
    lengths["C"] = lengths.get("C", 1) * lengths.pop("S", 1)
    return tuple(lengths[letter] for letter in stored_axes(axes))


def ome_attributes(
    image: SpatialImage,
    shapes: Sequence[tuple[int, ...]],
    version: OmeVersion,
    ranges: Sequence[ValueRange],
) -> dict[str, Any]:
    """Return the attributes that make a group of levels an OME-Zarr image.

    `image` is the full size in its source's axes, `shapes` those of all levels in
    `stored_axes`; viewers begin with `ranges`, one per channel.
    """
    axes = stored_axes(image.axes)
    multiscale: dict[str, Any] = {
        "name": Path(image.source.rstrip("/")).name.split(".")[0] or "image",
        "axes": [_axis_record(image, axis) for axis in axes],
        "datasets": [
            {
                "path": str(number),
                "coordinateTransformations": _transformations(image, axes, 2**number),
            }
            for number in range(len(shapes))
        ],
        "type": "mean",
        "metadata": {"description": "means of 2 x 2 pixels per level"},
    }
    n_channels = shapes[0][axes.index("C")] if "C" in axes else 1
    omero = {"channels": _channel_records(image, n_channels, ranges)}
    if version == "0.4":
        multiscale["version"] = version
        return {"multiscales": [multiscale], "omero": {**omero, "version": version}}
    return {"ome": {"version": version, "multiscales": [multiscale], "omero": omero}}


def georeference(image: SpatialImage) -> dict[str, Any]:
    """Return what a GeoTIFF needs and OME-Zarr has no words for; {} if nothing."""
    record: dict[str, Any] = {}
    if image.transform is not None:
        record["transform"] = list(image.transform)
    if image.crs is not None:
        record["crs"] = image.crs
    if image.geo_tags is not None:
        record["tags"] = dataclasses.asdict(image.geo_tags)
    return record


def _axis_record(image: SpatialImage, axis: str) -> dict[str, str]:
    record = {"name": axis.lower(), "type": _TYPES[axis]}
    if image.unit.get(axis):
        record["unit"] = image.unit[axis]
    return record


def _transformations(
    image: SpatialImage, axes: str, factor: int
) -> list[dict[str, Any]]:
    """Return scale and translation of a level whose pixels are `factor` times larger.

    A translation is the center of the first pixel, which moves with its size.
    """
    scale, translation = [], []
    for axis in axes:
        size, origin = image.pixel_size.get(axis, 1.0), image.origin.get(axis, 0.0)
        if axis in "YX":
            origin += center_shift(1 / factor) * size
            size *= factor
        scale.append(size)
        translation.append(origin)
    return [
        {"type": "scale", "scale": scale},
        {"type": "translation", "translation": translation},
    ]


def _channel_records(
    image: SpatialImage, n: int, ranges: Sequence[ValueRange]
) -> list[dict[str, Any]]:
    samples = image.shape[image.axes.index("S")] if "S" in image.axes else 1
    records = []
    for k in range(n):
        c, label = k // samples, _at(image.channel_names, k)
        color = _COLORS[k % len(_COLORS)] if n > 1 else "FFFFFF"
        if samples > 1:
            role, color = list(_RGBA.items())[k % samples]
            of_channel = _at(image.channel_names, c) or f"channel {c}"
            label = (label or role) if n == samples else f"{of_channel} {role}"
        value_range = ranges[min(c, len(ranges) - 1)]
        low, high = _at(image.value_range, c) or (
            float(value_range.low),
            float(value_range.high),
        )
        least, most = low, high
        if np.dtype(image.data.dtype).kind in "iu":
            info = np.iinfo(image.data.dtype)
            least, most = float(info.min), float(info.max)
        records.append(
            {
                "label": label or f"channel {k}",
                "color": _at(image.channel_colors, k) or color,
                "active": True,
                "window": {"start": low, "end": high, "min": least, "max": most},
            }
        )
    return records


def _at(values: Sequence[Any] | None, k: int) -> Any:
    return values[k] if values and k < len(values) else None
