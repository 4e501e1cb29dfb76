"""Where a super-resolved layer lies: exactly on the layer that it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.layers import Image

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


def placement(
    layer: Image,
    upscale: int,
    axes: Sequence[int],
    start: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """Return the transform of the super-resolved pixels of `layer`.

    Old and new pixel grids share their outer corner, so the centre of new pixel 0
    lies (1 - 1/upscale) / 2 old pixels before the centre of old pixel 0. That shift
    happens in data coordinates, hence goes through scale, shear, rotation and the
    extra affine before it can be added to `translate`.

    Parameters
    ----------
    layer : the layer that was super-resolved
    upscale : integer factor
    axes : the two layer axes that were upscaled (RGB samples are not a layer axis)
    start : layer axis -> first pixel of the part that was super-resolved, in pixels
        of `layer`; axes that are absent start at 0

    Returns
    -------
    dict of the keywords scale, translate, rotate, shear, affine, units, axis_labels
    """
    factor = np.ones(layer.ndim)
    factor[list(axes)] = upscale
    shift = -(1 - 1 / factor) / 2
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
    """Return everything for `viewer.add_image` that must not get lost.

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


def free_name(names: Sequence[str], wanted: str) -> str:
    """Return `wanted`, with a number where a layer of that name is there already.

    napari would overwrite a layer with the same name when a command returns layer
    data, so every new result gets a name of its own.
    """
    taken = set(names)
    if wanted not in taken:
        return wanted
    number = 2
    while f"{wanted} [{number}]" in taken:
        number += 1
    return f"{wanted} [{number}]"
