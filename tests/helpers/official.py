"""Checkpoints as the authors' code saves them, masks and tables included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from helpers.golden import make_config, original_weights
from napari_swin2sr.model import Swin2SRConfig


def derived(config: Swin2SRConfig, image_size: int) -> dict[str, torch.Tensor]:
    """Tables that the authors' code saves, by the definitions in their paper."""
    w = min(config.window_size, image_size)
    line = np.arange(1 - w, w) / (w - 1) * 8
    line = np.sign(line) * np.log2(np.abs(line) + 1) / np.log2(8)
    table = np.stack(np.meshgrid(line, line, indexing="ij"), -1)[None]
    y, x = np.divmod(np.arange(w * w), w)
    index = (y[:, None] - y + w - 1) * (2 * w - 1) + x[:, None] - x + w - 1
    side = (np.arange(image_size) >= image_size - w // 2).astype(int)
    region = side[:, None] + 2 * side
    region = region.reshape(image_size // w, w, -1, w).swapaxes(1, 2).reshape(-1, w * w)
    mask = np.where(region[:, :, None] == region[:, None], 0.0, -100.0)
    found = {}
    for i, depth in enumerate(config.depths):
        for j in range(depth):
            block = f"layers.{i}.residual_group.blocks.{j}."
            found[f"{block}attn.relative_coords_table"] = table
            found[f"{block}attn.relative_position_index"] = index
            if j % 2 and image_size > w:
                found[f"{block}attn_mask"] = mask.astype(np.float32)
    return {
        k: torch.from_numpy(v.astype(np.int64 if v.dtype == int else np.float32))
        for k, v in found.items()
    }


def official(variant: str, image_size: int = 0) -> dict[str, torch.Tensor]:
    """A whole checkpoint as the authors' code saves it."""
    config = make_config(variant)
    size = image_size or 4 * config.window_size
    return original_weights(variant) | derived(config, size)


def write(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path
