"""Look at a weights file before anything is loaded from it.

The file is opened once; what is checked, hashed and loaded are the same bytes. No
torch here, so that a download can be checked where it happens.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickletools
import re
import stat
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias

import safetensors

from napari_swin2sr.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

_deserialize: Callable[[bytes], object] = safetensors.deserialize

Kind: TypeAlias = Literal["safetensors", "zip", "legacy"]
Shape: TypeAlias = tuple[int, ...]

WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
"""Files of a hub folder that hold its weights, the preferred one first."""

MAX_BYTES = 1 << 30
"""No Swin2SR file is larger; the largest published one has 0.2 GB."""

MAX_HEADER = 1 << 20
"""Bytes of a safetensors header or a pickle; the largest Swin2SR has a fifth of it."""

MAX_COMMANDS = 100_000
"""Commands of a pickle; the largest Swin2SR needs 40,000."""

_MAX_MEMBERS = 20_000

_MAX_DEPTH = 20
"""Objects inside of objects; a state dict in a checkpoint has ten."""

DOWNLOAD_AGAIN = "Delete it and download it again."
"""Advice for damaged files."""

NOT_WEIGHTS = "Give a .safetensors, .pth or .bin file of a Swin2SR network."
"""Advice for files of another kind."""

_CONVERT_AGAIN = "Delete it and download it again, or convert it anew."
_DISTRUST = "Do not open it by other means; get the weights from who published them."
_STATE_DICT = "Give a file with the state dict (torch.save(network.state_dict(), ...))."

_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files that PyTorch wrote before version 1.6."""

_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer: the weights were not downloaded"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"BZh", "bzip2-compressed"),
    (b"\xfd7zXZ", "xz-compressed"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"%PDF", "a PDF document"),
    (b"{", "a JSON text"),
)
"""First bytes of files that get mistaken for weights, and what they are."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself.

    Attributes
    ----------
    shapes : Mapping[str, Shape]
        Shape of each tensor.
    metadata : Mapping[str, str]
        Free texts.
    """

    shapes: Mapping[str, Shape]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class WeightsFile:
    """The checked content of a weights file.

    Attributes
    ----------
    path : Path
        Where it was read.
    kind : {"safetensors", "zip", "legacy"}
        How it is written, whatever its name says.
    data : bytes
        All its bytes.
    checked : bytes
        What may be loaded: `data`, or the checked members of a zip archive packed
        anew, so that nobody reads its directory in another way than the checks did.
    header : Header or None
        What it holds, if it is safetensors.
    """

    path: Path
    kind: Kind
    data: bytes
    checked: bytes
    header: Header | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def read_weights_file(
    path: str | PathLike[str], *, sha256: str | None = None
) -> WeightsFile:
    """Read a file, compare its hash, and check that loading it can do no harm."""
    path = Path(path)
    data = _read(path)
    kind = _sniff(path, data)
    if sha256 is not None:
        found = hashlib.sha256(data).hexdigest()
        if found != sha256.lower():
            raise WeightsError(
                path,
                f"it is damaged or was replaced: its SHA-256 is {found}, not {sha256}",
                DOWNLOAD_AGAIN,
            )
    if kind == "safetensors":
        return WeightsFile(path, kind, data, data, _read_header(path, data))
    if kind == "zip":
        return WeightsFile(path, kind, data, _check_zip(path, data))
    _check_legacy(path, data)
    return WeightsFile(path, kind, data, data)


def find_weights(path: str | PathLike[str]) -> Path:
    """Return the weights file of a model folder, or the file itself."""
    found = Path(path)
    try:
        if not found.is_dir():
            return found
        for name in WEIGHTS_NAMES:
            if (found / name).exists():
                return found / name
        suffixes = {".safetensors", ".pth", ".pt", ".bin"}
        others = sorted(
            f
            for f in found.iterdir()
            if f.suffix in suffixes and f.name != "trust.safetensors"
        )
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


def printable(name: object) -> str:
    """Return a name from a file for a message: short, and without control codes."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 120 else f"{text[:120]}..."


def load_json(text: str | bytes, **options: Any) -> Any:
    """Parse JSON from a file; ValueError if damaged, or too deep for a small stack."""
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    depth = 0
    for bracket in re.findall(r"[\[{\]}]", text):
        depth += 1 if bracket in "[{" else -1
        if depth > 50:
            raise ValueError("too deep: more than 50 lists or mappings in each other")
    return json.loads(text, **options)


# -- the file ------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a named pipe would wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
        with open(descriptor, "rb") as file:  # noqa: PTH123  (a descriptor)
            status = os.fstat(descriptor)
            _check_status(path, status)
            _sniff(path, file.read(1024))  # before reading a gigabyte
            file.seek(0)
            return file.read(status.st_size)
    except (OSError, ValueError) as error:
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
    if head.startswith(_LEGACY_MAGIC[: max(len(head), 2)]):
        return "legacy"
    declared = int.from_bytes(head[:8], "little") if len(head) >= 8 else 0
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


# -- safetensors ---------------------------------------------------------------------


def _read_header(path: Path, data: bytes) -> Header:
    """Check and return the header, more strictly than the format asks."""
    size = int.from_bytes(data[:8], "little")
    reason = ""
    if len(data) < 8:
        reason = f"it is truncated: only {len(data)} bytes"
    elif size > MAX_HEADER:
        reason = f"its header claims {size} bytes; at most {MAX_HEADER} are allowed"
    elif len(data) < 8 + size:
        reason = f"it is truncated: {len(data)} bytes, and the header needs {8 + size}"
    if reason:
        raise WeightsError(path, reason, _CONVERT_AGAIN)
    try:
        content = load_json(data[8 : 8 + size], object_pairs_hook=_without_duplicates)
        _check_length(content, len(data) - 8 - size)
        _deserialize(data)  # raises for all else that is wrong
    except (ValueError, safetensors.SafetensorError) as error:
        reason = f"its header is damaged: {printable(error)}"
        raise WeightsError(path, reason, _CONVERT_AGAIN) from None
    metadata = content.pop("__metadata__", None) or {}
    return Header({k: tuple(v["shape"]) for k, v in content.items()}, metadata)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what most readers accept silently: the last of two values wins."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:40]!r} occurs twice")
        found[name] = value
    return found


def _check_length(content: Any, available: int) -> None:
    """Say plainly that bytes are missing or left over."""
    with contextlib.suppress(TypeError, AttributeError, LookupError):
        named = {k: v for k, v in content.items() if k != "__metadata__"}
        needed = max((entry["data_offsets"][1] for entry in named.values()), default=0)
        if needed > available:
            raise ValueError(f"truncated: {available} of {needed} bytes of tensors")
        if needed < available:
            raise ValueError(f"{available - needed} bytes follow the last tensor")


# -- files of torch.save -------------------------------------------------------------
#
# `torch.load(weights_only=True)` runs no foreign code, but it can be made to eat
# memory or time, and its errors advise to switch the protection off. A state dict is
# written with a few commands and half a dozen names; whatever else a file holds is
# refused by that alone, before PyTorch sees it.

_ALLOWED_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("BFloat16", "Half", "Float", "Double")),
    *(f"torch {kind}Storage" for kind in ("Bool", "Byte", "Char", "Short", "Int")),
    "torch LongStorage",
}

_CONSTANTS = {
    *("BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "NEWFALSE", "NEWTRUE"),
    *("NONE", "GLOBAL", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"),
}
"""Commands that put something on the stack."""

_BUILDERS = {"TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_BUILDERS |= {"BINPERSID": 1, "REDUCE": 2}
"""Commands that make one object of the last so many; 0: of all after the mark."""

_FILLERS = {"APPENDS": 0, "SETITEMS": 0, "APPEND": 1, "BUILD": 1, "SETITEM": 2}
"""Commands that put the last so many objects into the one before."""

_ALLOWED_COMMANDS = {
    *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MARK", "PROTO", "STOP"),
    *_CONSTANTS,
    *_BUILDERS,
    *_FILLERS,
}


def _check_zip(path: Path, data: bytes) -> bytes:
    """Check a file of today's `torch.save`; return its members, packed anew."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception:  # zipfile raises half a dozen kinds
        raise WeightsError(
            path,
            f"it is truncated: {len(data)} bytes, without the directory at the end",
            DOWNLOAD_AGAIN,
        ) from None
    fresh = io.BytesIO()
    with archive, zipfile.ZipFile(fresh, "w") as copy:
        program = _check_members(path, archive.infolist(), len(data))
        for member in archive.infolist():
            try:
                content = archive.read(member)
            except Exception:
                what = f"checksum or length of {printable(member.filename)} is wrong"
                reason = f"it is damaged: {what}"
                raise WeightsError(path, reason, DOWNLOAD_AGAIN) from None
            if member is program:
                _check_program(path, io.BytesIO(content))
            copy.writestr(zipfile.ZipInfo(member.filename), content)
    return fresh.getvalue()


def _check_members(
    path: Path, members: list[zipfile.ZipInfo], n_bytes: int
) -> zipfile.ZipInfo:
    """Check the list of an archive's content; return the member with the pickle."""
    names = [member.filename for member in members]
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if any(name.endswith(("/constants.pkl", "/model.json")) for name in names):
        _refuse(path, "a TorchScript program")
    if any(name.endswith(".npy") for name in names):
        _refuse(path, "an archive of NumPy arrays")
    programs = [m for m in members if m.filename.split("/")[1:] == ["data.pkl"]]
    if len(programs) != 1:
        _refuse(path, "a zip archive that PyTorch did not write (no data.pkl)")
    if packed or any(member.flag_bits & 1 for member in members):
        _refuse(path, "compressed or encrypted, which PyTorch never writes")
    if len(names) > _MAX_MEMBERS or sum(m.file_size for m in members) > n_bytes:
        _refuse(path, f"an archive that claims more content than its {n_bytes} bytes")
    if programs[0].file_size > MAX_HEADER:
        _refuse(path, "a pickle too long for weights")
    _check_names(path, members, programs[0].filename.removesuffix("data.pkl"))
    return programs[0]


def _check_names(path: Path, members: list[zipfile.ZipInfo], root: str) -> None:
    names = [member.filename for member in members]
    for name in names:
        if not name.startswith(root) or ".." in name.split("/") or "\\" in name:
            what = f"an archive with members outside of itself ({printable(name)})"
            _refuse(path, what)
    if len(set(names)) != len(names):
        _refuse(path, "an archive with one name twice")
    if any(member.is_dir() or member.external_attr & 0x10 for member in members):
        # PyTorch reads nothing for what is marked as a folder, and says nothing.
        _refuse(path, "an archive with folders in it, damaged or made by other means")


def _check_legacy(path: Path, data: bytes) -> None:
    """Check a file of an old `torch.save`: pickles, then the numbers."""
    stream = io.BytesIO(data)
    stream.seek(len(_LEGACY_MAGIC))
    for _ in range(4):  # version, system, object, names of the storages
        _check_program(path, stream)


def _check_program(path: Path, stream: io.BytesIO) -> None:
    """Walk through one pickle without running it; leave the stream behind it."""
    start, tuples, before, nesting = stream.tell(), set(), "", _Nesting()
    try:
        for n, (command, argument, position) in enumerate(pickletools.genops(stream)):
            name = command.name
            if n > MAX_COMMANDS or (position or 0) - start > MAX_HEADER:
                _refuse(path, "a pickle too long for weights")
            if name == "GLOBAL" and argument not in _ALLOWED_NAMES:
                _refuse_name(path, str(argument))
            if name not in _ALLOWED_COMMANDS:
                _refuse(path, f"a pickle with the command {name}")
            if name.endswith("BINPUT") and before.startswith("TUPLE"):
                tuples.add(argument)
            if name.endswith("BINGET") and argument in tuples:
                # Tuples in tuples, each used twice, would be hashed for ever.
                _refuse(path, "a pickle with one tuple in several places")
            if nesting.follow(name, argument) > _MAX_DEPTH:
                # Hashing tuples in tuples uses up the stack of a thread.
                _refuse(path, f"a pickle with more than {_MAX_DEPTH} nested objects")
            before = name
    except (LookupError, ValueError, OverflowError, MemoryError, DeprecationWarning):
        # The warning is that of a damaged name, where the caller made warnings errors.
        n_bytes = len(stream.getbuffer())
        raise WeightsError(
            path,
            f"it is truncated or damaged: {n_bytes} bytes, and the description of "
            "the tensors does not end",
            DOWNLOAD_AGAIN,
        ) from None


class _Nesting:
    """How deep the objects are that a pickle makes, without making them."""

    def __init__(self) -> None:
        self.stack: list[list[int]] = []  # of each object, one number that may grow
        self.marks: list[int] = []
        self.memo: dict[Any, list[int]] = {}

    def follow(self, command: str, argument: Any) -> int:
        """Take one command; return the depth of the object on top of the stack."""
        if command == "MARK":
            self.marks.append(len(self.stack))
        elif command.endswith("BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif command.endswith("BINGET"):
            self.stack.append(self.memo[argument])
        elif command in _CONSTANTS:
            self.stack.append([0])
        elif command in _BUILDERS:
            self.stack.append([1 + self._take(_BUILDERS[command])])
        elif command in _FILLERS:
            depth = 1 + self._take(_FILLERS[command])
            self.stack[-1][0] = max(self.stack[-1][0], depth)
        return self.stack[-1][0] if self.stack else 0

    def _take(self, n: int) -> int:
        """Remove the last objects; return the depth of the deepest."""
        at = len(self.stack) - n if n else self.marks.pop()
        if at < 0:
            raise IndexError("the stack is empty")
        taken = self.stack[at:]
        del self.stack[at:]
        return max((depth for (depth,) in taken), default=0)


def _refuse(path: Path, what: str) -> NoReturn:
    raise WeightsError(path, f"it is {what}, not a plain weights file", _STATE_DICT)


def _refuse_name(path: Path, name: str) -> NoReturn:
    """Say what kind of thing a name in a pickle stands for."""
    module = name.split(" ")[0]
    shown = printable(name.replace(" ", "."))
    if module.startswith("numpy"):
        reason = f"it holds NumPy objects ({shown}), not a state dict"
    elif module.startswith(("torch", "__main__", "argparse", "basicsr", "models")):
        reason = f"it holds {shown}, which a state dict of plain tensors never does"
    else:
        reason = (
            f"it asks for {shown}, which weights never do: it is not a weights file, "
            "and may be malicious"
        )
        raise WeightsError(path, reason, _DISTRUST)
    raise WeightsError(path, reason, _STATE_DICT)
