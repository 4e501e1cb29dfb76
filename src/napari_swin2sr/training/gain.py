"""Whether a fine-tuned model is better than its start, on images it has not seen.

Both enlarge the same crops, so the difference is that of the models alone. Its interval
is a bootstrap (Efron 1979) over held-out images, or, where fewer than three were held
out, over crops: those of one image resemble each other, so it is then too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_swin2sr.training.data import FLAT
from napari_swin2sr.training.degrade import add_noise, downscale
from napari_swin2sr.training.metrics import crop_border, psnr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.training.data import Source

    Image = NDArray[np.float32]

CROP, CROPS = 64, 16
"""Low-resolution side of a crop [px], and how many there are at most."""

NOISE = (150.0, 0.01)
"""Photons at full scale and read-out noise of the noisy copies."""

IMAGES = 3
"""With so many held-out images, and more, the interval is over images."""

LEVEL = 0.9
"""Share of bootstrap samples within the interval."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean gain over the start, its interval, and over how many of what [dB]."""

    mean: float
    low: float
    high: float
    units: int
    over: str  # "held-out images" or "held-out crops"

    @property
    def better(self) -> bool:
        """Whether the whole interval is a gain."""
        return self.low > 0

    def __str__(self) -> str:
        return (
            f"{self.mean:+.2f} dB ({self.low:+.2f} to {self.high:+.2f}, {LEVEL:.0%}) "
            f"over the start on {self.units} {self.over}"
        )


class HeldOut:
    """Crops of the held-out images, and how well the start enlarges them.

    Parameters
    ----------
    sources : sequence of Source
        Held-out images.
    start : Swin2SRForImageSuperResolution
        What has to be beaten.
    noise : float
        Share of the noisy copies in the mean: that of the training's samples.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        start: Swin2SRForImageSuperResolution,
        noise: float,
    ) -> None:
        self.upscale = start.config.upscale
        self.shares = {False: 1 - noise, True: noise}
        self.crops = _crops(sources, self.upscale)
        self.weights = {k: v.detach().clone() for k, v in start.state_dict().items()}
        self.before = self._scores(start)

    def gain(self, network: Swin2SRForImageSuperResolution) -> Gain | None:
        """Compare a network with the start; None if there is nothing to see.

        The network is one of the start's geometry and is left as it is.
        """
        if not self.crops:
            return None
        gained = self._scores(network) - self.before
        names = [name for name, _ in self.crops]
        files = sorted(set(names))
        by_image = len(files) >= IMAGES
        if by_image:
            own = [[name == file for name in names] for file in files]
            gained = np.array([gained[mine].mean() for mine in own])
        low, high = interval(gained)
        over = "held-out images" if by_image else "held-out crops"
        return Gain(float(gained.mean()), low, high, len(gained), over)

    def preview(
        self,
        network: Swin2SRForImageSuperResolution,
        weights: Mapping[str, torch.Tensor],
    ) -> dict[str, Image]:
        """Return the crop of most contrast: input, start, with these weights, truth.

        Each (C, h, w) in 0 to 1, the input as noisy as samples mostly are; the network
        is left as it is.
        """
        _, target = max(self.crops, key=lambda crop: float(crop[1].std()))
        lowres = self._lowres(target, 0, noisy=self.shares[True] > 0.5)
        now = {k: v.detach().clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.weights)
        before = _enlarged(network, lowres)
        network.load_state_dict(weights)
        after = _enlarged(network, lowres)
        network.load_state_dict(now)
        return {"input": lowres, "before": before, "after": after, "truth": target}

    def _lowres(self, target: Image, number: int, *, noisy: bool) -> Image:
        lowres = downscale(target, self.upscale, "bicubic")
        if noisy:
            rng = np.random.default_rng([number, 13])
            lowres = add_noise(lowres, *NOISE, rng)
        return lowres

    def _scores(self, network: Swin2SRForImageSuperResolution) -> NDArray[np.float64]:
        """PSNR of each crop, clean and noisy as their shares are [dB]."""
        scores = np.zeros(len(self.crops))
        for number, (_, target) in enumerate(self.crops):
            for noisy, share in self.shares.items():
                if share:
                    lowres = self._lowres(target, number, noisy=noisy)
                    scores[number] += share * _psnr(_enlarged(network, lowres), target)
        return scores


def interval(
    values: NDArray[np.float64],
    statistic: Callable[..., NDArray[np.float64]] = np.mean,
    samples: int = 2000,
) -> tuple[float, float]:
    """Return the bootstrap interval (percentiles) of a statistic; a point for one."""
    rng = np.random.default_rng(0)
    drawn = values[rng.integers(0, len(values), (samples, len(values)))]
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low, high = np.quantile(statistic(drawn, axis=1), ends)
    return float(low), float(high)


def _crops(sources: Sequence[Source], upscale: int) -> list[tuple[str, Image]]:
    """Return (file, crop) in turn from every file, on a grid without overlap."""
    by_file: dict[str, list[Image]] = {}
    for source in sources:
        height, width = source.pixels.shape[-2:]
        size = min(upscale * CROP, height, width)
        size -= size % (8 * upscale)
        for y in range(0, height - size + 1, size):
            for x in range(0, width - size + 1, size):
                crop = source.crop(y, x, size)
                crop = crop if source.rgb else crop[:1]
                if crop.std() >= FLAT:
                    by_file.setdefault(str(source.path), []).append(crop)
    share = -(-CROPS // max(len(by_file), 1))
    crops = []
    for name, found in by_file.items():
        picked = np.linspace(0, len(found) - 1, min(len(found), share))
        crops += [(name, found[int(number)]) for number in picked]
    return crops


def _enlarged(network: Swin2SRForImageSuperResolution, lowres: Image) -> Image:
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(lowres[None]).to(device)
        result: Image = network.upscale_tile(pixels)[0].float().cpu().numpy()
    network.train(training)
    return result


def _psnr(image: Image, target: Image) -> float:
    a, b = (crop_border(np.moveaxis(x, 0, -1), 4) for x in (image, target))
    return min(psnr(a, b, peak=1.0), 99.0)
