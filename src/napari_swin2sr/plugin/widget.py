"""The widget: which layer, which model, how, and what to do with it."""

from __future__ import annotations

import weakref
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
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_swin2sr.errors import Swin2SRError
from napari_swin2sr.plugin.estimate import forecast
from napari_swin2sr.plugin.form import OptionsForm, narrow, note
from napari_swin2sr.plugin.layer_source import layer_source, refusal
from napari_swin2sr.plugin.live.visible import camera_of
from napari_swin2sr.plugin.modes import DISK, LIVE, MEMORY, MODES, REGION, Request, job
from napari_swin2sr.plugin.placement import METADATA_KEY
from napari_swin2sr.plugin.provenance import as_command_line, as_python
from napari_swin2sr.plugin.warmup import warm_up
from napari_swin2sr.plugin.worker import Outcome, Run, State

if TYPE_CHECKING:
    import napari.viewer

FILL_MS, FORECAST_MS, FOLLOW_MS, WARM_UP_MS = 10, 150, 300, 500
"""Pauses before what a person does is acted upon [ms]."""


class SuperResolutionWidget(Container[Any]):
    """Super-resolution of image layers.

    Parameters
    ----------
    viewer : the viewer it belongs to
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._run: Run | None = None
        self._preview: weakref.ref[Image] | None = None
        self._followed: Image | None = None
        self._closed = False
        self._layer = narrow(
            ComboBox(name="layer", label="layer", choices=self._image_layers)
        )
        self._layer.tooltip = "Follows the layer that is active in the layer list"
        self._all = CheckBox(name="all_selected", text="")
        self._form = OptionsForm()
        self._mode = narrow(ComboBox(name="mode", label="do", choices=MODES))
        self._follow = CheckBox(name="follow", text="follow the view")
        self._target = FileEdit(
            name="target",
            label="file",
            mode=FileDialogMode.OPTIONAL_FILE,
            filter="*.ome.zarr *.ome.tif",
        )
        self._overwrite = CheckBox(name="overwrite", text="replace a finished file")
        self._forecast = note()
        self._start = PushButton(name="start", text="Run")
        self._stop = PushButton(name="stop", text="Cancel", enabled=False)
        self._progress = ProgressBar(name="progress", min=0, max=1, value=0)
        self._status = note()
        self._python = PushButton(name="python", text="Copy as Python")
        self._command = PushButton(name="command", text="Copy as command line")
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
        self._timers = {
            name: _timer(self.native, pause, action)
            for name, pause, action in (
                ("fill", FILL_MS, self._fill),
                ("forecast", FORECAST_MS, self._show_forecast),
                ("follow", FOLLOW_MS, self._follow_view),
                ("warm up", WARM_UP_MS, warm_up),
            )
        }
        self._connect()
        self._mode_changed(LIVE)
        self._active_changed()
        self._timers["fill"].start()
        self._timers["warm up"].start()

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

    def reset_choices(self, *_: Any) -> None:
        """Read the layer list anew; napari calls this when it changes."""
        if self._closed:
            return
        super().reset_choices()
        # The list of choices does not tell when it becomes empty.
        self._layer_changed(self.layer)
        self._selection_changed()

    def run(self) -> None:
        """Do what is chosen, in the background."""
        if self._run is not None:
            return
        try:
            work = [job(self._mode.value, request) for request in self._requests()]
            if not work:
                raise Swin2SRError(str(refusal(self._refused())))
        except Swin2SRError as error:
            self._say(str(error))
            show_error(str(error))
            return
        self._start.enabled, self._stop.enabled = False, True
        self._run = Run(work, self._show_state, self._run_ended)
        self._run.start()

    def cancel(self) -> None:
        """End the run after the tile that it is at."""
        if self._run is not None:
            self._run.cancel()

    # -- details ----------------------------------------------------------------------

    def _arrange(self) -> None:
        """Add what spans the whole width: magicgui would put a label beside it."""
        layout = self.native.layout()
        layout.insertWidget(
            self.index(self._form.editor("model")) + 1, self._form.about
        )
        self._rows = [_row(self._start, self._stop), _row(self._python, self._command)]
        for part in (
            self._forecast,
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
        self.changed.connect(self._soon)
        self._follow.changed.connect(self._view_changed)
        self._start.changed.connect(self.run)
        self._stop.changed.connect(self.cancel)
        self._python.changed.connect(self._copy_python)
        self._command.changed.connect(self._copy_command)
        for emitter, slot in self._viewer_events():
            emitter.connect(slot)
        own = weakref.ref(self)

        def gone(*_: Any) -> None:
            widget = own()
            if widget is not None:
                widget._close()

        self.native.destroyed.connect(gone)

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

    def _close(self) -> None:
        """Listen to nothing more; a run that is under way goes on without a widget."""
        self._closed = True
        for emitter, slot in self._viewer_events():
            emitter.disconnect(slot)

    def _fill(self) -> None:
        """Read preferences and models when the widget is on the screen already."""
        if not self._closed:
            self._form.restore()
            self._form.follow(self.layer)

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
        if active in self._layer.choices and METADATA_KEY not in active.metadata:
            self._layer.value = active
        self._layer_changed(self.layer)

    def _selection_changed(self, *_: Any) -> None:
        if self._closed:
            return
        count = len(self._selected())
        self._all.visible = count > 1
        self._all.text = f"all {count} selected layers"
        self._soon()

    def _layer_changed(self, layer: Image | None) -> None:
        """Suggest axes and file for another layer; keep what was typed for this one."""
        if layer is not self._followed:
            self._followed = layer
            self._form.follow(layer)
            self._target.value = self._suggested_target()
        self._soon()

    def _mode_changed(self, mode: str) -> None:
        self._follow.visible = mode == REGION
        self._target.visible = self._overwrite.visible = mode == DISK
        self._soon()

    def _suggested_target(self) -> Path:
        if self.layer is None:
            return Path()
        path = self.layer.source.path
        folder = Path(path).parent if path else Path.home()
        return folder / f"{self.layer.name}-upscaled.ome.zarr"

    def _soon(self, *_: Any) -> None:
        if not self._closed:
            self._timers["forecast"].start()

    def _show_forecast(self) -> None:
        """Say what a run will need, or why there can be none."""
        reason = refusal(self._viewer.layers.selection.active or self.layer)
        if not self.layers or (reason and self.layer is None):
            self._forecast.setText(str(reason))
            self._start.enabled = False
            return
        self._start.enabled = self._run is None
        lines = [] if reason is None else [reason]
        choice = self._form.model
        try:
            for layer in self.layers:
                options = self._form.chosen(layer)
                source = layer_source(layer, options.axes)
                if choice is None or choice.config is None:
                    continue
                need = forecast(source, options, choice.config, choice.n_parameters)
                lines.append(f"{layer.name}: {need.text}")
                if self._mode.value == MEMORY and not need.fits_in_memory:
                    lines.append("More than the memory that is free: run to disk")
                if self._mode.value == LIVE:
                    lines[-1] = f"{lines[-1]}; live, only what you look at"
        except Swin2SRError as error:
            lines.append(str(error))
        self._forecast.setText("\n".join(lines))

    def _requests(self) -> list[Request]:
        layers = self.layers
        requests = []
        for layer in layers:
            target = Path(str(self._target.value))
            if len(layers) > 1:
                suffixes = "".join(target.suffixes[-2:])
                stem = target.name.removesuffix(suffixes)
                target = target.with_name(f"{stem}-{layer.name}{suffixes}")
            requests.append(
                Request(
                    viewer=self._viewer,
                    layer=layer,
                    options=self._form.chosen(layer),
                    target=target,
                    overwrite=self._overwrite.value,
                    shown=self._result_shown,
                )
            )
        return requests

    def _result_shown(self, layer: Image) -> None:
        """Keep one preview only while following the view."""
        if self._closed or not (self._mode.value == REGION and self._follow.value):
            return
        before = None if self._preview is None else self._preview()
        if before is not None and before in self._viewer.layers:
            name = before.name
            self._viewer.layers.remove(before)
            layer.name = name
        self._preview = weakref.ref(layer)

    def _view_changed(self, *_: Any) -> None:
        if not self._closed and self._mode.value == REGION and self._follow.value:
            self._timers["follow"].start()

    def _follow_view(self) -> None:
        if self._run is not None:  # of a view that is gone: end it, then come again
            self.cancel()
            self._timers["follow"].start()
            return
        if self.layer is not None:
            self.run()

    def _show_state(self, state: State) -> None:
        if self._closed:
            return
        self._progress.max = max(state.total, 1)
        self._progress.value = min(state.done, self._progress.max)
        self._say(state.text)

    def _run_ended(self, outcome: Outcome) -> None:
        self._run = None
        if outcome.error is not None:
            show_error(f"{type(outcome.error).__name__}: {outcome.error}")
        if self._closed:
            return
        self._start.enabled, self._stop.enabled = True, False
        if outcome.error is not None:
            self._say(f"{type(outcome.error).__name__}: {outcome.error}")
        elif outcome.cancelled:
            self._say("Cancelled")
        else:
            self._progress.value = self._progress.max
            self._say("Done")
        self._form.refresh_models()  # one may have been downloaded

    def _say(self, text: str) -> None:
        self._status.setText(text)

    def _copy_python(self) -> None:
        self._copy(as_python)

    def _copy_command(self) -> None:
        self._copy(as_command_line)

    def _copy(self, write: Any) -> None:
        if self.layer is None:
            self._say(str(refusal(None)))
            return
        try:
            options = self._form.chosen(self.layer)
        except Swin2SRError as error:
            self._say(str(error))
            return
        target = str(self._target.value) if self._mode.value == DISK else None
        text = write(self.layer, options, target)
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(text)
        show_info(f"Copied:\n{text}")


def _row(*widgets: Any) -> Container[Any]:
    row: Container[Any] = Container(widgets=widgets, layout="horizontal", labels=False)
    row.native.layout().setContentsMargins(0, 0, 0, 0)
    return row


def _timer(parent: Any, pause: int, action: Any) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(pause)
    timer.timeout.connect(action)
    return timer
