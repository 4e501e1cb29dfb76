"""A package of bioimage.io around an ONNX file: its description, tests and page.

Reference: the model description, format 0.5.12,
https://github.com/bioimage-io/spec-bioimage-io.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.export.onnx import (
    INPUT,
    OPSET,
    OUTPUT,
    TOLERANCE,
    ExportedModel,
    example_image,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_swin2sr.weights.config import Swin2SRConfig

FORMAT_VERSION = "0.5.12"

_DESCRIPTION, _PAGE, _WEIGHTS = "bioimageio.yaml", "README.md", "weights.onnx"
_TEST_INPUT, _TEST_OUTPUT = "test_input.npy", "test_output.npy"

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the package, so that equal models are equal files."""

_PAPER = {
    "text": "Conde et al., Swin2SR: SwinV2 Transformer for Compressed Image "
    "Super-Resolution and Restoration, ECCV workshops 2022",
    "doi": "10.48550/arXiv.2209.11345",
}


def bioimageio_package(model: ExportedModel, onnx: bytes) -> bytes:
    """Return the content of the zip file."""
    import yaml

    smallest = smallest_tile(model.net.config)
    window = model.net.config.window_size
    image = example_image(model, smallest, smallest + window)
    files = {
        _WEIGHTS: onnx,
        _TEST_INPUT: _npy(image),
        _TEST_OUTPUT: _npy(model.upscale(image)),
        _PAGE: _page(model).encode(),
    }
    description = _describe(model, files)
    files = {
        _DESCRIPTION: yaml.safe_dump(description, sort_keys=False).encode()
    } | files
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in files.items():
            package.writestr(
                zipfile.ZipInfo(name, _EPOCH), content, package.compression
            )
    return buffer.getvalue()


def smallest_tile(config: Swin2SRConfig) -> int:
    """Return the least side to state: the halo on both sides and four windows."""
    return 2 * config.halo() + 4 * config.window_size


def _describe(model: ExportedModel, files: dict[str, bytes]) -> dict[str, Any]:
    """Return the description as the specification wants it."""
    config = model.net.config
    # Tiles of these sizes, cut at multiples of tile - 2 * halo, start on the window
    # grid of the image: the result does not depend on how it was cut.
    size = {"min": smallest_tile(config), "step": config.window_size}
    optional = {
        "license": model.license,
        "authors": [{"name": name} for name in model.authors],
    }
    return {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": _name(model),
        "description": f"Swin2SR super-resolution x{config.upscale}, tiles cut as "
        "stated give the result of the whole image",
        **{key: value for key, value in optional.items() if value},
        "cite": [_PAPER],
        "tags": ["super-resolution", "swin2sr", "transformer", "2d", "onnx"],
        "documentation": {"source": _PAGE, "sha256": _sha256(files[_PAGE])},
        "inputs": [
            {
                "id": INPUT,
                "description": "values from 0 (black level) to 1 (white level)",
                "axes": [
                    {"type": "batch"},
                    _channel_axis(model.channels_in),
                    *(
                        {"type": "space", "id": axis, "size": size, "scale": 1.0}
                        | {"concatenable": True}
                        for axis in "yx"
                    ),
                ],
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": _file(_TEST_INPUT, files),
            }
        ],
        "outputs": [
            {
                "id": OUTPUT,
                "description": "about 0 to 1, not clipped",
                "axes": [
                    {"type": "batch"},
                    _channel_axis(model.channels_out),
                    *(
                        {
                            "type": "space",
                            "id": axis,
                            "size": {"tensor_id": INPUT, "axis_id": axis},
                            "scale": 1.0 / config.upscale,
                            "halo": config.halo() * config.upscale,
                        }
                        for axis in "yx"
                    ),
                ],
                "data": {"type": "float32"},
                "test_tensor": _file(_TEST_OUTPUT, files),
            }
        ],
        "weights": {"onnx": _file(_WEIGHTS, files) | {"opset_version": OPSET}},
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [
                    {"absolute_tolerance": TOLERANCE, "relative_tolerance": 0.0}
                ]
            },
            "napari_swin2sr": {
                "model": model.name,
                "weights_sha256": model.sha256,
                "swin2sr": config.to_dict(),
            },
        },
    }


def _name(model: ExportedModel) -> str:
    """Return a name of letters, digits and what else the specification allows."""
    kind = "gray " if model.gray else ""
    text = f"Swin2SR {kind}x{model.net.config.upscale} ({model.name})"
    return re.sub(r"[^A-Za-z0-9_+\- ()]", "_", text)[:128]


def _channel_axis(channels: int) -> dict[str, Any]:
    names = {1: ["gray"], 3: ["red", "green", "blue"]}
    plain = [f"channel{i}" for i in range(channels)]
    return {"type": "channel", "channel_names": names.get(channels, plain)}


def _file(name: str, files: dict[str, bytes]) -> dict[str, str]:
    return {"source": name, "sha256": _sha256(files[name])}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _npy(array: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _page(model: ExportedModel) -> str:
    config = model.net.config
    window, halo, upscale = config.window_size, config.halo(), config.upscale
    return f"""# {_name(model)}

Swin2SR enlarges an image by {upscale}. It makes up detail that is likely, not detail
that was seen: do not measure on invented pixels.

## Values

Subtract the black level and divide by the white level minus the black level, once for
the whole image and never per tile, so that values lie between 0 and 1. Undo both in the
result.

## Tiles

Sides are multiples of {window} px, at least {smallest_tile(config)} px. {halo} px of
every side of a tile are context (halo), thrown away in the result. Tiles must start at
multiples of {window} px of the image; then seams stay below 1/1000 of the value range.
With a halo of {config.exact_halo} px the result is that of the whole image.

## Validation

Enlarge an image that was reduced by {upscale} (mean of blocks, or bicubic), and compare
with the original: PSNR and structural similarity should exceed those of bicubic
interpolation. For images without an original, reduce the result again: it must agree
with the input within its noise.
"""
