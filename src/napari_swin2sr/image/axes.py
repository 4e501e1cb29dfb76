"""What each axis of an array means: which are Y, X, samples and channels.

Nothing is guessed from the length of an axis: an array of 3 x 3 x 3 numbers has
three readings, and a wrong one gives a plausible image.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_swin2sr.image.box import Box

LETTERS = "TCZYXS"
"""Time, channel, depth, row, column, sample (of an RGB or RGBA pixel)."""


@dataclass(frozen=True, slots=True)
class AxisLayout:
    """An array seen as planes: one (samples, Y, X) image per place on the stack axes.

    Made by `resolve_axes`, which checks it: `axes` has one letter of TCZYXS per axis of
    `shape`, which is that of the array [input px along Y and X].
    """

    axes: str
    shape: tuple[int, ...]

    @property
    def y(self) -> int:
        """Number of the axis of rows."""
        return self.axes.index("Y")

    @property
    def x(self) -> int:
        """Number of the axis of columns."""
        return self.axes.index("X")

    @property
    def s(self) -> int | None:
        """Number of the axis of samples, or None."""
        return self.axes.index("S") if "S" in self.axes else None

    @property
    def c(self) -> int | None:
        """Number of the channel axis, or None."""
        return self.axes.index("C") if "C" in self.axes else None

    @property
    def samples(self) -> int:
        """Samples per pixel: 1 (gray), 3 (RGB) or 4 (RGBA)."""
        return 1 if self.s is None else self.shape[self.s]

    @property
    def is_rgb(self) -> bool:
        """Whether pixels are RGB or RGBA, one color image instead of gray planes."""
        return self.samples > 1

    @property
    def plane_shape(self) -> tuple[int, int]:
        """(height, width) of a plane [input px]."""
        return self.shape[self.y], self.shape[self.x]

    @property
    def stack_axes(self) -> tuple[int, ...]:
        """Numbers of the axes that only count planes, in the array's order."""
        return tuple(k for k, letter in enumerate(self.axes) if letter not in "YXS")

    @property
    def stack_shape(self) -> tuple[int, ...]:
        """Lengths of the stack axes."""
        return tuple(self.shape[k] for k in self.stack_axes)

    @property
    def n_planes(self) -> int:
        """Number of planes."""
        return prod(self.stack_shape)

    @property
    def n_channels(self) -> int:
        """Channels that have a value range of their own."""
        return 1 if self.c is None else self.shape[self.c]

    def output_shape(self, upscale: int) -> tuple[int, ...]:
        """Return the result's shape: Y and X times `upscale` [output px]."""
        return tuple(
            n * upscale if letter in "YX" else n
            for letter, n in zip(self.axes, self.shape, strict=True)
        )

    def channel_of(self, stack_index: tuple[int, ...]) -> int:
        """Return the channel of the plane at `stack_index`."""
        return 0 if self.c is None else stack_index[self.stack_axes.index(self.c)]

    def plane_index(self, stack_index: tuple[int, ...], box: Box) -> tuple[slice, ...]:
        """Return the index of one plane's `box`, all axes kept.

        `box` is in the pixels of the array that is indexed: input px for a source,
        output px for a result.
        """
        rows, columns = box.slices
        index = [slice(0, self.samples)] * len(self.axes)
        index[self.y], index[self.x] = rows, columns
        for axis, place in zip(self.stack_axes, stack_index, strict=True):
            index[axis] = slice(place, place + 1)
        return tuple(index)

    def to_plane(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return a block whose stack axes have length 1 as a view (S|1, Y, X)."""
        samples = () if self.s is None else (self.s,)
        plane = block.transpose(*self.stack_axes, *samples, self.y, self.x)
        return plane.reshape(self.samples, *plane.shape[-2:])

    def from_plane(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Return (S|1, Y, X) as a view with this layout's axes, stack axes of 1."""
        samples = () if self.s is None else (self.s,)
        order = (*self.stack_axes, *samples, self.y, self.x)
        kept = plane.shape if samples else plane.shape[-2:]
        stacked = plane.reshape((1,) * len(self.stack_axes) + kept)
        return stacked.transpose(*(order.index(k) for k in range(len(order))))


def resolve_axes(
    shape: Iterable[int], axes: str | None = None, rgb: bool | None = None
) -> AxisLayout:
    """Find out which axis is what.

    `axes` has one letter of TCZYXS per axis, each at most once, Y and X among them.
    Without it the last axes are Y X (Y X S when `rgb`), and what comes before only
    counts planes: from the end Z, T for up to 4, T C Z for 5. Nothing is guessed:
    axes that do not fit, contradict `rgb` or have several readings are an InputError.
    """
    lengths = _lengths(shape)
    if len(lengths) < 2:
        raise InputError(
            f"an array of shape {lengths} has {len(lengths)} axes; an image needs at "
            "least two, Y and X"
        )
    names = _default_axes(lengths, rgb) if axes is None else _given_axes(axes, lengths)
    if rgb is not None and rgb != ("S" in names):
        raise InputError(
            f"axes={axes!r} and rgb={rgb} contradict each other: S among the axes "
            "means RGB(A) samples"
        )
    if "S" in names and lengths[names.index("S")] not in (1, 3, 4):
        raise InputError(
            f"axis S of an array of shape {lengths} has "
            f"{lengths[names.index('S')]} samples; 3 (RGB) or 4 (RGBA) are possible. "
            "Call it C to process each channel on its own"
        )
    return AxisLayout(names, lengths)


def agree_axes(
    shape: Iterable[int], known: str | None, axes: str | None, rgb: bool | None
) -> AxisLayout:
    """Join what an image says about its axes (`known`) and what a person says."""
    if known is None or axes is not None:
        return resolve_axes(shape, axes, rgb)
    if rgb is True and "S" not in known:
        known = known.replace("C", "S")
    elif rgb is False and "C" not in known:
        known = known.replace("S", "C")
    return resolve_axes(shape, known, rgb)


def _lengths(shape: Iterable[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    try:
        lengths = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise InputError(
            f"the shape {shape} is not known in whole numbers; for a dask array with "
            "unknown chunks call compute_chunk_sizes() first"
        ) from None
    if any(n < 0 for n in lengths):
        raise InputError(f"the shape {lengths} has a negative length")
    return lengths


def _given_axes(axes: str, lengths: tuple[int, ...]) -> str:
    names = axes.upper() if isinstance(axes, str) else ""
    if (
        not names
        or not set(names) <= set(LETTERS)
        or len(set(names)) < len(names)
        or not {"Y", "X"} <= set(names)
    ):
        raise InputError(
            f"axes={axes!r} must be different letters from {LETTERS}, with Y and X"
        )
    if len(names) != len(lengths):
        raise InputError(
            f"axes={axes!r} names {len(names)} axes, but the array of shape {lengths} "
            f"has {len(lengths)}"
        )
    return names


def _default_axes(lengths: tuple[int, ...], rgb: bool | None) -> str:
    if rgb is None and len(lengths) > 2 and lengths[-1] in (3, 4):
        raise InputError(
            f"the last axis of an array of shape {lengths} has length {lengths[-1]}: "
            "it may hold RGB samples or columns. Say rgb=True, rgb=False or axes=..., "
            "for example axes='YXS'"
        )
    samples = "S" if rgb else ""
    stack = len(lengths) - 2 - len(samples)
    if stack < 0:
        raise InputError(
            f"rgb=True needs at least three axes (Y, X and samples), but the array "
            f"has the shape {lengths}"
        )
    if stack > 3:
        raise InputError(
            f"an array of shape {lengths} has {len(lengths)} axes; say which is what "
            f"with axes=..., one letter of {LETTERS} per axis"
        )
    return ("", "Z", "TZ", "TCZ")[stack] + "YX" + samples
