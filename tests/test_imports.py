"""What importing loads: each heavy library only where it belongs.

import-linter checks the same walls on the source; here a fresh interpreter does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "napari_swin2sr"

HEAVY = {
    "torch",
    "dask",
    "zarr",
    "napari",
    "qtpy",
    "magicgui",
    "numpy",
    "skimage",
    "tifffile",
    "rasterio",
    "huggingface_hub",
    "safetensors",
}

TORCH_AT_HOME = (
    "engine.backends",
    "engine.cpu",
    "engine.cuda",
    "engine.upscaler",
    "export.",
    "model.error_head",
    "model.heads",
    "model.processor",
    "model.swin2sr",
    "model.windows",
    "training.",
    "weights.checkpoint",
)
"""Modules that need PyTorch anyway, by the beginning of their name."""


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules() -> list[str]:
    """List every module of the package, without the package's name."""
    files = sorted(PACKAGE.rglob("*.py"))
    parts = [file.relative_to(PACKAGE).with_suffix("").parts for file in files]
    names = [".".join(p for p in part if p != "__init__") for part in parts]
    return [name for name in names if name and name != "__main__"]


def loaded_by(names: list[str]) -> set[str]:
    """Import modules and return the top-level packages that are then loaded."""
    code = f"""
        import importlib, json, sys
        for name in {names!r}:
            importlib.import_module(f"napari_swin2sr.{{name}}".rstrip("."))
        print(json.dumps(sorted(m for m in sys.modules if "." not in m)))
    """
    return set(json.loads(run(code)))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by([""]) & HEAVY


def test_importing_the_package_takes_no_time() -> None:
    code = """
        import time
        start = time.perf_counter()
        import napari_swin2sr
        print(time.perf_counter() - start)
    """
    assert min(float(run(code)) for _ in range(3)) < 0.1


def test_a_public_name_is_listed_and_loaded_on_demand() -> None:
    code = """
        import sys
        import napari_swin2sr as nsr
        assert set(nsr.__all__) <= set(dir(nsr))
        nsr.UpscaleOptions(tile=8)
        assert nsr.errors.InputError
        assert not {"torch", "dask", "zarr"} & set(sys.modules)
        print(nsr.__version__)
    """
    assert run(code).strip()[0].isdigit()


def test_torch_is_loaded_only_where_it_belongs() -> None:
    """With one process for all of them, and one each if that fails."""
    names = [n for n in modules() if not n.startswith((*TORCH_AT_HOME, "plugin"))]
    if "torch" in loaded_by(names):
        guilty = [name for name in names if "torch" in loaded_by([name])]
        pytest.fail(f"these modules load PyTorch when imported: {', '.join(guilty)}")


def test_qt_is_loaded_only_by_the_plugin() -> None:
    names = [name for name in modules() if not name.startswith("plugin")]
    names = [
        name for name in names if name not in ("engine.cuda_kernels", "engine.cuda")
    ]
    assert not loaded_by(names) & {"napari", "qtpy", "magicgui", "rasterio", "xarray"}


def test_listing_models_and_asking_for_help_need_no_torch() -> None:
    code = """
        import sys
        import napari_swin2sr as nsr
        nsr.list_models()
        from napari_swin2sr.cli.main import main
        try:
            main(["--help"])
        except SystemExit:
            pass
        print("torch" in sys.modules, "dask" in sys.modules)
    """
    assert run(code).split()[-2:] == ["False", "False"]
