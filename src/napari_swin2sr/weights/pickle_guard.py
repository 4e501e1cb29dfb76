"""Guards in front of `torch.load`, for both kinds of files that torch.save writes.

`torch.load(weights_only=True)` runs no foreign code, but it can be made to eat
memory or time, and its errors advise to switch the protection off. A state dict is
written with a few commands and half a dozen names; whatever else a file holds is
refused here, by that alone, before PyTorch sees it.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from typing import TYPE_CHECKING, NoReturn

from napari_swin2sr.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files that PyTorch wrote before version 1.6."""

MAX_PROGRAM = 1 << 20
"""Bytes of the pickle in a file; that of the largest Swin2SR has a fifth of it."""

MAX_COMMANDS = 100_000
"""Commands of that pickle; the largest Swin2SR needs 40,000."""

_MAX_MEMBERS = 20_000

_NUMBERS = (
    "BFloat16",
    "Bool",
    "Byte",
    "Char",
    "Double",
    "Float",
    "Half",
    "Int",
    "Long",
    "Short",
)

_ALLOWED_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in _NUMBERS),
}
"""All that a dictionary of plain tensors needs."""

_ALLOWED_COMMANDS = {
    "APPEND",
    "APPENDS",
    "BINFLOAT",
    "BINGET",
    "BININT",
    "BININT1",
    "BININT2",
    "BINPERSID",
    "BINPUT",
    "BINUNICODE",
    "EMPTY_DICT",
    "EMPTY_LIST",
    "EMPTY_TUPLE",
    "GLOBAL",
    "LONG_BINGET",
    "LONG_BINPUT",
    "MARK",
    "NEWFALSE",
    "NEWTRUE",
    "NONE",
    "PROTO",
    "REDUCE",
    "BUILD",
    "SETITEM",
    "SETITEMS",
    "STOP",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
}

_DOWNLOAD = "Delete it and download it again."
_DISTRUST = "Do not open it by other means; get the weights from who published them."
_STATE_DICT = "Give a file with the state dict (torch.save(network.state_dict(), ...))."


def check_zip(path: Path, data: bytes) -> None:
    """Check a file of today's `torch.save`: an uncompressed zip archive.

    Raises
    ------
    WeightsError
        If it is damaged, compressed, or holds something else than tensors.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception:  # zipfile raises half a dozen kinds
        raise WeightsError(
            path,
            f"it is truncated: {len(data)} bytes, without the directory at the end",
            _DOWNLOAD,
        ) from None
    with archive:
        program = _check_members(path, archive.infolist(), len(data))
        try:
            damaged = archive.testzip()
            content = archive.read(program)
        except Exception as error:
            damaged, content = type(error).__name__, b""
    if damaged is not None:
        reason = f"it is damaged: checksum or length of {ascii(damaged)[:80]} is wrong"
        raise WeightsError(path, reason, _DOWNLOAD)
    _check_program(path, io.BytesIO(content))


def check_legacy(path: Path, data: bytes) -> None:
    """Check a file of an old `torch.save`: pickles, then the numbers.

    Raises
    ------
    WeightsError
        If it is damaged or holds something else than tensors.
    """
    stream = io.BytesIO(data)
    stream.seek(len(LEGACY_MAGIC))
    for _ in range(4):  # version, system, object, names of the storages
        _check_program(path, stream)


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
    root = programs[0].filename.removesuffix("data.pkl")
    strange = [
        n for n in names if not n.startswith(root) or ".." in n.split("/") or "\\" in n
    ]
    if strange or len(set(names)) != len(names):
        what = ascii(strange[0])[:80] if strange else "one name twice"
        _refuse(path, f"an archive with members outside of itself ({what})")
    if programs[0].file_size > MAX_PROGRAM:
        _refuse(path, "a pickle too long for weights")
    return programs[0]


def _check_program(path: Path, stream: io.BytesIO) -> None:
    """Walk through one pickle without running it; leave the stream behind it."""
    start, tuples, before = stream.tell(), set(), ""
    try:
        for n, (command, argument, position) in enumerate(pickletools.genops(stream)):
            name = command.name
            if n > MAX_COMMANDS or (position or 0) - start > MAX_PROGRAM:
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
            before = name
    except (ValueError, IndexError, OverflowError, MemoryError, DeprecationWarning):
        # The warning is that of a damaged name, where the caller made warnings errors.
        n_bytes = len(stream.getbuffer())
        raise WeightsError(
            path,
            f"it is truncated or damaged: {n_bytes} bytes, and the description of "
            "the tensors does not end",
            _DOWNLOAD,
        ) from None


def _refuse(path: Path, what: str) -> NoReturn:
    raise WeightsError(path, f"it is {what}, not a plain weights file", _STATE_DICT)


def _refuse_name(path: Path, name: str) -> NoReturn:
    """Say what kind of thing a name in a pickle stands for."""
    module = name.split(" ")[0]
    shown = ascii(name.replace(" ", "."))[1:81].removesuffix("'")
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
