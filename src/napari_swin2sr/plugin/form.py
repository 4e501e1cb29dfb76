"""The fields of `UpscaleOptions` as editors, and the choices made there as code."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, LineEdit, PushButton
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from napari_swin2sr.errors import OptionError
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.layer_source import guess_axes
from napari_swin2sr.plugin.placement import changed_options
from napari_swin2sr.plugin.settings import current_settings, own_models
from napari_swin2sr.weights.config import Swin2SRConfig

if TYPE_CHECKING:
    from napari.layers import Image

AUTOMATIC = "automatic"
SHOWN = ("model", "axes", "rgb", "value_range")
"""Fields that are always in sight; the others are behind "more options"."""

_CONTRAST, _GIVEN, _AS_INPUT = "contrast limits of the layer", "given:", "as the input"
_FIELDS = {field.name: field for field in dataclasses.fields(UpscaleOptions)}
_CHOICES = {
    "value_range": [AUTOMATIC, "dtype", "data", _CONTRAST, _GIVEN],
    "dtype": [_AS_INPUT, "uint8", "uint16", "float32"],
} | {
    name: f.metadata["choices"] for name, f in _FIELDS.items() if f.metadata["choices"]
}


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A line of the model list: what is known of a model without loading it.

    Attributes
    ----------
    name : what `UpscaleOptions.model` takes
    label : what people read in the list
    about : purpose, size, license, and whether it is on this machine
    config : hyper-parameters, None if only loading can tell
    n_parameters : 0 if not known
    """

    name: str
    label: str
    about: str
    config: Swin2SRConfig | None = None
    n_parameters: int = 0


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
        self.editors = {name: self._editor(name) for name in _FIELDS}
        self.about = note()
        self._range_text = LineEdit(
            name="range_text",
            label=" ",
            tooltip="LOW, HIGH; one pair per channel where they differ",
        )
        self._more = CheckBox(name="more", text="more options")
        self._defaults = PushButton(
            name="defaults",
            text="Restore defaults",
            tooltip="Every option as Preferences > Swin2SR says",
        )
        shown = [self.editors[name] for name in SHOWN]
        self._hidden = [self.editors[name] for name in _FIELDS if name not in SHOWN]
        self._hidden.append(self._defaults)
        self.widgets = [*shown, self._range_text, self._more, *self._hidden]
        self._more.changed.connect(self._show)
        self.editors["value_range"].changed.connect(self._show)
        self.editors["rgb"].changed.connect(self._rgb_changed)
        self.editors["model"].changed.connect(self._show_about)
        self._defaults.changed.connect(self.restore)

    def _editor(self, name: str) -> Any:
        """Return an editor for an option, by the choices and type that it has."""
        meta = _FIELDS[name].metadata
        unit = f" ({meta['unit']})" if meta["unit"] else ""
        common: dict[str, Any] = {"name": name, "tooltip": wrapped(meta["help"])}
        if name == "rgb":
            return CheckBox(text="last axis holds RGB samples", **common)
        common["label"] = name.replace("_", " ") + unit
        if name == "model":
            return narrow(ComboBox(choices=self._model_lines, **common))
        if name in _CHOICES:
            return narrow(ComboBox(choices=_CHOICES[name], **common))
        line = LineEdit(**common)
        line.native.setPlaceholderText("none" if name == "nodata" else AUTOMATIC)
        return line

    # -- what is shown ----------------------------------------------------------------

    def hide(self) -> None:
        """Hide what is not needed now; to be called when the widgets have a parent."""
        self._show()

    def _show(self, *_: Any) -> None:
        for editor in self._hidden:
            editor.visible = self._more.value
        self._range_text.visible = self.editors["value_range"].value == _GIVEN

    def restore(self, *_: Any) -> None:
        """Set every editor to its default, or to what the preferences say."""
        settings = current_settings()
        self.refresh_models()
        for name, field in _FIELDS.items():
            editor = self.editors[name]
            if name in ("value_range", "dtype"):
                editor.value = editor.choices[0]
            elif name not in ("axes", "rgb"):
                value = getattr(settings, name, field.default)
                editor.value = "" if value is None else value
        self.follow(self._layer)

    def refresh_models(self) -> None:
        """Read the list of models again; nothing is downloaded or loaded."""
        self.choices = {choice.name: choice for choice in _model_choices()}
        self.editors["model"].reset_choices()
        self._show_about()

    def _model_lines(self, *_: Any) -> list[Any]:
        """Return the lines of the model list; asked for again when layers change."""
        if not self.choices:
            return [_FIELDS["model"].default]
        return [(choice.label, choice.name) for choice in self.choices.values()]

    def _show_about(self, *_: Any) -> None:
        if self.model is not None:
            self.about.setText(self.model.about)

    def follow(self, layer: Image | None) -> None:
        """Suggest axes and RGB for a layer."""
        self._layer = layer
        axes = "" if layer is None else guess_axes(layer)
        with self.editors["rgb"].changed.blocked():
            self.editors["rgb"].value = "S" in axes
        self.editors["axes"].value = axes

    def _rgb_changed(self, rgb: bool) -> None:
        axes = self.editors["axes"]
        old, new = ("C", "S") if rgb else ("S", "C")
        if old in axes.value and new not in axes.value:
            axes.value = axes.value.replace(old, new)

    # -- what is chosen ---------------------------------------------------------------

    @property
    def model(self) -> ModelChoice | None:
        """What is known of the chosen model; None before the list has been read."""
        return self.choices.get(self.editors["model"].value)

    def values(self) -> dict[str, Any]:
        """Return what the editors hold, to be given to another form."""
        named = [*self.editors.values(), self._range_text, self._more]
        return {editor.name: editor.value for editor in named}

    def set_values(self, values: dict[str, Any]) -> None:
        """Take over what the editors of another form held, except axes."""
        for editor in (*self.editors.values(), self._range_text, self._more):
            if editor.name in values and editor.name not in ("axes", "rgb"):
                value = values[editor.name]
                if value in getattr(editor, "choices", (value,)):
                    editor.value = value

    def chosen(self, layer: Image | None = None) -> UpscaleOptions:
        """Return what is chosen now, for a layer.

        Raises
        ------
        OptionError
            If a text cannot be read, or a value is not allowed.
        """
        layer = self._layer if layer is None else layer
        values = {name: editor.value for name, editor in self.editors.items()}
        if values["dtype"] == _AS_INPUT:
            values["dtype"] = None
        for name in ("tile", "halo"):
            text = values[name].strip()
            values[name] = int(text) if text.isdecimal() else (text or None)
        values["nodata"] = _number(values["nodata"])
        values["axes"], values["rgb"] = self._axes(layer), None
        values["value_range"] = self._value_range(layer)
        return UpscaleOptions(**values)

    def _axes(self, layer: Image | None) -> str | None:
        """Return the axes for a layer; another one than shown suggests its own."""
        text = str(self.editors["axes"].value).strip().upper()
        if layer is None or self._layer is None or layer is self._layer:
            return text or None
        suggested = guess_axes(layer)
        return text if len(text) == len(suggested) else suggested

    def _value_range(self, layer: Image | None) -> Any:
        choice = self.editors["value_range"].value
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


# -- as code --------------------------------------------------------------------------


def as_python(layer: Image, options: UpscaleOptions, target: str | None = None) -> str:
    """Return Python that does the same: from the layer's pixels, or into a file."""
    if target is None:
        data = ".data[0]" if layer.multiscale else ".data"
        first = [f"viewer.layers[{layer.name!r}]{data}"]
        function = "result = napari_swin2sr.apply"
    else:
        first = [repr(str(layer.source.path or "INPUT")), repr(target)]
        function = "napari_swin2sr.upscale_file"
    options_ = [f"{key}={value!r}" for key, value in changed_options(options).items()]
    body = "".join(f"    {line},\n" for line in first + options_)
    return f"import napari_swin2sr\n\n{function}(\n{body})\n"


def as_command_line(
    layer: Image, options: UpscaleOptions, target: str | None = None
) -> str:
    """Return the command that does the same, for files."""
    source = str(layer.source.path or f"{layer.name}.tif")
    target = target or f"{layer.name}-upscaled.ome.zarr"
    words = ["napari-swin2sr", "upscale", source, target]
    for key, value in changed_options(options).items():
        if isinstance(value, (tuple, list)):
            value = ",".join(f"{float(n):.17g}" for n in np.ravel(value))
        words.append(f"--{key.replace('_', '-')}={value}")
    return shlex.join(words)


# -- parts ----------------------------------------------------------------------------


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


def wrapped(text: str) -> str:
    """Return a tooltip whose lines Qt breaks, as it does for rich text only."""
    return f"<qt>{text.replace('&', '&amp;').replace('<', '&lt;')}</qt>"


def _model_choices() -> list[ModelChoice]:
    """Return the named models, then those of the folder in the preferences."""
    from napari_swin2sr.weights.catalog import list_models

    choices = []
    for info in list_models():
        size = "" if info.n_bytes is None else f"{info.n_bytes / 1e6:.0f} MB, "
        place = "on this machine" if info.downloaded else "downloaded on first use"
        choices.append(
            ModelChoice(
                name=info.name,
                label=f"{info.name}  ({_factor(info.upscale)})",
                about=f"For {info.purpose}. {size}{info.license}, {place}.",
                config=info.config,
                n_parameters=info.n_parameters,
            )
        )
    return choices + [_own_model(path) for path in own_models()]


def _own_model(path: Path) -> ModelChoice:
    config = None
    if path.is_dir():
        try:
            config = Swin2SRConfig.from_pretrained(path)
        except Exception:  # the list must open; choosing it tells what is wrong
            config = None
    factor = "" if config is None else f"  ({_factor(config.upscale)})"
    about = f"Own model: {path}"
    return ModelChoice(str(path), f"{path.name}{factor}", about, config)


def _factor(upscale: int) -> str:
    return "same size" if upscale == 1 else f"x{upscale}"


def _numbers(text: str) -> Any:
    """Return (LOW, HIGH), or one such pair per channel."""
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
