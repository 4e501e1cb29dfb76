"""`napari-swin2sr demo`: a real image, halved and super-resolved, beside the truth.

The image is a light micrograph of stained colon tissue that ships inside
scikit-image; nothing is downloaded. It was never used to train a model.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray

    Image8 = NDArray[np.uint8]

CROP = (slice(200, 312), slice(336, 448))
"""Part of the truth that the picture shows, in pixels."""

ZOOM = 4
"""Magnification of that part."""


@dataclass(frozen=True, slots=True)
class Score:
    """How close an image comes to the truth: PSNR in dB, structural similarity."""

    psnr: float
    ssim: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What a demo measured and where it left its files."""

    input: Path
    result: Path
    comparison: Path
    bicubic: Score
    swin2sr: Score
    seconds: float

    def summary(self) -> str:
        """Return the result in a few lines."""
        rows = [
            f"{name:<9}{score.psnr:6.2f} dB   SSIM {score.ssim:.4f}"
            for name, score in (("bicubic", self.bicubic), ("Swin2SR", self.swin2sr))
        ]
        files = [f"wrote {p}" for p in (self.input, self.result, self.comparison)]
        took = f"super-resolved in {self.seconds:.1f} s, loading the model included"
        return "\n".join(["against the truth:", *rows, took, *files])


def run_demo(folder: str | PathLike[str], **options: Any) -> DemoResult:
    """Halve the sample, super-resolve it, and compare it with the truth.

    Parameters
    ----------
    folder : where input.tif, result.tif and comparison.png go; made if missing,
        files of these names are replaced
    options : fields of `UpscaleOptions`
    """
    import tifffile
    from PIL import Image

    from napari_swin2sr import upscale_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    truth = sample()
    small = halve(truth)
    source, target = folder / "input.tif", folder / "result.tif"
    tifffile.imwrite(source, small, photometric="rgb")

    start = time.perf_counter()
    upscale_file(source, target, overwrite=True, **options)
    seconds = time.perf_counter() - start

    ours = tifffile.imread(target)
    height, width = truth.shape[:2]
    bicubic = np.asarray(
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    )
    result = DemoResult(
        input=source,
        result=target,
        comparison=folder / "comparison.png",
        bicubic=compare(bicubic, truth),
        swin2sr=compare(ours, truth),
        seconds=seconds,
    )
    nearest = small.repeat(2, axis=0).repeat(2, axis=1)
    panels = {
        "input, half the pixels": nearest,
        f"bicubic, {result.bicubic.psnr:.2f} dB": bicubic,
        f"Swin2SR, {result.swin2sr.psnr:.2f} dB": ours,
        "truth": truth,
    }
    draw_panels(panels, result.comparison)
    return result


def sample() -> Image8:
    """Return the truth: (512, 512, 3) uint8, RGB."""
    from skimage import data

    image: Image8 = data.immunohistochemistry()
    return image


def halve(image: Image8) -> Image8:
    """Return the means of 2x2 pixels of an (H, W, 3) uint8 image, as a camera bins."""
    h, w, samples = image.shape
    means = image.reshape(h // 2, 2, w // 2, 2, samples).mean(axis=(1, 3))
    halved: Image8 = np.rint(means).astype(np.uint8)
    return halved


def compare(image: Image8, truth: Image8) -> Score:
    """Return PSNR and SSIM of an (H, W, 3) uint8 image, over all samples."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    return Score(
        psnr=float(peak_signal_noise_ratio(truth, image)),
        ssim=float(structural_similarity(truth, image, channel_axis=-1)),
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
