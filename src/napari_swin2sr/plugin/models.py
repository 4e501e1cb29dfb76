"""The models that the widget offers: what is known without loading them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_swin2sr.plugin.settings import own_models
from napari_swin2sr.weights.config import Swin2SRConfig


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A line of the model list.

    Attributes
    ----------
    name : what `UpscaleOptions.model` takes
    label : what people read in the list
    about : purpose, size, licence, and whether it is on this machine
    downloaded : whether it is on this machine
    config : hyper-parameters, None if only loading can tell
    n_parameters : numbers that it has learned; 0 if not known
    """

    name: str
    label: str
    about: str
    downloaded: bool = True
    config: Swin2SRConfig | None = None
    n_parameters: int = 0


def model_choices() -> list[ModelChoice]:
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
                about=f"For {info.purpose}. {size}{info.licence}, {place}.",
                downloaded=info.downloaded,
                config=info.config,
                n_parameters=info.n_parameters,
            )
        )
    return choices + [_own(path) for path in own_models()]


def _own(path: Path) -> ModelChoice:
    config = None
    if path.is_dir():
        try:
            config = Swin2SRConfig.from_pretrained(path)
        except Exception:  # the list must open; choosing it tells what is wrong
            config = None
    factor = "" if config is None else f"  ({_factor(config.upscale)})"
    return ModelChoice(
        name=str(path),
        label=f"{path.name}{factor}",
        about=f"Own model: {path}",
        config=config,
    )


def _factor(upscale: int) -> str:
    return "same size" if upscale == 1 else f"x{upscale}"
