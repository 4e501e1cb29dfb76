"""Three low-resolution images to try the plugin with; see docs/napari.md.

`scripts/make_samples.py` made their pixels, which takes seconds that nobody shall wait
for; the tissue is an image that scikit-image ships, with no known copyright
restrictions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

LayerData: TypeAlias = tuple[NDArray[Any], dict[str, Any], str]

_FILE = Path(__file__).with_name("samples.npz")


def cells() -> list[LayerData]:
    """Return nuclei and filaments as a wide-field microscope would show them.

    Two uint16 images, 0.26 um pixels; generated.
    """
    common = {"blending": "additive"} | _placed(0.26, "um")
    about = {"metadata": {"license": "CC0-1.0", "source": "generated"}}
    layers: list[LayerData] = []
    for name, color in (("nuclei", "bop blue"), ("filaments", "green")):
        pixels = _pixels(name)
        look = {"name": f"cells: {name}", "colormap": color}
        limits = {"contrast_limits": (200, float(pixels.max()))}
        layers.append((pixels, common | look | limits | about, "image"))
    return layers


def tissue() -> list[LayerData]:
    """Return immunostained colon tissue at half its resolution, 1 um pixels (nominal).

    RGB uint8; scikit-image's `immunohistochemistry`, no known copyright restrictions.
    """
    about = {
        "license": "no known copyright restrictions",
        "source": "skimage.data.immunohistochemistry, binned 2 x 2; nominal scale",
    }
    keywords = {"name": "tissue", "rgb": True, "metadata": about}
    return [(_pixels("tissue"), keywords | _placed(1.0, "um"), "image")]


def fields() -> list[LayerData]:
    """Return farmland as a satellite with 3 m pixels shows it; RGB uint8, generated."""
    about = {"license": "CC0-1.0", "source": "generated"}
    keywords = {"name": "farmland", "rgb": True, "metadata": about}
    return [(_pixels("fields"), keywords | _placed(3.0, "m"), "image")]


def _pixels(name: str) -> NDArray[Any]:
    with np.load(_FILE) as file:
        pixels: NDArray[Any] = file[name]
        return pixels


def _placed(size: float, unit: str) -> dict[str, Any]:
    return {"scale": (size, size), "units": (unit, unit), "axis_labels": ("y", "x")}
