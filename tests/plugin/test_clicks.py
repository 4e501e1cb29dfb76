"""Whatever a person clicks, in any order: nothing hangs, fails or is left behind."""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QDockWidget, QMainWindow, QPushButton

from helpers.window import button, enter, pick
from napari_swin2sr.engine.upscaler import load_model
from napari_swin2sr.plugin import widget as widget_module
from napari_swin2sr.plugin.live.layer import live_layers
from napari_swin2sr.plugin.modes import DISK, LIVE, MEMORY, REGION
from napari_swin2sr.plugin.widget import SuperResolutionWidget, session_of

ACTIONS = [
    *("run", "run", "run", "cancel", "delete", "add", "select", "rename"),
    *("close_widget", "close_window", "slide", "turn", "zoom", "follow"),
]


logger = logging.getLogger(__name__)


class Person:
    """Somebody who clicks at random; without OpenGL, which may crash by itself."""

    def __init__(self, mode, seed, folder):
        self.mode, self.random = mode, random.Random(seed)
        self.viewer, self.folder, self.done = ViewerModel(), folder, []
        self.widget = None
        self.add()
        self.open()

    def act(self):
        """Do something, and wait for a moment or not at all."""
        name = self.random.choice(ACTIONS)
        self.done.append(name)
        getattr(self, name)()
        if self.random.random() < 0.6:
            QTest.qWait(self.random.choice((0, 5, 40, 120)))

    def open(self):
        self.window = QMainWindow()
        self.widget = SuperResolutionWidget(self.viewer)
        self.dock = QDockWidget(self.window)
        self.dock.setWidget(self.widget)
        self.window.addDockWidget(
            self.dock.allowedAreas().RightDockWidgetArea, self.dock
        )
        self.window.show()
        end = time.monotonic() + 20
        while self.widget.findChild(QAbstractButton, "default") is None:
            assert time.monotonic() < end
            QTest.qWait(5)
        pick(self.widget, self.mode)
        enter(self.widget, "tile", "16")
        if self.mode == DISK:
            target = self.folder / f"{self.random.randrange(3)}.ome.zarr"
            enter(self.widget, "target", str(target))

    def run(self):
        self.widget.findChild(QPushButton, "run").click()

    def cancel(self):
        if self.widget.running:
            button(self.widget, "Cancel").click()

    def delete(self):
        if self.viewer.layers:
            self.viewer.layers.remove(self.random.choice(list(self.viewer.layers)))

    def close_widget(self):
        self.widget.setParent(None)  # as the x of a dock does in napari
        self.window.close()
        self.open()

    def close_window(self):
        self.window.close()
        self.window.deleteLater()
        self.open()

    def slide(self):
        if self.viewer.dims.ndim > 2:
            self.viewer.dims.set_current_step(0, self.random.randrange(3))

    def turn(self):
        self.viewer.dims.ndisplay = 5 - self.viewer.dims.ndisplay

    def rename(self):
        if self.viewer.layers:
            self.random.choice(list(self.viewer.layers)).name = self.random.choice("ab")

    def zoom(self):
        self.viewer.scene.camera.zoom = self.random.choice((1, 4, 16))
        self.viewer.scene.camera.center = (0, *self.random.choices((0, 20, 99), k=2))

    def add(self):
        shape = self.random.choice(((40, 40), (3, 33, 24)))
        self.viewer.add_image(np.zeros(shape, np.uint8), name="a")

    def select(self):
        chosen = [x for x in self.viewer.layers if self.random.random() < 0.5]
        self.viewer.layers.selection = set(chosen)

    def follow(self):
        if self.mode == REGION:
            self.widget._follow.click()

    def leave(self):
        """Close everything, and say what is left."""
        self.widget.setParent(None)
        self.window.close()
        end = time.monotonic() + 30
        while session_of(self.viewer).run is not None:
            assert time.monotonic() < end, f"a run never ends after {self.done}"
            QTest.qWait(5)
        self.viewer.layers.clear()
        QTest.qWait(30)
        assert not live_layers(), self.done
        while filling := _filling():
            assert time.monotonic() < end, f"{filling} are left after {self.done}"
            QTest.qWait(5)
        left = [t for t in self.window.findChildren(QTimer) if t.isActive()]
        assert not left, self.done


def _filling():
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if "swin2sr" in name and "inspector" not in name]


@pytest.fixture(autouse=True)
def no_collection():
    """Collect garbage between tests: a pause of Python in a heap that tests filled."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def errors(monkeypatch):
    shown: list[Any] = []
    monkeypatch.setattr(widget_module, "show_error", shown.append)
    return shown


def click(mode, seeds, length, folder, responsive):
    if mode == DISK:  # with the real network: importing PyTorch is not watched here
        load_model("default")(np.zeros((1, 3, 16, 16), np.float32))
    for seed in seeds:
        person = Person(mode, seed, folder)
        person.turn()  # napari imports SciPy for its first 3-D view
        person.turn()
        QTest.qWait(20)
        with responsive() as beat:
            for _ in range(length):
                person.act()
                beat()
        person.leave()
        logger.info("%s: %d, %s", mode, seed, " ".join(person.done))


@pytest.mark.parametrize("mode", [LIVE, REGION, MEMORY, DISK])
def test_any_clicks(mode, qapp, fake_run, errors, tmp_path, responsive):
    fake_run.seconds = 0.02
    click(mode, range(3), 12, tmp_path, responsive)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [LIVE, REGION, MEMORY, DISK])
def test_many_clicks(mode, qapp, fake_run, errors, tmp_path, responsive):
    fake_run.seconds = 0.02
    click(mode, range(100, 300), 20, tmp_path, responsive)
