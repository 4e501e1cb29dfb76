"""The live layer: there at once, sharper where one looks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Layer
from napari.utils.notifications import show_warning
from qtpy.QtCore import QTimer
from superqt.utils import ensure_main_thread, qthrottled

from napari_swin2sr.errors import Swin2SRError
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.layer_source import (
    ExactPixels,
    LayerSource,
    layer_source,
    spatial_image,
)
from napari_swin2sr.plugin.live.progressive import ProgressiveArray
from napari_swin2sr.plugin.live.pyramid import Deferred, ErrorTiles, Pyramid
from napari_swin2sr.plugin.placement import (
    free_name,
    layer_keywords,
    record,
    show_result,
)
from napari_swin2sr.plugin.settings import current_settings, tile_cache
from napari_swin2sr.plugin.worker import State
from napari_swin2sr.tiles.plan import plan_tiles
from napari_swin2sr.trust.calibration import DEFAULT_LEVEL, load_calibration

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_swin2sr.engine.reference import ModelHandle
    from napari_swin2sr.tiles.lazy import LazyUpscaled

logger = logging.getLogger("napari_swin2sr")

REFRESH_MS = 60
"""Tiles that arrive within this time are shown together [ms]."""

_ALIVE: set[LiveLayer] = set()


class LiveLayer:
    """Keeps a layer in step with its pyramid, and ends with the layer.

    Lives on the main thread; the pyramid's threads reach it through `arrived` and
    `failed` only. `refined` is told in words how much of the view is sharp.
    """

    def __init__(self, viewer: ViewerModel, refined: Callable[[State], None]) -> None:
        self.viewer, self.refined = viewer, refined
        self.layer: Image | None = None
        self.pyramid: Pyramid | None = None
        self.error: ErrorTiles | None = None
        self.level = 0.0
        self.error_layer: Image | None = None
        self._told = False
        self._refresh_soon = qthrottled(
            self._refresh, timeout=REFRESH_MS, leading=False
        )

    def start(self, layer: Image, pyramid: Pyramid) -> None:
        """Watch over a layer until it is removed."""
        self.layer, self.pyramid = layer, pyramid
        layer.events.visible.connect(self.show_soon)
        self.viewer.dims.events.ndisplay.connect(self.show_soon)
        self.viewer.layers.events.removed.connect(self._on_removed)
        _ALIVE.add(self)

    def close(self) -> None:
        """End the pyramid's threads and free its tiles; the layer is gone."""
        if self.layer is None or self.pyramid is None:
            return
        self._refresh_soon.cancel()
        self.layer.events.visible.disconnect(self.show_soon)
        self.viewer.dims.events.ndisplay.disconnect(self.show_soon)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.pyramid.close()
        self.layer = self.error_layer = None
        _ALIVE.discard(self)

    def show_soon(self, event: Any = None) -> None:
        """Show what has arrived, together with what arrives in the next moment."""
        if self.layer is not None:
            self._refresh_soon()

    def _refresh(self) -> None:
        if self.layer is None or self.pyramid is None:
            return
        self._refresh_error()
        if not self.layer.visible:
            self.pyramid.drop_stale(len(self.pyramid.levels))
            return
        self.pyramid.drop_stale(self.layer.data_level)
        done = self.pyramid.idle
        self.layer.refresh(thumbnail=done, extent=False, highlight=False)
        self.refined(self._state())

    def _refresh_error(self) -> None:
        if self.error is None:
            return
        shown = self.error_layer
        if shown is None or not shown.visible or shown.data_level > 0:
            self.error.array.filler.want(self.error.array, [])
        if shown is not None and shown.visible:
            shown.refresh(thumbnail=False, extent=False, highlight=False)

    def _state(self) -> State:
        """Say how much of the view is sharp."""
        assert self.layer is not None
        assert self.pyramid is not None
        name = self.layer.name
        if self.viewer.dims.ndisplay == 3:
            return State(
                f"{name}: 3-D shows the original; choose the whole image, in memory, "
                "to see it sharp"
            )
        if self.layer.data_level > 0:
            return State(f"{name}: shows the original; zoom in to sharpen it")
        sharp, total = self.pyramid.arrays[0].progress
        if sharp == total:
            return State(f"{name}: all you see is sharp", total, total)
        return State(
            f"{name}: {sharp} of {total} visible tiles are sharp", sharp, total
        )

    @ensure_main_thread
    def arrived(self) -> None:
        """Take note of a tile, from any thread."""
        self.show_soon()

    @ensure_main_thread
    def failed(self, error: Exception) -> None:
        """Show the first error, from any thread; log the others."""
        name = "the live layer" if self.layer is None else self.layer.name
        logger.error("live layer %s: %s", name, error, exc_info=error)
        if not self._told:
            self._told = True
            show_warning(
                f"{name} shows interpolated pixels where the model failed: {error}"
            )

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer:
            if self.error_layer in self.viewer.layers:  # it would show nothing more
                QTimer.singleShot(0, partial(_remove, self.viewer, self.error_layer))
            self.close()
        elif event.value is self.error_layer:
            self.error_layer = None
            self.show_soon()


def _remove(viewer: ViewerModel, layer: Layer) -> None:
    if layer in viewer.layers:
        viewer.layers.remove(layer)


def live_layers() -> list[LiveLayer]:
    """Return the live layers that are open now."""
    return list(_ALIVE)


def add_live_layer(
    viewer: ViewerModel,
    layer: Image,
    options: UpscaleOptions,
    handle: ModelHandle,
    refined: Callable[[State], None] = lambda state: None,
) -> Image:
    """Add a layer that is super-resolved where one looks, and return it.

    The model is not called here, and no pixel of a lazy image is read.

    Parameters
    ----------
    viewer : ViewerModel
        Gets the new layer.
    layer : Image
        Of any kind: NumPy, dask, Zarr, multiscale, RGB, T C Z axes.
    options : UpscaleOptions
        Its `tile` is that of the preferences when None.
    handle : ModelHandle
        The model that `options` name.
    refined : callable, optional
        Told in words how much of the view is sharp, whenever that changes.

    Raises
    ------
    InputError, OptionError
        If the layer or an option is not possible.
    """
    source = layer_source(layer, options.axes)
    tile = options.tile or current_settings().live_tile
    config = handle.config
    asked = options.replace(tile=tile, axes=None, rgb=None)
    options = _with_error(asked, config.upscale)
    plan = plan_tiles(
        source.layout.plane_shape,
        core=tile,
        halo=config.halo(options.halo),
        multiple_of=config.window_size,
        upscale=config.upscale,
    )
    sizes = [(1,) * n for n in source.layout.shape]
    sizes[source.layout.y], sizes[source.layout.x] = plan.chunks
    if source.layout.s is not None:
        sizes[source.layout.s] = (source.layout.samples,)
    image = spatial_image(layer, source)
    finest = Deferred(
        source.layout.output_shape(config.upscale),
        np.dtype(options.dtype or source.data.dtype),
        tuple(sizes),
        lambda: _lazy(image, options, pyramid, source),
    )
    name = free_name([other.name for other in viewer.layers], f"{layer.name} live")
    controller = LiveLayer(viewer, refined)
    pyramid = Pyramid(
        source,
        finest,
        tile_cache(),
        dark=0 if layer.rgb else float(layer.contrast_limits[0]),
        changed=controller.arrived,
        failed=controller.failed,
    )
    keywords = layer_keywords(
        layer,
        config.upscale,
        (source.layout.y, source.layout.x),
        name=name,
        provenance=record(layer, source, asked, handle) | {"live": True},
    )
    if options.trust:
        controller.error = ErrorTiles(pyramid.arrays[0], source.layout.s)
        controller.level = float(options.trust)
    new = Image(pyramid.levels, multiscale=True, **keywords)
    _tell_in_status(new, controller)
    controller.start(new, pyramid)
    show_result(viewer, layer, new)
    return new


def exact_result(layer: Image) -> Callable[[], LazyUpscaled] | None:
    """Return what plans the exact image behind a live layer; None for other layers.

    A live layer hands out interpolated pixels where no tile has arrived yet, so
    whoever saves or measures needs this instead.
    """
    level = layer.data[0] if layer.multiscale else None
    if isinstance(level, ProgressiveArray) and isinstance(level.level, Deferred):
        deferred = level.level
        return lambda: deferred.lazy
    return None


def _lazy(
    image: SpatialImage,
    options: UpscaleOptions,
    pyramid: Pyramid,
    source: LayerSource,
) -> LazyUpscaled:
    """Plan the exact result; a slow source is read through the pyramid's own tiles."""
    from napari_swin2sr.tiles.lazy import LazyUpscaled
    from napari_swin2sr.upscale import prepare

    lazy = prepare(image, options)
    original = pyramid.chain[1]
    if not isinstance(original, ProgressiveArray):
        return lazy
    return LazyUpscaled(
        ExactPixels(original),
        lazy.layout,
        lazy.plan,
        lazy.ranges,
        lazy.block,
        dtype=lazy.dtype,
        nodata=image.nodata if options.nodata is None else options.nodata,
        error_scale=lazy.error_scale,
    )


def _with_error(options: UpscaleOptions, upscale: int) -> UpscaleOptions:
    """Ask for error bars where the model has them: they cost next to nothing."""
    if options.trust or upscale == 1:
        return options
    try:
        load_calibration(options.model)
    except Swin2SRError:
        return options
    return options.replace(trust=DEFAULT_LEVEL)


def _tell_in_status(live: Image, controller: LiveLayer) -> None:
    """Let the status bar read "123 ± 9 (90 %)" over a live layer."""
    plain: Callable[..., dict[str, Any]] = live.get_status

    def get_status(position: Any = None, **keywords: Any) -> dict[str, Any]:
        status = plain(position, **keywords)
        text = _error_text(live, controller, position)
        if text:
            for key in ("coordinates", "value"):
                status[key] = f"{status[key]} {text}"
        return status

    live.get_status = get_status


def _error_text(live: Image, controller: LiveLayer, position: Any) -> str:
    """Return "± 9 (90 %)" for a place in the world, "" where nothing is known."""
    if controller.error is None or position is None:
        return ""
    place = np.rint(live.world_to_data(position)).astype(int)
    error = controller.error.array.peek([int(at) for at in place])
    if error is None or not math.isfinite(error):
        return ""
    return f"± {error:.3g} ({controller.level:.0%})".replace("%", " %")
