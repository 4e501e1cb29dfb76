"""What a result has of its source: place, look, record; and what is in view."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer

from napari_swin2sr.image.record import center_shift
from napari_swin2sr.options import UpscaleOptions

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_swin2sr.engine.reference import ModelHandle
    from napari_swin2sr.plugin.layer_source import LayerSource

METADATA_KEY = "napari-swin2sr"
"""Key of the provenance record in `layer.metadata`."""

_CARRIED = (
    "attenuation",
    "blending",
    "colormap",
    "contrast_limits",
    "gamma",
    "interpolation2d",
    "interpolation3d",
    "iso_threshold",
    "opacity",
    "projection_mode",
    "rendering",
)
_NOT_FOR_RGB = ("colormap", "contrast_limits", "gamma", "iso_threshold")
_DEFAULTS = UpscaleOptions()

_SOURCES: weakref.WeakKeyDictionary[Layer, weakref.ref[Image]] = (
    weakref.WeakKeyDictionary()
)


def placement(
    layer: Image,
    upscale: int,
    axes: Sequence[int],
    start: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """Return the transform of the super-resolved pixels of `layer`, as keywords.

    Old and new pixel grids share their outer corner, so the center of new pixel 0
    lies (1 - 1/upscale) / 2 old pixels before the center of old pixel 0. That shift
    happens in data coordinates, hence goes through scale, shear, rotation and the
    extra affine before it can be added to `translate`.

    Parameters
    ----------
    layer : Image
        The layer that was super-resolved.
    upscale : int
        Output pixels per input pixel.
    axes : sequence of int
        The layer axes that were upscaled (RGB samples are not a layer axis).
    start : mapping of int to int, optional
        First pixel of the part that was super-resolved, per layer axis [px of `layer`].
    """
    factor = np.ones(layer.ndim)
    factor[list(axes)] = upscale
    shift = center_shift(factor)
    for axis, first in (start or {}).items():
        shift[axis] += first
    moved = np.subtract(
        layer.data_to_world(shift), layer.data_to_world(np.zeros(layer.ndim))
    )
    outer = np.asarray(layer.affine.linear_matrix)
    return {
        "scale": np.asarray(layer.scale) / factor,
        "translate": np.asarray(layer.translate) + np.linalg.solve(outer, moved),
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def layer_keywords(
    layer: Image,
    upscale: int,
    axes: Sequence[int],
    start: Mapping[int, int] | None = None,
    *,
    name: str,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the keywords of a new `Image` with all that must not get lost.

    `rgb` and `contrast_limits` are always explicit: napari would guess the first
    from the shape and compute the second from pixels that do not exist yet.
    """
    state = layer.as_layer_data_tuple()[1]
    skip = _NOT_FOR_RGB if layer.rgb else ()
    keywords = {key: state[key] for key in _CARRIED if key in state and key not in skip}
    keywords |= placement(layer, upscale, axes, start)
    keywords["rgb"] = bool(layer.rgb)
    keywords["name"] = name
    keywords["metadata"] = {**layer.metadata, METADATA_KEY: dict(provenance)}
    return keywords


def record(
    layer: Image, source: LayerSource, options: UpscaleOptions, handle: ModelHandle
) -> dict[str, Any]:
    """Return what must be known to make a result again, as JSON can hold it."""
    from importlib.metadata import version

    elsewhere = ("model", "axes", "rgb", "device")
    return {
        "software": f"napari-swin2sr {version('napari-swin2sr')}",
        "model": handle.name,
        "sha256": handle.sha256,
        "upscale": handle.upscale,
        "source": str(layer.source.path or layer.name),
        "axes": source.layout.axes,
        "shape": list(source.layout.shape),
        "options": {
            key: value
            for key, value in changed_options(options).items()
            if key not in elsewhere
        },
    }


def changed_options(options: UpscaleOptions) -> dict[str, Any]:
    """Return the options that differ from their defaults, in their order."""
    return {
        field.name: value
        for field in dataclasses.fields(options)
        if (value := getattr(options, field.name)) != getattr(_DEFAULTS, field.name)
    }


def show_result(viewer: ViewerModel, source: Image, result: Image) -> None:
    """Add a result; what lies under it must not shine through it.

    Additive layers add up, so the source would double the brightness: it is hidden.
    Contrast is linked, so that showing it again compares like with like.
    """
    _SOURCES[result] = weakref.ref(source)
    # What the layer list shows as tooltip; napari has no other place for it.
    result.get_source_str = functools.partial(_tooltip, weakref.ref(result))
    viewer.add_layer(result)
    if source not in viewer.layers:  # deleted meanwhile
        return
    if str(source.blending) in ("additive", "minimum", "multiplicative"):
        source.visible = False
    if not source.rgb:
        viewer.layers.link_layers([source, result], ("contrast_limits", "gamma"))


def _tooltip(result: weakref.ref[Image]) -> str:
    """Return where a result comes from, line by line."""
    layer = result()
    if layer is None or METADATA_KEY not in layer.metadata:
        return ""
    made = layer.metadata[METADATA_KEY]
    lines = [str(layer.name), f"Source: {made.get('source')}"]
    lines.append(f"Model: {made.get('model')} (×{made.get('upscale')})")
    if file := made.get("run", {}).get("file"):
        lines.append(f"File: {file}")
    if error := made.get("error_layer"):
        lines.append(f"Error layer: {error}")
    return "\n".join(lines)


def made_from(result: Layer, layers: Iterable[Layer]) -> Image | None:
    """Return the layer among `layers` of which another one is the result, if any.

    Results of this session know it; others, opened again, name file or layer.
    """
    if METADATA_KEY not in result.metadata:
        return None
    others = [layer for layer in layers if isinstance(layer, Image)]
    if (known := _SOURCES.get(result)) is not None:
        source = known()
        return source if source in others else None
    name = result.metadata[METADATA_KEY].get("source")
    found = [
        layer
        for layer in others
        if layer is not result and str(layer.source.path or layer.name) == name
    ]
    # Channels of one file are told apart by what their results are called.
    longest = sorted(found, key=lambda layer: len(layer.name), reverse=True)
    named = [layer for layer in longest if result.name.startswith(layer.name)]
    return next(iter(named or found), None)


def free_name(names: Sequence[str], wanted: str) -> str:
    """Return `wanted`, with a number if there is a layer of that name already."""
    taken = set(names)
    if wanted not in taken:
        return wanted
    number = 2
    while f"{wanted} [{number}]" in taken:
        number += 1
    return f"{wanted} [{number}]"


# -- what the canvas shows ------------------------------------------------------------


def camera_of(viewer: ViewerModel) -> Any:
    """Return the camera, which napari 0.9 moved into the scene."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera


def visible_region(viewer: ViewerModel, layer: Image) -> tuple[tuple[int, int], ...]:
    """Return the visible part of a layer in pixels of its full resolution.

    `layer.corner_pixels` says so only for layers with one scale: for a multiscale
    layer it counts pixels of the level that is shown, in whole chunks.

    Returns
    -------
    tuple of (int, int)
        (first, last + 1) per layer axis: the visible box along the displayed axes, the
        current position along the others. Empty, first = last + 1, if the layer is
        out of sight. In a 3-D view, everything along the displayed axes.
    """
    shape = (layer.data[0] if layer.multiscale else layer.data).shape[: layer.ndim]
    displayed = list(viewer.dims.displayed)
    camera = camera_of(viewer)
    points = []
    if len(displayed) == 2:
        half = np.asarray(viewer.canvas.size) / 2 / camera.zoom
        center = np.asarray(camera.center)[-2:]
        signs = list(itertools.product((-1, 1), repeat=2))
        corners = [center + half * sign for sign in signs]
    else:
        corners = [np.asarray(viewer.dims.point)[displayed]]
    for corner in corners:
        point = np.array(viewer.dims.point, float)
        point[displayed] = corner
        points.append(layer.world_to_data(point[-layer.ndim :]))
    low = np.floor(np.min(points, axis=0) + 0.5).astype(int)
    high = np.ceil(np.max(points, axis=0) + 0.5).astype(int)
    offset = viewer.dims.ndim - layer.ndim
    region = []
    for axis, n in enumerate(shape):
        if axis + offset not in displayed:
            place = int(np.clip(np.rint(points[0][axis]), 0, n - 1))
            region.append((place, place + 1))
        elif len(displayed) == 3:
            region.append((0, n))
        else:
            first = int(np.clip(low[axis], 0, n))
            region.append((first, max(first, int(np.clip(high[axis], 0, n)))))
    return tuple(region)
