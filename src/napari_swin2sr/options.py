"""Every option of an upscaling run, once: default, unit, help text and validation.

The Python functions, the command line and the napari widget read this list; none
of them owns a default of its own.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias

from napari_swin2sr.errors import OptionError

Halo: TypeAlias = int | Literal["exact"] | None
"""Real context around a tile, in input pixels per side."""

RangeSpec: TypeAlias = (
    Literal["dtype", "data"]
    | tuple[float, float]
    | Sequence[tuple[float, float]]
    | None
)
"""How intensities map to the network: see `UpscaleOptions.value_range`."""

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Device kinds; `cuda:1` and the like are allowed too."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
"""Arithmetic inside the transformer; everything else is always float32."""

OME_VERSIONS = ("0.5", "0.4")
"""Versions of OME-Zarr that can be written."""

DEFAULT_HALO = 48
"""Input pixels of real context per side: no seam above 0.02 of 255 levels."""

DEFAULT_TRUST, TRUST = 0.9, (0.5, 0.99)
"""Share of the pixels whose truth an error bar is to hold, and the shares allowed."""

DEFAULT_TILE = 1024
"""Input pixels per side of a tile's core, at least: see `tiles.plan.default_tile`."""


def _option(default: Any, text: str, *, unit: str = "", choices: Any = None) -> Any:
    return dataclasses.field(
        default=default, metadata={"help": text, "unit": unit, "choices": choices}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleOptions:
    """What a person can choose about a run; validated when it is made.

    Raises
    ------
    OptionError
        If a value is not allowed; the text names the option, the value and what
        is allowed.
    """

    model: str = _option(
        "default", "Model: a name from `napari-swin2sr models`, a folder or a file"
    )
    axes: str | None = _option(
        None, "One letter per array axis, from T C Z Y X S (S: RGB samples)"
    )
    rgb: bool | None = _option(
        None, "The last axis holds RGB or RGBA samples (short for axes ending in S)"
    )
    value_range: RangeSpec = _option(
        None,
        "Intensities that are black and white: LOW,HIGH, one pair per channel, "
        "'dtype', or 'data' (robust, from a sample); default: 'dtype' for 8-bit, "
        "'data' for the rest",
    )
    nodata: float | None = _option(
        None, "Value that marks missing pixels; they stay missing in the result"
    )
    tile: int | None = _option(
        None,
        "Core of a tile, rounded up to the window "
        f"[{DEFAULT_TILE} or more, by the model and its halo]",
        unit="px",
    )
    halo: Halo = _option(
        None,
        "Real context read around each tile: a multiple of the window, or 'exact' "
        "for the same result as the whole image in one piece",
        unit="px",
    )
    device: str = _option("auto", "Where the network runs", choices=DEVICES)
    precision: str = _option(
        "auto", "Arithmetic inside the transformer", choices=PRECISIONS
    )
    dtype: str | None = _option(
        None, "Type of the result's numbers [that of the input]"
    )
    trust: bool | float = _option(
        False,
        "Make error bars too: half-widths within which the truth lies for LEVEL of the "
        f"pixels, {TRUST[0]} to {TRUST[1]} [{DEFAULT_TRUST}]",
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be right whatever the image and the model."""
        if not isinstance(self.model, (str, os.PathLike)):
            raise OptionError(
                f"model={self.model!r} is no name of a model and no path to one"
            )
        object.__setattr__(self, "model", os.fspath(self.model))
        if self.rgb not in (None, True, False):
            raise OptionError(f"rgb={self.rgb!r} is not True, False or None")
        if self.nodata is not None and not _is_number(self.nodata):
            raise OptionError(f"nodata={self.nodata!r} is not a number or None")
        if self.tile is not None and not _is_whole(self.tile, least=1):
            raise OptionError(
                f"tile={self.tile!r} is not a positive whole number of input pixels"
            )
        check_halo(self.halo)
        if self.device not in DEVICES and not str(self.device).startswith("cuda:"):
            raise OptionError(
                f"device={self.device!r} is not one of {', '.join(DEVICES)}, cuda:N"
            )
        if self.precision not in PRECISIONS:
            raise OptionError(
                f"precision={self.precision!r} is not one of {', '.join(PRECISIONS)}"
            )
        object.__setattr__(self, "trust", check_trust(self.trust))

    def replace(self, **changes: Any) -> UpscaleOptions:
        """Return a copy with some values changed."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a person can choose about how a file is made; validated when it is made.

    Raises
    ------
    OptionError
        If a value is not allowed, or two do not go together.
    """

    series: int = _option(0, "Which image of the source")
    level: int = _option(0, "Which level of its pyramid")
    ome_version: str = _option("0.5", "Of OME-Zarr", choices=OME_VERSIONS)
    cog: bool = _option(False, "Write a Cloud Optimized GeoTIFF (extra geo)")
    overwrite: bool = _option(
        False, "Replace a finished target, at the moment when the new one is whole"
    )
    check_space: bool = _option(
        True, "Refuse to begin when the disk has no space for the result"
    )
    resume: bool = _option(
        True, "Go on where an interrupted run of the same job stopped"
    )
    verify: bool = _option(
        False, "Check every finished tile and recompute damaged ones"
    )
    part: tuple[int, int] | str | None = _option(
        None, "I/N: compute only part I (from 0) of N, for array jobs on a cluster"
    )
    workers: int | None = _option(None, "Tiles in flight [4]")

    def __post_init__(self) -> None:
        """Refuse what cannot be right whatever the image and the target."""
        if self.ome_version not in OME_VERSIONS:
            raise OptionError(
                f"ome_version={self.ome_version!r} is neither '0.5' nor '0.4'"
            )
        object.__setattr__(self, "part", check_part(self.part))
        if self.part is not None and (self.overwrite or not self.resume):
            raise OptionError(
                "part with overwrite or without resume: a part must not delete what "
                "the others have made. Delete the old result first"
            )
        if self.workers is not None and not _is_whole(self.workers, least=1):
            raise OptionError(
                f"workers={self.workers!r} is not a positive number of threads"
            )


def check_part(part: tuple[int, int] | str | None) -> tuple[int, int] | None:
    """Return ``(i, n)`` of a part given as such or as "i/n", i from 0 to n - 1.

    Raises
    ------
    OptionError
        If it is neither.
    """
    if part is None:
        return None
    try:
        i, n = (int(x) for x in (part.split("/") if isinstance(part, str) else part))
    except (TypeError, ValueError):
        i, n = -1, 0
    if not 0 <= i < n:
        raise OptionError(
            f"part={part!r} is not I/N with I from 0 to N - 1, such as 0/16 ... 15/16"
        )
    return i, n


def check_trust(trust: object) -> float | Literal[False]:
    """Return the share of the pixels that error bars are to hold, or False for none.

    Raises
    ------
    OptionError
        If it is neither true, false nor such a share.
    """
    if trust is None or trust is False:
        return False
    if trust is True:
        return DEFAULT_TRUST
    if not isinstance(trust, Real) or not TRUST[0] <= float(trust) <= TRUST[1]:
        raise OptionError(
            f"trust={trust!r} is neither True, False nor a share of the pixels from "
            f"{TRUST[0]} to {TRUST[1]}, such as {DEFAULT_TRUST}"
        )
    return float(trust)


def check_halo(halo: Halo, window: int = 1) -> None:
    """Refuse what is no context around a tile, or leaves the grid of windows.

    Raises
    ------
    OptionError
        If it is a number that is negative or no multiple of the window.
    """
    if halo is None or halo == "exact":
        return
    if not _is_whole(halo, least=0):
        raise OptionError(
            f"halo={halo!r} is not a number of input pixels >= 0, 'exact' or None"
        )
    if halo % window:
        raise OptionError(
            f"halo={halo} is not a multiple of the model's window of {window} px, so "
            f"tiles would leave the window grid; use {-(-halo // window) * window}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, Real)  # NumPy's scalars too


def _is_whole(value: object, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
