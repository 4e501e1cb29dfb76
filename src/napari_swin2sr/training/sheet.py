"""Picture sheets: crops of the results beside the truth, to be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_swin2sr.errors import InputError, OutputError
from napari_swin2sr.replace import written_beside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_swin2sr.training.evaluate import Score

ZOOM = 2
"""How many picture pixels a pixel of the result gets."""

GAP = 4
"""White pixels between crops."""

HEAD = 14
"""Height of a line of text [picture px]."""


def write_sheet(path: Path, scores: Sequence[Score], rows: int = 12) -> Path:
    """Write a picture: a row per image, a column per method, the truth last.

    Every row is shown with one contrast, that of its truth.

    Parameters
    ----------
    path : PNG or JPEG file to write
    scores : results of `evaluate(..., keep_crops=True)`
    rows : most images shown, evenly spread

    Raises
    ------
    InputError
        If the scores hold no crops.
    OutputError
        If the file cannot be written.
    """
    from PIL import Image, ImageDraw

    images: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        if score.crop is not None:
            images.setdefault((score.kind, score.image), []).append(score)
    if not images:
        raise InputError("a picture sheet needs scores that were made to keep crops")
    names = list(images)
    picked = np.unique(
        np.linspace(0, len(names) - 1, min(rows, len(names))).astype(int)
    )
    chosen = [images[names[number]] for number in picked]
    side = max(
        max(row[0].truth.shape[:2]) for row in chosen if row[0].truth is not None
    )
    cell = side * ZOOM + GAP
    columns = len(chosen[0]) + 1
    sheet = Image.new("RGB", (columns * cell, len(chosen) * (cell + HEAD)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(chosen):
        top = number * (cell + HEAD)
        truth = row[0].truth
        assert truth is not None
        low, high = np.percentile(truth, (0.1, 99.9))
        labels = [f"{s.method} {s.psnr:.2f} dB" for s in row]
        crops = [s.crop for s in row if s.crop is not None]
        for place, (label, crop) in enumerate(
            zip([*labels, row[0].image], [*crops, truth], strict=True)
        ):
            draw.text((place * cell + 2, top), label[: cell // 6], fill="black")
            sheet.paste(
                Image.fromarray(_levels(crop, float(low), float(high))),
                (place * cell, top + HEAD),
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as draft:
            sheet.save(draft)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path}: cannot write the picture sheet ({error})"
        ) from error
    return path


def _levels(crop: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """(h, w, C) values -> (ZOOM h, ZOOM w, 3) levels."""
    stretched = (crop - low) / max(high - low, 1e-6)
    levels = np.rint(np.clip(stretched, 0, 1) * 255).astype(np.uint8)
    if levels.shape[-1] == 1:
        levels = np.repeat(levels, 3, axis=-1)
    zoomed: NDArray[np.uint8] = levels.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    return zoomed
