"""What a whole image costs beyond the network itself, and how much memory it takes.

Usage: python benchmarks/pipeline.py [--side 4096] [--model default] [--device cpu]
       [--precision auto] [--tile PX] [--large 2048] [--ways apply zarr file]
       [--threads N] [--json FILE]

One process makes a grey uint16 image of photographs, larger than life, in a Zarr file,
and super-resolves it in three ways:

    apply   `apply(image)`, each block looked at and forgotten
    zarr    `apply(image).to_zarr(...)`
    file    `upscale_file(...)`, OME-Zarr with its pyramid and checksums

The table says, for each way: seconds; seconds inside the network (of a loaded model,
waiting for its turn not counted); the overhead, which is the first over the second; the
pixels that the network sees because of the halo, over those of the image; seconds per
megapixel of input, over those of one large square in a single forward (the median of
one before, between and after the ways, as machines change their pace); peak memory of
the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads burn no time

import dask.array as da
import numpy as np
import torch
import zarr
from peak import forget_peak, peak_megabytes
from skimage import data

import napari_swin2sr as nsr

if TYPE_CHECKING:
    from napari_swin2sr.engine.upscaler import Upscaler

MOST_GREY = 255
CHUNK = 512


class Clock:
    """A network's forward that counts its seconds and its pixels."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.seconds, self.pixels = 0.0, 0
        self.forward = upscaler._forward
        upscaler._forward = self

    def __call__(self, x: torch.Tensor, **options: object) -> torch.Tensor:
        wait_for(x.device)
        start = time.perf_counter()
        y = self.forward(x, **options)
        wait_for(x.device)
        self.seconds += time.perf_counter() - start
        self.pixels += x.shape[0] * x.shape[2] * x.shape[3]
        return y

    def reset(self) -> None:
        self.seconds, self.pixels = 0.0, 0


def wait_for(device: torch.device) -> None:
    """Let the kernels in line come to their end."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def photographs(side: int) -> da.Array:
    """Return a lazy uint16 image of photographs side by side, with some noise."""
    pictures = [data.camera(), data.brick(), data.grass(), data.gravel()]

    def block(block_info: dict) -> np.ndarray:
        number = block_info[None]["chunk-location"]
        (height, width) = block_info[None]["chunk-shape"]
        rng = np.random.default_rng(number)
        picture = pictures[(2 * number[0] + number[1]) % 4][:height, :width]
        return (100.0 * picture + rng.normal(500, 50, picture.shape)).astype(np.uint16)

    sizes = (CHUNK,) * (side // CHUNK) + ((side % CHUNK,) if side % CHUNK else ())
    meta = np.empty((0, 0), np.uint16)
    return da.map_blocks(block, chunks=(sizes, sizes), dtype=np.uint16, meta=meta)


def large_forward(upscaler: Upscaler, clock: Clock, side: int) -> float:
    """Return the seconds per pixel of one forward over a square."""
    rows = data.camera().astype(np.float32) / MOST_GREY
    times = -(-side // CHUNK)
    tile = np.tile(rows, (times, times))[None, None, :side, :side]
    clock.reset()
    upscaler(tile)
    return clock.seconds / side**2


def way(name: str, source: Path, target: Path, options: argparse.Namespace) -> None:
    """Super-resolve `source` in one of the ways."""
    how = {"tile": options.tile, "precision": options.precision}
    how["device"] = options.device
    if name == "file":
        nsr.upscale_file(source, target, options.model, **how)
        return
    lazy = nsr.apply(zarr.open_array(source, mode="r"), options.model, **how)
    if name == "zarr":
        lazy.to_zarr(target)
    else:
        lazy.max().compute(scheduler="threads")


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """Run all ways in turn, with a large forward before, between and after them."""
    source, side = folder / "source.zarr", options.side
    photographs(side).to_zarr(source)
    model = {"device": options.device, "precision": options.precision}
    upscaler = nsr.load_model(options.model, **model)
    clock = Clock(upscaler)
    large_forward(upscaler, clock, min(CHUNK, options.large))  # warms up
    large = [large_forward(upscaler, clock, options.large)]
    rows = []
    for name in options.ways:
        clock.reset()
        forget_peak()
        start = time.perf_counter()
        way(name, source, folder / f"{name}.ome.zarr", options)
        seconds = time.perf_counter() - start
        rows.append(
            {
                "way": name,
                "seconds": seconds,
                "seconds in the network": clock.seconds,
                "overhead": seconds / clock.seconds - 1,
                "halo": clock.pixels / side**2 - 1,
                "seconds per megapixel": seconds / side**2 * 1e6,
                "peak megabytes": peak_megabytes(),
            }
        )
        large.append(large_forward(upscaler, clock, options.large))
    pace = statistics.median(large)
    for number, row in enumerate(rows):
        row["times a large forward"] = row["seconds per megapixel"] / pace / 1e6
        around = (large[number] + large[number + 1]) / 2
        row["times those beside it"] = row["seconds per megapixel"] / around / 1e6
    return {
        "side": side,
        "large side": options.large,
        "large, seconds per megapixel": [x * 1e6 for x in large],
        "rows": rows,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=4096, help="of the image [px]")
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tile", type=int, help="core of a tile [px]")
    parser.add_argument("--large", type=int, default=2048, help="of one forward [px]")
    ways = ("apply", "zarr", "file")
    parser.add_argument("--ways", nargs="+", default=ways, choices=ways)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = measure(options, Path(folder))
    facts = {"model": options.model, "device": options.device}
    facts |= {"threads": options.threads, "torch": torch.__version__}
    facts |= {"python": platform.python_version()}
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="; ")
    paces = (f"{pace:.2f}" for pace in found["large, seconds per megapixel"])
    print(f"a forward of {options.large} x {options.large} px:", *paces, "s/MP")
    print(
        f"{'side':>5} {'way':6} {'s':>8} {'network':>8} {'overhead':>8} {'halo':>6} "
        f"{'s/MP':>6} {'times':>6} {'beside':>6} {'peak':>5}"
    )
    for row in found["rows"]:
        print(
            f"{options.side:5} {row['way']:6} {row['seconds']:8.1f} "
            f"{row['seconds in the network']:8.1f} {row['overhead']:8.1%} "
            f"{row['halo']:6.1%} {row['seconds per megapixel']:6.2f} "
            f"{row['times a large forward']:6.2f} {row['times those beside it']:6.2f} "
            f"{row['peak megabytes']:5.0f}"
        )
    if options.json:
        text = json.dumps({"machine": facts, **found}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
