"""What a person has chosen in the widget, as options and as code; no Qt here."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import OptionError
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.layer_source import guess_axes
from napari_swin2sr.plugin.placement import changed_options
from napari_swin2sr.plugin.settings import current_settings, own_models
from napari_swin2sr.weights.config import Swin2SRConfig

if TYPE_CHECKING:
    from napari.layers import Image

AUTOMATIC, AS_INPUT = "automatic", "as the input"
CONTRAST, GIVEN = "contrast limits of the layer", "given:"

ADVANCED = tuple(
    f
    for f in dataclasses.fields(UpscaleOptions)
    if f.name not in ("model", "axes", "rgb", "trust")
)
"""Fields with an editor in the section "Advanced"."""

CHOICES: dict[str, tuple[str, ...]] = {
    "value_range": (AUTOMATIC, "dtype", "data", CONTRAST, GIVEN),
    "dtype": (AS_INPUT, "uint8", "uint16", "float32"),
} | {f.name: tuple(f.metadata["choices"]) for f in ADVANCED if f.metadata["choices"]}


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A line of the model list: what is known of a model without loading it.

    Attributes
    ----------
    name : what `UpscaleOptions.model` takes
    label : what people read in the list
    purpose : which images it is for, in one line
    about : everything that is known: purpose, size, license
    config : hyper-parameters, None if only loading can tell
    n_parameters : 0 if not known
    offered : whether it is in the short list; the others are "more models"
    """

    name: str
    label: str
    purpose: str
    about: str
    config: Swin2SRConfig | None = None
    n_parameters: int = 0
    offered: bool = True

    @property
    def factor(self) -> int:
        """Output pixels per input pixel; 2 where only loading can tell."""
        return 2 if self.config is None else self.config.upscale


def model_choices() -> list[ModelChoice]:
    """Return the named models, then those of the folder in the preferences."""
    from napari_swin2sr.weights.catalog import list_models

    choices = []
    for info in list_models():
        said = info.purpose[:1].upper() + info.purpose[1:]
        size = "" if info.n_bytes is None else f"{info.n_bytes / 1e6:.0f} MB "
        place = "On this machine." if info.downloaded else f"{size}download."
        choices.append(
            ModelChoice(
                name=info.name,
                label=info.name,
                purpose=said.split(";")[0]
                + ("" if info.downloaded else f" ({size}download)"),
                about=f"{said}. {info.license}. {place}",
                config=info.config,
                n_parameters=info.n_parameters,
                offered=info.source == "embedded",
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
    return ModelChoice(str(path), path.name, "Own model", f"Own model: {path}", config)


@dataclass(slots=True)
class Choices:
    """What is chosen, as the widget shows it; outlives the widget.

    Attributes
    ----------
    model, mode, follow, target, overwrite : as in a `modes.Request`
    fields : text of each advanced option, and of "range_text"
    """

    model: str = UpscaleOptions().model
    mode: str = ""
    follow: bool = False
    target: str = ""
    overwrite: bool = False
    fields: dict[str, str] = field(default_factory=dict)

    def restore(self) -> None:
        """Set every option to its default, or to what the preferences say."""
        settings = current_settings()
        self.model, self.fields = UpscaleOptions().model, {"range_text": ""}
        for option in ADVANCED:
            if option.name in ("value_range", "dtype"):
                value: Any = CHOICES[option.name][0]
            else:
                value = getattr(settings, option.name, option.default)
            self.fields[option.name] = "" if value is None else str(value)

    def options(self, layer: Image, axes: str | None = None) -> UpscaleOptions:
        """Return the options for a layer, which suggests axes if none are given.

        Raises
        ------
        OptionError
            If a text cannot be read, or a value is not allowed.
        """
        values: dict[str, Any] = {f.name: self.fields[f.name] for f in ADVANCED}
        if values["dtype"] == AS_INPUT:
            values["dtype"] = None
        for name in ("tile", "halo"):
            text = values[name].strip()
            values[name] = int(text) if text.isdecimal() else (text or None)
        values["nodata"] = _number(values["nodata"])
        values["value_range"] = self._value_range(layer)
        return UpscaleOptions(
            model=self.model, axes=axes or guess_axes(layer), **values
        )

    def _value_range(self, layer: Image) -> Any:
        choice = self.fields["value_range"]
        if choice == CONTRAST:
            if layer.rgb:
                raise OptionError(
                    "an RGB layer has no contrast limits; choose another value range"
                )
            low, high = layer.contrast_limits
            return float(low), float(high)
        if choice == GIVEN:
            return _numbers(self.fields["range_text"])
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


# -- texts ----------------------------------------------------------------------------


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
        raise OptionError(f"no data: {text!r} is not a number") from None
