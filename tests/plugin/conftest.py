"""The plugin's tests: skipped as a folder where napari or Qt is absent."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.plugin.live.pyramid import tile_grid
from napari_swin2sr.tiles.chunks import ChunkGrid
from napari_swin2sr.tiles.worker import UpscaledTile
from napari_swin2sr.weights.config import Swin2SRConfig

os.environ.setdefault(
    "NAPARI_CONFIG", str(Path(tempfile.mkdtemp(prefix="napari-")) / "settings.yaml")
)

# Imported once, here, where the warnings of napari's own imports may pass.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import napari.layers
        import napari.viewer  # noqa: F401
        import qtpy.QtWidgets  # noqa: F401
    except ImportError:
        collect_ignore_glob = ["test_*.py"]


class CountingLevel:
    """A `Level` that repeats pixels, counts its calls, and can wait or fail."""

    def __init__(self, source, *, upscale=2, tile=16, samples=None):
        axes = [axis for axis in range(source.ndim) if axis != samples][-2:]
        self.source, self.axes, self.upscale = source, axes, upscale
        self.shape = tuple(
            n * upscale if axis in axes else n for axis, n in enumerate(source.shape)
        )
        self.dtype = np.dtype(source.dtype)
        self.chunks = tile_grid(self.shape, dict.fromkeys(axes, tile), samples)
        self.calls = []
        self.threads = set()
        self.seconds = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.error = None

    def expected(self):
        out = self.source
        for axis in self.axes:
            out = out.repeat(self.upscale, axis)
        return out

    def block_at(self, index):
        self.calls.append(index)
        self.threads.add(threading.current_thread())
        if self.seconds:
            time.sleep(self.seconds)
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        where = ChunkGrid.from_sizes(self.chunks).slices_at(index)
        block = self.source[
            tuple(
                slice(part.start // self.upscale, part.stop // self.upscale)
                if axis in self.axes
                else part
                for axis, part in enumerate(where)
            )
        ]
        for axis in self.axes:
            block = np.repeat(np.asarray(block), self.upscale, axis)
        return block

    def pair_at(self, index):
        """Return a tile and, as its error, a tenth of it."""
        image = self.block_at(index)
        return UpscaledTile(image, image.astype(np.float32) / 10)


@pytest.fixture
def counting_level():
    """Give the class of fake super-resolved levels."""
    return CountingLevel


@pytest.fixture
def wait_until():
    """Give a function that waits for a condition, turning the event loop if any."""

    def wait(condition, timeout=30.0):
        from qtpy.QtTest import QTest
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, "it never happened"
            if QApplication.instance() is not None:
                QTest.qWait(5)  # deletes what waits for it, too
            else:
                time.sleep(0.005)

    return wait


class FakeHandle:
    """A model by reference that has no weights."""

    name, sha256, device, precision = "fake", "0" * 64, "cpu", "auto"
    made: list[Any]
    seconds: float
    error: Exception | None

    def __init__(self, upscale=2):
        self.upscale, self.window_size = upscale, 8
        self.config = Swin2SRConfig(upscale=upscale)

    def load(self):
        """Have nothing to load."""


@pytest.fixture
def fake_model(monkeypatch):
    """Let live layers repeat pixels; give the levels that they made, and a handle."""
    from napari_swin2sr.plugin.live import layer as live

    made: list[Any] = []

    def lazy(image, options, pyramid, source):
        level = CountingLevel(
            image.data,
            upscale=handle.upscale,
            tile=handle.upscale * options.tile,
            samples=source.layout.s,
        )
        level.seconds, level.error = handle.seconds, handle.error
        made.append(level)
        return level

    handle = FakeHandle()
    handle.made = made
    handle.seconds, handle.error = 0.0, None
    monkeypatch.setattr(live, "_lazy", lazy)
    yield handle
    for controller in live.live_layers():
        controller.close()


@pytest.fixture
def n_calls(fake_model):
    """Give a function that counts the calls of the fake model."""
    return lambda: sum(len(level.calls) for level in fake_model.made)


@pytest.fixture
def settle(wait_until):
    """Give a function that turns the event loop until all live layers are filled."""

    def wait():
        from qtpy.QtWidgets import QApplication

        from napari_swin2sr.plugin.live.layer import live_layers

        for _ in range(3):  # a refresh may ask for more
            end = time.monotonic() + 0.15
            while time.monotonic() < end:
                QApplication.processEvents()
                time.sleep(0.005)
            wait_until(lambda: all(one.pyramid.idle for one in live_layers()))

    return wait


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    """Keep the widget from loading PyTorch in the background of other tests."""
    from napari_swin2sr.plugin import widget

    monkeypatch.setattr(widget, "warm_up", lambda: None)


@pytest.fixture(autouse=True)
def no_progress_left():
    """Every progress bar is closed, however a run ends."""
    from napari.utils.progress import progress

    yield
    assert not progress._all_instances
    progress._all_instances.clear()


@pytest.fixture(autouse=True)
def no_live_layer_left():
    """The live layers of a test end with it, whose viewer may never be closed."""
    yield
    from napari_swin2sr.plugin.live.layer import live_layers

    for controller in live_layers():
        controller.close()


@pytest.fixture
def fake_run(monkeypatch, fake_model):
    """Let runs repeat pixels in tiles of 16; count, delay or fail their tiles."""
    import napari_swin2sr.upscale
    from napari_swin2sr.image.axes import resolve_axes
    from napari_swin2sr.image.intensity import ValueRange
    from napari_swin2sr.plugin import modes
    from napari_swin2sr.tiles.lazy import LazyUpscaled
    from napari_swin2sr.tiles.plan import plan_tiles

    fake_model.calls = 0
    fake_model.threads = set()

    def block(tiles):
        fake_model.calls += 1
        fake_model.threads.add(threading.current_thread())
        time.sleep(fake_model.seconds)
        if fake_model.error is not None:
            raise fake_model.error
        return tiles.repeat(2, -1).repeat(2, -2)

    vars(block).update(upscale=fake_model.upscale, config=fake_model.config)
    vars(block).update(name="fake", sha256="0" * 64)

    def plan(image, options, report, token):
        layout = resolve_axes(image.shape, image.axes)
        tiles = plan_tiles(layout.plane_shape, core=16, halo=0)
        ranges = (ValueRange(0, 255),) * layout.n_channels
        return LazyUpscaled(image.data, layout, tiles, ranges, block)

    fake_model.lazy_of = lambda pixels: plan(
        SpatialImage(data=pixels, axes="YX"), None, None, None
    )
    monkeypatch.setattr(modes, "plan", plan)
    monkeypatch.setattr(modes, "find_model", lambda options, report, token: fake_model)
    monkeypatch.setattr(napari_swin2sr.upscale, "provenance", lambda lazy: {})
    return fake_model


@pytest.fixture
def slowness():
    """Give a function: by how much this machine is slower now; at least 1.

    The environment variable NAPARI_SWIN2SR_SLOWNESS says it, or else the load does.
    """

    def measure():
        if told := os.environ.get("NAPARI_SWIN2SR_SLOWNESS"):
            return float(told)
        load = getattr(os, "getloadavg", lambda: (0.0,))()[0]
        return max(1.0, load / (os.cpu_count() or 1))

    return measure


@pytest.fixture
def responsive(slowness):
    """Give a block in which the event loop must never stop for long [s].

    What the main thread computes between two turns counts as it is; time on the
    clock, in which other work may have the processor, counts by the slowness. The
    block gets a function that a test calls between things that it does in one turn.
    """

    @contextmanager
    def watch(limit=0.25):
        from qtpy.QtCore import QTimer
        from qtpy.QtWidgets import QApplication

        def beat():
            beats.append((time.perf_counter(), time.thread_time()))

        beats: list[Any] = []
        beat()
        timer = QTimer()
        timer.timeout.connect(beat)
        timer.start(5)
        yield beat
        timer.stop()
        QApplication.processEvents()
        beat()
        clock, computed = np.diff(beats, axis=0).max(0)
        assert computed < limit, f"the main thread computed for {computed:.2f} s"
        assert clock < limit * slowness(), f"the event loop stopped {clock:.2f} s"

    return watch
