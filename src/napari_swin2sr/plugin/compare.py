"""Before and after on the canvas: a wipe, side by side, and the original for a moment.

Pixels are cut at the canvas, in the last step of drawing, so the border stays where it
is whatever the camera, the layers' transforms, their levels and blending are, in 2-D
and 3-D. Layers themselves keep everything but their visibility, for the time being.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_info
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, QPointF, Qt
from qtpy.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPolygonF
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget
from vispy.visuals.filters import Clipper

from napari_swin2sr.plugin.placement import made_from

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image

OFF, WIPE, SIDE = "off", "wipe", "side"

BLINK_KEY = "B"
"""Shows the original as long as it is held."""

NOTHING = "There is nothing to compare yet: upscale a layer first"

_GRIP, _LINE = 26, 3  # [screen px]
_WHITE = QColor("white")
_STEP = 0.02  # of the width of the canvas, per arrow key


class Comparer:
    """Before and after in one viewer: one mode at a time, and none without a trace.

    Attributes
    ----------
    mode : `OFF`, `WIPE` or `SIDE`
    changed : signal, emitted when the mode changes, for whatever reason
    """

    changed = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = weakref.ref(viewer)
        self.mode = OFF
        self._held = False
        self._wipe: _Wipe | None = None
        self._side: _SideBySide | None = None

    @property
    def split(self) -> float:
        """Where the wipe is: left of it is the original; 0 to 1 of the canvas."""
        return 0.0 if self._wipe is None else self._wipe.split

    @split.setter
    def split(self, value: float) -> None:
        if self._wipe is not None:
            self._wipe.split = value

    def set_mode(self, mode: str) -> None:
        """Compare like this from now on; `OFF` leaves everything as it was before."""
        if mode == self.mode:
            return
        pairs = self._pairs() if mode != OFF else []
        if mode != OFF and not pairs:
            show_info(NOTHING)
            mode = OFF
        self._stop()
        viewer = self._viewer()
        if viewer is not None and mode == WIPE:
            self._wipe = _Wipe(viewer, pairs, self._ended, handle=True)
        elif viewer is not None and mode == SIDE:
            self._side = _SideBySide(viewer, pairs, self._ended)
        self.mode = mode
        self.changed.emit(mode)

    def hold_original(self, held: bool) -> None:
        """Show the originals alone as long as something is held down."""
        if held == self._held or self.mode == SIDE:
            return
        viewer = self._viewer()
        if self._wipe is not None and self.mode == WIPE:
            self._held = held
            self._wipe.only_original = held
        elif held and viewer is not None and (pairs := self._pairs()):
            self._held = True
            self._wipe = _Wipe(viewer, pairs, self._ended, handle=False)
            self._wipe.only_original = True
        else:
            self._stop()

    def _pairs(self) -> list[tuple[Image, Image]]:
        viewer = self._viewer()
        return [] if viewer is None else pairs_of(viewer)

    def _ended(self) -> None:
        """A layer or the window went away meanwhile: nothing is compared any more."""
        self._stop()
        if self.mode != OFF:
            self.mode = OFF
            self.changed.emit(OFF)

    def _stop(self) -> None:
        self._held = False
        wipe, self._wipe = self._wipe, None
        side, self._side = self._side, None
        if wipe is not None:
            wipe.close()
        if side is not None:
            side.close()


_COMPARERS: weakref.WeakKeyDictionary[Any, Comparer] = weakref.WeakKeyDictionary()


def comparer_of(viewer: napari.viewer.Viewer) -> Comparer:
    """Return the comparer of a viewer; plugins get a proxy of it, each another one."""
    whole = _bare(viewer)
    if whole not in _COMPARERS:
        _COMPARERS[whole] = Comparer(whole)
    return _COMPARERS[whole]


def pairs_of(viewer: napari.viewer.Viewer) -> list[tuple[Image, Image]]:
    """Return every source with the result to compare it with, bottom first.

    Of several results of one source, a selected one counts, else a visible one, else
    the topmost.
    """
    layers = list(_bare(viewer).layers)
    chosen = _bare(viewer).layers.selection
    best: dict[Image, tuple[tuple[bool, bool, int], Image]] = {}
    for number, result in enumerate(layers):
        source = made_from(result, layers)
        if source is None:
            continue
        rank = result in chosen, bool(result.visible), number
        if source not in best or rank > best[source][0]:
            best[source] = rank, result
    return [(source, best[source][1]) for source in layers if source in best]


def toggle_wipe(viewer: napari.viewer.Viewer) -> None:
    """Start or end the wipe between originals and results."""
    _toggle(viewer, WIPE)


def toggle_side_by_side(viewer: napari.viewer.Viewer) -> None:
    """Show originals and results side by side, or end that."""
    _toggle(viewer, SIDE)


def show_original(viewer: napari.viewer.Viewer) -> Iterator[None]:
    """Show the originals while a key is held: for `viewer.bind_key`."""
    comparer = comparer_of(viewer)
    comparer.hold_original(True)
    yield
    comparer.hold_original(False)


def _toggle(viewer: napari.viewer.Viewer, mode: str) -> None:
    comparer = comparer_of(viewer)
    comparer.set_mode(OFF if comparer.mode == mode else mode)


def _bare(viewer: Any) -> Any:
    return getattr(viewer, "__wrapped__", viewer)


# -- what is done to the layers, and undone -------------------------------------------


class _Shown:
    """Only some layers are visible for a while, and the canvas is one or a grid."""

    def __init__(self, viewer: Any, visible: list[Any], hidden: list[Any]) -> None:
        self.viewer = viewer
        self._before = {layer: layer.visible for layer in (*visible, *hidden)}
        grid = _grid(viewer)
        self._grid = grid.enabled, grid.shape, grid.stride
        for layers, value in ((hidden, False), (visible, True)):
            for layer in layers:
                layer.visible = value

    def restore(self) -> None:
        """Undo it, for the layers that are still there."""
        grid = _grid(self.viewer)
        grid.enabled, grid.shape, grid.stride = self._grid
        for layer, visible in self._before.items():
            if layer in self.viewer.layers:
                layer.visible = visible


def _grid(viewer: Any) -> Any:
    """Return the grid of cells, which napari 0.9 moved to the canvas."""
    canvas = getattr(viewer, "canvas", None)
    return viewer.grid if canvas is None else canvas.grid


def _other_results(viewer: Any, pairs: list[tuple[Image, Image]]) -> list[Any]:
    """Return results that would cover what is compared."""
    compared = {layer for pair in pairs for layer in pair}
    layers = list(viewer.layers)
    return [
        layer
        for layer in layers
        if layer not in compared and made_from(layer, layers) is not None
    ]


class _SideBySide:
    """Originals in the left half of the canvas, results in the right one.

    napari's grid puts successive layers into one cell and links the cameras, so the
    layers are put in order for the time being.
    """

    def __init__(
        self, viewer: Any, pairs: list[tuple[Image, Image]], ended: Any
    ) -> None:
        self._viewer, self._ended = viewer, ended
        sources, results = ([pair[i] for pair in pairs] for i in (0, 1))
        rest = [layer for layer in viewer.layers if layer not in sources + results]
        self._order = list(viewer.layers)
        self._compared = sources + results
        self._shown = _Shown(viewer, self._compared, rest)
        _put_in_order(viewer.layers, sources + results + rest)
        grid = _grid(viewer)
        grid.stride, grid.shape, grid.enabled = len(pairs), (1, 2), True
        viewer.layers.events.removed.connect(self._on_removed)

    def close(self) -> None:
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        known = [layer for layer in self._order if layer in self._viewer.layers]
        new = [layer for layer in self._viewer.layers if layer not in known]
        _put_in_order(self._viewer.layers, known + new)
        self._shown.restore()

    def _on_removed(self, event: Any) -> None:
        if event.value in self._compared:
            self._ended()


def _put_in_order(layers: Any, wanted: list[Any]) -> None:
    for place, layer in enumerate(wanted):
        if layers[place] is not layer:
            layers.move(layers.index(layer), place)


class _Wipe(QObject):
    """Sources are drawn left of a line only, results right of it."""

    def __init__(
        self,
        viewer: Any,
        pairs: list[tuple[Image, Image]],
        ended: Any,
        *,
        handle: bool,
    ) -> None:
        # There is no public way to the canvas: neither its size nor its events.
        self._canvas = viewer.window._qt_viewer.canvas
        super().__init__(self._canvas.native)
        self._viewer, self._ended = viewer, ended
        self._sides = {source: True for source, _ in pairs}
        self._sides |= {result: False for _, result in pairs}
        self._clips: dict[Any, _Clip] = {}
        self._split, self._only_original = 0.5, False
        self._shown = _Shown(viewer, list(self._sides), _other_results(viewer, pairs))
        _grid(viewer).enabled = False
        self._handle = _Handle(self._canvas.native, self._moved) if handle else None
        self._canvas.events.draw.connect(self._before_drawing)
        viewer.layers.events.removed.connect(self._on_removed)
        self._canvas.native.installEventFilter(self)
        self._place()

    @property
    def split(self) -> float:
        return self._split

    @split.setter
    def split(self, value: float) -> None:
        self._split = min(max(value, 0.0), 1.0)
        self._place()

    @property
    def only_original(self) -> bool:
        return self._only_original

    @only_original.setter
    def only_original(self, value: bool) -> None:
        self._only_original = value
        if self._handle is not None:
            self._handle.set_visible(not value)
        self._place()

    def close(self) -> None:
        """Take back what was done, as far as it still exists."""
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._shown.restore()
        for clip in self._clips.values():
            clip.detach()
        self._clips.clear()
        # A canvas that is being destroyed has taken its children along.
        with contextlib.suppress(RuntimeError):
            self._canvas.events.draw.disconnect(self._before_drawing)
            self._canvas.native.removeEventFilter(self)
            if self._handle is not None:
                self._handle.close_for_good()
            self._canvas.native.update()
            self.deleteLater()

    def eventFilter(  # noqa: N802
        self, watched: QObject | None, event: QEvent | None
    ) -> bool:
        """Follow the size of the canvas."""
        assert event is not None
        if event.type() == QEvent.Type.Resize and self._handle is not None:
            self._handle.place(self._split)
        return False

    def _moved(self, split: float) -> None:
        self.split = split

    def _place(self) -> None:
        if self._handle is not None:
            self._handle.place(self._split)
        self._canvas.native.update()

    def _on_removed(self, event: Any) -> None:
        if event.value in self._sides:
            self._ended()

    def _before_drawing(self, event: Any = None) -> None:
        """Cut what is drawn: napari may have made new visuals, or another size."""
        width, height = self._canvas._scene_canvas.physical_size
        border = width * (1.0 if self._only_original else self._split)
        present = set()
        for layer, left in self._sides.items():
            visual = self._canvas.layer_to_visual.get(layer)
            if visual is None:
                continue
            for drawn in _drawn(visual.node):
                present.add(drawn)
                if drawn not in self._clips:
                    self._clips[drawn] = _Clip(drawn)
                start, end = (0.0, border) if left else (border, float(width))
                self._clips[drawn].show(start, end, height)
        for drawn in set(self._clips) - present:
            self._clips.pop(drawn).detach()


def _drawn(node: Any) -> list[Any]:
    """Return what draws a layer: several visuals for images beyond a texture."""
    return list(getattr(node, "adopted_children", None) or [node])


class _Clip:
    """A range of canvas columns to which one visual is confined."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self._filter = Clipper()
        self._shown: tuple[float, float, float] | None = None
        visual.attach(self._filter)

    def show(self, start: float, end: float, height: float) -> None:
        """Set the range [physical px]."""
        if self._shown != (start, end, height):
            self._shown = start, end, height
            # Fragments have their centers at halves, so an empty range shows none.
            self._filter.bounds = start, -1, end - start, height + 2

    def detach(self) -> None:
        # napari may have thrown the visual away already
        with contextlib.suppress(ValueError, KeyError, RuntimeError):
            self._visual.detach(self._filter)


# -- what people see and touch --------------------------------------------------------


class _Handle(QWidget):
    """The line on the canvas, to be dragged, with a name on each side."""

    def __init__(self, canvas: QWidget, moved: Any) -> None:
        super().__init__(canvas)
        self._canvas, self._moved = canvas, moved
        self.setObjectName("compare_handle")
        self.setCursor(Qt.CursorShape.SplitHCursor)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setToolTip("Drag: the original is on the left. Arrow keys move it, too")
        self.setAccessibleName("Border between original and result")
        self._names = [_tag(canvas, "original"), _tag(canvas, "super-resolved")]
        self.set_visible(True)

    def set_visible(self, visible: bool) -> None:
        """Show or hide the line and its names."""
        for part in (self, *self._names):
            part.setVisible(visible)

    def place(self, split: float) -> None:
        """Move to a share of the canvas's width."""
        x = round(split * self._canvas.width())
        self.setGeometry(x - _GRIP // 2, 0, _GRIP, self._canvas.height())
        left, right = self._names
        left.move(x - left.width() - 8, 8)
        right.move(x + 9, 8)
        self.raise_()

    def close_for_good(self) -> None:
        for part in (*self._names, self):
            part.hide()
            part.deleteLater()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802
        """Draw the line and a knob with two arrows."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        middle, height = self.width() / 2, self.height()
        painter.setPen(Qt.PenStyle.NoPen)
        for width, color in ((_LINE + 2, QColor(0, 0, 0, 120)), (_LINE, _WHITE)):
            painter.setBrush(color)
            painter.drawRect(round(middle - width / 2), 0, width, height)
        center, radius = QPointF(middle, height / 2), _GRIP / 2 - 1
        painter.setBrush(_WHITE)
        painter.drawEllipse(center, radius, radius)
        painter.setBrush(QColor(60, 60, 60))
        for side in (-1, 1):
            points = [(3, -4), (3, 4), (8, 0)]
            corners = [center + QPointF(side * x, y) for x, y in points]
            painter.drawPolygon(QPolygonF(corners))

    def mousePressEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802
        """Take the line; nothing of it reaches napari."""
        assert event is not None
        event.accept()

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802
        """Move the line along."""
        assert event is not None
        if event.buttons() & Qt.MouseButton.LeftButton:
            x = self.x() + event.position().x()
            self._moved(x / max(self._canvas.width(), 1))

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802
        """Let the line be; nothing of it reaches napari."""
        assert event is not None
        event.accept()

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802
        """Move by keys; all others are napari's."""
        assert event is not None
        steps = {Qt.Key.Key_Left: -_STEP, Qt.Key.Key_Right: _STEP}
        if event.key() not in steps:
            event.ignore()
            return
        middle = (self.x() + _GRIP / 2) / max(self._canvas.width(), 1)
        self._moved(middle + steps[Qt.Key(event.key())])


def _tag(canvas: QWidget, text: str) -> QLabel:
    """Return a name that lies on the canvas and lets the mouse through."""
    tag = QLabel(text, canvas)
    tag.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
    tag.setStyleSheet(
        "background: rgba(0, 0, 0, 150); color: white; border-radius: 4px;"
        "padding: 2px 6px;"
    )
    tag.adjustSize()
    return tag


class CompareRow(QWidget):
    """Three buttons: wipe, side by side, and the original while one holds it.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Whose layers are compared.
    parent : QWidget, optional
        Where the row is.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._comparer = comparer_of(viewer)
        self.wipe = _button("Wipe", "Drag a line between original and result", self)
        self.side = _button("Side by side", "Both, with one camera", self)
        self.original = _button(
            "Original", f"Hold to see the original; key {BLINK_KEY} does the same", self
        )
        for mode, button in ((WIPE, self.wipe), (SIDE, self.side)):
            button.setCheckable(True)
            button.clicked.connect(
                lambda checked, mode=mode: self._set_mode(mode if checked else OFF)
            )
        self.original.pressed.connect(lambda: self._comparer.hold_original(True))
        self.original.released.connect(lambda: self._comparer.hold_original(False))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for button in (self.wipe, self.side, self.original):
            layout.addWidget(button)
        self._comparer.changed.connect(self._show_mode)
        self._show_mode(self._comparer.mode)
        bind_blink_key(viewer)

    def _set_mode(self, mode: str) -> None:
        self._comparer.set_mode(mode)
        self._show_mode(self._comparer.mode)

    def _show_mode(self, mode: str) -> None:
        # The row may be gone while the comparer of its viewer lives on.
        with contextlib.suppress(RuntimeError):
            self.wipe.setChecked(mode == WIPE)
            self.side.setChecked(mode == SIDE)
            self.original.setEnabled(mode != SIDE)


def bind_blink_key(viewer: napari.viewer.Viewer) -> None:
    """Let a key show the originals, unless a person has bound it to something else."""
    whole = _bare(viewer)
    if not any(str(key) == BLINK_KEY for key in whole.keymap):
        whole.bind_key(BLINK_KEY, show_original)


def _button(text: str, tip: str, parent: QWidget) -> QPushButton:
    button = QPushButton(text, parent)
    button.setToolTip(tip)
    return button
