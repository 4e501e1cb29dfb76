"""A network that is small, fast and seeded, with a real one's structure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from napari_swin2sr.model.error_head import ErrorHead
from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
from napari_swin2sr.trust.calibration import LEVELS, Calibration, Group
from napari_swin2sr.weights.config import Swin2SRConfig
from napari_swin2sr.weights.download import file_sha256
from napari_swin2sr.weights.error_head import write_calibration, write_error_head

if TYPE_CHECKING:
    from pathlib import Path


def tiny_config(**changes: Any) -> Swin2SRConfig:
    """Return the smallest sensible network: x2, two stages of two layers."""
    values: dict[str, Any] = {
        "embed_dim": 12,
        "depths": (2, 2),
        "num_heads": (2, 2),
        "upsampler": "pixelshuffledirect",
        "upscale": 2,
    }
    return Swin2SRConfig(**(values | changes))


def tiny_net(seed: int = 0, **changes: Any) -> Swin2SRForImageSuperResolution:
    """Return a network whose weights make every part of it matter."""
    net = Swin2SRForImageSuperResolution(tiny_config(**changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "layernorm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif name.endswith("logit_scale"):
                parameter.copy_(2 + noise.clamp(-1, 1))
            elif parameter.ndim > 1:
                parameter.copy_(0.5 * noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.05 * noise)
    return net.eval()


def tiny_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save such a network as a model folder."""
    from napari_swin2sr.model.swin2sr import save_network

    save_network(tiny_net(seed, **changes), folder)
    return folder


def tiny_error_head(seed: int = 0, **changes: Any) -> ErrorHead:
    """Return an error head for such a network, whose weights all matter."""
    head = ErrorHead(tiny_config(**changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return head.eval()


def trusted_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save a tiny network with an error head and a calibration for two kinds."""
    tiny_folder(folder, seed, **changes)
    weights = file_sha256(folder / "model.safetensors")
    head = write_error_head(
        tiny_error_head(seed, **changes).state_dict(), folder, weights
    )
    factors = tuple(1 + level for level in LEVELS)
    groups = [
        Group(
            kind=kind,
            noise="clean",
            images=30,
            clusters=20,
            factors=tuple(scale * factor for factor in factors),
            risks=tuple(1 - level for level in LEVELS),
            certified=0.95,
        )
        for kind, scale in (("fluorescence", 2.0), ("natural", 1.0))
    ]
    calibration = Calibration(
        model_sha256=weights,
        error_head_sha256=file_sha256(head),
        date="2026-01-02",
        groups=tuple(groups),
    )
    write_calibration(calibration.to_dict(), folder)
    return folder


def two_stage_net(**values: Any) -> Swin2SRForImageSuperResolution:
    """Return a network of two unlike stages whose every parameter is at work."""
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"embed_dim": 12, "depths": (3, 2), "num_heads": (2, 3)}
    defaults["upsampler"] = "pixelshuffledirect"
    net = Swin2SRForImageSuperResolution(Swin2SRConfig(**{**defaults, **values}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()
