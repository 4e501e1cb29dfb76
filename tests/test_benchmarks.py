"""The benchmark of the CPU runs, leaves nothing out silently, and its pages follow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MEASURED = {
    *("repeats", "seconds", "cpu seconds", "times transformers"),
    *("megapixels per second", "share of matrix rate", "psnr", "largest difference"),
    *("peak megabytes", "megabytes before"),
}


def run(script, *words):
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_table_and_numbers_of_a_tiny_run(tmp_path):
    file = tmp_path / "speed.json"
    file.write_text('{"models": {"other": 1}}')
    engines = ["transformers fp32, tiles", "ours, plain network", "ours, PyTorch fp32"]
    engines.append("ours, fp16")
    words = ["--sizes", 24, 16, "--peer-limit", 16, "--threads", 1, "--repeats", 2]
    printed = run(
        "benchmarks/speed_cpu.py",
        *("--models", "default", "--engines", *engines, "--json", file, *words),
    )
    stored = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert stored["models"]["other"] == 1  # of another run
    found = stored["models"]["default"]
    assert found["rules"] == {"limit, s": 300, "peer limit, px": 16}
    assert found["machine"]["threads"] == 1
    assert found["machine"]["matrix rate, GFLOP/s"].keys() == {"fp32", "bf16", "fp16"}
    rows = {(row["size"], row["engine"]): row for row in found["rows"]}
    assert list(rows) == [(size, engine) for size in (16, 24) for engine in engines]
    notes = {key: row.pop("note") for key, row in rows.items() if "note" in row}
    reasons = {16: "not offered", 24: "not run above 16 px"}
    assert notes.keys() == {
        *((size, engine) for size in (16, 24) for engine in engines[::3]),
        (24, "ours, plain network"),
    }
    assert notes[16, "ours, fp16"].startswith(reasons[16])
    assert notes[24, "ours, plain network"].startswith(reasons[24])
    for key in rows.keys() - notes.keys():
        row = rows[key]
        assert row.keys() == {"size", "engine", *MEASURED}
        assert row["repeats"] == 2
        assert row["seconds"] > 0
        assert row["times transformers"] is None  # it was not run
        assert row["largest difference"] < 1e-5
    assert rows[16, "ours, plain network"]["psnr"] is None  # the same numbers
    for (size, engine), note in notes.items():
        assert f"{size:5} {engine:24} {note}" in printed


def test_peers_give_the_same_pixels():
    """Where they are installed; a benchmark of something else proves nothing."""
    pytest.importorskip("transformers")
    code = """
import cpu_engines, torch, warnings
warnings.simplefilter("ignore")
cpu_engines.TILE, cpu_engines.OVERLAP = 32, 8
net = cpu_engines.make_network("default")
x = cpu_engines.photograph(48)
with torch.inference_mode():
    expected = net.upscale_tile(x)
    for name, limit in (
        ("transformers fp32", 1e-5), ("transformers fp32, tiles", 0.1),
        ("transformers bf16", 0.1), ("spandrel fp32", 1e-5),
    ):
        engine = cpu_engines.ENGINES[name]
        try:
            forward = engine.make(net, engine.precision)
        except ModuleNotFoundError as error:
            assert "spandrel" in name, error
            continue
        error = (forward(x) - expected).abs().max()
        assert error < limit, (name, error)
print("checked")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout == "checked\n", done.stderr


def test_scaling(tmp_path):
    file = tmp_path / "speed.json"
    words = ["--scaling", "--megapixels", 0.01, 0.02, "--threads", 1, "--json", file]
    printed = run("benchmarks/speed_cpu.py", *words, "--forward-side", 64)
    rows = json.loads(file.read_text())["scaling"]["default"]["rows"]
    assert [row["what"] for row in rows] == ["one forward", "apply", "apply"]
    for row in rows:
        assert row.keys() >= {"megapixels", "seconds", "seconds per megapixel"}
        assert row["seconds"] > 0
        assert f"{row['megapixels']:6.2f} MP" in printed


def test_the_pages_quote_the_latest_numbers(tmp_path):
    pages = ("README.md", "docs/explanation/speed.md")
    scripts = ("docs/make_numbers.py", "docs/speed_tables.py", "docs/speed-cpu.json")
    for name in (*pages, *scripts):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    run(tmp_path / "docs/speed_tables.py")
    for name in pages:
        told = f"{name}: run docs/speed_tables.py"
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), told
