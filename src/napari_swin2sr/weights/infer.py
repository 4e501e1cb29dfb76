"""The configuration of a network: stated with its weights, or read off their shapes.

No torch here: shapes may come from a safetensors header.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.weights.config import Swin2SRConfig
from napari_swin2sr.weights.registry import CONFIG_NAME
from napari_swin2sr.weights.safety import WEIGHTS_NAMES
from napari_swin2sr.weights.state_dict import (
    differences,
    hub_shapes,
    is_original,
    original_shapes,
    without_derived,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from os import PathLike

    from napari_swin2sr.weights.safety import WeightsFile
    from napari_swin2sr.weights.state_dict import Shape

ANOTHER_MODEL = "Give the weights of a Swin2SR network: see `napari-swin2sr models`."
"""Advice for files that hold something else."""

METADATA_CONFIG = "config"
"""Metadata entry of a safetensors file with its configuration, as JSON."""

_MAX_WINDOW = 32
_MAX_LAYERS = 1000
_MAX_CONFIG_BYTES = 1 << 20

_FIRST_NAMES = 5
"""How many names a message lists."""

_TOLD = (
    "embed_dim",
    "num_channels",
    "num_channels_out",
    "depths",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "resi_connection",
    "upsampler",
    "upscale",
)
"""Fields of a configuration that the shapes of the parameters tell."""


@dataclass(frozen=True, slots=True)
class _Names:
    """What one family of checkpoints calls the parameters that tell something."""

    first: str
    layer: str  # of stage {} and layer {}, in front of the next five
    heads: str
    hidden: str
    query_bias: str
    offsets: str
    mask: str
    three: str
    bicubic: str
    nearest: str
    before: str
    direct: str
    steps: str  # regular expression
    last: tuple[str, ...]


_ORIGINAL = _Names(
    first="conv_first.weight",
    layer="layers.{}.residual_group.blocks.{}.",
    heads="attn.logit_scale",
    hidden="mlp.fc1.weight",
    query_bias="attn.q_bias",
    offsets="attn.relative_coords_table",
    mask="attn_mask",
    three="conv_after_body.0.weight",
    bicubic="conv_bicubic.weight",
    nearest="conv_up1.weight",
    before="conv_before_upsample.0.weight",
    direct="upsample.0.weight",
    steps=r"upsample\.\d+\.weight",
    last=("conv_last.weight",),
)

_HUB = _Names(
    first="swin2sr.first_convolution.weight",
    layer="swin2sr.encoder.stages.{}.layers.{}.",
    heads="attention.self.logit_scale",
    hidden="intermediate.dense.weight",
    query_bias="attention.self.query.bias",
    offsets="attention.self.relative_coords_table",
    mask="attention.self_mask",
    three="swin2sr.conv_after_body.0.weight",
    bicubic="upsample.conv_bicubic.weight",
    nearest="upsample.conv_up1.weight",
    before="upsample.conv_before_upsample.weight",
    direct="upsample.conv.weight",
    steps=r"upsample\.upsample\.convolution(_\d+)?\.weight",
    last=("upsample.final_convolution.weight", "final_convolution.weight"),
)


@dataclass(frozen=True, slots=True)
class Inferred:
    """A configuration read off shapes.

    Attributes
    ----------
    config : `img_range` is a convention, not a finding: 255 for restoration, else 1
    window_known : False if nothing in the file tells the window, and the usual one
        is assumed: 7 for restoration, else 8
    """

    config: Swin2SRConfig
    window_known: bool


def stated_config(file: WeightsFile, *, in_folder: bool) -> Swin2SRConfig | None:
    """Return the configuration that comes with a weights file, if any does.

    Parameters
    ----------
    in_folder : the folder was given, not the file, so that its `config.json` counts
        whatever the file is called; else only beside a file with a hub name

    Raises
    ------
    WeightsError
        If there is one that does not describe a Swin2SR network.
    """
    beside = file.path.parent / CONFIG_NAME
    if (in_folder or file.path.name in WEIGHTS_NAMES) and beside.exists():
        if not beside.is_file() or beside.stat().st_size > _MAX_CONFIG_BYTES:
            reason = f"it is no regular file of at most {_MAX_CONFIG_BYTES} bytes"
            raise WeightsError(beside, reason, ANOTHER_MODEL)
        return _plausible(Swin2SRConfig.from_pretrained(beside), beside)
    text = file.header.metadata.get(METADATA_CONFIG) if file.header else None
    if text is None:
        return None
    try:
        config = Swin2SRConfig.from_dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        reason = f"its metadata holds no valid configuration ({error})"
        raise WeightsError(file.path, reason, ANOTHER_MODEL) from None
    return _plausible(config, file.path)


def _plausible(config: Swin2SRConfig, source: str | PathLike[str]) -> Swin2SRConfig:
    """Refuse networks whose tables alone would fill the memory."""
    layers, window = sum(config.depths), config.window_size
    if layers > _MAX_LAYERS or window > _MAX_WINDOW:
        reason = (
            f"it claims {layers} layers and a window of {window}; no Swin2SR network "
            f"has more than {_MAX_LAYERS} and {_MAX_WINDOW}"
        )
        raise WeightsError(source, reason, ANOTHER_MODEL)
    return config


def recognise(names: Collection[str], source: str | PathLike[str]) -> None:
    """Refuse the weights of other networks, by name where possible.

    Raises
    ------
    WeightsError
        If these are not the parameter names of a Swin2SR network.
    """
    if any(name.startswith(("layers_hf.", "conv_first_hf.")) for name in names):
        reason = "the head pixelshuffle_hf of this Swin2SR is not supported"
        raise WeightsError(source, reason, ANOTHER_MODEL)
    kind = _other_kind(names)
    if kind is not None:
        raise WeightsError(source, f"this is {kind}, not Swin2SR", ANOTHER_MODEL)


def _other_kind(names: Collection[str]) -> str | None:
    def some(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    if not names:
        return "an empty collection"
    if some(r"\.experts\.|\.w_gate$"):
        return "Swin2-MoSE"
    if some("relative_position_bias_table"):
        is_hat = some(r"overlap_attn|\.conv_block\.")
        return "HAT" if is_hat else "SwinIR" if some("^conv_first") else "a Swin model"
    is_attention = some(r"logit_scale$") and some(
        r"cpb_mlp|continuous_position_bias_mlp"
    )
    if is_attention and some(r"^encoder\.stages\."):
        return "the body of a Swin2SR network without its head"
    if is_attention and some(r"^(conv_first|swin2sr\.first_convolution)\.weight$"):
        return None
    if some(r"rdb1|RRDB"):
        return "ESRGAN"
    listed = ", ".join(sorted(names)[:_FIRST_NAMES])
    return f"another kind of network ({len(names)} tensors: {listed[:200]}, ...)"


def infer_config(shapes: Mapping[str, Shape], source: str | PathLike[str]) -> Inferred:
    """Read the configuration off the shapes of a Swin2SR network's tensors.

    Parameters
    ----------
    shapes : all tensors of a file, in either family of names, derived ones too
    source : the file, for messages

    Raises
    ------
    WeightsError
        If it is no Swin2SR network, or one that does not fit together.
    """
    recognise(shapes, source)
    names = _ORIGINAL if is_original(shapes) else _HUB
    try:
        fields = _body(shapes, names) | _head(shapes, names)
        window = _window(shapes, names)
        restores = fields["upsampler"] == ""
        fields["img_range"] = 255.0 if restores else 1.0
        fields |= window or {"window_size": 7 if restores else 8}
        config = _plausible(Swin2SRConfig(**fields), source)
        return Inferred(config, window_known=bool(window))
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        reason = f"the tensors do not fit together: {what}"
        advice = (
            "Give the complete file, or the configuration (config.json) that "
            "belongs to it."
        )
        raise WeightsError(source, reason, advice) from None


def _body(shapes: Mapping[str, Shape], names: _Names) -> dict[str, Any]:
    embed_dim, channels, _, _ = shapes[names.first]
    depths = _depths(shapes, names)
    first = names.layer.format(0, 0)
    rows = shapes[first + names.hidden][0]
    ratio = rows / embed_dim
    return {
        "embed_dim": embed_dim,
        "num_channels": channels,
        "depths": depths,
        "num_heads": tuple(
            shapes[names.layer.format(i, 0) + names.heads][0]
            for i in range(len(depths))
        ),
        "mlp_ratio": ratio if int(ratio * embed_dim) == rows else ratio + 0.5 / rows,
        "qkv_bias": first + names.query_bias in shapes,
        "resi_connection": "3conv" if names.three in shapes else "1conv",
    }


def _depths(shapes: Mapping[str, Shape], names: _Names) -> tuple[int, ...]:
    pattern = re.compile(re.escape(names.layer).replace(r"\{\}", r"(\d+)"))
    found = {
        (int(match[1]), int(match[2])) for match in map(pattern.match, shapes) if match
    }
    stages = sorted({i for i, _ in found})
    depths = tuple(sum(1 for i, _ in found if i == stage) for stage in stages)
    if stages != list(range(len(stages))) or not all(
        (i, j) in found for i, depth in enumerate(depths) for j in range(depth)
    ):
        raise ValueError("layers are missing in between")
    return depths


def _head(shapes: Mapping[str, Shape], names: _Names) -> dict[str, Any]:
    """Tell the head; the order matters, for some have all tensors of another."""
    channels = shapes[names.first][1]
    steps = [name for name in shapes if re.fullmatch(names.steps, name)]
    last = next((shapes[name][0] for name in names.last if name in shapes), channels)
    if names.nearest in shapes:
        upsampler, upscale = "nearest+conv", 4
    elif names.before in shapes:
        aux = names.bicubic in shapes
        upsampler = "pixelshuffle_aux" if aux else "pixelshuffle"
        rows, width, _, _ = shapes[steps[0]]
        upscale = 3 if rows == 9 * width else 2 ** len(steps)
    elif names.direct in shapes:
        upsampler, rows = "pixelshuffledirect", shapes[names.direct][0]
        upscale = math.isqrt(rows // channels)
        if upscale**2 * channels != rows:
            raise ValueError(
                f"the last convolution has {rows} rows for {channels} channels, so "
                "the upscale factor is unknown"
            )
    else:
        upsampler, upscale = "", 1
        if not any(name in shapes for name in names.last):
            raise KeyError(names.last[-1])
    return {"upsampler": upsampler, "upscale": upscale, "num_channels_out": last}


def _window(shapes: Mapping[str, Shape], names: _Names) -> dict[str, int]:
    """Read the window off tables that most files leave out; empty if they do."""
    table = shapes.get(names.layer.format(0, 0) + names.offsets)
    if table is None or len(table) != 4:
        return {}
    window = (table[1] + 1) // 2
    second = names.layer.format(0, 1)
    mask = shapes.get(second + names.mask)
    if mask:
        return {"window_size": window, "image_size": math.isqrt(mask[0]) * window}
    if second + names.heads in shapes and names is _ORIGINAL:
        return {"window_size": window, "image_size": window}  # never shifted
    return {"window_size": window}


def check_config(
    config: Swin2SRConfig,
    shapes: Mapping[str, Shape],
    source: str | PathLike[str],
) -> None:
    """Check that the tensors of a file are those of a configuration, one by one.

    Raises
    ------
    WeightsError
        If not: lists the fields of the configuration that the tensors contradict,
        or else the first tensors that are missing, unexpected or of another shape.
    """
    recognise(shapes, source)
    _plausible(config, source)
    original = is_original(shapes)
    names = _ORIGINAL if original else _HUB
    window = _window(shapes, names)
    if window and min(window.values()) != config.attention_window:
        raise _not_its_config(source, config, window, ["window_size"])
    expected = original_shapes(config) if original else hub_shapes(config)
    wrong = differences(without_derived(shapes), expected)
    if not wrong:
        return
    try:
        found = vars(infer_config(shapes, source).config)
    except WeightsError:
        found = vars(config)
    fields = [name for name in _TOLD if getattr(config, name) != found[name]]
    if fields:
        raise _not_its_config(source, config, found, fields)
    listed = "; ".join(wrong[:_FIRST_NAMES])
    raise WeightsError(
        source,
        f"{len(wrong)} tensors are not those of a {_title(config)} network: {listed}",
        "Give the complete file, or the config.json that belongs to it.",
    )


def _not_its_config(
    source: str | PathLike[str],
    config: Swin2SRConfig,
    found: Mapping[str, Any],
    fields: list[str],
) -> WeightsError:
    said = "; ".join(
        f"{name}={getattr(config, name)!r}, but the weights have {found[name]!r}"
        for name in fields
    )
    return WeightsError(
        source,
        f"the configuration is that of another network: {said}",
        "Use the config.json that belongs to the weights.",
    )


def _title(config: Swin2SRConfig) -> str:
    head = config.upsampler or "restoration"
    return f"{head} x{config.upscale}, {config.embed_dim} wide"
