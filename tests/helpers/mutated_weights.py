"""Damaged weight files by the thousand, each read in a thread with a small stack.

    python -m helpers.mutated_weights COUNT SEED

reads `COUNT` files of every kind and prints, as JSON, what was neither the right
weights nor a `WeightsError` within five seconds. It is a process of its own because
the worst outcome is its end.
"""

from __future__ import annotations

import json
import pickletools
import random
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from helpers.bad_weights import rezip, saved, state
from helpers.tiny import tiny_config
from napari_swin2sr.errors import Swin2SRError, WeightsError
from napari_swin2sr.model import Swin2SRConfig
from napari_swin2sr.weights.checkpoint import read_weights

SECONDS = 5.0
STACK = 512 << 10  # bytes; the smallest default of a system that PyTorch runs on

WILD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, -0.5, float("nan")),
    *("", "x", "\x1b[31m", "a" * 900_000, [], [1], [[[]]], {}, {"a": {}}, ["6"] * 3),
)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, overwrite, double or move parts, one to three times."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        # half of the edits at an end, where the descriptions are
        size = len(data)
        if size == 0:
            break
        edge = min(size, 3000)
        at = rng.randrange(size)
        at = rng.choice([at, at % edge, size - 1 - at % edge])
        n = rng.choice([1, 2, 4, 8, 100])
        kind = rng.randrange(6)
        if kind <= 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at : at + n] = rng.randbytes(n)
        elif kind == 3:
            del data[at : at + n]
        elif kind == 4:
            data[at:at] = data[at : at + n]
        else:
            del data[at:]
    return bytes(data)


def mutate_members(content: bytes, rng: random.Random) -> bytes:
    """Edit a member of an archive and write it with valid checksums."""

    def edit(members: dict[str, bytes]) -> None:
        name = rng.choice([*members, "archive/data.pkl"])
        members[name] = mutate(members[name], rng)

    return rezip(content, edit)


def mutate_pickle(content: bytes, rng: random.Random) -> bytes:
    """Exchange commands of the pickle of an archive for others."""

    def edit(members: dict[str, bytes]) -> None:
        program = members["archive/data.pkl"]
        ends = [position for _, _, position in pickletools.genops(program)]
        parts = [
            program[a:b] for a, b in zip(ends, [*ends[1:], len(program)], strict=True)
        ]
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(parts))
            other = rng.choice([*parts, b"\x86", b"\x85", b"}", b"b", b"R", b"(", b"0"])
            parts[at : at + rng.randrange(2)] = [other] * rng.choice([1, 1, 2, 3000])
        members["archive/data.pkl"] = b"".join(parts)

    return rezip(content, edit)


def mutate_directory(content: bytes, rng: random.Random) -> bytes:
    """Change a field of the directory at the end of an archive."""
    data = bytearray(content)
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    at = rng.choice(entries) + rng.choice([4, 6, 8, 10, 16, 20, 24, 28, 36, 38, 42])
    old = struct.unpack("<H", data[at : at + 2])[0]
    new = rng.choice([old ^ 1 << rng.randrange(16), old + 1 & 0xFFFF, 0, 0xFFFF])
    data[at : at + 2] = struct.pack("<H", new)
    return bytes(data)


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Put wild values into a mapping, at any depth, or raw edits into its text."""
    if rng.random() < 0.3:
        return mutate(content, rng)
    values = json.loads(content)
    place = values
    for _ in range(rng.randint(1, 3)):
        key = rng.choice([*place, "new\x1b"]) if isinstance(place, dict) else None
        if key is None:
            break
        if isinstance(place.get(key), dict) and rng.random() < 0.8:
            place = place[key]
            continue
        place[key] = rng.choice(WILD)
    text = json.dumps(values)
    return (text[:-1] + "," + text[1:] if rng.random() < 0.1 else text).encode()


def mutate_header(content: bytes, rng: random.Random) -> bytes:
    """Edit the header of a safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header = mutate_json(content[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def stored(content: dict[str, torch.Tensor]) -> bytes:
    """A file of torch.save, written anew without alignment: easier to edit."""
    return rezip(saved(content), lambda members: None)


def cases() -> dict[str, tuple[bytes, object]]:
    """Return kind -> good content, and how it is damaged."""
    archive, tensors = stored(state()), safetensors.torch.save(state(), {"a": "b"})
    legacy = saved(state(), _use_new_zipfile_serialization=False)
    config = json.dumps(tiny_config().to_dict()).encode()
    return {
        "zip": (archive, mutate),
        "zip-members": (archive, mutate_members),
        "zip-pickle": (archive, mutate_pickle),
        "zip-directory": (archive, mutate_directory),
        "legacy": (legacy, mutate),
        "safetensors": (tensors, mutate),
        "safetensors-header": (tensors, mutate_header),
        "config.json": (config, mutate_json),
    }


EXACT = {"zip", "zip-directory"}
"""Kinds whose checksums tell every change of a number."""


def outcome(kind: str, content: bytes, folder: Path) -> str:
    """Read a file; return "" if that is as it should be, else what is wrong."""
    path = folder / ("config.json" if kind == "config.json" else "a.pth")
    path.write_bytes(content)
    start = time.perf_counter()
    try:
        if kind == "config.json":
            Swin2SRConfig.from_pretrained(path)
            found = None
        else:
            found, _, _ = read_weights(path, tiny_config())
    except WeightsError as error:
        said = str(error)
        if len(said) > 1500 or not said.replace("\n", "").isprintable():
            return f"message {said[:200]!r}"
        found = None
    except Swin2SRError as error:
        return f"not a WeightsError: {error!r}"
    except Exception as error:
        return f"raised {error!r}"[:300]
    if time.perf_counter() - start > SECONDS:
        return f"{time.perf_counter() - start:.1f} s"
    if found is None:
        return ""
    good = state()
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in good.items()}:
        return "other tensors"
    if not all(bool(v.isfinite().all()) for v in found.values()):
        return "numbers that are not finite"
    if kind in EXACT and not all(torch.equal(found[k], v) for k, v in good.items()):
        return "other weights"
    return ""


def run(count: int, seed: int) -> dict[str, list[str]]:
    """Return kind -> what went wrong, with the seed that shows it again."""
    wrong: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (content, damage) in cases().items():
            wrong[kind] = []
            for number in range(count):
                rng = random.Random(f"{kind} {seed} {number}")
                bad = damage(content, rng)  # type: ignore[operator]
                print(kind, seed, number, file=sys.stderr)  # noqa: T201
                said = outcome(kind, bad, Path(folder))
                if said:
                    wrong[kind].append(f"{number}: {said}")
    return wrong


def main() -> None:
    """Run in a thread whose stack is small."""
    found: list[dict[str, list[str]]] = []
    count, seed = map(int, sys.argv[1:])
    threading.stack_size(STACK)
    thread = threading.Thread(target=lambda: found.append(run(count, seed)))
    thread.start()
    thread.join()
    json.dump(found[0], sys.stdout)


if __name__ == "__main__":
    main()
