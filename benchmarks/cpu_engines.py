"""The ways to run a network on the CPU that `speed_cpu.py` compares, a process each."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads sleep

import numpy as np
import torch
from peak import forget_peak, peak_megabytes
from peers import of_spandrel, of_transformers

from napari_swin2sr.engine.cpu_native import prepare_native
from napari_swin2sr.engine.cpu_torch import CpuForward
from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution

Forward: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""(1, 3, H, W) float32 from 0 to 1 -> (1, 3, uH, uW) float32."""

SHAPES = {
    "light": {
        "embed_dim": 60,
        "depths": (6,) * 4,
        "num_heads": (6,) * 4,
        "upsampler": "pixelshuffledirect",
    },
    "classical": {"upscale": 4},
}

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TILE, OVERLAP = 256, 32
CORNER = 256


class NotOfferedError(Exception):
    """This engine cannot run here; the text says why."""


def of_peer(
    make: Callable[[Swin2SRForImageSuperResolution], torch.nn.Module],
    net: Swin2SRForImageSuperResolution,
    precision: str,
) -> Forward:
    """Return the forward of somebody else's network."""
    dtype = TYPES[precision]
    theirs = make(net).to(dtype)
    return lambda x: theirs(x.to(dtype)).float()


transformers_forward = partial(of_peer, of_transformers)
spandrel_forward = partial(of_peer, of_spandrel)


def in_tiles(net: Swin2SRForImageSuperResolution, precision: str) -> Forward:
    """Overlapping tiles, the last one shifted back to fit, sums over counts."""
    forward, up = transformers_forward(net, precision), net.config.upscale

    def starts(length: int) -> list[int]:
        return [*range(0, length - TILE, TILE - OVERLAP), length - TILE]

    def run(x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        total = torch.zeros(1, 3, up * height, up * width)
        count = torch.zeros_like(total)
        for top in starts(height):
            for left in starts(width):
                tile = forward(x[..., top : top + TILE, left : left + TILE])
                rows = slice(up * top, up * (top + TILE))
                columns = slice(up * left, up * (left + TILE))
                total[..., rows, columns] += tile
                count[..., rows, columns] += 1
        return total / count

    return run


def of_plain(net: Swin2SRForImageSuperResolution, _: str) -> Forward:
    return net.upscale_tile


def of_pytorch(net: Swin2SRForImageSuperResolution, precision: str) -> Forward:
    return CpuForward(net, TYPES[precision])


def of_kernels(
    net: Swin2SRForImageSuperResolution,
    precision: str,
    instructions: str | None = None,
) -> Forward:
    if precision == "fp16":
        raise NotOfferedError(
            "not offered: slower and less exact than float32 on a CPU"
        )
    forward = prepare_native(net, precision, instructions)
    if forward is None:
        raise NotOfferedError("needs a C compiler and a processor that has it")
    return forward


@dataclass(frozen=True)
class Engine:
    """A way to run the network; `whole`: it keeps large maps of the whole image."""

    make: Callable[[Swin2SRForImageSuperResolution, str], Forward]
    precision: str = "fp32"
    whole: bool = False


ENGINES = {
    "transformers fp32": Engine(transformers_forward, whole=True),
    "transformers bf16": Engine(transformers_forward, "bf16", whole=True),
    "transformers fp16": Engine(transformers_forward, "fp16", whole=True),
    "transformers fp32, tiles": Engine(in_tiles),
    "spandrel fp32": Engine(spandrel_forward, whole=True),
    "spandrel bf16": Engine(spandrel_forward, "bf16", whole=True),
    "ours, plain network": Engine(of_plain, whole=True),
    "ours, PyTorch fp32": Engine(of_pytorch),
    "ours, PyTorch bf16": Engine(of_pytorch, "bf16"),
    "ours, kernels fp32": Engine(of_kernels),
    "ours, avx2 kernels fp32": Engine(partial(of_kernels, instructions="avx2")),
    "ours, sse kernels fp32": Engine(partial(of_kernels, instructions="sse")),
    "ours, kernels bf16": Engine(of_kernels, "bf16"),
    "ours, fp16": Engine(of_kernels, "fp16"),
}


def make_network(name: str) -> Swin2SRForImageSuperResolution:
    """Load a model, or draw seeded weights for a published shape."""
    if name not in SHAPES:
        return Swin2SRForImageSuperResolution.from_pretrained(name)
    torch.manual_seed(0)
    net = Swin2SRForImageSuperResolution(Swin2SRConfig(**SHAPES[name]))
    with torch.no_grad():
        for parameter in net.parameters():  # wide enough for attention to matter
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5)
    return net.eval()


def photograph(size: int) -> torch.Tensor:
    """Return (1, 3, size, size) float32 from 0 to 1: a picture, repeated."""
    from skimage import data

    picture = data.astronaut().transpose(2, 0, 1)
    times = -(-size // 512)
    tiled = np.tile(picture, (1, times, times))[:, :size, :size]
    return torch.from_numpy(tiled.astype(np.float32) / 255)[None]


# -- a process for each engine -------------------------------------------------------


def serve(pipe, engine: str, model: str, threads: int) -> None:
    """Make an engine, then run it on photographs of the sizes that are asked for."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # those of the peers
    try:
        net = make_network(model)
        forward = ENGINES[engine].make(net, ENGINES[engine].precision)
    except ImportError as error:
        pipe.send(f"not installed ({error})")
        return
    except NotOfferedError as error:
        pipe.send(str(error))
        return
    pipe.send({})
    side = CORNER * net.config.upscale
    while True:
        x = photograph(pipe.recv())
        forget_peak()
        before, start, cpu = peak_megabytes(), time.perf_counter(), time.process_time()
        try:
            with torch.inference_mode():
                y = forward(x)
        except (RuntimeError, MemoryError) as error:
            pipe.send(f"failed: {str(error).splitlines()[0][:80]}")
            continue
        answer = {
            "seconds": time.perf_counter() - start,
            "cpu seconds": time.process_time() - cpu,
            "megabytes before": before,
            "peak megabytes": peak_megabytes(),
            "corner": y[..., :side, :side].numpy().copy(),
        }
        del x, y
        pipe.send(answer)


class Worker:
    """An engine in its process; `note` says why it cannot be used any more."""

    def __init__(self, engine: str, model: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        job = (theirs, engine, model, threads)
        self.process = context.Process(target=serve, args=job, daemon=True)
        self.process.start()
        theirs.close()
        self.engine, self.note = engine, ""
        self.last: tuple[int, float] | None = None  # size, seconds

    def wait(self, limit: float) -> dict:
        """Return the answer; none after `limit` seconds or if the process is gone."""
        try:
            if self.pipe.poll(limit):
                answer = self.pipe.recv()
                if isinstance(answer, dict):
                    return answer
                self.stop(answer)
            else:
                self.stop(f"stopped after {limit:g} s")
        except (EOFError, OSError):
            self.stop("its process ended, as when memory runs out")
        return {}

    def run(self, size: int, limit: float) -> dict:
        """Run one forward."""
        self.pipe.send(size)
        answer = self.wait(limit)
        if answer:
            self.last = (size, answer["seconds"])
        return answer

    def refuse(self, size: int, limit: float, peer_limit: int) -> str:
        """Return why this size is not run, or nothing."""
        if ENGINES[self.engine].make is in_tiles and size <= TILE:
            return "one tile is the whole image"
        if not self.note and ENGINES[self.engine].whole and size > peer_limit:
            self.stop(f"not run above {peer_limit} px: keeps maps of the whole image")
        if not self.note and self.last is not None:
            expected = self.last[1] * (size / self.last[0]) ** 2
            if expected > limit:
                self.stop(f"about {expected:.0f} s expected, limit {limit:g} s")
        return self.note

    def stop(self, note: str) -> None:
        """End the process, and give its memory back."""
        self.note = note
        self.process.kill()
        self.process.join()
