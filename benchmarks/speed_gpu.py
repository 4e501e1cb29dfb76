"""Speed and accuracy on a GPU, ours beside the others that are installed, in one run.

Usage: python benchmarks/speed_gpu.py [--json FILE] [--side 1024] [--repeats 5]
       [--pipeline-side 4096] [--parts forward small pipeline launch] [--selftest]

From a checkout, `PYTHONPATH=src` is enough of an installation: it needs PyTorch with
Triton, numpy, pillow, safetensors, tifffile, scikit-image and, as peers, transformers
and spandrel. It takes a few minutes. Without a CUDA device it ends with code 2.

forward    One RGB tile: median time, PSNR and largest difference against float32, peak
           memory, share of the chip's bfloat16 matrix rate measured in the same run.
           The classical x4 (180 wide, 36 layers) and lightweight x2 shapes have seeded
           weights, which serve for timing; `default` is the model in the package.
small      A tile of the viewer's size alone, in a batch of 4, and replayed as a CUDA
           graph: time per tile.
pipeline   A whole grey uint16 image, tile by tile in threads as `apply` does it,
           against the sum of its forwards, with one and two tiles on the device.
launch     The two kernels one by one, for several numbers of warps, pipeline stages and
           pixels per program: how the constants in `cuda.py` were chosen.

`--selftest` runs every part in miniature, on the CPU (Triton's interpreter) where there
is no GPU; its times mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch
from peers import of_spandrel, of_transformers

if "--selftest" in sys.argv and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported

from napari_swin2sr.engine import cuda, cuda_streams
from napari_swin2sr.engine.cuda import GpuForward
from napari_swin2sr.formats import as_image
from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.upscale import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Row = dict[str, Any]

SHAPES = {
    "classical x4": {"upscale": 4},
    "lightweight x2": {
        "embed_dim": 60,
        "depths": (6,) * 4,
        "num_heads": (6,) * 4,
        "upsampler": "pixelshuffledirect",
    },
}
DEFAULT = "default"
ATTENTION = [
    {"num_warps": warps, "num_stages": stages} for warps in (4, 8) for stages in (1, 2)
]
MLP = [
    (rows, {"num_warps": rows // 16, "num_stages": stages})
    for rows in (64, 128)
    for stages in (1, 2, 3)
]

# -- measuring ---------------------------------------------------------------------


def median_ms(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the median time of a call on the device, after two that warm up."""
    times, warm = [], 2 if device.type == "cuda" else 0
    for i in range(repeats + warm):
        start = time.perf_counter()
        if device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            run()
            last.record()
            last.synchronize()
            ms = first.elapsed_time(last)
        else:
            run()
            ms = 1e3 * (time.perf_counter() - start)
        if i >= warm:
            times.append(ms)
    return statistics.median(times)


def matrix_rate(device: torch.device) -> float:
    """Return the chip's bfloat16 matrix rate [FLOP/s], on random data."""
    n = 8192 if device.type == "cuda" else 128
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / (median_ms(lambda: a @ b, 10, device) / 1e3)


def flops(config: Swin2SRConfig, height: int, width: int) -> float:
    """Return the operations of a forward, 2 for each multiply-add."""
    from torch.utils.flop_counter import FlopCounterMode

    side = 4 * config.window_size
    net = Swin2SRForImageSuperResolution(config).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net.upscale_tile(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() * height * width / side**2


def seeded(**shape: object) -> Swin2SRForImageSuperResolution:
    """Return a network with seeded weights that make every part matter."""
    torch.manual_seed(0)
    net = Swin2SRForImageSuperResolution(Swin2SRConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = max(parameter[0].numel(), 1) if parameter.dim() > 1 else 400
            parameter += 0.3 * torch.randn_like(parameter) / fan_in**0.5
    return net


def networks(tiny: bool) -> dict[str, Swin2SRForImageSuperResolution]:
    """Return the networks that are measured; in miniature for a self-test."""
    small = {"embed_dim": 36, "depths": (1,), "num_heads": (2,)} if tiny else {}
    nets = {name: seeded(**(shape | small)) for name, shape in SHAPES.items()}
    default = Swin2SRForImageSuperResolution.from_pretrained(DEFAULT)
    return nets | {DEFAULT: nets["lightweight x2"] if tiny else default}


# -- the peers -----------------------------------------------------------------------


def peers(
    net: Swin2SRForImageSuperResolution, device: torch.device
) -> Iterator[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]:
    """Yield the others' networks with the same weights, one after the other."""
    for name, make in (("transformers", of_transformers), ("spandrel", of_spandrel)):
        try:
            peer = make(net)
        except ImportError:
            print(f"{name} is not installed: no peer in this run")
            continue
        yield f"{name} fp32", peer.to(device)
        low = copy.deepcopy(peer).bfloat16()
        del peer
        yield f"{name} bf16", lambda x, low=low: low(x.bfloat16()).float()


# -- the parts -----------------------------------------------------------------------


def forward_rows(
    name: str, net: Swin2SRForImageSuperResolution, peak: float, run: Run
) -> Iterator[Row]:
    """Time one tile in every way, and compare with float32."""
    device = run.device
    work = flops(net.config, run.side, run.side)
    x = torch.rand(1, 3, run.side, run.side, device=device)
    exact = GpuForward(net, device, "fp32")(x)
    # Triton's interpreter cannot multiply bfloat16
    ways = ("bf16", "fp16", "fp32") if run.gpu else ("fp16", "fp32")
    ours = ((f"ours {how}", GpuForward(net, device, how)) for how in ways)
    for label, forward in itertools.chain(ours, peers(net, device)):
        row = {"part": "forward", "model": name, "side": run.side, "what": label}
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            error = (forward(x) - exact) / exact.abs().max()
            row["psnr_db"] = float(-10 * error.square().mean().log10())
            row["largest"] = float(error.abs().max())
            del error
            row["ms"] = median_ms(lambda f=forward: f(x), run.repeats, device)
        except RuntimeError as problem:  # no memory, or types that don't mix
            yield row | {"error": str(problem)[:80]}
            continue
        row["share_of_peak"] = work / (row["ms"] / 1e3) / peak
        if device.type == "cuda":
            row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if isinstance(forward, GpuForward):
            row["fused"] = forward.fuse
        yield row


def graphed(forward: GpuForward, x: torch.Tensor) -> Callable[[], object]:
    """Capture a forward as a CUDA graph; it is already warm."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        forward(x)
    return graph.replay


def small_rows(
    name: str, net: Swin2SRForImageSuperResolution, run: Run
) -> Iterator[Row]:
    """Time a tile of the viewer's size, alone, in a batch, and as a graph."""
    forward = GpuForward(net, run.device, "bf16" if run.gpu else "fp16")
    x = torch.rand(1, 1, run.small, run.small, device=run.device)
    batch = x.expand(4, -1, -1, -1).contiguous()
    ways: dict[str, tuple[int, Callable[[], Callable[[], object]]]] = {
        "alone": (1, lambda: lambda: forward(x)),
        "batch of 4": (4, lambda: lambda: forward(batch)),
        "as a CUDA graph": (1, lambda: graphed(forward, x)),
    }
    for what, (n, make) in ways.items():
        row = {"part": "small", "model": name, "side": run.small, "what": what}
        if what == "as a CUDA graph" and not run.gpu:
            yield row | {"error": "needs a GPU"}
            continue
        try:
            forward(x)
            ms = median_ms(make(), 20 if run.gpu else 1, run.device) / n
        except RuntimeError as problem:
            yield row | {"error": str(problem)[:80]}
            continue
        yield row | {"ms": ms}


def pipeline_rows(
    name: str, net: Swin2SRForImageSuperResolution, run: Run
) -> Iterator[Row]:
    """Time a whole image against the sum of its forwards."""
    side = run.pipeline_side
    rng = np.random.default_rng(0)
    image = rng.integers(100, 4000, (side, side), np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        net.save_pretrained(folder)
        options = UpscaleOptions(
            model=folder,
            device=run.device.type,
            precision="bf16",
            tile=None if run.gpu else 16,
            halo=None if run.gpu else 8,
        )
        lazy = prepare(as_image(image, options), options)
        upscaler = lazy.block = lazy.block.load()
    shapes = Counter(tile.padded_shape for tile in lazy.plan)
    forwards = 0.0
    with torch.inference_mode():
        for shape, n in shapes.items():
            x = torch.rand(1, 1, *shape, device=run.device)
            go = upscaler._forward
            forwards += n * median_ms(lambda x=x, go=go: go(x), 3, run.device)
            del x
    for streams in (1, cuda_streams.TILES_ON_DEVICE):
        with (
            patch.object(cuda_streams, "TILES_ON_DEVICE", streams),
            patch.object(cuda_streams, "_streams", {}),
        ):
            seconds = math.inf
            for _ in range(2):  # page-locked memory is made in the first
                start = time.perf_counter()
                with ThreadPoolExecutor(8) as pool:
                    blocks = pool.map(lazy.block_at, np.ndindex(*lazy.grid))
                    pixels = sum(block.size for block in blocks)
                seconds = min(seconds, time.perf_counter() - start)
        assert pixels == lazy.size
        yield {
            "part": "pipeline",
            "model": name,
            "side": side,
            "what": f"{streams} on the device",
            "ms": 1e3 * seconds,
            "sum_of_forwards_ms": forwards,
            "overhead": 1e3 * seconds / forwards - 1,
            "halo": lazy.plan.pixel_overhead - 1,
            "tiles": len(lazy.plan),
        }


def launch_rows(
    name: str, net: Swin2SRForImageSuperResolution, run: Run
) -> Iterator[Row]:
    """Time each kernel of a shifted layer on its own, in every way to launch it."""
    if not cuda.can_fuse(net):
        print("Triton is not here: no kernels in this run")
        return
    half = torch.bfloat16 if run.gpu else torch.float16
    layer = copy.deepcopy(net.swin2sr.encoder.stages[0].layers[-1]).to(run.device)
    packed = cuda.PackedLayer.from_layer(layer, half, True)
    x = torch.randn(1, run.side, run.side, net.config.embed_dim, device=run.device)
    kernels = (
        ("attention", [{"ATTENTION_LAUNCH": launch} for launch in ATTENTION]),
        ("mlp", [{"MLP_ROWS": rows, "MLP_LAUNCH": launch} for rows, launch in MLP]),
    )
    for kernel, launches in kernels:
        for change in launches if run.gpu else launches[:1]:
            row = {"part": "launch", "model": name, "side": run.side}
            row |= {"what": f"{kernel} {change}"}
            try:
                with patch.multiple(cuda, **change):
                    go = getattr(packed, f"fused_{kernel}")
                    ms = median_ms(lambda go=go: go(x), run.repeats, run.device)
            except Exception as problem:  # what does not fit is a result too
                yield row | {"error": f"{type(problem).__name__}: {problem}"[:80]}
                continue
            yield row | {"ms": ms}


# -- the command ---------------------------------------------------------------------


class Run:
    """Where and how large."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.gpu else "cpu")
        tiny = options.selftest
        self.side = 16 if tiny else options.side
        self.small = 16 if tiny else options.small_side
        self.pipeline_side = 40 if tiny else options.pipeline_side
        self.repeats = 1 if tiny else options.repeats


def show(row: Row) -> None:
    """Print a row as one line."""
    text = f"{row['part']:9} {row['model']:15} {row['side']:5} {row['what']:45}"
    units = {
        "ms": "{:9.2f} ms",
        "psnr_db": "{:6.1f} dB",
        "largest": "max {:.1e}",
        "peak_gib": "{:5.1f} GiB",
        "share_of_peak": "{:6.1%} of the matrix rate",
        "overhead": "{:+6.1%} over the forwards",
        "halo": "{:5.1%} of them halo",
        "error": "{}",
    }
    print(text, *(u.format(row[k]) for k, u in units.items() if k in row), flush=True)


def ratios(rows: list[Row]) -> Iterator[str]:
    """Say how much faster our 16 bits are than each peer, per model."""
    for name in {row["model"]: None for row in rows}:
        ms = {
            row["what"]: row["ms"]
            for row in rows
            if row["part"] == "forward" and row["model"] == name and "ms" in row
        }
        for peer in [what for what in ms if not what.startswith("ours")]:
            for ours in [what for what in ms if what.startswith("ours")]:
                yield f"{name}: {ours} is {ms[peer] / ms[ours]:.1f} times {peer}"


def rows_of(part: str, run: Run, tiny: bool, peak: float) -> Iterator[Row]:
    nets = networks(tiny)
    for name, net in nets.items():
        if part == "forward":
            yield from forward_rows(name, net, peak, run)
        elif part == "small" and name != "classical x4":
            yield from small_rows(name, net, run)
        elif part == "pipeline" and name != "lightweight x2":
            yield from pipeline_rows(name, net, run)
        elif part == "launch":
            yield from launch_rows(name, net, run)


def versions(names: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def main() -> int:
    parts = ["forward", "small", "pipeline", "launch"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", type=Path, help="write the numbers here too")
    add("--side", type=int, default=1024, help="tile [px]")
    add("--small-side", type=int, default=256, help="tile of the viewer [px]")
    add("--pipeline-side", type=int, default=4096, help="image [px]")
    add("--repeats", type=int, default=5)
    add("--parts", nargs="+", default=parts, choices=parts)
    add("--selftest", action="store_true")
    options = parser.parse_args()
    run = Run(options)
    if not run.gpu and not options.selftest:
        print("no CUDA device here: nothing measured", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # those of the peers
    if options.selftest:
        torch.set_num_threads(1)
    peak = matrix_rate(run.device)
    machine = {
        "device": torch.cuda.get_device_name() if run.gpu else "CPU",
        "python": platform.python_version(),
        "bf16_matrix_tflops": peak / 1e12,
        **versions(["torch", "triton", "numpy", "transformers", "spandrel"]),
    }
    print(machine, flush=True)
    rows: list[Row] = []
    for part in options.parts:
        start = time.perf_counter()
        with torch.inference_mode():
            for row in rows_of(part, run, options.selftest, peak):
                rows.append(row)
                show(row)
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
        if options.json:  # after every part, so that a run that is cut short has some
            found = {"machine": machine, "rows": rows}
            options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(*ratios(rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
