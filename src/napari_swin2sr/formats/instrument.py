"""Files of microscopes and slide scanners, read by region with openreadout.

CZI, ND2, LIF, OIR, VSI, SVS, NDPI, MRXS and their relatives. The only module that
imports openreadout, and only inside its functions.
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import (
    FileError,
    InputError,
    MissingDependencyError,
    Swin2SRError,
)
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.tiles.chunks import bounds, forward

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_NOT_STORED = ("mirax",)
"""Formats whose lower levels the library interpolates instead of reading them."""


class InstrumentArray:
    """One level of one image of a file as a lazy array.

    It pickles as a path and two numbers; every process opens the file for itself.
    Reading is thread-safe. Axes T, C and Z of length 1 are left out.
    """

    def __init__(self, path: Path, series: int = 0, level: int = 0) -> None:
        self.path, self.series, self.level = Path(path), series, level
        with _as_our_errors(self.path):
            self._file = _opened(self.path)
            shape = [int(n) for n in self._file.shape(series, level)]
            self.dtype: np.dtype[Any] = np.dtype(self._file.dtype(series))
        kept = [n > 1 for n in shape[:3]] + [True] * len(shape[3:])
        self.axes = "".join(itertools.compress("TCZYXS", kept))
        self.shape: tuple[int, ...] = tuple(itertools.compress(shape, kept))
        self.ndim = len(self.shape)

    def __repr__(self) -> str:
        return (
            f"InstrumentArray({str(self.path)!r}, series={self.series}, "
            f"level={self.level}, shape={self.shape}, dtype={self.dtype})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return InstrumentArray, (self.path, self.series, self.level)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Name the pixels by the file's place, size and time of change."""
        facts = self.path.stat()
        place = str(self.path.resolve())
        return (place, facts.st_size, facts.st_mtime_ns, self.series, self.level)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a region: slices and integers, one per axis, as in NumPy."""
        region, finish = forward(index, self.shape)
        out = np.empty([len(part) for part in region], self.dtype)
        first = self.axes.index("Y")
        rows, columns = bounds(region[first : first + 2])
        sides = (columns.stop - columns.start, rows.stop - rows.start)
        box = (columns.start, rows.start, *sides)
        inside = [slice(None, None, part.step) for part in region[first : first + 2]]
        inside += [slice(p.start, p.stop, p.step) for p in region[first + 2 :]]
        for here in np.ndindex(out.shape[:first]) if out.size else ():
            places = zip(self.axes, region, here, strict=False)
            of_axis = {axis.lower(): part[k] for axis, part, k in places}
            with _as_our_errors(self.path):
                plane = self._file.read_plane(
                    self.series, **of_axis, level=self.level, region=box
                )
            out[here] = plane[tuple(inside)]
        finished: NDArray[Any] = out[finish]
        return finished


def open_instrument(path: Path, *, series: int = 0, level: int = 0) -> SpatialImage:
    """Describe an image of a microscope's or slide scanner's file.

    `series` counts what the file holds: scenes, positions, series, in its order. Raises
    FileError if the file is damaged, or holds what openreadout cannot read for sure.
    """
    with _as_our_errors(path), _opened(path) as file:
        report = file.check()
        images, kind = file.images, str(file.format)
        if report.get("ok") is False:
            raise FileError(f"{path}: damaged or cut off: {_first_error(report)}")
        if not images:
            raise FileError(f"{path}: holds no image ({kind})")
        if not 0 <= series < len(images):
            raise FileError(
                f"{path}: there is no series {series}; the file has {len(images)}: "
                + ", ".join(f"{k} {_title(image)}" for k, image in enumerate(images))
            )
        levels = file.levels(series)
        info = images[series]
    if not 0 <= level < len(levels):
        raise FileError(
            f"{path}: series {series} has no level {level}; it has {len(levels)}"
        )
    _check_meaning(path, info, kind, series, level)
    array = InstrumentArray(path, series, level)
    image = SpatialImage(data=array, axes=array.axes, source=str(path), **_fields(info))
    if level:
        sizes = levels[level]
        factors = {a: 1 / float(sizes["downsample_" + a.lower()]) for a in "YX"}
        image = image.scaled(array, factors)
    array[(slice(0, 1),) * array.ndim]  # what cannot be decoded fails now
    return image


def _check_meaning(
    path: Path, info: Mapping[str, Any], kind: str, series: int, level: int
) -> None:
    """Refuse what would be read, but not as the instrument recorded it."""
    absent = (info.get("extra") or {}).get("absent_channels")
    if absent:
        names = [_name(info["channels"][k]) or str(k) for k in absent]
        raise FileError(
            f"{path}: series {series}, {_title(info)}, lacks the channels "
            f"{', '.join(names)}, which only other series have"
        )
    if level and kind in _NOT_STORED:
        raise FileError(
            f"{path}: level {level} is not stored in a {kind} file but interpolated. "
            "Choose level 0"
        )
    if min(info["size_y"], info["size_x"]) == 1:
        raise InputError(
            f"{path}: series {series}, {_title(info)}, is a scan of "
            f"{info['size_x']} x {info['size_y']} x {info['size_z']} pixels along X, Y "
            "and Z; a plane of X and Y is needed"
        )


def _fields(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return pixel size, units, names and colors of an image."""
    sizes = info.get("physical_size") or {}
    pixel_size = {a: float(sizes[a.lower()]) for a in "ZYX" if sizes.get(a.lower())}
    unit = dict.fromkeys(pixel_size, "micrometer")  # of all formats, by its reference
    seconds = info.get("time_increment_s") or 0
    if seconds > 0:
        pixel_size["T"], unit["T"] = float(seconds), "second"
    channels = info.get("channels") or []
    if info["samples_per_pixel"] > 1:
        channels = []  # the colors are those of the samples
    names = tuple(_name(channel) for channel in channels)
    colors = tuple(str(c.get("color") or "").lstrip("#").upper()[:6] for c in channels)
    return {
        "pixel_size": pixel_size,
        "unit": unit,
        "channel_names": names if any(names) else (),
        "channel_colors": colors if any(colors) else (),
    }


def _name(channel: Mapping[str, Any]) -> str:
    return str(channel.get("name") or channel.get("fluorophore") or "")


def _title(info: Mapping[str, Any]) -> str:
    sides = f"{info['size_y']} x {info['size_x']}"
    return f"{info['name']!r} ({sides})" if info.get("name") else f"({sides})"


def _first_error(report: Mapping[str, Any]) -> str:
    findings = report.get("findings") or []
    errors = [f for f in findings if f.get("severity") == "error"] or findings
    return str(errors[0].get("message", errors[0])) if errors else "its check failed"


def _opened(path: Path) -> Any:
    try:
        import openreadout
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: files of microscopes and slide scanners need openreadout: "
            'pip install "napari-swin2sr[instrument]"'
        ) from error
    return openreadout.File(path)


@contextlib.contextmanager
def _as_our_errors(path: Path) -> Iterator[None]:
    """Turn what openreadout raises, a damaged file's panics included, into ours."""
    try:
        yield
    except (Swin2SRError, MemoryError):
        raise
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # no Exception, in PyO3
        if not isinstance(error, Exception) and not is_panic:
            raise
        raise FileError(
            f"{path}: cannot be read: {type(error).__name__}: {error}"
        ) from error
