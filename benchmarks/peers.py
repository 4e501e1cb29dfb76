"""The others' networks, with the weights of one of ours."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import torch

from napari_swin2sr.weights.state_dict import hub_names, is_derived

if TYPE_CHECKING:
    from napari_swin2sr.model import Swin2SRForImageSuperResolution


def of_transformers(net: Swin2SRForImageSuperResolution) -> torch.nn.Module:
    """Return the network of transformers: (N, 3, H, W) in, the same uH x uW out.

    Raises ImportError where transformers is not installed.
    """
    import transformers

    class Peer(transformers.Swin2SRForImageSuperResolution):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).reconstruction

    peer = Peer(transformers.Swin2SRConfig.from_dict(net.config.to_dict()))
    peer.load_state_dict(net.state_dict(), strict=True)
    return peer.eval()


def of_spandrel(net: Swin2SRForImageSuperResolution) -> torch.nn.Module:
    """Return the network of spandrel: (N, 3, H, W) in, the same uH x uW out.

    Raises ImportError where spandrel is not installed.
    """
    there = "torchvision" in sys.modules or importlib.util.find_spec("torchvision")
    if not there:
        # Imported for other networks of the library; Swin2SR does without.
        for name in ("", ".transforms", ".transforms.functional"):
            sys.modules[f"torchvision{name}"] = MagicMock()
    from spandrel.architectures.Swin2SR import Swin2SR

    config, state = net.config, net.state_dict()
    names = "embed_dim depths num_heads window_size mlp_ratio qkv_bias upscale"
    names += " img_range upsampler resi_connection"
    options = {name: getattr(config, name) for name in names.split()}
    peer = Swin2SR(in_chans=config.num_channels, **options)
    shapes = {name: tuple(v.shape) for name, v in peer.state_dict().items()}
    found = peer.load_state_dict(
        {
            name: torch.cat([state[k] for k in hub])
            for name, hub in hub_names(shapes).items()
            if not is_derived(name)
        },
        strict=False,
    )
    assert all(map(is_derived, found.missing_keys))
    return peer.eval()
