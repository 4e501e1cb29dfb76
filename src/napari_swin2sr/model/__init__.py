"""The network, as in the paper: names are loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from napari_swin2sr.weights.config import Swin2SRConfig as Swin2SRConfig

if TYPE_CHECKING:
    from napari_swin2sr.model import processor, swin2sr

    Swin2SRImageProcessor = processor.Swin2SRImageProcessor
    Swin2SRImageProcessorPil = processor.Swin2SRImageProcessorPil
    Swin2SRForImageSuperResolution = swin2sr.Swin2SRForImageSuperResolution
    Swin2SRModel = swin2sr.Swin2SRModel

__getattr__, _names, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "processor": ["Swin2SRImageProcessor", "Swin2SRImageProcessorPil"],
        "swin2sr": ["Swin2SRForImageSuperResolution", "Swin2SRModel"],
    },
)
__all__ = sorted([*__all__, "Swin2SRConfig"])


def __dir__() -> list[str]:
    return __all__
