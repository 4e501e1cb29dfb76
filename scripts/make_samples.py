"""Make the pixels of the plugin's sample images.

    python scripts/make_samples.py

Writes src/napari_swin2sr/plugin/samples.npz. Cells and farmland are generated; the
tissue is scikit-image's `immunohistochemistry`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGET = Path(__file__).resolve().parents[1] / "src/napari_swin2sr/plugin/samples.npz"

_SIDE = 320


def main() -> None:
    """Write the file."""
    np.savez_compressed(TARGET, **cells(), tissue=tissue(), fields=fields())


def cells() -> dict[str, NDArray[np.uint16]]:
    """Return shapes four times finer, blurred as by a lens, binned, with photons."""
    rng = np.random.default_rng(7)
    made = {}
    for name, dense in zip(
        ("nuclei", "filaments"), draw_cells(_SIDE * 4, rng), strict=True
    ):
        photons = 40 + 900 * binned(_blurred(dense, 5.0))
        made[name] = (rng.poisson(photons) * 4 + 100).astype(np.uint16)
    return made


def tissue() -> NDArray[np.uint8]:
    """Return immunostained colon at half its resolution."""
    from skimage.data import immunohistochemistry

    full = immunohistochemistry().astype(np.float32)
    return np.rint(binned(full, 2)).astype(np.uint8)


def fields() -> NDArray[np.uint8]:
    """Return fields, roads and a river four times finer, binned by four."""
    rng = np.random.default_rng(11)
    pixels = binned(farmland(1024, rng))
    pixels += rng.normal(0, 1.5, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def binned(fine: NDArray[Any], factor: int = 4) -> NDArray[np.float32]:
    height, width = (n // factor for n in fine.shape[:2])
    blocks = fine[: height * factor, : width * factor].reshape(
        height, factor, width, factor, *fine.shape[2:]
    )
    means: NDArray[np.float32] = blocks.mean((1, 3), dtype=np.float32)
    return means


def _blurred(image: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    from skimage.filters import gaussian

    blurred: NDArray[np.float32] = gaussian(image, sigma, mode="reflect")
    return blurred


def draw_cells(
    side: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw nuclei with texture, and filaments that wind around them."""
    nuclei = np.zeros((side, side), np.float32)
    filaments = np.zeros((side, side), np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    texture = _blurred(rng.normal(size=(side, side)), 9) * 12
    centers: list[tuple[float, float]] = []
    while len(centers) < 15:
        cy, cx = rng.uniform(60, side - 60, 2)
        if all((cy - a) ** 2 + (cx - b) ** 2 > 250**2 for a, b in centers):
            centers.append((cy, cx))
    for cy, cx in centers:
        angle, long, short = rng.uniform(0, np.pi), *rng.uniform(55, 85, 2)
        u = (y - cy) * np.cos(angle) + (x - cx) * np.sin(angle)
        v = (x - cx) * np.cos(angle) - (y - cy) * np.sin(angle)
        inside = (u / long) ** 2 + (v / short) ** 2 < 1
        nuclei[inside] += rng.uniform(0.5, 1) * (0.8 + 0.35 * texture[inside])
        for _ in range(46):
            _wind(filaments, cy, cx, rng)
    return np.clip(nuclei, 0, None), np.minimum(filaments * 6, 12)


def _wind(
    image: NDArray[np.float32], cy: float, cx: float, rng: np.random.Generator
) -> None:
    """Draw one filament outwards from a cell's center."""
    heading = rng.uniform(0, 2 * np.pi)
    start = rng.uniform(40, 90)
    length = int(rng.uniform(120, 300))
    turns = np.cumsum(rng.normal(0, 0.03, length)) + rng.normal(0, 0.5)
    ys = cy + start * np.sin(heading) + np.cumsum(np.sin(heading + turns))
    xs = cx + start * np.cos(heading) + np.cumsum(np.cos(heading + turns))
    for shift in range(3):
        rows, columns = np.rint(ys).astype(int) + shift, np.rint(xs).astype(int)
        there = (rows >= 0) & (columns >= 0) & (rows < len(image))
        there &= columns < len(image)
        image[rows[there], columns[there]] += 0.5


def farmland(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw fields with furrows, hedges, roads and a river."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    wobble = _blurred(rng.normal(size=(side, side)), 40) * 400
    angle = 0.35
    u = y * np.cos(angle) + x * np.sin(angle) + wobble
    v = x * np.cos(angle) - y * np.sin(angle) - wobble / 2 + side
    rows = (u // 130).astype(int)
    columns = ((v + 61 * (rows % 3)) // (90 + 25 * (rows % 4))).astype(int)
    number = (rows * 71 + columns * 37) % 97
    palette = np.array(
        [
            (92, 116, 62), (126, 138, 78), (168, 158, 104), (186, 172, 128),
            (74, 98, 54), (142, 122, 88), (110, 130, 70), (158, 134, 98),
        ],
        np.float32,
    )  # fmt: skip
    land = palette[number % len(palette)]
    furrow = np.where(number % 2 == 0, u, v)
    land = land + (6 * np.sin(furrow * (0.35 + 0.01 * (number % 13))))[..., None]
    land += (_blurred(rng.normal(size=(side, side)), 2) * 30)[..., None]
    hedge = (u % 130 < 7) & (rows % 2 == 0)
    land[hedge] = (52, 70, 40)
    road = np.abs(v - 0.8 * side - 40 * np.sin(u / 260)) < 6
    road |= np.abs(u - 0.62 * side) < 5
    land[road] = (205, 198, 186)
    river = np.abs(y - 0.72 * side - 90 * np.sin(x / 170) - wobble) < 24
    land[river] = (58, 82, 98)
    for _ in range(60):
        cy, cx = rng.uniform(0.1, 0.9, 2) * side
        size = rng.uniform(6, 16)
        house = (np.abs(u - u[int(cy), int(cx)]) < size) & (
            np.abs(v - v[int(cy), int(cx)]) < size * 0.7
        )
        land[house & ~river] = (176, 96, 78) if rng.random() < 0.6 else (220, 216, 210)
    return np.asarray(land, np.float32)


if __name__ == "__main__":
    main()
