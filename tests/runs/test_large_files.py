"""Memory is bounded by the tiles in work, not by the image; so is time per tile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

MEASURE = """
import json, statistics, sys, time
sys.path.insert(0, sys.argv[1])
import zarr, tifffile
from helpers import stand_in
from napari_swin2sr import files, upscale
from napari_swin2sr.runs import job as work, resources as limits
from napari_swin2sr.formats import geo_tags, ome_zarr, pyramid as blocks, tiff_write
from napari_swin2sr.runs.runner import TileDone
source, target, tile, model = sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
if model == "stand-in":
    stand_in.install()
else:
    upscale.ModelHandle.open(model).load()

work.SMALL_RESULT_BYTES = 0

def kilobytes(name):
    with open("/proc/self/status") as status:
        return next(int(x.split()[1]) for x in status if x.startswith(name))

with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")  # the peak begins here
start = kilobytes("VmRSS")
begin = time.monotonic()
lazy = []
def prepare(image, options, original=work.prepare):
    lazy.append(original(image, options))
    return lazy[-1]
work.prepare = prepare
finished = []
def progress(event):
    if isinstance(event, TileDone) and event.stage == "tiles":
        finished.append(time.monotonic())
files.upscale_file(source, target, tile=tile, halo=48, value_range=(0, 65535),
                   progress=progress)
gaps = [b - a for a, b in zip(finished, finished[1:])]
half = len(gaps) // 2
print(json.dumps({
    "peak_mb": (kilobytes("VmHWM") - start) / 1024,
    "estimated_mb": limits.estimate(lazy[0]).peak_bytes / 2**20,
    "tiles": len(finished),
    "ms_per_tile": 1000 * (finished[-1] - begin) / len(finished),
    "first_half_ms": 1000 * statistics.fmean(gaps[:half] or [0]),
    "second_half_ms": 1000 * statistics.fmean(gaps[half:] or [0]),
    "seconds": time.monotonic() - begin,
}))
"""


def scene(path: Path, side: int) -> Path:
    """A uint16 OME-Zarr of side x side, written chunk by chunk."""
    array = zarr.create_array(
        path / "0", shape=(side, side), chunks=(512, 512), dtype="uint16"
    )
    y, x = np.mgrid[:512, :512]
    waves = (np.sin(x / 9) + np.cos(y / 7) + 2) * 8000
    for i in range(0, side, 512):
        for j in range(0, side, 512):
            array[i : i + 512, j : j + 512] = (waves + (i + j) / 8).astype(np.uint16)
    steps = [{"type": "scale", "scale": [0.5, 0.5]}]
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    multiscale = {"axes": axes, "datasets": datasets}
    group = zarr.create_group(path, zarr_format=3)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    return path


def measure(source: Path, target: Path, tile: int, model: str = "stand-in") -> dict:
    here = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, here, source, target, str(tile), model],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def linux():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks of memory are read from /proc")


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_memory_does_not_grow_with_the_image(tmp_path, suffix):
    peaks = []
    for side in (1024, 4096):
        source = scene(tmp_path / f"in{side}.zarr", side)
        found = measure(source, tmp_path / f"out{side}{suffix}", 256)
        peaks.append(found["peak_mb"])
        assert found["peak_mb"] < found["estimated_mb"] * 1.15 + 64
    assert peaks[1] < 150  # the result has 134 MB, 178 MB with its pyramid
    assert peaks[1] < peaks[0] + 50


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_32768_pixels_a_side(tmp_path):
    found = {}
    for side in (4096, 32768):
        source = scene(tmp_path / f"in{side}.zarr", side)
        found[side] = measure(source, tmp_path / f"out{side}.ome.zarr", 1024)
    print(json.dumps(found, indent=1))  # noqa: T201
    small, large = found[4096], found[32768]
    assert large["tiles"] == 32 * 32
    assert large["peak_mb"] < 2000
    assert large["peak_mb"] < large["estimated_mb"] * 1.15 + 64
    assert large["peak_mb"] < small["peak_mb"] * 1.5 + 100
    assert large["second_half_ms"] < large["first_half_ms"] * 1.5


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_4096_pixels_a_side_with_the_default_model(tmp_path):
    source = scene(tmp_path / "in.zarr", 4096)
    found = measure(source, tmp_path / "out.ome.zarr", 1024, "default")
    print(json.dumps(found, indent=1))  # noqa: T201
    assert found["tiles"] == 16
    assert found["peak_mb"] < found["estimated_mb"] * 1.15 + 64
    assert found["peak_mb"] < 2000
