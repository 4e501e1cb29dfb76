"""The one place that chooses how a network is run; every way gives the same pixels.

On the CPU that is a measurement: each way that the processor offers (the compiled
kernels for each of its instruction sets, PyTorch's operations) first shows that it
computes what the network computes, and is then timed on a layer of 16 windows, which
predicts whole tiles well. The times are kept beside the kernels.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from napari_swin2sr.engine import cpu_native
from napari_swin2sr.engine.cpu_torch import CpuForward
from napari_swin2sr.engine.instruction_sets import INSTRUCTION_SETS
from napari_swin2sr.engine.trim import cut
from napari_swin2sr.errors import OptionError, check_cancel
from napari_swin2sr.replace import written_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.box import Box
    from napari_swin2sr.model.error_head import ErrorHead
    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.weights.config import Swin2SRConfig

logger = logging.getLogger(__name__)


class Forward(Protocol):
    """(N, C, H, W) float32 on a device -> (N, C, upscale * H, upscale * W) float32."""

    def __call__(
        self,
        x: Tensor,
        core: Box | None = None,
        cancel: CancelToken | None = None,
        error_head: ErrorHead | None = None,
    ) -> Tensor:
        """Run the network; `Cancelled` soon after the token is set.

        With a core (a part of the tile [input px]) the result is cut to it. An error
        head appends to the channels how far each may be off.
        """


SWITCH = "NAPARI_SWIN2SR_NATIVE"
"""Environment variable: `auto` (or nothing) measures; `0` is PyTorch's operations, `1`
the compiled kernels, and the name of an instruction set its kernels, unmeasured."""

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}
"""Largest difference to the network that a way may have; results are about 0 to 1."""

REPEATS = 5

CHOICES = "choices.json"
MOST_CHOICES = 100
"""File in the kernels' folder with what was measured, and how much it keeps."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run a network on the CPU."""

    engine: str  # "pytorch", or an instruction set of the kernels
    precision: str  # "fp32" or "bf16"
    library: str  # file of the kernels, whose name holds its hash
    make: Callable[[Swin2SRForImageSuperResolution], CpuForward | None]

    @property
    def name(self) -> str:
        """Return what messages call it."""
        engine = "PyTorch" if self.engine == "pytorch" else f"{self.engine} kernels"
        return f"{engine}, {self.precision}"


@dataclass(frozen=True, slots=True)
class Choice:
    """How a network is run on the CPU, and why."""

    name: str
    reason: str
    seconds: Mapping[str, float]  # of each way, for a layer of 16 windows


def prepare(
    net: Swin2SRForImageSuperResolution, device: torch.device, precision: str
) -> Forward:
    """Return the fastest way to run a network on a device; threads may share it.

    The network is copied. `precision` ("fp32", "bf16" or "fp16") is that of the
    products inside the transformer; a CPU runs float32 where that is faster.
    """
    if device.type == "cuda":
        from napari_swin2sr.engine.cuda import GpuForward

        return GpuForward(net, device, precision)
    if device.type == "cpu":
        return prepare_cpu(net, precision)[0]
    return _plain(net, device)


# -- the choice on the CPU -----------------------------------------------------------


def prepare_cpu(
    net: Swin2SRForImageSuperResolution, precision: str
) -> tuple[Forward, Choice]:
    """Return the fastest way to run a network on the CPU, and why it was taken.

    `OptionError` if the environment asks for what this processor does not have.
    """
    wanted = _wanted()
    ways = _offered(net, precision, wanted)
    forced = "nothing else is offered" if wanted == "auto" else f"{SWITCH}={wanted}"
    with one_thread():
        if wanted == "auto" and len(ways) > 1:
            found = _fastest(net, ways)
        else:
            found = _first(net, ways, forced)
    if found is None:
        plain = _plain(net, torch.device("cpu"))
        return plain, Choice("plain network", "nothing else is right", {})
    name, reason = found[1].name, found[1].reason
    if precision == "bf16" and not name.endswith(precision):
        logger.warning("precision bf16: %s runs (%s)", name, reason)
    elif wanted not in {"auto", "0"} and "kernels" not in name:
        logger.warning("%s: there are no such kernels here; %s runs", reason, name)
    return found


def _plain(net: Swin2SRForImageSuperResolution, device: torch.device) -> Forward:
    """Return the network itself, which is copied; a forward is not interrupted."""
    net = copy.deepcopy(net).to(device, torch.float32).eval().requires_grad_(False)

    def forward(
        x: Tensor,
        core: Box | None = None,
        cancel: CancelToken | None = None,
        error_head: ErrorHead | None = None,
    ) -> Tensor:
        check_cancel(cancel)
        y = net.upscale_tile(x, error_head=error_head)
        return cut(y, core, net.config.upscale)

    return forward


def _wanted() -> str:
    """Return what the environment asks for."""
    wanted = os.environ.get(SWITCH) or "auto"
    allowed = ["auto", "0", "1", *cpu_native.instruction_sets()]
    if wanted not in allowed:
        raise OptionError(
            f"{SWITCH}={wanted!r} cannot be had on this processor; "
            f"choose one of {', '.join(allowed)}, or unset it"
        )
    return wanted


def _offered(
    net: Swin2SRForImageSuperResolution, precision: str, wanted: str
) -> list[Way]:
    """Return the ways that may be used, those that were asked for first."""
    precisions = ["fp32"]
    if precision == "bf16" and cpu_native.has_bfloat16():
        precisions = ["bf16", "fp32"]
    ways = [
        Way("pytorch", how, "", partial(CpuForward, half=TYPES[how]))
        for how in precisions
    ]
    if wanted == "0" or not cpu_native.serves(net):
        return ways
    kernels = []
    for how in precisions:
        sets = cpu_native.instruction_sets(how)
        if wanted in INSTRUCTION_SETS:
            sets = [name for name in sets if name == wanted]
        elif "avx2" in sets:
            sets = [name for name in sets if name != "sse"]  # never the fastest
        for name in sets:
            if (library := cpu_native.load_kernels(how, name)) is not None:
                make = partial(
                    cpu_native.prepare_native, precision=how, instructions=name
                )
                kernels.append(Way(name, how, Path(library._name).name, make))
    return [*kernels, *ways]


def _first(
    net: Swin2SRForImageSuperResolution, ways: list[Way], reason: str
) -> tuple[Forward, Choice] | None:
    """Return the first way that is right."""
    for way in ways:
        if (forward := _made(net, way)) is not None:
            return forward, Choice(way.name, reason, {})
    return None


def _fastest(
    net: Swin2SRForImageSuperResolution, ways: list[Way]
) -> tuple[Forward, Choice] | None:
    """Return the fastest way that is right, as it was measured here once."""
    config = net.config
    shape = (config.embed_dim, config.num_heads, config.mlp_ratio, config.window_size)
    facts = (cpu_native.processor(), torch.__version__, str(shape))
    libraries = [f"{way.name} {way.library}" for way in ways]
    key = hashlib.sha256("\n".join([*facts, *libraries]).encode()).hexdigest()
    with cpu_native.cache_folder() as folder:
        kept = read_choices(folder / CHOICES)
        if (known := _valid(kept.get(key), ways)) is not None:
            way = min(ways, key=lambda way: known[way.name])
            if (forward := _made(net, way)) is not None:
                return forward, Choice(way.name, "the fastest, measured before", known)
        made = {way.name: f for way in ways if (f := _made(net, way)) is not None}
        if not made:
            return None
        seconds = measure(made)
        entry = {"processor": cpu_native.processor_name(), "seconds": seconds}
        kept = {k: v for k, v in kept.items() if k != key} | {key: entry}
        write_choices(folder / CHOICES, kept)
    name = min(seconds, key=lambda name: seconds[name])
    return made[name], Choice(name, "the fastest, measured now", seconds)


def gray_ramp(config: Swin2SRConfig, windows: int) -> Tensor:
    """Return a tile of so many windows a side to try a network on, 0 to 1."""
    side = windows * config.window_size
    ramp = torch.linspace(0, 1, side**2).view(1, 1, side, side)
    return ramp.expand(-1, config.num_channels, -1, -1)


def _made(net: Swin2SRForImageSuperResolution, way: Way) -> CpuForward | None:
    """Return the network for a way, if its pixels are those of the network itself."""
    forward = way.make(net)
    if forward is None:
        return None
    ramp = gray_ramp(net.config, windows=2)
    with torch.inference_mode():
        expected = forward.net.upscale_tile(ramp)
        error = float((forward(ramp) - expected).abs().max())
    if error <= TOLERANCE[way.precision] * max(1.0, float(expected.abs().max())):
        return forward
    logger.warning("%s is off by %s here and is not used", way.name, error)
    return None


def measure(forwards: Mapping[str, CpuForward]) -> dict[str, float]:
    """Return the CPU seconds of a layer of 16 windows in this thread, best of 5."""
    fine = time.get_clock_info("thread_time").resolution < 1e-5
    clock = time.thread_time if fine else time.perf_counter
    samples = {name: forward.sample() for name, forward in forwards.items()}
    best = dict.fromkeys(samples, math.inf)

    with torch.inference_mode():
        for _ in range(1 + REPEATS):
            for name, sample in samples.items():
                start = clock()
                sample()
                best[name] = min(best[name], clock() - start)
    return best


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, as it does for a group of windows."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- what was measured before --------------------------------------------------------


def read_choices(file: Path) -> dict[str, Any]:
    """Return what a file keeps; nothing if it is damaged or others can write to it."""
    try:
        if not cpu_native.is_private(file):
            return {}
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_choices(file: Path, kept: dict[str, Any]) -> None:
    """Keep the latest choices; where that fails they are measured again."""
    text = json.dumps(dict(list(kept.items())[-MOST_CHOICES:]), indent=1)
    try:
        with written_beside(file) as made:
            made.write_text(text + "\n", "utf-8")
            made.chmod(0o600)
    except OSError as error:
        logger.info("%s cannot be written: %s", file, error)


def _valid(entry: object, ways: list[Way]) -> dict[str, float] | None:
    """Return the times of an entry if it has one of each way, and nothing else."""
    seconds = entry.get("seconds") if isinstance(entry, dict) else None
    if not isinstance(seconds, dict) or seconds.keys() != {way.name for way in ways}:
        return None
    right = all(type(x) is float and 0 < x < math.inf for x in seconds.values())
    return seconds if right else None
