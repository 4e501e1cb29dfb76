"""The files beside a model's weights that tell how far its results may be off.

`trust.safetensors` holds the error head, `trust.json` its calibration. Both name the
weights that they were made for by their hash.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.replace import write_bytes
from napari_swin2sr.weights.safety import load_json, printable, read_weights_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from torch import Tensor

    from napari_swin2sr.weights.catalog import ResolvedModel
    from napari_swin2sr.weights.config import Swin2SRConfig

ERROR_HEAD_NAME = "trust.safetensors"
CALIBRATION_NAME = "trust.json"

MODEL_HASH = "model_sha256"
"""Key, in both files, of the hash of the weights they were made for."""

MAKE_ANEW = "Make it anew: napari-swin2sr calibrate IMAGES --model MODEL -o FOLDER"

HIDDEN = 24
"""Width of an error head: a fortieth of the arithmetic of the smallest network."""

_MAX_JSON = 1 << 20


@dataclass(frozen=True, slots=True)
class ErrorHeadFile:
    """An error head that lies beside the weights it was made for.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str
        Hash of its content.
    """

    path: Path
    sha256: str


def find_error_head(weights: Path, sha256: str) -> ErrorHeadFile | None:
    """Return the error head beside a weights file of that hash, if there is one.

    One that was made for other weights is none.

    Raises
    ------
    WeightsError
        If there is a file of its name that cannot be read.
    """
    path = weights.with_name(ERROR_HEAD_NAME)
    if not path.exists():
        return None
    file = read_weights_file(path)
    made_for = file.header.metadata.get(MODEL_HASH) if file.header else None
    return ErrorHeadFile(path, file.sha256) if made_for == sha256 else None


def read_error_head(
    model: ResolvedModel, config: Swin2SRConfig
) -> dict[str, Tensor] | None:
    """Read the weights of a model's error head; None if it has none.

    Returns
    -------
    dict of str to Tensor or None
        Float32 and finite, of the shapes that `model.error_head.ErrorHead` has.

    Raises
    ------
    WeightsError
        If the file is damaged, was replaced, or is for another network.
    """
    import safetensors.torch
    import torch

    if model.error_head is None:
        return None
    path = model.error_head.path
    file = read_weights_file(path, sha256=model.error_head.sha256)
    outputs = config.num_channels_out * config.upscale**2
    wanted = {
        "gather.weight": (HIDDEN, config.embed_dim, 3, 3),
        "gather.bias": (HIDDEN,),
        "mix.weight": (outputs, HIDDEN, 1, 1),
        "mix.bias": (outputs,),
    }
    shapes = dict(file.header.shapes) if file.header else {}
    if shapes != wanted:
        found = ", ".join(f"{printable(n)} {s}" for n, s in list(shapes.items())[:4])
        reason = f"it is no error head for this network: it holds {found or 'nothing'}"
        raise WeightsError(path, reason, MAKE_ANEW)
    state: dict[str, Tensor] = {}
    for name, tensor in safetensors.torch.load(file.checked).items():
        if tensor.dtype != torch.float32 or not tensor.isfinite().all():
            reason = f"{name} holds other numbers than finite ones in float32"
            raise WeightsError(path, reason, MAKE_ANEW)
        state[name] = tensor
    return state


def write_error_head(
    state: Mapping[str, Tensor], folder: str | PathLike[str], model_sha256: str
) -> Path:
    """Write the weights of an error head into a model folder; return the file."""
    import safetensors.torch

    path = Path(folder) / ERROR_HEAD_NAME
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    content = safetensors.torch.save(tensors, {MODEL_HASH: model_sha256})
    write_bytes(path, content)
    return path


def read_calibration(weights: Path) -> Mapping[str, Any] | None:
    """Return what `trust.json` beside a weights file holds; None if there is none.

    Raises
    ------
    WeightsError
        If it cannot be read.
    """
    path = weights.with_name(CALIBRATION_NAME)
    if not path.exists():
        return None
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError(f"more than {_MAX_JSON} bytes")
        record = load_json(path.read_bytes())
        if not isinstance(record, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError) as error:
        raise WeightsError(path, f"cannot be read ({error})", MAKE_ANEW) from error
    return record


def write_calibration(record: Mapping[str, Any], folder: str | PathLike[str]) -> Path:
    """Write `trust.json` into a model folder; return the file."""
    path = Path(folder) / CALIBRATION_NAME
    write_bytes(path, (json.dumps(record) + "\n").encode())
    return path
