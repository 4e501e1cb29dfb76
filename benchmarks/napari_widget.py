"""Measure what a person waits for in the widget, in a real window, as one table.

    xvfb-run -a -s "-screen 0 1400x900x24" python benchmarks/napari_widget.py

Opening the widget, the live layer, its first sharp tile, the longest time in which the
event loop stood still, and Cancel inside a tile; Markdown, with the processor.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

import napari
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QLineEdit

from napari_swin2sr.engine.cpu_native import processor_name
from napari_swin2sr.plugin.estimate import warm_up
from napari_swin2sr.plugin.live.layer import live_layers
from napari_swin2sr.plugin.modes import LIVE, MEMORY
from napari_swin2sr.plugin.samples import fields
from napari_swin2sr.plugin.widget import SuperResolutionWidget

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Measure and print."""
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window.resize(1200, 760)
    viewer.add_image(np.zeros((9, 9), np.uint8), visible=False)  # pays for OpenGL
    QTest.qWait(500)
    beats = [time.perf_counter()]
    timer = QTimer()
    timer.timeout.connect(lambda: beats.append(time.perf_counter()))
    timer.start(5)
    rows = {}

    start = time.perf_counter()
    widget = SuperResolutionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Super-resolution")
    wait(lambda: widget.findChild(QAbstractButton, "default") is not None)
    rows["open the widget"] = time.perf_counter() - start
    QTest.qWait(1000)
    thread = warm_up()
    wait(lambda: not thread.is_alive())
    rows["longest gap while the network is loaded in the background"] = gap(beats)

    pixels, keywords, _ = fields()[0]
    viewer.add_image(np.tile(pixels, (4, 4, 1)), **keywords)
    pick(widget, LIVE)
    QTest.qWait(1000)
    gap(beats)
    start = time.perf_counter()
    press(widget, "Run")
    wait(lambda: bool(live_layers()))
    rows["Run to the live layer on the screen"] = time.perf_counter() - start
    viewer.reset_view()
    finest = live_layers()[0].pyramid.arrays[0]
    start = time.perf_counter()
    viewer.scene.camera.zoom *= 6
    wait(lambda: finest.progress[0] > 0)
    rows["zoom in to the first sharp tile"] = time.perf_counter() - start
    wait(lambda: live_layers()[0].pyramid.idle)
    rows["zoom in to all visible tiles"] = time.perf_counter() - start
    rows["longest gap of the event loop from Run to there"] = gap(beats)

    pick(widget, MEMORY)
    line = widget.findChild(QLineEdit, "tile")
    line.setText("1024")
    QTest.qWait(500)
    press(widget, "Run")
    QTest.qWait(5000)
    gap(beats)
    start = time.perf_counter()
    press(widget, "Cancel")
    wait(lambda: not widget.running)
    rows["Cancel inside a tile of 1024 px"] = time.perf_counter() - start
    rows["longest gap of the event loop meanwhile"] = gap(beats)
    viewer.close()

    print(f"{processor_name()}; load {os.getloadavg()[0]:.1f}\n")
    print("| | s |\n|---|---|")
    for what, seconds in rows.items():
        print(f"| {what} | {seconds:.2f} |")


def gap(beats: list[float]) -> float:
    """Return the longest time between two beats, and begin anew."""
    longest = float(np.diff([*beats, time.perf_counter()]).max())
    beats[:] = [time.perf_counter()]
    return longest


def wait(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Turn the event loop until something is so."""
    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError("it never happened")
        QTest.qWait(2)


def pick(widget: SuperResolutionWidget, name: str) -> None:
    """Press the radio button of a mode."""
    widget.findChild(QAbstractButton, name).click()


def press(widget: SuperResolutionWidget, text: str) -> None:
    """Press the button that says so."""
    buttons = widget.findChildren(QAbstractButton)
    next(button for button in buttons if button.text() == text).click()


if __name__ == "__main__":
    main()
