"""Locks against a second run."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from napari_swin2sr.errors import OutputError
from napari_swin2sr.runs import lock
from napari_swin2sr.runs.lock import finishing, locked

HOLD = """
import sys, time
from pathlib import Path
from napari_swin2sr.runs.lock import locked
part = eval(sys.argv[2])
with locked(Path(sys.argv[1]), part):
    print("held", flush=True)
    time.sleep(60)
"""


def take(target, part=None):
    """Take the lock and give it back."""
    with locked(target, part):
        pass


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a lock; it is killed at the end."""
    processes = []

    def start(part=None):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "out.zarr"), repr(part)],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_run_is_refused_and_told_who_is_first(tmp_path, holder):
    first = holder()
    with pytest.raises(OutputError, match="another run") as caught:
        take(tmp_path / "out.zarr")
    assert str(first.pid) in str(caught.value)
    assert socket.gethostname() in str(caught.value)
    with pytest.raises(OutputError, match="another run"):
        take(tmp_path / "out.zarr", (0, 2))
    take(tmp_path / "other.zarr")


def test_a_lock_of_a_killed_run_is_taken_over(tmp_path, holder):
    first = holder()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (tmp_path / ".out.zarr.lock").exists()
    with locked(tmp_path / "out.zarr"):
        text = json.loads((tmp_path / ".out.zarr.lock").read_text())
        assert text["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_parts_run_side_by_side_but_not_twice(tmp_path, holder):
    holder((0, 3))
    take(tmp_path / "out.zarr", (1, 3))
    with pytest.raises(OutputError, match="another run"):
        take(tmp_path / "out.zarr", (0, 3))
    with pytest.raises(OutputError, match="part-0-of-3"):
        take(tmp_path / "out.zarr")


def test_a_killed_part_does_not_stop_a_whole_run(tmp_path, holder):
    first = holder((0, 3))
    first.kill()
    first.wait()
    take(tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())


def test_a_lock_of_another_host_is_believed(tmp_path):
    lock = tmp_path / ".out.zarr.lock"
    lock.write_text(json.dumps({"pid": 1, "host": "node17", "since": "then"}))
    with pytest.raises(OutputError, match=r"node17.*delete") as caught:
        take(tmp_path / "out.zarr")
    assert str(lock) in str(caught.value)
    assert lock.exists()


@pytest.mark.parametrize(
    "name", [".out.zarr.lock", ".out.zarr.part-0-of-3.lock", ".out.zarr.finish.lock"]
)
@pytest.mark.parametrize("kind", ["link", "hard link", "file", "pipe"])
def test_a_file_of_the_users_own_is_no_lock(tmp_path, name, kind):
    mine, lock = tmp_path / "mine.txt", tmp_path / name
    mine.write_text("precious")
    if kind == "link":
        lock.symlink_to(mine)
    elif kind == "hard link":
        lock.hardlink_to(mine)
    elif kind == "file":
        lock.write_text("precious")
    else:
        os.mkfifo(lock)
    kind_of_lock = finishing if "finish" in name else locked
    with (
        pytest.raises(OutputError, match=rf"{name}: is no lock.*Move it"),
        kind_of_lock(tmp_path / "out.zarr"),
    ):
        raise AssertionError("the lock was taken")
    assert mine.read_text() == "precious"
    assert os.path.lexists(lock)
    if kind == "file":
        assert lock.read_text() == "precious"


def test_locks_of_other_programs_and_targets_are_left_alone(tmp_path):
    names = [".out.zarr.mine.lock", ".out.zarr.part-a.lock", ".out.zarr.lock.lock"]
    for name in names:
        (tmp_path / name).write_text("precious")
    take(tmp_path / "out.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    assert {p.read_text() for p in tmp_path.iterdir()} == {"precious"}


def test_two_names_of_one_target_have_one_lock(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "also").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "out.zarr").symlink_to(tmp_path / "data" / "out.zarr")
    with locked(tmp_path / "data" / "out.zarr"):
        for other in (tmp_path / "also" / "out.zarr", tmp_path / "out.zarr"):
            with pytest.raises(OutputError, match="another run"):
                take(other)


def test_two_threads_are_two_runs(tmp_path):
    results, gate = [], threading.Barrier(4)

    def one():
        gate.wait()
        try:
            with locked(tmp_path / "out.zarr"):
                time.sleep(1.5)
                results.append("ran")
        except OutputError:
            results.append("refused")

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["ran"] + 3 * ["refused"]
    assert not list(tmp_path.iterdir())


def test_only_one_finishes(tmp_path):
    target = tmp_path / "out.zarr"
    with finishing(target) as first, finishing(target) as second:
        assert (first, second) == (True, False)
    with finishing(tmp_path / "out.zarr") as third:
        assert third


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(lock.os, "open", refuse)
    with pytest.raises(OutputError, match=r"cannot be written.*Read-only"):
        take(tmp_path / "out.zarr")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def unsupported(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = tmp_path / ".out.zarr.lock"
    record = {"host": socket.gethostname(), "since": "then"}
    lock.write_text(json.dumps({"pid": os.getppid(), **record}))
    with pytest.raises(OutputError, match="another run"):
        take(tmp_path / "out.zarr")
    lock.write_text(json.dumps({"pid": 2**22 + 5, **record}))  # nobody
    take(tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())
