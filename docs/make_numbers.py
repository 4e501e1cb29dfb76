"""Make the pictures and numbers of the README and the documentation.

    python docs/make_numbers.py            all of them
    python docs/make_numbers.py demo cost  some of them

Each number stands between the lines `<!-- numbers: NAME -->` and `<!-- /numbers -->`.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

import napari_swin2sr as nsr
from napari_swin2sr.cli.demo import run_demo
from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.model import Swin2SRConfig
from napari_swin2sr.tiles.plan import default_tile, plan_tiles

ROOT = Path(__file__).resolve().parents[1]
HALO_TILE = 128


def demo() -> None:
    """Run the demo; keep its picture and its numbers."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_demo(folder)
        (ROOT / "docs/images").mkdir(exist_ok=True)
        shutil.copy(result.comparison, ROOT / "docs/images/demo.png")
    rows = [
        f"| {name} | {score.psnr:.2f} | {score.ssim:.3f} |"
        for name, score in (("bicubic", result.bicubic), ("Swin2SR", result.swin2sr))
    ]
    write(
        "README.md",
        "demo",
        "The demo's micrograph (stained colon tissue by CMMI, from scikit-image; "
        "512 × 512 RGB, never trained on), binned 2 × 2 and super-resolved again with "
        "the embedded model, against the original:\n",
        "| | PSNR (dB) | SSIM |",
        "|---|---|---|",
        *rows,
    )


def halo() -> None:
    """Measure what a narrower halo costs, on tiles of a photograph."""
    from skimage import data

    image = data.camera()[128:428, 96:372].astype(np.float32) / 255
    options = {"value_range": (0, 1), "halo": "exact"}
    whole = nsr.apply(image, tile=512, **options).compute()
    rows = []
    for width in (0, 8, 16, 24, 32, 40, "exact"):
        options["halo"] = width
        tiles = nsr.apply(image, tile=HALO_TILE, **options).compute()
        error = 255 * np.abs(tiles - whole)
        above = int((error > 1).sum())
        rows.append(f"| {width} | {error.max():.2g} | {above} |")
    write(
        "docs/explanation/tiling.md",
        "halo",
        f"The embedded model, a photograph of {image.shape[0]} × {image.shape[1]} px "
        f"in tiles of {HALO_TILE} px, against the whole image in one piece:\n",
        "| halo (px) | largest error (of 255 levels) | pixels off by more than 1 |",
        "|---|---|---|",
        *rows,
        "\nThe exact halo is 40 px for this model, and 104 to 160 px for the published "
        "ones.",
    )


def cost() -> None:
    """Count what the halo adds with the default tile, for three models."""
    light = Swin2SRConfig(embed_dim=60, depths=(6,) * 4, num_heads=(6,) * 4)
    wide = Swin2SRConfig(embed_dim=180, depths=(6,) * 6, num_heads=(6,) * 6)
    rows = []
    for name, config in (
        ("embedded", ModelHandle.open("default").config),
        ("published, 60 features (`lightweight-x2`)", light),
        ("published, 180 features (the others)", wide),
    ):
        core, width = default_tile(config, None), config.halo(None)
        seen = [(1 + 2 * width / core) ** 2 - 1]
        for side in (4096, 8192):
            plan = plan_tiles((side, side), core=core, halo=width)
            seen.append(plan.pixel_overhead - 1)
        shares = " | ".join(f"{share:.1%}" for share in seen)
        rows.append(f"| {name} | {core} | {width} | {shares} |")
    write(
        "docs/explanation/tiling.md",
        "cost",
        "| model | core (px) | halo (px) | added to an inner tile | to 4096 × 4096 px "
        "| to 8192 × 8192 px |",
        "|---|---|---|---|---|---|",
        *rows,
    )


def write(file: str, name: str, *lines: str) -> None:
    """Put `lines` between the markers `name` of a file."""
    path = ROOT / file
    pattern = rf"(<!-- numbers: {name} -->\n).*?(<!-- /numbers -->)"
    text = path.read_text("utf-8")
    body = "\n".join(lines)
    new, count = re.subn(
        pattern, lambda m: f"{m[1]}{body}\n{m[2]}", text, flags=re.DOTALL
    )
    if count != 1:
        sys.exit(f"{file} has {count} places for {name!r}, not one")
    path.write_text(new, "utf-8")


if __name__ == "__main__":
    for task in sys.argv[1:] or ("demo", "halo", "cost"):
        {"demo": demo, "halo": halo, "cost": cost}[task]()
