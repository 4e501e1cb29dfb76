"""Images in, network input out: channels first, 0 to 1, padded to the window.

Like the image processor of the same name in transformers, but for every window size,
every image size and every integer type, and without torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_swin2sr.errors import InputError, OptionError, WeightsError
from napari_swin2sr.replace import write_bytes
from napari_swin2sr.weights.config import Swin2SRConfig
from napari_swin2sr.weights.download import PLAIN
from napari_swin2sr.weights.registry import CONFIG_NAME, fetch_settings
from napari_swin2sr.weights.safety import load_json
from napari_swin2sr.weights.upload import Uploadable

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

PROCESSOR_NAME = "preprocessor_config.json"
"""File of a model folder that holds the processor's settings."""


class BatchFeature(dict[str, Any]):
    """A dictionary whose values are attributes too, for `model(**inputs)`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def data(self) -> dict[str, Any]:
        """The values by name."""
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move or convert the tensors in place, as in transformers; return self."""
        for name, value in self.items():
            if isinstance(value, list):
                self[name] = [part.to(*args, **kwargs) for part in value]
            elif hasattr(value, "to"):
                self[name] = value.to(*args, **kwargs)
        return self


class Swin2SRImageProcessor(Uploadable):
    """Prepare images for the network.

    Parameters
    ----------
    do_rescale : bool, optional
        Bring values to 0 to 1.
    rescale_factor : float, optional
        What to multiply values by. Integers wider than 8 bits are divided by the
        largest number of their type instead.
    do_pad : bool, optional
        Mirror rows and columns at the bottom and right, as the authors' script does:
        up to the next multiple of `size_divisor`, one more if it is one already.
    size_divisor : int, optional
        The window of the network [px].
    pad_size : int, optional
        Older name of `size_divisor`.

    Raises
    ------
    OptionError
        If `size_divisor` is not a whole number above 0.
    """

    model_input_names = ("pixel_values",)

    def __init__(
        self,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_pad: bool = True,
        size_divisor: int = 8,
        pad_size: int | None = None,
    ) -> None:
        self.do_rescale, self.rescale_factor = do_rescale, rescale_factor
        self.do_pad = do_pad
        self.size_divisor = size_divisor if pad_size is None else pad_size
        divisor = self.size_divisor
        if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
            raise OptionError(f"size_divisor={divisor!r} is not a whole number >= 1")
        factor = rescale_factor
        if isinstance(factor, bool) or not isinstance(factor, (int, float)):
            raise OptionError(f"rescale_factor={factor!r} is not a number")

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """Prepare one image or a list of them: see `preprocess`."""
        return self.preprocess(images, **options)

    def preprocess(
        self,
        images: Any,
        *,
        return_tensors: str | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_pad: bool | None = None,
        size_divisor: int | None = None,
        pad_size: int | None = None,
        data_format: str | None = None,
        input_data_format: str | None = None,
    ) -> BatchFeature:
        """Prepare one image or a list of them.

        Parameters
        ----------
        images : PIL image, ndarray, Tensor or list of them
            (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels, or a batch (N, ...);
            with any number of channels if `input_data_format` says where they are.
        return_tensors : {"pt", "np"}, optional
            Stack the images into one (N, C, H, W), which must have one size; by
            default they stay a list of tensors (C, H, W).
        do_rescale, rescale_factor, do_pad, size_divisor : optional
            Instead of the settings.
        pad_size : int, optional
            Older name of `size_divisor`.
        data_format : {"channels_first"}, optional
            The only layout that the network takes.
        input_data_format : {"channels_first", "channels_last"}, optional
            If both fit.

        Returns
        -------
        BatchFeature
            `pixel_values`, float32.

        Raises
        ------
        InputError
            If an image has another number of channels, or floating-point values
            that seem to be scaled already.
        """
        rescale = self.do_rescale if do_rescale is None else do_rescale
        factor = self.rescale_factor if rescale_factor is None else rescale_factor
        pad = self.do_pad if do_pad is None else do_pad
        size_divisor = pad_size if size_divisor is None else size_divisor
        divisor = self.size_divisor if size_divisor is None else size_divisor
        if data_format not in (None, "channels_first"):
            raise OptionError(
                f"data_format={data_format!r}: the network takes 'channels_first'"
            )
        prepared = []
        for image in _listed(images):
            pillow = hasattr(image, "convert")  # PIL: rows, columns, channels
            layout = "channels_last" if pillow else input_data_format
            x = _channels_first(_as_array(image), layout)
            x = _rescaled(x, factor) if rescale else x.astype(np.float32)
            prepared.append(_padded(x, divisor) if pad else x)
        if return_tensors is None:
            values: Any = [torch.from_numpy(np.ascontiguousarray(x)) for x in prepared]
        elif return_tensors in ("pt", "np"):
            values = _stacked(prepared)
            values = torch.from_numpy(values) if return_tensors == "pt" else values
        else:
            raise OptionError(
                f"return_tensors={return_tensors!r} is not 'pt', 'np' or None"
            )
        return BatchFeature(pixel_values=values)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike[str], **options: Any
    ) -> Swin2SRImageProcessor:
        """Read the settings of a model folder; its window decides the padding.

        Parameters
        ----------
        name_or_path : str or PathLike
            A model folder, a file in one, or the name of a model.
        **options
            Settings instead of those of the folder; `revision`, `subfolder`,
            `cache_dir`, `token`, `local_files_only` and `force_download`, for the hub;
            `use_fast` changes nothing, since there is one implementation.

        Returns
        -------
        Swin2SRImageProcessor
            With the settings of the model.

        Raises
        ------
        WeightsError
            If the folder holds neither `preprocessor_config.json` nor `config.json`.
        """
        hub = PLAIN.take_from(options)
        options.pop("use_fast", None)
        if options.pop("trust_remote_code", None):
            raise OptionError("trust_remote_code=True is not possible here")
        folder = Path(name_or_path)
        if not folder.exists():
            config = Swin2SRConfig.from_pretrained(name_or_path, **asdict(hub))
            found = fetch_settings(str(name_or_path), PROCESSOR_NAME, hub)
            found = {**found, "size_divisor": config.window_size, "pad_size": None}
            return cls.from_dict(found, **options)
        folder = folder / hub.subfolder if folder.is_dir() else folder.parent
        settings: dict[str, Any] = {}
        if (folder / PROCESSOR_NAME).exists():
            settings = _read_settings(folder / PROCESSOR_NAME)
        elif not (folder / CONFIG_NAME).exists():
            raise WeightsError(
                folder,
                f"holds neither {PROCESSOR_NAME} nor {CONFIG_NAME}",
                "Give the folder of a model, or make a Swin2SRImageProcessor().",
            )
        if (folder / CONFIG_NAME).exists():
            window = Swin2SRConfig.from_pretrained(folder).window_size
            settings |= {"size_divisor": window, "pad_size": None}
        return cls.from_dict(settings, **options)

    @classmethod
    def from_dict(
        cls, settings: Mapping[str, Any], **options: Any
    ) -> Swin2SRImageProcessor:
        """Make a processor from what `to_dict` gives, or from a file's content."""
        unknown = set(options) - set(_SETTINGS)
        if unknown:
            raise OptionError(f"an image processor has no setting {min(unknown)!r}")
        found = {name: settings[name] for name in _SETTINGS if name in settings}
        if isinstance(found.get("pad_size"), Mapping):  # a size, in newer files
            del found["pad_size"]
        return cls(**(found | options))

    @classmethod
    def from_json_file(cls, path: str | PathLike[str]) -> Swin2SRImageProcessor:
        """Make a processor from a `preprocessor_config.json`."""
        return cls.from_dict(_read_settings(Path(path)))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as `preprocessor_config.json` holds them."""
        return {
            "do_pad": self.do_pad,
            "do_rescale": self.do_rescale,
            "image_processor_type": type(self).__name__,
            "rescale_factor": self.rescale_factor,
            "size_divisor": self.size_divisor,
        }

    def to_json_string(self) -> str:
        """Return the text of `preprocessor_config.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_json_file(self, path: str | PathLike[str]) -> None:
        """Write the text of `preprocessor_config.json` to a file."""
        write_bytes(Path(path), self.to_json_string().encode())

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write `preprocessor_config.json` into a folder, made if needed."""
        file = Path(folder) / PROCESSOR_NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        self.to_json_file(file)
        return file


Swin2SRImageProcessorPil = Swin2SRImageProcessor
"""The name in transformers of the one that, like ours, does without torchvision."""

_SETTINGS = ("do_rescale", "rescale_factor", "do_pad", "size_divisor", "pad_size")


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        content = load_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(file, f"cannot be read ({error})", "Replace it.") from error
    if not isinstance(content, dict):
        raise WeightsError(file, "is not a mapping of settings", "Replace it.")
    return content


def _listed(images: Any) -> Sequence[Any]:
    """Return the images of a list or a batch one by one."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise InputError("there is no image in the list")
        return images
    if getattr(images, "ndim", 0) == 4:
        return [images[i] for i in range(len(images))]
    return [images]


def _as_array(image: Any) -> NDArray[Any]:
    mode = getattr(image, "mode", None)
    if mode in ("P", "1", "CMYK", "YCbCr", "HSV", "LAB"):
        image = image.convert("L" if mode == "1" else "RGB")
    elif mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        raise InputError(
            f"the image has an alpha channel ({mode}); convert it to RGB first"
        )
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = image.float() if image.dtype == torch.bfloat16 else image
    array = np.asarray(image)
    if array.dtype.kind not in "buif":
        raise InputError(f"images of type {array.dtype} cannot be enlarged")
    return array


def _channels_first(x: NDArray[Any], data_format: str | None) -> NDArray[Any]:
    """Return (C, H, W) with 1 or 3 channels."""
    if x.ndim == 2:
        x = x[None]
    elif x.ndim != 3:
        raise InputError(f"an image has 2 or 3 axes, not shape {x.shape}")
    elif data_format == "channels_last" or (
        data_format is None and x.shape[-1] in (1, 3) and x.shape[0] not in (1, 3)
    ):
        x = np.moveaxis(x, -1, 0)
    elif data_format is None and x.shape[0] in (1, 3) and x.shape[-1] in (1, 3):
        raise InputError(
            f"shape {x.shape} can be channels first or last; say input_data_format"
        )
    elif data_format not in (None, "channels_first"):
        raise OptionError(
            f"input_data_format={data_format!r} is not 'channels_first' or "
            "'channels_last'"
        )
    if (data_format is None and x.shape[0] not in (1, 3)) or 0 in x.shape:
        raise InputError(
            f"shape {x.shape} (channels first) has not 1 or 3 channels; if it is not "
            "meant as alpha, say input_data_format"
        )
    return x


def _rescaled(x: NDArray[Any], factor: float) -> NDArray[np.float32]:
    """Return values from 0 to 1, float32."""
    if x.dtype.kind == "b":
        return x.astype(np.float32)
    if x.dtype.kind in "iu" and x.dtype.itemsize > 1:
        factor = 1 / np.iinfo(x.dtype).max
    elif x.dtype.kind == "f" and 0 < np.max(x, initial=0) <= 1 and factor < 1:
        raise InputError(
            "the values are not above 1 and seem to be scaled already; "
            "pass do_rescale=False"
        )
    return x.astype(np.float32) * np.float32(factor)


def _padded(x: NDArray[np.float32], divisor: int) -> NDArray[np.float32]:
    """Mirror (C, H, W) at the bottom and right to the line after its last window."""
    bottom, right = ((n // divisor + 1) * divisor - n for n in x.shape[-2:])
    return np.pad(x, ((0, 0), (0, bottom), (0, right)), mode="symmetric")


def _stacked(images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    shapes = {x.shape for x in images}
    if len(shapes) > 1:
        raise InputError(
            f"images of different shapes {sorted(shapes)} make no batch; "
            "leave out return_tensors, or give them one by one"
        )
    return np.stack(images)
