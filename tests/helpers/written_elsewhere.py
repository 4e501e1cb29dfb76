"""Image files that other programs write, and what they say is in them.

    python -m helpers.written_elsewhere --count 20

reads each file and prints by writer how many are right, refused, wrong or end in
another way; the folder tests must be on the path. A writer that is not installed is
left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.io_images import noise, smooth
from napari_swin2sr.errors import Swin2SRError
from napari_swin2sr.formats import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


@dataclass
class Written:
    """A file and what a reader must find: pixels in TCZYXS order without axes of 1."""

    path: Path
    pixels: NDArray[Any]
    pixel_size: dict[str, float] | None = None
    transform: tuple[float, ...] | None = None
    names: tuple[str, ...] | None = None
    nodata: float | None = None
    tolerance: float = 0


WRITERS: dict[str, tuple[tuple[str, ...], Any]] = {}


def writer(*modules: str) -> Callable[[Any], Any]:
    """Register a function that writes one random file with these libraries."""

    def register(function: Any) -> Any:
        WRITERS[function.__name__] = (modules, function)
        return function

    return register


def sides(rng: np.random.Generator) -> tuple[int, int]:
    """Draw a height and a width."""
    return int(rng.integers(20, 90)), int(rng.integers(20, 90))


def drawn(
    rng: np.random.Generator, shape: tuple[int, ...], *types: str
) -> NDArray[Any]:
    """Draw pixels of one of the types."""
    return noise(shape, str(rng.choice(types)), int(rng.integers(1000)))


INTEGERS = ("uint8", "uint16", "int16", "uint32", "int32")
NUMBERS = (*INTEGERS, "float32", "float64")


@writer("tifffile")
def plain_tiff(path: Path, rng: np.random.Generator) -> Written:
    import tifffile

    path = path / "a.tif"
    pixels = drawn(rng, (3, *sides(rng)), *NUMBERS)
    options: dict[str, Any] = {"photometric": "minisblack"}
    if rng.random() < 0.5:
        options["tile"] = (16, 32)
    options["compression"] = rng.choice(np.array([None, "zlib", "lzw", "zstd"]))
    options["byteorder"] = rng.choice(["<", ">"])
    options["bigtiff"] = bool(rng.random() < 0.5)
    tifffile.imwrite(path, pixels, **options)
    return Written(path, pixels)


@writer("tifffile")
def ome_tiff(path: Path, rng: np.random.Generator) -> Written:
    import tifffile

    path, size = path / "a.ome.tif", float(rng.uniform(0.1, 2))
    pixels = drawn(rng, (2, 3, *sides(rng)), "uint8", "uint16", "float32")
    metadata = {
        "axes": "CZYX", "PhysicalSizeX": size, "PhysicalSizeY": 2 * size,
        "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm",
        "Channel": {"Name": ["DNA", "actin"]},
    }  # fmt: skip
    tifffile.imwrite(path, pixels, ome=True, metadata=metadata)
    return Written(path, pixels, {"X": size, "Y": 2 * size}, names=("DNA", "actin"))


@writer("tifffile")
def imagej_tiff(path: Path, rng: np.random.Generator) -> Written:
    import tifffile

    path, size = path / "a.tif", float(rng.uniform(0.1, 2))
    pixels = drawn(rng, (3, 2, *sides(rng)), "uint8", "uint16", "float32")
    tifffile.imwrite(
        path, pixels, imagej=True, resolution=(1 / size, 1 / size),
        metadata={"axes": "ZCYX", "unit": "um", "spacing": 3.0},
    )  # fmt: skip
    return Written(path, pixels.swapaxes(0, 1), {"X": size, "Y": size, "Z": 3.0})


@writer("rasterio")
def geotiff(path: Path, rng: np.random.Generator) -> Written:
    import rasterio

    path, (height, width) = path / "a.tif", sides(rng)
    pixels = drawn(rng, (int(rng.integers(1, 6)), height, width), *NUMBERS)
    a, b, c, d, e, f = rng.uniform(-50, 50, 6)
    transform = rasterio.Affine(a, b, 1000 * c, d, e, 1000 * f)
    if rng.random() < 0.5:
        transform = rasterio.Affine(abs(a), 0, 1000 * c, 0, -abs(a), 1000 * f)
    options = {"compress": rng.choice(["none", "deflate", "lzw", "packbits"])}
    options["interleave"] = rng.choice(["band", "pixel"])
    crs = str(rng.choice(["EPSG:32633", "EPSG:4326", "EPSG:3857", "EPSG:2056"]))
    with rasterio.open(
        path, "w", "GTiff", width, height, len(pixels), crs, transform, pixels.dtype,
        nodata=7, photometric="minisblack", **options,
    ) as file:  # fmt: skip
        file.write(pixels)
    return Written(path, pixels.squeeze(), transform=tuple(transform)[:6], nodata=7)


@writer("rasterio")
def jpeg_2000(path: Path, rng: np.random.Generator) -> Written:
    import rasterio

    path, (height, width) = path / "a.jp2", sides(rng)
    pixels = drawn(rng, (2, height, width), "uint8", "uint16")
    transform = rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)
    with rasterio.open(
        path, "w", "JP2OpenJPEG", width, height, 2, "EPSG:32633", transform,
        pixels.dtype, reversible="YES", quality="100",
    ) as file:  # fmt: skip
        file.write(pixels)
    return Written(path, pixels, transform=tuple(transform)[:6])


@writer("PIL")
def pillow(path: Path, rng: np.random.Generator) -> Written:
    from PIL import Image

    kind = str(rng.choice(["png", "bmp", "tif", "webp", "gif", "jpg"]))
    mode = str(rng.choice(["L", "RGB", "RGBA", "P", "LA", "1"]))
    if (kind, mode) in {("bmp", "LA"), ("jpg", "RGBA"), ("jpg", "P"), ("jpg", "LA")}:
        mode = "RGB"
    path = path / f"a.{kind}"
    options: dict[str, Any] = {"lossless": True, "exact": True}
    picture = Image.fromarray(smooth((*sides(rng), 3), "uint8")).convert(mode)
    picture.save(path, **(options if kind == "webp" else {}))
    with Image.open(path) as judge:
        shown = judge.mode
        gray = shown in ("L", "1")
        alpha = shown in ("RGBA", "LA") or "transparency" in judge.info
        pixels = np.asarray(judge.convert("L" if gray else "RGBA" if alpha else "RGB"))
    return Written(path, pixels)


@writer("imageio")
def image_io(path: Path, rng: np.random.Generator) -> Written:
    import imageio.v3 as imageio

    path = path / f"a.{rng.choice(['png', 'tif', 'jpg'])}"
    imageio.imwrite(path, drawn(rng, (*sides(rng), 3), "uint8"))
    return Written(path, imageio.imread(path))


@writer("imagecodecs")
def codecs(path: Path, rng: np.random.Generator) -> Written:
    import imagecodecs

    pixels = drawn(rng, (*sides(rng), int(rng.choice([3, 4]))), "uint16")
    (path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    return Written(path / "a.png", pixels)


@writer("cv2")
def open_cv(path: Path, rng: np.random.Generator) -> Written:
    import cv2

    path = path / f"a.{rng.choice(['png', 'tif', 'jpg', 'webp', 'bmp'])}"
    n = int(rng.choice([1, 3]))
    pixels = drawn(rng, (*sides(rng), n) if n > 1 else sides(rng), "uint8")
    cv2.imwrite(str(path), pixels)
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return Written(path, read[..., ::-1] if read.ndim == 3 else read, tolerance=1)


@writer("SimpleITK")
def simple_itk(path: Path, rng: np.random.Generator) -> Written:
    import SimpleITK as sitk

    path = path / f"a.{rng.choice(['png', 'tif', 'bmp'])}"
    pixels = drawn(rng, sides(rng), "uint8")
    sitk.WriteImage(sitk.GetImageFromArray(pixels), str(path))
    return Written(path, pixels)


@writer("skimage")
def scikit_image(path: Path, rng: np.random.Generator) -> Written:
    from skimage import io

    pixels = drawn(rng, (*sides(rng), 4), "uint8", "uint16")
    io.imsave(path / "a.tif", pixels, check_contrast=False)
    return Written(path / "a.tif", pixels)


@writer("zarr")
def plain_zarr(path: Path, rng: np.random.Generator) -> Written:
    import zarr

    pixels = drawn(rng, (2, *sides(rng)), *NUMBERS)
    version: Any = int(rng.choice([2, 3]))
    options: dict[str, Any] = (
        {"dimension_names": ["c", "y", "x"]} if version == 3 else {}
    )
    array = zarr.create_array(
        path / "a.zarr", data=pixels, chunks=(1, 16, 16), zarr_format=version, **options
    )
    if version == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["c", "y", "x"]
    return Written(path / "a.zarr", pixels)


@writer("ome_zarr")
def ome_zarr_py(path: Path, rng: np.random.Generator) -> Written:
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image

    pixels = drawn(rng, (2, 3, *sides(rng)), "uint8", "uint16", "float32")
    size = [1.0, 2.0, *(float(v) for v in rng.uniform(0.1, 3, 2))]
    write_image(
        pixels, str(path / "a.ome.zarr"), axes="czyx", scaler=None,
        fmt=FormatV04() if rng.random() < 0.5 else FormatV05(),
        scale=dict(zip("czyx", size, strict=True)),
    )  # fmt: skip
    sizes = {"Z": 2.0, "Y": size[2], "X": size[3]}
    return Written(path / "a.ome.zarr", pixels, sizes)


@writer("tensorstore")
def tensor_store(path: Path, rng: np.random.Generator) -> Written:
    import tensorstore

    path = path / "a.zarr"
    pixels = drawn(rng, sides(rng), *NUMBERS)
    store = tensorstore.open(
        {
            "driver": str(rng.choice(["zarr", "zarr3"])),
            "kvstore": {"driver": "file", "path": str(path)},
        },
        create=True, dtype=pixels.dtype, shape=pixels.shape,
    ).result()  # fmt: skip
    store.write(pixels).result()
    return Written(path, pixels)


@writer("xarray")
def xarray_zarr(path: Path, rng: np.random.Generator) -> Written:
    import xarray as xr

    pixels = drawn(rng, sides(rng), "uint16", "float32")
    xr.Dataset({"a": (("y", "x"), pixels)}).to_zarr(path / "a.zarr", zarr_format=2)
    return Written(path / "a.zarr" / "a", pixels)


@writer("pylibCZIrw")
def zeiss(path: Path, rng: np.random.Generator) -> Written:
    from pylibCZIrw import czi

    pixels = drawn(rng, (2, *sides(rng)), "uint8", "uint16")
    size = float(rng.uniform(0.05, 2))
    with czi.create_czi(str(path / "a.czi")) as file:
        for c, plane in enumerate(pixels):
            file.write(plane, plane={"C": c, "Z": 0, "T": 0})
        file.write_metadata(
            "a", channel_names={0: "x", 1: "y"}, scale_x=size * 1e-6, scale_y=1e-6
        )
    sizes = {"X": size, "Y": 1.0}
    return Written(path / "a.czi", pixels, sizes, names=("x", "y"))


def verdict(written: Written) -> str:
    """Read a file and compare it with what its writer says."""
    begin = time.monotonic()
    try:
        image = open_image(written.path)
        data = np.asarray(image.data[...])
    except Swin2SRError as error:
        ok = str(written.path.name) in str(error)
        return "refused" if ok else f"nameless {error}"
    except Exception as error:
        return f"exception {type(error).__name__}: {error}"
    if time.monotonic() - begin > 20:
        return "hang"
    order = sorted(range(data.ndim), key=lambda k: "TCZYXS".index(image.axes[k]))
    data = data.transpose(order).squeeze()
    expected = written.pixels.squeeze()
    if expected.ndim == 2 and image.axes.endswith("S"):  # a table of grays
        expected = np.repeat(expected[..., None], data.shape[-1], -1)
    if data.shape != expected.shape:
        return f"wrong shape {data.shape} for {expected.shape} ({image.axes})"
    off = np.abs(data.astype(np.float64) - expected).max()
    if off > written.tolerance:
        return f"wrong pixels, by {off}"
    for axis, size in (written.pixel_size or {}).items():
        if abs(image.pixel_size.get(axis, 0) / size - 1) > 1e-6:
            return f"wrong pixel size {dict(image.pixel_size)}"
    if written.names and image.channel_names != written.names:
        return f"wrong names {image.channel_names}"
    if written.transform is not None and not np.allclose(
        image.transform or (), written.transform, rtol=1e-9
    ):
        return f"wrong transform {image.transform}"
    if written.nodata is not None and image.nodata != written.nodata:
        return f"wrong nodata {image.nodata}"
    return "right"


def verdicts(name: str, seeds: range) -> Iterator[str]:
    """Yield what becomes of the files that one writer writes."""
    _, write = WRITERS[name]
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield verdict(write(Path(folder), np.random.default_rng(seed)))


def is_there(name: str) -> bool:
    """Tell whether the libraries of a writer are installed."""
    return all(importlib.util.find_spec(module) for module in WRITERS[name][0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("writers", nargs="*", default=list(WRITERS))
    args = parser.parse_args()
    total: Counter[str] = Counter()
    for one in filter(is_there, args.writers):
        found = Counter(verdicts(one, range(args.count)))
        total += Counter(word.split(" ")[0] for word in found.elements())
        sys.stdout.write(json.dumps({"writer": one, **found}) + "\n")
    sys.stdout.write(json.dumps({"all": dict(total)}) + "\n")
