"""One function for every format: checks first, then a file that is whole or absent."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING

from napari_swin2sr.errors import OptionError, OutputError
from napari_swin2sr.export.bioimageio import bioimageio_package
from napari_swin2sr.export.onnx import ExportedModel, onnx_file
from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution, load_network
from napari_swin2sr.replace import check_name, check_replaceable, written_beside
from napari_swin2sr.weights.catalog import resolve_model
from napari_swin2sr.weights.registry import published_models

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMATS = {"onnx": ".onnx", "bioimageio": ".zip"}
"""Format -> ending of its files."""


def export_model(
    model: str | os.PathLike[str] | Swin2SRForImageSuperResolution,
    target: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  (the word that xarray and Pillow use)
    gray: bool = False,
    license: str | None = None,  # noqa: A002  (the word of the specification)
    authors: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a model for other programs, checked against the network before it stays.

    Images go in as (N, channels, H, W) float32 from 0 to 1 and come out as
    (N, channels, upscale * H, upscale * W), not clipped. N, H and W are free; H and W
    are multiples of the window. The weights are in the file.

    Parameters
    ----------
    model : str, PathLike or Swin2SRForImageSuperResolution
        A name of `list_models()`, a model folder, a weights file, or a network.
    target : str or PathLike
        The new file, in a folder that exists.
    format : {"onnx", "bioimageio"}, optional
        By default what the ending says: `.onnx`, or `.zip` for a package of
        bioimage.io (format 0.5) that states tile size, step and halo.
    gray : bool, optional
        Take and give one channel: the gray image enters all channels of an RGB
        network, and the results are averaged.
    license : str, optional
        SPDX identifier to write into a package; by default that of a named model.
    authors : sequence of str, optional
        Who made the model, to write into a package; by default those of an embedded
        model.
    overwrite : bool, optional
        Replace a file that exists.

    Returns
    -------
    Path
        The new file.

    Raises
    ------
    OptionError
        If the format is unknown, or neither given nor told by the ending.
    OutputError
        If the target exists, has no folder, or cannot be written.
    WeightsError
        If the model cannot be found, downloaded, read or trusted.
    MissingDependencyError
        If the extra `export` is not installed.
    InferenceError
        If ONNX Runtime gives other numbers than the network.

    Examples
    --------
    >>> from napari_swin2sr import export_model
    >>> export_model("default", "default.onnx")  # doctest: +SKIP
    PosixPath('default.onnx')
    """
    target = Path(target)
    format = _choose_format(target, format)  # noqa: A001
    _check_target(target, overwrite)
    exported = _load(model, gray, license, authors)
    content = onnx_file(exported)
    if format == "bioimageio":
        content = bioimageio_package(exported, content)
    try:
        with written_beside(target, replace=overwrite) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written ({error.strerror or error})"
        ) from error
    return target


def _choose_format(target: Path, given: str | None) -> str:
    if given is None:
        endings = {ending: name for name, ending in FORMATS.items()}
        if target.suffix.lower() in endings:
            return endings[target.suffix.lower()]
        raise OptionError(
            f"{target.name}: the ending is neither .onnx nor .zip (a package of "
            "bioimage.io); use one of them, or give the format"
        )
    if given not in FORMATS:
        raise OptionError(f"format={given!r} is not one of {', '.join(FORMATS)}")
    return given


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuse before the work what would be refused after it."""
    if not target.parent.is_dir():
        raise OutputError(
            f"{target}: the folder {target.parent} does not exist; make it first"
        )
    check_name(target)
    if os.path.lexists(target) and not overwrite:
        raise OutputError(
            f"{target}: exists already; choose another name, or replace it with "
            "--overwrite (overwrite=True)"
        )
    check_replaceable(target, by_file=True)


def _load(
    model: str | os.PathLike[str] | Swin2SRForImageSuperResolution,
    gray: bool,
    license: str | None,  # noqa: A002
    authors: Sequence[str],
) -> ExportedModel:
    if isinstance(model, Swin2SRForImageSuperResolution):
        net = copy.deepcopy(model).cpu().float().eval()  # the given one stays as it is
        return ExportedModel(net, "network", None, gray, license, tuple(authors))
    found = resolve_model(model)
    net = load_network(found.path, found.config, sha256=found.sha256)
    known = published_models().get(str(model))
    if known is not None:
        license = license or known.license  # noqa: A001
        if known.source == "embedded":
            authors = authors or ("The napari-swin2sr developers",)
    name = str(model) if known is not None else Path(found.name).name
    return ExportedModel(net, name, found.sha256, gray, license, tuple(authors))
