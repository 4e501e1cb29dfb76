"""The network, its weights, and running it: names are loaded when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from napari_swin2sr.weights.config import Swin2SRConfig

if TYPE_CHECKING:
    from napari_swin2sr.model.processor import Swin2SRImageProcessor
    from napari_swin2sr.model.swin2sr import (
        Swin2SRForImageSuperResolution,
        Swin2SRModel,
    )

__all__ = [
    "Swin2SRConfig",
    "Swin2SRForImageSuperResolution",
    "Swin2SRImageProcessor",
    "Swin2SRModel",
]

_LAZY = {
    "Swin2SRForImageSuperResolution": "swin2sr",
    "Swin2SRModel": "swin2sr",
    "Swin2SRImageProcessor": "processor",
}


def __getattr__(name: str) -> Any:
    """Import the torch-bearing modules only when one of their names is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
