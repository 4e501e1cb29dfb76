"""The GPU benchmark, in miniature, where there may be no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not made for this system")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speed_gpu.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="not a checkout")
def test_selftest(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--selftest", "--json", str(numbers)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(numbers.read_text())["rows"]
    assert {row["part"] for row in rows} == {"forward", "small", "pipeline", "launch"}
    ours = [row for row in rows if row["what"].startswith("ours")]
    assert {row["what"] for row in ours} >= {"ours fp16", "ours fp32"}
    assert all(row["psnr_db"] > 70 and row["fused"] is not None for row in ours)
    without = [row for row in rows if "error" in row and "spandrel" not in row["what"]]
    if not torch.cuda.is_available():
        assert {row["what"] for row in without} == {"as a CUDA graph"}
    timed = [row for row in rows if "error" not in row]
    assert all(row["ms"] > 0 for row in timed)
    pipeline = [row for row in rows if row["part"] == "pipeline"]
    assert {row["what"] for row in pipeline} == {"1 on the device", "2 on the device"}
    assert all(row["tiles"] == 9 for row in pipeline)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 2
    assert "no CUDA device here" in done.stderr
