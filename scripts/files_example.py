"""Make the images and pictures of docs/files.md.

    python scripts/files_example.py [FOLDER]

Two files are made and super-resolved with the embedded model: a two-channel
microscopy OME-Zarr (the stains of a tissue section that ships with scikit-image) and
a four-band GeoTIFF (a landscape that is computed here). Both are binned 2 x 2 first,
so that the results can be compared with the truth.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

import napari_swin2sr as nsr
from napari_swin2sr.formats import open_image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "images"
UTM_33N = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
CROP, ZOOM = 128, 3


def main(folder: Path) -> None:
    """Make everything in `folder`, and the pictures in the documentation."""
    PICTURES.mkdir(exist_ok=True)
    stains = tissue()
    write_ome_zarr(binned(stains), folder / "tissue.ome.zarr")
    nsr.upscale_file(folder / "tissue.ome.zarr", folder / "tissue-x2.ome.zarr")
    result = open_image(folder / "tissue-x2.ome.zarr").data[...]
    colors = np.array([[60, 120, 255], [255, 140, 40]]) / 255
    compare("files-tissue.png", stains, result, colors, corner=(190, 130))

    truth = landscape()
    write_geotiff(binned(truth), folder / "scene.tif")
    nsr.upscale_file(folder / "scene.tif", folder / "scene-x2.tif")
    result = np.asarray(open_image(folder / "scene-x2.tif").data[...])
    colors = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0.0, 0.1, 0]])  # as eyes see
    compare("files-scene.png", truth, result, colors, corner=(150, 210))


def tissue() -> np.ndarray:
    """Return the densities of two stains, (2, 512, 512) uint16: nuclei and marker."""
    from skimage import color, data

    density = color.rgb2hed(data.immunohistochemistry())
    stains = density[..., [0, 2]].transpose(2, 0, 1)
    high = stains.max(axis=(1, 2), keepdims=True)
    return (np.clip(stains / high, 0, 1) * 40000 + 400).astype(np.uint16)


def landscape(side: int = 512, seed: int = 4) -> np.ndarray:
    """Return reflectances of fields, roads and a river, (4, Y, X) uint16: B G R NIR."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(float)
    sway = 14 * np.sin(x / 71) + 9 * np.cos(y / 53)
    seeds = rng.uniform(0, side, (70, 2))
    distance = np.hypot(y[..., None] + sway[..., None] - seeds[:, 0],
                        x[..., None] - seeds[:, 1])  # fmt: skip
    nearest = np.argsort(distance, axis=-1)[..., :2]
    field = nearest[..., 0]
    margin = np.diff(np.take_along_axis(distance, nearest, -1), axis=-1)[..., 0]
    green = rng.uniform(0, 1, 70)[field]
    angle, period = rng.uniform(0, np.pi, 70)[field], rng.uniform(5, 11, 70)[field]
    rows = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    speckle = rng.normal(0, 1, (side, side))
    plants = green * (1 + 0.18 * rows) + 0.03 * speckle
    bands = np.stack(
        [
            600 + 250 * (1 - plants),
            700 + 380 * plants + 250 * (1 - green),
            500 + 1300 * (1 - plants),
            1500 + 3300 * plants,
        ]
    )
    road = margin < 2.5
    bands[:, road] = np.array([1300, 1400, 1500, 1700])[:, None]
    river = np.abs(y - side / 2 - 90 * np.sin(x / 90) + 0.3 * x - 70) < 9
    bands[:, river] = np.array([900, 800, 450, 200])[:, None]
    return np.clip(bands, 1, 10000).astype(np.uint16)


def binned(image: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 pixels, as a camera or a satellite integrates them."""
    c, h, w = image.shape
    means = image.reshape(c, h // 2, 2, w // 2, 2).mean(axis=(2, 4))
    return np.rint(means).astype(image.dtype)


def write_ome_zarr(stains: np.ndarray, path: Path) -> None:
    """Write an OME-Zarr 0.5 as a microscope's software would."""
    group = zarr.create_group(path, overwrite=True)
    group.create_array("0", data=stains, chunks=(1, 128, 128))
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    scale = {"type": "scale", "scale": [1, 0.5, 0.5]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    window = {"start": 0, "end": 40400, "min": 0, "max": 65535}
    channels = [
        {"label": label, "color": color, "window": window}
        for label, color in (("hematoxylin", "3C78FF"), ("DAB", "FF8C28"))
    ]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": datasets}],
        "omero": {"channels": channels},
    }


def write_geotiff(bands: np.ndarray, path: Path) -> None:
    """Write a GeoTIFF: UTM zone 33 north, 10 m per pixel, named bands, nodata 0."""
    names = "".join(
        f'<Item name="DESCRIPTION" sample="{k}" role="description">{name}</Item>'
        for k, name in enumerate(("B02 blue", "B03 green", "B04 red", "B08 near IR"))
    )
    metadata = f"<GDALMetadata>{names}</GDALMetadata>"
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 399960.0, 5300040.0, 0.0), True),
        (34735, "H", len(UTM_33N), UTM_33N, True),
        (42112, "s", len(metadata) + 1, metadata, True),
        (42113, "s", 2, "0", True),
    ]
    tifffile.imwrite(
        path, bands, photometric="minisblack", planarconfig="separate",
        extratags=tags, metadata=None,
    )  # fmt: skip


def compare(
    name: str, truth: np.ndarray, ours: np.ndarray, colors: np.ndarray,
    corner: tuple[int, int],
) -> None:  # fmt: skip
    """Draw a detail of input, bicubic interpolation, result and truth."""
    from PIL import Image

    small = binned(truth)
    bicubic = np.stack(
        [
            np.asarray(
                Image.fromarray(band.astype(np.float32)).resize(
                    truth.shape[:0:-1], Image.Resampling.BICUBIC
                )
            )
            for band in small
        ]
    )
    panels = {
        "input, half the pixels": small.repeat(2, 1).repeat(2, 2),
        f"bicubic, {psnr(bicubic, truth):.2f} dB": bicubic,
        f"Swin2SR, {psnr(ours, truth):.2f} dB": ours,
        "truth": truth,
    }
    draw(PICTURES / name, panels, truth, colors, corner)


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio for the range of the truth [dB]."""
    span = np.ptp(truth, axis=(1, 2), keepdims=True).astype(float)
    error = (image.astype(float) - truth) / span
    return float(-10 * np.log10((error**2).mean()))


def draw(
    path: Path, panels: dict[str, np.ndarray], truth: np.ndarray, colors: np.ndarray,
    corner: tuple[int, int],
) -> None:  # fmt: skip
    """Write the same detail of some (C, Y, X) images side by side, with captions."""
    from PIL import Image, ImageDraw, ImageFont

    y, x = corner
    low = np.percentile(truth, 0.3, axis=(1, 2))[:, None, None] * 0.8
    high = np.percentile(truth, 99.8, axis=(1, 2))[:, None, None] * 1.1
    side, gap, caption = CROP * ZOOM, 12, 40
    size = len(panels) * (side + gap) - gap, side + caption
    canvas: Any = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=24)
    for k, (text, image) in enumerate(panels.items()):
        shown = np.clip((image.astype(float) - low) / (high - low), 0, 1)
        rgb = np.clip(np.einsum("cyx,cs->yxs", shown, colors), 0, 1)
        crop = rgb[y : y + CROP, x : x + CROP]
        tile = Image.fromarray(np.rint(crop * 255).astype(np.uint8))
        left = k * (side + gap)
        canvas.paste(tile.resize((side, side), Image.Resampling.NEAREST), (left, 0))
        pen.text((left + side / 2, side + 6), text, "black", font, anchor="ma")
    canvas.save(path, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
