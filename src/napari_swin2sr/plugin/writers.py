"""File > Save for what napari's own writers lose: multiscale layers, scale, units."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from napari.utils.notifications import show_warning
from napari.utils.progress import progress as napari_progress

from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.plugin.copying import Copied, write_image
from napari_swin2sr.plugin.layer_source import layer_source, spatial_image
from napari_swin2sr.plugin.live.layer import exact_result
from napari_swin2sr.runs.runner import RunStarted, TileDone

_KNOWN = ("name", "rgb", "axis_labels", "multiscale")
_TRANSFORM = ("scale", "translate", "units", "rotate", "shear", "affine")


def write_zarr(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as OME-Zarr with a pyramid, scale, units and position."""
    return _write(path, data, attributes)


def write_tiff(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write an image layer as OME-TIFF with a pyramid, scale, units and position."""
    return _write(path, data, attributes)


def _write(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write exact pixels: of a live layer also those that nobody has looked at."""
    keywords = {
        key: attributes[key] for key in (*_KNOWN, *_TRANSFORM) if key in attributes
    }
    layer = Image(data, visible=False, contrast_limits=(0, 1), **keywords)
    straight = np.diag(np.asarray(layer.scale))
    turned = np.subtract(
        [layer.data_to_world(row) for row in np.eye(layer.ndim)],
        layer.data_to_world(np.zeros(layer.ndim)),
    ).T
    if not np.allclose(turned, straight):
        show_warning(
            f"{path}: rotation, shear and affine of {layer.name} are not stored, as "
            "the format has no place for them"
        )
    source = layer_source(layer)
    image = spatial_image(layer, source)
    exact = exact_result(layer)
    blocks = Copied(image) if exact is None else exact
    with_pixels: SpatialImage = dataclasses.replace(image, data=blocks)
    bar = napari_progress(total=0, desc=f"Saving {layer.name}")

    def report(event: object) -> None:
        if isinstance(event, RunStarted):
            bar.reset(total=event.total)
        elif isinstance(event, TileDone):
            bar.update(event.done - bar.n)

    try:
        write_image(with_pixels, Path(path), progress=report)
    finally:
        bar.close()
    return [path]
