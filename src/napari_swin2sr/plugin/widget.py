"""The widget: which image, which model, what to show, and one button.

It shows the `Session` of its viewer and hands what is asked for to a `Run`; what is
chosen, computed and said is made elsewhere.
"""

from __future__ import annotations

import functools
import re
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Layer
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QProgressBar,
    QPushButton,
    QRadioButton,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)
from superqt.utils import qdebounced

from napari_swin2sr.errors import Swin2SRError, TilesFailedError
from napari_swin2sr.plugin import samples
from napari_swin2sr.plugin.before import (
    image_words,
    inspection_of,
    inspector,
    need_words,
    suits,
)
from napari_swin2sr.plugin.certainty import CertaintyRow
from napari_swin2sr.plugin.choices import (
    Choices,
    as_command_line,
    as_python,
    model_choices,
)
from napari_swin2sr.plugin.compare import CompareRow, pairs_of
from napari_swin2sr.plugin.estimate import warm_up
from napari_swin2sr.plugin.form import (
    AxesTable,
    Message,
    ModelPicker,
    OptionsForm,
    Section,
    column,
    narrow,
    note,
    push,
    warning,
    wrapped,
)
from napari_swin2sr.plugin.layer_source import guess_axes, refusal
from napari_swin2sr.plugin.learn import LearnTab
from napari_swin2sr.plugin.modes import (
    DISK,
    LIVE,
    MODES,
    REGION,
    Request,
    in_viewer,
    job,
)
from napari_swin2sr.plugin.placement import METADATA_KEY, camera_of
from napari_swin2sr.plugin.worker import Job, Outcome, Run, State
from napari_swin2sr.plugin.writers import save_job

if TYPE_CHECKING:
    from concurrent.futures import Future

    import napari.viewer

    from napari_swin2sr.options import UpscaleOptions
    from napari_swin2sr.trust.suitability import Inspection

SAY_MS, FOLLOW_MS, FILL_MS, WARM_UP_MS = 150, 300, 10, 500
"""Pauses before what a person does is acted upon [ms]."""

_SAID_HERE = {
    "replace it with --overwrite (overwrite=True)": 'tick "Replace a finished file"',
    "start anew with --no-resume (resume=False)": "delete it to start anew",
    "--dtype": "the type under Advanced",
}
"""What messages say for the command line -> for the widget."""


@dataclass(slots=True)
class Session:
    """What outlives a widget: the viewer's run, what was chosen and found."""

    run: Run | None = None
    choices: Choices = field(default_factory=Choices)
    found: weakref.WeakKeyDictionary[
        Image, tuple[Any, Future[Inspection | None] | None]
    ] = field(default_factory=weakref.WeakKeyDictionary)


_SESSIONS: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(viewer: napari.viewer.Viewer) -> Session:
    """Return the session of a viewer; plugins get a proxy of it, each another one."""
    return _SESSIONS.setdefault(getattr(viewer, "__wrapped__", viewer), Session())


class SuperResolutionWidget(QWidget):
    """Super-resolution of image layers.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer it belongs to.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._session = session_of(viewer)
        self._choices = self._session.choices
        if not self._choices.fields:
            self._choices.restore()
            self._choices.mode = LIVE
        self._preview: weakref.ref[Image] | None = None
        self._layer: Image | None = None
        self._active, self._closed = True, False
        self._build()
        self._connect()
        self._mode_clicked()
        self._layers_changed()
        self._show_run()
        self._fill_soon()

    # -- what people see and choose ---------------------------------------------------

    @property
    def layer(self) -> Image | None:
        """The layer that is chosen, the first of several."""
        layers = self.layers
        return layers[0] if layers else None

    @property
    def layers(self) -> list[Image]:
        """What a run works on."""
        selected = self._selected()
        if self._layer_box.currentData() == "selected":
            return selected
        return [] if self._layer is None else [self._layer]

    @property
    def running(self) -> bool:
        """Whether a run of this viewer is under way."""
        return self._session.run is not None

    def run(self, *_: Any) -> None:
        """Do what is chosen, in the background."""
        if self.running:
            return
        try:
            if not self.layers:
                raise Swin2SRError(str(refusal(self._viewer.layers.selection.active)))
            work = [job(self._choices.mode, request) for request in self._requests()]
        except Swin2SRError as error:
            self._say(said_here(error))
            show_error(said_here(error))
            return
        self._begin(work)

    def save(self, layer: Image, path: Path) -> None:
        """Write a layer to a file, in the background."""
        if not self.running:
            self._begin([save_job(layer, path)])

    def cancel(self, *_: Any) -> None:
        """End the run."""
        if self._session.run is not None:
            self._session.run.cancel()
            self._run.setEnabled(False)

    def _begin(self, work: list[Job]) -> None:
        self._session.run = Run(work, self._show_state, self._run_ended)
        self._show_run()
        self._session.run.start()

    # -- its parts, from top to bottom ------------------------------------------------

    def _build(self) -> None:
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.addTab(self._upscale_tab(), "Upscale")
        self.learn = LearnTab(self._viewer)
        self.learn.learned.connect(self._models_changed)
        self.tabs.addTab(_scrolling(self.learn), "Fine-tune")
        box = column(self)
        box.addWidget(self.tabs)
        self.setMinimumWidth(300)

    def _upscale_tab(self) -> QWidget:
        inside = QWidget()
        box = column(inside, 12)
        box.setContentsMargins(8, 8, 8, 8)
        self._empty = self._empty_state()
        self._sections = [
            self._image_section(),
            self._upscale_section(),
            self._show_section(),
            self._advanced_section(),
        ]
        for part in (self._empty, *self._sections):
            box.addWidget(part)
        box.addStretch()
        tab = QWidget()
        outer = column(tab)
        outer.addWidget(_scrolling(inside), 1)
        outer.addWidget(self._footer())
        return tab

    def _empty_state(self) -> QWidget:
        part = QWidget()
        box = column(part, 8)
        self._empty_text = note()
        box.addWidget(self._empty_text)
        box.addWidget(
            push("Open sample", "Nuclei and filaments, 0.26 µm", self._open_sample)
        )
        return part

    def _models_changed(self, *_: Any) -> None:
        self._models.fill(model_choices())
        self._models.choose(self._choices.model)

    def _image_section(self) -> Section:
        section = Section("Image")
        self._layer_box = narrow(QComboBox())
        self._layer_box.setObjectName("layer")
        self._layer_box.setAccessibleName("Layer")
        self._layer_box.setToolTip(
            wrapped("What is super-resolved: follows the layer list's selection")
        )
        self._layer_box.activated.connect(self._layer_picked)
        self._facts = note("", "facts")
        self._axes = AxesTable()
        self._axes.changed.connect(self._changed)
        self._suits, self._warns = note("", "suits"), warning()
        self._better = push("", "Choose the model that suits it", self._choose_better)
        for part in (
            self._layer_box,
            self._facts,
            self._axes,
            self._suits,
            self._warns,
            self._better,
        ):
            section.box.addWidget(part)
        return section

    def _upscale_section(self) -> Section:
        section = Section("Upscale")
        self._models = ModelPicker(self._choices)
        self._models.changed.connect(self._changed)
        section.box.addWidget(self._models)
        return section

    def _show_section(self) -> Section:
        section = Section("Show")
        self._mode_group = QButtonGroup(self)
        self._mode_buttons = {}
        for text, mode, about in MODES:
            button = QRadioButton(text)
            button.setObjectName(mode)
            button.setToolTip(wrapped(about))
            button.setChecked(mode == self._choices.mode)
            self._mode_group.addButton(button)
            self._mode_buttons[mode] = button
            section.box.addWidget(button)
            if mode == REGION:
                self._follow = QCheckBox("Follow the view")
                self._follow.setToolTip("Again whenever you move")
                section.box.addLayout(_indented(self._follow))
        self._target = QLineEdit()
        self._target.setObjectName("target")
        self._target.setAccessibleName("File")
        self._target.setToolTip(
            wrapped("By its suffix: .ome.zarr, .ome.tif, .tif, .png or .jpg")
        )
        self._browse = push("...", "Choose the file", self._browse_target)
        self._browse.setMaximumWidth(36)
        self._overwrite = QCheckBox("Replace a finished file")
        self._overwrite.setToolTip("At the moment when the new one is whole")
        section.box.addLayout(_indented(self._target, self._browse))
        section.box.addLayout(_indented(self._overwrite))
        self._estimate = note("", "estimate")
        section.box.addWidget(self._estimate)
        self._follow.setChecked(self._choices.follow)
        self._overwrite.setChecked(self._choices.overwrite)
        return section

    def _advanced_section(self) -> Section:
        section = Section("Advanced", folded=True)
        self._form = OptionsForm(self._choices)
        self._form.changed.connect(self._changed)
        section.box.addWidget(self._form)
        section.box.addWidget(
            push(
                "Restore defaults",
                "Every option as Preferences > Swin2SR says",
                self._restore,
            )
        )
        return section

    def _footer(self) -> QWidget:
        """Return what never scrolls away: the button, and what is going on."""
        part = QWidget()
        box = QVBoxLayout(part)
        box.setContentsMargins(8, 4, 8, 8)
        self._compare = CompareRow(self._viewer)
        self._run = push("Run", "", self._run_clicked)
        self._run.setObjectName("run")
        menu = QMenu(self)
        for text, action in (
            ("Copy as Python", self._copy),
            ("Copy as command line", self._copy_command),
            ("Save layer...", self._save_active),
        ):
            menu.addAction(text, action)
        more = QPushButton("⋯")
        more.setObjectName("more")
        more.setToolTip("Copy as Python or command line, save a layer")
        more.setAccessibleName("More")
        more.setStyleSheet("QPushButton::menu-indicator { image: none; width: 0; }")
        more.setMenu(menu)
        more.setFixedWidth(36)
        row = QHBoxLayout()
        row.addWidget(self._run, 1)
        row.addWidget(more)
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setMaximumHeight(8)
        self._message = Message()
        box.addWidget(self._compare)
        self._certainty = CertaintyRow(self._viewer)
        box.addWidget(self._certainty)
        box.addLayout(row)
        box.addWidget(self._bar)
        box.addWidget(self._message)
        self._bar.hide()
        return part

    def _connect(self) -> None:
        self._say_soon = qdebounced(self._show_words, timeout=SAY_MS, parent=self)
        self._follow_soon = qdebounced(
            self._follow_view, timeout=FOLLOW_MS, parent=self
        )
        self._fill_soon = qdebounced(self._fill, timeout=FILL_MS, parent=self)
        self._mode_group.buttonClicked.connect(self._mode_clicked)
        self._follow.toggled.connect(self._follow_toggled)
        self._overwrite.toggled.connect(self._overwrite_toggled)
        self._target.textEdited.connect(self._target_edited)
        for emitter, slot in self._viewer_events():
            emitter.connect(slot)
        _Watcher(self)
        self.destroyed.connect(functools.partial(_ended, weakref.ref(self)))

    def _viewer_events(self) -> list[tuple[Any, Any]]:
        viewer, camera = self._viewer, camera_of(self._viewer)
        layers = viewer.layers.events
        return [
            *(
                (emitter, self._layers_changed)
                for emitter in (layers.inserted, layers.removed, layers.reordered)
            ),
            (layers.renamed, self._layers_changed),
            (viewer.layers.selection.events.active, self._active_changed),
            (viewer.layers.selection.events.changed, self._layers_changed),
            (camera.events.center, self._view_changed),
            (camera.events.zoom, self._view_changed),
            (viewer.dims.events.current_step, self._view_changed),
            (viewer.dims.events.order, self._view_changed),
            (viewer.dims.events.ndisplay, self._view_changed),
        ]

    # -- from opening to closing ------------------------------------------------------

    def _fill(self) -> None:
        """Read the models when the widget is on the screen already."""
        if self._closed:
            return
        self._models.fill(model_choices())
        self._changed()
        QTimer.singleShot(WARM_UP_MS, warm_up)

    def set_active(self, active: bool) -> None:
        """Follow nothing while nobody sees the widget."""
        self._active = active
        if active:
            self._layers_changed()
        else:
            self._follow_soon.cancel()

    def close_for_good(self) -> None:
        """Listen to nothing more, and end what was started here."""
        if self._closed:
            return
        self._closed, self._active = True, False
        for emitter, slot in self._viewer_events():
            emitter.disconnect(slot)
        if self._session.run is not None:
            self._session.run.cancel()

    # -- layers -----------------------------------------------------------------------

    def _images(self) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _selected(self) -> list[Image]:
        """Return the selected images, without results unless only they are."""
        chosen = self._viewer.layers.selection
        selected = [layer for layer in self._images() if layer in chosen]
        return [layer for layer in selected if not _made(layer)] or selected

    def _active_changed(self, *_: Any) -> None:
        active = self._viewer.layers.selection.active
        # Results become active, too; they are chosen by hand only.
        if isinstance(active, Image) and not _made(active):
            self._choose_layer(active)
        self._layers_changed()

    def _layer_picked(self, *_: Any) -> None:
        picked = self._layer_box.currentData()
        if picked != "selected":
            self._choose_layer(picked)
        self._changed()

    def _layers_changed(self, *_: Any) -> None:
        """Read the layer list again."""
        if self._closed:
            return
        images, selected = self._images(), self._selected()
        self._compare.setVisible(bool(pairs_of(self._viewer)))
        self._certainty.follow()
        if self._layer not in images:
            # A result is not the next input just because its source was deleted.
            sources = [layer for layer in images if not _made(layer)]
            self._choose_layer(sources[0] if sources else None)
        box = self._layer_box
        box.blockSignals(True)
        box.clear()
        if len(selected) > 1:
            box.addItem(f"{len(selected)} selected layers", "selected")
        for layer in images:
            box.addItem(layer.name, layer)
        if len(selected) <= 1:
            place = images.index(self._layer) if self._layer in images else -1
            box.setCurrentIndex(place)
        box.blockSignals(False)
        self._changed()

    def _choose_layer(self, layer: Image | None) -> None:
        """Suggest axes and file for another layer; keep what was typed for this one."""
        if layer is self._layer:
            return
        self._layer = layer
        if layer is not None:
            data = layer.data[0] if layer.multiscale else layer.data
            self._axes.show_axes(data.shape, guess_axes(layer))
            self._choices.target = str(_suggested_target(layer))
            self._target.setText(self._choices.target)

    def _open_sample(self, *_: Any) -> None:
        for data, keywords, kind in samples.cells():
            self._viewer.add_layer(Layer.create(data, keywords, kind))
        self._viewer.reset_view()

    # -- what is chosen ---------------------------------------------------------------

    def _mode_clicked(self, *_: Any) -> None:
        buttons = self._mode_buttons.items()
        self._choices.mode = next(mode for mode, b in buttons if b.isChecked())
        self._follow.setVisible(self._choices.mode == REGION)
        for part in (self._target, self._browse, self._overwrite):
            part.setVisible(self._choices.mode == DISK)
        self._changed()

    def _follow_toggled(self, follow: bool) -> None:
        self._choices.follow = follow
        self._view_changed()

    def _overwrite_toggled(self, overwrite: bool) -> None:
        self._choices.overwrite = overwrite

    def _target_edited(self, text: str) -> None:
        self._choices.target = text

    def _browse_target(self, *_: Any) -> None:
        kinds = "Images (*.ome.zarr *.ome.tif *.tif *.png *.jpg)"
        name, _kind = QFileDialog.getSaveFileName(
            self,
            "Where to write the result",
            self._choices.target,
            kinds,
            options=QFileDialog.Option.DontConfirmOverwrite,
        )
        if name:
            self._choices.target = name
            self._target.setText(name)

    def _restore(self, *_: Any) -> None:
        self._choices.restore()
        self._form.show_choices()
        self._models.choose(self._choices.model)

    def _choose_better(self, *_: Any) -> None:
        self._models.choose(self._better.property("model"))

    def _options(self, layer: Image) -> UpscaleOptions:
        """Return the options for a layer; only the one that is shown has its axes."""
        axes = self._axes.axes.strip() if layer is self._layer else None
        return self._choices.options(layer, axes)

    def _requests(self) -> list[Request]:
        layers, requests = self.layers, []
        for layer in layers:
            target = Path(self._choices.target).expanduser()
            if len(layers) > 1:
                suffixes = "".join(target.suffixes[-2:])
                stem = target.name.removesuffix(suffixes)
                name = f"{stem}-{_as_file_name(layer.name)}{suffixes}"
                target = target.with_name(name)
            requests.append(
                Request(
                    viewer=self._viewer,
                    layer=layer,
                    options=self._options(layer),
                    target=target,
                    overwrite=self._choices.overwrite,
                    shown=self._result_shown,
                    refined=self._show_live,
                )
            )
        return requests

    # -- before a run -----------------------------------------------------------------

    def _changed(self, *_: Any) -> None:
        if not self._closed:
            self._say_soon()

    def _show_words(self) -> None:
        """Say what the image is and what a run will need, or why there can be none."""
        if self._closed:
            return
        layers = self.layers
        active = self._viewer.layers.selection.active
        reason = refusal(layers[0] if layers else active)
        self._empty.setVisible(not layers)
        nothing = active is None and not self._images()
        self._empty_text.setText(
            "Open an image to begin, or try it on a sample."
            if nothing
            else reason or "Choose an image in the layer list."
        )
        for section in self._sections:
            section.setVisible(bool(layers))
        self._axes.setVisible(len(layers) == 1)
        lines, possible = [], bool(layers) and reason is None
        try:
            for layer in layers if possible else []:
                words = self._need(layer)
                lines.append(f"{layer.name}: {words}" if len(layers) > 1 else words)
        except Swin2SRError as error:
            lines.append(said_here(error))
            possible = False
        if layers:
            axes = self._axes.axes if len(layers) == 1 else guess_axes(layers[0])
            self._facts.setText(
                reason or image_words(layers[0], axes) + ", ..." * (len(layers) > 1)
            )
            self._show_suitability(layers[0] if possible else None)
        if not self.running:
            self._run.setEnabled(possible)
        self._estimate.setText("\n".join(filter(None, lines)))

    def _need(self, layer: Image) -> str:
        model = self._models.model
        options = self._options(layer)
        if model is None:
            return ""
        return need_words(self._viewer, layer, options, model, self._choices.mode)

    def _show_suitability(self, layer: Image | None) -> None:
        """Say whether the image suits the model; look at the image in a thread."""
        suits_, model = None, self._models.model
        if layer is not None and model is not None and not _made(layer):
            options = self._options(layer)
            key = options.axes, str(options.value_range), options.nodata
            known, found = self._session.found.get(layer, (None, None))
            if known != key or found is None:
                found = inspector().submit(inspection_of(layer, options))
                self._session.found[layer] = key, found
            if not found.done():
                self._changed()  # look again in a moment
            elif (inspection := found.result()) is not None:
                suits_ = suits(inspection, model)
        text = "" if suits_ is None else suits_.text
        warn = suits_ is not None and suits_.warn
        self._suits.setText("" if warn else text)
        self._warns.setText(text if warn else "")
        self._suits.setVisible(bool(text) and not warn)
        self._warns.setVisible(warn)
        better = "" if suits_ is None else suits_.better
        self._better.setText(f"Use {better}")
        self._better.setProperty("model", better)
        self._better.setVisible(bool(better))

    # -- the visible region -----------------------------------------------------------

    @property
    def _following(self) -> bool:
        return self._choices.mode == REGION and self._choices.follow

    def _view_changed(self, *_: Any) -> None:
        if not self._active:
            return
        if self._choices.mode in (REGION, LIVE):
            self._changed()
        if self._following:
            self._follow_soon()

    def _follow_view(self) -> None:
        if not self._active or not self._following:
            return
        if self.running:  # of a view that is gone: end it, then come again
            self.cancel()
            self._follow_soon()
        elif self.layers:
            self.run()

    def _result_shown(self, layer: Image) -> None:
        """Keep one preview only while following the view."""
        if self._closed or not self._following:
            return
        before = None if self._preview is None else self._preview()
        if before is not None and before in self._viewer.layers:
            name = before.name
            self._viewer.layers.remove(before)
            layer.name = name
        self._preview = weakref.ref(layer)

    # -- during and after a run -------------------------------------------------------

    def _run_clicked(self, *_: Any) -> None:
        if self.running:
            self.cancel()
        else:
            self.run()

    def _show_run(self) -> None:
        """Show the viewer's run, which an earlier widget may have started."""
        run = self._session.run
        self._run.setText("Run" if run is None else "Cancel")
        self._run.setToolTip(
            "Do this in the background" if run is None else "End it within moments"
        )
        self._bar.setVisible(run is not None)
        if run is not None:
            self._run.setEnabled(True)
            run.changed, run.ended = self._show_state, self._run_ended
            self._show_state(run.state)

    def _show_state(self, state: State) -> None:
        if self._closed:
            return
        self._bar.setRange(0, state.total)
        self._bar.setValue(min(state.done, state.total))
        self._say(state.text)

    def _show_live(self, state: State) -> None:
        """Show how much of a live layer is sharp, unless there is a run to show."""
        if self._closed or self.running:
            return
        self._show_state(state)
        self._bar.setVisible(state.done < state.total)

    def _run_ended(self, outcome: Outcome) -> None:
        run, self._session.run = self._session.run, None
        text, details = "Cancelled" if outcome.cancelled else "Done", ""
        if outcome.error is not None:
            text = said_here(outcome.error)
            details = "".join(traceback.format_exception(outcome.error))
            show_error(text)
        if self._closed:
            return
        self._show_run()
        live = (
            self._choices.mode == LIVE and text == "Done" and "saving" not in str(run)
        )
        self._say("Zoom in: it gets sharp where you look" if live else text, details)
        if self._models.model is not None and not self._models.model.offered:
            self._models.fill(model_choices())  # it may have been downloaded
        self._changed()

    def _say(self, text: str, details: str = "") -> None:
        if not self._closed:
            self._message.say(text, details)

    # -- files and code ---------------------------------------------------------------

    def _save_active(self, *_: Any) -> None:
        """Ask where to save the active layer; napari's dialog picks other writers."""
        layer = self._viewer.layers.selection.active
        if not isinstance(layer, Image):
            self._say(str(refusal(layer)))
            return
        name = f"{_as_file_name(layer.name)}.ome.zarr"
        suggested = str(Path(self._choices.target).parent / name)
        kinds = "OME-Zarr (*.ome.zarr);;OME-TIFF (*.ome.tif)"
        name, kind = QFileDialog.getSaveFileName(
            self, f"Save {layer.name}", suggested, kinds
        )
        if name:
            suffix = ".ome.tif" if "TIFF" in kind else ".ome.zarr"
            known = name.lower().endswith((".zarr", ".tif", ".tiff"))
            self.save(layer, Path(name if known else name + suffix))

    def _copy_command(self, *_: Any) -> None:
        self._copy(write=as_command_line)

    def _copy(self, *_: Any, write: Callable[..., str] = as_python) -> None:
        layer = self.layer
        if layer is None:
            self._say(str(refusal(None)))
            return
        try:
            options = self._options(layer)
        except Swin2SRError as error:
            self._say(said_here(error))
            return
        mode = self._choices.mode
        if mode != LIVE:
            options = in_viewer(options)
        text = write(layer, options, self._choices.target if mode == DISK else None)
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(text)
        show_info(f"Copied:\n{text}")


class _Watcher(QObject):
    """Tells a widget when it is shown, hidden or deleted."""

    def __init__(self, widget: SuperResolutionWidget) -> None:
        super().__init__(widget)
        self._widget = weakref.ref(widget)
        widget.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802
        """Pass on what the person did, not that the window was minimized."""
        widget = self._widget()
        if widget is None:
            return False
        if event.type() == QEvent.Type.ParentChange:
            QTimer.singleShot(0, self._delete_if_closed)
        elif not event.spontaneous() and event.type() == QEvent.Type.Hide:
            widget.set_active(False)
        elif not event.spontaneous() and event.type() == QEvent.Type.Show:
            widget.set_active(True)
        return False

    def _delete_if_closed(self) -> None:
        """Delete what napari leaves of a closed dock: a widget without a parent."""
        widget = self._widget()
        if widget is not None and widget.parent() is None and not widget.isVisible():
            widget.close_for_good()
            widget.deleteLater()


def _ended(widget: weakref.ref[SuperResolutionWidget], *_: Any) -> None:
    """Let a widget listen to nothing once Qt has deleted it."""
    if (gone := widget()) is not None:
        gone.close_for_good()


def _made(layer: Any) -> bool:
    """Tell whether a layer is a result."""
    return METADATA_KEY in layer.metadata


def _suggested_target(layer: Image) -> Path:
    path = layer.source.path
    folder = Path(path).parent if path else Path.home()
    return folder / f"{_as_file_name(layer.name)}-upscaled.ome.zarr"


def _as_file_name(name: str) -> str:
    return re.sub(r'[/\\:*?"<>|\0]', "-", name)


def said_here(error: Exception) -> str:
    """Return a message in the widget's words, not those of the command line."""
    text = str(error).partition("\n")[0] or "It failed; the details say where."
    if isinstance(error, TilesFailedError) and error.failed:
        cause = next(iter(error.failed.values()))
        text = f"{len(error.failed)} tiles could not be computed: {cause}"
    for there, here in _SAID_HERE.items():
        text = text.replace(there, here)
    return text[:1].upper() + text[1:]


def _scrolling(inside: QWidget) -> QScrollArea:
    """Return what shows a column of any height."""
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(area.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(inside)
    return area


def _indented(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setContentsMargins(22, 0, 0, 0)
    for widget in widgets:
        row.addWidget(widget)
    return row
