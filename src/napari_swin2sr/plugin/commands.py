"""Commands of the menus and the palette: one click, no widget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image
from napari.utils.notifications import show_error

from napari_swin2sr.errors import Swin2SRError
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.layer_source import refusal
from napari_swin2sr.plugin.modes import LIVE, Request, job
from napari_swin2sr.plugin.settings import current_settings
from napari_swin2sr.plugin.worker import Outcome, Run

if TYPE_CHECKING:
    import napari.viewer

_RUNS: set[Run] = set()


def upscale_live(viewer: napari.viewer.Viewer) -> None:
    """Add a live layer, with the embedded model, for every selected image layer."""
    settings = current_settings()
    options = UpscaleOptions(device=settings.device, precision=settings.precision)
    chosen = [layer for layer in viewer.layers if layer in viewer.layers.selection]
    images = [layer for layer in chosen if isinstance(layer, Image)]
    try:
        if not images:
            raise Swin2SRError(str(refusal(viewer.layers.selection.active)))
        jobs = [job(LIVE, Request(viewer, layer, options)) for layer in images]
    except Swin2SRError as error:
        show_error(str(error))
        return

    def ended(outcome: Outcome) -> None:
        _RUNS.discard(run)
        if outcome.error is not None:
            show_error(str(outcome.error))

    run = Run(jobs, lambda state: None, ended)
    _RUNS.add(run)
    run.start()
