"""Models by name: the embedded default, published ones, folders and files.

No torch here: what can be known without loading weights is known at once.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.model.config import CONFIG_NAME, Swin2SRConfig
from napari_swin2sr.weights.download import (
    MissingFromHub,
    fetch_hub,
    fetch_url,
    file_sha256,
    find_in_hub_cache,
)
from napari_swin2sr.weights.infer import infer_config, stated_config
from napari_swin2sr.weights.safety import (
    WEIGHTS_NAMES,
    find_weights,
    read_weights_file,
)
from napari_swin2sr.weights.state_dict import count_parameters

if TYPE_CHECKING:
    from os import PathLike

    from napari_swin2sr.weights.download import Progress

_EMBEDDED = Path(__file__).parents[1] / "embedded" / "default"

_EMBEDDED_CLEAN = Path(__file__).parents[1] / "embedded" / "default-clean"

_RELEASE = "https://github.com/mv-lab/swin2sr/releases/download/v0.0.1/"

_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96})(@(?P<revision>[\w./-]+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a named model before it is loaded.

    Attributes
    ----------
    name : what `resolve_model`, the command line and the widget take
    purpose : the images it was trained for
    upscale : output pixels per input pixel and side
    window_size : side of the attention windows [input px]
    num_channels : 3 (RGB, and grey in one pass) or 1 (grey only)
    n_parameters : how many numbers it has learned
    n_bytes : size of the file [bytes]; None where not published
    licence : of the weights (SPDX)
    source : repository of the hub, URL, or "embedded"
    revision : commit, tag, or "" for the embedded one
    sha256 : hash of the file; None if its publishers do not tell
    downloaded : whether it is on this machine
    config : its hyper-parameters
    """

    name: str
    purpose: str
    upscale: int
    window_size: int
    num_channels: int
    n_parameters: int
    n_bytes: int | None
    licence: str
    source: str
    revision: str
    sha256: str | None
    downloaded: bool
    config: Swin2SRConfig | None


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that is on this machine.

    Attributes
    ----------
    name : its name, or the path it was given by
    path : its weights file
    config : its hyper-parameters; None if only loading the weights can tell
    sha256 : hash of the weights file
    """

    name: str
    path: Path
    config: Swin2SRConfig | None
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """Where the weights of a named model are, and what is known of them."""

    purpose: str
    config: Swin2SRConfig
    source: str
    filename: str
    revision: str = ""
    sha256: str | None = None
    n_bytes: int | None = None
    licence: str = "Apache-2.0"
    folder: Path | None = None

    @property
    def is_url(self) -> bool:
        """Tell a URL from a repository of the hub."""
        return "://" in self.source

    def find(self) -> Path | None:
        """Return the file if it is on this machine."""
        if self.is_url:
            path = cache_folder() / self.filename
            return path if path.exists() else None
        if self.source == "embedded":
            return (self.folder or _EMBEDDED) / self.filename
        return find_in_hub_cache(self.source, self.filename, self.revision)

    def fetch(self, progress: Progress | None) -> Path:
        """Return the file, downloaded if needed, and compared with its known hash."""
        if self.is_url:
            return fetch_url(
                self.source,
                cache_folder() / self.filename,
                sha256=self.sha256,
                progress=progress,
            )
        if self.source == "embedded":
            path = (self.folder or _EMBEDDED) / self.filename
            return read_weights_file(path, sha256=self.sha256).path
        return fetch_hub(
            self.source,
            self.filename,
            self.revision,
            sha256=self.sha256,
            progress=progress,
        )


DEFAULT_SHA256 = "a233bf04c4a07374446850263321dc1e1d50b258196d99c429841b8d743e4a66"
"""Hash of the embedded weights: to be changed with them."""

CLEAN_SHA256 = "0bd10921561a24095e8a9cea37cab030c806cb949c8dcbd5e867c267ad7d7bec"
"""Hash of the embedded weights for clean images."""

_DOWNLOADABLE = {
    "lightweight-x2": _Published(
        purpose="clean photographs, small network",
        config=Swin2SRConfig(
            embed_dim=60,
            depths=(6,) * 4,
            num_heads=(6,) * 4,
            upsampler="pixelshuffledirect",
        ),
        source="caidas/swin2SR-lightweight-x2-64",
        filename="pytorch_model.bin",
        revision="54e8c9c99a28e2ef06073a869eb5d387e72d6527",
        sha256="9784753b51c4b93b87d53088b862c1961b04eaa69460463bed170d5c444b3d0b",
        n_bytes=4_175_069,
    ),
    "classical-x2": _Published(
        purpose="clean photographs",
        config=Swin2SRConfig(),
        source="caidas/swin2SR-classical-sr-x2-64",
        filename="model.safetensors",
        revision="cee1c923c6a37361c6e5650b65dcf4be821e5d52",
        sha256="a515955815ab6dba3a9331d8c75db13a5166a5ffbcebf1a95ab676a5656ac4fb",
        n_bytes=48_460_660,
    ),
    "classical-x4": _Published(
        purpose="clean photographs",
        config=Swin2SRConfig(upscale=4),
        source="caidas/swin2SR-classical-sr-x4-64",
        filename="model.safetensors",
        revision="c69ef3e2d2ac5777ff4a9f2f5afcd86d20604b7e",
        sha256="e4e0680f28b663d62a64a3e1884336d0bac5b215da7903c618f41f58f4cc0ff4",
        n_bytes=49_051_724,
    ),
    "realworld-x4": _Published(
        purpose="photographs with blur, noise and compression of unknown kind",
        config=Swin2SRConfig(upscale=4, upsampler="nearest+conv"),
        source="caidas/swin2SR-realworld-sr-x4-64-bsrgan-psnr",
        filename="pytorch_model.bin",
        revision="bb13f02e45e88d00b6c202b3fbe6a181af144606",
        sha256="4a5f52a20932085557ed115f87c0ee8385e12f2719108c0dfd38c64aedea4710",
        n_bytes=48_460_141,
    ),
    "compressed-x4": _Published(
        purpose="photographs with JPEG compression",
        config=Swin2SRConfig(image_size=48, upscale=4, upsampler="pixelshuffle_aux"),
        source="caidas/swin2SR-compressed-sr-x4-48",
        filename="pytorch_model.bin",
        revision="42173a8ee985b7696de7ac57836d39550683e903",
        sha256="ca5ac4416235d19021277c7388eaf3ce2479128e7f5497c62d24c6d46e015012",
    ),
    "jpeg-dynamic": _Published(
        purpose="removes JPEG artefacts of any quality from grey images, same size",
        config=Swin2SRConfig(
            image_size=126,
            num_channels=1,
            window_size=7,
            upscale=1,
            img_range=255.0,
            upsampler="",
        ),
        source=_RELEASE + "Swin2SR_Jpeg_dynamic.pth",
        filename="Swin2SR_Jpeg_dynamic.pth",
        revision="v0.0.1",
    ),
}


@functools.cache
def _models() -> dict[str, _Published]:
    """Return all models that have a name; what embedded ones are, their files tell."""
    embedded = _Published(
        purpose="grey and colour images with noise: microscopy, histology, satellite, "
        "photographs; small and fast, part of this package",
        config=Swin2SRConfig.from_pretrained(_EMBEDDED),
        source="embedded",
        filename=WEIGHTS_NAMES[0],
        sha256=DEFAULT_SHA256,
        n_bytes=(_EMBEDDED / WEIGHTS_NAMES[0]).stat().st_size,
        licence="BSD-3-Clause",
    )
    clean = _Published(
        purpose="clean images only (it amplifies noise): photographs, microscopy, "
        "satellite; small and fast, part of this package",
        config=Swin2SRConfig.from_pretrained(_EMBEDDED_CLEAN),
        source="embedded",
        filename=WEIGHTS_NAMES[0],
        sha256=CLEAN_SHA256,
        n_bytes=(_EMBEDDED_CLEAN / WEIGHTS_NAMES[0]).stat().st_size,
        licence="BSD-3-Clause",
        folder=_EMBEDDED_CLEAN,
    )
    return {"default": embedded, "default-clean": clean, **_DOWNLOADABLE}


def list_models() -> list[ModelInfo]:
    """Describe every model that has a name; nothing is downloaded or loaded."""
    return [
        ModelInfo(
            name=name,
            purpose=known.purpose,
            upscale=known.config.upscale,
            window_size=known.config.window_size,
            num_channels=known.config.num_channels,
            n_parameters=count_parameters(known.config),
            n_bytes=known.n_bytes,
            licence=known.licence,
            source=known.source,
            revision=known.revision,
            sha256=known.sha256,
            downloaded=known.find() is not None,
            config=known.config,
        )
        for name, known in _models().items()
    ]


def resolve_model(
    name_or_path: str | PathLike[str], *, progress: Progress | None = None
) -> ResolvedModel:
    """Find a model, and download it if it is not on this machine.

    Parameters
    ----------
    name_or_path : a name of `list_models`, a model folder, a weights file, or a
        repository of the hub as `owner/name` or `owner/name@revision`
    progress : called with the bytes that are here and those in total, during a
        download; without it, a bar is shown if standard error is a terminal

    Raises
    ------
    WeightsError
        If there is no such model, it cannot be downloaded, or its file is damaged.
    """
    name = str(name_or_path)
    known = _models().get(name)
    if known is not None:
        path = known.fetch(progress)
        sha256 = known.sha256 or file_sha256(path)
        return ResolvedModel(name, path, known.config, sha256)
    path = Path(name).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = True  # a loop of links, say: opening it will tell
    if exists or path.is_symlink():
        path = Path(os.path.abspath(path))  # noqa: PTH100  (without "..", links kept)
        return _resolve_path(path, str(path))
    match = _HUB_ID.fullmatch(name)
    if match is not None and path.suffix not in {".safetensors", ".pth", ".pt", ".bin"}:
        revision = match["revision"] or "main"
        return _resolve_path(_fetch_repository(match["repo"], revision, progress), name)
    raise _unknown(name)


def cache_folder() -> Path:
    """Return where files that are not from the hub are kept; it may not exist yet."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "napari-swin2sr" / "weights" / "v0.0.1"


def _resolve_path(path: Path, name: str) -> ResolvedModel:
    """Check a folder or file, and tell its configuration as far as that is stated."""
    file = read_weights_file(find_weights(path))
    config = stated_config(file, in_folder=file.path != path)
    if config is None and file.header is not None:
        inferred = infer_config(file.header.shapes, file.path)
        config = inferred.config if inferred.window_known else None
    return ResolvedModel(name, file.path, config, file.sha256)


def _fetch_repository(repo: str, revision: str, progress: Progress | None) -> Path:
    """Download configuration and weights of a repository; return the weights."""
    try:
        fetch_hub(repo, CONFIG_NAME, revision, progress=progress)
        return fetch_hub(repo, WEIGHTS_NAMES[0], revision, progress=progress)
    except MissingFromHub:
        return fetch_hub(repo, WEIGHTS_NAMES[1], revision, progress=progress)


def _unknown(name: str) -> WeightsError:
    near = difflib.get_close_matches(name, _models(), n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return WeightsError(
        name,
        "there is no model, folder or file of this name",
        f"{guess}Names are {', '.join(_models())}; or give a folder, a file, or a "
        "repository of the hub as owner/name.",
    )
