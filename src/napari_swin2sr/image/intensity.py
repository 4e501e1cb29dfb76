"""Which intensities the network sees as black and white, and the way back.

A range is chosen once per image and channel, from a bounded sample that depends
only on the image's shape, and is the same for every tile: a range per tile would
draw the tiles' borders into the result.
"""

from __future__ import annotations

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import InferenceError, InputError, OptionError
from napari_swin2sr.image.sampling import Extrema, sample_places
from napari_swin2sr.image.sources import check_dtype, read_block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray

    from napari_swin2sr.image.axes import AxisLayout
    from napari_swin2sr.image.sampling import Place
    from napari_swin2sr.options import RangeSpec

DATA_TOP = 0.7
"""Where the sample's robust maximum lands: higher intensities still stay below 1."""

MAX_CHANNELS = 2**16
"""Channels that can have value ranges of their own: each is sampled."""

_EXACT_INTEGERS = 2.0**53
_ALMOST_INFINITE = 1e300


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The linear map between an image's intensities and the network's.

    Nothing is clipped: a pixel outside the range keeps its distance. A range with
    ``low == high`` says that all pixels are equal; the map then only shifts.

    Parameters
    ----------
    low, high : float
        Intensities that become 0 and `top`.
    top : float
        Where `high` lands in the network's range of 0 to 1.
    """

    low: float
    high: float
    top: float = 1.0

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.low, self.high, self.top)))
        if not finite or self.high < self.low or self.top <= 0:
            raise OptionError(
                f"a value range from {self.low} to {self.high} (top {self.top}) is "
                "impossible; low <= high and 0 < top, all finite, are needed"
            )

    @property
    def is_constant(self) -> bool:
        """Whether the range has no width that numbers could resolve."""
        return self.high - self.low < float(np.finfo(np.float64).tiny)

    def to_model(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Map intensities of any real dtype to the network's.

        Computed in float64 or wider. What float32 cannot hold becomes infinite.
        """
        work = values.astype(np.result_type(values.dtype, np.float64))
        unit, span = self._unit_and_span()
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            work *= unit
            work -= self.low * unit
            work /= span
            work *= self.top
            return work.astype(np.float32)

    def from_model(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Map the network's numbers back to intensities: the inverse of `to_model`.

        Finite numbers give finite intensities.
        """
        work = values.astype(np.float64)
        unit, span = self._unit_and_span()
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            work /= self.top
            work *= span
            work += self.low * unit
            work /= unit
        if unit != 1.0:
            beyond = np.isinf(work) & np.isfinite(values)
            work[beyond] = np.copysign(np.finfo(np.float64).max, work[beyond])
        return work

    def widths(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Map differences between the network's numbers to those of intensities."""
        unit, span = self._unit_and_span()
        with np.errstate(over="ignore", under="ignore"):
            work = values.astype(np.float64) / self.top * span / unit
        return np.minimum(work, np.finfo(np.float64).max)

    def to_json(self) -> dict[str, float]:
        """Return the numbers, for metadata."""
        return {"low": self.low, "high": self.high, "top": self.top}

    def _unit_and_span(self) -> tuple[float, float]:
        """Return a factor that keeps sums in float64, and the width times it."""
        if self.is_constant:
            return 1.0, 1.0
        unit = (
            2.0**-10 if max(abs(self.low), abs(self.high)) > _ALMOST_INFINITE else 1.0
        )
        return unit, self.high * unit - self.low * unit


def fit_ranges(
    source: Any, layout: AxisLayout, spec: RangeSpec, *, nodata: float | None = None
) -> tuple[ValueRange, ...]:
    """Choose one range per channel; RGB samples share one, alpha does not count.

    Parameters
    ----------
    source : array-like
        Array of `layout`'s shape; read only for "data", and then only a bounded
        sample: the same pixels whatever its chunks are.
    layout : AxisLayout
        Meaning of the axes.
    spec : (float, float) or one such pair per channel or str or None
        A pair is mapped to 0 and 1. "dtype" is the type's own range (0 to 1 for
        floating-point types). "data" maps the extrema of the sample without isolated
        hot pixels to 0 and `DATA_TOP`. None is "dtype" for 8-bit unsigned and bool,
        else "data".
    nodata : float, optional
        Value that marks missing pixels, which do not count.

    Returns
    -------
    tuple of ValueRange
        One per channel.

    Raises
    ------
    OptionError
        If `spec` is none of these, or its pairs do not fit the channels.
    InputError
        If the source does not hold what it declares, or has too many channels.
    """
    if tuple(source.shape) != layout.shape:
        raise InputError(f"the image has shape {source.shape}, its axes {layout.shape}")
    if layout.n_channels > MAX_CHANNELS:
        raise InputError(
            f"the image has {layout.n_channels:,} channels, and at most "
            f"{MAX_CHANNELS:,} are possible. Give the axis another letter than C, such "
            "as Z; if there are not so many, its file is damaged"
        )
    dtype = check_dtype(source.dtype)
    if spec is None:
        spec = "dtype" if dtype in (np.uint8, np.bool_) else "data"
    if isinstance(spec, str) and spec == "dtype":
        ranges = (ValueRange(*_dtype_limits(dtype)),) * layout.n_channels
    elif isinstance(spec, str) and spec == "data":
        ranges = tuple(_fit_channels(source, layout, nodata))
    else:
        ranges = _explicit(spec, layout.n_channels)
    _warn_of_lost_integers(dtype, ranges)
    return ranges


def cast(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Convert results to the output type: the only place where that happens.

    Integers are rounded half to even; what the type cannot hold becomes its nearest
    value. bool is True above one half.

    Raises
    ------
    InferenceError
        If a value is not finite: no type may hide a network that went wrong.
    OptionError
        If the type is no integer, floating-point or bool type.
    """
    dtype = np.dtype(dtype)
    finite = np.isfinite(values)
    if not finite.all():
        raise InferenceError(
            f"{values.size - int(np.count_nonzero(finite))} of {values.size} values of "
            f"a result of shape {values.shape} are not finite"
        )
    if dtype.kind == "f":
        info = np.finfo(dtype)
        if info.bits < values.dtype.itemsize * 8:
            values = np.clip(values, info.min, info.max)
        return values.astype(dtype, copy=False)
    if dtype.kind not in "iub":
        raise OptionError(
            f"dtype={dtype} cannot hold an image; use an integer, floating-point or "
            "bool type"
        )
    low, high = _dtype_limits(dtype)
    if dtype.itemsize == 8 and high >= _EXACT_INTEGERS:
        high = float(np.nextafter(high, 0))  # float64 rounds the limit up, beyond it
    rounded: NDArray[Any] = np.clip(np.rint(values), low, high).astype(dtype)
    return rounded


def missing_pixels(
    block: NDArray[Any], nodata: float | None
) -> NDArray[np.bool_] | None:
    """Return where pixels are missing: masked, `nodata` or not finite; None: nowhere.

    `nodata` is compared in the pixels' own type; one that the type cannot hold
    (-9999 among unsigned numbers) marks nothing.
    """
    values = np.ma.getdata(block)
    missing = np.zeros(values.shape, bool)
    if isinstance(block, np.ma.MaskedArray):
        missing |= np.ma.getmaskarray(block)
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # long double beyond float64
            missing |= ~np.isfinite(values.astype(np.float64, copy=False))
    if nodata is not None and not math.isnan(nodata):
        mark = as_dtype(nodata, values.dtype)
        if mark is not None:
            missing |= values == mark
    return missing if missing.any() else None


def missing_colors(
    samples: NDArray[Any], nodata: float | None
) -> NDArray[np.bool_] | None:
    """Return where colors, or gray values, of (S, Y, X) are missing or transparent."""
    missing = missing_pixels(samples[:3], nodata)
    if len(samples) < 4 or not (hidden := np.ma.getdata(samples[3:]) == 0).any():
        return missing
    everywhere: NDArray[np.bool_] = hidden.repeat(3, axis=0)
    return everywhere if missing is None else missing | everywhere


def as_dtype(value: float, dtype: np.dtype[Any]) -> np.generic | None:
    """Return a number in another type, or None when the type cannot hold it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)  # type: ignore[no-any-return]
    low, high = _dtype_limits(dtype)
    if not math.isfinite(value) or value != int(value) or not low <= value <= high:
        return None
    limit = 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)
    return dtype.type(min(int(value), limit))  # type: ignore[no-any-return]


# -- ranges ---------------------------------------------------------------------------


def _dtype_limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return float(info.min), float(info.max)
    return 0.0, 1.0


def _explicit(spec: Any, n_channels: int) -> tuple[ValueRange, ...]:
    try:
        pairs = np.asarray(spec, np.float64)
    except (TypeError, ValueError):  # words, or lists of different lengths
        pairs = np.empty(0)
    if pairs.shape == (2,):
        pairs = np.broadcast_to(pairs, (n_channels, 2))
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise OptionError(
            f"value_range={spec!r} is not (low, high), one such pair per channel, "
            "'dtype' or 'data'"
        )
    if len(pairs) != n_channels:
        raise OptionError(
            f"value_range has {len(pairs)} pairs, but the image has {n_channels} "
            "channels; give one pair for all or one per channel"
        )
    for low, high in pairs:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise OptionError(
                f"value_range ({low:g}, {high:g}) must be two finite numbers, the "
                "lower one first"
            )
    return tuple(ValueRange(float(low), float(high)) for low, high in pairs)


def _warn_of_lost_integers(
    dtype: np.dtype[Any], ranges: tuple[ValueRange, ...]
) -> None:
    largest = max((max(abs(r.low), abs(r.high)) for r in ranges), default=0.0)
    if dtype.kind in "iu" and largest > _EXACT_INTEGERS:
        warnings.warn(
            f"{dtype} pixels up to {largest:.4g} are processed as float64, which is "
            "exact only up to 2**53; the last digits of the result are rounded",
            stacklevel=3,
        )


def _fit_channels(
    source: Any, layout: AxisLayout, nodata: float | None
) -> Iterator[ValueRange]:
    places = [sample_places(layout, channel) for channel in range(layout.n_channels)]
    flat = [place for some, _complete in places for place in some]

    def look(place: Place) -> Extrema | None:
        block = read_block(source, layout.plane_index(*place))
        samples = layout.to_plane(block)
        return Extrema.from_pixels(samples[:3], missing_colors(samples, nodata))

    with ThreadPoolExecutor(4) as pool:  # reading from a disk or network waits a lot
        seen = pool.map(look, flat)
        for channel, (some, complete) in enumerate(places):
            found = [extrema for _, extrema in zip(some, seen, strict=False) if extrema]
            yield _range_of(found, complete, check_dtype(source.dtype), channel)


def _range_of(
    found: list[Extrema], complete: bool, dtype: np.dtype[Any], channel: int
) -> ValueRange:
    if not found:  # everything in sight is missing
        return ValueRange(*_dtype_limits(dtype))
    low, high = min(e.robust_low for e in found), max(e.robust_high for e in found)
    if low == high:
        low, high = min(e.low for e in found), max(e.high for e in found)
    if low < high or complete:
        return ValueRange(low, high, DATA_TOP)
    warnings.warn(
        f"all sampled pixels of channel {channel} are {low:g}; if the image is not "
        "constant, say value_range=(low, high)",
        stacklevel=4,
    )
    if dtype.kind in "iu":
        return ValueRange(*_dtype_limits(dtype), DATA_TOP)
    return ValueRange(low, low + max(abs(low), 1.0), DATA_TOP)
