"""The error bars of a result: what they are called, and how they are written with it.

In an OME-Zarr they are a second image, in a group of their own; of a file they are a
TIFF beside it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.formats.detect import Kind, Location, kind_of_target
from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.replace import ERROR_GROUP

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.runs.runner import Index, Sink
    from napari_swin2sr.tiles.lazy import LazyUpscaled
    from napari_swin2sr.tiles.worker import UpscaledTile

_SHOWN = 0.1  # of the value range: what viewers begin with as the brightest
_KEPT_ROLES = ("scale", "unittype")  # of GDAL's metadata; an offset is none of an error


def error_path(target: Path) -> Path:
    """Return the name of the file of error bars beside a result."""
    stem = target.stem
    if stem.lower().endswith(".ome"):
        stem = stem[: -len(".ome")]
    return target.with_name(f"{stem}_trust.tif")


def error_place(target: str | os.PathLike[str]) -> Path | str:
    """Return where the error bars of a result are."""
    location = Location.from_user(target)
    if kind_of_target(location) is Kind.ZARR:
        return (location / ERROR_GROUP).place
    return error_path(location.path)


def error_image(image: SpatialImage, lazy: LazyUpscaled, *, as_file: bool) -> Any:
    """Describe the error bars of a result: the same place, other pixels.

    In a file samples are channels: an error is no color.
    """
    geo, axes, names = image.geo_tags, image.axes, image.channel_names
    if geo is not None:
        kept = tuple(item for item in geo.metadata if item[2] in _KEPT_ROLES)
        geo = dataclasses.replace(geo, metadata=kept)
    if as_file and "S" in axes and "C" not in axes:
        colors = ("red", "green", "blue", "alpha")[: lazy.layout.samples]
        axes, names = axes.replace("S", "C"), tuple(f"error of {c}" for c in colors)
    stem = Path(image.source.rstrip("/")).name.split(".")[0] or "image"
    return dataclasses.replace(
        image,
        data=lazy.error,
        axes=axes,
        channel_names=names,
        channel_colors=()
        if len(names) != len(image.channel_colors)
        else image.channel_colors,
        geo_tags=geo,
        nodata=None,
        value_range=None,
        icc_profile=None,
        picture_tags=None,
        min_is_white=False,
        source=f"{stem}_trust",
    )


def shown_ranges(ranges: Iterable[ValueRange]) -> tuple[ValueRange, ...]:
    """Return the ranges that viewers begin with for the error bars of a result."""
    return tuple(
        ValueRange(0.0, _SHOWN * (r.high - r.low) / r.top if not r.is_constant else 1.0)
        for r in ranges
    )


@dataclass(frozen=True)
class Pairs:
    """A lazy image as a grid of blocks with their error, for `runner.run`."""

    lazy: LazyUpscaled

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return self.lazy.grid

    def block_at(self, index: Index) -> Any:
        """Compute one block and its error."""
        return self.lazy.pair_at(index)

    def slices_at(self, index: Index) -> tuple[slice, ...]:
        """Return the block's place."""
        return self.lazy.slices_at(index)

    def until(self, cancel: CancelToken) -> Pairs:
        """Return the same blocks for one run, which ends when it is cancelled."""
        return Pairs(self.lazy.until(cancel))


@dataclass(frozen=True)
class PairSink:
    """Takes blocks with their error, and writes both."""

    image: Sink
    error: Sink

    def __setitem__(self, slices: tuple[slice, ...], tile: UpscaledTile) -> None:
        self.error[slices] = tile.error
        self.image[slices] = tile.image
