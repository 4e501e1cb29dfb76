"""Super-resolution of images too large for memory, with Swin2SR.

The names below are loaded when they are first used, so that importing this
package costs nothing and brings in none of PyTorch, dask, zarr or napari.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lazy_loader

if TYPE_CHECKING:
    from napari_swin2sr import errors as errors
    from napari_swin2sr.engine.upscaler import load_model as load_model
    from napari_swin2sr.export.write import export_model as export_model
    from napari_swin2sr.files import upscale_file as upscale_file
    from napari_swin2sr.files import verify_file as verify_file
    from napari_swin2sr.options import UpscaleOptions as UpscaleOptions
    from napari_swin2sr.training.calibrate import calibrate as calibrate
    from napari_swin2sr.trust.consistency import consistency as consistency
    from napari_swin2sr.upscale import apply as apply
    from napari_swin2sr.upscale import inspect as inspect
    from napari_swin2sr.weights.catalog import list_models as list_models

    __version__: str

_load, _names, __all__ = lazy_loader.attach(
    __name__,
    submodules=["errors"],
    submod_attrs={
        "engine.upscaler": ["load_model"],
        "export.write": ["export_model"],
        "files": ["upscale_file", "verify_file"],
        "options": ["UpscaleOptions"],
        "training.calibrate": ["calibrate"],
        "trust.consistency": ["consistency"],
        "upscale": ["apply", "inspect"],
        "weights.catalog": ["list_models"],
    },
)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("napari-swin2sr")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _load(name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
