"""The reference outputs of the authors' network, and its weights in our names."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution

FOLDER = Path(__file__).parents[1] / "golden"
"""The numbers; its README says how they were made."""

VARIANTS = (
    *(f"classical_x{u}" for u in (2, 3, 4, 8)),
    *(f"light_x{u}" for u in (2, 3, 4)),
    "real_x4",
    "real_x4_large",
    "compressed_x4",
    "jpeg_gray",
    "jpeg_color",
    "light_3conv",
)

TOLERANCE = 2e-6  # of the largest magnitude of an output


class Case(NamedTuple):
    """One image of the reference, (C, H, W) float32, 0 to 1."""

    size: str
    x: np.ndarray
    y: np.ndarray
    aux: np.ndarray | None


def read_config(variant: str) -> dict[str, Any]:
    """Return the authors' hyper-parameters of a variant and its parameter shapes."""
    return json.loads((FOLDER / "configs.json").read_text("utf-8"))[variant]


def make_config(variant: str) -> Swin2SRConfig:
    """Return our configuration of a variant."""
    values = read_config(variant)
    del values["parameters"]
    return Swin2SRConfig.from_dict(values | {"num_channels": values.pop("in_chans")})


def read_cases(variant: str) -> list[Case]:
    """Return inputs and outputs of the reference."""
    with np.load(FOLDER / "reference_outputs.npz") as data:
        sizes = sorted({k.split("|")[1] for k in data if k.startswith(variant + "|")})
        return [
            Case(
                size,
                data[f"{variant}|{size}|x"],
                data[f"{variant}|{size}|y"],
                data.get(f"{variant}|{size}|aux"),
            )
            for size in sizes
        ]


def seeded_weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the reference's weights for one parameter, by its original name."""
    rs = np.random.RandomState(zlib.crc32(key.encode()))
    normal = rs.standard_normal(shape)
    if key.endswith("logit_scale"):
        normal = 0.5 + 3.5 * rs.uniform(size=shape)
    elif "norm" in key and key.endswith("weight"):
        post = key.endswith(("norm1.weight", "norm2.weight"))
        normal = (1 + 0.1 * normal) * (0.3 if post else 1)
    elif len(shape) == 1:
        normal = 0.05 * normal
    else:
        normal = 0.7 * normal / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(normal, np.float32))


def original_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its original name."""
    return {k: tuple(v) for k, v in read_config(variant)["parameters"].items()}


def original_weights(variant: str) -> dict[str, torch.Tensor]:
    """Return the reference's weights under their original names."""
    shapes = original_shapes(variant)
    return {key: seeded_weight(key, shape) for key, shape in shapes.items()}


def rename(
    state: dict[str, torch.Tensor], config: Swin2SRConfig
) -> dict[str, torch.Tensor]:
    """Give the authors' names of parameters the form that transformers gives them."""
    renamed = {}
    for key, value in state.items():
        block = re.fullmatch(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.(.+)", key)
        if block is None:
            renamed[_outer_name(key, config)] = value
            continue
        stage, layer, rest = block.groups()
        prefix = f"swin2sr.encoder.stages.{stage}.layers.{layer}."
        if rest == "attn.qkv.weight":
            for name, part in zip(
                ("query", "key", "value"), value.chunk(3), strict=True
            ):
                renamed[f"{prefix}attention.self.{name}.weight"] = part
            continue
        renamed[prefix + _block_name(rest)] = value
    return renamed


def _block_name(rest: str) -> str:
    for old, new in {
        "attn.q_bias": "attention.self.query.bias",
        "attn.v_bias": "attention.self.value.bias",
        "attn.logit_scale": "attention.self.logit_scale",
        "attn.cpb_mlp": "attention.self.continuous_position_bias_mlp",
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }.items():
        if rest.startswith(old):
            return new + rest.removeprefix(old)
    raise KeyError(rest)


def _outer_name(key: str, config: Swin2SRConfig) -> str:
    key = re.sub(r"^layers\.", "swin2sr.encoder.stages.", key)
    key = key.replace("patch_embed.proj", "patch_embed.projection")
    for old, new in {
        "conv_first.": "swin2sr.first_convolution.",
        "patch_embed.projection": "swin2sr.embeddings.patch_embeddings.projection",
        "patch_embed.norm": "swin2sr.embeddings.patch_embeddings.layernorm",
        "norm.": "swin2sr.layernorm.",
        "conv_after_body": "swin2sr.conv_after_body",
        "conv_before_upsample.0": "upsample.conv_before_upsample",
        "conv_bicubic": "upsample.conv_bicubic",
        "conv_aux": "upsample.conv_aux",
        "conv_after_aux": "upsample.conv_after_aux",
        "conv_up": "upsample.conv_up",
        "conv_hr": "upsample.conv_hr",
        "conv_last": "upsample.final_convolution"
        if config.upsampler
        else "final_convolution",
    }.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    if key.startswith("upsample."):
        if config.upsampler == "pixelshuffledirect":
            return key.replace("upsample.0", "upsample.conv")
        if config.upscale == 3:
            return key.replace("upsample.0", "upsample.upsample.convolution")
        number = int(key.split(".")[1])
        return f"upsample.upsample.convolution_{number // 2}.{key.rsplit('.', 1)[1]}"
    return key


def make_network(variant: str) -> Swin2SRForImageSuperResolution:
    """Return our network with the reference's weights."""
    config = make_config(variant)
    net = Swin2SRForImageSuperResolution(config)
    net.load_state_dict(rename(original_weights(variant), config), strict=True)
    return net.eval()


def pad_like_reference(x: np.ndarray, window: int) -> torch.Tensor:
    """Pad (C, H, W) as the authors' script does, also if nothing is missing."""
    pad = [(n // window + 1) * window - n for n in x.shape[-2:]]
    return torch.from_numpy(
        np.pad(x, ((0, 0), (0, pad[0]), (0, pad[1])), mode="symmetric")
    )[None]
