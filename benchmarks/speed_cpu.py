"""How fast the network runs on the CPU, against the others that are installed.

Usage: python benchmarks/speed_cpu.py [--sizes 256 512] [--threads 2] [--repeats 5]
       [--model default|lightweight-x2|FOLDER|light|classical] [--json FILE] [--scaling]

One table: seconds per forward (median of the repeats, engines in turn, so that all
meet the same load), how many times as fast as transformers, megapixels of input per
second, share of the matrix rate measured in the same run, and the difference to the
plain network in float32 on a photograph: PSNR and largest difference, values 0 to 1.
`light` and `classical` are the published shapes x2 and x4 with seeded weights.
With --scaling the pixels go through `apply`, each size in a process of its own:
seconds per megapixel and the largest memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads burn no time

import numpy as np
import torch

from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution
from napari_swin2sr.model.fast_cpu import CpuForward
from napari_swin2sr.model.fast_native import prepare_native

SHAPES = {
    "light": {
        "embed_dim": 60,
        "depths": (6,) * 4,
        "num_heads": (6,) * 4,
        "upsampler": "pixelshuffledirect",
    },
    "classical": {"upscale": 4},
}

SCALING_MEGAPIXELS = (0.25, 1, 4, 16, 64)


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


def engines(net: Swin2SRForImageSuperResolution) -> dict[str, object]:
    """Return every way to run the network that there is here, the rivals first."""
    found: dict[str, object] = {}
    config, state = net.config, net.state_dict()
    try:
        import transformers

        theirs = transformers.Swin2SRForImageSuperResolution(
            transformers.Swin2SRConfig.from_dict(config.to_dict())
        ).eval()
        theirs.load_state_dict(state)
        found["transformers fp32"] = lambda x: theirs(x).reconstruction
        half = transformers.Swin2SRForImageSuperResolution(theirs.config).eval()
        half.load_state_dict(state)
        half = half.to(torch.bfloat16)
        found["transformers bf16"] = lambda x: half(x.bfloat16()).reconstruction.float()
    except ImportError:
        pass
    found["ours, plain network"] = net.upscale_tile
    found["ours, PyTorch fp32"] = CpuForward(net)
    found["ours, PyTorch bf16"] = CpuForward(net, torch.bfloat16)
    for precision in ("fp32", "bf16"):
        kernels = prepare_native(net, precision)
        if kernels is not None:
            found[f"ours, kernels {precision}"] = kernels
    return found


def multiplications(config: Swin2SRConfig) -> float:
    """Return multiplications per input pixel, without those of the ends."""
    c, window = config.embed_dim, config.window_size**2
    layer = 4 * c * c + 2 * c * config.mlp_dim + 2 * window * c
    return sum(config.depths) * layer + (len(config.depths) + 1) * 9 * c * c


def matrix_rate() -> float:
    """Return multiplications per second of a large float32 matrix product."""
    a = torch.rand(1024, 1024)
    best = math.inf
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 1024**3 / best


def measure(net: Swin2SRForImageSuperResolution, size: int, repeats: int) -> list[dict]:
    """Time all engines in turn on one image."""
    x, ways = photograph(size), engines(net)
    rate = matrix_rate()
    results, seconds = {}, {name: [] for name in ways}
    with torch.inference_mode():
        expected = net.upscale_tile(x)
        for name, forward in ways.items():
            results[name] = forward(x)  # warms up, too
        for _ in range(repeats):
            for name, forward in ways.items():
                start = time.perf_counter()
                forward(x)
                seconds[name].append(time.perf_counter() - start)
    rows = []
    base = statistics.median(seconds.get("transformers fp32", [math.nan]))
    for name, times in seconds.items():
        median, error = statistics.median(times), (results[name] - expected).double()
        square = error.square().mean().item()
        rows.append(
            {
                "size": size,
                "engine": name,
                "seconds": median,
                "fastest": min(times),
                "times transformers": base / median,
                "megapixels per second": size * size / median / 1e6,
                "share of matrix rate": multiplications(net.config)
                * size
                * size
                / median
                / rate,
                "psnr": -10 * math.log10(square) if square else math.inf,
                "largest difference": error.abs().max().item(),
            }
        )
    return rows


def run_scaling(model: str, megapixels: float) -> dict:
    """Upscale a lazy image of a size through `apply`, and forget the result."""
    import dask.array as da

    import napari_swin2sr

    side = round(math.sqrt(megapixels * 2**20))
    block = photograph(512)[0, 0].numpy()
    plane = da.from_array(block).rechunk(512)
    times = -(-side // 512)
    image = da.tile(plane, (times, times))[:side, :side]
    start = time.perf_counter()
    lazy = napari_swin2sr.apply(image, model, value_range=(0.0, 1.0))
    with np.errstate(all="raise"):
        total = float(lazy.sum(dtype="float64").compute(scheduler="threads"))
    return {
        "megapixels": side * side / 1e6,
        "seconds": time.perf_counter() - start,
        "peak megabytes": peak_megabytes(),
        "mean": total / lazy.size,
    }


def peak_megabytes() -> float:
    """Return this process's own peak; ru_maxrss would include its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    lines = status.read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024


def scaling(model: str, threads: int) -> list[dict]:
    """Measure each size in a fresh process."""
    rows = []
    for megapixels in SCALING_MEGAPIXELS:
        command = [sys.executable, __file__, "--model", model, "--one", str(megapixels)]
        command += ["--threads", str(threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(output.stdout))
        row = rows[-1]
        print(
            f"{row['megapixels']:8.2f} MP {row['seconds']:9.1f} s "
            f"{row['seconds'] / row['megapixels']:7.2f} s/MP "
            f"{row['peak megabytes']:8.0f} MB"
        )
    return rows


def machine() -> dict:
    """Describe where this ran."""
    cpuinfo = Path("/proc/cpuinfo")
    name = platform.processor()
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((x.split(": ")[1] for x in lines if "model name" in x), name)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    return {
        "processor": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load before": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="light")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one is not None:
        print(json.dumps(run_scaling(options.model, options.one)))
        return
    facts = machine()
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="; ")
    if options.scaling:
        rows = scaling(options.model, options.threads)
    else:
        net, rows = make_network(options.model), []
        header = f"{'size':>5} {'engine':24} {'s':>8} {'times':>6} {'MP/s':>6}"
        print(header, f"{'peak':>5} {'dB':>6} {'largest':>8}")
        for size in options.sizes:
            for row in measure(net, size, options.repeats):
                rows.append(row)
                print(
                    f"{size:5} {row['engine']:24} {row['seconds']:8.3f} "
                    f"{row['times transformers']:6.2f} "
                    f"{row['megapixels per second']:6.3f} "
                    f"{row['share of matrix rate']:5.0%} {row['psnr']:6.1f} "
                    f"{row['largest difference']:8.1e}"
                )
    if options.json:
        text = json.dumps({"machine": facts, "rows": rows}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
