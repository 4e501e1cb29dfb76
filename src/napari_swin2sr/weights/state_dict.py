"""Names and shapes of a network's parameters, and what they tell of it.

*Original* names are those of the authors' code, *hub* names those of transformers,
which this package uses. Files in original names are translated first; all that
follows knows hub names only. No torch here: a safetensors header is enough.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.weights.config import ANOTHER_MODEL, Swin2SRConfig, check_plausible
from napari_swin2sr.weights.safety import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from os import PathLike

    from numpy.typing import NDArray

    from napari_swin2sr.weights.safety import Shape

    Value = TypeVar("Value")

HEAD_WIDTH = 64
"""Channels inside every head but `pixelshuffledirect` (`num_feat` of the authors)."""

BIAS_WIDTH = 512
"""Hidden units of the MLP that makes the position bias."""

MASKED = -100.0
"""Added to the logit of two pixels that only the cyclic shift made neighbors."""

_FIRST_NAMES = 5
"""How many names a message lists."""

_TOLD = (
    *("embed_dim", "num_channels", "num_channels_out", "depths", "num_heads"),
    *("mlp_ratio", "qkv_bias", "resi_connection", "upsampler", "upscale"),
)
"""Fields of a configuration that the shapes of the parameters tell."""


# -- names ---------------------------------------------------------------------------

_RENAMES = (
    (
        r"^layers\.(\d+)\.residual_group\.blocks\.(\d+)\.",
        r"swin2sr.encoder.stages.\1.layers.\2.",
    ),
    (r"^layers\.(\d+)\.", r"swin2sr.encoder.stages.\1."),
    (r"^patch_embed\.norm\.", "swin2sr.embeddings.patch_embeddings.layernorm."),
    (r"^patch_embed\.", "swin2sr.embeddings.patch_embeddings."),
    (r"\.(patch_embed|patch_embeddings)\.proj\.", r".\1.projection."),
    (r"^conv_first\.", "swin2sr.first_convolution."),
    (r"^conv_after_body\.", "swin2sr.conv_after_body."),
    (r"^norm\.", "swin2sr.layernorm."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.q_bias$", ".attention.self.query.bias"),
    (r"\.attn\.v_bias$", ".attention.self.value.bias"),
    (r"\.attn\.cpb_mlp\.", ".attention.self.continuous_position_bias_mlp."),
    (r"\.attn\.", ".attention.self."),
    (r"\.attn_mask$", ".attention.self_mask"),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^conv_before_upsample\.0\.", "upsample.conv_before_upsample."),
    (r"^(conv_(bicubic|aux|after_aux|up1|up2|hr))\.", r"upsample.\1."),
)
"""Original to hub names; all that match are applied, in this order."""

_LAYER = r"swin2sr\.encoder\.stages\.(\d+)\.layers\.(\d+)\."
_STEP = r"upsample\.upsample\.convolution(_\d+)?\.weight"
_DERIVED = r"(attn_mask|self_mask|relative_coords_table|relative_position_index)$"


def is_original(names: Iterable[str]) -> bool:
    """Tell the authors' names from those of the hub."""
    return not any(name.startswith("swin2sr.") for name in names)


def is_derived(name: str) -> bool:
    """Tell whether a tensor follows from the configuration, in either family."""
    return re.search(_DERIVED, name) is not None


def hub_names(shapes: Mapping[str, Shape]) -> dict[str, tuple[str, ...]]:
    """Return the hub name of each tensor; three for a fused matrix, in order of rows.

    Unknown names, and those of a file that has hub names already, stay as they are.
    """
    if not is_original(shapes):
        return {name: (name,) for name in shapes}
    renames = list(_RENAMES)
    if "conv_before_upsample.0.weight" in shapes:
        renames.append((r"^conv_last\.", "upsample.final_convolution."))
        rows, width, *_ = (*shapes.get("upsample.0.weight", ()), 0, 0)
        for i in range(8):
            step = "" if rows == 9 * width else f"_{i}"
            hub = rf"upsample.upsample.convolution{step}."
            renames.append((rf"^upsample\.{2 * i}\.", hub))
    else:
        renames.append((r"^conv_last\.", "final_convolution."))
        renames.append((r"^upsample\.0\.", "upsample.conv."))
    found = {}
    for name in shapes:
        hub = name
        for pattern, replacement in renames:
            hub = re.sub(pattern, replacement, hub)
        before, fused, after = hub.partition(".qkv.")
        parts = ("query", "key", "value") if fused else ("",)
        found[name] = tuple(
            f"{before}.{part}.{after}" if fused else hub for part in parts
        )
    return found


def _to_hub(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Translate named shapes; ValueError if two tensors would have one name."""
    found: dict[str, Shape] = {}
    for name, hub in hub_names(shapes).items():
        shape = shapes[name]
        if len(hub) > 1 and shape and shape[0] % len(hub) == 0:
            shape = (shape[0] // len(hub), *shape[1:])
        for new in hub:
            if new in found:
                raise ValueError(f"{printable(name)} occurs under two names")
            found[new] = shape
    return found


# -- shapes --------------------------------------------------------------------------


def hub_shapes(config: Swin2SRConfig) -> dict[str, Shape]:
    """Return the shape of every parameter, by hub name, in the network's order."""
    shapes: dict[str, Shape] = {}

    def add(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def add_residual(name: str) -> None:
        if config.resi_connection == "1conv":
            add(name, c, c, 3, 3)
        else:
            add(f"{name}.0", c // 4, c, 3, 3)
            add(f"{name}.2", c // 4, c // 4, 1, 1)
            add(f"{name}.4", c, c // 4, 3, 3)

    c = config.embed_dim
    add("swin2sr.first_convolution", c, config.num_channels, 3, 3)
    add("swin2sr.embeddings.patch_embeddings.projection", c, c, 1, 1)
    add("swin2sr.embeddings.patch_embeddings.layernorm", c)
    for i, (depth, heads) in enumerate(
        zip(config.depths, config.num_heads, strict=True)
    ):
        stage = f"swin2sr.encoder.stages.{i}."
        for layer in (f"{stage}layers.{j}." for j in range(depth)):
            attention = f"{layer}attention.self."
            mlp = f"{attention}continuous_position_bias_mlp."
            shapes[f"{attention}logit_scale"] = (heads, 1, 1)
            for part in ("query", "key", "value"):
                shapes[f"{attention}{part}.weight"] = (c, c)
                if config.qkv_bias and part != "key":  # keys have none
                    shapes[f"{attention}{part}.bias"] = (c,)
            add(f"{mlp}0", BIAS_WIDTH, 2)
            shapes[f"{mlp}2.weight"] = (heads, BIAS_WIDTH)
            add(f"{layer}attention.output.dense", c, c)
            add(f"{layer}layernorm_before", c)
            add(f"{layer}intermediate.dense", config.mlp_dim, c)
            add(f"{layer}output.dense", c, config.mlp_dim)
            add(f"{layer}layernorm_after", c)
        add_residual(f"{stage}conv")
        add(f"{stage}patch_embed.projection", c, c, 1, 1)
    add("swin2sr.layernorm", c)
    add_residual("swin2sr.conv_after_body")
    for name, *shape in _head_shapes(config):
        add(name, *shape)
    return shapes


def _head_shapes(config: Swin2SRConfig) -> list[tuple[Any, ...]]:
    """Return name and weight's shape of each convolution of the head."""
    c, f, u = config.embed_dim, HEAD_WIDTH, config.upscale
    inputs, outputs = config.num_channels, config.num_channels_out
    if config.upsampler == "":
        return [("final_convolution", outputs, c, 3, 3)]
    if config.upsampler == "pixelshuffledirect":
        return [("upsample.conv", u**2 * outputs, c, 3, 3)]
    convolutions: list[tuple[Any, ...]] = [
        ("upsample.conv_before_upsample", f, c, 3, 3)
    ]
    if config.upsampler == "nearest+conv":
        names = ("conv_up1", "conv_up2", "conv_hr")
        convolutions += [(f"upsample.{name}", f, f, 3, 3) for name in names]
    elif u == 3:
        convolutions.append(("upsample.upsample.convolution", 9 * f, f, 3, 3))
    else:
        steps = [f"upsample.upsample.convolution_{i}" for i in range(int(math.log2(u)))]
        convolutions += [(name, 4 * f, f, 3, 3) for name in steps]
    if config.upsampler == "pixelshuffle_aux":
        convolutions += [
            ("upsample.conv_bicubic", f, inputs, 3, 3),
            ("upsample.conv_aux", inputs, f, 3, 3),
            ("upsample.conv_after_aux.0", f, inputs, 3, 3),
        ]
    return [*convolutions, ("upsample.final_convolution", outputs, f, 3, 3)]


def count_parameters(config: Swin2SRConfig) -> int:
    """Return the number of parameters of a network with this configuration."""
    return sum(math.prod(shape) for shape in hub_shapes(config).values())


def offset_tables(window: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return every offset between two pixels of a window, and which pair has which.

    Returns
    -------
    offsets : ndarray of float32
        ((2 * window - 1) ** 2, 2) signed logarithmic (dy, dx).
    index : ndarray of int64
        (L, L), the row of `offsets` for each query and key.
    """
    steps = np.arange(1 - window, window, dtype=np.float32) * 8 / max(window - 1, 1)
    steps = np.sign(steps) * np.log2(np.abs(steps) + 1) / 3
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    y, x = np.divmod(np.arange(window**2), window)
    dy, dx = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    return offsets, dy * (2 * window - 1) + dx


# -- the configuration that shapes tell ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Inferred:
    """A configuration read off shapes.

    Attributes
    ----------
    config : Swin2SRConfig
        `img_range` is a convention, not a finding: 255 for restoration, else 1.
    window_known : bool
        False if nothing in the file tells the window, and the usual one is assumed:
        7 for restoration, else 8.
    """

    config: Swin2SRConfig
    window_known: bool


def recognize(names: Collection[str], source: str | PathLike[str]) -> None:
    """Refuse the weights of other networks, by name where possible."""
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
    if some(r"logit_scale$") and some(r"cpb_mlp|continuous_position_bias_mlp"):
        if some(r"^encoder\.stages\."):
            return "the body of a Swin2SR network without its head"
        if some(r"^(conv_first|swin2sr\.first_convolution)\.weight$"):
            return None
    if some(r"rdb1|RRDB"):
        return "ESRGAN"
    listed = printable(", ".join(name[:80] for name in sorted(names)[:_FIRST_NAMES]))
    return f"another kind of network ({len(names)} tensors: {listed}, ...)"


def infer_config(shapes: Mapping[str, Shape], source: str | PathLike[str]) -> Inferred:
    """Read the configuration off the shapes of a Swin2SR network's tensors.

    Parameters
    ----------
    shapes : Mapping[str, Shape]
        All tensors of a file, in either family of names, derived ones too.
    source : str or PathLike
        The file, for messages.
    """
    recognize(shapes, source)
    try:
        hub = _to_hub(shapes)
        fields = _body(hub) | _head(hub)
        window = _window(hub, masks_saved=is_original(shapes))
        restores = fields["upsampler"] == ""
        fields["img_range"] = 255.0 if restores else 1.0
        fields |= window or {"window_size": 7 if restores else 8}
        config = check_plausible(Swin2SRConfig(**fields), source)
        return Inferred(config, window_known=bool(window))
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        reason = f"the tensors do not fit together: {what}"
        advice = (
            "Give the complete file, or the configuration (config.json) that "
            "belongs to it."
        )
        raise WeightsError(source, reason, advice) from None


def _layer(stage: int, layer: int) -> str:
    return f"swin2sr.encoder.stages.{stage}.layers.{layer}."


def _body(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    embed_dim, channels, _, _ = shapes["swin2sr.first_convolution.weight"]
    found = {
        (int(match[1]), int(match[2]))
        for match in (re.match(_LAYER, name) for name in shapes)
        if match
    }
    depths = tuple(
        sum(1 for i, _ in found if i == stage)
        for stage in sorted({i for i, _ in found})
    )
    if found != {(i, j) for i, depth in enumerate(depths) for j in range(depth)}:
        raise ValueError("layers are missing in between")
    rows = shapes[_layer(0, 0) + "intermediate.dense.weight"][0]
    ratio = rows / embed_dim
    scales = (_layer(i, 0) + "attention.self.logit_scale" for i in range(len(depths)))
    return {
        "embed_dim": embed_dim,
        "num_channels": channels,
        "depths": depths,
        "num_heads": tuple(shapes[name][0] for name in scales),
        "mlp_ratio": ratio if int(ratio * embed_dim) == rows else ratio + 0.5 / rows,
        "qkv_bias": _layer(0, 0) + "attention.self.query.bias" in shapes,
        "resi_connection": "3conv"
        if "swin2sr.conv_after_body.0.weight" in shapes
        else "1conv",
    }


def _head(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Tell the head; the order matters, for some have all tensors of another."""
    channels = shapes["swin2sr.first_convolution.weight"][1]
    last = shapes.get("upsample.final_convolution.weight") or shapes.get(
        "final_convolution.weight", (channels,)
    )
    upsampler, upscale = "", 1
    if "upsample.conv_up1.weight" in shapes:
        upsampler, upscale = "nearest+conv", 4
    elif "upsample.conv_before_upsample.weight" in shapes:
        aux = "upsample.conv_bicubic.weight" in shapes
        upsampler = "pixelshuffle_aux" if aux else "pixelshuffle"
        steps = [name for name in shapes if re.fullmatch(_STEP, name)]
        rows, width, _, _ = shapes[steps[0]]
        upscale = 3 if rows == 9 * width else 2 ** len(steps)
    elif "upsample.conv.weight" in shapes:
        upsampler, rows = "pixelshuffledirect", shapes["upsample.conv.weight"][0]
        upscale = math.isqrt(rows // channels)
        if upscale**2 * channels != rows:
            raise ValueError(
                f"the last convolution has {rows} rows for {channels} channels, so "
                "the upscale factor is unknown"
            )
    elif "final_convolution.weight" not in shapes:
        raise KeyError("final_convolution.weight")
    return {"upsampler": upsampler, "upscale": upscale, "num_channels_out": last[0]}


def _window(shapes: Mapping[str, Shape], *, masks_saved: bool) -> dict[str, int]:
    """Read the window off tables that most files leave out; empty if they do."""
    table = shapes.get(_layer(0, 0) + "attention.self.relative_coords_table")
    if table is None or len(table) != 4:
        return {}
    window = (table[1] + 1) // 2
    mask = shapes.get(_layer(0, 1) + "attention.self_mask")
    if mask:
        return {"window_size": window, "image_size": math.isqrt(mask[0]) * window}
    if masks_saved and _layer(0, 1) + "attention.self.logit_scale" in shapes:
        return {"window_size": window, "image_size": window}  # never shifted
    return {"window_size": window}


def check_config(
    config: Swin2SRConfig,
    shapes: Mapping[str, Shape],
    source: str | PathLike[str],
) -> None:
    """Check that the tensors of a file are those of a configuration, one by one.

    The error lists the fields of the configuration that the tensors contradict, or
    else the first tensors that are missing, unexpected or of another shape.
    """
    recognize(shapes, source)
    check_plausible(config, source)
    advice = "Give the complete file, or the config.json that belongs to it."
    try:
        hub = _to_hub(shapes)
    except ValueError as error:
        raise WeightsError(source, str(error), advice) from None
    window = _window(hub, masks_saved=is_original(shapes))
    if window and min(window.values()) != config.attention_window:
        raise _contradiction(source, config, window, ["window_size"])
    wrong = _differences(hub, hub_shapes(config))
    if not wrong:
        return
    try:
        found = vars(infer_config(shapes, source).config)
    except WeightsError:
        found = vars(config)
    fields = [name for name in _TOLD if getattr(config, name) != found[name]]
    if fields:
        raise _contradiction(source, config, found, fields)
    listed = "; ".join(wrong[:_FIRST_NAMES])
    head = f"{config.upsampler or 'restoration'} x{config.upscale}"
    reason = (
        f"{len(wrong)} tensors are not those of a {head}, {config.embed_dim} wide "
        f"network: {listed}"
    )
    raise WeightsError(source, reason, advice)


def _differences(
    found: Mapping[str, Shape], expected: Mapping[str, Shape]
) -> list[str]:
    """Say how two sets of named shapes differ, one phrase per parameter."""
    unknown = [n for n in found if n not in expected and not is_derived(n)]
    return (
        [f"{name} is missing" for name in expected if name not in found]
        + [f"{printable(name)} is unexpected" for name in unknown]
        + [
            f"{name} is {_times(found[name])}, not {_times(shape)}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ]
    )


def _times(shape: Shape) -> str:
    return " x ".join(map(str, shape[:8])) if shape else "a single number"


def _contradiction(
    source: str | PathLike[str],
    config: Swin2SRConfig,
    found: Mapping[str, Any],
    fields: list[str],
) -> WeightsError:
    said = "; ".join(
        f"{name}={getattr(config, name)!r}, but the weights have {found[name]!r}"
        for name in fields
    )
    reason = f"the configuration is that of another network: {said}"
    advice = "Use the config.json that belongs to the weights."
    return WeightsError(source, reason, advice)
