"""From stored samples to gray, RGB or RGBA: what a format means by its numbers.

Color tables, inverted gray, few bits, CMYK, YCbCr, L*a*b* and premultiplied alpha are
ways of storing. Interpolating them as they are gives wrong colors, so they are
converted where pixels are read. Every conversion takes and returns an array whose last
axis are the samples of a pixel.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_swin2sr.tiles.chunks import forward

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_swin2sr.image.record import SpatialImage

# EXIF and TIFF: (rows become columns, then flip up-down, then flip left-right)
ORIENTATIONS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

_XYZ_D50_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)


class _Lazy(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, index: Any, /) -> NDArray[Any]: ...


class ConvertedArray:
    """A lazy array whose samples are converted where they are read.

    `axis` is that of the samples in `source`, or None if there is none: then one of
    `samples` is added at the end, unless that is None too. It pickles if `convert`
    does, such as a partial of a function of this module.
    """

    def __init__(
        self,
        source: _Lazy,
        convert: Callable[[NDArray[Any]], NDArray[Any]],
        axis: int | None = None,
        samples: int | None = None,
    ) -> None:
        self.source, self.convert = source, convert
        self.axis, self.samples = axis, samples
        shape = list(source.shape)
        if axis is None and samples is not None:
            shape.append(samples)
        elif axis is not None and samples is not None:
            shape[axis] = samples
        self.shape, self.ndim = tuple(shape), len(shape)
        n = 1 if axis is None else source.shape[axis]
        self.dtype = convert(np.zeros((1, n), source.dtype)).dtype

    def __repr__(self) -> str:
        return f"ConvertedArray({self.source!r}, {self.convert})"

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Name the pixels by their source and what is done with them."""
        return type(self).__name__, self.source, self.convert, self.axis, self.samples

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a region: slices and integers, one per axis, as in NumPy."""
        region, finish = forward(index, self.shape)
        place = [slice(part.start, part.stop, part.step) for part in region]
        if self.axis is not None:
            wanted, place[self.axis] = place[self.axis], slice(None)
            stored = np.moveaxis(self.source[tuple(place)], self.axis, -1)
            pixels = np.moveaxis(self.convert(stored), -1, self.axis)
            place = [slice(None)] * self.ndim
            place[self.axis] = wanted
            pixels = pixels[tuple(place)]
        elif self.samples is not None:
            *place, wanted = place
            pixels = self.convert(self.source[tuple(place)][..., None])[..., wanted]
        else:
            pixels = self.convert(self.source[tuple(place)][..., None])[..., 0]
        return pixels[finish]


class OrientedArray:
    """A lazy array turned and flipped as the tag Orientation says.

    `rows`, `columns` are the numbers of those axes, the same before and after.
    """

    def __init__(self, source: _Lazy, orientation: int, rows: int, columns: int):
        self.source, self.orientation = source, orientation
        self.rows, self.columns = rows, columns
        self.dtype = source.dtype
        self.shape = tuple(source.shape[axis] for axis in self._order)
        self.ndim = len(self.shape)

    @property
    def _order(self) -> list[int]:
        """Axis of the source of each axis; its own inverse."""
        order = list(range(len(self.source.shape)))
        if ORIENTATIONS[self.orientation][0]:
            order[self.rows], order[self.columns] = self.columns, self.rows
        return order

    def __repr__(self) -> str:
        return f"OrientedArray({self.source!r}, orientation={self.orientation})"

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Name the pixels by their source and how they are turned."""
        return type(self).__name__, self.source, self.orientation

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a region: slices and integers, one per axis, as in NumPy."""
        region, finish = forward(index, self.shape)
        back: list[slice] = [slice(None)] * self.ndim
        _, *flips = ORIENTATIONS[self.orientation]
        for axis, flip in zip((self.rows, self.columns), flips, strict=True):
            if flip:
                last = self.shape[axis] - 1
                part = region[axis][::-1]
                region[axis] = range(last - part.start, last - part.stop, -part.step)
                back[axis] = slice(None, None, -1)
        stored = [slice(part.start, part.stop, part.step) for part in region]
        pixels = self.source[tuple(stored[axis] for axis in self._order)]
        return pixels.transpose(self._order)[tuple(back)][finish]


class WithMask:
    """A lazy array whose pixels outside a mask are `value`, or transparent.

    `mask` is a lazy (Y, X) array, 0 where a pixel is not valid. Without `value` the
    samples, the last axis, get alpha.
    """

    def __init__(
        self, source: _Lazy, mask: _Lazy, axes: str, value: float | None
    ) -> None:
        self.source, self.mask = source, mask
        self.axes, self.value = axes, value
        self.dtype = source.dtype
        extra = 0 if value is not None else 1
        self.shape = (*source.shape[:-1], source.shape[-1] + extra)
        self.ndim = len(self.shape)

    def __repr__(self) -> str:
        return f"WithMask({self.source!r}, {self.mask!r}, value={self.value})"

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Name the pixels by their source and mask."""
        return type(self).__name__, self.source, self.mask, self.axes, self.value

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a region: slices and integers, one per axis, as in NumPy."""
        region, finish = forward(index, self.shape)
        place = [slice(part.start, part.stop, part.step) for part in region]
        valid = self.mask[tuple(place[self.axes.index(axis)] for axis in "YX")] != 0
        if self.axes.index("X") < self.axes.index("Y"):
            valid = valid.T
        sides = [
            n if a in "YX" else 1
            for a, n in zip(self.axes, map(len, region), strict=True)
        ]
        valid = valid.reshape(sides)
        if self.value is not None:
            masked = np.where(valid, self.source[tuple(place)], self.value)
            return masked.astype(self.dtype)[finish]
        *place, wanted = place
        colors = self.source[tuple(place)]
        alpha = np.where(valid, np.iinfo(self.dtype).max, 0).astype(self.dtype)
        alpha = np.broadcast_to(alpha, (*colors.shape[:-1], 1))
        return np.concatenate([colors, alpha], -1)[..., wanted][finish]


# -- conversions ----------------------------------------------------------------------


def look_up(table: NDArray[Any], stored: NDArray[Any]) -> NDArray[Any]:
    """Turn (..., 1) numbers of a color table (n, 3 or 4) into its colors."""
    found: NDArray[Any] = table[np.minimum(stored[..., 0], len(table) - 1)]
    return found


def rescale(bits: int, invert: bool, stored: NDArray[Any]) -> NDArray[Any]:
    """Spread fewer than 8 bits over 0..255, and turn WhiteIsZero round."""
    most = 2**bits - 1
    if bits >= 8:
        return ~stored if stored.dtype.kind == "i" else most - stored
    wide = np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8)
    spread: NDArray[Any] = (wide[::-1] if invert else wide)[stored.astype(np.intp)]
    return spread


def gray_alpha_to_rgba(stored: NDArray[Any]) -> NDArray[Any]:
    """Repeat gray three times before its alpha."""
    return stored[..., [0, 0, 0, 1]]


def straighten(stored: NDArray[Any]) -> NDArray[Any]:
    """Divide premultiplied colors by their alpha, the last sample; 0 stays 0."""
    most = np.iinfo(stored.dtype).max if stored.dtype.kind in "iu" else 1.0
    alpha = stored[..., -1:].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        color = np.where(alpha > 0, stored[..., :-1] * (most / alpha), 0)
    return np.concatenate([_fit(color, stored.dtype), stored[..., -1:]], axis=-1)


def cmyk_to_rgb(stored: NDArray[Any]) -> NDArray[Any]:
    """Convert inks to light as if they were ideal, as viewers without profiles do."""
    most = np.iinfo(stored.dtype).max
    light = most - stored[..., :4].astype(np.float64)
    rgb = _fit(light[..., :3] * light[..., 3:] / most, stored.dtype)
    return np.concatenate([rgb, stored[..., 4:]], axis=-1)


def ycbcr_to_rgb(
    luma: tuple[float, ...], reference: tuple[float, ...], stored: NDArray[Any]
) -> NDArray[Any]:
    """Convert by the tags YCbCrCoefficients and ReferenceBlackWhite."""
    most = np.iinfo(stored.dtype).max
    codes = stored[..., :3].astype(np.float64)
    low, high = np.array(reference[0::2]), np.array(reference[1::2])
    scale = np.array([most, most // 2, most // 2]) / (high - low)
    y, cb, cr = np.moveaxis((codes - low) * scale, -1, 0)
    red, green, blue = luma
    r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
    g = (y - blue * b - red * r) / green
    rgb = _fit(np.stack([r, g, b], -1), stored.dtype)
    return np.concatenate([rgb, stored[..., 3:]], axis=-1)


def lab_to_rgb(is_icc: bool, stored: NDArray[Any]) -> NDArray[Any]:
    """Convert CIE or ICC L*a*b* (illuminant D50) to sRGB."""
    from skimage.color import lab2xyz

    wide, bits = stored.dtype.itemsize == 2, stored.dtype.itemsize * 8
    codes = stored[..., :3].astype(np.float64)
    lightness = codes[..., :1] * (100 / ((65280 if is_icc else 65535) if wide else 255))
    if is_icc:
        ab = codes[..., 1:] / (256 if wide else 1) - 128
    else:
        signed = stored[..., 1:3].astype(f"u{bits // 8}").view(f"i{bits // 8}")
        ab = signed / (256 if wide else 1)
    xyz = lab2xyz(np.concatenate([lightness, ab], -1), illuminant="D50")
    light = np.clip(xyz @ _XYZ_D50_TO_SRGB.T, 0, 1)
    rgb = np.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )
    fitted = _fit(rgb * np.iinfo(stored.dtype).max, stored.dtype)
    return np.concatenate([fitted, stored[..., 3:]], axis=-1)


def chain(
    steps: tuple[Callable[[NDArray[Any]], NDArray[Any]], ...], stored: NDArray[Any]
) -> NDArray[Any]:
    """Do one conversion after the other."""
    return functools.reduce(lambda pixels, step: step(pixels), steps, stored)


def _fit(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return values.astype(dtype)


# -- what an image carries ------------------------------------------------------------


def with_table(image: SpatialImage, table: NDArray[np.uint8]) -> SpatialImage:
    """Return an image of numbers as its colors; missing ones become transparent."""
    if image.nodata is not None and table.shape[1] == 3:
        alpha = np.where(np.arange(len(table)) == image.nodata, 0, 255)
        table = np.column_stack([table, alpha.astype(np.uint8)])
    convert = functools.partial(look_up, table)
    axis, axes = None, image.axes + "S"
    if "C" in image.axes and image.shape[image.axes.index("C")] == 1:
        axis, axes = image.axes.index("C"), image.axes.replace("C", "S")
    return dataclasses.replace(
        image,
        data=ConvertedArray(image.data, convert, axis, table.shape[1]),
        axes=axes,
        nodata=None,
        value_range=None,
    )


def profile_for(image: SpatialImage) -> bytes | None:
    """Return the file's ICC profile, if it is one of colors like the image's."""
    profile = image.icc_profile or b""
    return (
        profile
        if profile[16:20] == (b"RGB " if "S" in image.axes else b"GRAY")
        else None
    )
