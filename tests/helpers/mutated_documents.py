"""Metadata of OME-Zarr and OME-TIFF with values that nobody expects.

    python -m helpers.mutated_documents --count 5000

prints what opening the images comes to; the folder tests must be on the path. It must
be an image that can be read, or a `Swin2SRError` that names the place, within 5 s.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import zarr

from helpers.io_images import smooth
from napari_swin2sr.errors import Swin2SRError
from napari_swin2sr.formats import open_image

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 5.0
PIXELS = smooth((2, 40, 48))
JUNK: list[Any] = [
    *(None, True, 0, 1, -1, 2**31, 2**63, 1e308, -0.5, "", "x", "0", "\ud800", "é" * 9),
    *([], {}, [1], [[]], {"a": 1}, [None] * 3, "nan", "../..", "/etc", ["y", "x"]),
]


def documents(folder: Path) -> Iterator[tuple[str, Path, Path, dict[str, Any]]]:
    """Yield (kind, image, document, content) of every kind of Zarr document."""
    for version in (2, 3):
        place = folder / f"{version}.ome.zarr"
        group = zarr.create_group(place, zarr_format=version)
        options: Any = {"dimension_names": ["c", "y", "x"]} if version == 3 else {}
        group.create_array("0", data=PIXELS, chunks=(1, 16, 16), **options)
        axes = [{"name": a, "type": t} for a, t in
                zip("cyx", ("channel", "space", "space"), strict=True)]  # fmt: skip
        step = {"type": "scale", "scale": [1, 0.5, 0.5]}
        image: Any = {
            "version": f"0.{version + 2}",
            "axes": axes,
            "datasets": [{"path": "0", "coordinateTransformations": [step]}],
        }
        channels = [{"label": "a", "color": "FF0000", "window": {"start": 0, "end": 9}}]
        ome: Any = {"multiscales": [image], "omero": {"channels": channels}}
        group.attrs.update({"ome": ome | {"version": "0.5"}} if version == 3 else ome)
        names = (
            ("zarr.json", "0/zarr.json") if version == 3 else (".zattrs", "0/.zarray")
        )
        for name in names:
            document = place / name
            yield f"{version} {name}", place, document, json.loads(document.read_text())


def changed(content: Any, rng: np.random.Generator) -> Any:
    """Return a copy with one to three values replaced, removed or added."""
    out = copy.deepcopy(content)
    for _ in range(int(rng.integers(1, 4))):
        node, junk = out, copy.deepcopy(JUNK[int(rng.integers(len(JUNK)))])
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = keys[int(rng.integers(len(keys)))]
            if isinstance(node[key], (dict, list)) and rng.random() < 0.8:
                node = node[key]
                continue
            if rng.random() < 0.2:
                del node[key]
            elif rng.random() < 0.1 and isinstance(node, list):
                node.append(junk)
            else:
                node[key] = junk
            break
    return out


def outcome(place: Path) -> str:
    """Open an image and read all its pixels."""
    begin = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image(place)
            np.asarray(image.data[tuple(slice(0, 50) for _ in image.shape)])
        result = "read"
    except Swin2SRError as error:
        result = "refused" if place.name in str(error) else f"nameless {error}"
    except MemoryError:
        result = "refused"
    except Exception as error:
        result = f"raw {type(error).__name__}: {str(error)[:90]}"
    return f"slow {result}" if time.process_time() - begin > SECONDS else result


def zarr_outcomes(seeds: range, folder: Path) -> Iterator[tuple[int, str]]:
    """Yield what each seed's change of each document comes to."""
    found = list(documents(folder))
    for seed in seeds:
        rng = np.random.default_rng(seed)
        _, place, document, content = found[seed % len(found)]
        document.write_text(json.dumps(changed(content, rng)))
        yield seed, outcome(place)
        document.write_text(json.dumps(content))


def xml_outcomes(seeds: range, folder: Path) -> Iterator[tuple[int, str]]:
    """Yield what each seed's change of an OME-XML comes to."""
    path = folder / "a.ome.tif"
    metadata = {
        "axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5, "Channel": {"Name": ["a", "b"], "Color": [1, 2]},
    }  # fmt: skip
    tifffile.imwrite(path, PIXELS, ome=True, metadata=metadata)
    data = path.read_bytes()
    begin, end = data.index(b"<OME"), data.index(b"</OME>")
    for seed in seeds:
        rng = np.random.default_rng(seed)
        out = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(begin, end - 8))
            junk = str(JUNK[int(rng.integers(len(JUNK)))]).encode("utf-8", "replace")[
                :8
            ]
            out[at : at + len(junk)] = junk
        path.write_bytes(out)
        yield seed, outcome(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    args = parser.parse_args()
    for run in (zarr_outcomes, xml_outcomes):
        counts: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as name:
            for number, word in run(range(args.count), Path(name)):
                counts[word.split(" ")[0]] += 1
                if word not in ("read", "refused"):
                    sys.stdout.write(f"{number}: {word}\n")
        sys.stdout.write(json.dumps({"kind": run.__name__, **counts}) + "\n")
