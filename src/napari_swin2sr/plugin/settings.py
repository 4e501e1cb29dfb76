"""The Preferences page: what belongs to the machine, not to an image.

The page itself is declared in `napari.yaml`; napari keeps and checks the values.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_swin2sr.tiles.cache import BlockCache

PLUGIN = "napari-swin2sr"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person chose in Preferences > Swin2SR.

    Attributes
    ----------
    device, precision : where and how the network runs when the widget opens
    live_tile : core of a live layer's tiles [input px]
    cache_gb : memory for finished tiles of all live layers [GB]
    model_folder : folder with own models, or ""
    """

    device: str = "auto"
    precision: str = "auto"
    live_tile: int = 192
    cache_gb: float = 1.0
    model_folder: str = ""

    @property
    def cache_bytes(self) -> int:
        """Memory for finished tiles; never too little for one screen [bytes]."""
        return max(int(self.cache_gb * 1e9), 64 * 2**20)


def current_settings() -> Settings:
    """Return the present choices; the defaults where napari has no such page."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:  # napari < 0.9
        return Settings()
    try:
        page = get_plugin_settings(PLUGIN)
    except (KeyError, ValueError):  # the manifest is not registered
        return Settings()
    inference: Any = page.inference
    live: Any = page.live
    return Settings(
        inference.device,
        inference.precision,
        live.tile,
        live.cache_gb,
        inference.model_folder,
    )


@functools.cache
def _shared_cache() -> BlockCache:
    return BlockCache(0, keep_one=True)


def tile_cache() -> BlockCache:
    """Return the one cache of all live layers, as large as the settings say now."""
    cache = _shared_cache()
    cache.limit_bytes = current_settings().cache_bytes
    return cache


def own_models() -> list[Path]:
    """Return the models in the chosen folder: model folders and weight files."""
    folder = Path(current_settings().model_folder.strip()).expanduser()
    if folder == Path() or not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if (path / "config.json").is_file() or path.suffix in (".safetensors", ".pth")
    )
