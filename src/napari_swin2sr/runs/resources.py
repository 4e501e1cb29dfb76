"""What a run will need, before it begins: tiles, bytes on disk, bytes in memory."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_swin2sr.errors import MemoryLimitError, OutputError
from napari_swin2sr.options import DEFAULT_TILE

if TYPE_CHECKING:
    from napari_swin2sr.model.config import Swin2SRConfig
    from napari_swin2sr.options import Halo
    from napari_swin2sr.tiles.lazy import LazyUpscaled

EXACT_TILE = 2048
"""Core of a tile when the halo, which is then wide, is exact [input px]."""

HALO_SHARE = 0.15
"""What the halo may add to the pixels of a tile where nobody chose the tile."""

DEFAULT_FORWARD_BYTES = 2.5e9
"""What one forward over the core of a tile may take where nobody chose the tile."""

_FLOAT32 = 4
_PROBE_WINDOWS = 12
_MAPS = 4
_NO_LIMIT = 1 << 60  # cgroups write a number near 2**63 for "none"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will need.

    Attributes
    ----------
    n_tiles : calls of the network (times channels, where those are planes)
    output_bytes : pixels of the result, not compressed and without pyramid
    peak_bytes : memory for the tiles in work and, on the processor, for one forward
    pixel_overhead : pixels computed per pixel kept, because of the halo
    """

    n_tiles: int
    output_bytes: int
    peak_bytes: int
    pixel_overhead: float


def default_tile(config: Swin2SRConfig, halo: Halo) -> int:
    """Return the core of a tile where nobody asks for another [input px].

    The least, in steps of 128 px, in which the halo adds less than `HALO_SHARE`, if
    one forward fits in `DEFAULT_FORWARD_BYTES`. It follows from the model alone, not
    from the memory of this machine: a run may go on elsewhere, and several machines
    may share it.

    Parameters
    ----------
    config : of the model
    halo : as in `UpscaleOptions`
    """
    if halo == "exact":
        return EXACT_TILE
    wanted = 2 * config.halo(halo) / (math.sqrt(1 + HALO_SHARE) - 1)
    fits = math.sqrt(DEFAULT_FORWARD_BYTES / _forward_bytes(config))
    return max(DEFAULT_TILE, min(math.ceil(wanted / 128), int(fits / 128)) * 128)


def estimate(lazy: LazyUpscaled, workers: int = 4) -> Estimate:
    """Tell what running `lazy` will need; nothing is read or computed.

    Parameters
    ----------
    lazy : the result to be computed
    workers : tiles in memory at once
    """
    n_tiles = math.prod(lazy.grid)
    per_tile, forward = _tile_bytes(lazy) if n_tiles else (0, 0)
    return Estimate(
        n_tiles=n_tiles,
        output_bytes=math.prod(lazy.shape) * lazy.dtype.itemsize,
        peak_bytes=per_tile * max(1, min(workers, n_tiles)) + forward,
        pixel_overhead=lazy.plan.pixel_overhead,
    )


def _tile_bytes(lazy: LazyUpscaled) -> tuple[int, int]:
    """Return bytes per tile in work, and of the one forward that runs at a time."""
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
    return read + result + final, read_pixels * _forward_bytes_per_pixel(lazy.block)


def _forward_bytes_per_pixel(block: object) -> int:
    """Return the memory of one forward per input pixel, if it is this machine's."""
    config = getattr(block, "config", None)
    device = getattr(block, "device", "auto")
    if config is None or not (device == "cpu" or (device == "auto" and _only_a_cpu())):
        return 0
    return _forward_bytes(config)


def _forward_bytes(config: Swin2SRConfig) -> int:
    """Return the memory of one forward per input pixel.

    The network holds up to three maps of all its features, and some more in between.
    """
    return _MAPS * config.embed_dim * _FLOAT32


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
    """Refuse a run whose tiles cannot fit in memory.

    Raises
    ------
    MemoryLimitError
        If `needed` bytes are more than this process may still use.
    """
    free = available_memory()
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"the tiles in work need about {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free. Choose a smaller tile, such as tile=512, "
            "or fewer workers"
        )


def check_space(folder: Path, needed: int) -> None:
    """Refuse a run whose result cannot fit on the disk.

    Raises
    ------
    OutputError
        If `needed` bytes are more than `folder` has room for.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder}: the result may need {needed / 1e9:.2f} GB and only "
            f"{free / 1e9:.2f} GB are free, {(needed - free) / 1e9:.2f} GB too little. "
            "Make room or choose another place; check_space=False runs all the same, "
            "as an image that compresses well needs less"
        )


def available_memory() -> int | None:
    """Return the bytes this process may still use, or None where nobody tells.

    The least of what the machine, the container (cgroups) and SLURM leave.
    """
    limits = [_machine(), *_cgroup(), _slurm()]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup() -> list[int]:
    folder = Path("/sys/fs/cgroup")
    pairs = (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
    left = []
    for limit_name, used_name in pairs:
        try:
            limit = int((folder / limit_name).read_text())
            used = int((folder / used_name).read_text())
        except (OSError, ValueError):  # absent, or the word "max"
            continue
        if limit < _NO_LIMIT:
            left.append(limit - used + _reclaimable(folder))
    return left


def _reclaimable(folder: Path) -> int:
    """Return what a cgroup counts as used but would give back: cached file pages."""
    for name in ("memory.stat", "memory/memory.stat"):
        try:
            lines = (folder / name).read_text().splitlines()
        except OSError:
            continue
        return sum(int(x.split()[1]) for x in lines if x.startswith("inactive_file "))
    return 0


def _slurm() -> int | None:
    """Return the memory that SLURM gave to this job on this machine [bytes]."""
    per_node, per_cpu = (os.environ.get(f"SLURM_MEM_PER_{x}") for x in ("NODE", "CPU"))
    if per_node and per_node.isdecimal():
        return int(per_node) * 2**20 or None
    if per_cpu and per_cpu.isdecimal():
        cpus = os.environ.get("SLURM_CPUS_ON_NODE", "1")
        return int(per_cpu) * 2**20 * (int(cpus) if cpus.isdecimal() else 1)
    return None
