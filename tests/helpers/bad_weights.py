"""The catalogue of bad weight files, numbered as in the collection of faults.

A row is a writer of a file into an empty folder, and what the error must say.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from helpers.tiny import tiny_config, tiny_net

ROWS: list[tuple[str, Callable[[Path], Path], str]] = []
"""Identifier, writer, and a pattern that the reason matches."""


def row(identifier: str, reason: str) -> Callable[..., Callable[[Path], Path]]:
    """Enter a writer of a bad file into the catalogue."""

    def enter(writer: Callable[[Path], Path]) -> Callable[[Path], Path]:
        ROWS.append((identifier, writer, reason))
        return writer

    return enter


def state() -> dict[str, torch.Tensor]:
    return tiny_net().state_dict()


def saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def put(folder: Path, content: bytes, name: str = "a.pth") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def rezip(
    content: bytes, edit: Callable[[dict[str, bytes]], object], **options
) -> bytes:
    """Write the members of a file of torch.save anew, edited."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def header(content: object, body: bytes = b"", size: int | None = None) -> bytes:
    """Write a safetensors file with this header."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def entry(shape=(1,), offsets=(0, 4), dtype="F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# -- damaged -------------------------------------------------------------------------

for percent in (50, 90, 99.9):

    @row(f"W01-{percent}", r"truncated: \d+ bytes")
    def _truncated(folder, percent=percent):
        content = saved(state())
        return put(folder, content[: int(len(content) * percent / 100)])


@row("W02", r"truncated: \d+ bytes")
def _truncated_early(folder):
    content = saved(state())
    return put(folder, content[: len(content) // 10])


@row("W03", r"empty \(0 bytes\)")
def _empty(folder):
    return put(folder, b"")


for n, percent in enumerate((0.01, 5, 90)):

    @row(f"W04-{n}", "truncated")
    def _truncated_legacy(folder, percent=percent):
        content = saved(state(), _use_new_zipfile_serialization=False)
        return put(folder, content[: int(len(content) * percent / 100) + 5])


@row("W05", "damaged: checksum")
def _flipped(folder):
    content = bytearray(saved(state()))
    content[len(content) // 2] ^= 4
    return put(folder, bytes(content))


# -- something else ------------------------------------------------------------------


@row("W06-html", "a web page: the download failed")
def _html(folder):
    return put(folder, b"\n<!DOCTYPE html><html><body>Not Found</body></html>")


@row("W06-lfs", "a Git LFS pointer")
def _lfs(folder):
    return put(folder, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")


@row("W06-gzip", "gzip-compressed")
def _gzip(folder):
    return put(folder, gzip.compress(saved(state())))


@row("W06-text", "only 9 bytes and is no weights file")
def _text(folder):
    return put(folder, b"Not Found")


class Malicious:
    """Runs a program when it is unpickled without protection."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


@row("W07", "asks for posix.system.*malicious|asks for nt.system.*malicious")
def _malicious_zip(folder):
    return put(folder, saved({"a": torch.zeros(2), "b": Malicious()}))


@row("W08", "malicious")
def _malicious_legacy(folder):
    content = saved({"b": Malicious()}, _use_new_zipfile_serialization=False)
    return put(folder, content)


@row("W09", "pickle that PyTorch did not write.*malicious")
def _malicious_raw(folder):
    return put(folder, pickle.dumps(Malicious(), protocol=2))


@row("W09-4", "pickle that PyTorch did not write.*malicious")
def _malicious_raw_today(folder):
    return put(folder, pickle.dumps({"a": Malicious()}))


@row("W10-numpy", "NumPy objects")
def _numpy(folder):
    return put(folder, saved({"a": np.zeros(3)}))


@row("W10-npz", "archive of NumPy arrays")
def _npz(folder):
    np.savez(folder / "a.npz", a=np.zeros(3))
    return folder / "a.npz"


@row("W10-module", "torch.nn.modules.conv.Conv2d, which a state dict")
def _module(folder):
    return put(folder, saved(torch.nn.Conv2d(1, 1, 1)))


@row("W10-script", "a TorchScript program")
def _script(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), folder / "a.pt")
    return folder / "a.pt"


for n, (content, reason) in enumerate(
    [
        ([torch.zeros(2)], "it holds a list"),
        (None, "it holds a NoneType"),
        ({"params": None}, "it holds a NoneType"),
        ({1: torch.zeros(2)}, "one key is a int"),
        ({"a": 3}, "'a' is a int"),
        ({}, "an empty collection, not Swin2SR"),
    ]
):

    @row(f"W11-{n}", reason)
    def _no_dictionary(folder, content=content):
        return put(folder, saved(content))


# -- bombs ---------------------------------------------------------------------------


@row("W12", "compressed")
def _bomb_in_the_pickle(folder):
    def edit(members):
        members["archive/data.pkl"] = b"\x80\x02" + b"(" * (200 << 20)

    content = rezip(saved(state()), edit, compression=zipfile.ZIP_DEFLATED)
    return put(folder, content)


@row("W13", "compressed")
def _bomb_in_a_storage(folder):
    def edit(members):
        members["archive/data/0"] = bytes(200 << 20)

    content = rezip(saved(state()), edit, compression=zipfile.ZIP_DEFLATED)
    return put(folder, content)


@row("W14", "compressed")
def _deflated(folder):
    options: dict[str, Any] = {"compression": zipfile.ZIP_DEFLATED}
    return put(folder, rezip(saved(state()), lambda members: None, **options))


for exponent, reason in {30: r"claims \d+ bytes, more than", 40: "LONG1"}.items():

    @row(f"W15-{exponent}", reason)
    def _expanded(folder, exponent=exponent):
        bad = state()
        bad["swin2sr.first_convolution.weight"] = torch.zeros(1).expand(2**exponent)
        return put(folder, saved(bad))


@row("W15-many", r"claims \d+ bytes, more than the file holds")
def _many_views(folder):
    whole = torch.zeros(100_000)
    return put(folder, saved({f"a{i}": whole[:] for i in range(1000)}))


for name, tensor in {
    "meta": torch.empty(2, device="meta"),
    "sparse": torch.eye(3).to_sparse(),
    "complex": torch.zeros(2, dtype=torch.complex64),
    "float8": torch.zeros(2).to(torch.float8_e4m3fn),
}.items():

    @row(f"W16-{name}", "which a state dict of plain tensors never does")
    def _odd_tensor(folder, tensor=tensor):
        return put(folder, saved({"a": tensor}))


@row("W16-int", "holds int32, not floating-point")
def _integers(folder):
    return put(folder, saved({k: v.to(torch.int32) for k, v in state().items()}))


@row("W17-missing", "PyTorch cannot read it")
def _missing_storage(folder):
    content = rezip(saved(state()), lambda members: members.pop("archive/data/0"))
    return put(folder, content)


@row("W17-short", "PyTorch cannot read it|more than the file holds")
def _short_storage(folder):
    def edit(members):
        members["archive/data/0"] = members["archive/data/0"][:4]

    return put(folder, rezip(saved(state()), edit))


@row("W17-pickle", "no data.pkl")
def _no_pickle(folder):
    content = rezip(saved(state()), lambda members: members.pop("archive/data.pkl"))
    return put(folder, content)


@row("W17-path", "members outside of itself")
def _outside(folder):
    def edit(members):
        members["archive/../../evil"] = b"x"

    return put(folder, rezip(saved(state()), edit))


for n, marks in enumerate((2_000_000, 900_000)):

    @row(f"W18-{n}", "a pickle too long for weights")
    def _deep(folder, marks=marks):
        def edit(members):
            members["archive/data.pkl"] = b"\x80\x02" + b"(" * marks + b"."

        return put(folder, rezip(saved(state()), edit))


@row("W18-tuples", "one tuple in several places")
def _nested_tuples(folder):
    """A key whose hash takes 2**60 steps."""
    program = b"\x80\x02}" + b")" + b"q\x00"
    for level in range(60):
        again = b"h" + bytes([level])
        program += again + b"\x86" + b"q" + bytes([level + 1])
    program += b"K\x01s."

    def edit(members):
        members["archive/data.pkl"] = program

    return put(folder, rezip(saved(state()), edit))


@row("W18-deep-tuples", "more than 20 nested objects")
def _deep_tuples(folder):
    """A key whose hash uses up the stack."""
    program = b"\x80\x02})" + b"\x85" * 99_000 + b"K\x01s."

    def edit(members):
        members["archive/data.pkl"] = program

    return put(folder, rezip(saved(state()), edit))


@row("W15-masks", r"claims \d+ bytes, more than the file holds")
def _many_masks(folder):
    whole = torch.zeros(3000 + 100_000)
    masks = {f"a{i}.attn_mask": whole[i : i + 100_000] for i in range(3000)}
    return put(folder, saved(state() | masks))


@row("W17-folder-flag", "an archive with folders in it")
def _folder_flag(folder):
    """One bit, for which PyTorch silently leaves the memory as it was."""
    content = bytearray(saved(state()))
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
    while b"/data/3" not in content[entry : entry + 80]:
        entry = content.index(b"PK\x01\x02", entry + 1)
    content[entry + 38] ^= 0x10
    return put(folder, bytes(content))


@row("W11-method", "an empty collection, not Swin2SR")
def _method_replaced(folder):
    """An OrderedDict whose `items` is a number."""
    program = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb."

    def edit(members):
        members["archive/data.pkl"] = program

    return put(folder, rezip(saved(state()), edit))


# -- no file -------------------------------------------------------------------------


@row("W19-loop", "cannot be opened")
def _loop(folder):
    (folder / "a.pth").symlink_to(folder / "b.pth")
    (folder / "b.pth").symlink_to(folder / "a.pth")
    return folder / "a.pth"


@row("W19-dangling", "no such file")
def _dangling(folder):
    (folder / "a.pth").symlink_to(folder / "nothing")
    return folder / "a.pth"


@row("W19-folder", "the folder holds no weights")
def _folder(folder):
    (folder / "a.pth").mkdir()
    return folder / "a.pth"


@row("W19-several", r"several weights files \(a.pth, b.pth\)")
def _several(folder):
    put(folder, saved(state()))
    put(folder, saved(state()), "b.pth")
    return folder


@row("W19-nothing", "no such file")
def _nothing(folder):
    return folder / "a.pth"


if hasattr(os, "mkfifo"):

    @row("W20-pipe", "a pipe or a device")
    def _pipe(folder):
        os.mkfifo(folder / "a.pth")
        return folder / "a.pth"

    @row("W20-device", "a pipe or a device")
    def _device(folder):
        return Path("/dev/zero")


@row("W20-huge", "no Swin2SR network needs more")
def _huge(folder):
    path = put(folder, saved(state()))
    os.truncate(path, 1 << 40)  # a hole: takes no space
    return path


@row("W20-zeros", "its content is unknown")
def _zeros(folder):
    path = put(folder, b"")
    os.truncate(path, 1 << 29)
    return path


# -- safetensors ---------------------------------------------------------------------

SAFETENSORS = {
    "W22": (b"\0" * 7, "truncated: only 7 bytes"),
    "W23-header": (header({"a": entry()}, b"1234")[:20], "truncated"),
    "W23-body": (header({"a": entry()}, b"123"), "truncated: 3 of 4 bytes"),
    "W24": (header({"a": entry()}, b"1234junk"), "4 bytes follow"),
    "W25-2^63": (header({"a": entry()}, size=1 << 63), "claims 9223372036854775808"),
    "W25-2^32": (header({"a": entry()}, size=1 << 32), "claims 4294967296"),
    "W25-99M": (header({"a": entry()}, size=99_000_000), "claims 99000000"),
    "W26": (header(b'{"a": '), "header is damaged"),
    "W26-nan": (header(b'{"a": NaN}'), "header is damaged"),
    "W27": (header(b'{"a":' + b"[" * 900_000), "header is damaged: too deep"),
    "W28": (header(b'{"\xff\xfe": 1}'), "header is damaged"),
    "W29-array": (header([1, 2]), "invalid type: sequence"),
    "W29-negative": (
        header({"a": entry(offsets=(-4, 0))}),
        "invalid value: integer `-4`",
    ),
    "W30-hole": (
        header({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
        "(?i:invalid ?offset).*b",
    ),
    "W30-overlap": (
        header({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)),
        "(?i:invalid ?offset).*b",
    ),
    "W30-start": (
        header({"a": entry(offsets=(4, 8))}, bytes(8)),
        "(?i:invalid ?offset).*a",
    ),
    "W31-overflow": (
        header({"a": entry(shape=(1 << 40,) * 4)}, b"1234"),
        "overflow computing buffer size|ValidationOverflow",
    ),
    "W31-size": (
        header({"a": entry(shape=(2,))}, b"1234"),
        "invalid shape, data type, or offset|TensorInvalidInfo",
    ),
    "W31-true": (
        header({"a": entry(shape=(True,))}, b"1234"),
        "invalid type: boolean `true`",
    ),
    "W32": (header({"a": entry(dtype="F7")}, b"1234"), "unknown variant `F7`"),
    "W33": (
        header({"a": entry(), "__metadata__": {"b": 1}}, b"1234"),
        "invalid type: integer `1`, expected a string",
    ),
    "W34": (
        header(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
        "'a' occurs twice",
    ),
    "W34-many": (
        header(
            b"{%s}"
            % b",".join(
                b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % (i % 16_000)
                for i in range(16_001)
            )
        ),
        "'0' occurs twice",
    ),
    "W34-escape": (
        header({"\x1b[2J" + "a" * 900_000: {"dtype": "F32"}}),
        "header is damaged",
    ),
    "W35": (header(b"{" + b" " * (90 << 20) + b"}"), "its header claims 94371842"),
}

for identifier, (damaged, reason) in SAFETENSORS.items():

    @row(identifier, reason)
    def _bad_safetensors(folder, content=damaged):
        return put(folder, content, "a.safetensors")


# -- no such network -----------------------------------------------------------------


def changed(**changes: torch.Tensor | None) -> Callable[[Path], Path]:
    """Write a whole network with some tensors changed or left out."""

    def writer(folder: Path) -> Path:
        bad = state()
        for name, value in changes.items():
            if value is None:
                del bad[name.replace("__", ".")]
            else:
                bad[name.replace("__", ".")] = value
        safetensors.torch.save_file(bad, folder / "model.safetensors")
        tiny_config().save_pretrained(folder)
        return folder

    return writer


LAST = "upsample__conv__weight"
SCALE = "swin2sr__encoder__stages__0__layers__0__attention__self__logit_scale"
FIRST = "swin2sr__first_convolution__weight"
for identifier, writer, reason in [
    (
        "W36-missing",
        changed(upsample__conv__bias=None),
        "upsample.conv.bias is missing",
    ),
    ("W36-unexpected", changed(a__b=torch.ones(2)), "a.b is unexpected"),
    (
        "W36-escape",
        changed(**{"a\x1b[2J" + "b" * 5000: torch.ones(2)}),
        r"a\\x1b\[2Jb+\.\.\. is unexpected",
    ),
    (
        "W36-shape",
        changed(upsample__conv__bias=torch.ones(13)),
        "upsample.conv.bias is 13, not 12",
    ),
    ("W36-head", changed(upsample__conv__weight=None), "1 tensors are not those"),
    (
        "W36-body",
        changed(**{SCALE: torch.ones(3, 1, 1)}),
        r"num_heads=\(2, 2\), but the weights have \(3, 2\)|logit_scale is 3 x 1 x 1",
    ),
    ("W37-nan", changed(**{LAST: torch.full((12, 12, 3, 3), np.nan)}), "holds NaN"),
    ("W37-inf", changed(**{LAST: torch.full((12, 12, 3, 3), np.inf)}), "up to inf"),
    ("W37-zero", changed(**{LAST: torch.zeros(12, 12, 3, 3)}), "zero everywhere"),
    ("W37-first", changed(**{FIRST: torch.zeros(12, 3, 3, 3)}), "zero everywhere"),
    ("W37-scale", changed(**{SCALE: torch.full((2, 1, 1), 2e4)}), "up to 20000"),
    (
        "W37-half",
        changed(**{LAST: torch.full((12, 12, 3, 3), 65504.0).half()}),
        "up to 65504",
    ),
]:
    row(identifier, reason)(writer)

OTHERS = {
    "SwinIR": "attn.relative_position_bias_table attn.qkv.weight mlp.fc1.weight",
    "HAT": "attn.relative_position_bias_table conv_block.cab.0.weight mlp.fc1.weight",
    "Swin2-MoSE": "attn.logit_scale attn.cpb_mlp.0.weight mlp.w_gate "
    "mlp.experts.0.fc1.weight",
}
for other, names in OTHERS.items():

    @row(f"W38-{other}", f"this is {other}, not Swin2SR")
    def _other_network(folder, names=names):
        block = "layers.0.residual_group.blocks.0."
        tensors = {block + name: torch.ones(2) for name in names.split()}
        return put(folder, saved({"conv_first.weight": torch.ones(2)} | tensors))


@row("W38-hf", "pixelshuffle_hf of this Swin2SR is not supported")
def _head_hf(folder):
    tensors = dict.fromkeys(("conv_first.weight", "layers_hf.0.weight"), torch.ones(2))
    return put(folder, saved({k: v.clone() for k, v in tensors.items()}))


@row("W38-any", "another kind of network")
def _other(folder):
    return put(folder, saved(torch.nn.Linear(2, 2).state_dict()))
