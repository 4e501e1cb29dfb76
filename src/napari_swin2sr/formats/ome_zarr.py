"""OME-Zarr 0.4 and 0.5: what its metadata say, and what ours should say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from napari_swin2sr.errors import FileError, InputError, MissingDependencyError
from napari_swin2sr.formats.detect import is_url, local_path
from napari_swin2sr.formats.geo_tags import GeoTags
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.replace import RECORD

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from napari_swin2sr.image.intensity import ValueRange

OmeVersion: TypeAlias = Literal["0.4", "0.5"]

ZARR_FORMAT: dict[str, Literal[2, 3]] = {"0.4": 2, "0.5": 3}
"""Version of OME-Zarr -> of Zarr."""

_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}
_COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
_RGBA = (
    ("red", "FF0000"),
    ("green", "00FF00"),
    ("blue", "0000FF"),
    ("alpha", "FFFFFF"),
)


# -- reading --------------------------------------------------------------------------


def open_zarr(
    source: str | os.PathLike[str],
    *,
    series: int = 0,
    level: int = 0,
    axes: str | None = None,
    rgb: bool | None = None,
) -> SpatialImage:
    """Describe an image in a Zarr store: OME-Zarr, or a plain array.

    Parameters
    ----------
    source : path or URL of a group or an array
    series : number of the image, for stores that hold several
    level : level of the pyramid; 0 is the full size
    axes, rgb : as for `open_image`

    Raises
    ------
    FileError
        If there is no image, or only one that a run has not finished.
    InputError
        If the meaning of the axes is not clear.
    """
    from napari_swin2sr.formats import agree

    place: str | Path = str(source) if is_url(source) else local_path(source)
    try:
        node = open_zarr_node(place)
        image = _describe(node, place, series, level, axes, rgb)
    except (FileError, InputError, MissingDependencyError):
        raise
    except Exception as error:
        raise FileError(
            f"{source}: not a Zarr image that can be read: "
            f"{type(error).__name__}: {error}"
        ) from error
    return agree(image, axes, rgb)


def open_zarr_node(place: str | Path, mode: Any = "r") -> Any:
    """Open a Zarr group or array.

    Raises
    ------
    MissingDependencyError
        If the URL needs a library that is not installed.
    """
    import zarr

    try:
        return zarr.open(place, mode=mode)
    except ImportError as error:
        raise MissingDependencyError(
            f"{place}: {error}. Files at URLs need: "
            'pip install "napari-swin2sr[remote]"'
        ) from error


def _describe(
    node: Any,
    place: str | Path,
    series: int,
    level: int,
    axes: str | None,
    rgb: bool | None,
) -> SpatialImage:
    if hasattr(node, "dtype"):
        names = axes or _named_axes(node)
        if names is None:
            from napari_swin2sr.image.axes import resolve_axes

            names = resolve_axes(node.shape, None, rgb).axes
        return SpatialImage(data=node, axes=names, source=str(place))
    attributes = dict(node.attrs)
    record = attributes.get(RECORD)
    if isinstance(record, dict) and record.get("complete") is False:
        raise FileError(
            f"{place}: the result of a run that is not finished. Run it again to its "
            "end first"
        )
    ome = _ome_of(attributes)
    if "multiscales" not in ome:
        return _inside(node, place, ome, series, level, axes, rgb)
    if "image-label" in ome:
        raise InputError(
            f"{place}: holds labels; numbers of objects cannot be interpolated"
        )
    return _multiscale(node, place, ome, level, record)


def _ome_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the OME metadata, wherever this version keeps them."""
    ome = attributes.get("ome")
    return ome if isinstance(ome, dict) else attributes


def _inside(
    group: Any,
    place: str | Path,
    ome: Mapping[str, Any],
    series: int,
    level: int,
    axes: str | None,
    rgb: bool | None,
) -> SpatialImage:
    """Look for the image in a group that is none itself."""
    if "plate" in ome or "well" in ome:
        raise FileError(
            f"{place}: a plate with many images. Give the path of one of them, such as "
            f"{place}/A/1/0"
        )
    groups, arrays = sorted(group.group_keys()), sorted(group.array_keys())
    if str(series) in groups and "multiscales" in _ome_of(
        dict(group[str(series)].attrs)
    ):
        child = f"{place}/{series}" if isinstance(place, str) else place / str(series)
        return _describe(group[str(series)], child, series, level, axes, rgb)
    if len(arrays) == 1:
        return _describe(group[arrays[0]], place, series, level, axes, rgb)
    raise FileError(
        f"{place}: this group is no image (it has no multiscales). Give the path of "
        f"what is inside: {', '.join([*groups, *arrays][:10]) or 'it is empty'}"
    )


def _multiscale(
    group: Any, place: str | Path, ome: Mapping[str, Any], level: int, record: Any
) -> SpatialImage:
    multiscale = ome["multiscales"][0]
    datasets = multiscale["datasets"]
    if not 0 <= level < len(datasets):
        raise FileError(f"{place}: there is no level {level}; it has {len(datasets)}")
    data = group[datasets[level]["path"]]
    axes, units = _axes(multiscale, data.ndim, place)
    scale, origin = _placed(multiscale, datasets[level], len(axes))
    names, colors, ranges = _channels(ome.get("omero"))
    known: dict[str, Any] = record if isinstance(record, dict) else {}
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
        source=str(place),
        extra={"geo": _tags_from_json(geo["tags"])} if geo.get("tags") else {},
    )


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
    return letters, units


def _placed(
    multiscale: Mapping[str, Any], dataset: Mapping[str, Any], ndim: int
) -> tuple[list[float] | None, list[float]]:
    """Return pixel size and position of the first pixel, all steps put together."""
    scale, origin, found = [1.0] * ndim, [0.0] * ndim, False
    for owner in (dataset, multiscale):
        for step in owner.get("coordinateTransformations") or ():
            if step["type"] == "scale":
                factors, found = [float(v) for v in step["scale"]], True
                scale = [a * b for a, b in zip(scale, factors, strict=True)]
                origin = [a * b for a, b in zip(origin, factors, strict=True)]
            elif step["type"] == "translation":
                moves = [float(v) for v in step["translation"]]
                origin = [a + b for a, b in zip(origin, moves, strict=True)]
    if any(not math.isfinite(v) or v == 0 for v in scale):
        raise ValueError(f"a pixel of size {scale}")
    return (scale if found else None), origin


def _channels(
    omero: Any,
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[float, float], ...] | None]:
    """Return names, colours and display ranges of the channels."""
    channels = omero.get("channels", []) if isinstance(omero, dict) else []
    names = tuple(str(c.get("label", "")) for c in channels)
    colors = tuple(str(c.get("color", ""))[:6].upper() for c in channels)
    ranges = []
    for channel in channels:
        window = channel.get("window") or {}
        low, high = window.get("start"), window.get("end")
        if (
            isinstance(low, (int, float))
            and isinstance(high, (int, float))
            and low < high
        ):
            ranges.append((float(low), float(high)))
    complete = tuple(ranges) if ranges and len(ranges) == len(channels) else None
    return (
        names if any(names) else (),
        colors if any(colors) else (),
        complete,
    )


def _named_axes(array: Any) -> str | None:
    """Return the axes of a plain array, if its dimensions have names we know."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")
    if not names or not all(isinstance(name, str) for name in names):
        return None
    letters = "".join(name.upper() for name in names)
    known = len(letters) == array.ndim and set(letters) <= set("TCZYXS")
    return letters if known and {"Y", "X"} <= set(letters) else None


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

    Parameters
    ----------
    image : the full size, in its source's axes
    shapes : shapes of the levels, in the axes of `stored_axes`
    version : "0.4" or "0.5"
    ranges : value range of each channel, for viewers to begin with
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
    tags = image.extra.get("geo")
    if isinstance(tags, GeoTags):
        record["tags"] = {
            "keys": list(tags.keys),
            "doubles": list(tags.doubles),
            "ascii": tags.ascii,
            "ground_points": [list(p) for p in tags.ground_points],
            "metadata": [list(item) for item in tags.metadata],
        }
    return record


def _tags_from_json(record: Mapping[str, Any]) -> GeoTags:
    return GeoTags(
        keys=tuple(record["keys"]),
        doubles=tuple(record["doubles"]),
        ascii=record["ascii"],
        ground_points=tuple(tuple(p) for p in record["ground_points"]),
        metadata=tuple((n, b, r, t) for n, b, r, t in record["metadata"]),
    )


def _axis_record(image: SpatialImage, axis: str) -> dict[str, str]:
    record = {"name": axis.lower(), "type": _TYPES[axis]}
    if image.unit.get(axis):
        record["unit"] = image.unit[axis]
    return record


def _transformations(
    image: SpatialImage, axes: str, factor: int
) -> list[dict[str, Any]]:
    """Return scale and translation of a level whose pixels are `factor` times larger.

    A translation is the centre of the first pixel, which moves with its size.
    """
    scale, translation = [], []
    for axis in axes:
        size, origin = image.pixel_size.get(axis, 1.0), image.origin.get(axis, 0.0)
        if axis in "YX":
            origin += (factor - 1) / 2 * size
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
    rgb = "S" in image.axes
    dtype = np.dtype(image.data.dtype)
    records = []
    for k in range(n):
        label, color = f"channel {k}", _COLORS[k % len(_COLORS)] if n > 1 else "FFFFFF"
        if rgb and n <= len(_RGBA):
            label, color = _RGBA[k]
        if k < len(image.channel_names) and image.channel_names[k]:
            label = image.channel_names[k]
        if k < len(image.channel_colors) and image.channel_colors[k]:
            color = image.channel_colors[k]
        value_range = ranges[min(k, len(ranges) - 1)]
        low, high = float(value_range.low), float(value_range.high)
        if k < len(image.value_range or ()):
            assert image.value_range is not None
            low, high = image.value_range[k]
        least, most = _limits(dtype, low, high)
        window = {"start": low, "end": high, "min": least, "max": most}
        records.append(
            {"label": label, "color": color, "active": True, "window": window}
        )
    return records


def _limits(dtype: np.dtype[Any], low: float, high: float) -> tuple[float, float]:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return float(info.min), float(info.max)
    return low, high
