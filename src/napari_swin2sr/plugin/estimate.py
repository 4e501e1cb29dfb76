"""What a run will need, said before it begins; nothing is read or computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.layer_source import LayerSource
from napari_swin2sr.plugin.worker import duration
from napari_swin2sr.runs.resources import estimate
from napari_swin2sr.tiles.cache import available_memory
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import default_tile, plan_tiles
from napari_swin2sr.weights.config import Swin2SRConfig

_SPEED: dict[tuple[str, str], float] = {}
"""Network input pixels per second that runs of this process have reached."""

_CPU_FLOPS, _GPU_FLOPS = 5e10, 1e13
"""What to expect of a machine before it has shown what it can [FLOP/s]."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will need.

    Attributes
    ----------
    shape : of the result
    n_tiles : calls of the network
    output_bytes, peak_bytes : size of the result, and memory for tiles in work
    pixels : what the network will see [input px]
    pixel_overhead : pixels computed per pixel kept, because of the halo
    seconds : roughly; None if nothing is known of the model
    measured : whether `seconds` comes from a run on this machine
    """

    shape: tuple[int, ...]
    n_tiles: int
    output_bytes: int
    peak_bytes: int
    pixels: float
    pixel_overhead: float
    seconds: float | None
    measured: bool

    @property
    def text(self) -> str:
        """One line for people."""
        size = " x ".join(f"{n:,}" for n in self.shape)
        tiles = "1 tile"
        if self.n_tiles > 1:
            tiles = f"{self.n_tiles:,} tiles ({self.pixel_overhead - 1:.0%} for halos)"
        parts = [f"{size} ({in_bytes(self.output_bytes)}), {tiles}"]
        if self.seconds is not None:
            about = "about" if self.measured else "very roughly"
            parts.append(f"{about} {duration(self.seconds)}")
        parts.append(f"{in_bytes(self.peak_bytes)} of memory for tiles")
        return ", ".join(parts)

    @property
    def fits_in_memory(self) -> bool:
        """Whether the whole result fits beside everything else."""
        free = available_memory()
        return free is None or self.output_bytes + self.peak_bytes < 0.8 * free


def forecast(
    source: LayerSource,
    options: UpscaleOptions,
    config: Swin2SRConfig,
    n_parameters: int,
) -> Forecast:
    """Tell what running `options` on a layer will need.

    Raises
    ------
    OptionError
        If the options do not fit the model.
    """
    layout = source.layout
    tiles = plan_tiles(
        layout.plane_shape,
        core=options.tile or default_tile(config, options.halo),
        halo=config.halo(options.halo),
        multiple_of=config.window_size,
        upscale=config.upscale,
    )
    lazy = LazyUpscaled(
        source.data,
        layout,
        tiles,
        (ValueRange(0, 1),) * layout.n_channels,
        _Unused(config, options.device),
        dtype=options.dtype,
    )
    need = estimate(lazy)
    pixels = math.prod(layout.plane_shape) * layout.n_planes * need.pixel_overhead
    speed = _SPEED.get((options.model, options.device))
    measured = speed is not None
    if speed is None and n_parameters:
        flops = _CPU_FLOPS if options.device in ("auto", "cpu") else _GPU_FLOPS
        speed = flops / (3.0 * n_parameters)
    return Forecast(
        shape=lazy.shape,
        n_tiles=need.n_tiles,
        output_bytes=need.output_bytes,
        peak_bytes=need.peak_bytes,
        pixels=pixels,
        pixel_overhead=need.pixel_overhead,
        seconds=None if speed is None else pixels / speed,
        measured=measured,
    )


def remember_speed(options: UpscaleOptions, pixels: float, seconds: float) -> None:
    """Remember what a run has reached, for the next forecast."""
    if seconds > 0.5:
        _SPEED[options.model, options.device] = pixels / seconds


def in_bytes(n: float) -> str:
    """Return a size as people say it."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


@dataclass(frozen=True, slots=True)
class _Unused:
    """What the estimate asks a network."""

    config: Swin2SRConfig
    device: str

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        raise AssertionError("a forecast computes nothing")
