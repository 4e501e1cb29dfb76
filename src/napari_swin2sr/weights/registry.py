"""Models that have a name, and repositories of the hub: where their files are."""

from __future__ import annotations

import difflib
import functools
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.errors import OptionError, WeightsError
from napari_swin2sr.weights.download import (
    PLAIN,
    HubOptions,
    MissingFromHub,
    fetch_hub,
    fetch_url,
    find_in_hub_cache,
)
from napari_swin2sr.weights.safety import WEIGHTS_NAMES, load_json, read_weights_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_swin2sr.weights.download import Progress

CONFIG_NAME = "config.json"
"""File of a model folder that describes the network."""

_EMBEDDED = Path(__file__).parents[1] / "embedded"

_MAX_JSON = 1 << 20

_RELEASE = "https://github.com/mv-lab/swin2sr/releases/download/v0.0.1/"

_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96})(@(?P<revision>[\w./-]+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where the weights of a named model are, and what is known of them.

    `values` are the fields of its configuration that differ from the defaults;
    `source` is a repository of the hub, a URL, or "embedded"; `filename` is a path in
    the repository, in the cache, or in the folder of embedded models.
    """

    purpose: str
    values: Mapping[str, Any]
    source: str
    filename: str
    revision: str = ""
    sha256: str | None = None
    n_bytes: int | None = None
    license: str = "Apache-2.0"

    @property
    def own_path(self) -> Path | None:
        """Where the file is or will be; None if the cache of the hub decides."""
        if self.source == "embedded":
            return _EMBEDDED / self.filename
        return cache_folder() / self.filename if "://" in self.source else None

    def find(self) -> Path | None:
        """Return the file if it is on this machine."""
        path = self.own_path
        if path is None:
            return find_in_hub_cache(self.source, self.filename, self.revision)
        return path if path.exists() else None

    def fetch(self, progress: Progress | None, hub: HubOptions = PLAIN) -> Path:
        """Return the file, downloaded if needed, and compared with its known hash."""
        path, sha256 = self.own_path, self.sha256
        if path is None:
            place = (self.source, self.filename, self.revision)
            return fetch_hub(*place, sha256=sha256, progress=progress, hub=hub)
        if self.source == "embedded":
            return read_weights_file(path, sha256=sha256).path
        return fetch_url(self.source, path, sha256=sha256, progress=progress)


DEFAULT_SHA256 = "a233bf04c4a07374446850263321dc1e1d50b258196d99c429841b8d743e4a66"
"""Hash of the embedded weights: to be changed with them."""

CLEAN_SHA256 = "0bd10921561a24095e8a9cea37cab030c806cb949c8dcbd5e867c267ad7d7bec"
"""Hash of the embedded weights for clean images."""

X4_SHA256 = "ca9446f5ee6fcd9810c66192776fa040c5aeb765b00f7e77010b4e991141db63"
"""Hash of the embedded weights for x4."""

_DOWNLOADABLE = {
    "lightweight-x2": Published(
        purpose="clean photographs, small network",
        values={
            "embed_dim": 60,
            "depths": (6,) * 4,
            "num_heads": (6,) * 4,
            "upsampler": "pixelshuffledirect",
        },
        source="caidas/swin2SR-lightweight-x2-64",
        filename="pytorch_model.bin",
        revision="54e8c9c99a28e2ef06073a869eb5d387e72d6527",
        sha256="9784753b51c4b93b87d53088b862c1961b04eaa69460463bed170d5c444b3d0b",
        n_bytes=4_175_069,
    ),
    "classical-x2": Published(
        purpose="clean photographs",
        values={},
        source="caidas/swin2SR-classical-sr-x2-64",
        filename="model.safetensors",
        revision="cee1c923c6a37361c6e5650b65dcf4be821e5d52",
        sha256="a515955815ab6dba3a9331d8c75db13a5166a5ffbcebf1a95ab676a5656ac4fb",
        n_bytes=48_460_660,
    ),
    "classical-x4": Published(
        purpose="clean photographs",
        values={"upscale": 4},
        source="caidas/swin2SR-classical-sr-x4-64",
        filename="model.safetensors",
        revision="c69ef3e2d2ac5777ff4a9f2f5afcd86d20604b7e",
        sha256="e4e0680f28b663d62a64a3e1884336d0bac5b215da7903c618f41f58f4cc0ff4",
        n_bytes=49_051_724,
    ),
    "realworld-x4": Published(
        purpose="photographs with blur, noise and compression of unknown kind",
        values={"upscale": 4, "upsampler": "nearest+conv"},
        source="caidas/swin2SR-realworld-sr-x4-64-bsrgan-psnr",
        filename="pytorch_model.bin",
        revision="bb13f02e45e88d00b6c202b3fbe6a181af144606",
        sha256="4a5f52a20932085557ed115f87c0ee8385e12f2719108c0dfd38c64aedea4710",
        n_bytes=48_460_141,
    ),
    "compressed-x4": Published(
        purpose="photographs with JPEG compression",
        values={"image_size": 48, "upscale": 4, "upsampler": "pixelshuffle_aux"},
        source="caidas/swin2SR-compressed-sr-x4-48",
        filename="pytorch_model.bin",
        revision="42173a8ee985b7696de7ac57836d39550683e903",
        sha256="ca5ac4416235d19021277c7388eaf3ce2479128e7f5497c62d24c6d46e015012",
    ),
    "jpeg-dynamic": Published(
        purpose="removes JPEG artifacts of any quality from gray images, same size; "
        "its publishers state no hash, so the download cannot be verified",
        values={
            "image_size": 126,
            "num_channels": 1,
            "window_size": 7,
            "upscale": 1,
            "img_range": 255.0,
            "upsampler": "",
        },
        source=_RELEASE + "Swin2SR_Jpeg_dynamic.pth",
        filename="Swin2SR_Jpeg_dynamic.pth",
        revision="v0.0.1",
    ),
}


@functools.cache
def published_models() -> dict[str, Published]:
    """Return all models that have a name; what embedded ones are, their files tell."""
    default = _embedded(
        "default",
        "gray and color images with noise: microscopy, histology, satellite, "
        "photographs; small and fast, part of this package",
        DEFAULT_SHA256,
    )
    clean = _embedded(
        "default-clean",
        "clean images only (it amplifies noise): photographs, microscopy, "
        "satellite; small and fast, part of this package",
        CLEAN_SHA256,
    )
    x4 = _embedded(
        "default-x4",
        "as default, four times larger: more is guessed; small and fast, part of this "
        "package",
        X4_SHA256,
    )
    embedded = {"default": default, "default-clean": clean, "default-x4": x4}
    return {**embedded, **_DOWNLOADABLE}


def _embedded(folder: str, purpose: str, sha256: str) -> Published:
    filename = f"{folder}/{WEIGHTS_NAMES[0]}"
    return Published(
        purpose=purpose,
        values=read_json(_EMBEDDED / folder / CONFIG_NAME),
        source="embedded",
        filename=filename,
        sha256=sha256,
        n_bytes=(_EMBEDDED / filename).stat().st_size,
        license="BSD-3-Clause",
    )


def fetch_config(name: str, hub: HubOptions = PLAIN) -> Mapping[str, Any]:
    """Return what the `config.json` of a named model or a repository holds.

    No weights are fetched.
    """
    known = published_models().get(name)
    if known is not None:
        return known.values
    repository = split_hub_name(name)
    if repository is None:
        raise unknown_model(name)
    return read_json(_fetch_part(repository, CONFIG_NAME, None, hub))


def fetch_settings(name: str, filename: str, hub: HubOptions) -> Mapping[str, Any]:
    """Return what another JSON file of a repository holds; nothing if it has none."""
    repository = None if name in published_models() else split_hub_name(name)
    if repository is None:
        return {}
    try:
        return read_json(_fetch_part(repository, filename, None, hub))
    except MissingFromHub:
        return {}


def split_hub_name(name: str) -> tuple[str, str] | None:
    """Return repository and revision, or None if this names no repository."""
    match = _HUB_ID.fullmatch(name)
    if match is None or name.endswith((".safetensors", ".pth", ".pt", ".bin")):
        return None
    return match["repo"], match["revision"] or "main"


def cache_folder() -> Path:
    """Return where files that are not from the hub are kept; it may not exist yet."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "napari-swin2sr" / "weights" / "v0.0.1"


def fetch_repository(
    repository: tuple[str, str], progress: Progress | None, hub: HubOptions = PLAIN
) -> Path:
    """Download configuration and weights of a repository; return the weights."""
    try:
        _fetch_part(repository, CONFIG_NAME, progress, hub)
        return _fetch_part(repository, WEIGHTS_NAMES[0], progress, hub)
    except MissingFromHub:
        return _fetch_part(repository, WEIGHTS_NAMES[1], progress, hub)


def _fetch_part(
    repository: tuple[str, str],
    filename: str,
    progress: Progress | None,
    hub: HubOptions,
) -> Path:
    repo, revision = repository
    if hub.revision is not None and revision not in ("main", hub.revision):
        raise OptionError(f"revision={hub.revision!r}, but the name says @{revision}")
    place = f"{hub.subfolder}/{filename}" if hub.subfolder else filename
    return fetch_hub(repo, place, hub.revision or revision, progress=progress, hub=hub)


def check_named(name: str, known: Published, hub: HubOptions) -> None:
    """Refuse options for a named model that would change nothing."""
    if hub.revision not in (None, known.revision) or hub.subfolder:
        raise OptionError(
            f"{name} is pinned to {known.revision or 'this package'}: it has no other "
            f"revision ({hub.revision!r}) or subfolder ({hub.subfolder!r})"
        )
    if known.own_path is not None and (hub.cache_dir or hub.force_download):
        raise OptionError(f"{name} is not on the hub: no cache_dir or force_download")


def unknown_model(name: str) -> WeightsError:
    """Return the error for a name that nothing has."""
    near = difflib.get_close_matches(name, published_models(), n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return WeightsError(
        name,
        "there is no model, folder or file of this name",
        f"{guess}Names are {', '.join(published_models())}; or give a folder, a file, "
        "or a repository of the hub as owner/name.",
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a `config.json`."""
    advice = f"Give a model with its own {CONFIG_NAME}."
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_JSON:
            reason = f"it is no regular file of at most {_MAX_JSON} bytes"
            raise WeightsError(path, reason, advice)
        return load_json(path.read_bytes())  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise WeightsError(path, f"cannot be read ({error})", advice) from error
