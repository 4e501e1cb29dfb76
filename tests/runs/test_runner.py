"""Runs of many tiles: order, parts, retries, cancel, executors, estimates."""

from __future__ import annotations

import errno
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from helpers.run_fakes import FailingSink, FakeLazy
from helpers.toy_network import repeat
from napari_swin2sr.errors import (
    Cancelled,
    MemoryLimitError,
    OptionError,
    OutputError,
    TilesFailedError,
    WeightsError,
)
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.intensity import ValueRange
from napari_swin2sr.options import check_part
from napari_swin2sr.runs import resources as limits
from napari_swin2sr.runs import runner
from napari_swin2sr.runs.runner import (
    RunFinished,
    Runner,
    RunStarted,
    TileDone,
    TileFailed,
)
from napari_swin2sr.tiles.lazy import LazyUpscaled
from napari_swin2sr.tiles.plan import plan_tiles


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(runner, "_PAUSE_SECONDS", 0.001)


def test_every_block_is_written_once_and_reported():
    lazy = FakeLazy()
    events: list[Any] = []
    out = np.zeros(lazy.shape, np.uint16)
    result = Runner(progress=events.append, workers=3).run(lazy, out)
    np.testing.assert_array_equal(out, lazy.truth())
    done = [e for e in events if isinstance(e, TileDone)]
    assert events[0] == RunStarted(12, 0)
    assert isinstance(events[-1], RunFinished)
    assert events[-1] == result
    assert sorted(e.index for e in done) == list(np.ndindex(3, 4))
    assert [e.done for e in done] == list(range(1, 13))
    assert done[-1].remaining == 0
    assert done[0].remaining > 0
    assert (result.done, result.total, result.failed) == (12, 12, ())


def test_finished_blocks_are_not_computed_again():
    lazy = FakeLazy(ill={(0, 0): 99, (2, 3): 99})
    events: list[Any] = []
    out = lazy.truth()
    Runner(progress=events.append).run(
        lazy, out, is_done=lambda i: i in {(0, 0), (2, 3)}
    )
    assert events[0] == RunStarted(12, 2)
    assert sum(isinstance(e, TileDone) for e in events) == 10


@pytest.mark.parametrize("n", [1, 2, 5, 12, 20])
def test_parts_are_disjoint_and_complete(n):
    lazy, seen = FakeLazy(), []

    def note(event):
        if isinstance(event, TileDone):
            seen.append(event.index)

    out = np.zeros(lazy.shape, np.uint16)
    for i in range(n):
        Runner(part=(i, n), progress=note).run(lazy, out)
    assert sorted(seen) == list(np.ndindex(3, 4))
    np.testing.assert_array_equal(out, lazy.truth())


@pytest.mark.parametrize(
    "part", [(1, 1), (-1, 3), (3, 3), (0, 0), "1", "a/b", (1,), "4/4", 7]
)
def test_impossible_parts_are_refused(part):
    with pytest.raises(OptionError, match="I/N with I from 0"):
        check_part(part)


def test_a_part_may_be_text():
    assert check_part("3/16") == (3, 16)
    assert check_part(None) is None


def test_a_failing_tile_is_tried_again_after_the_others():
    lazy = FakeLazy(ill={(1, 1): 2})
    events: list[Any] = []
    out = np.zeros(lazy.shape, np.uint16)
    result = Runner(progress=events.append).run(lazy, out)
    np.testing.assert_array_equal(out, lazy.truth())
    failures = [e for e in events if isinstance(e, TileFailed)]
    assert [(e.index, e.attempt, e.final) for e in failures] == [
        ((1, 1), 1, False),
        ((1, 1), 2, False),
    ]
    assert result.done == 12


def test_tiles_that_stay_ill_are_listed_and_the_others_kept():
    lazy = FakeLazy(ill={(1, 1): 99, (2, 0): 99})
    events: list[Any] = []
    out = np.zeros(lazy.shape, np.uint16)
    with pytest.raises(TilesFailedError, match=r"2 of 12 tiles are missing") as caught:
        Runner(progress=events.append).run(lazy, out)
    expected = lazy.truth()
    expected[lazy.slices_at((1, 1))] = 0
    expected[lazy.slices_at((2, 0))] = 0
    np.testing.assert_array_equal(out, expected)
    assert set(caught.value.failed) == {(1, 1), (2, 0)}
    assert "tile (1, 1) at [4:8, 4:8]: ValueError: block (1, 1) is ill" in str(
        caught.value
    )
    assert events[-1].failed == ((1, 1), (2, 0))
    assert [e.final for e in events if isinstance(e, TileFailed)].count(True) == 2


def test_when_tile_after_tile_fails_the_run_stops():
    lazy = FakeLazy(grid=(30, 1), ill=dict.fromkeys(np.ndindex(30, 1), 99))
    out = np.zeros(lazy.shape, np.uint16)
    with pytest.raises(TilesFailedError, match="8 tiles failed one after the other"):
        Runner(workers=1).run(lazy, out)
    assert sum(lazy.ill.values()) >= 30 * 99 - 10


def test_an_error_that_strikes_every_tile_ends_the_run_at_once():
    class Broken(FakeLazy):
        def block_at(self, index):
            raise WeightsError("x.pth", "it is gone", "Bring it back")

    events: list[Any] = []
    with pytest.raises(WeightsError, match="Bring it back"):
        Runner(workers=1, progress=events.append).run(Broken(), {})
    assert sum(isinstance(e, TileFailed) for e in events) == 1
    assert isinstance(events[-1], RunFinished)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_ends_the_run_and_keeps_what_is_there(code):
    lazy = FakeLazy()
    sink = FailingSink(lazy.shape, code, 6, 99)
    with pytest.raises(OutputError, match="5 of 12 tiles, which are kept"):
        Runner(workers=1).run(lazy, sink)
    assert (sink.array != 0).sum() == 5 * 16


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_hiccup_of_a_network_disk_is_tried_again(code):
    lazy = FakeLazy()
    sink = FailingSink(lazy.shape, code, 3, 5)
    Runner(workers=2).run(lazy, sink)
    np.testing.assert_array_equal(sink.array, lazy.truth())


def test_cancel_ends_within_a_tile_and_keeps_the_finished():
    done: list[Any] = []
    lazy, cancel = FakeLazy(grid=(100, 1)), threading.Event()
    out = np.zeros(lazy.shape, np.uint16)

    def progress(event):
        if isinstance(event, TileDone):
            done.append(event.index)
            if len(done) == 5:
                cancel.set()
        if isinstance(event, RunFinished):
            done.append(event)

    with pytest.raises(Cancelled, match=r"\d+ of 100 tiles are finished"):
        Runner(cancel=cancel, progress=progress, workers=2).run(lazy, out)
    assert done[-1].cancelled
    assert done[-1].done == len(done) - 1 <= 5 + 2
    written = {i for i in range(100) if out[i * 4, 0]}
    assert written == {index[0] for index in done[:-1]}


def test_cancel_waits_for_the_tile_in_the_network_not_for_those_read_ahead():
    cancel, in_network = threading.Event(), []

    def slow(tiles):
        in_network.append(cancel.is_set())
        if len(in_network) == 3:
            cancel.set()  # while others have been read and wait for their turn
        time.sleep(0.05)
        return repeat(tiles)

    image = np.zeros((64, 64), np.uint8)
    layout, plan = resolve_axes(image.shape), plan_tiles(image.shape, core=8, halo=0)
    lazy = LazyUpscaled(image, layout, plan, (ValueRange(0, 1, 1),), slow)
    events: list[Any] = []
    with pytest.raises(Cancelled, match="cancelled"):
        Runner(progress=events.append, cancel=cancel).run(lazy, np.zeros(lazy.shape))
    assert in_network == [False, False, False]
    assert events[-1].cancelled
    assert events[-1].done == 3
    assert not any(isinstance(event, TileFailed) for event in events)


def test_an_interrupt_waits_for_the_tiles_in_work_only():
    lazy = FakeLazy(grid=(50, 1), seconds=0.01)
    out = np.zeros(lazy.shape, np.uint16)
    events = []

    def progress(event):
        events.append(event)
        if isinstance(event, TileDone) and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(progress=progress, workers=2).run(lazy, out)
    written = (out[::4, 0] != 0).sum()
    assert 3 <= written <= 5
    assert isinstance(events[-1], RunFinished)
    assert not [t for t in threading.enumerate() if t.name.startswith("swin2sr")]


def test_threads_of_ones_own():
    lazy = FakeLazy()
    out = np.zeros(lazy.shape, np.uint16)
    with ThreadPoolExecutor(2) as pool:
        Runner(executor=pool).run(lazy, out)
    np.testing.assert_array_equal(out, lazy.truth())


def test_forked_processes_are_refused_before_they_hang():
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool,
        pytest.raises(OptionError, match="spawn"),
    ):
        Runner(executor=pool).run(FakeLazy(), {})


def test_no_worker_is_no_number_of_workers():
    with pytest.raises(OptionError, match="workers=0"):
        Runner(workers=0).run(FakeLazy(), {})


def test_an_empty_grid_is_a_finished_run():
    assert Runner().run(FakeLazy(grid=(0, 3)), {}).total == 0


def test_too_little_memory_is_said_before_the_first_tile(monkeypatch):
    monkeypatch.setattr(limits, "available_memory", lambda: 10**9)
    limits.check_memory(10**9)
    with pytest.raises(MemoryLimitError, match=r"2\.0 GB of memory and 1\.0 GB"):
        limits.check_memory(2 * 10**9)


def test_too_little_space_is_said_before_the_first_tile(tmp_path):
    limits.check_space(tmp_path, 1000)
    with pytest.raises(OutputError, match="GB too little"):
        limits.check_space(tmp_path, 10**18)


def test_memory_knows_what_slurm_gave(monkeypatch):
    whole = limits.available_memory()
    assert whole is None or whole > 10**8
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    assert limits.available_memory() == 100 * 2**20
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "30")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert limits.available_memory() == 60 * 2**20
