"""What the page does with one image; nothing of the browser is here."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import InputError
from napari_swin2sr.files import upscale_file
from napari_swin2sr.formats import as_image, open_image
from napari_swin2sr.image.axes import resolve_axes
from napari_swin2sr.image.box import Box
from napari_swin2sr.image.resample import block_means
from napari_swin2sr.options import DEFAULT_TRUST
from napari_swin2sr.trust.suitability import INTERPOLATION, assess
from napari_swin2sr.weights.catalog import resolve_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.record import SpatialImage
    from napari_swin2sr.options import RangeSpec
    from napari_swin2sr.runs.runner import Progress
    from napari_swin2sr.trust.suitability import Inspection

DETAIL = 128
"""Side of the part of the source that is shown enlarged [px]."""

LARGEST_SHOWN = 1600
"""Longest side of a picture that is sent to the browser [px]."""

DETAIL_SHOWN = 768
"""Longest side to which a detail is enlarged, by repeating pixels [px]."""


@dataclass(frozen=True, slots=True)
class Found:
    """What an image is, before anything is computed."""

    image: SpatialImage
    inspection: Inspection

    @property
    def model(self) -> str:
        """The embedded model that suits it, also where none is expected to help."""
        best = self.inspection.recommendation
        return "default" if best == INTERPOLATION else best


@dataclass(frozen=True, slots=True)
class ErrorBars:
    """Half-widths within which the truth lies for most pixels of images like this.

    The picture shows those of the detail; white is `white`, in units of the image.
    """

    path: Path
    median: float
    white: float
    picture: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Result:
    """A file, how long it took, and pairs of pictures: before and after."""

    path: Path
    source: SpatialImage
    output: SpatialImage
    seconds: float
    detail: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    whole: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    bars: ErrorBars | None


def look_at(path: Path, limit: float) -> Found:
    """Open and inspect an image of at most `limit` million pixels in all planes.

    Raises
    ------
    InputError
        If it has more.
    FileError
        If it cannot be read.
    """
    image = as_image(open_image(path))
    layout = resolve_axes(image.shape, image.axes)
    millions = layout.n_planes * math.prod(layout.plane_shape) / 1e6
    if millions > limit:
        sides = " x ".join(map(str, image.shape))
        raise InputError(
            f"{path.name} has {millions:.3g} million pixels ({image.axes} {sides}), "
            f"and this page takes {limit:g} million. For larger images: "
            f"napari-swin2sr upscale {path.name} OUT.ome.zarr, or start the page "
            f"with --limit {math.ceil(millions)}"
        )
    return Found(image, assess(image))


def super_resolve(
    path: Path,
    folder: Path,
    model: str,
    *,
    value_range: RangeSpec = None,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
    **options: Any,
) -> Result:
    """Write a TIFF into `folder` as `upscale_file` does, and pictures to look at.

    With error bars, if the model has them.
    """
    source = as_image(open_image(path))
    start = time.perf_counter()
    target = folder / f"{path.stem}-{model}.tif"
    trust = DEFAULT_TRUST if has_error_bars(model) else False
    upscale_file(
        path,
        target,
        model,
        value_range=value_range,
        overwrite=True,
        progress=progress,
        cancel=cancel,
        trust=trust,
        **options,
    )
    seconds = time.perf_counter() - start
    output = as_image(open_image(target))
    before, after = _first_plane(source), _first_plane(output)
    factor = after.shape[0] // before.shape[0]
    shown = _as_shown(before)
    before, after = shown(before), shown(after)
    box = _liveliest(before)
    detail = before[box.slices], after[box.scaled(factor).slices]
    zoom = max(DETAIL_SHOWN // max(detail[1].shape[:2]), 1)
    smaller = -(-max(after.shape[:2]) // LARGEST_SHOWN)
    return Result(
        path=target,
        source=source,
        output=output,
        seconds=seconds,
        detail=(_enlarged(detail[0], factor * zoom), _enlarged(detail[1], zoom)),
        whole=(
            block_means(_enlarged(before, factor), (0, 1), smaller),
            block_means(after, (0, 1), smaller),
        ),
        bars=_read_bars(target, box.scaled(factor), zoom) if trust else None,
    )


def has_error_bars(model: str) -> bool:
    """Tell whether a model can say how far it may be off."""
    return resolve_model(model).error_head is not None


def _read_bars(target: Path, box: Box, zoom: int) -> ErrorBars:
    """Read what `upscale_file` writes beside its target; missing pixels are black."""
    path = target.with_name(f"{target.stem}_trust.tif")
    plane = _first_plane(as_image(open_image(path))).astype(np.float64)
    gray = np.nan_to_num(plane.reshape(*plane.shape[:2], -1).mean(-1))
    white = float(np.percentile(gray, 99.9)) or 1.0
    shown = np.rint(np.clip(gray[box.slices] * (255 / white), 0, 255))
    return ErrorBars(
        path=path,
        median=float(np.median(gray)),
        white=white,
        picture=_enlarged(shown.astype(np.uint8), zoom),
    )


def _first_plane(image: SpatialImage) -> NDArray[Any]:
    """Return the first plane, as (Y, X) or (Y, X, 3)."""
    layout = resolve_axes(image.shape, image.axes)
    height, width = layout.plane_shape
    index = layout.plane_index((0,) * len(layout.stack_axes), Box(0, 0, height, width))
    plane = np.moveaxis(layout.to_plane(np.asarray(image.data[index])), 0, -1)
    return plane[..., :3] if layout.is_rgb else plane[..., 0]


def _as_shown(plane: NDArray[Any]) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Return what makes 8 bits of a plane and of its result, black to white."""
    low, high = 0.0, 255.0
    if plane.dtype != np.uint8:
        finite = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
        if finite.size:
            low, high = (float(v) for v in np.percentile(finite, (0.1, 99.9)))
    step = max(high - low, 1e-30)

    def shown(pixels: NDArray[Any]) -> NDArray[np.uint8]:
        scaled = (np.nan_to_num(pixels.astype(np.float64)) - low) * (255 / step)
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)

    return shown


def _liveliest(plane: NDArray[Any]) -> Box:
    """Return the part with the strongest edges, of a plane as it is shown."""
    gray = plane.astype(np.float32).reshape(*plane.shape[:2], -1).mean(-1)
    edges = np.zeros_like(gray)
    edges[1:, 1:] = abs(np.diff(gray, axis=0))[:, 1:] + abs(np.diff(gray))[1:]
    height, width = (min(n, DETAIL) for n in gray.shape)
    step = DETAIL // 2
    boxes = [
        Box(y, x, y + height, x + width)
        for y in range(0, gray.shape[0] - height + 1, step)
        for x in range(0, gray.shape[1] - width + 1, step)
    ]
    return max(boxes, key=lambda box: float(edges[box.slices].sum()))


def _enlarged(pixels: NDArray[Any], factor: int) -> NDArray[Any]:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


# -- samples --------------------------------------------------------------------------


def write_samples(folder: Path) -> dict[str, Path]:
    """Write the samples that the page offers; return what they show and their files.

    All are parts of images that scikit-image ships.
    """
    import tifffile
    from skimage import data

    folder.mkdir(parents=True, exist_ok=True)
    cell = data.cell()[:640, :544].astype(np.uint16)
    cell = cell.reshape(320, 2, 272, 2).sum((1, 3), dtype=np.uint16) * 64
    galaxies = data.hubble_deep_field()[40:296, 40:296]
    samples = {
        "Stained tissue (color)": (
            "tissue.tif",
            block_means(data.immunohistochemistry(), (0, 1)),
        ),
        "Cell (gray, 16 bits)": ("cell.tif", cell),
        "Deep field (color)": ("galaxies.tif", galaxies),
    }
    paths = {}
    for name, (file, pixels) in samples.items():
        paths[name] = folder / file
        color = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(paths[name], pixels, photometric=color)
    return paths
