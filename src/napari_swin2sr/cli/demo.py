"""`napari-swin2sr demo`: a real image, halved and super-resolved, beside the original.

The image is a light micrograph of stained colon tissue that ships inside
scikit-image; nothing is downloaded. It was never used to train a model.
"""

from __future__ import annotations

import base64
import io
import json
import string
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_swin2sr.cli.arguments import add_options, add_output_flags, chosen
from napari_swin2sr.cli.console import EXIT_OK, make_folder, write_json_line
from napari_swin2sr.options import UpscaleOptions

if TYPE_CHECKING:
    import argparse
    from os import PathLike

    import numpy as np
    from numpy.typing import NDArray

    Image8 = NDArray[np.uint8]

CROP = (slice(200, 312), slice(336, 448))
"""Part of the original that the comparison shows, in pixels."""

ZOOM = 4
"""Magnification of that part."""


OPTIONS = ("model", "device", "precision")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="super-resolve a real image and compare with the original",
        description="Halve a real image, super-resolve it again, and write the result, "
        "an image that compares it with bicubic and the original, and a page with a "
        "slider between them, without network.",
    )
    parser.add_argument("folder", nargs="?", default="demo-output", metavar="FOLDER")
    add_options(parser, UpscaleOptions, "what to compute", OPTIONS)
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; return the exit code."""
    result = run_demo(args.folder, **chosen(args, UpscaleOptions, OPTIONS))
    if args.json:
        write_json_line(result)
    else:
        print(result.summary())
    return EXIT_OK


@dataclass(frozen=True, slots=True)
class Score:
    """How close an image comes to the original: PSNR in dB, structural similarity."""

    psnr: float
    ssim: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a demo measured and where it left its files."""

    input: Path
    result: Path
    comparison: Path
    page: Path
    bicubic: Score
    swin2sr: Score
    seconds: float

    def summary(self) -> str:
        """Return the result in a few lines."""
        rows = [
            f"{name:<9}{score.psnr:6.2f} dB   SSIM {score.ssim:.4f}"
            for name, score in (("bicubic", self.bicubic), ("Swin2SR", self.swin2sr))
        ]
        paths = (self.input, self.result, self.comparison, self.page)
        files = [f"wrote {path}" for path in paths]
        took = f"super-resolved in {self.seconds:.1f} s, loading the model included"
        return "\n".join(["against the original:", *rows, took, *files])


def run_demo(folder: str | PathLike[str], **options: Any) -> DemoResult:
    """Halve the sample, super-resolve it, and compare it with the original.

    `folder` is made if missing; input.tif, result.tif, comparison.png and
    comparison.html in it are replaced. `options` are fields of `UpscaleOptions`.
    """
    import numpy as np
    import tifffile
    from PIL import Image

    from napari_swin2sr.files import upscale_file
    from napari_swin2sr.image.resample import block_means

    folder = Path(folder)
    make_folder(folder)
    target = sample()
    small = block_means(target, (0, 1))  # as a camera bins pixels
    source, output = folder / "input.tif", folder / "result.tif"
    tifffile.imwrite(source, small, photometric="rgb")

    start = time.perf_counter()
    upscale_file(source, output, overwrite=True, **options)
    seconds = time.perf_counter() - start

    ours = tifffile.imread(output)
    height, width = target.shape[:2]
    bicubic = np.asarray(
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    )
    result = DemoResult(
        input=source,
        result=output,
        comparison=folder / "comparison.png",
        page=folder / "comparison.html",
        bicubic=compare(bicubic, target),
        swin2sr=compare(ours, target),
        seconds=seconds,
    )
    nearest = small.repeat(2, axis=0).repeat(2, axis=1)
    panels = {
        "input, half the pixels": nearest,
        f"bicubic, {result.bicubic.psnr:.2f} dB": bicubic,
        f"Swin2SR, {result.swin2sr.psnr:.2f} dB": ours,
        "original": target,
    }
    draw_panels(panels, result.comparison)
    write_page(panels | {"input, half the pixels": small}, result)
    return result


def sample() -> Image8:
    """Return the original: (512, 512, 3) uint8, RGB."""
    from skimage import data

    image: Image8 = data.immunohistochemistry()
    return image


def compare(image: Image8, target: Image8) -> Score:
    """Return PSNR and SSIM of an (H, W, 3) uint8 image, over all samples."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    return Score(
        psnr=float(peak_signal_noise_ratio(target, image)),
        ssim=float(structural_similarity(target, image, channel_axis=-1)),
    )


def draw_panels(panels: dict[str, Image8], path: Path) -> None:
    """Write `CROP` of some (H, W, 3) images side by side, each over its caption."""
    from PIL import Image, ImageDraw, ImageFont

    side = (CROP[0].stop - CROP[0].start) * ZOOM
    gap, caption = 12, 40
    canvas = Image.new(
        "RGB", (len(panels) * (side + gap) - gap, side + caption), "white"
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=24)
    for i, (text, image) in enumerate(panels.items()):
        left = i * (side + gap)
        crop = Image.fromarray(image[CROP]).resize(
            (side, side), Image.Resampling.NEAREST
        )
        canvas.paste(crop, (left, 0))
        draw.text((left + side / 2, side + 6), text, "black", font, anchor="ma")
    canvas.save(path)


def write_page(images: dict[str, Image8], result: DemoResult) -> None:
    """Write a page with a slider between some (H, W, 3) images, which it contains."""
    template = Path(__file__).with_name("comparison.html").read_text("utf-8")
    sources = [
        {"name": name, "source": _data_url(image)} for name, image in images.items()
    ]
    about = (
        "A micrograph of stained colon tissue, halved by averaging 2 &times; 2 pixels "
        "and super-resolved. Drag the line, or move it with the arrow keys."
    )
    small = (
        f"Against the original: bicubic {result.bicubic.psnr:.2f} dB, "
        f"SSIM {result.bicubic.ssim:.3f}; Swin2SR {result.swin2sr.psnr:.2f} dB, "
        f"SSIM {result.swin2sr.ssim:.3f}. Super-resolution guesses: where it differs "
        "from the original, it is wrong. Image: CMMI, from scikit-image."
    )
    text = string.Template(template).substitute(
        about=about, small=small, images=json.dumps(sources)
    )
    result.page.write_text(text, "utf-8")


def _data_url(image: Image8) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
