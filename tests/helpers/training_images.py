"""Folders of small training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image

from napari_swin2sr.training.degrade import resize_bicubic

if TYPE_CHECKING:
    from pathlib import Path


def texture(seed: int, channels: int = 1, side: int = 128) -> np.ndarray:
    """Smooth random blobs with fine detail, (side, side, channels) in 0..1."""
    rng = np.random.default_rng(seed)
    coarse = resize_bicubic(rng.random((channels, 16, 16)), (side, side))
    fine = resize_bicubic(rng.random((channels, 64, 64)), (side, side))
    return np.moveaxis(np.clip(0.7 * coarse + 0.3 * fine, 0, 1), 0, -1)


def image_folder(folder: Path) -> Path:
    """Two kinds: four color PNGs, four TIFFs of 16 bits and float32."""
    for number in range(4):
        color, gray = folder / "color", folder / "gray"
        color.mkdir(parents=True, exist_ok=True)
        gray.mkdir(exist_ok=True)
        levels = (texture(number, 3) * 255).astype(np.uint8)
        Image.fromarray(levels).save(color / f"c{number}.png")
        plane = texture(10 + number)[..., 0]
        deep = (plane * 3000 + 100).astype(np.uint16)
        kind = deep if number % 2 else (plane * 5e-3).astype(np.float32)
        tifffile.imwrite(gray / f"g{number}.tif", kind)
    return folder
