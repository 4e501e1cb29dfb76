"""Super-resolution of images too large for memory, with Swin2SR.

The names below are loaded when they are first used, so that importing this
package costs nothing and brings in none of PyTorch, dask, zarr or napari.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_swin2sr import errors
    from napari_swin2sr.engine.upscaler import load_model
    from napari_swin2sr.files import upscale_file
    from napari_swin2sr.options import UpscaleOptions
    from napari_swin2sr.upscale import apply
    from napari_swin2sr.weights.catalog import list_models

    __version__: str

__all__ = [
    "UpscaleOptions",
    "__version__",
    "apply",
    "errors",
    "list_models",
    "load_model",
    "upscale_file",
]

_HOMES = {
    "UpscaleOptions": "options",
    "apply": "upscale",
    "errors": "errors",
    "list_models": "model.zoo",
    "load_model": "model.upscaler",
    "upscale_file": "files",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("napari-swin2sr")
    elif name in _HOMES:
        from importlib import import_module

        module = import_module(f"{__name__}.{_HOMES[name]}")
        value = module if name == "errors" else getattr(module, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
