"""Many files: names, order, failures, interruption and what scripts see of it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import napari_swin2sr
from napari_swin2sr.cli import console
from napari_swin2sr.cli import main as cli
from napari_swin2sr.cli.upscale import output_name
from napari_swin2sr.errors import Cancelled, InputError


def images(folder: Path, *names: str) -> list[str]:
    """Write small images whose pixels differ from one another."""
    paths = []
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 24), 40 + number, np.uint8)).save(path)
        paths.append(str(path))
    return paths


def run(*argv: object) -> int:
    return cli.main(["upscale", *map(str, argv)])


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


@pytest.mark.parametrize("form", ["list", "folder", "pattern", "slash"])
def test_all_images_get_results_of_their_names(tmp_path, capsys, form):
    paths = images(tmp_path / "scans", "a.tif", "b.png", "c.jpg")
    (tmp_path / "scans" / "notes.txt").write_text("mine")
    (tmp_path / "scans" / ".hidden.png").write_text("mine")
    out = tmp_path / "new" / "results"
    words = {
        "list": [*paths, "-o", out],
        "folder": [tmp_path / "scans", "--output-folder", out],
        "pattern": [tmp_path / "s*" / "*", "-o", out],
        "slash": [*paths, f"{out}/"],
    }[form]
    assert run(*words) == 0
    assert files(out) == ["a.tif", "b.png", "c.jpg"]
    assert capsys.readouterr().out.split() == [str(out / n) for n in files(out)]
    assert tifffile.imread(out / "a.tif").shape == (32, 48)
    with Image.open(out / "b.png") as image:
        assert image.size == (48, 32)


def test_recursive_pattern_and_format(tmp_path):
    images(tmp_path / "in", "one/a.png", "two/deep/b.png")
    out = tmp_path / "in" / "results"
    for _ in range(2):  # results of the first time are no sources of the second
        assert run(tmp_path / "in/**/*.png", "-o", out, "--format", "tif") == 0
        assert files(out) == ["a.tif", "b.tif"]


@pytest.mark.parametrize(
    ("source", "suffix", "expected"),
    [
        ("scan.tiff", None, "scan.tiff"),
        ("scan.ome.tif", None, "scan.ome.tif"),
        ("T32.B02.jp2", None, "T32.B02.tif"),
        ("S2A_MSI.SAFE", None, "S2A_MSI.tif"),
        ("scan.ome.tif", "ome.zarr", "scan.ome.zarr"),
        ("scan.OME.TIFF", ".png", "scan.png"),
        ("a.b.png", "tif", "a.b.tif"),
        ("s3://bucket/data/x.zarr", None, "x.zarr"),
        ("bare", "tif", "bare.tif"),
    ],
)
def test_names_of_results(source, suffix, expected):
    assert output_name(source, suffix) == expected


def test_one_failing_file_does_not_stop_the_others(tmp_path, capsys):
    good = images(tmp_path, "a.png", "c.png")
    bad = tmp_path / "b.png"
    bad.write_bytes(b"no image")
    absent = tmp_path / "absent.png"
    out = tmp_path / "out"
    code = run(good[0], bad, absent, good[1], "-o", out)
    assert code == console.EXIT_INCOMPLETE == 3
    assert files(out) == ["a.png", "c.png"]
    err = capsys.readouterr().err.splitlines()
    assert f"{bad}: begins with" in err[0]
    assert f"{absent}: there is no such file" in err[1]
    assert err[2:] == [
        "napari-swin2sr: 2 of 4 files failed; the others are done:",
        f"napari-swin2sr: failed: {bad}",
        f"napari-swin2sr: failed: {absent}",
    ]


def test_json_has_lines_per_file(tmp_path, capsys):
    (good,) = images(tmp_path, "a.png")
    bad = tmp_path / "b.png"
    bad.write_bytes(b"no image")
    out = tmp_path / "out"
    assert run(good, bad, "-o", out, "--json") == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "file_started"
    assert events[-4:] == ["result", "file_started", "error", "summary"]
    assert {"run_started", "tile_done", "run_finished"} <= set(events)
    result, started, error, summary = lines[-4:]
    assert result == {
        "event": "result",
        "source": good,
        "output": str(out / "a.png"),
        "skipped": False,
    }
    assert (started["number"], started["total"]) == (2, 2)
    assert (error["source"], error["output"]) == (str(bad), str(out / "b.png"))
    assert summary == {"event": "summary", "done": 1, "total": 2, "failed": [str(bad)]}


@pytest.mark.parametrize(
    ("names", "more", "words"),
    [
        (("x/a.png", "y/a.png"), (), "would both become"),
        (("x/a.png", "y/A.PNG"), (), "would both become"),
        (("a.png", "a.tif"), ("--format", "tif"), "would both become"),
        (("out/a.png",), (), "its result would replace it"),
        (("a.png", "b.png"), ("--format", "xyz"), "'.xyz' is no format"),
        (("a.png", "b.png"), ("--tile", "0"), "--tile 0 is not"),
    ],
)
def test_what_cannot_be_right_is_refused_before_the_run(
    tmp_path, capsys, names, more, words
):
    paths = images(tmp_path, *names)
    before = sorted(tmp_path.rglob("*"))
    assert run(*paths, "-o", tmp_path / "out", *more) in (1, 2)
    assert words in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", [("upscale", "a.png", "-o"), ("demo",)])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    images(tmp_path, "a.png")
    (tmp_path / "taken").write_text("mine")
    assert cli.main([*command, "taken"]) == 1
    assert "taken: this folder cannot be made (File exists)" in capsys.readouterr().err


def test_a_file_named_twice_is_made_once(tmp_path, capsys):
    (path,) = images(tmp_path, "a.png")
    assert run(path, path, tmp_path / "*.png", "-o", tmp_path / "out") == 0
    assert len(capsys.readouterr().out.split()) == 1


@pytest.mark.parametrize("what", ["", "*.png"])
def test_a_folder_or_pattern_without_images_is_an_error(tmp_path, capsys, what):
    assert run(tmp_path / what, "-o", tmp_path / "out") == 1
    assert "no image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.png"], "the result is missing"),
        (["a.png", "b.png", "c"], "2 sources need a folder for their results"),
        (["a.png", "b.png", "--format", "tif"], "the suffix of OUT"),
    ],
)
def test_unclear_commands_are_wrong_usage(capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        run(*words)
    assert message in capsys.readouterr().err


def test_names_may_stand_on_both_sides_of_a_flag(tmp_path):
    one, other = images(tmp_path, "a.png", "b.png")
    assert run(one, "--tile", "64", other, f"{tmp_path}/out/") == 0
    assert files(tmp_path / "out") == ["a.png", "b.png"]


@pytest.mark.parametrize("suffix", ["png", "tif", "ome.zarr"])
def test_the_same_command_goes_on_where_it_was_cut_off(
    tmp_path, capsys, monkeypatch, suffix
):
    paths = images(tmp_path, "a.png", "b.png", "c.png")
    out = tmp_path / "out"
    command = [*paths, "-o", out, "--format", suffix]
    original, made = napari_swin2sr.upscale_file, []

    def upscale_file(source, target, **options):
        made.append(Path(source).name)
        if len(made) == 2:
            raise Cancelled("cancelled")
        return original(source, target, **options)

    monkeypatch.setattr("napari_swin2sr.files.upscale_file", upscale_file)
    assert run(*command) == 130
    assert "stopped at file 2 of 3; the same command goes on" in capsys.readouterr().err
    times = {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.suffix != ".done"}
    assert set(times) == {f"a.{suffix}"}
    assert run(*command, "--json") == 0
    assert (out / f"a.{suffix}").stat().st_mtime_ns == times[f"a.{suffix}"]
    assert files(out) == [f"{n}.{suffix}" for n in "abc"]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    skipped = [line["skipped"] for line in lines if line["event"] == "result"]
    if suffix != "ome.zarr":  # which says itself that it is finished
        assert skipped == [True, False, False]
        assert made[2:] == ["b.png", "c.png"]


@pytest.mark.parametrize("change", ["source", "result", "option"])
def test_what_has_changed_since_is_not_skipped(tmp_path, capsys, change):
    (path,) = images(tmp_path, "a.png")
    out = tmp_path / "out"
    assert run(path, "-o", out) == 0
    more = []
    if change == "source":
        Image.fromarray(np.full((16, 16), 9, np.uint8)).save(path)
    elif change == "result":
        (out / "a.png").write_bytes(b"mine")
    else:
        more = ["--halo", "16"]
    assert run(path, "-o", out, *more) == 3
    assert "exists already" in capsys.readouterr().err
    assert run(path, "-o", out, *more, "--overwrite") == 0
    assert run(path, "-o", out, *more) == 0


def test_bars_of_files_and_tiles(tmp_path, monkeypatch):
    class Tty(io.StringIO):
        def isatty(self):
            return True

    paths = images(tmp_path, "a.png", "b.png")
    monkeypatch.setattr(sys, "stderr", Tty())
    assert run(*paths, "-o", tmp_path / "out") == 0
    text = sys.stderr.getvalue()
    assert "a.png: tiles" in text
    assert "files: 100%" in text
    assert "2/2" in text


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a child alone")
def test_ctrl_c_stops_all_files(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 256, (320, 320), np.uint8)
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "napari_swin2sr", "upscale"),
            *(str(tmp_path / f"{name}.tif") for name in "abc"),
            *("-o", str(tmp_path / "out"), "--tile", "64", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if '"tile_done"' in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped at file 1 of 3" in err
    assert sum('"file_started"' in line for line in out.splitlines()) == 0
    assert files(tmp_path / "out") == []


def test_an_unforeseen_error_of_one_file_is_named(tmp_path, capsys, monkeypatch):
    paths = images(tmp_path, "a.png", "b.png")

    def upscale_file(source, target, **_):
        raise InputError("its axes are odd") if "a.png" in source else KeyError("x")

    monkeypatch.setattr("napari_swin2sr.files.upscale_file", upscale_file)
    assert run(*paths, "-o", tmp_path / "out") == 3
    err = capsys.readouterr().err
    assert f"{paths[0]}: its axes are odd" in err
    assert f"{paths[1]}: KeyError: 'x' (--debug shows where)" in err
