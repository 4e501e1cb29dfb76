"""Speed and accuracy on a GPU, ours beside transformers, in one run.

Usage: python benchmarks/speed_gpu.py [--json FILE] [--side 1024] [--repeats 5]

For the classical x4 shape (180 wide, 36 layers, seeded weights: they serve for timing)
and the lightweight x2 shape it prints, for one RGB tile, the median time of our forward
in each precision, the same for transformers (float32 and bfloat16), their ratios, the
PSNR and largest difference of each against float32, peak memory, and the share of the
chip's bfloat16 matrix rate measured in the same run. Without a CUDA device it says so
and ends with code 2. From a checkout, `PYTHONPATH=src` is enough of an installation:
it needs PyTorch with Triton, numpy, safetensors and, for the peer, transformers.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution
from napari_swin2sr.model.fast_gpu import GpuForward, can_fuse

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = {
    "classical x4": {
        "embed_dim": 180,
        "depths": (6,) * 6,
        "num_heads": (6,) * 6,
        "upscale": 4,
    },
    "lightweight x2": {
        "embed_dim": 60,
        "depths": (6,) * 4,
        "num_heads": (6,) * 4,
        "upsampler": "pixelshuffledirect",
        "upscale": 2,
    },
}


def median_ms(run: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call on the device, after two that warm up."""
    times = []
    for i in range(repeats + 2):
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def matrix_rate() -> float:
    """Return the chip's bfloat16 matrix rate [FLOP/s], on random data."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / (median_ms(lambda: a @ b, 10) / 1e3)


def flops(config: Swin2SRConfig, height: int, width: int) -> float:
    """Return the operations of a forward, 2 for each multiply-add."""
    from torch.utils.flop_counter import FlopCounterMode

    side = 4 * config.window_size
    net = Swin2SRForImageSuperResolution(config).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net.upscale_tile(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() * height * width / side**2


def seeded(config: Swin2SRConfig) -> Swin2SRForImageSuperResolution:
    """Return a network with seeded weights that make every part matter."""
    torch.manual_seed(0)
    net = Swin2SRForImageSuperResolution(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = max(parameter[0].numel(), 1) if parameter.dim() > 1 else 400
            parameter += 0.3 * torch.randn_like(parameter) / fan_in**0.5
    return net


def peers(net: Swin2SRForImageSuperResolution) -> dict[str, Callable[..., object]]:
    """Return transformers' network with the same weights, per precision."""
    try:
        import transformers
    except ImportError:
        print("transformers is not installed: no peer in this run")
        return {}
    config = transformers.Swin2SRConfig(**net.config.to_dict())
    peer = transformers.Swin2SRForImageSuperResolution(config).eval().cuda()
    peer.load_state_dict(net.state_dict(), strict=True)
    low = transformers.Swin2SRForImageSuperResolution(config).eval().cuda()
    low.load_state_dict(net.state_dict(), strict=True)
    low = low.to(torch.bfloat16)
    return {
        "transformers fp32": lambda x: peer(x).reconstruction,
        "transformers bf16": lambda x: low(x.bfloat16()).reconstruction.float(),
    }


def measure(name: str, side: int, repeats: int, peak: float) -> list[dict[str, object]]:
    """Time and compare everything for one shape of the network."""
    net = seeded(Swin2SRConfig(**SHAPES[name]))
    device = torch.device("cuda")
    work = flops(net.config, side, side)
    x = torch.rand(1, 3, side, side, device=device)
    forwards = {
        f"ours {precision}": GpuForward(net, device, precision)
        for precision in ("fp32", "fp16", "bf16")
    }
    rows: list[dict[str, object]] = []
    exact = forwards["ours fp32"](x)
    scale = exact.abs().max()
    for label, forward in {**forwards, **peers(net)}.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            error = (forward(x) - exact) / scale
            ms = median_ms(lambda f=forward: f(x), repeats)
        except torch.OutOfMemoryError as problem:
            rows.append({"shape": name, "what": label, "error": str(problem)[:80]})
            continue
        rows.append(
            {
                "shape": name,
                "side": side,
                "what": label,
                "ms": ms,
                "psnr_db": float(-10 * error.square().mean().log10()),
                "largest": float(error.abs().max()),
                "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
                "share_of_peak": work / (ms / 1e3) / peak,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--side", type=int, default=1024, help="tile [px]")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing measured", file=sys.stderr)
        return 2
    with torch.inference_mode():
        peak = matrix_rate()
        rows = []
        for name in SHAPES:
            rows += measure(name, args.side, args.repeats, peak)
    machine = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "bf16_matrix_tflops": peak / 1e12,
        "triton": can_fuse(seeded(Swin2SRConfig(**SHAPES["lightweight x2"]))),
    }
    print(machine)
    for row in rows:
        if "ms" not in row:
            print(f"{row['shape']:15} {row['what']:18} {row['error']}")
            continue
        ours = min(
            r["ms"] for r in rows if r["shape"] == row["shape"] and r.get("ms") and
            str(r["what"]) in {"ours fp16", "ours bf16"}
        )  # fmt: skip
        print(
            f"{row['shape']:15} {row['what']:18} {row['ms']:9.1f} ms "
            f"x{row['ms'] / ours:5.1f} of our best  {row['psnr_db']:6.1f} dB "
            f"max {row['largest']:.1e}  {row['peak_gib']:5.1f} GiB "
            f"{100 * row['share_of_peak']:5.1f} % of the matrix rate"
        )
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
