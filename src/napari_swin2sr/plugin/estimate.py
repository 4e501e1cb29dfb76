"""What a run will need, said before it begins; nothing is read or computed."""

from __future__ import annotations

import atexit
import functools
import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.worker import duration
from napari_swin2sr.runs.resources import estimate
from napari_swin2sr.tiles.cache import available_memory
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import default_tile, plan_tiles
from napari_swin2sr.weights.config import Swin2SRConfig
from napari_swin2sr.weights.state_dict import count_parameters

logger = logging.getLogger("napari_swin2sr")

_SPEED: dict[tuple[str, str], float] = {}
"""Network input pixels per second that runs of this process have reached."""

_CPU_FLOPS, _GPU_FLOPS = 5e10, 1e13
"""What to expect of a machine before it has shown what it can [FLOP/s]."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a run will need.

    Attributes
    ----------
    shape : of the result
    n_tiles : calls of the network
    output_bytes, peak_bytes : size of the result, and memory for tiles in flight
    pixel_overhead : pixels computed per pixel kept, because of the halo
    seconds : roughly; None if nothing is known of the model
    measured : whether `seconds` comes from a run on this machine
    """

    shape: tuple[int, ...]
    n_tiles: int
    output_bytes: int
    peak_bytes: int
    pixel_overhead: float
    seconds: float | None
    measured: bool

    @property
    def time(self) -> str:
        """How long it takes, for people; "" if nothing is known."""
        if self.seconds is None:
            return ""
        about = "about" if self.measured else "very roughly"
        return f"{about} {duration(self.seconds)}"

    @property
    def text(self) -> str:
        """One line for people."""
        size = " × ".join(f"{n:,}" for n in self.shape)
        tiles = "1 tile" if self.n_tiles == 1 else f"{self.n_tiles:,} tiles"
        parts = [f"{size} ({in_bytes(self.output_bytes)})", tiles, self.time]
        return ", ".join(filter(None, parts))

    @property
    def fits_in_memory(self) -> bool:
        """Whether the whole result fits beside everything else."""
        return self.output_bytes + self.peak_bytes < 0.8 * available_memory()


def estimate_need(
    shape: tuple[int, ...],
    axes: str,
    dtype: Any,
    options: UpscaleOptions,
    config: Swin2SRConfig,
    n_parameters: int,
) -> Need:
    """Tell what super-resolving an image of some shape and type will need.

    Raises
    ------
    OptionError
        If the options do not fit the model.
    """
    layout = resolve_axes(shape, axes)
    tiles = plan_tiles(
        layout.plane_shape,
        core=options.tile or default_tile(config, options.halo),
        halo=config.halo(options.halo),
        multiple_of=config.window_size,
        upscale=config.upscale,
    )
    asked = _Unread(layout.shape, np.dtype(dtype), config, options.device)
    ranges = (ValueRange(0, 1),) * layout.n_channels
    lazy = LazyUpscaled(asked, layout, tiles, ranges, asked, dtype=options.dtype)
    need = estimate(lazy)
    speed = _SPEED.get((options.model, options.device))
    tried = _SPEED.get(("", options.device))  # of the probe, for any model
    measured = speed is not None or tried is not None
    if speed is None and n_parameters:
        flops = _CPU_FLOPS if options.device in ("auto", "cpu") else _GPU_FLOPS
        speed = (tried or flops / 3.0) / n_parameters
    pixels = math.prod(layout.plane_shape) * layout.n_planes * need.pixel_overhead
    return Need(
        shape=lazy.shape,
        n_tiles=need.n_tiles,
        output_bytes=need.output_bytes,
        peak_bytes=need.peak_bytes,
        pixel_overhead=need.pixel_overhead,
        seconds=None if speed is None else pixels / speed,
        measured=measured,
    )


def remember_speed(options: UpscaleOptions, pixels: float, seconds: float) -> None:
    """Remember what a run has reached, for the next estimate."""
    if seconds > 0.5:
        _SPEED[options.model, options.device] = pixels / seconds


@functools.cache
def warm_up() -> threading.Thread:
    """Load PyTorch and the embedded model, and time it, while a person still chooses.

    Once per process. An interpreter must not leave in the middle of an import: it
    waits for the end.
    """
    thread = threading.Thread(target=_probe, name="napari-swin2sr warm-up", daemon=True)
    thread.start()
    atexit.register(thread.join, 60)
    return thread


def _probe() -> None:
    try:
        from napari_swin2sr.engine.upscaler import load_model

        model = load_model("default")
        tile = np.zeros((1, 3, _PROBE, _PROBE), np.float32)
        model(tile)  # the first call compiles or measures
        start = time.perf_counter()
        model(tile)
        speed = _PROBE**2 / (time.perf_counter() - start)
        _SPEED["", "auto"] = speed * count_parameters(model.config)
    except Exception:  # the run itself will say what is wrong
        logger.debug("warm-up failed", exc_info=True)


_PROBE = 160  # px per side


def in_bytes(n: float) -> str:
    """Return a size as people say it."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


@dataclass(frozen=True, slots=True)
class _Unread:
    """What an estimate asks pixels and a network; it reads and computes nothing."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    config: Swin2SRConfig
    device: str

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        raise AssertionError("an estimate computes nothing")
