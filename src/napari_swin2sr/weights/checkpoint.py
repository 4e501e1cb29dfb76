"""Weights in and out of files: safely read, checked, and named as on the hub."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.replace import write_bytes
from napari_swin2sr.weights.config import ANOTHER_MODEL, METADATA_CONFIG, stated_config
from napari_swin2sr.weights.registry import CONFIG_NAME
from napari_swin2sr.weights.safety import (
    DOWNLOAD_AGAIN,
    WEIGHTS_NAMES,
    WeightsFile,
    find_weights,
    printable,
    read_weights_file,
)
from napari_swin2sr.weights.state_dict import (
    MASKED,
    check_config,
    hub_names,
    hub_shapes,
    infer_config,
    is_derived,
    offset_tables,
    recognize,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from napari_swin2sr.weights.config import Swin2SRConfig

_WRAPPERS = ("params_ema", "params", "state_dict")
"""Where training code puts the weights, the averaged ones first."""

_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_INTEGERS = {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}

_LARGEST = 1e4
"""Real weights stay far below; single-precision results overflow far above."""

SUSPICIOUS = "Do not use it; get the weights from who published them."


def read_weights(
    path: str | PathLike[str],
    config: Swin2SRConfig | None = None,
    *,
    sha256: str | None = None,
) -> tuple[dict[str, Tensor], Swin2SRConfig, dict[str, str]]:
    """Read the weights of a network, whoever wrote them, without running anything.

    Parameters
    ----------
    path : str or PathLike
        A hub folder, a `.safetensors` file, or a `.pth` or `.bin` file in the names
        of the authors or of the hub; the content decides, not the suffix.
    config : Swin2SRConfig, optional
        Hyper-parameters, if the file does not come with them.
    sha256 : str, optional
        Hash that the file must have, compared with the very bytes that are read.

    Returns
    -------
    state : dict of str to Tensor
        Float32 parameters under their hub names, complete, finite.
    config : Swin2SRConfig
        The one given, that of the folder or of the file, else inferred.
    metadata : dict of str to str
        Free texts of a safetensors file.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, no Swin2SR network, or cannot be trusted.

    Warns
    -----
    UserWarning
        If nothing tells the window size, and the usual one is assumed.
    """
    file = read_weights_file(find_weights(path), sha256=sha256)
    tensors = _load_tensors(file)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    recognize(shapes, file.path)
    metadata = dict(file.header.metadata) if file.header else {}
    config = config or stated_config(file, in_folder=file.path != Path(path))
    if config is None:
        inferred = infer_config(shapes, file.path)
        config = inferred.config
        if not inferred.window_known:
            warnings.warn(
                f"{file.path}: nothing tells the window size, {config.window_size} is "
                "assumed; a config.json beside it would tell",
                stacklevel=2,
            )
    check_config(config, shapes, file.path)
    _check_derived(tensors, config, file.path)
    state = _to_hub(tensors, config)
    _check_values(state, file.path)
    return state, config, metadata


def write_weights(
    state: Mapping[str, Tensor],
    config: Swin2SRConfig,
    folder: str | PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write `model.safetensors` and `config.json` into a folder; return it.

    The folder is made if needed. Each file is complete or not there; transformers
    loads them strictly. The configuration is also written into the weights file, so
    that this file alone is enough.
    """
    values = config.to_dict()
    own = {"format": "pt", METADATA_CONFIG: json.dumps(values)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        content = _in_order(
            safetensors.torch.save(tensors, {**(metadata or {}), **own})
        )
        write_bytes(target / WEIGHTS_NAMES[0], content)
        write_bytes(
            target / CONFIG_NAME, (json.dumps(values, indent=2) + "\n").encode()
        )
    except OSError as error:
        reason = f"the model cannot be written there ({error.strerror or error})"
        advice = "Check rights and free space, or choose another folder."
        raise WeightsError(target, reason, advice) from error
    return target


def _in_order(content: bytes) -> bytes:
    """Sort the texts of a safetensors file, so that equal models are equal files."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the numbers start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


# -- reading -------------------------------------------------------------------------


def _load_tensors(file: WeightsFile) -> dict[str, Tensor]:
    """Return the tensors of a checked file by name, without wrappers."""
    try:
        if file.kind == "safetensors":
            content: Any = safetensors.torch.load(file.checked)
        else:
            content = torch.load(
                io.BytesIO(file.checked), map_location="cpu", weights_only=True
            )
    except Exception as error:
        # The text of PyTorch's error would advise to switch its protection off.
        raise WeightsError(
            file.path,
            f"PyTorch cannot read it ({type(error).__name__}): it is truncated, "
            "damaged, or no state dict",
            DOWNLOAD_AGAIN,
        ) from None
    tensors = _unwrap(content, file.path)
    _check_tensors(tensors, file)
    return tensors


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Take the weights out of what training code put around them."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and key in content:
            content = content[key]
            break
    if not isinstance(content, dict):
        raise _no_state_dict(path, f"it holds a {type(content).__name__}")
    # a pickle may give an OrderedDict other attributes, a method's name among them
    found = list(dict.items(content))
    for name, value in found:
        if not isinstance(name, str):
            raise _no_state_dict(path, f"one key is a {type(name).__name__}")
        if not isinstance(value, Tensor):
            what = f"'{printable(name)}' is a {type(value).__name__}"
            raise _no_state_dict(path, what)
    parallel = all(name.startswith("module.") for name, _ in found)
    prefix = "module." if parallel else ""
    return {name.removeprefix(prefix): tensor.detach() for name, tensor in found}


def _no_state_dict(path: Path, why: str) -> WeightsError:
    return WeightsError(path, f"it is no dictionary of tensors: {why}", ANOTHER_MODEL)


def _check_tensors(tensors: Mapping[str, Tensor], file: WeightsFile) -> None:
    """Refuse tensors that are not plain numbers, each of them in the file."""
    total, seen = 0, set()
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.dtype not in _FLOATS | _INTEGERS:
            what = f"'{printable(name)}' is no ordinary tensor"
            raise _no_state_dict(file.path, what)
        n_bytes = tensor.numel() * tensor.element_size()
        view = _view(tensor)
        if not is_derived(name) or view not in seen:  # layers may share their tables
            total += n_bytes
        seen.add(view)
        if n_bytes > tensor.untyped_storage().nbytes() or total > len(file.data):
            raise WeightsError(
                file.path,
                f"'{printable(name)}' claims {n_bytes} bytes, more than the file holds",
                SUSPICIOUS,
            )


def _view(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two tensors have in common that are the same numbers in memory."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


# -- checking ------------------------------------------------------------------------


def _check_derived(
    tensors: Mapping[str, Tensor], config: Swin2SRConfig, path: Path
) -> None:
    """Compare stored tables with ours: other ones mean another network."""
    offsets, index = offset_tables(config.attention_window)
    checked = set()
    for name, tensor in tensors.items():
        kind = name.rpartition(".")[2]
        if not is_derived(name) or (kind, _view(tensor)) in checked:
            continue
        if kind.endswith("mask"):
            same = bool(((tensor == 0) | (tensor == MASKED)).all())
        else:
            wanted = index if kind.endswith("index") else offsets
            same = tensor.numel() == wanted.size and np.allclose(
                tensor.double().numpy().ravel(), wanted.ravel(), rtol=1e-5, atol=1e-5
            )
        if not same:
            reason = (
                f"{printable(name)} is not what Swin2SR uses: this is another network"
            )
            raise WeightsError(path, reason, ANOTHER_MODEL)
        checked.add((kind, _view(tensor)))


def _to_hub(tensors: Mapping[str, Tensor], config: Swin2SRConfig) -> dict[str, Tensor]:
    """Return the parameters under their hub names, in the network's order."""
    names = hub_names({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    found: dict[str, Tensor] = {}
    for name, hub in names.items():
        parts = tensors[name].chunk(len(hub)) if len(hub) > 1 else (tensors[name],)
        found |= dict(zip(hub, parts, strict=False))
    return {name: found[name] for name in hub_shapes(config)}


def _check_values(state: dict[str, Tensor], path: Path) -> None:
    """Refuse numbers that no training gives; turn the others into float32."""
    for name, tensor in state.items():
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            reason = f"{name} holds {kind}, not floating-point numbers"
            raise WeightsError(path, reason, ANOTHER_MODEL)
        state[name] = tensor.to(torch.float32, copy=True).contiguous()
        largest = float(state[name].abs().max())
        if not largest <= _LARGEST:  # nor NaN
            what = f"values up to {largest:g}" if largest > 0 else "NaN"
            reason = f"{name} holds {what}; weights are finite and below {_LARGEST:g}"
            raise WeightsError(path, reason, SUSPICIOUS)
    first = "swin2sr.first_convolution.weight"
    last = next(name for name in reversed(state) if name.endswith("weight"))
    for name in (first, last):
        if not state[name].any():
            reason = f"{name} is zero everywhere, so the image has no effect"
            raise WeightsError(path, reason, SUSPICIOUS)
