"""How a layer was made: its record, and the calls that make it again."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.layer_source import LayerSource

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_swin2sr.engine.reference import ModelHandle

_DEFAULTS = UpscaleOptions()


def provenance(
    layer: Image, source: LayerSource, options: UpscaleOptions, handle: ModelHandle
) -> dict[str, Any]:
    """Return what must be known to make a result again, as JSON can hold it."""
    from napari_swin2sr import __version__

    return {
        "software": f"napari-swin2sr {__version__}",
        "model": handle.name,
        "sha256": handle.sha256,
        "upscale": handle.upscale,
        "source": str(layer.source.path or layer.name),
        "axes": source.layout.axes,
        "shape": list(source.layout.shape),
        "options": {
            key: value
            for key, value in chosen(options).items()
            if key not in ("model", "axes", "rgb", "device")
        },
    }


def chosen(options: UpscaleOptions) -> dict[str, Any]:
    """Return the options that differ from their defaults, in their order."""
    return {
        field.name: value
        for field in dataclasses.fields(options)
        if (value := getattr(options, field.name)) != getattr(_DEFAULTS, field.name)
    }


def as_python(layer: Image, options: UpscaleOptions, target: str | None = None) -> str:
    """Return Python that does what the widget does.

    Parameters
    ----------
    target : file to write; None for a lazy array from the layer's own pixels
    """
    arguments = {key: repr(value) for key, value in chosen(options).items()}
    if target is None:
        data = ".data[0]" if layer.multiscale else ".data"
        first = [f"viewer.layers[{layer.name!r}]{data}"]
        function = "result = napari_swin2sr.apply"
    else:
        first = [repr(str(layer.source.path or "INPUT")), repr(target)]
        function = "napari_swin2sr.upscale_file"
    lines = first + [f"{key}={value}" for key, value in arguments.items()]
    body = "".join(f"    {line},\n" for line in lines)
    return f"import napari_swin2sr\n\n{function}(\n{body})\n"


def as_command_line(
    layer: Image, options: UpscaleOptions, target: str | None = None
) -> str:
    """Return the command that does what the widget does, for files."""
    source = str(layer.source.path or f"{layer.name}.tif")
    words = [
        "napari-swin2sr",
        "upscale",
        source,
        target or f"{layer.name}-upscaled.ome.zarr",
    ]
    for key, value in chosen(options).items():
        if key == "rgb":
            words.append("--rgb" if value else "--no-rgb")
        else:
            words.append(f"--{key.replace('_', '-')}={_word(value)}")
    return shlex.join(words)


def _word(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(f"{float(n):.17g}" for n in np.ravel(value))
    return str(value)
