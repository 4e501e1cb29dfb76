"""`napari-swin2sr models` and `info`: what is installed here."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_output_flags
from napari_swin2sr.cli.console import EXIT_OK, write_json_line

if TYPE_CHECKING:
    import argparse

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


def add_parsers(commands: Any) -> None:
    """Add the commands."""
    parser = commands.add_parser(
        "models", help="list the models", description="List the models by name."
    )
    add_output_flags(parser)
    parser.set_defaults(run=run_models)
    parser = commands.add_parser(
        "info",
        help="show versions, devices and folders",
        description="Show what a bug report needs: versions, devices, folders.",
    )
    add_output_flags(parser)
    parser.set_defaults(run=run_info)


def run_models(args: argparse.Namespace) -> int:
    """Print the models; return the exit code."""
    from napari_swin2sr.weights.catalog import list_models

    models = list_models()
    if args.json:
        for model in models:
            write_json_line(model)
        return EXIT_OK
    width = max(len(model.name) for model in models)
    for model in models:
        size = f"{model.n_bytes / 1e6:.1f} MB" if model.n_bytes else "size unknown"
        state = "here" if model.downloaded else "downloaded on first use"
        print(f"{model.name:<{width}}  x{model.upscale}  {model.purpose}")
        print(f"{'':<{width}}      {size}, {state}, {model.license}")
    return EXIT_OK


def run_info(args: argparse.Namespace) -> int:
    """Print the environment; return the exit code."""
    facts = environment()
    if args.json:
        write_json_line(facts)
        return EXIT_OK
    for title, entries in facts.items():
        print(title)
        for name, value in entries.items():
            print(f"  {name:<20} {value}")
    return EXIT_OK


def environment() -> dict[str, dict[str, str]]:
    """Return title of a section -> name -> value; imports torch, downloads nothing.

    The ways to run the default model on the CPU are timed if they have not been.
    """
    return {
        "versions": _versions(),
        "devices": _devices(),
        "downloads": _downloads(),
        "default model": _default_model(),
        "default model on the cpu": _on_cpu(),
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


def _on_cpu() -> dict[str, str]:
    """Return which way runs on the CPU, why, and what was measured."""
    from napari_swin2sr.engine import backends, cpu_native
    from napari_swin2sr.model.swin2sr import load_network
    from napari_swin2sr.weights.catalog import resolve_model

    model = resolve_model("default")
    net = load_network(model.path, model.config, sha256=model.sha256)
    _, choice = backends.prepare_cpu(net, "fp32")
    found = {
        "processor": cpu_native.processor_name(),
        "instructions": ", ".join(cpu_native.instruction_sets()) or "none known",
        "bfloat16": "yes" if cpu_native.has_bfloat16() else "no: float32 runs instead",
        "compiler": cpu_native.find_compiler() or "none: PyTorch runs the network",
        "runs": f"{choice.name} ({choice.reason})",
    }
    for name, seconds in choice.seconds.items():
        found[name] = f"{1000 * seconds:.2f} ms of CPU time for a layer of 16 windows"
    return found
