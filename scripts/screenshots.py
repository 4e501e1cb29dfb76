"""Make the pictures of the napari plugin for README and docs, in a real window.

    xvfb-run -a -s "-screen 0 1400x900x24" python scripts/screenshots.py

Uses the samples and the embedded model; writes docs/images/napari-*.png.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

os.environ["NAPARI_CONFIG"] = str(Path(tempfile.mkdtemp()) / "settings.yaml")

import napari
from napari.layers import Layer
from PIL import Image
from qtpy.QtGui import QImage
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QLineEdit,
    QProgressBar,
    QScrollArea,
)

from napari_swin2sr.plugin import samples
from napari_swin2sr.plugin.live.layer import live_layers
from napari_swin2sr.plugin.modes import DISK, LIVE, MEMORY

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtWidgets import QWidget

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
PLUGIN = "napari-swin2sr"


def main() -> None:
    """Make all pictures, or those whose names are given."""
    wanted = sys.argv[1:]
    for make in (widget, states, before_after, live, wipe, to_disk, preferences):
        if not wanted or make.__name__ in wanted:
            make()


def open_viewer(
    size: tuple[int, int] = (1200, 760), theme: str = "dark"
) -> tuple[napari.Viewer, QWidget]:
    """Return a window with the widget."""
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.theme = theme
    viewer.window.resize(*size)
    _, form = viewer.window.add_plugin_dock_widget(PLUGIN, "Super-resolution")
    QTest.qWait(800)
    return viewer, form


def pick(form: QWidget, name: str) -> None:
    """Press the radio button of a mode or a model."""
    form.findChild(QAbstractButton, name).click()


def press(form: QWidget, text: str) -> None:
    """Press the button that says so."""
    next(b for b in form.findChildren(QAbstractButton) if b.text() == text).click()


def enter(form: QWidget, name: str, text: str) -> None:
    """Type a value."""
    line = form.findChild(QLineEdit, name)
    line.setText(text)
    line.textEdited.emit(text)


def grab(part: QWidget) -> np.ndarray:
    """Return what a widget looks like."""
    image = part.grab().toImage().convertToFormat(QImage.Format.Format_RGBA8888)
    bits = image.constBits()
    bits.setsize(image.sizeInBytes())
    shape = image.height(), image.bytesPerLine() // 4, 4
    return np.frombuffer(bits, np.uint8).reshape(shape)[:, : image.width()].copy()


def add(viewer: napari.Viewer, make: Callable[[], list[tuple]]) -> list[Layer]:
    """Add a sample as napari does."""
    layers = [viewer.add_layer(Layer.create(*data)) for data in make()]
    QTest.qWait(300)
    return layers


def wait(condition: Callable[[], bool], seconds: float = 150) -> None:
    """Turn the event loop until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it never happened")
        QTest.qWait(20)


def save(pixels: np.ndarray, name: str) -> None:
    """Write a PNG of few colors, which is what user interfaces have."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    picture = picture.quantize(256, dither=Image.Dither.NONE)
    path = IMAGES / f"napari-{name}.png"
    picture.save(path, optimize=True)
    sys.stdout.write(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB\n")


def window(viewer: napari.Viewer) -> np.ndarray:
    """Return what the whole window looks like."""
    QTest.qWait(500)
    return viewer.screenshot(canvas_only=False, flash=False)


def widget() -> None:
    """The widget beside a sample, with a live layer."""
    viewer, form = open_viewer()
    add(viewer, samples.fields)
    pick(form, LIVE)
    form.run()
    wait(lambda: bool(live_layers()))
    viewer.reset_view()
    viewer.scene.camera.zoom *= 1.6
    QTest.qWait(500)
    wait(lambda: live_layers()[0].pyramid.idle)
    save(window(viewer), "widget")
    viewer.close()


def states() -> None:
    """The widget in its states, side by side: dark, and one that is light."""
    shots = []
    viewer, form = open_viewer()
    shots.append(grab(form))
    press(form, "Open sample")
    QTest.qWait(2500)
    viewer.layers.selection = {viewer.layers["cells: nuclei"]}
    QTest.qWait(1500)
    shots.append(grab(form))
    press(form, "Advanced")
    area = form.findChild(QScrollArea)
    QTest.qWait(300)
    area.ensureWidgetVisible(form.findChild(QComboBox, "dtype"))
    QTest.qWait(300)
    shots.append(grab(form))
    viewer.close()
    viewer, form = open_viewer(theme="light")
    rng = np.random.default_rng(0)
    noisy = samples.cells()[0][0] // 64
    viewer.add_image(rng.poisson(noisy).astype(np.uint16), name="short exposure")
    pick(form, "default-clean")
    pick(form, DISK)
    enter(form, "target", "/data/short-exposure-upscaled.ome.zarr")
    QTest.qWait(2500)
    shots.append(grab(form))
    viewer.close()
    height = min(shot.shape[0] for shot in shots)
    gap = np.full((height, 8, 4), 128, np.uint8)
    row = [part for shot in shots for part in (shot[:height], gap)]
    save(np.hstack(row[:-1]), "states")


def wipe() -> None:
    """Original and result with a line between them."""
    viewer, form = open_viewer()
    add(viewer, samples.tissue)
    pick(form, MEMORY)
    form.run()
    wait(lambda: not form.running)
    viewer.reset_view()
    viewer.scene.camera.zoom *= 3
    press(form, "Wipe")
    QTest.qWait(500)
    save(window(viewer), "wipe")
    press(form, "Wipe")
    viewer.close()


def before_after() -> None:
    """The same place before and after, at high zoom."""
    viewer, form = open_viewer()
    rows = []
    for make, center, zoom in (
        (samples.tissue, (120, 80), 4.5),
        (samples.cells, (30, 33), 16),
    ):
        layer = add(viewer, make)[-1]
        pick(form, MEMORY)
        form.run()
        wait(lambda: not form.running)
        result = viewer.layers[-1]
        viewer.scene.camera.center, viewer.scene.camera.zoom = center, zoom
        shots = []
        for shown in (layer, result):
            for other in viewer.layers:
                other.visible = other is shown
            QTest.qWait(300)
            shots.append(middle(viewer.screenshot(flash=False), 330, 470))
        bar = np.full((330, 6, 4), 255, np.uint8)
        rows.append(np.hstack([shots[0], bar, shots[1]]))
        viewer.layers.clear()
    gap = np.full((6, rows[0].shape[1], 4), 255, np.uint8)
    save(np.vstack([rows[0], gap, rows[1]]), "before-after")
    viewer.close()


def middle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the middle out of a picture."""
    y, x = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[y : y + height, x : x + width]


def live() -> None:
    """A live layer of which the middle has arrived, and the edges have not."""
    viewer, form = open_viewer()
    add(viewer, samples.tissue)
    enter(form, "tile", "24")
    pick(form, LIVE)
    form.run()
    wait(lambda: bool(live_layers()))
    viewer.reset_view()
    viewer.scene.camera.zoom *= 3.2
    viewer.scene.camera.center = (120, 90)
    QTest.qWait(300)
    finest = live_layers()[0].pyramid.arrays[0]

    def half() -> bool:
        sharp, total = finest.progress
        return total > 0 and sharp >= 0.45 * total

    wait(half)
    save(window(viewer), "live")
    viewer.close()


def to_disk() -> None:
    """A run to disk with its progress in the widget and in the activity dock."""
    viewer, form = open_viewer()
    pixels, keywords, _ = samples.fields()[0]
    viewer.add_image(np.tile(pixels, (4, 4, 1)), **keywords)
    pick(form, DISK)
    with tempfile.TemporaryDirectory() as folder:
        enter(form, "target", str(Path(folder, "farmland-upscaled.ome.zarr")))
        enter(form, "tile", "96")
        form.run()
        wait(lambda: form.findChild(QProgressBar).value() >= 30)
        save(window(viewer), "to-disk")
        form.cancel()
        wait(lambda: not form.running)
    viewer.close()


def preferences() -> None:
    """The plugin's page of the preferences."""
    viewer, _ = open_viewer()
    # Only the menu opens this dialog in public.
    dialog = viewer.window._open_preferences_dialog()
    dialog.resize(900, 520)
    for row in range(dialog._list.count()):
        if "swin2sr" in dialog._list.item(row).text().lower():
            dialog._list.setCurrentRow(row)
    QTest.qWait(500)
    save(grab(dialog), "preferences")
    dialog.close()
    viewer.close()


if __name__ == "__main__":
    main()
