"""The error head: from the features of the image to how far it may be off.

It takes what the reconstruction head takes, so that both come from one forward, and
looks no farther, so that tiles need no larger halo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.model.heads import conv3x3
from napari_swin2sr.weights.checkpoint import SUSPICIOUS
from napari_swin2sr.weights.error_head import HIDDEN, read_error_head

if TYPE_CHECKING:
    from napari_swin2sr.weights.catalog import ResolvedModel
    from napari_swin2sr.weights.config import Swin2SRConfig

START = 0.02
"""Half-width of a new head, everywhere: a usual error."""


ENERGY_FLOOR = 1e-4
"""Added to squared features, which are about a hundred times larger."""


class ErrorHead(nn.Module):
    """Features to a nonnegative half-width per output pixel.

    The features are made to be summed up, so detail has either sign in them. A 3x3
    convolution gathers them, the logarithms of its squares are mixed, and a pixel
    shuffle enlarges what comes out.

    Half-widths are in the scale of the network's input, black 0 and white 1. They are
    not calibrated: see `napari_swin2sr.trust.calibration`.

    Parameters
    ----------
    config : Swin2SRConfig
        Hyper-parameters of the network whose features it takes.
    """

    def __init__(self, config: Swin2SRConfig) -> None:
        super().__init__()
        self.upscale = config.upscale
        self.gather = conv3x3(config.embed_dim, HIDDEN)
        self.mix = nn.Conv2d(HIDDEN, config.num_channels_out * config.upscale**2, 1)
        assert self.mix.bias is not None
        with torch.no_grad():
            self.mix.weight.zero_()
            self.mix.bias.fill_(START).expm1_().log_()  # what softplus turns to START

    def forward(self, features: Tensor, gray: bool = False) -> Tensor:
        """Return (N, channels or 1, upscale * H, upscale * W) for (N, C, H, W).

        With `gray` it is the mean over the channels, as the image is.
        """
        energy = torch.log(self.gather(features).square() + ENERGY_FLOOR)
        width = F.pixel_shuffle(F.softplus(self.mix(energy)), self.upscale)
        return width.mean(1, keepdim=True) if gray else width


def load_error_head(model: ResolvedModel, config: Swin2SRConfig) -> ErrorHead | None:
    """Read the error head of a model that was found, if it has one, for inference.

    Raises
    ------
    WeightsError
        If it is damaged, of another shape, or gives numbers that are not finite.
    """
    state = read_error_head(model, config)
    if state is None:
        return None
    head = ErrorHead(config)
    head.load_state_dict(state)
    with torch.inference_mode():
        finite = head(torch.ones(1, config.embed_dim, 1, 1)).isfinite().all()
    if not finite:
        assert model.error_head is not None
        reason = "the error head gives numbers that are not finite"
        raise WeightsError(model.error_head.path, reason, SUSPICIOUS)
    return head.eval().requires_grad_(False)
