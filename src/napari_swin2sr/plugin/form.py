"""The fields of `UpscaleOptions` as editors; no default and no check of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    LineEdit,
    PushButton,
)
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from napari_swin2sr.errors import OptionError
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.layer_source import guess_axes
from napari_swin2sr.plugin.models import ModelChoice, model_choices
from napari_swin2sr.plugin.settings import current_settings

if TYPE_CHECKING:
    from napari.layers import Image

AUTOMATIC = "automatic"
SHOWN = ("model", "axes", "rgb", "value_range")
"""Fields that are always in sight; the others are behind "More options"."""

_CONTRAST, _GIVEN = "contrast limits of the layer", "given:"

_FIELDS = {field.name: field for field in dataclasses.fields(UpscaleOptions)}


class OptionsForm:
    """One editor per field of `UpscaleOptions`, with its help as tooltip.

    Attributes
    ----------
    widgets : the editors, in the order in which they are to be shown
    choices : the models, by name
    about : what is known of the chosen model, to be shown below it
    """

    def __init__(self) -> None:
        self.choices: dict[str, ModelChoice] = {}
        self._layer: Image | None = None
        self._editors = {name: _editor(name, self._model_lines) for name in _FIELDS}
        self.about = note()
        self._range_text = LineEdit(
            name="range_text",
            label=" ",
            tooltip="LOW, HIGH; one pair per channel where they differ",
        )
        self._more = CheckBox(name="more", text="more options")
        self._defaults = PushButton(name="defaults", text="Restore defaults")
        hidden = [self._editors[name] for name in _FIELDS if name not in SHOWN]
        self._hidden = [*hidden, self._defaults]
        shown = [self._editors[name] for name in SHOWN]
        self.widgets = [*shown, self._range_text, self._more, *self._hidden]
        self._more.changed.connect(self._show_more)
        self._editors["value_range"].changed.connect(self._show_range)
        self._editors["rgb"].changed.connect(self._rgb_changed)
        self._editors["model"].changed.connect(self._show_about)
        self._defaults.changed.connect(self.restore)

    def hide(self) -> None:
        """Hide what is not needed now; to be called when the widgets have a parent."""
        self._show_more(self._more.value)
        self._show_range()

    def editor(self, name: str) -> Any:
        """Return the editor of an option."""
        return self._editors[name]

    def restore(self) -> None:
        """Set every editor to its default, or to what the preferences say."""
        settings = current_settings()
        self.refresh_models()
        for name, field in _FIELDS.items():
            value = getattr(settings, name, field.default)
            if name in ("axes", "rgb"):
                continue
            editor = self._editors[name]
            editor.value = _to_editor(name, value, editor)
        self.follow(self._layer)

    def refresh_models(self) -> None:
        """Read the list of models anew; nothing is downloaded or loaded."""
        self.choices = {choice.name: choice for choice in model_choices()}
        self._editors["model"].reset_choices()
        self._show_about()

    def _model_lines(self, *_: Any) -> list[Any]:
        """Return the lines of the model list; asked for again when layers change."""
        if not self.choices:
            return [_FIELDS["model"].default]
        return [(choice.label, choice.name) for choice in self.choices.values()]

    @property
    def model(self) -> ModelChoice | None:
        """What is known of the chosen model; None before the list has been read."""
        return self.choices.get(self._editors["model"].value)

    def follow(self, layer: Image | None) -> None:
        """Suggest axes and RGB for a layer."""
        self._layer = layer
        axes = "" if layer is None else guess_axes(layer)
        with self._editors["rgb"].changed.blocked():
            self._editors["rgb"].value = "S" in axes
        self._editors["axes"].value = axes

    def chosen(self, layer: Image | None = None) -> UpscaleOptions:
        """Return what is chosen now, for a layer.

        Raises
        ------
        OptionError
            If a text cannot be read, or a value is not allowed.
        """
        layer = self._layer if layer is None else layer
        values = {
            name: _from_editor(name, self._editors[name].value)
            for name in _FIELDS
            if name not in ("axes", "rgb", "value_range")
        }
        values["axes"] = self._axes(layer)
        values["value_range"] = self._value_range(layer)
        return UpscaleOptions(**values)

    def _axes(self, layer: Image | None) -> str | None:
        """Return the axes for a layer; another one than shown suggests its own."""
        text = self._editors["axes"].value.strip().upper()
        if layer is None or self._layer is None or layer is self._layer:
            return text or None
        fits = len(text) == len(guess_axes(layer))
        return text if fits else guess_axes(layer)

    def _value_range(self, layer: Image | None) -> Any:
        choice = self._editors["value_range"].value
        if choice == _CONTRAST:
            if layer is None or layer.rgb:
                raise OptionError(
                    "an RGB layer has no contrast limits; choose another value range"
                )
            low, high = layer.contrast_limits
            return float(low), float(high)
        if choice == _GIVEN:
            return _numbers(self._range_text.value)
        return None if choice == AUTOMATIC else choice

    def _rgb_changed(self, rgb: bool) -> None:
        axes = self._editors["axes"]
        old, new = ("C", "S") if rgb else ("S", "C")
        if old in axes.value and new not in axes.value:
            axes.value = axes.value.replace(old, new)

    def _show_more(self, more: bool) -> None:
        for editor in self._hidden:
            editor.visible = more

    def _show_range(self) -> None:
        self._range_text.visible = self._editors["value_range"].value == _GIVEN

    def _show_about(self) -> None:
        if self.model is not None:
            self.about.setText(self.model.about)


def note() -> QLabel:
    """Return a label over the whole width that breaks its lines."""
    label = QLabel()
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def narrow(box: Any) -> Any:
    """Let a combo box be narrower than its longest text."""
    box.native.setMinimumContentsLength(10)
    policy = box.native.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    box.native.setSizeAdjustPolicy(policy)
    return box


def _editor(name: str, model_lines: Callable[..., list[Any]]) -> Any:
    """Return an editor for an option, by the type and choices that its field has."""
    field = _FIELDS[name]
    unit = field.metadata["unit"]
    if name == "rgb":
        return CheckBox(
            name=name,
            text="last axis holds RGB samples",
            tooltip=field.metadata["help"],
        )
    common: dict[str, Any] = {
        "name": name,
        "label": name.replace("_", " ") + (f" ({unit})" if unit else ""),
        "tooltip": field.metadata["help"],
    }
    if field.metadata["choices"]:
        return narrow(ComboBox(choices=field.metadata["choices"], **common))
    if name == "model":
        return narrow(ComboBox(choices=model_lines, **common))
    if name == "value_range":
        words = [AUTOMATIC, "dtype", "data", _CONTRAST, _GIVEN]
        return narrow(ComboBox(choices=words, **common))
    if name == "dtype":
        words = ["as the input", "uint8", "uint16", "float32"]
        return narrow(ComboBox(choices=words, **common))
    line = LineEdit(**common)
    line.native.setPlaceholderText("none" if name == "nodata" else AUTOMATIC)
    return line


def _to_editor(name: str, value: Any, editor: Any) -> Any:
    if name in ("value_range", "dtype"):
        return editor.choices[0]
    if isinstance(editor, LineEdit):
        return "" if value is None else str(value)
    return value


def _from_editor(name: str, value: Any) -> Any:
    if name == "dtype":
        return None if value == "as the input" else value
    if name in ("tile", "halo"):
        text = value.strip()
        return int(text) if text.isdecimal() else (text or None)
    if name == "nodata":
        return _number(value)
    return value


def _numbers(text: str) -> Any:
    """Return (LOW, HIGH), or one such pair per channel.

    Raises
    ------
    OptionError
        If the text is not made of pairs of numbers.
    """
    try:
        words = text.replace(",", " ").replace(";", " ").split()
        numbers = [float(word) for word in words]
        pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        pairs = ()
    if not pairs:
        raise OptionError(
            f"value range: {text!r} is not LOW, HIGH (two numbers, or two per channel)"
        )
    return pairs[0] if len(pairs) == 1 else pairs


def _number(text: str) -> float | None:
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise OptionError(f"nodata: {text!r} is not a number") from None
