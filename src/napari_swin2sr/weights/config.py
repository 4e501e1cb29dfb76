"""The hyper-parameters of a network, as published checkpoints write them.

No torch here: the geometry of a run (window, upscale factor, halo) is known before
any weight is read.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from napari_swin2sr.errors import OptionError, WeightsError
from napari_swin2sr.options import DEFAULT_HALO
from napari_swin2sr.replace import write_bytes
from napari_swin2sr.weights.download import PLAIN
from napari_swin2sr.weights.registry import CONFIG_NAME, fetch_config, read_json
from napari_swin2sr.weights.safety import WEIGHTS_NAMES, load_json, printable
from napari_swin2sr.weights.upload import Uploadable

if TYPE_CHECKING:
    from os import PathLike

    from napari_swin2sr.options import Halo
    from napari_swin2sr.weights.safety import WeightsFile

UPSAMPLERS = (
    "pixelshuffle",
    "pixelshuffle_aux",
    "pixelshuffledirect",
    "nearest+conv",
    "",
)
"""Reconstruction heads, named as in the checkpoints; `""` keeps the size."""

RESI_CONNECTIONS = ("1conv", "3conv")
"""The convolution before each residual connection."""

ANOTHER_MODEL = "Give the weights of a Swin2SR network: see `napari-swin2sr models`."
"""Advice for files that hold something else."""

METADATA_CONFIG = "config"
"""Metadata entry of a safetensors file with its configuration, as JSON."""

_MAX_WINDOW = 32
_MAX_LAYERS = 1000

_LIMIT = 65536
"""No hyper-parameter of a real network is larger; a damaged file may say anything."""

_RESULT = {
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}
"""What a forward gives if neither it nor the configuration is told otherwise."""

_ALIASES = {"hidden_size": "embed_dim", "num_attention_heads": "num_heads"}
"""Other names of fields in transformers."""

_WRITTEN = {
    "architectures": ["Swin2SRForImageSuperResolution"],
    "model_type": "swin2sr",
}


@dataclass(kw_only=True, unsafe_hash=True)
class Swin2SRConfig(Uploadable):
    """Hyper-parameters of a Swin2SR network; validated when it is made.

    The fields and defaults are those of the configuration of the same name in
    transformers. `hidden_dropout_prob`, `attention_probs_dropout_prob` and
    `drop_path_rate` are kept for the round trip only: this network has no dropout.

    Other keywords and attributes, such as `num_labels`, are kept in `extra` and written
    back. A field may be assigned until a network is made: networks keep a copy, whose
    fields no longer change.

    Parameters
    ----------
    image_size : int or tuple of int, optional
        Side of the training crops; only tells whether windows are shifted.
    patch_size : int or tuple of int, optional
        Always 1.
    num_channels, num_channels_out : int, optional
        Channels of the input and of the result; by default as many go out as in.
    embed_dim : int, optional
        Width of the transformer.
    depths, num_heads : sequence of int, optional
        Transformer layers and attention heads of each stage.
    window_size : int, optional
        Side of the attention window [input px].
    mlp_ratio : float, optional
        Width of the hidden layer of each MLP, as a multiple of `embed_dim`.
    qkv_bias : bool, optional
        Whether queries and values have a bias.
    hidden_dropout_prob, attention_probs_dropout_prob, drop_path_rate : float, optional
        Between 0 and 1, unused.
    hidden_act : str, optional
        Always `"gelu"`.
    use_absolute_embeddings : bool, optional
        Always False.
    initializer_range : float, optional
        Standard deviation of untrained weights.
    layer_norm_eps : float, optional
        Added to the variance in the layer normalizations.
    upscale : int, optional
        Factor between the sides of input and result: 2, or 1 without an upsampler.
    img_range : float, optional
        The network works on pixel values (0 to 1) times this number.
    resi_connection : {"1conv", "3conv"}, optional
        The convolution before each residual connection.
    upsampler : str, optional
        The reconstruction head, one of `UPSAMPLERS`.
    extra : Mapping, optional
        What else a configuration file says; written back as it was.

    Raises
    ------
    OptionError
        If a value is not allowed, or two do not fit together.
    """

    model_type: ClassVar[str] = "swin2sr"

    image_size: int | tuple[int, int] = 64
    patch_size: int | tuple[int, int] = 1
    num_channels: int = 3
    num_channels_out: int = None  # type: ignore[assignment]  # as many as go in
    embed_dim: int = 180
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    num_heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    window_size: int = 8
    mlp_ratio: float = 2.0
    qkv_bias: bool = True
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.1
    hidden_act: str = "gelu"
    use_absolute_embeddings: bool = False
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    upscale: int = 2
    img_range: float = 1.0
    resi_connection: str = "1conv"
    upsampler: str = "pixelshuffle"
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    if not TYPE_CHECKING:  # type checkers see the fields, and find misspelled ones

        def __init__(self, **values: Any) -> None:
            """Take fields, their other names in transformers, and anything else."""
            extra = dict(values.pop("extra", {}))
            if values.get("upsampler", "pixelshuffle") in ("", None):
                values.setdefault("upscale", 1)  # nothing would enlarge
            for name, field_name in _ALIASES.items():
                if name in values:
                    values.setdefault(field_name, values.pop(name))
            for f in dataclasses.fields(type(self)):
                default = extra if f.name == "extra" else f.default
                object.__setattr__(self, f.name, values.pop(f.name, default))
            for name in ("num_layers", "num_hidden_layers"):  # the number of stages
                values.pop(name, None)
            _check_names(values)
            extra |= values
            self._check()

    def _check(self) -> None:
        """Bring values to one form and refuse what no network could have."""
        given: dict[str, Any] = dict(vars(self))  # as in a file, whatever the types
        if given["num_channels_out"] is None:
            object.__setattr__(self, "num_channels_out", self.num_channels)
        if given["upsampler"] is None:
            object.__setattr__(self, "upsampler", "")
        for name in ("image_size", "patch_size", "depths", "num_heads"):
            if isinstance(given[name], list):
                object.__setattr__(self, name, tuple(given[name]))
        _check_numbers(self)
        for name in _POSITIVE + _SHARES:  # transformers insists on float
            object.__setattr__(self, name, float(getattr(self, name)))
        _check_sizes(self)
        _check_stages(self)
        _check_head(self)
        _check_unsupported(self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Change a field, checked together with the others, or add to `extra`."""
        name = _ALIASES.get(name, name)
        if name not in {f.name for f in _fields(self)}:
            if hasattr(type(self), name):
                raise OptionError(f"{name} follows from other fields; set those")
            self.extra = {**self.extra, name: value}
            return
        if name != "extra" and self.__dict__.get("_sealed"):
            raise OptionError(
                f"{name}={_shown(value)}: a network has been made from this "
                "configuration; make a new one, with dataclasses.replace"
            )
        changed = dataclasses.replace(self, **{name: value})
        vars(self).update({f.name: getattr(changed, f.name) for f in _fields(self)})

    def __getattr__(self, name: str) -> Any:
        """Give what else the configuration says."""
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        if name in _RESULT:
            return _RESULT[name]
        raise AttributeError(f"a Swin2SRConfig has no attribute {name!r}")

    def sealed(self) -> Swin2SRConfig:
        """Return a copy whose fields cannot change, for a network made from it."""
        if self.__dict__.get("_sealed"):
            return self
        copy = dataclasses.replace(self)
        copy.__dict__["_sealed"] = True
        return copy

    # -- facts that follow from the fields -------------------------------------------

    @property
    def attention_window(self) -> int:
        """Side of the window that the layers use: at most the training crop's."""
        return min(self.window_size, *_pair(self.image_size))

    @property
    def shift_size(self) -> int:
        """Shift of every second layer; 0 if training crops held a single window."""
        if min(_pair(self.image_size)) <= self.window_size:
            return 0
        return self.window_size // 2

    @property
    def mlp_dim(self) -> int:
        """Width of the hidden layer of each MLP."""
        return int(self.mlp_ratio * self.embed_dim)

    @property
    def num_layers(self) -> int:
        """Number of stages, under the name that transformers gives it."""
        return len(self.depths)

    num_hidden_layers = num_layers

    @property
    def hidden_size(self) -> int:
        """`embed_dim`, under another of its names in transformers."""
        return self.embed_dim

    @property
    def num_attention_heads(self) -> tuple[int, ...]:
        """`num_heads`, under another of its names in transformers."""
        return self.num_heads

    @property
    def exact_halo(self) -> int:
        """Context after which no pixel farther away can matter [input px per side].

        The smallest multiple of the window that covers the receptive field of a
        tile whose sides lie on the window grid.
        """
        return _round_up(max(_reach(self, side) for side in (-1, 1)), self.window_size)

    @property
    def head_reach(self) -> int:
        """Reach of the head [input px]; an enlarged pixel lies in an input pixel."""
        if self.upsampler in ("", "pixelshuffledirect"):
            return 1
        return 5 if self.upsampler == "pixelshuffle_aux" else 3

    @property
    def residual_reach(self) -> int:
        """Reach of the convolutions before a residual connection [input px]."""
        return 2 if self.resi_connection == "3conv" else 1

    def halo(self, halo: Halo = None) -> int:
        """Return the context to read around a tile.

        Parameters
        ----------
        halo : int, "exact" or None, optional
            Input pixels per side, a multiple of the window; None for the default.

        Returns
        -------
        int
            Input pixels per side.

        Raises
        ------
        OptionError
            If it is a number that is negative or no multiple of the window.

        Examples
        --------
        >>> config = Swin2SRConfig(embed_dim=60, depths=[6] * 4, num_heads=[6] * 4)
        >>> config.halo(), config.halo("exact")
        (48, 112)
        """
        if halo is None:
            return min(_round_up(DEFAULT_HALO, self.window_size), self.exact_halo)
        if halo == "exact":
            return self.exact_halo
        if isinstance(halo, bool) or not isinstance(halo, int) or halo < 0:
            raise OptionError(
                f"halo={halo!r} is not a number of input pixels >= 0, 'exact' or None"
            )
        if halo % self.window_size:
            above = _round_up(halo, self.window_size)
            raise OptionError(
                f"halo={halo} is no multiple of the model's window "
                f"({self.window_size} px); use {above}"
            )
        return halo

    # -- files -----------------------------------------------------------------------

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Swin2SRConfig:
        """Make a configuration from the content of a `config.json`.

        Keys that are no fields are kept in `extra`.
        """
        if not isinstance(values, Mapping):
            raise OptionError(
                "a configuration is a mapping of names to values, "
                f"not {type(values).__name__}"
            )
        kind = values.get("model_type", "swin2sr")
        if kind != "swin2sr":
            raise OptionError(f"model_type={_shown(kind)} is not 'swin2sr'")
        _check_names(values)
        return cls(**{k: v for k, v in values.items() if k not in _WRITTEN})

    def to_dict(self) -> dict[str, Any]:
        """Return what `config.json` holds; transformers reads it too."""
        fields = [f.name for f in dataclasses.fields(self) if f.name != "extra"]
        values = {name: getattr(self, name) for name in fields}
        values |= {k: list(v) for k, v in values.items() if isinstance(v, tuple)}
        merged = {**self.extra, **_WRITTEN, **values, "num_layers": self.num_layers}
        return dict(sorted(merged.items()))

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike[str], **options: Any
    ) -> Swin2SRConfig:
        """Read the configuration of a model folder, a `config.json`, or a named model.

        Parameters
        ----------
        name_or_path : str or PathLike
            A model folder, a file in one, or a name (of a named model, only the
            configuration is downloaded).
        **options
            `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only` and
            `force_download`, for the hub; all others replace values of the file.

        Returns
        -------
        Swin2SRConfig
            What it describes.

        Raises
        ------
        WeightsError
            If there is none, or it does not describe a Swin2SR network.
        """
        hub = PLAIN.take_from(options)
        if options.pop("trust_remote_code", None):
            raise OptionError("trust_remote_code=True is not possible here")
        path = Path(name_or_path)
        if not path.exists():
            name = str(name_or_path)
            config = _parse(fetch_config(name, hub), name)
        else:
            if path.is_dir():
                path = path / hub.subfolder / CONFIG_NAME
            elif path.suffix != ".json":
                path = path.parent / CONFIG_NAME
            config = _parse(read_json(path), path)
        return cls.from_dict(config.to_dict() | options) if options else config

    @classmethod
    def from_json_file(cls, path: str | PathLike[str]) -> Swin2SRConfig:
        """Make a configuration from a `config.json`; see `from_pretrained`."""
        return _parse(read_json(Path(path)), path)

    def update(self, values: Mapping[str, Any]) -> None:
        """Assign several attributes, checked together."""
        changed = type(self).from_dict({**self.to_dict(), **values})
        for name, value in values.items():
            if getattr(self, name, None) != getattr(changed, name):
                setattr(self, name, value)

    def to_json_string(self) -> str:
        """Return the text of `config.json`."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_json_file(self, path: str | PathLike[str]) -> None:
        """Write the text of `config.json` to a file."""
        write_bytes(Path(path), self.to_json_string().encode())

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write `config.json` into a folder, made if needed; return the file."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        file = target / CONFIG_NAME
        self.to_json_file(file)
        return file


_NAMES = {f.name for f in dataclasses.fields(Swin2SRConfig)} | {
    *_ALIASES,
    "num_layers",
    "num_hidden_layers",
}


# -- with weights --------------------------------------------------------------------


def stated_config(file: WeightsFile, *, in_folder: bool) -> Swin2SRConfig | None:
    """Return the configuration that comes with a weights file, if any does.

    `in_folder`: the folder was given, not the file, so that its `config.json` counts
    whatever the file is called; else only beside a file with a hub name.
    """
    beside = file.path.parent / CONFIG_NAME
    if (in_folder or file.path.name in WEIGHTS_NAMES) and beside.exists():
        return check_plausible(Swin2SRConfig.from_pretrained(beside), beside)
    text = file.header.metadata.get(METADATA_CONFIG) if file.header else None
    if text is None:
        return None
    try:
        return check_plausible(Swin2SRConfig.from_dict(load_json(text)), file.path)
    except ValueError as error:
        reason = f"its metadata holds no valid configuration ({error})"
        raise WeightsError(file.path, reason, ANOTHER_MODEL) from None


def check_plausible(
    config: Swin2SRConfig, source: str | PathLike[str]
) -> Swin2SRConfig:
    """Refuse networks whose tables alone would fill the memory."""
    layers, window = sum(config.depths), config.window_size
    if layers > _MAX_LAYERS or window > _MAX_WINDOW:
        reason = (
            f"it claims {layers} layers and a window of {window}; no Swin2SR network "
            f"has more than {_MAX_LAYERS} and {_MAX_WINDOW}"
        )
        raise WeightsError(source, reason, ANOTHER_MODEL)
    return config


def _parse(values: Mapping[str, Any], source: str | PathLike[str]) -> Swin2SRConfig:
    """Make a configuration from a file's content; errors name the file."""
    try:
        return Swin2SRConfig.from_dict(values)
    except OptionError as error:
        advice = f"Give a folder with the model's own {CONFIG_NAME}."
        raise WeightsError(source, str(error), advice) from error


# -- validation ----------------------------------------------------------------------

_COUNTS = ("num_channels", "num_channels_out", "embed_dim", "window_size", "upscale")
_POSITIVE = ("mlp_ratio", "img_range", "layer_norm_eps", "initializer_range")
_SHARES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")


def _fields(config: Swin2SRConfig) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(config)


def _check_names(values: Mapping[str, Any]) -> None:
    """Refuse names that are no words, or a field's name misspelled."""
    for name in values:
        if not isinstance(name, str):
            raise OptionError(f"{_shown(name)} is not the name of a hyper-parameter")
        near = difflib.get_close_matches(name[:40], _NAMES, n=1, cutoff=0.9)
        if near and name not in _NAMES:
            raise OptionError(f"{name} is no hyper-parameter; did you mean {near[0]}?")


def _check_numbers(config: Swin2SRConfig) -> None:
    for name in _COUNTS:
        _check_count(name, getattr(config, name))
    for name in _POSITIVE:
        value = getattr(config, name)
        if not _is_number(value) or not 0 < value <= _LIMIT:
            raise OptionError(
                f"{name}={_shown(value)} is not a number above 0, to {_LIMIT}"
            )
    for name in _SHARES:
        value = getattr(config, name)
        if not _is_number(value) or not 0 <= value <= 1:
            raise OptionError(f"{name}={_shown(value)} is not a number from 0 to 1")


def _check_sizes(config: Swin2SRConfig) -> None:
    for side in _pair(config.image_size):
        _check_count("image_size", side)
    if config.mlp_dim < 1:
        raise OptionError(f"mlp_ratio={config.mlp_ratio!r} leaves no hidden layer")
    if config.window_size % config.attention_window:
        raise OptionError(
            f"image_size={config.image_size!r} is smaller than "
            f"window_size={config.window_size} and does not divide it"
        )


def _check_stages(config: Swin2SRConfig) -> None:
    for name in ("depths", "num_heads"):
        value = getattr(config, name)
        if not isinstance(value, tuple) or not value:
            raise OptionError(
                f"{name}={_shown(value)} is not a list with a number per stage"
            )
        for number in value:
            _check_count(name, number)
    if len(config.depths) != len(config.num_heads):
        raise OptionError(
            f"depths={config.depths} and num_heads={config.num_heads} differ in length"
        )
    for heads in config.num_heads:
        if config.embed_dim % heads:
            raise OptionError(
                f"embed_dim={config.embed_dim} is no multiple of num_heads={heads}"
            )
    if config.resi_connection not in RESI_CONNECTIONS:
        raise OptionError(
            f"resi_connection={_shown(config.resi_connection)} is not one of "
            f"{', '.join(RESI_CONNECTIONS)}"
        )
    if config.resi_connection == "3conv" and config.embed_dim < 4:
        raise OptionError(f"3conv needs embed_dim >= 4, not {config.embed_dim}")


def _check_head(config: Swin2SRConfig) -> None:
    upsampler, upscale = config.upsampler, config.upscale
    if upsampler not in UPSAMPLERS:
        raise OptionError(
            f"upsampler={_shown(upsampler)} is not one of "
            f"{', '.join(map(repr, UPSAMPLERS))}"
        )
    power_of_two = upscale & (upscale - 1) == 0
    if upsampler in ("pixelshuffle", "pixelshuffle_aux") and not (
        upscale == 3 or power_of_two
    ):
        raise OptionError(
            f"upscale={upscale}: {upsampler} enlarges by 2, 4, 8, ... or 3"
        )
    if upsampler == "nearest+conv" and upscale != 4:
        raise OptionError(f"upscale={upscale}: nearest+conv enlarges by 4 only")
    if upsampler == "" and upscale != 1:
        raise OptionError(
            f"upscale={upscale}: restoration (upsampler '') needs upscale=1"
        )
    if upsampler == "" and config.num_channels != config.num_channels_out:
        raise OptionError(
            f"restoration adds to its input: num_channels={config.num_channels} and "
            f"num_channels_out={config.num_channels_out} must be the same"
        )
    if upsampler == "pixelshuffle_aux" and config.num_channels != 3:
        raise OptionError(
            f"num_channels={config.num_channels}: pixelshuffle_aux takes 3 channels"
        )


def _check_unsupported(config: Swin2SRConfig) -> None:
    for name in ("qkv_bias", "use_absolute_embeddings"):
        value = getattr(config, name)
        if not isinstance(value, bool):
            raise OptionError(f"{name}={_shown(value)} is not true or false")
    if _pair(config.patch_size) != (1, 1):
        raise OptionError(
            f"patch_size={_shown(config.patch_size)}: only 1 exists for Swin2SR"
        )
    if config.use_absolute_embeddings:
        raise OptionError(
            "use_absolute_embeddings=True ties a network to one image size; "
            "no Swin2SR weights use it"
        )
    if config.hidden_act != "gelu":
        raise OptionError(f"hidden_act={_shown(config.hidden_act)} is not 'gelu'")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LIMIT:
        raise OptionError(
            f"{name}={_shown(value)} is not a whole number from 1 to {_LIMIT}"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(value, tuple):
        return value, value
    if len(value) != 2:
        raise OptionError(f"{_shown(value)} is not one number or a pair")
    return value


def _shown(value: object) -> str:
    """Return a value for a message; a file may hold any, of any length."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"a number of {value.bit_length()} bits"  # too long to print
    return printable(repr(value))


# -- receptive field -----------------------------------------------------------------


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _reach(config: Swin2SRConfig, side: int) -> int:
    """Walk from the result back to the pixels: how far beyond a tile's side they lie.

    The tile's side lies on the window grid, `side` is -1 for top and left, 1 for
    bottom and right. A 3x3 convolution reaches one pixel further, attention to the
    end of the window that holds the outermost pixel.
    """
    window, shift = config.attention_window, config.shift_size
    residual = config.residual_reach
    reach = config.head_reach + residual  # conv_after_body
    for depth in reversed(config.depths):
        reach += residual
        for layer in reversed(range(depth)):
            offset = side * shift if layer % 2 else 0  # of the nearest window border
            reach = _round_up(reach - offset, window) + offset
    return reach + 1  # first_convolution
