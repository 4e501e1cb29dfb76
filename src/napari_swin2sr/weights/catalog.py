"""Models by name: the embedded default, published ones, folders and files.

No torch here: what can be known without loading weights is known at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_swin2sr.weights.config import Swin2SRConfig, stated_config
from napari_swin2sr.weights.download import PLAIN, HubOptions, file_sha256
from napari_swin2sr.weights.error_head import ErrorHeadFile, find_error_head
from napari_swin2sr.weights.registry import (
    check_named,
    fetch_repository,
    published_models,
    split_hub_name,
    unknown_model,
)
from napari_swin2sr.weights.safety import find_weights, read_weights_file
from napari_swin2sr.weights.state_dict import count_parameters, infer_config

if TYPE_CHECKING:
    from os import PathLike

    from napari_swin2sr.weights.download import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a named model before it is loaded.

    Attributes
    ----------
    name : str
        What `load_model`, the command line and the widget take.
    purpose : str
        The images it was trained for.
    upscale : int
        Output pixels per input pixel and side.
    window_size : int
        Side of the attention windows [input px].
    num_channels : int
        3 (RGB, and gray in one pass) or 1 (gray only).
    n_parameters : int
        Number of parameters.
    n_bytes : int or None
        Size of the file [bytes]; None where not published.
    license : str
        License of the weights (SPDX).
    source : str
        Repository of the hub, URL, or "embedded".
    revision : str
        Commit, tag, or "" for embedded ones.
    sha256 : str or None
        Hash of the file; None if its publishers do not tell.
    downloaded : bool
        Whether it is on this machine.
    config : Swin2SRConfig or None
        Its hyper-parameters.
    """

    name: str
    purpose: str
    upscale: int
    window_size: int
    num_channels: int
    n_parameters: int
    n_bytes: int | None
    license: str
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
    name : str
        Its name, or the path it was given by.
    path : Path
        Its weights file.
    config : Swin2SRConfig or None
        Its hyper-parameters; None if only loading the weights can tell.
    sha256 : str
        Hash of the weights file.
    error_head : ErrorHeadFile or None
        What makes its error bars; None if it has none, or one of other weights.
    """

    name: str
    path: Path
    config: Swin2SRConfig | None
    sha256: str
    error_head: ErrorHeadFile | None = None


def list_models() -> list[ModelInfo]:
    """Describe every model that has a name; nothing is downloaded or loaded.

    Returns
    -------
    list of ModelInfo
        The embedded ones first.
    """
    return [
        ModelInfo(
            name=name,
            purpose=known.purpose,
            upscale=config.upscale,
            window_size=config.window_size,
            num_channels=config.num_channels,
            n_parameters=count_parameters(config),
            n_bytes=known.n_bytes,
            license=known.license,
            source=known.source,
            revision=known.revision,
            sha256=known.sha256,
            downloaded=known.find() is not None,
            config=config,
        )
        for name, known in published_models().items()
        for config in (Swin2SRConfig.from_dict(known.values),)
    ]


def resolve_model(
    name_or_path: str | PathLike[str],
    *,
    progress: Progress | None = None,
    hub: HubOptions = PLAIN,
) -> ResolvedModel:
    """Find a model, and download it if it is not on this machine.

    Parameters
    ----------
    name_or_path : str or PathLike
        A name of `list_models`, a model folder, a weights file, or a repository of
        the hub as `owner/name` or `owner/name@revision`.
    progress : callable, optional
        Called with the bytes that are here and those in total (or None), during a
        download; without it, a bar is shown if standard error is a terminal.
    hub : HubOptions, optional
        Revision, cache and the like, for repositories of the hub.

    Returns
    -------
    ResolvedModel
        Where it is, and what is known of it.

    Raises
    ------
    WeightsError
        If there is no such model, it cannot be downloaded, or its file is damaged.
    """
    name = str(name_or_path)
    known = published_models().get(name)
    if known is not None:
        check_named(name, known, hub)
        path = known.fetch(progress, hub)
        sha256 = known.sha256 or file_sha256(path)
        config = Swin2SRConfig.from_dict(known.values)
        head = find_error_head(path, sha256)
        return ResolvedModel(name, path, config, sha256, head)
    path = Path(name).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = True  # a loop of links, say: opening it will tell
    if exists or path.is_symlink():
        path = Path(os.path.abspath(path))  # noqa: PTH100  (without "..", links kept)
        return _resolve_path(path / hub.subfolder, str(path))
    repository = split_hub_name(name)
    if repository is not None:
        return _resolve_path(fetch_repository(repository, progress, hub), name)
    raise unknown_model(name)


def _resolve_path(path: Path, name: str) -> ResolvedModel:
    """Check a folder or file, and tell its configuration as far as that is stated."""
    file = read_weights_file(find_weights(path))
    config = stated_config(file, in_folder=file.path != path)
    if config is None and file.header is not None:
        inferred = infer_config(file.header.shapes, file.path)
        config = inferred.config if inferred.window_known else None
    head = find_error_head(file.path, file.sha256)
    return ResolvedModel(name, file.path, config, file.sha256, head)
