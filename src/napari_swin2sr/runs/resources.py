"""What a run will need, before it begins: tiles, bytes on disk, bytes in memory."""

from __future__ import annotations

import math
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_swin2sr.errors import MemoryLimitError, OutputError
from napari_swin2sr.tiles.cache import available_memory
from napari_swin2sr.tiles.plan import forward_bytes
from napari_swin2sr.tiles.worker import ConfiguredBlockFn

if TYPE_CHECKING:
    from napari_swin2sr.tiles.lazy import LazyUpscaled

_FLOAT32 = 4
_PROBE_WINDOWS = 12


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will need.

    Attributes
    ----------
    n_tiles : int
        Calls of the network (times channels, where those are planes).
    output_bytes : int
        Pixels of the result and its error bars, not compressed, without pyramid.
    peak_bytes : int
        Memory for the tiles in flight and, on the processor, for one forward.
    pixel_overhead : float
        Pixels computed per pixel kept, because of the halo.
    """

    n_tiles: int
    output_bytes: int
    peak_bytes: int
    pixel_overhead: float


def estimate(lazy: LazyUpscaled, workers: int = 4) -> Estimate:
    """Tell what running `lazy` will need; nothing is read or computed.

    Parameters
    ----------
    lazy : LazyUpscaled
        The result to be computed.
    workers : int
        Tiles in memory at once.

    Returns
    -------
    Estimate
        Tiles, bytes on disk and in memory.
    """
    n_tiles = math.prod(lazy.grid)
    per_tile, forward = _tile_bytes(lazy) if n_tiles else (0, 0)
    return Estimate(
        n_tiles=n_tiles,
        output_bytes=math.prod(lazy.shape) * (lazy.dtype.itemsize + _error(lazy)),
        peak_bytes=per_tile * max(1, min(workers, n_tiles)) + forward,
        pixel_overhead=lazy.plan.pixel_overhead,
    )


def _tile_bytes(lazy: LazyUpscaled) -> tuple[int, int]:
    """Return bytes per tile in flight, and of the one forward that runs at a time."""
    plan = lazy.plan
    last = min(1, plan.grid_shape[0] - 1), min(1, plan.grid_shape[1] - 1)
    shapes = [
        plan.tile_at(i, j).padded_shape for i in {0, last[0]} for j in {0, last[1]}
    ]
    read_pixels = max(height * width for height, width in shapes)
    samples = lazy.layout.samples
    written = math.prod(max(sizes) for sizes in lazy.chunks)
    source_bytes = getattr(lazy.dtype, "itemsize", _FLOAT32)
    # Source block, its float32 forms, or float64 where pixels are missing; network
    # output; the final form (alpha in float64 before) and what a store makes of it.
    read = read_pixels * samples * (source_bytes + 8 + _FLOAT32)
    result = read_pixels * samples * plan.upscale**2 * _FLOAT32
    final = written * (3 * lazy.dtype.itemsize + (8 if samples == 4 else 0))
    if _error(lazy):
        result, final = 2 * result, final + 3 * written * _FLOAT32
    return read + result + final, read_pixels * _forward_bytes_per_pixel(lazy.block)


def _error(lazy: LazyUpscaled) -> int:
    """Return the bytes of a pixel's error bar."""
    return 0 if lazy.error_scale is None else _FLOAT32


def _forward_bytes_per_pixel(block: object) -> int:
    """Return the memory of one forward per input pixel, if it is this machine's."""
    if not isinstance(block, ConfiguredBlockFn):
        return 0
    here = block.device == "cpu" or (block.device == "auto" and _only_a_cpu())
    return forward_bytes(block.config) if here else 0


def _only_a_cpu() -> bool:
    """Tell whether the network will run on the processor, without asking PyTorch."""
    return sys.platform != "darwin" and not Path("/dev/nvidiactl").exists()


def expected_seconds(lazy: LazyUpscaled) -> float:
    """Guess how long `lazy` takes, by running the network on a small empty tile.

    The model is loaded for it, so that one that cannot be loaded is noticed here. A
    device that is fast only with large tiles is underrated.
    """
    side = _PROBE_WINDOWS * lazy.plan.multiple_of
    channels = 1 if lazy.layout.samples == 1 else 3
    probe = np.zeros((1, channels, side, side), np.float32)
    lazy.block(probe)
    start = time.perf_counter()
    lazy.block(probe)
    seconds = time.perf_counter() - start
    height, width = lazy.layout.plane_shape
    pixels = height * width * lazy.layout.n_planes * lazy.plan.pixel_overhead
    return seconds / side**2 * pixels


def check_memory(needed: int) -> None:
    """Refuse a run whose tiles need more bytes than this process may still use."""
    if needed > (free := available_memory()):
        raise MemoryLimitError(
            f"the tiles in flight need about {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free. Choose a smaller tile, such as tile=512, "
            "or fewer workers"
        )


def check_space(folder: Path, needed: int) -> None:
    """Refuse a run whose result needs more bytes than the disk has free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: the result may need {needed / 1e9:.2f} GB and only "
            f"{free / 1e9:.2f} GB are free, {(needed - free) / 1e9:.2f} GB too little. "
            "Free some space or choose another place; check_space=False runs all the "
            "same, as an image that compresses well needs less"
        )
