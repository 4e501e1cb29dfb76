"""What is said before a run: what the image is, whether it suits, what it will take."""

from __future__ import annotations

import functools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_swin2sr.plugin.estimate import Need, estimate_need
from napari_swin2sr.plugin.layer_source import LayerSource, layer_source, spatial_image
from napari_swin2sr.plugin.modes import DISK, LIVE, MEMORY, in_viewer
from napari_swin2sr.plugin.placement import visible_region
from napari_swin2sr.plugin.settings import current_settings
from napari_swin2sr.trust.suitability import CLEAN_ONLY, INTERPOLATION, Inspection

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_swin2sr.options import UpscaleOptions
    from napari_swin2sr.plugin.choices import ModelChoice

logger = logging.getLogger("napari_swin2sr")

_KINDS = {"u": "", "i": " signed", "f": " float", "b": "true or false"}
_PIXELS = {"": "", "pixel": "", "micrometer": "µm", "nanometer": "nm", "meter": "m"}
_STACKS = {"T": "times", "Z": "planes", "C": "channels"}


def image_words(layer: Image, axes: str) -> str:
    """Return size, type and pixel size of a layer in one line."""
    data = layer.data[0] if layer.multiscale else layer.data
    sizes = dict(zip(axes, data.shape, strict=False))
    if not {"Y", "X"} <= set(sizes):
        return " × ".join(f"{n:,}" for n in data.shape)
    parts = [f"{sizes['Y']:,} × {sizes['X']:,} px"]
    stacks = [(sizes[a], word) for a, word in _STACKS.items() if a in sizes]
    parts += [f"{n:,} {word[:-1] if n == 1 else word}" for n, word in stacks]
    kind = np.dtype(data.dtype)
    bits = "" if kind.kind == "b" else f"{8 * kind.itemsize}-bit"
    color = "RGB, " if layer.rgb else ""
    parts.append(f"{color}{bits}{_KINDS.get(kind.kind, kind.name)}")
    place = axes.replace("S", "").find("X") if layer.rgb else axes.find("X")
    if place < layer.ndim:
        unit = str(layer.units[place])
        unit = _PIXELS.get(unit, unit)
        if unit:
            parts.append(f"{abs(float(layer.scale[place])):.3g} {unit}/px")
    return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Suitability:
    """Whether an image suits a model, in one line, and what would suit it better.

    Attributes
    ----------
    text : for people
    better : name of a model that suits the image better; "" if the chosen one is right
    warn : whether the chosen model makes this image worse
    """

    text: str
    better: str = ""
    warn: bool = False


def suits(found: Inspection, model: ModelChoice) -> Suitability:
    """Say whether a model suits what an inspection has found."""
    noise = found.reason.split(":")[0].replace(" at the white level", "")
    noise = noise[:1].upper() + noise[1:]
    worst = found.expected_gain.get("default-clean")
    if model.name in CLEAN_ONLY and worst is not None and worst.mean < 0:
        return Suitability(
            f"{noise}: {model.name} is for clean images and would amplify the noise.",
            "default" if model.factor == 2 else "default-x4",
            warn=True,
        )
    gain = found.expected_gain.get(model.name)
    best = found.recommendation
    if best == INTERPOLATION:
        return Suitability(f"{noise}: no better than interpolation is expected.")
    if best == model.name or gain is None or gain.mean > 0:
        if best != model.name and model.factor == 2:
            return Suitability(f"{noise}: {best} suits it better.", best)
        expected = "" if gain is None else f", about {gain.mean:.1f} dB gain"
        return Suitability(f"{noise}: {model.name} is right{expected}.")
    return Suitability(f"{noise}: {best} suits it better.", best, warn=True)


@functools.cache
def inspector() -> ThreadPoolExecutor:
    """Return the thread that looks at images, one after the other."""
    return ThreadPoolExecutor(1, thread_name_prefix="napari-swin2sr inspector")


def inspection_of(
    layer: Image, options: UpscaleOptions
) -> Callable[[], Inspection | None]:
    """Return what inspects a layer in another thread; layers are not touched there."""
    source = layer_source(layer, options.axes)
    image = spatial_image(layer, source)

    def work() -> Inspection | None:
        from napari_swin2sr.trust.suitability import assess

        try:
            return assess(image, options.value_range, options.nodata)
        except Exception:  # the run itself will say it in full
            logger.debug("inspection failed", exc_info=True)
            return None

    return work


def need_words(
    viewer: ViewerModel,
    layer: Image,
    options: UpscaleOptions,
    model: ModelChoice,
    mode: str,
) -> str:
    """Return what a run needs for one layer.

    Raises
    ------
    Swin2SRError
        If there can be no run.
    """
    source = layer_source(layer, options.axes)
    if model.config is None:
        return ""
    if mode == LIVE and options.tile is None:
        options = options.replace(tile=current_settings().live_tile)
    options = in_viewer(options)
    shape, axes = source.layout.shape, source.layout.axes
    about = axes, source.data.dtype, options, model.config, model.n_parameters
    whole = estimate_need(shape, *about)  # refuses what does not fit
    if mode == MEMORY and not whole.fits_in_memory:
        return f"{whole.text}. That does not fit in memory: choose a file"
    if mode in (MEMORY, DISK):
        return whole.text
    region = visible_region(viewer, layer)
    if any(first == last for first, last in region):
        return "Out of sight: move the layer into the view"
    if mode == LIVE and viewer.dims.ndisplay == 3:
        return (
            "3-D shows the original: choose the whole image, in memory, to see it sharp"
        )
    height, width = _seen(source, region)
    if mode == LIVE and height > viewer.canvas.size[0]:
        return "Shows the original until you zoom in"
    need = need_in_view(source, region, options, model)
    return f"{height:,} × {width:,} px in view: {need.time}".rstrip(": ")


def need_in_view(
    source: LayerSource,
    region: tuple[tuple[int, int], ...],
    options: UpscaleOptions,
    model: ModelChoice,
) -> Need:
    """Return what the visible region needs: its own pixels and their halo."""
    config, shape = model.config, list(source.layout.shape)
    assert config is not None
    halo, window = config.halo(options.halo), config.window_size
    for axis, (first, last) in enumerate(region):
        if axis in (source.layout.y, source.layout.x):
            start = max(0, first // window * window - halo)
            stop = min(shape[axis], -(-last // window) * window + halo)
            shape[axis] = stop - start
        else:
            shape[axis] = last - first
    side = max(shape[source.layout.y], shape[source.layout.x])
    if options.tile is not None and side <= options.tile + 2 * halo:
        options = options.replace(tile=side)  # as `modes.cut_out` does
    return estimate_need(
        tuple(shape),
        source.layout.axes,
        source.data.dtype,
        options,
        config,
        model.n_parameters,
    )


def _seen(source: LayerSource, region: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    (top, bottom), (left, right) = region[source.layout.y], region[source.layout.x]
    return bottom - top, right - left
