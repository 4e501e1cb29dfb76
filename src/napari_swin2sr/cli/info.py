"""What a bug report needs to say about a machine and an installation."""

from __future__ import annotations

import importlib.metadata
import os
import platform

_LIBRARIES = (
    "napari-swin2sr",
    "torch",
    "numpy",
    "dask",
    "zarr",
    "tifffile",
    "scikit-image",
    "safetensors",
    "huggingface_hub",
    "imagecodecs",
    "rasterio",
    "distributed",
    "napari",
)


def environment() -> dict[str, dict[str, str]]:
    """Return versions, devices, the download cache and the default model.

    Returns
    -------
    Title of a section -> name -> value, in the order in which they should be read.
    Asking for the devices imports torch; nothing is downloaded.
    """
    return {
        "versions": _versions(),
        "devices": _devices(),
        "downloads": _downloads(),
        "default model": _default_model(),
    }


def _versions() -> dict[str, str]:
    found = {"python": f"{platform.python_version()} on {platform.platform()}"}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _devices() -> dict[str, str]:
    import torch

    cores = os.cpu_count()
    found = {"cpu": f"{cores} cores, {torch.get_num_threads()} threads for the network"}
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = platform.machine()
    return found


def _downloads() -> dict[str, str]:
    from huggingface_hub import constants

    from napari_swin2sr.weights.registry import cache_folder

    return {
        "hub cache": constants.HF_HUB_CACHE,
        "other files": str(cache_folder()),
        "offline": "yes" if constants.HF_HUB_OFFLINE else "no",
    }


def _default_model() -> dict[str, str]:
    from napari_swin2sr.weights.catalog import resolve_model

    model = resolve_model("default")
    return {"path": str(model.path), "sha256": str(model.sha256)}
