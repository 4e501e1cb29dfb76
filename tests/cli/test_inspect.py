"""`napari-swin2sr inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_swin2sr.cli.main import main
from napari_swin2sr.upscale import inspect


@pytest.fixture
def dim(tmp_path: Path) -> Path:
    """Two channels, one of them with 60 photons at the white level."""
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(0.1, 1, 256), (256, 256))
    image = np.stack([ramp * 60_000, rng.poisson(ramp * 60) * 1000]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "dim.ome.tif", image, metadata={"axes": "CYX"})
    return tmp_path / "dim.ome.tif"


def test_it_says_what_the_function_says(dim: Path, capsys) -> None:
    assert main(["inspect", str(dim), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = inspect(dim)
    assert record["source"] == str(dim)
    assert record["recommendation"] == found.recommendation == "default"
    assert record["channels"][1]["photons"] == pytest.approx(60 / 0.98, rel=0.25)


def test_it_is_words_for_people(dim: Path, capsys) -> None:
    assert main(["inspect", str(dim)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "uint16 CYX 2 x 256 x 256"
    assert any("photons at white" in line for line in lines)
    assert lines[-1].startswith("noisy (about")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["absent.tif"], 1, "absent.tif"),
        (["dim.ome.tif", "--axes", "QYX"], 1, "Q"),
        (["dim.ome.tif", "--value-range", "5,1"], 2, "lower one first"),
        (["dim.ome.tif", "--series", "7"], 1, "7"),
    ],
)
def test_bad_input(
    dim: Path, monkeypatch, capsys, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(dim.parent)
    assert main(["inspect", *arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert not captured.out
