"""The benchmark of whole images runs, and its numbers belong together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_way_is_measured(tmp_path):
    file = tmp_path / "pipeline.json"
    command = [sys.executable, str(ROOT / "benchmarks/pipeline.py"), "--json", file]
    words = {"side": 96, "large": 64, "tile": 32, "threads": 1}
    for name, value in words.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert len(found["large, seconds per megapixel"]) == 4
    assert [row["way"] for row in found["rows"]] == ["apply", "zarr", "file"]
    for row in found["rows"]:
        assert 0 < row["seconds in the network"] < row["seconds"]
        assert row["overhead"] == pytest.approx(
            row["seconds"] / row["seconds in the network"] - 1
        )
        assert row["seconds per megapixel"] == pytest.approx(
            row["seconds"] / 96**2 * 1e6
        )
    # Tiles read 72, 96 + 8 and 72 + 8 px along an axis.
    halo = found["rows"][0]["halo"]
    assert halo == found["rows"][1]["halo"] <= found["rows"][2]["halo"]
    assert halo == pytest.approx((72 + 104 + 80) ** 2 / 96**2 - 1)
    assert f"{halo:.1%}" in done.stdout
