"""Training of an error head: the network stays as it is, its features are enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_swin2sr.errors import check_cancel
from napari_swin2sr.model.error_head import ErrorHead
from napari_swin2sr.training.degrade import degrade

if TYPE_CHECKING:
    from torch import Tensor

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.training.data import Sampler
    from napari_swin2sr.training.options import TrainOptions

QUANTILE = 0.9
"""Share of the errors that an uncalibrated half-width is to exceed."""

CROPS = 600
"""Crops that are enough for so few weights."""

CONTEXT = 8
SIDE = 40
CROP_SIDE = SIDE + 2 * CONTEXT
"""Low-resolution pixels of a crop: compared, seen by the network only, in all."""

_STEPS = 800
_BATCH = 8
_LEARNING_RATE = 0.02
_SMALLEST = 1e-3
"""Errors below this, of the value range, are not told apart."""


def train_error_head(
    net: Swin2SRForImageSuperResolution,
    sampler: Sampler,
    options: TrainOptions,
    *,
    crops: int = CROPS,
    cancel: CancelToken | None = None,
) -> ErrorHead:
    """Train an error head for a network, on the degradations that it learned from.

    The loss is the quantile loss (R. Koenker and G. Bassett, Econometrica 46, 33,
    1978), half of it of the logarithms, so that dim places count as well.
    """
    features, errors = _features_and_errors(net, sampler, options, crops, cancel)
    torch.manual_seed(options.seed)
    head = ErrorHead(net.config)
    steps = min(_STEPS, 2 * crops)
    optimizer = torch.optim.Adam(head.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(options.seed)
    edge = net.config.upscale
    for _ in range(steps):
        check_cancel(cancel)
        chosen = torch.randint(crops, (min(_BATCH, crops),), generator=generator)
        width = head(features[chosen].float())
        width = width[..., edge:-edge, edge:-edge]  # there the convolution sees all
        loss = quantile_loss(width, errors[chosen].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def quantile_loss(width: Tensor, error: Tensor) -> Tensor:
    """Return a number that is smallest where `QUANTILE` of the errors are smaller."""

    def loss(above: Tensor) -> Tensor:
        return torch.where(above > 0, QUANTILE * above, (QUANTILE - 1) * above).mean()

    log = ((error + _SMALLEST) / (width + _SMALLEST)).log()
    scale = error.mean((1, 2, 3), keepdim=True) + 0.01
    return loss((error - width) / scale) + loss(log)


def _features_and_errors(
    net: Swin2SRForImageSuperResolution,
    sampler: Sampler,
    options: TrainOptions,
    crops: int,
    cancel: CancelToken | None,
) -> tuple[Tensor, Tensor]:
    """Return (N, C, s + 2, s + 2) features and (N, channels, u * s, u * s) errors."""
    u, side = net.config.upscale, CROP_SIDE
    inner = slice(CONTEXT - 1, CONTEXT + SIDE + 1)
    fine = slice(u * CONTEXT, u * (CONTEXT + SIDE))
    features, errors = [], []
    for number in range(crops):
        check_cancel(cancel)
        rng = np.random.default_rng([options.seed, 2, number])
        crop, gray = sampler.draw(u * side, rng)
        lowres = torch.from_numpy(degrade(crop, u, gray, options, rng)[None])
        truth = torch.from_numpy(np.ascontiguousarray(crop[None, :, fine, fine]))
        with torch.inference_mode():
            pixels = net.swin2sr.normalize(lowres.float().to(net.device))
            found = net.swin2sr.features(pixels)[0]
            image = net.swin2sr.denormalise(net.head(found, pixels)).cpu()
        features.append(found[..., inner, inner].half().cpu())
        errors.append((image[..., fine, fine] - truth).abs().half())
    return torch.cat(features), torch.cat(errors)
