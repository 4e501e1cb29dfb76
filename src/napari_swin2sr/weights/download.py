"""Bring published weights onto this machine: from the hub, or from a URL.

A file counts as good only when its hash is right, or, where none was published, when
it is complete and a weights file; that it exists says nothing. No torch here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import http.client
import importlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.replace import remove_file, written_beside
from napari_swin2sr.weights.safety import MAX_BYTES, printable, read_weights_file

if TYPE_CHECKING:
    from collections.abc import Iterator

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are here, and how many there will be, if known."""

TIMEOUT = 20.0
"""Seconds without a single byte after which a connection counts as dead."""

SLOWEST = 500
"""Bytes per second, over `TIMEOUT`, below which it counts as dead, too."""

_CHUNK = 1 << 18

_LOCK_TIMEOUT = 3600.0
"""Seconds to wait for another process that downloads the same file."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """How a repository of the hub is asked: keywords of `from_pretrained`."""

    revision: str | None = None
    subfolder: str = ""
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False

    def take_from(self, options: dict[str, Any]) -> HubOptions:
        """Return these with those that are among other options, and remove them."""
        names = {f.name for f in dataclasses.fields(self)} & set(options)
        return dataclasses.replace(self, **{name: options.pop(name) for name in names})


PLAIN = HubOptions()


def is_offline() -> bool:
    """Tell whether the environment forbids downloads, as huggingface_hub reads it."""
    values = (os.environ.get(n) for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(str(value).upper() in {"1", "ON", "YES", "TRUE"} for value in values)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- from the hub --------------------------------------------------------------------


def hub_url(repo: str, filename: str, revision: str) -> str:
    """Return where a file of the hub is for people with a browser."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{repo}/resolve/{revision}/{filename}"


def find_in_hub_cache(
    repo: str, filename: str, revision: str, hub: HubOptions = PLAIN
) -> Path | None:
    """Return the file if it was downloaded before, without looking into it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        repo, filename, cache_dir=hub.cache_dir, revision=revision
    )
    return Path(found) if isinstance(found, str) else None


def fetch_hub(
    repo: str,
    filename: str,
    revision: str,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    hub: HubOptions = PLAIN,
) -> Path:
    """Return a file of the hub, downloaded if it is not here yet.

    Parameters
    ----------
    repo : str
        `owner/name`.
    filename, revision : str
        A file of the repository, and a commit, tag or branch.
    sha256 : str, optional
        What the file must be; a file of the cache that is not is deleted and
        downloaded once more.
    progress : callable, optional
        Called as the bytes arrive.
    hub : HubOptions, optional
        How the hub is asked; its revision and subfolder are the caller's business.

    Raises
    ------
    WeightsError
        If it is neither here nor can be downloaded, or is not the expected file.
    MissingFromHub
        If the hub is there and has the repository, but not this file.
    """
    for _ in range(2):
        if sha256 is None:
            return _from_hub(repo, filename, revision, progress, hub)
        path = find_in_hub_cache(repo, filename, revision, hub)  # asks nobody
        if path is None or hub.force_download:
            path = _from_hub(repo, filename, revision, progress, hub)
        found = file_sha256(path)
        if found == sha256:
            return path
        if is_offline() or hub.local_files_only:
            break
        content = path.resolve()
        if not _is_in_cache(content, path):
            raise WeightsError(
                path,
                f"it links to {content}, which has the SHA-256 {found}, not the "
                f"expected {sha256}",
                "Remove the link, so that the file can be downloaded; what it links "
                "to is left alone.",
            )
        logger.warning("%s: wrong SHA-256 %s, deleted", path, found)
        for name in {content, path}:  # the content, then the link to it
            remove_file(name)
    raise WeightsError(
        f"{repo}/{filename}",
        f"the file has the SHA-256 {found}, not the expected {sha256}",
        _by_other_means(hub_url(repo, filename, revision)),
    )


def _is_in_cache(content: Path, entry: Path) -> bool:
    """Tell whether the hub's cache of a repository holds a file itself.

    A user may have put a link to a file of his own there.
    """
    return any(
        folder.name.startswith("models--") and folder.resolve() in content.parents
        for folder in entry.parents
    )


class MissingFromHub(WeightsError):  # noqa: N818  (an error of its base)
    """The repository exists, and the file does not."""


def _from_hub(
    repo: str,
    filename: str,
    revision: str,
    progress: Progress | None,
    hub: HubOptions,
) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        path = hf_hub_download(
            repo,
            filename,
            revision=revision,
            endpoint=os.environ.get("HF_ENDPOINT"),
            cache_dir=hub.cache_dir,
            token=hub.token,
            local_files_only=hub.local_files_only or is_offline(),
            force_download=hub.force_download,
            library_name="napari-swin2sr",
            tqdm_class=_bar(progress),
        )
        if os.path.getsize(path) > MAX_BYTES:  # noqa: PTH202  (a link, followed)
            raise _too_large()
        return Path(path)
    except Exception as error:  # httpx has a dozen, and they change
        if any(getattr(e, "errno", None) == errno.EFBIG for e in _causes(error)):
            _remove_unfinished(repo, hub)
        missing = isinstance(error, RemoteEntryNotFoundError)
        kind = MissingFromHub if missing else WeightsError
        advice = _by_other_means(hub_url(repo, filename, revision))
        reason = _why(error)
        if hub.local_files_only and not is_offline():
            reason = "it is not on this machine, and local_files_only forbids downloads"
        raise kind(f"{repo}/{filename}", reason, advice) from None


def _bar(progress: Progress | None) -> type:
    """Return a kind of progress bar that stops downloads without end.

    With `progress` it shows nothing and passes the numbers on.
    """
    import tqdm.std

    # The module: `utils.tqdm` is that or its class, by what was imported before.
    hub_tqdm = importlib.import_module("huggingface_hub.utils.tqdm")
    kind: Any = tqdm.std.tqdm if progress else hub_tqdm.tqdm

    class Bar(kind):  # type: ignore[misc]
        monitor_interval = 0  # no thread of its own

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._done = int(kwargs.get("initial") or 0)
            self._sink = None
            if progress is not None:
                kwargs.pop("name", None)  # known to the bars of huggingface_hub only
                self._sink = open(os.devnull, "w")  # noqa: PTH123, SIM115
                kwargs |= {"file": self._sink, "disable": False}
            super().__init__(*args, **kwargs)
            if int(self.total or 0) > MAX_BYTES:
                raise _too_large()

        def update(self, n: float | None = 1) -> bool | None:
            redrawn: bool | None = super().update(n)
            self._done += int(n or 0)
            if self._done > MAX_BYTES:
                raise _too_large()
            if progress is not None:
                total = None if self.total is None else int(self.total)
                progress(self._done, total)
            return redrawn

        def close(self) -> None:
            super().close()
            if self._sink is not None:
                self._sink.close()

    return Bar


def _remove_unfinished(repo: str, hub: HubOptions) -> None:
    """Delete what arrived of a file that is too large, instead of resuming it."""
    from huggingface_hub import constants

    cache = Path(hub.cache_dir or constants.HF_HUB_CACHE)
    folder = cache / f"models--{repo.replace('/', '--')}"
    for part in folder.glob("blobs/*.incomplete"):
        remove_file(part)


def _too_large() -> OSError:
    return OSError(errno.EFBIG, f"more than {MAX_BYTES} bytes, too many for weights")


# -- from a URL ----------------------------------------------------------------------


def fetch_url(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return a weights file from a URL, downloaded to `target` if it is not here yet.

    Without `sha256` anything that is a weights file will do. Of several processes one
    downloads, and the others wait for it.
    """
    from filelock import FileLock, Timeout

    try:
        if _is_here(target, sha256):
            return target
        if is_offline():
            raise ConnectionError
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock", timeout=_LOCK_TIMEOUT):
            if not _is_here(target, sha256):
                with written_beside(target) as draft:
                    _download(url, draft, progress)
                    _check_arrived(url, draft, sha256)
    except (OSError, http.client.HTTPException, Timeout) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise WeightsError(url, _why(error), _by_other_means(url)) from None
    return target


def _is_here(target: Path, sha256: str | None) -> bool:
    return target.exists() and sha256 in {None, file_sha256(target)}


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from an encrypted to an open connection."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, *args: Any
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, *args)
        if new is not None and req.type == "https" and new.type != "https":
            fp.close()
            raise ConnectionError("the server redirects to an unencrypted connection")
        return new


def _download(url: str, target: Path, progress: Progress | None) -> None:
    headers = {"User-Agent": "napari-swin2sr"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (our table)
    opener = urllib.request.build_opener(_NoDowngrade)
    with opener.open(request, timeout=TIMEOUT) as response, target.open("xb") as file:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdecimal() else None
        for chunk in _chunks(response):
            file.write(chunk)
            if file.tell() > MAX_BYTES:
                raise _too_large()
            if progress is not None:
                progress(file.tell(), total)
        if total is not None and file.tell() < total:
            done = file.tell()
            raise ConnectionError(f"the connection broke after {done} of {total} bytes")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Read what has arrived, and give up on a server that sends next to nothing."""
    since, n_bytes = time.monotonic(), 0
    while chunk := response.read1(_CHUNK):
        yield chunk
        n_bytes += len(chunk)
        seconds = time.monotonic() - since
        if seconds > TIMEOUT:
            if n_bytes < SLOWEST * seconds:
                raise ConnectionError(f"only {n_bytes} bytes in {seconds:.0f} s")
            since, n_bytes = time.monotonic(), 0


def _check_arrived(url: str, draft: Path, sha256: str | None) -> None:
    try:
        file = read_weights_file(draft, sha256=sha256)
    except WeightsError as error:
        reason = f"what arrived is not usable: {error.reason}"
        raise WeightsError(url, reason, _by_other_means(url)) from None
    if sha256 is None:
        logger.warning(
            "%s: its publishers give no hash to compare with; its SHA-256 is %s",
            *(url, file.sha256),
        )


# -- what to say ---------------------------------------------------------------------


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _why(error: BaseException) -> str:
    """Say in a few words why a download failed; most telling cause first."""
    if is_offline():
        return "it is not on this machine, and HF_HUB_OFFLINE forbids downloads"
    causes = list(_causes(error))
    for cause in causes:
        code = getattr(cause, "code", None)
        code = getattr(getattr(cause, "response", None), "status_code", code)
        if isinstance(code, int):
            meaning = http.client.responses.get(code, "error")
            return f"the server answered {code} ({meaning})"
    for cause in reversed(causes):
        with contextlib.suppress(AttributeError):
            if cause.errno in {errno.ENOSPC, errno.EDQUOT}:  # type: ignore[attr-defined]
                return "the disk of the download folder is full"
            if isinstance(cause, PermissionError) or cause.errno == errno.EROFS:  # type: ignore[attr-defined]
                return f"the download folder cannot be written ({cause})"
    text = printable(" ".join(str(causes[-1]).split()))
    return f"the download failed ({type(causes[-1]).__name__}: {text})"


def _by_other_means(url: str) -> str:
    first = "Unset HF_HUB_OFFLINE" if is_offline() else "Check the connection"
    return (
        f"{first} and try again; or download {url} on any machine, and give the path "
        "of that file as the model."
    )
