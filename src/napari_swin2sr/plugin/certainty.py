"""How sure: error bars of a live layer as a layer, in the status bar, and as a fade.

Everything is made of tiles that are there already: image and error come from one
forward and share one cache.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from napari.utils import Colormap
from napari.utils.notifications import show_info
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QSlider, QWidget

from napari_swin2sr.errors import InputError
from napari_swin2sr.plugin.live.layer import LiveLayer, live_layers
from napari_swin2sr.plugin.placement import free_name

if TYPE_CHECKING:
    import napari.viewer

ERROR_COLORS = "magma"

FADE = Colormap(
    [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.8], [0, 0, 0, 0.8]],
    name="fade",
    controls=[0, 0.5, 0.6, 1],
)
"""Nothing up to the middle of the limits, dark beyond."""

SHARE = 0.2
"""Error that is shown brightest, of the image's contrast; the end of the slider."""

STEPS = 100

NO_ERROR = (
    "This model tells no errors: make error bars for it with "
    "`napari-swin2sr calibrate`, or choose a model that has them"
)
NO_LIVE = "There is no live layer: choose Live, then Run"


def add_error_layer(viewer: napari.viewer.Viewer, live: Image) -> Image:
    """Add the errors of a live layer as a layer of the same place; compute nothing.

    Raises
    ------
    InputError
        If it is no live layer, or its model tells no errors.
    """
    controller = _controller(live)
    if controller is None:
        raise InputError(NO_LIVE)
    if controller.error is None or controller.pyramid is None:
        raise InputError(NO_ERROR)
    if controller.error_layer is not None:
        return controller.error_layer
    tiles, whole = controller.error, controller.viewer
    samples = len(tiles.shape) < len(live.data[0].shape)
    coarse = [level.shape for level in controller.pyramid.levels[1:]]
    # Nobody knows errors where nothing has been computed.
    levels = [tiles.array] + [
        np.broadcast_to(np.float32(math.nan), shape[: len(shape) - samples])
        for shape in coarse
    ]
    names = [layer.name for layer in whole.layers]
    layer = Image(
        levels,
        multiscale=True,
        name=free_name(names, f"{live.name} error"),
        colormap=ERROR_COLORS,
        blending="additive",
        contrast_limits=(0, SHARE * _width(live)),
        scale=live.scale,
        translate=live.translate,
        rotate=live.rotate,
        shear=live.shear,
        affine=live.affine,
        units=live.units,
        axis_labels=live.axis_labels,
        metadata={"level": controller.level, "of": live.name},
    )
    controller.error_layer = layer
    layer.events.visible.connect(controller.show_soon)
    whole.layers.selection.events.active.block()
    try:
        whole.add_layer(layer)
        whole.layers.selection.active = live
    finally:
        whole.layers.selection.events.active.unblock()
    return layer


def fade(layer: Image, tolerance: float | None) -> None:
    """Darken what an error layer says is less certain than a tolerance; None: undo it.

    `tolerance` is a half-width, in units of the image.
    """
    if tolerance is None:
        layer.colormap, layer.blending = ERROR_COLORS, "additive"
        return
    layer.blending = "translucent_no_depth"
    layer.colormap = FADE
    layer.contrast_limits = (0, 2 * max(tolerance, 1e-9))


def _controller(live: Any) -> LiveLayer | None:
    return next((one for one in live_layers() if one.layer is live), None)


def _width(live: Image) -> float:
    """Return the range of values that is looked at."""
    low, high = live.contrast_limits
    return float(high) - float(low)


class CertaintyRow(QWidget):
    """A box that shows the errors, and a slider that fades what is uncertain.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Whose live layers are meant.
    parent : QWidget, optional
        Where the row is.
    """

    def __init__(
        self, viewer: napari.viewer.Viewer, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer = getattr(viewer, "__wrapped__", viewer)
        self.box = QCheckBox("Show how sure it is")
        self.box.setToolTip(
            "The half-width within which the truth lies for 90 % of the pixels, as a "
            "layer. Nothing is computed for it"
        )
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setValue(STEPS)
        self.slider.setToolTip("Left: only what is certain stays bright")
        self.slider.setAccessibleName("Fade what is less certain than")
        self.text = QLabel()
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box, 0, 0, 1, 2)
        layout.addWidget(self.text, 1, 0)
        layout.addWidget(self.slider, 1, 1)
        self.box.clicked.connect(self._clicked)
        self.slider.valueChanged.connect(self._fade)
        self._show_slider(False)

    def _mine(self) -> list[LiveLayer]:
        layers = list(self._viewer.layers)
        return [one for one in live_layers() if one.layer in layers]

    def follow(self) -> None:
        """Be there where there are errors, ticked where they are shown."""
        mine = self._mine()
        self.setVisible(any(one.error is not None for one in mine))
        shown = any(one.error_layer is not None for one in mine)
        if shown != self.box.isChecked():
            self.box.setChecked(shown)
            self._show_slider(shown)

    def _clicked(self, checked: bool) -> None:
        mine = self._mine()
        try:
            if checked and not mine:
                raise InputError(NO_LIVE)
            for one in mine:
                assert one.layer is not None
                if checked:
                    add_error_layer(self._viewer, one.layer)
                elif one.error_layer is not None:
                    self._viewer.layers.remove(one.error_layer)
        except InputError as error:
            show_info(str(error))
            self.box.setChecked(False)
        self._show_slider(self.box.isChecked())

    def _show_slider(self, shown: bool) -> None:
        self.slider.setVisible(shown)
        self.text.setVisible(shown)
        if shown:
            self._fade(self.slider.value())

    def _fade(self, value: int) -> None:
        """Fade each error layer; the right end of the slider shows errors as colors."""
        self.text.setText("Fade: nothing")
        for one in self._mine():
            if one.error_layer is not None:
                assert one.layer is not None
                end = SHARE * _width(one.layer)
                tolerance = None if value == STEPS else end * value / STEPS
                fade(one.error_layer, tolerance)
                if tolerance is None:
                    one.error_layer.contrast_limits = 0, end
                else:
                    self.text.setText(f"Fade beyond ± {tolerance:.3g}")
