"""How fast the network runs on the CPU, against the others that are installed.

    python benchmarks/speed_cpu.py                               one table
    python benchmarks/speed_cpu.py --sizes 64 128 256 512 1024 2048 \\
        --models default light --json docs/speed-cpu.json
    python benchmarks/speed_cpu.py --scaling --json docs/speed-cpu.json
    python docs/speed_tables.py                                  JSON to the pages

A model is a name, a folder, or a published shape with seeded weights: `light` (x2),
`classical` (180 wide, x4). Every engine has the same weights, the same RGB photograph
and the same number of threads, and a process of its own, so that the largest memory is
its own. In each round every engine runs once, so that all meet the same load; seconds
are medians, beside those that the processor worked in all threads. "kernels" are those
for its longest vectors; the builds for AVX2 and SSE run beside them where it has more,
so that one machine tells of others, and each table names its instruction sets. An
engine whose first forward takes longer than 10 s is not run again.
Accuracy is that of the upper left 256 x 256 px against the plain network in float32,
values 0 to 1. The operations of a forward, counted by PyTorch, over seconds and the
rate of a large matrix product (in the same precision, or in float32 if that is faster;
measured in the same run) are the share of the peak.

Nothing is left out silently: an engine that is not installed, failed, would take longer
than --limit seconds, or keeps maps of the whole image beyond --peer-limit px (about
10 GB at 1024 px, by what it takes at 256) has a row that says so.

--scaling sends 0.25 to 64 megapixels of a lazy gray image through `apply`, each size in
a process of its own: seconds per megapixel and the largest memory, beside one forward
of 4 megapixels without tiles.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from cpu_engines import (
    CORNER,
    ENGINES,
    TYPES,
    Worker,
    make_network,
    photograph,
)
from peak import peak_megabytes

from napari_swin2sr.engine import cpu_native

if TYPE_CHECKING:
    from napari_swin2sr.model import Swin2SRForImageSuperResolution

BASE = "transformers fp32"
SLOW = 10.0
SCALING_MEGAPIXELS = (0.25, 1, 4, 16, 64)
HEADER = (
    f"{'size':>5} {'engine':24} {'n':>2} {'s':>8} {'CPU s':>8} {'times':>6} "
    f"{'MP/s':>6} {'share':>5} {'dB':>6} {'largest':>8} {'MB':>6}"
)


# -- measuring -----------------------------------------------------------------------


def matrix_rate(precision: str) -> float:
    """Return operations per second of a large matrix product."""
    a = torch.rand(1024, 1024).to(TYPES[precision])
    best, end = math.inf, time.perf_counter() + 2
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def operations_per_pixel(net: Swin2SRForImageSuperResolution) -> float:
    """Return operations per input pixel, 2 for each multiplication."""
    from torch.utils.flop_counter import FlopCounterMode

    counts, sides = [], [n * net.config.window_size for n in (2, 4)]
    for side in sides:  # the difference leaves out what is done once
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            net.upscale_tile(torch.zeros(1, 3, side, side))
        counts.append(counter.get_total_flops())
    return (counts[1] - counts[0]) / (sides[1] ** 2 - sides[0] ** 2)


def corner_of(net: Swin2SRForImageSuperResolution, size: int) -> np.ndarray:
    """Return the corner of a photograph's result by the plain network in float32."""
    with torch.inference_mode():
        y = net.upscale_tile(photograph(min(size, CORNER + net.config.exact_halo)))
    side = CORNER * net.config.upscale
    return y[..., :side, :side].double().numpy()


def accuracy(corner: np.ndarray, expected: np.ndarray) -> dict[str, float | None]:
    """Return PSNR [dB] and largest difference; the range is 1, or more if it is."""
    error = (corner - expected) / max(1, np.abs(expected).max())
    square = float(np.square(error).mean())
    return {
        "psnr": -10 * math.log10(square) if square else None,
        "largest difference": float(np.abs(error).max()),
    }


def measure(model: str, options: argparse.Namespace) -> None:
    """Time all engines on one model; print rows, and keep them after each size."""
    net, limit = make_network(model), options.limit
    facts, work = machine(), operations_per_pixel(net)
    rates = {name: matrix_rate(name) for name in TYPES}
    facts["matrix rate, GFLOP/s"] = {k: round(v / 1e9) for k, v in rates.items()}
    print(f"\n{Path(model).name}: {work / 1e6:.2f} million operations per pixel")
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="; ")
    print(HEADER, flush=True)
    workers = [Worker(name, model, options.threads) for name in options.engines]
    for worker in workers:
        worker.wait(600)
    rows = []
    for size in sorted(options.sizes):
        found: dict[str, list[dict]] = {worker.engine: [] for worker in workers}
        notes = {}
        for worker in workers:  # the first one warms up
            note = worker.refuse(size, limit, options.peer_limit)
            first = {} if note else worker.run(size, limit)
            found[worker.engine] += [first] if first else []
            notes[worker.engine] = note or worker.note
            said = f"{first['seconds']:.2f} s" if first else notes[worker.engine]
            print(f"  {size} px, {worker.engine}: {said}", file=sys.stderr, flush=True)
        for _ in range(options.repeats):
            for worker in workers:
                answers = found[worker.engine]
                if answers and answers[0]["seconds"] <= SLOW:
                    answers += [again] if (again := worker.run(size, limit)) else []
        expected = corner_of(net, size)
        base = median(found.get(BASE, []))
        for name, answers in found.items():
            row: dict[str, object] = {"size": size, "engine": name}
            if answers:
                seconds = median(answers)
                peak = max(rates["fp32"], rates[ENGINES[name].precision])
                row |= {
                    "repeats": max(1, len(answers) - 1),
                    "seconds": seconds,
                    "cpu seconds": median(answers, "cpu seconds"),
                    "times transformers": base / seconds if base else None,
                    "megapixels per second": size * size / seconds / 1e6,
                    "share of matrix rate": work * size**2 / seconds / peak,
                    **accuracy(answers[0]["corner"], expected),
                    "peak megabytes": max(x["peak megabytes"] for x in answers),
                    "megabytes before": answers[0]["megabytes before"],
                }
            else:
                row["note"] = notes[name]
            rows.append(row)
            print(line(row), flush=True)
        rules = {"limit, s": limit, "peer limit, px": options.peer_limit}
        result = {"machine": facts, "rules": rules, "rows": rows}
        keep(options.json, "models", Path(model).name, result)
    for worker in workers:
        worker.stop("")


def median(answers: list[dict], what: str = "seconds") -> float:
    """Return the median of all but the first, unless there is no other."""
    return statistics.median([x[what] for x in answers[1:] or answers] or [0])


def line(row: dict) -> str:
    """Return a row of the table."""
    start = f"{row['size']:5} {row['engine']:24}"
    if "note" in row:
        return f"{start} {row['note']}"
    times, psnr = row["times transformers"], row["psnr"]
    return (
        f"{start} {row['repeats']:2} {row['seconds']:8.3f} {row['cpu seconds']:8.3f} "
        f"{f'{times:6.2f}' if times else '     -'} "
        f"{row['megapixels per second']:6.3f} {row['share of matrix rate']:5.0%} "
        f"{f'{psnr:6.1f}' if psnr else '  same'} {row['largest difference']:8.1e} "
        f"{row['peak megabytes']:6.0f}"
    )


# -- scaling with the area -----------------------------------------------------------


def run_apply(model: str, megapixels: float, threads: int) -> dict:
    """Upscale a lazy image of a size through `apply`, and forget the result."""
    import dask.array as da

    import napari_swin2sr

    torch.set_num_threads(threads)
    side = round(math.sqrt(megapixels * 2**20))
    plane = da.from_array(photograph(512)[0, 0].numpy())
    times = -(-side // 512)
    image = da.tile(plane, (times, times))[:side, :side]
    napari_swin2sr.load_model(model)
    start = time.perf_counter()
    lazy = napari_swin2sr.apply(image, model, value_range=(0.0, 1.0))
    mean = float(lazy.mean(dtype="float64").compute(scheduler="threads"))
    return scaling_row("apply", side, start) | {"mean": mean}


def run_forward(model: str, side: int, threads: int) -> dict:
    """Upscale one gray tile in one forward, after a small one."""
    from napari_swin2sr import load_model

    torch.set_num_threads(threads)
    upscaler = load_model(model)
    tile = photograph(side)[:, :1].numpy()
    upscaler(tile[..., :64, :64])
    start = time.perf_counter()
    upscaler(tile)
    return scaling_row("one forward", side, start)


def scaling_row(what: str, side: int, start: float) -> dict:
    megapixels, seconds = side**2 / 1e6, time.perf_counter() - start
    return {
        "what": what,
        "megapixels": megapixels,
        "seconds": seconds,
        "seconds per megapixel": seconds / megapixels,
        "peak megabytes": peak_megabytes(),
    }


def send(pipe, function, values: tuple) -> None:
    """Call a function in a new process."""
    pipe.send(function(*values))


def scaling(model: str, options: argparse.Namespace) -> None:
    """Measure each size in a process of its own."""
    facts, rows = machine(), []
    print(f"\n{Path(model).name} through apply")
    print(*(f"{key}: {value}" for key, value in facts.items()), sep="; ", flush=True)
    jobs = [(run_apply, size) for size in options.megapixels]
    for function, size in [(run_forward, options.forward_side), *jobs]:
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        job = (theirs, function, (model, size, options.threads))
        process = context.Process(target=send, args=job, daemon=True)
        process.start()
        theirs.close()
        try:
            row = pipe.recv()
        except EOFError:
            note = f"its process ended at {size:g}, as when memory runs out"
            row = {"what": function.__name__, "note": note}
        process.join()
        rows.append(row)
        text = row.get("note") or (
            f"{row['megapixels']:6.2f} MP {row['seconds']:8.1f} s "
            f"{row['seconds per megapixel']:6.2f} s/MP {row['peak megabytes']:6.0f} MB"
        )
        print(f"{row['what']:12} {text}", flush=True)
        keep(
            options.json, "scaling", Path(model).name, {"machine": facts, "rows": rows}
        )


# -- the command ---------------------------------------------------------------------


def machine() -> dict:
    """Describe where this runs."""
    sets = [*cpu_native.instruction_sets(), *["bf16"] * cpu_native.has_bfloat16()]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    facts = {
        "processor": cpu_native.processor_name(),
        "instruction sets": ", ".join(sets),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load before": load and round(load, 1),
        "python": platform.python_version(),
    }
    for package in ("torch", "napari-swin2sr", "transformers", "spandrel"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = None
    return facts


def keep(file: Path | None, section: str, name: str, found: dict) -> None:
    """Write a result beside those of other runs in the same file."""
    if file is None:
        return
    stored = json.loads(file.read_text("utf-8")) if file.exists() else {}
    stored.setdefault(section, {})[name] = found
    file.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=["light"])
    add("--sizes", type=int, nargs="+", default=[64, 256], help="multiples of 8 [px]")
    add("--threads", type=int, default=os.cpu_count())
    add("--repeats", type=int, default=5, help="of forwards up to 10 s")
    add("--limit", type=float, default=300, help="longest forward [s]")
    add("--peer-limit", type=int, default=512, help="largest whole image [px]")
    add("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, metavar="NAME")
    add("--json", type=Path, help="keep the numbers here, beside those that are there")
    add("--scaling", nargs="?", const="default", metavar="MODEL")
    add("--megapixels", type=float, nargs="+", default=SCALING_MEGAPIXELS)
    add("--forward-side", type=int, default=2048, help="one forward of --scaling [px]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.scaling:
        scaling(options.scaling, options)
        return
    for model in options.models:
        measure(model, options)


if __name__ == "__main__":
    main()
