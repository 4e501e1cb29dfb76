"""Fixed validation crops: clean and noisy, scored while training runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_swin2sr.training.data import FLAT
from napari_swin2sr.training.degrade import add_noise, downscale, resize_bicubic
from napari_swin2sr.training.metrics import crop_border, psnr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.training.data import Source

    Image = NDArray[np.float32]

CROP = 64
"""Low-resolution side of a validation crop [px]."""

PER_KIND = 6
"""Crops of each kind of image."""

NOISE = (150.0, 0.01)
"""Photons at full scale and read-out noise of the noisy copy."""


class ValidationSet:
    """Centre crops of the held-out images; RGB stays RGB, other planes are grey.

    Parameters
    ----------
    sources : held-out images
    upscale : factor of the model
    """

    def __init__(self, sources: Sequence[Source], upscale: int) -> None:
        self.upscale = upscale
        self.items: list[tuple[str, Image, Image]] = []
        by_kind: dict[str, list[Image]] = {}
        for source in sources:
            size = min(upscale * CROP, *source.pixels.shape[-2:])
            size -= size % (8 * upscale)
            y, x = ((n - size) // 2 for n in source.pixels.shape[-2:])
            crop = source.crop(y, x, size)
            crop = crop if source.rgb else crop[:1]
            if crop.std() >= FLAT:
                by_kind.setdefault(source.kind or "images", []).append(crop)
        for kind, crops in sorted(by_kind.items()):
            for number in np.linspace(0, len(crops) - 1, min(len(crops), PER_KIND)):
                truth = crops[int(number)]
                clean = downscale(truth, upscale, "bicubic")
                rng = np.random.default_rng([len(self.items), 7])
                self.items.append((kind, clean, truth))
                noisy = add_noise(clean, *NOISE, rng)
                self.items.append((f"{kind}, noisy", noisy, truth))
        self.bicubic = self._mean(
            [self._psnr(self.enlarged(small), truth) for _, small, truth in self.items]
        )

    def enlarged(self, small: Image) -> Image:
        """Bicubic interpolation of (C, h, w)."""
        height, width = (n * self.upscale for n in small.shape[-2:])
        return resize_bicubic(small, (height, width))

    def scores(self, network: Swin2SRForImageSuperResolution) -> dict[str, float]:
        """PSNR gain over bicubic interpolation in dB, per kind, clean and noisy."""
        device = next(network.parameters()).device
        values = []
        with torch.inference_mode():
            for _, small, truth in self.items:
                pixels = torch.from_numpy(small[None]).to(device)
                result = network.upscale_tile(pixels)[0].float().cpu().numpy()
                values.append(self._psnr(result, truth))
        means = self._mean(values)
        return {name: means[name] - self.bicubic[name] for name in means}

    def _psnr(self, image: Image, truth: Image) -> float:
        a, b = (crop_border(np.moveaxis(x, 0, -1), 4) for x in (image, truth))
        return min(psnr(a, b, peak=1.0), 99.0)

    def _mean(self, values: list[float]) -> dict[str, float]:
        grouped: dict[str, list[float]] = {}
        for (name, _, _), value in zip(self.items, values, strict=True):
            grouped.setdefault(name, []).append(value)
        return {name: float(np.mean(found)) for name, found in grouped.items()}
