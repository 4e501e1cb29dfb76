"""Runs that are killed at random moments end in the same bytes as undisturbed ones."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tifffile

from helpers import stand_in
from helpers.io_images import noise

logger = logging.getLogger(__name__)

SIDE, TILE, SMALLEST = 640, 64, 200
SECONDS_PER_TILE = "0.02"


def files_of(target: Path) -> dict[str, tuple[int, int]]:
    """Every file of a result -> inode and time of change, unfinished tiles aside."""
    paths = [target] if target.is_file() else target.rglob("*")
    return {
        str(p.relative_to(target.parent)): (p.stat().st_ino, p.stat().st_mtime_ns)
        for p in paths
        if p.is_file() and not p.name.endswith(".partial")
    }


def tiles_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {k: v for k, v in files_of(folder).items() if k[-1].isdigit()}


def content(path: Path) -> bytes:
    """All bytes; of an OME-TIFF the pixels, as every one has a UUID of its own."""
    if path.suffix != ".tif":
        return path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        return b"".join(level.asarray().tobytes() for level in tif.series[0].levels)


class Killer:
    """Starts a run again and again, and kills it after a random time."""

    def __init__(self, folder: Path, suffix: str, options: dict, seed: int) -> None:
        self.source = folder / "in.tif"
        self.target = folder / f"out{suffix}"
        self.options = {"tile": TILE, "value_range": (0.0, 65535.0)} | options
        self.random = random.Random(seed)
        self.store = self.target
        if suffix != ".ome.zarr":
            self.store = folder / f"{self.target.name}.unfinished.zarr"
        self.kills = self.lost = self.recomputed = self.strays_seen = 0

    def start(self, target: Path) -> subprocess.Popen:
        command = stand_in.run_in_new_process(
            self.source, target, self.options, SMALLEST
        )
        environment = {**os.environ, stand_in.SECONDS: SECONDS_PER_TILE}
        return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)

    def undisturbed(self, target: Path) -> None:
        """Run without a kill, and note how long its two halves take."""
        begin = time.monotonic()
        process = self.start(target)
        assert process.stdout.readline() == b"ready\n"
        self.seconds_before = time.monotonic() - begin
        assert process.stdout.readline() == b"done\n"
        self.seconds_after = time.monotonic() - begin - self.seconds_before
        assert process.wait() == 0
        process.stdout.close()

    def disturbed(self) -> bool:
        """Run and kill at a random moment; return whether it had finished."""
        before = tiles_of(self.store) if self.store.exists() else {}
        process = self.start(self.target)
        if self.random.random() < 0.15:
            time.sleep(self.random.uniform(0.3, 1.1) * self.seconds_before)
        else:
            process.stdout.readline()
            time.sleep(self.random.uniform(0, self.seconds_after))
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        said = process.stdout.read()
        process.stdout.close()
        if code == 0 or b"done" in said:
            return True
        assert code == -signal.SIGKILL
        self.kills += 1
        after = tiles_of(self.store) if self.store.exists() else {}
        if self.store.exists():
            self.lost += len(before.keys() - after.keys())
            self.recomputed += sum(after.get(k, v) != v for k, v in before.items())
            self.strays_seen += len(list(self.store.rglob("*.partial")))
        logger.info("kill: %d tiles, %d strays so far", len(after), self.strays_seen)
        return False


def kill_often(
    folder: Path, suffix: str, options: dict, kills: int, seed: int
) -> Killer:
    tifffile.imwrite(folder / "in.tif", noise((SIDE, SIDE)), photometric="minisblack")
    killer = Killer(folder, suffix, options, seed)
    truth = folder / "truth" / killer.target.name
    truth.parent.mkdir()
    killer.undisturbed(truth)
    while True:
        done = killer.kills >= kills
        before = tiles_of(killer.store) if killer.store.exists() else {}
        if done:
            killer.undisturbed(killer.target)
        elif not killer.disturbed():
            continue
        if killer.store == killer.target:
            after = tiles_of(killer.target)
            killer.lost += len(before.keys() - after.keys())
            killer.recomputed += sum(after[k] != v for k, v in before.items())
        # Same files, same bytes, nothing else.
        assert sorted(p.name for p in folder.iterdir()) == sorted(
            ["in.tif", "truth", killer.target.name]
        )
        assert files_of(killer.target).keys() == files_of(truth).keys()
        assert not list(folder.rglob("*.partial"))
        for name in files_of(truth):
            assert content(folder / name) == content(truth.parent / name)
        if done:
            break
        subprocess.run(["rm", "-r", killer.target], check=True)
    assert killer.lost == 0
    assert killer.recomputed == 0
    return killer


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".ome.zarr", {"ome_version": "0.5"}),
        (".ome.zarr", {"ome_version": "0.4"}),
        (".ome.tif", {}),
    ],
    ids=["0.5", "0.4", "tiff"],
)
def test_killed_a_few_times(tmp_path, suffix, options):
    killer = kill_often(tmp_path, suffix, options, kills=2, seed=1)
    assert killer.kills == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ome_version", ["0.5", "0.4"])
def test_killed_fifty_times(tmp_path, ome_version):
    killer = kill_often(
        tmp_path, ".ome.zarr", {"ome_version": ome_version}, kills=50, seed=7
    )
    assert killer.strays_seen < killer.kills * 8  # at most one per writing thread
    assert killer.kills == 50
