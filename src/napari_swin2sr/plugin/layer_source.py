"""What a napari layer says about its pixels, and which layers cannot be upscaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_swin2sr.errors import InputError
from napari_swin2sr.image.axes import AxisLayout, resolve_axes
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.image.sources import check_dtype
from napari_swin2sr.plugin.live.progressive import ProgressiveArray
from napari_swin2sr.tiles.chunks import forward

if TYPE_CHECKING:
    from napari.layers import Layer

_LETTER = {"t": "T", "c": "C", "z": "Z", "y": "Y", "x": "X"}
_LETTER |= {"time": "T", "channel": "C", "channels": "C", "depth": "Z"}

_LABELS = (
    "its pixels are object numbers, and a number between two objects is a third "
    "object. Upscale the image that it was made from, and segment the result"
)


@dataclass(frozen=True, slots=True)
class LayerSource:
    """A layer as something to upscale; pixels stay where they are.

    Attributes
    ----------
    levels : its pixels, full resolution first; one level if it is not multiscale
    layout : which axis is what, for the full resolution
    name : name of the layer
    """

    levels: tuple[Any, ...]
    layout: AxisLayout
    name: str

    @property
    def data(self) -> Any:
        """The full resolution."""
        return self.levels[0]


class ExactPixels:
    """A progressive array as an ordinary one: reading waits for the exact pixels."""

    def __init__(self, array: ProgressiveArray) -> None:
        self.array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self.chunks = array.level.chunks

    def __getitem__(self, key: Any) -> NDArray[Any]:
        region, finish = forward(key, self.shape)
        return self.array.exact(region)[finish]


def refusal(layer: Layer | None) -> str | None:
    """Return why a layer cannot be upscaled, or None if it can."""
    if layer is None:
        return "There is no layer to upscale: open an image first"
    if isinstance(layer, Image):
        data = layer.data[0] if layer.multiscale else layer.data
        try:
            check_dtype(data.dtype)
        except InputError as error:
            return f"{layer.name} cannot be upscaled: {error}"
        if 0 in data.shape:
            return f"{layer.name} cannot be upscaled: it is empty, {tuple(data.shape)}"
        return None
    reason = _LABELS if isinstance(layer, Labels) else "it has no pixels"
    return f"{layer.name} cannot be upscaled: {reason}"


def guess_axes(layer: Image) -> str:
    """Return the axes that a layer's labels, or else its number of axes, suggest."""
    samples = "S" if layer.rgb else ""
    letters = [_LETTER.get(str(label).lower(), "") for label in layer.axis_labels]
    named = "".join(letters) + samples
    if all(letters) and len(set(letters)) == len(letters) and {"Y", "X"} <= set(named):
        return named
    stack = layer.ndim - 2
    return ("", "Z", "TZ", "TCZ")[min(stack, 3)] + "YX" + samples


def layer_source(layer: Image, axes: str | None = None) -> LayerSource:
    """Describe the pixels of an image layer; the layer suggests axes if None are given.

    Raises
    ------
    InputError
        If it is no image, or the axes do not fit.
    """
    if (reason := refusal(layer)) is not None:
        raise InputError(reason)
    levels = tuple(layer.data) if layer.multiscale else (layer.data,)
    levels = tuple(
        ExactPixels(level) if isinstance(level, ProgressiveArray) else level
        for level in levels
    )
    layout = resolve_axes(levels[0].shape, axes or guess_axes(layer))
    return LayerSource(levels, layout, str(layer.name))


def spatial_image(layer: Image, source: LayerSource) -> SpatialImage:
    """Return the layer's pixels with their physical meaning, as files can hold it.

    Rotation, shear and affine have no place there.
    """
    letters = source.layout.axes.replace("S", "") if layer.rgb else source.layout.axes
    pixel_size, unit, origin = {}, {}, {}
    for letter, size, name, first in zip(
        letters, layer.scale, map(str, layer.units), layer.translate, strict=False
    ):
        if letter in "TZYX" and size:
            pixel_size[letter] = abs(float(size))
            origin[letter] = float(first)
            if name != "pixel":
                unit[letter] = name
    return SpatialImage(
        data=source.data,
        axes=source.layout.axes,
        pixel_size=pixel_size,
        unit=unit,
        origin=origin,
        source=str(layer.source.path or layer.name),
    )
