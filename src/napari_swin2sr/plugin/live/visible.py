"""The part of a layer that the canvas shows."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image


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
