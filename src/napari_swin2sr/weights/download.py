"""Bring published weights onto this machine: from the hub, or from a URL.

A file counts as good only when its hash is right, or, where none was published, when
it is complete and a weights file; that it exists says nothing. No torch here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.replace import remove_file, rename_over
from napari_swin2sr.weights.safety import MAX_BYTES, read_weights_file

if TYPE_CHECKING:
    from collections.abc import Iterator

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are here, and how many there will be, if known."""

TIMEOUT = 20.0
"""Seconds without a single byte after which a connection counts as dead."""

SLOWEST = 500
"""Bytes per second, over `TIMEOUT`, below which it counts as dead, too."""

ATTEMPTS = 4
"""Connections made for one file; each goes on where the one before stopped."""

WAIT = 1.0
"""Seconds before the second connection; doubled before each further one."""

_CHUNK = 1 << 18

_LOCK_TIMEOUT = 3600.0
"""Seconds to wait for another process that downloads the same file."""

logger = logging.getLogger(__name__)


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


def find_in_hub_cache(repo: str, filename: str, revision: str) -> Path | None:
    """Return the file if it was downloaded before, without looking into it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


def fetch_hub(
    repo: str,
    filename: str,
    revision: str,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return a file of the hub, downloaded if it is not here yet.

    Parameters
    ----------
    repo : `owner/name`
    revision : commit, tag or branch
    sha256 : what the file must be; a file of the cache that is not is deleted and
        downloaded once more

    Raises
    ------
    WeightsError
        If it is neither here nor can be downloaded, or is not the expected file.
    MissingFromHub
        If the hub is there and has the repository, but not this file.
    """
    for _ in range(2):
        if sha256 is None:
            return _from_hub(repo, filename, revision, progress)
        path = find_in_hub_cache(repo, filename, revision)  # asks nobody
        path = path or _from_hub(repo, filename, revision, progress)
        found = file_sha256(path)
        if found == sha256:
            return path
        if is_offline():
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
    repo: str, filename: str, revision: str, progress: Progress | None
) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    optional: dict[str, Any] = {}
    if progress is not None:
        optional["tqdm_class"] = _bar_that_calls(progress)
    try:
        return Path(
            hf_hub_download(
                repo,
                filename,
                revision=revision,
                endpoint=os.environ.get("HF_ENDPOINT"),
                local_files_only=is_offline(),
                library_name="napari-swin2sr",
                **optional,
            )
        )
    except Exception as error:  # httpx has a dozen, and they change
        kind = (
            MissingFromHub
            if isinstance(error, RemoteEntryNotFoundError)
            else WeightsError
        )
        raise kind(
            f"{repo}/{filename}",
            _why(error),
            _by_other_means(hub_url(repo, filename, revision)),
        ) from None


def _bar_that_calls(progress: Progress) -> type:
    """Return a kind of progress bar that shows nothing and passes numbers on."""
    from tqdm.std import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread of its own

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # known to the bars of huggingface_hub only
            self._sink = open(os.devnull, "w")  # noqa: PTH123, SIM115
            super().__init__(*args, **{**kwargs, "file": self._sink, "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            progress(int(self.n), None if self.total is None else int(self.total))
            return shown

        def close(self) -> None:
            super().close()
            self._sink.close()

    return Bar


# -- from a URL ----------------------------------------------------------------------


def fetch_url(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Return a weights file from a URL, downloaded if it is not here yet.

    What arrived before a connection broke is kept as `NAME.part` and continued. Of
    several processes one downloads, and the others wait for it.

    Parameters
    ----------
    target : where the file is kept
    sha256 : what it must be; None if its publishers do not tell

    Raises
    ------
    WeightsError
        If it is neither here nor can be downloaded, or is not a weights file.
    """
    from filelock import FileLock, Timeout

    part = target.with_name(f"{target.name}.part")
    try:
        if target.exists() and sha256 in {None, file_sha256(target)}:
            return target
        if is_offline():
            raise OfflineError
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock", timeout=_LOCK_TIMEOUT):
            if not target.exists() or sha256 not in {None, file_sha256(target)}:
                _download(url, part, progress)
                _check_arrived(url, part, sha256)
                rename_over(part, target)
    except (OSError, http.client.HTTPException, Timeout) as error:
        raise WeightsError(url, _why(error), _by_other_means(url)) from None
    return target


class OfflineError(ConnectionError):
    """The environment forbids downloads."""


def _download(url: str, part: Path, progress: Progress | None) -> None:
    """Complete the partial file, over several connections if need be."""
    for attempt in range(ATTEMPTS):
        try:
            return _continue(url, part, progress)
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1 or not _is_passing(error):
                raise
            logger.warning("%s: %s; trying again", url, _why(error))
            time.sleep(WAIT * 2**attempt)
    raise AssertionError


def _continue(url: str, part: Path, progress: Progress | None) -> None:
    """Ask for what is missing of the partial file, and append it."""
    if part.is_symlink():
        raise OSError(errno.ELOOP, "a link is in the way of the download", str(part))
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "napari-swin2sr"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  (our table)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            remove_file(part)  # longer than the file: begin again
            return _continue(url, part, progress)
        raise
    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            start = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            for chunk in _chunks(response):
                file.write(chunk)
                if file.tell() > MAX_BYTES:
                    raise OSError(errno.EFBIG, f"more than {MAX_BYTES} bytes")
                if progress is not None:
                    progress(file.tell(), total)
            file.flush()
            os.fsync(file.fileno())
            if total is not None and file.tell() < total:
                raise ConnectionError(
                    f"the connection broke after {file.tell()} of {total} bytes"
                )


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


def _check_arrived(url: str, part: Path, sha256: str | None) -> None:
    """Delete what is not the expected file, and say so."""
    try:
        file = read_weights_file(part, sha256=sha256)
    except WeightsError as error:
        remove_file(part)
        raise WeightsError(
            url, f"what arrived is not usable: {error.reason}", _by_other_means(url)
        ) from None
    if sha256 is None:
        logger.warning(
            "%s: its publishers give no hash to compare with; its SHA-256 is %s",
            *(url, file.sha256),
        )


# -- what to say ---------------------------------------------------------------------


def _is_passing(error: Exception) -> bool:
    """Tell whether the same request may succeed a little later."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code == http.client.TOO_MANY_REQUESTS or error.code >= 500
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS}
    return not isinstance(error, OSError) or error.errno not in full


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
    text = " ".join(str(causes[-1]).split())[:200]
    return f"the download failed ({type(causes[-1]).__name__}: {text})"


def _by_other_means(url: str) -> str:
    first = "Unset HF_HUB_OFFLINE" if is_offline() else "Check the connection"
    return (
        f"{first} and try again; or download {url} on any machine, and give the path "
        "of that file as the model."
    )
