"""The tab in which a model learns from a person's own images.

The training is the command `napari-swin2sr train` in a process of its own, with a lower
priority, so that the viewer goes on as if nothing ran. It ends early when its standard
input does, so it never outlives the viewer for long.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from qtpy.QtCore import (  # type: ignore[attr-defined]
    QObject,
    QPointF,
    QProcess,
    QRect,
    Qt,
    QTimer,
    Signal,
)
from qtpy.QtGui import QColor, QImage, QPainter, QPaintEvent, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_swin2sr.errors import Cancelled, InputError, Swin2SRError
from napari_swin2sr.plugin.layer_source import layer_source, refusal, spatial_image
from napari_swin2sr.plugin.placement import METADATA_KEY, free_name
from napari_swin2sr.plugin.settings import (
    PLUGIN,
    current_settings,
    own_models,
)
from napari_swin2sr.plugin.worker import Job, Outcome, Run, duration
from napari_swin2sr.replace import folder_beside

if TYPE_CHECKING:
    import napari.viewer
    from numpy.typing import NDArray

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.plugin.worker import Report

STARTS = ("default", "default-clean", "default-x4")
"""Embedded models to start from, the recommended one first."""

INPUTS = (
    ("as clean as these", 0.0),
    ("sometimes noisy", 0.35),
    ("mostly noisy", 0.7),
)
"""(what the images to upscale later are like, share of noisy samples)."""

LARGEST, PLANES = 2048, 8
"""Most pixels per side, from the middle, and planes of a layer to learn from."""

HELD_OUT = 0.3
"""Share of the images that training never sees."""

VALIDATE_EVERY = 25
"""Steps between two looks at the held-out part."""

FILES = ("model.safetensors", "config.json", "README.md", "training.json")
"""What is kept of a training."""

COMMAND = (sys.executable, "-P", "-m", "napari_swin2sr")
"""Starts the process; -P: nothing of a working directory is ever imported."""

_PREVIEW, _GAP = 88, 4  # [screen px]


def models_folder() -> Path:
    """Return where new models go: the folder of the preferences, or one made so."""
    chosen = current_settings().model_folder.strip()
    if chosen:
        return Path(chosen).expanduser()
    from napari.settings import get_plugin_settings

    folder = Path.home() / "napari-swin2sr-models"
    page: Any = get_plugin_settings(PLUGIN)
    page.inference.model_folder = str(folder)
    return folder


def write_examples(
    images: Sequence[tuple[str, SpatialImage]], folder: Path, cancel: CancelToken
) -> Path:
    """Write what is learned from, a bounded part of each image; in a worker thread."""
    import tifffile

    for number, (_, image) in enumerate(images):
        if cancel.is_set():
            raise Cancelled("cancelled")
        part = []
        for axis, n in zip(image.axes, image.shape, strict=True):
            if axis in "YX":
                first = max(n - LARGEST, 0) // 2
                part.append(slice(first, first + min(n, LARGEST)))
            elif axis in "TZ":
                part.append(slice(None, None, -(-n // PLANES)))
            else:
                part.append(slice(None))
        pixels = np.asarray(image.data[tuple(part)])
        tifffile.imwrite(
            folder / f"{number:04}.ome.tif",
            pixels,
            photometric="rgb" if "S" in image.axes else "minisblack",
            metadata={"axes": image.axes},
        )
    return folder


class Training(QObject):
    """One training: writes the examples, watches over the process, keeps the model.

    Signals, all on the main thread: `told` with each record of the process, `ended`
    with a sentence and the folder of the new model, "" if there is none.
    """

    told = Signal(dict)
    ended = Signal(str, str)

    def __init__(
        self,
        images: Sequence[tuple[str, SpatialImage]],
        *,
        start: str,
        minutes: float,
        noise: float,
        name: str,
    ) -> None:
        super().__init__()
        self.start_model, self.name, self.minutes = start, name, minutes
        self.began = time.monotonic()
        self._gain: Mapping[str, Any] = {}
        self._said = ""
        self._stopping = False
        self._scratch = tempfile.TemporaryDirectory(prefix="napari-swin2sr-")
        self._output = Path(self._scratch.name) / "model"
        examples = Path(self._scratch.name) / "examples"
        examples.mkdir()
        self._arguments = [
            *("train", str(examples), "-o", str(self._output), "--from", start),
            *("--minutes", f"{minutes:g}", "--noise", f"{noise:g}"),
            *("--hot", "0.05" if noise else "0", "--validation", str(HELD_OUT)),
            *("--validate-every", str(VALIDATE_EVERY), "--json", "--stop-with-stdin"),
            *("--threads", str(max((os.cpu_count() or 2) - 1, 1))),
        ]

        def work(report: Report, cancel: CancelToken) -> Path:
            report("reading the examples")
            return write_examples(images, examples, cancel)

        self._reading: Run | None = Run(
            [Job("examples", work, lambda folder: None)],
            lambda state: None,
            self._examples_written,
        )
        self._process = QProcess(self)
        self._process.readyReadStandardOutput.connect(self._read)
        self._process.finished.connect(self._finished)
        self._process.errorOccurred.connect(self._failed_to_start)
        _RUNNING.add(self)
        app = QApplication.instance()
        assert app is not None
        app.aboutToQuit.connect(self._kill)

    def begin(self) -> None:
        """Start; returns at once."""
        assert self._reading is not None
        self._reading.start()

    def stop(self) -> None:
        """End soon, with the best that was learned so far."""
        self._stopping = True
        if self._reading is not None:
            self._reading.cancel()
        else:
            self._process.closeWriteChannel()

    def _examples_written(self, outcome: Outcome) -> None:
        self._reading = None
        if outcome.error is not None:
            self._end(str(outcome.error))
        elif outcome.cancelled or self._stopping:
            self._end("Stopped before training had begun.")
        else:
            self.began = time.monotonic()
            self._process.setWorkingDirectory(self._scratch.name)
            self._process.start(COMMAND[0], [*COMMAND[1:], *self._arguments])
            _lower_priority(self._process)

    def _read(self) -> None:
        while self._process.canReadLine():
            line = bytes(self._process.readLine().data()).decode(errors="replace")
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("event") == "gain":
                self._gain = record
            self.told.emit(record)

    def _failed_to_start(self, error: Any) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._end(f"{COMMAND[0]} cannot be started: training needs it.")

    def _finished(self, code: int, status: Any) -> None:
        self._read()
        if code or status != QProcess.ExitStatus.NormalExit:
            text = bytes(self._process.readAllStandardError().data()).decode(
                errors="replace"
            )
            self._end(_reason(text))
        elif not self._gain:
            self._end(
                "The held-out part is empty, so nobody can tell whether the model got "
                f"better: keep {self.start_model}. Choose images with more in them."
            )
        elif not self._gain["better"]:
            self._end(
                f"Not better than {self.start_model}: keep {self.start_model} "
                f"({gain_text(self._gain)})."
            )
        else:
            self._keep()

    def _keep(self) -> None:
        try:
            folder = models_folder()
            folder.mkdir(parents=True, exist_ok=True)
            names = [path.name for path in folder.iterdir()]
            target = folder / free_name(names, self.name)
            with folder_beside(target) as new:
                new.mkdir()
                for file in FILES:
                    (new / file).write_bytes((self._output / file).read_bytes())
        except (OSError, Swin2SRError) as error:
            self._end(f"The model could not be saved: {error}")
            return
        self._end(
            f"{gain_text(self._gain)}. {target.name} is in the list of models.", target
        )

    def _end(self, text: str, model: Path | None = None) -> None:
        if self not in _RUNNING:
            return
        _RUNNING.discard(self)
        self._scratch.cleanup()
        self.ended.emit(text, "" if model is None else str(model))

    def _kill(self) -> None:
        """The application ends: nothing outlives it."""
        if self in _RUNNING and self._process.state() != _NOT_RUNNING:
            self._process.kill()
            self._process.waitForFinished(2000)


_RUNNING: set[Training] = set()
_NOT_RUNNING = QProcess.ProcessState.NotRunning


def gain_text(gain: Mapping[str, Any]) -> str:
    """Say a gain with its interval."""
    return (
        f"{gain['mean']:+.2f} dB ({gain['low']:+.2f} to {gain['high']:+.2f}) on "
        f"{gain['units']} {gain['over']}"
    )


def _reason(text: str) -> str:
    """Return what a person has to know of what a command said at its end."""
    lines = [line for line in text.splitlines() if line.strip()]
    last = re.sub(r"^(napari-swin2sr: )?error: ", "", lines[-1]) if lines else ""
    return last or "Training ended without a reason: see the terminal."


def _lower_priority(process: QProcess) -> None:
    """Let everything else go first, where the system has such a thing."""
    if hasattr(os, "setpriority") and process.processId():
        os.setpriority(os.PRIO_PROCESS, process.processId(), 10)


class LearnTab(QWidget):
    """Choose layers and minutes, and get a model of one's own.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Its image layers are the examples.
    parent : QWidget, optional
        Where the tab is.

    Attributes
    ----------
    learned : signal with the folder of each new model
    """

    learned = Signal(str)

    def __init__(
        self, viewer: napari.viewer.Viewer, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self._training: Training | None = None
        self._unchecked: set[str] = set()
        self.layers = QListWidget()
        self.layers.setMaximumHeight(110)
        self.layers.setToolTip(
            "Sharp images of the kind that you want to get. A part of them is held out "
            "to check whether the model gets better"
        )
        self.start_model = QComboBox()
        self.start_model.setToolTip("The model that learns more")
        self.inputs = QComboBox()
        for text, share in INPUTS:
            self.inputs.addItem(text, share)
        self.inputs.setCurrentIndex(1)
        self.inputs.setToolTip("What the images that you will upscale are like")
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(0.1, 24 * 60)
        self.minutes.setDecimals(1)
        self.minutes.setValue(5)
        self.minutes.setSuffix(" min")
        self.name = QLineEdit("my-model")
        self.name.setToolTip("How the model is called in the list of models")
        self.button = QPushButton("Start")
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setTextVisible(False)
        self.status = QLabel()
        self.status.setWordWrap(True)
        self.curve = Curve()
        self.preview = QLabel()
        self.preview.setMinimumWidth(1)  # a picture never widens the tab
        self._arrange()
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._tick)
        self.button.clicked.connect(self._clicked)
        self.layers.itemChanged.connect(self._refresh_button)
        events = self._viewer.layers.events
        self._filled = self._fill
        for emitter in (events.inserted, events.removed, events.renamed):
            emitter.connect(self._filled)
        self.destroyed.connect(_Leaver(self))
        self._fill()

    def _arrange(self) -> None:
        layout = QVBoxLayout(self)
        intro = QLabel(
            "A model for your own kind of images: choose sharp examples, one large "
            "image or ten small ones."
        )
        intro.setWordWrap(True)
        layout.addWidget(intro)
        layout.addWidget(self.layers)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for text, editor in (
            ("Start from", self.start_model),
            ("New images are", self.inputs),
            ("Time", self.minutes),
            ("Name", self.name),
        ):
            form.addRow(text, editor)
        layout.addLayout(form)
        for part in (
            self.button,
            self.progress,
            self.status,
            self.curve,
            self.preview,
        ):
            layout.addWidget(part)
        layout.addStretch()
        for part in (self.progress, self.curve, self.preview):
            part.hide()

    @property
    def running(self) -> bool:
        """Whether a training of this tab is under way."""
        return self._training is not None

    # -- what there is to choose ------------------------------------------------------

    def _fill(self, event: Any = None) -> None:
        """Show the image layers again; results are no examples."""
        for row in range(self.layers.count()):
            item = self.layers.item(row)
            assert item is not None
            if item.checkState() == Qt.CheckState.Checked:
                self._unchecked.discard(item.text())
            else:
                self._unchecked.add(item.text())
        blocked = self.layers.blockSignals(True)
        self.layers.clear()
        for layer in self._viewer.layers:
            if not isinstance(layer, Image) or METADATA_KEY in layer.metadata:
                continue
            item = QListWidgetItem(layer.name)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            checked = layer.name not in self._unchecked and refusal(layer) is None
            item.setCheckState(
                Qt.CheckState.Checked if checked else Qt.CheckState.Unchecked
            )
            self.layers.addItem(item)
        self.layers.blockSignals(blocked)
        self._fill_models()
        self._refresh_button()

    def _fill_models(self) -> None:
        chosen = self.start_model.currentText()
        self.start_model.clear()
        for name in STARTS:
            self.start_model.addItem(name, name)
        for path in own_models():
            self.start_model.addItem(path.stem, str(path))
        self.start_model.setCurrentIndex(max(self.start_model.findText(chosen), 0))

    def chosen(self) -> list[Image]:
        """Return the layers that are ticked."""
        items = [self.layers.item(row) for row in range(self.layers.count())]
        names = {
            item.text()
            for item in items
            if item is not None and item.checkState() == Qt.CheckState.Checked
        }
        return [layer for layer in self._viewer.layers if layer.name in names]

    def _refresh_button(self, item: Any = None) -> None:
        self.button.setText("Stop and keep the best" if self.running else "Start")
        self.button.setEnabled(self.running or bool(self.chosen()))
        if not self.running and not self.layers.count():
            self.status.setText("Open an image to learn from.")
        elif self.status.text() == "Open an image to learn from.":
            self.status.clear()

    # -- a training -------------------------------------------------------------------

    def _clicked(self) -> None:
        if self._training is not None:
            self._training.stop()
            self.button.setEnabled(False)
            self.status.setText("Stops, and keeps the best so far ...")
            return
        try:
            images = [
                (layer.name, spatial_image(layer, layer_source(layer)))
                for layer in self.chosen()
            ]
            self._training = Training(
                images,
                start=self.start_model.currentData(),
                minutes=self.minutes.value(),
                noise=self.inputs.currentData(),
                name=_checked_name(self.name.text()),
            )
        except Swin2SRError as error:
            self.status.setText(str(error))
            return
        self.curve.clear()
        self.preview.hide()
        self.progress.setValue(0)
        self.progress.show()
        self.status.setText("Reads the examples ...")
        self._training.told.connect(self._told)
        self._training.ended.connect(self._ended)
        self._training.begin()
        self._clock.start()
        self._set_editable(False)

    def _set_editable(self, editable: bool) -> None:
        for editor in (
            self.layers,
            self.start_model,
            self.inputs,
            self.minutes,
            self.name,
        ):
            editor.setEnabled(editable)
        self._refresh_button()

    def _tick(self) -> None:
        if self._training is not None:
            passed = time.monotonic() - self._training.began
            share = passed / (60 * self._training.minutes)
            self.progress.setValue(round(1000 * min(share, 1)))

    def _told(self, record: Mapping[str, Any]) -> None:
        if record.get("event") == "validation":
            gain = float(np.mean(list(record["validation"].values()) or [0]))
            self.curve.add(record["seconds"], gain)
            self.curve.show()
            loss = "" if record["loss"] is None else f"loss {record['loss']:.4f}, "
            assert self._training is not None
            left = duration(max(60 * self._training.minutes - record["seconds"], 0))
            self.status.setText(
                f"Step {record['step']}: {loss}{self.curve.gained:+.2f} dB since the "
                f"start on the held-out part; {left} left"
            )
        elif record.get("event") == "preview":
            self._show_preview(Path(record["path"]))
        elif record.get("event") == "message":
            self.status.setText(str(record["message"]))

    def _show_preview(self, path: Path) -> None:
        try:
            with np.load(path) as crops:
                picture = side_by_side(crops["input"], crops["before"], crops["after"])
        except (OSError, ValueError):  # it is being replaced
            return
        self.preview.setPixmap(picture)
        self.preview.setToolTip("A held-out crop: input, before and after")
        self.preview.show()

    def _ended(self, text: str, model: str) -> None:
        self._training = None
        self._clock.stop()
        self.progress.hide()
        self.status.setText(text)
        self._fill_models()
        self._set_editable(True)
        if model:
            self.learned.emit(model)


class _Leaver:
    """What a tab leaves behind when it is destroyed: its training stops."""

    def __init__(self, tab: LearnTab) -> None:
        self._state = tab.__dict__  # the widget itself is gone by then

    def __call__(self, *_: object) -> None:
        training: Training | None = self._state["_training"]
        events = self._state["_viewer"].layers.events
        for emitter in (events.inserted, events.removed, events.renamed):
            emitter.disconnect(self._state["_filled"])
        if training is not None:
            training.stop()


def _checked_name(name: str) -> str:
    """Return a name for a folder, or refuse it."""
    name = name.strip()
    if not re.fullmatch(r"[\w][\w .+-]*", name):
        raise InputError(
            f"{name!r} is no name for a model: use letters, digits, spaces and .+-_"
        )
    return name


NAMES = ("input", "before", "after")
"""What the three crops of the preview are called."""


def side_by_side(*crops: NDArray[np.float32]) -> QPixmap:
    """Return (C, h, w) crops as one picture, all with the contrast of the last."""
    low, high = np.percentile(crops[-1], (0.5, 99.5))
    shown = []
    for crop in crops:
        factor = crops[-1].shape[-1] // crop.shape[-1]
        large = crop.repeat(factor, -1).repeat(factor, -2)
        shown.append((large - low) / max(float(high - low), 1e-6))
    side = _PREVIEW + _GAP
    picture = QPixmap(side * len(shown) - _GAP, _PREVIEW)
    picture.fill(QColor(0, 0, 0, 0))
    painter = QPainter(picture)
    for number, (name, values) in enumerate(zip(NAMES, shown, strict=True)):
        color = np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0)
        levels = np.ascontiguousarray(np.clip(color * 255, 0, 255).astype(np.uint8))
        height, width = levels.shape[:2]
        kind = QImage.Format.Format_RGB888
        image = QImage(levels.tobytes(), width, height, 3 * width, kind)
        place = QRect(number * side, 0, _PREVIEW, _PREVIEW)
        painter.drawImage(place, image)
        painter.setPen(QColor("white"))
        painter.drawText(place.adjusted(4, 2, 0, 0), 0, name)
    painter.end()
    return picture


class Curve(QWidget):
    """The gain on the held-out part over time, against the start."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(54)
        self.setToolTip("Gain on the held-out part [dB]; the line is the start")
        self.points: list[tuple[float, float]] = []

    @property
    def gained(self) -> float:
        """The last gain less the first [dB]."""
        return self.points[-1][1] - self.points[0][1] if self.points else 0.0

    def add(self, seconds: float, gain: float) -> None:
        """Draw one more point."""
        self.points.append((seconds, gain))
        self.update()

    def clear(self) -> None:
        """Draw nothing."""
        self.points = []
        self.hide()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802
        """Draw the line of the start and the gains."""
        if not self.points:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        gains = [gain - self.points[0][1] for _, gain in self.points]
        low, high = min(*gains, -0.02), max(*gains, 0.05)
        last = max(self.points[-1][0], 1e-6)
        width, height = self.width() - 2, self.height() - 4

        def at(seconds: float, gain: float) -> QPointF:
            share = (gain - low) / (high - low)
            return QPointF(1 + width * seconds / last, 2 + height * (1 - share))

        painter.setPen(QPen(QColor(128, 128, 128), 1, Qt.PenStyle.DashLine))
        painter.drawLine(at(0, 0), at(last, 0))
        painter.setPen(QPen(QColor(0, 160, 120), 2))
        times = [seconds for seconds, _ in self.points]
        line = [at(*point) for point in zip(times, gains, strict=True)]
        painter.drawPolyline(QPolygonF(line))
        painter.drawEllipse(line[-1], 2.5, 2.5)
