"""What may go wrong in a run, fault by fault: R01 to R33 of the catalogue.

A fault that belongs to another room is tested there; `ELSEWHERE` says where.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore

from helpers import stand_in
from helpers.io_images import noise
from helpers.shared import ROOT
from napari_swin2sr import replace, upscale, upscale_file, verify_file
from napari_swin2sr.errors import (
    FileError,
    MemoryLimitError,
    OutputError,
    TilesFailedError,
    WeightsError,
)
from napari_swin2sr.formats import open_image, tiff_write
from napari_swin2sr.runs import job as work
from napari_swin2sr.runs import resources as limits
from napari_swin2sr.runs import runner, tile_store
from napari_swin2sr.runs.runner import RunStarted, TileDone, TileFailed

OPTIONS: dict[str, Any] = {"tile": 32, "value_range": (0.0, 65535.0)}
PIXELS = noise((150, 170))
N_TILES = 5 * 6

ELSEWHERE = {
    "R05": "runs/test_kill.py::test_killed_a_few_times",
    "R10": "formats/test_tiff.py::test_a_file_that_was_cut_off_is_refused",
    "R12": "test_upscale_file.py::test_an_existing_result_is_not_replaced_unasked",
    "R13": "test_upscale_file.py::test_a_result_inside_its_source_or_around_it",
    "R18": "runs/test_cluster.py::test_forked_processes_are_refused",
    "R19": "engine/test_upscaler.py::test_a_thread_computes_without_gradients",
    "R20": "tiles/test_lazy.py::test_threads_share_tiles_and_at_most_four_are_in_work",
    "R21": "engine/test_upscaler.py::test_threads_share_a_model",
    "R24": "tiles/test_lazy.py::test_small_images",
    "R26": "test_upscale_file.py::test_home_folder_and_strange_names",
    "R28": "test_upscale_file.py::test_other_options_do_not_go_on",
}


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)
    monkeypatch.setattr(runner, "_PAUSE_SECONDS", 0.001)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, PIXELS, photometric="minisblack", compression="zlib")
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.ome.zarr"


@pytest.fixture
def truth(tmp_path, source):
    upscale_file(source, tmp_path / "truth.ome.zarr", **OPTIONS)
    return open_image(tmp_path / "truth.ome.zarr").data[...]


def is_true(target: Path, truth: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(open_image(target).data[...]), truth)
    left = {p.name for p in target.parent.iterdir()}
    assert left <= {"in.tif", "truth.ome.zarr", target.name}
    assert not list(target.parent.rglob("*.partial"))


def done_at_start(events: list) -> int:
    return next(
        e.done for e in events if isinstance(e, RunStarted) and e.stage == "tiles"
    )


def test_every_fault_has_a_test():
    here = {
        f"R{n}"
        for n in re.findall(r"^def test_r(\d\d)", Path(__file__).read_text(), re.M)
    }
    missing = {f"R{n:02}" for n in range(1, 34)} - here - ELSEWHERE.keys()
    assert not missing
    for place in ELSEWHERE.values():
        file, name = place.split("::")
        text = (Path(__file__).parents[1] / file).read_text()
        assert f"def {name}" in text


# -- disks ----------------------------------------------------------------------------


def test_r01_a_full_disk_ends_the_run_and_keeps_its_tiles(
    source, target, truth, monkeypatch
):
    original = LocalStore.set
    written: list[Any] = []

    async def full(self, key, value):
        if "/c/" in key and len(written) >= 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        await original(self, key, value)
        if "/c/" in key:
            written.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", full)
        with pytest.raises(
            OutputError, match=r"7 of 30 tiles, which are kept.*Make room"
        ):
            upscale_file(source, target, workers=1, **OPTIONS)
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    assert done_at_start(events) == 7
    is_true(target, truth)


def test_r01_a_disk_that_is_really_full(tmp_path, source):
    mount = tmp_path / "small"
    mount.mkdir()
    inside = stand_in.run_in_new_process(
        source, mount / "out.ome.zarr", OPTIONS | {"check_space": False}, 1000
    )
    script = 'mount -t tmpfs -o size=96k none "$0" && "$@"; code=$?; '
    script += 'find "$0" -name "*.partial"; exit $code'
    command = ["unshare", "-Urm", "sh", "-c", script, mount, *inside]
    probe = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", mount], check=False
    )
    if probe.returncode:
        pytest.skip("this system gives no small disk to a test")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OutputError" in done.stderr
    assert "tiles, which are kept" in done.stderr
    assert ".partial" not in done.stdout


@pytest.mark.parametrize("small", [True, False])
def test_r02_a_full_disk_leaves_no_half_tiff(
    tmp_path, source, truth, monkeypatch, small
):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 2**27 if small else 0)
    target, original = tmp_path / "out.tif", tiff_write._tiles

    def full(*args):
        for k, tile in enumerate(original(*args)):
            if k == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield tile

    monkeypatch.setattr(tiff_write, "TIFF_TILE", 64)
    with monkeypatch.context() as patch:
        patch.setattr(tiff_write, "_tiles", full)
        with pytest.raises(OutputError, match="No space left"):
            upscale_file(source, target, **OPTIONS)
    left = {p.name for p in tmp_path.iterdir()} - {"in.tif", "truth.ome.zarr"}
    assert left == (set() if small else {"out.tif.unfinished.zarr"})
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    assert done_at_start(events) == (0 if small else N_TILES)
    is_true(target, truth)


def test_r03_no_output_is_ever_mapped_into_memory():
    """A full disk under a memory map kills the process; we only map to read."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ".memmap"
            ):
                modes = [
                    *node.args[2:3],
                    *(k.value for k in node.keywords if k.arg == "mode"),
                ]
                given_modes = [ast.unparse(mode) for mode in modes]
                given = ast.unparse(node).endswith("(**self._reference)")
                assert given_modes == ["'r'"] or given, path


@pytest.mark.parametrize("name", ["out.ome.zarr", "out.tif"])
def test_r04_too_little_space_is_said_before_the_first_tile(
    tmp_path, source, monkeypatch, name
):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 0)
    usage = type("usage", (), {"free": 100_000})
    monkeypatch.setattr(limits.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match="GB too little"):
        upscale_file(source, tmp_path / name, **OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]
    upscale_file(source, tmp_path / name, check_space=False, **OPTIONS)


def test_r06_tiles_are_flushed_to_the_disk(source, target, monkeypatch):
    flushed = []
    original = tile_store.flush_to_disk
    monkeypatch.setattr(
        tile_store, "flush_to_disk", lambda p: (flushed.append(p), original(p))
    )
    upscale_file(source, target, **OPTIONS)
    tiles = {p for p in (target / "0" / "c").rglob("*") if p.is_file()}
    assert tiles <= set(flushed)
    assert flushed[-1] == target  # the mark of completion comes last


def test_r06_metadata_are_flushed_before_the_folder_has_its_name(
    source, target, monkeypatch
):
    flushed, original = {}, replace.flush_to_disk

    def note(place):
        if Path(place).is_file():
            flushed[str(place)] = Path(place).read_bytes()
        original(place)

    monkeypatch.setattr(replace, "flush_to_disk", note)
    monkeypatch.setattr(tile_store, "flush_to_disk", note)
    upscale_file(source, target, **OPTIONS)
    drafts = [n for n in flushed if ".partial" in n and n.endswith("zarr.json")]
    assert {Path(n).parent.name for n in drafts} >= {"0"}
    assert len(drafts) == 2
    assert flushed[str(target / "zarr.json")] == (target / "zarr.json").read_bytes()


@pytest.mark.parametrize("name", ["out.ome.zarr", "out.tif"])
@pytest.mark.parametrize("harmed", ["", "0"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", bytes(50), b"[]"],
    ids=["empty", "half", "zeros", "list"],
)
@pytest.mark.parametrize("way_out", [{"resume": False}, {"overwrite": True}], ids=str)
def test_r06_metadata_damaged_by_a_power_cut(
    tmp_path, source, truth, monkeypatch, name, harmed, content, way_out
):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 0)
    target, stop = tmp_path / name, _Stop(3)
    with pytest.raises(Exception, match="cancelled"):
        upscale_file(source, target, progress=stop, cancel=stop, workers=1, **OPTIONS)
    store = target if name.endswith("zarr") else tmp_path / f"{name}.unfinished.zarr"
    (store / harmed / "zarr.json").write_bytes(content)
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    with pytest.raises(OutputError, match=r"cannot be read.*--no-resume"):
        upscale_file(source, target, **OPTIONS)
    assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before
    with pytest.raises(OutputError, match=r"cannot be read|no OME-Zarr result"):
        verify_file(store)
    (store / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        upscale_file(source, target, **way_out, **OPTIONS)
    (store / "notes.txt").unlink()
    upscale_file(source, target, **way_out, **OPTIONS)
    is_true(target, truth)


@pytest.mark.parametrize("harm", ["empty", "zeros", "half"])
def test_r06_a_power_cut_may_damage_the_last_tiles(
    source, target, truth, monkeypatch, harm
):
    stop = _Stop(8)
    with pytest.raises(Exception, match="cancelled"):
        upscale_file(source, target, progress=stop, cancel=stop, workers=1, **OPTIONS)
    tiles = sorted((target / "0" / "c").rglob("*"), key=lambda p: p.stat().st_mtime_ns)
    last = [p for p in tiles if p.is_file()][-1]
    whole = last.read_bytes()
    last.write_bytes(
        {"empty": b"", "zeros": bytes(len(whole)), "half": whole[: len(whole) // 2]}[
            harm
        ]
    )
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    assert done_at_start(events) == stop.done - 1
    is_true(target, truth)


def test_r08_a_missing_tile_is_no_zeros(source, target, truth):
    stop = _Stop(8)
    with pytest.raises(Exception, match="cancelled"):
        upscale_file(source, target, progress=stop, cancel=stop, workers=1, **OPTIONS)
    record = dict(zarr.open_group(target).attrs)
    assert record["napari_swin2sr"]["complete"] is False
    assert "ome" not in record
    with pytest.raises(FileError, match="not finished"):
        open_image(target)
    (target / "0" / "c" / "0" / "2").unlink()
    upscale_file(source, target, **OPTIONS)
    is_true(target, truth)
    (target / "0" / "c" / "0" / "2").unlink()
    assert verify_file(target) == {0: [(0, 2)]}


def test_r09_a_damaged_chunk_of_the_source_is_one_failed_tile(tmp_path, target):
    source = tmp_path / "in.zarr"
    zarr.create_array(
        source,
        data=PIXELS,
        chunks=(32, 32),
        compressors=ZstdCodec(checksum=True),
    )
    chunk = source / "c" / "4" / "5"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)
    events: list[Any] = []
    with pytest.raises(TilesFailedError, match=r"of 30 tiles are missing") as caught:
        upscale_file(source, target, halo=16, progress=events.append, **OPTIONS)
    assert (4, 5) in caught.value.failed
    assert len(caught.value.failed) == 4  # the tile itself and those that look at it
    assert sum(isinstance(e, TileDone) for e in events) == N_TILES - 4


def test_r08_absent_chunks_of_the_source_are_told(tmp_path, target, caplog):
    source = tmp_path / "in.zarr"
    zarr.create_array(source, data=PIXELS, chunks=(32, 32))
    upscale_file(source, target, **OPTIONS)
    assert not caplog.records
    (source / "c" / "4" / "5").unlink()
    upscale_file(source, tmp_path / "second.ome.zarr", **OPTIONS)
    assert "1 of 30 chunks are not there and read as 0" in caplog.text


def test_r11_two_runs_at_once(source, target, truth):
    command = stand_in.run_in_new_process(source, target, OPTIONS, 1000)
    environment = {**os.environ, stand_in.SECONDS: "0.3"}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    while not target.exists():
        time.sleep(0.02)
        assert first.poll() is None
    with pytest.raises(OutputError, match=f"another run.*{first.pid}"):
        upscale_file(source, target, **OPTIONS)
    with pytest.raises(OutputError, match="another run"):
        upscale_file(source, target, overwrite=True, **OPTIONS)
    assert first.wait() == 0
    first.stdout.close()
    is_true(target, truth)


def test_r14_a_read_only_place(source, monkeypatch):
    place = Path("/proc/out.ome.zarr")
    if not place.parent.is_dir():
        pytest.skip("no /proc here")
    calls = []
    monkeypatch.setattr(stand_in.StandIn, "__call__", lambda *a: calls.append(a))
    with pytest.raises(OutputError, match="cannot be written"):
        upscale_file(source, place, **OPTIONS)
    assert not calls


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_r33_a_network_disk_with_hiccups(source, target, truth, monkeypatch, code):
    original, failures = LocalStore.set, [0]

    async def shaky(self, key, value):
        if "/c/" in key and failures[0] < 5:
            failures[0] += 1
            raise OSError(code, os.strerror(code))
        await original(self, key, value)

    monkeypatch.setattr(LocalStore, "set", shaky)
    events: list[Any] = []
    upscale_file(source, target, workers=1, progress=events.append, **OPTIONS)
    assert sum(isinstance(e, TileFailed) for e in events) == 5
    is_true(target, truth)


def test_r33_a_network_disk_that_is_gone(source, target, truth, monkeypatch):
    original = LocalStore.set
    written: list[Any] = []

    async def gone(self, key, value):
        if "/c/" in key and len(written) >= 4:
            raise OSError(errno.EIO, "Input/output error")
        await original(self, key, value)
        if "/c/" in key:
            written.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "set", gone)
        with pytest.raises(
            TilesFailedError, match="8 tiles failed one after the other"
        ):
            upscale_file(source, target, workers=1, **OPTIONS)
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    assert done_at_start(events) == 4
    is_true(target, truth)


# -- people and processes -------------------------------------------------------------


class _Stop:
    """Cancels after a number of tiles."""

    def __init__(self, n: int) -> None:
        self.n, self.done = n, 0

    def __call__(self, event) -> None:
        self.done += isinstance(event, TileDone) and event.stage == "tiles"

    def is_set(self) -> bool:
        return self.done >= self.n


def command_line(source, target, *flags):
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "from helpers import stand_in; stand_in.install()\n"
        "from napari_swin2sr.cli import main as cli\n"
        "sys.exit(cli.main())\n"
    )
    arguments = ["upscale", source, target, "--tile", "32", "--value-range", "0,65535"]
    here = str(Path(__file__).parents[1])
    return [sys.executable, "-c", code, here, *map(str, arguments), *flags]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_r07_interrupted_at_the_terminal(source, target, truth, number):
    environment = {**os.environ, stand_in.SECONDS: "0.2"}
    process = subprocess.Popen(
        command_line(source, target, "--json", "--workers", "2"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    for line in process.stdout:
        if json.loads(line)["event"] == "tile_done":
            break
    process.send_signal(number)
    begin = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10  # a tile takes 0.2 s; the rest is leaving
    assert process.returncode == 128 + number
    assert "the same command goes on from there" in " ".join(err.split())
    done = [e for e in map(json.loads, out.splitlines()) if e["event"] == "tile_done"]
    assert len(done) <= 3
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    assert done_at_start(events) == len(done) + 1
    is_true(target, truth)


def test_r16_tiles_that_cannot_fit_in_memory(source, target, monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 10_000)
    with pytest.raises(MemoryLimitError, match="Choose a smaller tile"):
        upscale_file(source, target, **OPTIONS)
    assert not target.exists()


def test_r15_a_tile_that_does_not_fit_even_in_pieces(
    source, target, truth, monkeypatch
):
    calls = []

    compute = stand_in.StandIn.__call__

    def too_big(self, tiles, **core):
        calls.append(tiles.shape)
        if len(calls) > 6:
            raise MemoryLimitError("a tile does not fit. Choose a smaller tile")
        return compute(self, tiles, **core)

    with monkeypatch.context() as patch:
        patch.setattr(stand_in.StandIn, "__call__", too_big)
        with pytest.raises(MemoryLimitError, match="smaller tile"):
            upscale_file(source, target, workers=1, **OPTIONS)
    assert len(calls) == 7
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    assert done_at_start(events) == 4  # two calls were the estimate
    is_true(target, truth)


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_r17_one_bad_tile_does_not_throw_away_the_others(
    tmp_path, source, truth, monkeypatch, suffix
):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 0)
    target = tmp_path / f"out{suffix}"
    original = upscale.LazyUpscaled.block_at

    def ill(self, index):
        if index == (2, 3):
            raise ValueError("a bad tile")
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(upscale.LazyUpscaled, "block_at", ill)
        with pytest.raises(TilesFailedError, match=r"1 of 30 .*missing") as caught:
            upscale_file(source, target, **OPTIONS)
    assert "tile (2, 3) at [128:192, 192:256]: ValueError: a bad tile" in str(
        caught.value
    )
    with pytest.raises(FileError):
        open_image(target)
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    assert done_at_start(events) == N_TILES - 1
    is_true(target, truth)


def test_r22_no_model_is_called_for_the_graph(source, target, monkeypatch):
    monkeypatch.setattr(stand_in.StandIn, "__call__", None)
    lazy = upscale.apply(open_image(source).data, value_range=(0, 1), tile=32)
    assert lazy.numblocks == (5, 6)


def test_r23_the_graph_names_the_model_by_its_hash(source):
    image = open_image(source)
    first = upscale.apply(image.data, value_range=(0, 1), tile=32)
    assert first.name == upscale.apply(image.data, value_range=(0, 1), tile=32).name


def test_r25_the_versions_that_made_a_result_are_recorded(source, target):
    upscale_file(source, target, **OPTIONS)
    record = dict(zarr.open_group(target).attrs)["napari_swin2sr"]
    assert record["versions"]["numpy"] == np.__version__


def test_r27_the_source_is_changed_during_the_run(source, target):
    def meddle(event):
        if isinstance(event, TileDone) and event.done == 10:
            os.utime(source, (1, 1))

    with pytest.warns(UserWarning, match="was changed while it was read"):
        upscale_file(source, target, progress=meddle, **OPTIONS)
    record = dict(zarr.open_group(target).attrs)["napari_swin2sr"]
    assert record["source_changed"] is True
    with pytest.raises(OutputError, match="source"):
        upscale_file(source, target, **OPTIONS)


def test_r29_a_program_that_ends_with_a_run_in_a_thread(source, target):
    code = (
        "import sys, threading, time; sys.path.insert(0, sys.argv[1])\n"
        "from helpers import stand_in; stand_in.install()\n"
        "from napari_swin2sr import upscale_file\n"
        "token = threading.Event()\n"
        f"run = lambda: upscale_file({str(source)!r}, {str(target)!r}, tile=32,"
        " cancel=token)\n"
        "thread = threading.Thread(target=run); thread.start()\n"
        "time.sleep(1.0); token.set(); thread.join(5)\n"
        "assert not thread.is_alive()\n"
    )
    environment = {**os.environ, stand_in.SECONDS: "0.3"}
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[1])],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Cancelled" in done.stderr
    assert time.monotonic() - begin < 45


def test_r30_what_receives_the_events_may_be_gone(source, target, truth):
    """A progress callback that fails ends the run; its tiles are kept."""

    def gone(event):
        if isinstance(event, TileDone) and event.done == 5:
            raise RuntimeError("the window was closed")

    with pytest.raises(RuntimeError, match="window was closed"):
        upscale_file(source, target, progress=gone, workers=1, **OPTIONS)
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    assert done_at_start(events) >= 5
    is_true(target, truth)


def test_r31_a_double_click(source, target, truth):
    results, gate = [], threading.Barrier(2)

    def click():
        gate.wait()
        try:
            results.append(upscale_file(source, target, **OPTIONS))
        except OutputError as error:
            results.append(str(error))

    os.environ[stand_in.SECONDS] = "0.1"
    try:
        threads = [threading.Thread(target=click) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        del os.environ[stand_in.SECONDS]
    assert target in results
    assert any("another run" in str(r) for r in results)
    is_true(target, truth)


def test_r32_a_device_that_is_lost(source, target, truth, monkeypatch):
    class AcceleratorError(RuntimeError):
        """What PyTorch raises for a CUDA error that stays."""

    calls = []

    compute = stand_in.StandIn.__call__

    def lost(self, tiles, **core):
        calls.append(1)
        if len(calls) > 9:
            raise AcceleratorError("CUDA error: unspecified launch failure")
        return compute(self, tiles, **core)

    with monkeypatch.context() as patch:
        patch.setattr(stand_in.StandIn, "__call__", lost)
        with pytest.raises(RuntimeError, match="CUDA error"):
            upscale_file(source, target, workers=1, **OPTIONS)
    assert len(calls) == 10
    events: list[Any] = []
    upscale_file(source, target, device="cpu", progress=events.append, **OPTIONS)
    assert done_at_start(events) == 7
    is_true(target, truth)


def test_weights_that_vanish_are_said_before_anything_is_written(
    source, target, monkeypatch
):
    def gone(self, tiles, **core):
        raise WeightsError("x.pth", "it is gone", "Bring it back")

    monkeypatch.setattr(stand_in.StandIn, "__call__", gone)
    with pytest.raises(WeightsError, match="Bring it back"):
        upscale_file(source, target, **OPTIONS)
    assert [p.name for p in target.parent.iterdir()] == ["in.tif"]


def test_only_recent_tiles_are_decoded_on_resume(source, target, truth, monkeypatch):
    stop = _Stop(12)
    with pytest.raises(Exception, match="cancelled"):
        upscale_file(source, target, progress=stop, cancel=stop, workers=1, **OPTIONS)
    tiles = [p for p in (target / "0" / "c").rglob("*") if p.is_file()]
    for path in tiles[:7]:
        os.utime(path, (1_000_000, 1_000_000))
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **OPTIONS)
    checks = [e for e in events if isinstance(e, RunStarted) and e.stage == "check"]
    assert [e.total for e in checks] == [len(tiles) - 7]
    assert work.RECENT_SECONDS == 120
    is_true(target, truth)
