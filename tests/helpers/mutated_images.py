"""Image files with flipped bits, cut off, spliced: what does opening them come to?

    python -m helpers.mutated_images tiff --count 10000 --seed 0

prints the counts of a kind; the folder tests must be on the path. Every outcome must
be the same pixels, or a `Swin2SRError` within 5 s; other pixels are counted, as most
formats have no checksum. Files are opened in a process of their own, so that a crash
is an outcome too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import lzma
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image

from helpers.io_images import smooth
from napari_swin2sr.errors import Swin2SRError
from napari_swin2sr.formats import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 5.0
ND2 = Path(__file__).parents[1] / "data" / "nd2" / "example-zstack.nd2.xz"
GRAY = smooth((40, 48), "uint8")
COLOR = smooth((40, 48, 3), "uint8")


def _tiff(**options: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, smooth((2, 40, 48)), **options)


def _picture(kind: str, pixels: Any, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(pixels).save(path, kind, **options)

    return write


def _geotiff(path: Path, driver: str = "GTiff") -> None:
    import rasterio

    transform = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    options = {"transform": transform, "crs": "EPSG:32633", "nodata": 0}
    with rasterio.open(path, "w", driver, 48, 40, 3, dtype="uint16", **options) as file:
        file.write(smooth((3, 40, 48)))


def _czi(path: Path) -> None:
    from pylibCZIrw import czi

    path.unlink(missing_ok=True)
    with czi.create_czi(str(path)) as file:
        file.write(smooth((40, 48)), plane={"C": 0, "Z": 0, "T": 0})


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "tiff": ("a.tif", _tiff(photometric="minisblack")),
    "tiff tiles": ("a.tif", _tiff(tile=(16, 16), compression="zlib", predictor=True)),
    "ome-tiff": ("a.ome.tif", _tiff(ome=True, metadata={"axes": "CYX"})),
    "geotiff": ("a.tif", _geotiff),
    "jpeg 2000": ("a.jp2", lambda path: _geotiff(path, "JP2OpenJPEG")),
    "png": ("a.png", _picture("PNG", COLOR)),
    "jpeg": ("a.jpg", _picture("JPEG", COLOR)),
    "progressive jpeg": ("a.jpg", _picture("JPEG", GRAY, progressive=True)),
    "gif": ("a.gif", _picture("GIF", GRAY)),
    "bmp": ("a.bmp", _picture("BMP", COLOR)),
    "webp": ("a.webp", _picture("WEBP", COLOR, lossless=True)),
    "svs": ("a.svs", _tiff(description="Aperio Image Library v12 |MPP = 0.5")),
    "czi": ("a.czi", _czi),
    "nd2": ("a.nd2", lambda p: p.write_bytes(lzma.decompress(ND2.read_bytes()))),
}


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the file with a few things wrong, more often near its ends."""
    out, n = bytearray(data), len(data)
    for _ in range(int(rng.integers(1, 4))):
        where = rng.random()
        at = int(rng.integers(n)) if where < 0.5 else int(rng.integers(min(n, 400)))
        at = n - 1 - at if where > 0.85 else at
        at = min(at, len(out) - 1)
        kind = int(rng.integers(6))
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at] = int(rng.choice([0, 1, 127, 128, 255]))
        elif kind == 2:
            value = int(rng.choice([0, 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]))
            out[at : at + 4] = value.to_bytes(4, "little" if at % 2 else "big")
        elif kind == 3:
            del out[max(at, 20) :]
        elif kind == 4:
            other = int(rng.integers(n))
            out[at : at + 16] = data[other : other + 16]
        else:
            out[at:at] = bytes(rng.integers(0, 256, 8, np.uint8))
    return bytes(out) or b"\0"


def outcome(path: Path, truth: Any) -> str:
    """Open a file and read all its pixels."""
    begin = time.process_time()  # others may keep the machine busy
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = open_image(path)
            index = tuple(slice(0, 200) for _ in image.shape)
            pixels = np.asarray(image.data[index])
        same = pixels.shape == truth.shape and np.array_equal(pixels, truth)
        result = "same" if same else "other"
    except Swin2SRError as error:
        result = "refused" if str(path.name) in str(error) else "nameless"
    except MemoryError:
        result = "refused"
    except Exception as error:
        result = f"raw {type(error).__name__}: {str(error)[:80]}"
    return f"slow {result}" if time.process_time() - begin > SECONDS else result


def outcomes(kind: str, seeds: range, folder: Path) -> Iterator[tuple[int, str]]:
    """Yield what each seed's mutation of a file of that kind comes to."""
    name, write = KINDS[kind]
    whole, path = folder / f"whole-{name}", folder / name
    write(whole)
    truth = np.asarray(open_image(whole).data[...])
    data = whole.read_bytes()
    for seed in seeds:
        path.write_bytes(mutated(data, np.random.default_rng(seed)))
        yield seed, outcome(path, truth)


def _batch(kind: str, seeds: range, folder: str, results: Any) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    with contextlib.redirect_stderr(io.StringIO()):
        for found in outcomes(kind, seeds, Path(folder)):
            results.put(found)


def run(kind: str, count: int, first: int = 0, batch: int = 500) -> dict[str, Any]:
    """Return how often each outcome came, and the seeds of those that must not be."""
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    bad: dict[str, int] = {}

    def note(seed: int, result: str) -> None:
        counts[result.split(" ")[0]] += 1
        if result not in ("same", "other", "refused"):
            bad.setdefault(result, seed)

    at = first
    with tempfile.TemporaryDirectory() as folder:
        while at < first + count:
            seeds = range(at, min(at + batch, first + count))
            results = context.Queue()
            process = context.Process(
                target=_batch, args=(kind, seeds, folder, results)
            )
            process.start()
            done = 0
            for seed, result in _received(results, process, len(seeds)):
                note(seed, result)
                done += 1
            process.join()
            at += done
            if done < len(seeds):
                note(at, f"crash {process.exitcode}")
                at += 1
    return {"kind": kind, "n": count, **counts, "bad": bad}


def _received(results: Any, process: Any, n: int) -> Iterator[tuple[int, str]]:
    import queue

    for _ in range(n):
        for _ in range(120):
            try:
                yield results.get(timeout=0.5)
                break
            except queue.Empty:
                if not process.is_alive() and results.empty():
                    return
        else:
            process.kill()
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=[*KINDS, "all"])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for one in KINDS if "all" in args.kinds else args.kinds:
        begin = time.monotonic()
        table = run(one, args.count, args.seed)
        table["seconds"] = round(time.monotonic() - begin)
        sys.stdout.write(json.dumps(table) + "\n")
