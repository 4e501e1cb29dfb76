"""The widget: which layer, which model, how, and what to do with it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.types import FileDialogMode
from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FileEdit,
    ProgressBar,
    PushButton,
)
from napari.layers import Image
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QApplication, QFileDialog
from superqt.utils import qdebounced

from napari_swin2sr.errors import Swin2SRError
from napari_swin2sr.plugin.estimate import estimate_need
from napari_swin2sr.plugin.form import (
    OptionsForm,
    as_command_line,
    as_python,
    narrow,
    note,
    wrapped,
)
from napari_swin2sr.plugin.layer_source import layer_source, refusal
from napari_swin2sr.plugin.modes import (
    DISK,
    LIVE,
    MEMORY,
    MODES,
    REGION,
    Request,
    in_viewer,
    job,
)
from napari_swin2sr.plugin.placement import METADATA_KEY, camera_of, visible_region
from napari_swin2sr.plugin.settings import current_settings
from napari_swin2sr.plugin.worker import Job, Outcome, Run, State, warm_up
from napari_swin2sr.plugin.writers import save_job

if TYPE_CHECKING:
    import napari.viewer

ESTIMATE_MS, FOLLOW_MS, FILL_MS, WARM_UP_MS = 150, 300, 10, 500
"""Pauses before what a person does is acted upon [ms]."""

_SAID_HERE = {
    "replace it with --overwrite (overwrite=True)": 'tick "replace a finished file"',
    "start anew with --no-resume (resume=False)": "delete it to start anew",
    "--dtype": "dtype",
}
"""What messages say for the command line -> for the widget."""


@dataclass(slots=True)
class Session:
    """What outlives a widget: the viewer's run, and what was chosen last."""

    run: Run | None = None
    values: dict[str, Any] = field(default_factory=dict)


_SESSIONS: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(viewer: napari.viewer.Viewer) -> Session:
    """Return the session of a viewer; plugins get a proxy of it, each another one."""
    return _SESSIONS.setdefault(getattr(viewer, "__wrapped__", viewer), Session())


class SuperResolutionWidget(Container[Any]):
    """Super-resolution of image layers.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer it belongs to.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._session = session_of(viewer)
        self._preview: weakref.ref[Image] | None = None
        self._followed: Image | None = None
        self._active = True
        self._closed = False
        self._layer = narrow(
            ComboBox(
                name="layer",
                label="layer",
                choices=self._image_layers,
                tooltip="Follows the layer that is active in the layer list",
            )
        )
        self._all = CheckBox(name="all_selected", text="")
        self._form = OptionsForm()
        self._mode = narrow(ComboBox(name="mode", label="do", choices=MODES))
        self._follow = CheckBox(name="follow", text="follow the view")
        self._target = FileEdit(
            name="target",
            label="file",
            mode=FileDialogMode.OPTIONAL_FILE,
            filter="*.ome.zarr *.ome.tif",
            tooltip=wrapped("By its suffix: .ome.zarr, .ome.tif, .tif, .png or .jpg"),
        )
        self._overwrite = CheckBox(name="overwrite", text="replace a finished file")
        self._estimate, self._status = note(), note()
        self._start = _button("Run", "Do this in the background", self.run)
        self._stop = _button("Cancel", "End after the tile in progress", self.cancel)
        self._progress = ProgressBar(name="progress", min=0, max=1, value=0)
        self._save = _button(
            "Save layer...",
            "The active layer as OME-Zarr or OME-TIFF, with scale, units and color; "
            "of a live layer the exact pixels of the whole image",
            self._save_active,
        )
        self._python = _button("Copy as Python", "The same as a call", self._copy)
        self._command = _button(
            "Copy as command", "The same on the command line", self._copy_command
        )
        super().__init__(
            widgets=[
                self._layer,
                self._all,
                *self._form.widgets,
                self._mode,
                self._follow,
                self._target,
                self._overwrite,
            ]
        )
        self._arrange()
        self._form.hide()
        own = self.native
        self._soon = qdebounced(self._show_estimate, timeout=ESTIMATE_MS, parent=own)
        self._follow_soon = qdebounced(self._follow_view, timeout=FOLLOW_MS, parent=own)
        fill_soon = qdebounced(self._fill, timeout=FILL_MS, parent=own)
        self._connect()
        self._mode_changed(LIVE)
        self._active_changed()
        self._attach()
        fill_soon()

    # -- what people see and choose ---------------------------------------------------

    @property
    def layer(self) -> Image | None:
        """The layer that is chosen."""
        return self._layer.value

    @property
    def layers(self) -> list[Image]:
        """What a run works on: the chosen layer, or all selected ones."""
        selected = self._selected()
        if self._all.value and len(selected) > 1:
            return selected
        return [] if self.layer is None else [self.layer]

    @property
    def running(self) -> bool:
        """Whether a run of this viewer is under way."""
        return self._session.run is not None

    def reset_choices(self, *_: Any) -> None:
        """Read the layer list again; napari calls this when it changes."""
        if self._closed:
            return
        before = self.layer
        super().reset_choices()
        if self.layer is not before and self.layer is not None and _made(self.layer):
            # A result is not the next input just because its source was deleted.
            sources = [layer for layer in self._layer.choices if not _made(layer)]
            self._layer.native.setCurrentIndex(
                self._layer.choices.index(sources[0]) if sources else -1
            )
        # The list of choices does not tell when it becomes empty.
        self._layer_changed(self.layer)
        self._selection_changed()

    def run(self, *_: Any) -> None:
        """Do what is chosen, in the background."""
        if self.running:
            return
        try:
            work = [job(self._mode.value, request) for request in self._requests()]
            if not work:
                raise Swin2SRError(str(refusal(self._refused())))
        except Swin2SRError as error:
            self._say(str(error))
            show_error(str(error))
            return
        self._begin(work)

    def save(self, layer: Image, path: Path) -> None:
        """Write a layer to a file, in the background."""
        if not self.running:
            self._begin([save_job(layer, path)])

    def cancel(self, *_: Any) -> None:
        """End the run after the tile that it is at."""
        if self._session.run is not None:
            self._session.run.cancel()

    def _begin(self, work: list[Job]) -> None:
        self._session.run = Run(work, self._show_state, self._run_ended)
        self._attach()
        self._session.run.start()

    # -- its parts --------------------------------------------------------------------

    def _arrange(self) -> None:
        """Add what spans the whole width: magicgui would put a label beside it."""
        layout = self.native.layout()
        after_model = self.index(self._form.editors["model"]) + 1
        layout.insertWidget(after_model, self._form.about)
        self._rows = [
            _row(self._start, self._stop),
            _row(self._save, self._python, self._command),
        ]
        for part in (
            self._estimate,
            self._rows[0].native,
            self._progress.native,
            self._status,
            self._rows[1].native,
        ):
            layout.addWidget(part)
        layout.addStretch()
        self.native.setMinimumWidth(330)

    def _connect(self) -> None:
        self._layer.changed.connect(self._layer_changed)
        self._mode.changed.connect(self._mode_changed)
        self.changed.connect(self._changed)
        self._follow.changed.connect(self._view_changed)
        for emitter, slot in self._viewer_events():
            emitter.connect(slot)
        _Watcher(self.native, self)

    def _viewer_events(self) -> list[tuple[Any, Any]]:
        viewer, camera = self._viewer, camera_of(self._viewer)
        return [
            (viewer.layers.selection.events.active, self._active_changed),
            (viewer.layers.selection.events.changed, self._selection_changed),
            (camera.events.center, self._view_changed),
            (camera.events.zoom, self._view_changed),
            (viewer.dims.events.current_step, self._view_changed),
            (viewer.dims.events.order, self._view_changed),
            (viewer.dims.events.ndisplay, self._view_changed),
        ]

    # -- from opening to closing ------------------------------------------------------

    def _fill(self) -> None:
        """Read preferences and models when the widget is on the screen already."""
        if self._closed:
            return
        self._form.restore()
        values = self._session.values
        self._form.set_values(values)
        self._form.follow(self.layer)
        for editor in (self._mode, self._follow, self._target, self._overwrite):
            if editor.name in values:
                editor.value = values[editor.name]
        QTimer.singleShot(WARM_UP_MS, warm_up)

    def _attach(self) -> None:
        """Show the viewer's run, which an earlier widget may have started."""
        run = self._session.run
        self._stop.enabled = run is not None
        self._start.enabled = self._save.enabled = run is None
        if run is not None:
            run.changed, run.ended = self._show_state, self._run_ended
            self._show_state(run.state)

    def set_active(self, active: bool) -> None:
        """Pause while nobody sees the widget: a closed dock is hidden, not deleted.

        A preview of the view ends. A run that was asked for goes on: napari's activity
        dock shows it, and so does the next widget.
        """
        self._active = active
        if active:
            self.reset_choices()
            return
        mine = (self._mode, self._follow, self._target, self._overwrite)
        values = {editor.name: editor.value for editor in mine}
        self._session.values = self._form.values() | values
        self._follow_soon.cancel()
        if self._following:
            self.cancel()

    def close_for_good(self) -> None:
        """Listen to nothing more; a run that is under way goes on without a widget."""
        self._closed, self._active = True, False
        for emitter, slot in self._viewer_events():
            emitter.disconnect(slot)

    # -- layers -----------------------------------------------------------------------

    def _image_layers(self, *_: Any) -> list[Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, Image)]

    def _selected(self) -> list[Image]:
        chosen = self._viewer.layers.selection
        return [layer for layer in self._image_layers() if layer in chosen]

    def _refused(self) -> Any:
        return self.layer or self._viewer.layers.selection.active

    def _active_changed(self, *_: Any) -> None:
        if self._closed:
            return
        active = self._viewer.layers.selection.active
        # Results become active, too; they are chosen by hand only.
        if active in self._layer.choices and not _made(active):
            self._layer.value = active
        self._layer_changed(self.layer)

    def _selection_changed(self, *_: Any) -> None:
        if self._closed:
            return
        count = len(self._selected())
        self._all.visible = count > 1
        self._all.text = f"all {count} selected layers"
        self._changed()

    def _layer_changed(self, layer: Image | None) -> None:
        """Suggest axes and file for another layer; keep what was typed for this one."""
        if layer is not self._followed:
            self._followed = layer
            self._form.follow(layer)
            self._target.value = self._suggested_target()
        self._changed()

    def _suggested_target(self) -> Path:
        if self.layer is None:
            return Path()
        path = self.layer.source.path
        folder = Path(path).parent if path else Path.home()
        return folder / f"{_as_file_name(self.layer.name)}-upscaled.ome.zarr"

    def _mode_changed(self, mode: str) -> None:
        self._follow.visible = mode == REGION
        self._target.visible = self._overwrite.visible = mode == DISK
        self._changed()

    def _changed(self, *_: Any) -> None:
        if not self._closed:
            self._soon()

    # -- before a run -----------------------------------------------------------------

    def _show_estimate(self) -> None:
        """Say what a run will need, or why there can be none."""
        if self._closed:
            return
        reason = refusal(self._viewer.layers.selection.active or self.layer)
        lines = [] if reason is None else [reason]
        possible = bool(self.layers)
        try:
            for layer in self.layers:
                lines += self._needs(layer)
        except Swin2SRError as error:
            lines.append(_said_here(error))
            possible = False
        self._start.enabled = possible and not self.running
        self._estimate.setText("\n".join(lines))

    def _needs(self, layer: Image) -> list[str]:
        """Return what a run needs for one layer, in words."""
        options, choice, mode = self._form.chosen(layer), self._form.model, None
        source = layer_source(layer, options.axes)
        if choice is None or choice.config is None:
            return []
        mode = self._mode.value
        if mode == LIVE and options.tile is None:
            options = options.replace(tile=current_settings().live_tile)
        options = in_viewer(options)
        shape, axes = source.layout.shape, source.layout.axes
        about = axes, source.data.dtype, options, choice.config, choice.n_parameters
        need = estimate_need(shape, *about)
        if mode in (MEMORY, DISK):
            lines = [f"{layer.name}: {need.text}"]
            if mode == MEMORY and not need.fits_in_memory:
                lines.append("More than the memory that is free: run to disk")
            return lines
        region = visible_region(self._viewer, layer)
        if any(first == last for first, last in region):
            return [f"{layer.name}: out of sight"]
        halo = choice.config.halo(options.halo)
        planes = (source.layout.y, source.layout.x)
        seen = tuple(
            min(n, last - first + 2 * halo * (axis in planes))
            for axis, ((first, last), n) in enumerate(zip(region, shape, strict=False))
        )
        need = estimate_need((*seen, *shape[len(region) :]), *about)
        size = " x ".join(f"{region[axis][1] - region[axis][0]:,}" for axis in planes)
        text = f"{layer.name}: {size} px in view, {need.time}".rstrip(", ")
        if mode == LIVE:
            height = region[planes[0]][1] - region[planes[0]][0]
            if height > self._viewer.canvas.size[0]:
                text = f"{layer.name}: shows the original until you zoom in"
        return [text]

    def _requests(self) -> list[Request]:
        layers = self.layers
        requests = []
        for layer in layers:
            target = Path(str(self._target.value))
            if len(layers) > 1:
                suffixes = "".join(target.suffixes[-2:])
                stem = target.name.removesuffix(suffixes)
                name = f"{stem}-{_as_file_name(layer.name)}{suffixes}"
                target = target.with_name(name)
            requests.append(
                Request(
                    viewer=self._viewer,
                    layer=layer,
                    options=self._form.chosen(layer),
                    target=target,
                    overwrite=self._overwrite.value,
                    shown=self._result_shown,
                    refined=self._say,
                )
            )
        return requests

    # -- the visible region -----------------------------------------------------------

    @property
    def _following(self) -> bool:
        return bool(self._mode.value == REGION and self._follow.value)

    def _view_changed(self, *_: Any) -> None:
        if not self._active:
            return
        if self._mode.value in (REGION, LIVE):
            self._changed()
        if self._following:
            self._follow_soon()

    def _follow_view(self) -> None:
        if not self._active or not self._following:
            return
        if self.running:  # of a view that is gone: end it, then come again
            self.cancel()
            self._follow_soon()
        elif self.layer is not None:
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

    def _show_state(self, state: State) -> None:
        if self._closed:
            return
        self._progress.max = max(state.total, 1)
        self._progress.value = min(state.done, self._progress.max)
        self._say(state.text)

    def _run_ended(self, outcome: Outcome) -> None:
        self._session.run = None
        text = "Cancelled" if outcome.cancelled else "Done"
        if outcome.error is not None:
            text = f"{type(outcome.error).__name__}: {_said_here(outcome.error)}"
            show_error(text)
        if self._closed:
            return
        self._attach()
        if outcome.error is None and not outcome.cancelled:
            self._progress.value = self._progress.max
        self._say(text)
        self._form.refresh_models()  # one may have been downloaded
        self._changed()

    def _say(self, text: str) -> None:
        if not self._closed:
            self._status.setText(text)

    # -- files and code ---------------------------------------------------------------

    def _save_active(self, *_: Any) -> None:
        """Ask where to save the active layer; napari's dialog picks other writers."""
        layer = self._viewer.layers.selection.active
        if not isinstance(layer, Image):
            self._say(str(refusal(layer)))
            return
        suggested = (
            Path(str(self._target.value)).parent
            / f"{_as_file_name(layer.name)}.ome.zarr"
        )
        kinds = "OME-Zarr (*.ome.zarr);;OME-TIFF (*.ome.tif)"
        name, kind = QFileDialog.getSaveFileName(
            self.native, f"Save {layer.name}", str(suggested), kinds
        )
        if name:
            suffix = ".ome.tif" if "TIFF" in kind else ".ome.zarr"
            known = name.lower().endswith((".zarr", ".tif", ".tiff"))
            self.save(layer, Path(name if known else name + suffix))

    def _copy_command(self, *_: Any) -> None:
        self._copy(write=as_command_line)

    def _copy(self, *_: Any, write: Callable[..., str] = as_python) -> None:
        if self.layer is None:
            self._say(str(refusal(None)))
            return
        try:
            options = self._form.chosen(self.layer)
        except Swin2SRError as error:
            self._say(str(error))
            return
        if self._mode.value != LIVE:
            options = in_viewer(options)
        target = str(self._target.value) if self._mode.value == DISK else None
        text = write(self.layer, options, target)
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(text)
        show_info(f"Copied:\n{text}")


class _Watcher(QObject):
    """Tells a widget when its native part is shown, hidden or deleted."""

    def __init__(self, native: Any, widget: SuperResolutionWidget) -> None:
        super().__init__(native)
        self._widget = weakref.ref(widget)
        native.installEventFilter(self)
        native.destroyed.connect(self._destroyed)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802
        """Pass on what the person did, not that the window was minimized."""
        widget = self._widget()
        if widget is not None and not event.spontaneous():
            if event.type() == QEvent.Type.Hide:
                widget.set_active(False)
                QTimer.singleShot(0, self._delete_if_closed)
            elif event.type() == QEvent.Type.Show:
                widget.set_active(True)
        return False

    def _delete_if_closed(self) -> None:
        """Delete what napari leaves of a closed dock: a widget without a parent."""
        native: Any = self.parent()
        if native.parent() is None and not native.isVisible():
            native.deleteLater()

    def _destroyed(self) -> None:
        widget = self._widget()
        if widget is not None:
            widget.close_for_good()


def _made(layer: Any) -> bool:
    """Tell whether a layer is a result."""
    return METADATA_KEY in layer.metadata


def _as_file_name(name: str) -> str:
    return re.sub(r'[/\\:*?"<>|]', "-", name)


def _said_here(error: Exception) -> str:
    """Return a message in the widget's words, not those of the command line."""
    text = str(error)
    for there, here in _SAID_HERE.items():
        text = text.replace(there, here)
    return text


def _button(text: str, tooltip: str, action: Callable[..., None]) -> PushButton:
    button = PushButton(text=text, tooltip=tooltip)
    button.changed.connect(action)
    return button


def _row(*widgets: Any) -> Container[Any]:
    row: Container[Any] = Container(widgets=widgets, layout="horizontal", labels=False)
    row.native.layout().setContentsMargins(0, 0, 0, 0)
    return row
