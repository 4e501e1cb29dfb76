"""Look at a weights file before anything is loaded from it.

The file is opened once; what is checked, hashed and loaded are the same bytes. No
torch here, so that a download can be checked where it happens.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from napari_swin2sr.errors import WeightsError
from napari_swin2sr.weights.pickle_guard import LEGACY_MAGIC, check_legacy, check_zip
from napari_swin2sr.weights.safetensors_header import Header, read_header

if TYPE_CHECKING:
    from os import PathLike

Kind: TypeAlias = Literal["safetensors", "zip", "legacy"]

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Files of a hub folder that hold its weights, the preferred one first."""

MAX_BYTES = 1 << 30
"""No Swin2SR file is larger; the largest published one has 0.2 GB."""

DOWNLOAD_AGAIN = "Delete it and download it again."
"""Advice for damaged files."""

NOT_WEIGHTS = "Give a .safetensors, .pth or .bin file of a Swin2SR network."
"""Advice for files of another kind."""

_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer: the weights were not downloaded"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"%PDF", "a PDF document"),
    (b"{", "a JSON text"),
)
"""First bytes of files that get mistaken for weights, and what they are."""


@dataclass(frozen=True)
class WeightsFile:
    """The checked content of a weights file.

    Attributes
    ----------
    path : where it was read
    kind : how it is written, whatever its name says
    data : all its bytes
    header : what it holds; None unless it is safetensors
    """

    path: Path
    kind: Kind
    data: bytes
    header: Header | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def read_weights_file(
    path: str | PathLike[str], *, sha256: str | None = None
) -> WeightsFile:
    """Read a file and check that loading it can do no harm.

    Parameters
    ----------
    path : a regular file, or a link to one
    sha256 : the hash that it must have, if known

    Raises
    ------
    WeightsError
        If it cannot be read, is damaged, or is no weights file.
    """
    file = Path(path)
    data = _read(file)
    found = WeightsFile(file, _sniff(file, data), data)
    if sha256 is not None and found.sha256 != sha256.lower():
        raise WeightsError(
            file,
            f"it is damaged or was replaced: its SHA-256 is {found.sha256}, "
            f"not {sha256}",
            DOWNLOAD_AGAIN,
        )
    if found.kind == "safetensors":
        return WeightsFile(file, "safetensors", data, read_header(file, data))
    if found.kind == "zip":
        check_zip(file, data)
    else:
        check_legacy(file, data)
    return found


def find_weights(path: str | PathLike[str]) -> Path:
    """Return the weights file of a model folder, or the file itself.

    Raises
    ------
    WeightsError
        If there is nothing, or no weights in the folder, or several files that
        could be meant.
    """
    found = Path(path)
    try:
        if not found.is_dir():
            return found
        for name in WEIGHTS_NAMES:
            if (found / name).exists():
                return found / name
        suffixes = {".safetensors", ".pth", ".pt", ".bin"}
        others = sorted(f for f in found.iterdir() if f.suffix in suffixes)
    except (OSError, ValueError) as error:
        raise _unreadable(found, error) from None
    if len(others) == 1:
        return others[0]
    names = ", ".join(f.name for f in others[:5])
    raise WeightsError(
        found,
        f"the folder holds several weights files ({names})"
        if others
        else "the folder holds no weights",
        f"Give a folder with {' or '.join(WEIGHTS_NAMES)}, or one file.",
    )


def _read(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a named pipe would wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        with open(descriptor, "rb") as file:  # noqa: PTH123  (a descriptor)
            status = os.fstat(descriptor)
            _check_status(path, status)
            _sniff(path, file.read(1024))  # before reading a gigabyte
            file.seek(0)
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_status(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise WeightsError(path, f"it is {kind}, not a regular file", NOT_WEIGHTS)
    if status.st_size == 0:
        raise WeightsError(path, "the file is empty (0 bytes)", DOWNLOAD_AGAIN)
    if status.st_size > MAX_BYTES:
        raise WeightsError(
            path,
            f"it has {status.st_size} bytes, and no Swin2SR network needs more than "
            f"{MAX_BYTES}",
            NOT_WEIGHTS,
        )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    if isinstance(error, FileNotFoundError):
        return WeightsError(
            path,
            "there is no such file",
            "Check the path, or see `napari-swin2sr models` for names.",
        )
    why = error.strerror if isinstance(error, OSError) else str(error)
    return WeightsError(path, f"it cannot be opened ({why})", "Check path and rights.")


def _sniff(path: Path, head: bytes) -> Kind:
    """Tell from the content, never from the name, how a file is written."""
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(LEGACY_MAGIC[: max(len(head), 2)]):
        return "legacy"
    declared = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
    if head[8:9] == b"{" or (declared < MAX_BYTES and path.suffix == ".safetensors"):
        return "safetensors"
    raise WeightsError(path, *_what_it_is(head))


def _what_it_is(head: bytes) -> tuple[str, str]:
    """Return reason and advice for a file that is no weights file."""
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "it is a web page: the download failed", DOWNLOAD_AGAIN
    for start, what in _FOREIGN:
        if head.startswith(start):
            return f"it is {what}", NOT_WEIGHTS
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return (
            "it is a Python pickle that PyTorch did not write; such a file can run "
            "programs, and this one may be malicious",
            "Do not open it by other means. " + NOT_WEIGHTS,
        )
    if head[257:262] == b"ustar":
        return "it is a tar archive", NOT_WEIGHTS
    if head[:1] == b"\x08" and b"pytorch" in head[:64]:
        return "it is an ONNX model", NOT_WEIGHTS
    if len(head) < 64:
        return f"it has only {len(head)} bytes and is no weights file", DOWNLOAD_AGAIN
    return "its content is unknown; it is no weights file", NOT_WEIGHTS
