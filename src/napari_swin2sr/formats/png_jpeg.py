"""PNG and JPEG, in and out: small images that are decoded as a whole."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import FileError, MissingDependencyError, OutputError
from napari_swin2sr.formats.color import (
    ORIENTATIONS,
    OrientedArray,
    gray_alpha_to_rgba,
    profile_for,
)
from napari_swin2sr.formats.detect import JPEG_MAGIC, PNG_MAGIC
from napari_swin2sr.formats.geo_tags import read_world_file
from napari_swin2sr.formats.picture_tags import (
    PictureTags,
    jpeg_options,
    orientation_of,
    png_chunk,
    png_chunks,
    tags_of_picture,
)
from napari_swin2sr.image.record import SpatialImage
from napari_swin2sr.image.sources import PILLOW_CONVERTED

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_AS_IS = ("L", "RGB", "RGBA", "I;16", "I;16B", "F")
_CONVERTED = {"1": "L"} | PILLOW_CONVERTED
_PNG_RGB, _PNG_GRAY_ALPHA, _PNG_RGBA = 2, 4, 6
_PNG_SAMPLES = {_PNG_RGB: 3, _PNG_GRAY_ALPHA: 2, _PNG_RGBA: 4}
_PNG_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column and row, and steps, of the passes of an interlaced PNG."""
_PNG_HEAD = 33
"""Bytes of the signature and the chunk IHDR."""
_JPEG_QUALITY = 95


def open_picture(path: Path) -> SpatialImage:
    """Read a PNG, JPEG, GIF, BMP or WebP, which are not read lazily.

    Color tables, CMYK and the like become RGB; an image that the camera marked as
    turned is turned. 16-bit color PNG needs imagecodecs.
    """
    from PIL import Image

    with path.open("rb") as file:
        head = file.read(32)
    is_png = head.startswith(PNG_MAGIC) and len(head) == 32
    depth, kind = head[24:26] if is_png else (8, None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                frames = getattr(picture, "n_frames", 1)
                if frames > 1 and picture.format != "MPO":  # a photo and its previews
                    raise FileError(
                        f"{path}: an animation of {frames} pictures. Save the one you "
                        "want, or all as a TIFF stack"
                    )
                if kind is not None:
                    _check_rows(path, *picture.size, depth * _PNG_SAMPLES.get(kind, 1))
                elif head.startswith(JPEG_MAGIC):
                    _check_jpeg(path)
                if depth == 16 and kind in (_PNG_RGB, _PNG_GRAY_ALPHA, _PNG_RGBA):
                    pixels = _read_deep_png(path)
                else:
                    pixels = _pixels(picture, path, depth)
                orientation = orientation_of(picture)
                profile = picture.info.get("icc_profile") or None
                tags = tags_of_picture(picture, orientation)
    except Image.DecompressionBombError as error:
        raise FileError(
            f"{path}: {error}. Convert it to a tiled TIFF, which is read in pieces"
        ) from error
    except (
        *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError),
        *(zlib.error, struct.error),
    ) as error:
        raise FileError(f"{path}: the picture cannot be decoded: {error}") from error
    if orientation in ORIENTATIONS:
        pixels = OrientedArray(pixels, orientation, 0, 1)[...]
    axes = "YX" if pixels.ndim == 2 else "YXS"
    return SpatialImage(
        data=pixels,
        axes=axes,
        source=str(path),
        icc_profile=profile,
        picture_tags=tags,
        transform=read_world_file(path) if orientation == 1 else None,
    )


def _check_rows(path: Path, width: int, height: int, bits: int) -> None:
    """Refuse a PNG with fewer rows than it declares, which Pillow makes black.

    Also one with a chunk that does not fit its checksum, which Pillow may ignore.
    """
    data, at, n_bytes = path.read_bytes(), len(PNG_MAGIC), 0
    is_interlaced, inflate = data[28], zlib.decompressobj()
    passes = _PNG_PASSES if is_interlaced else ((0, 0, 1, 1),)
    sides = ((-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes)
    needed = sum(rows * (1 + -(-n * bits // 8)) for n, rows in sides if n > 0 < rows)
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        name, check = data[at + 4 : at + 8], int.from_bytes(data[end : end + 4], "big")
        if name[:1].isupper() and zlib.crc32(data[at + 4 : end]) != check:
            raise ValueError(f"the checksum of its chunk {name!r} is wrong")
        if name == b"IEND":
            break
        if name == b"IDAT":
            part = data[at + 8 : at + 8 + length]
            while part and n_bytes < needed:
                n_bytes += len(inflate.decompress(part, 2**20))
                part = inflate.unconsumed_tail
        at += 12 + length
    if n_bytes < needed:
        raise ValueError(f"its rows have {n_bytes} of {needed} bytes")


def _check_jpeg(path: Path) -> None:
    """Refuse a JPEG with fewer rows than it declares, which Pillow makes gray.

    Noise is put behind the first scan, which has the mean of each block: it shows only
    where pixels are missing. Both are decoded at an eighth of the size.
    """
    from PIL import Image

    data = path.read_bytes()
    end = _end_of_scan(data)
    noise = np.random.default_rng(0).integers(1, 255, (64, 256), np.uint8)
    restarts = [bytes((0xFF, 0xD0 + k % 8)) for k in range(64)]
    has_restarts = b"\xff\xdd\x00\x04" in data[:end]
    filled = b"".join(
        (restart if has_restarts else b"") + part.tobytes()
        for restart, part in zip(restarts, noise, strict=True)
    )
    shown = []
    for content in (data, data[:end] + filled + data[end:]):
        with Image.open(io.BytesIO(content)) as picture:
            picture.draft(None, (1, 1))
            shown.append(np.asarray(picture))
    if not np.array_equal(shown[0], shown[1]):
        raise ValueError("it has fewer rows than it declares")


def _end_of_scan(data: bytes) -> int:
    """Return where the first coded pixels of a JPEG end: at the next marker."""
    at = 2
    while data[at + 1 : at + 2] not in (b"\xda", b""):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    ends = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
    found = ends.search(data, at + 2)
    return found.start() if found else len(data)


def write_picture(image: SpatialImage, path: Path) -> None:
    """Write a PNG or JPEG at `path`, by its suffix, that `check_picture` allows."""
    from PIL import Image

    pixels = np.ascontiguousarray(_plane(image))
    height, width = pixels.shape[:2]
    profile = profile_for(image)
    tags = image.picture_tags or PictureTags()
    if _is_jpeg(path):
        options = jpeg_options(tags, width, height)
        if profile is not None:
            options["icc_profile"] = profile
        Image.fromarray(pixels).save(
            path, "JPEG", quality=_JPEG_QUALITY, subsampling=0, optimize=True, **options
        )
        return
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        png = _imagecodecs(path).png_encode(pixels, level=6)
    else:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        png = buffer.getvalue()
    chunks = png_chunks(tags, width, height, profile is not None)
    if profile is not None:
        chunks = _profile_chunk(profile) + chunks
    path.write_bytes(png[:_PNG_HEAD] + chunks + png[_PNG_HEAD:])


def check_picture(axes: str, shape: tuple[int, ...], dtype: Any, path: Path) -> None:
    """Refuse an image that a PNG or JPEG cannot hold, before it is computed."""
    name = "JPEG" if _is_jpeg(path) else "PNG"
    depths = ("uint8",) if name == "JPEG" else ("uint8", "uint16")
    lengths = zip(axes, shape, strict=True)
    planes = [f"{n} along {axis}" for axis, n in lengths if axis not in "YXS" and n > 1]
    problem = ""
    if planes:
        problem = f"more than one plane; this image has {' and '.join(planes)}"
    elif np.dtype(dtype).kind == "b":
        problem = "true and false"  # as integers they are 0 and 1, all black
    elif str(np.dtype(dtype)) not in depths:
        problem = (
            f"numbers of type {dtype} (dtype={depths[-1]!r}, --dtype {depths[-1]}, "
            "would fit)"
        )
    elif name == "JPEG" and "S" in axes and shape[axes.index("S")] == 4:
        problem = "an alpha channel"
    elif (name == "JPEG" and max(shape) > 65535) or min(shape) == 0:
        problem = f"a size of {shape}"
    if problem:
        raise OutputError(
            f"{path}: {name} cannot hold {problem}. Choose .tif or .ome.zarr"
        )


def _is_jpeg(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg")


def _plane(image: SpatialImage) -> NDArray[Any]:
    """Return the only plane, as (Y, X) or (Y, X, S)."""
    from napari_swin2sr.image.axes import resolve_axes

    layout = resolve_axes(image.shape, image.axes)
    plane = layout.to_plane(np.asarray(image.data[...]))
    return np.moveaxis(plane, 0, -1) if layout.samples > 1 else plane[0]


def _pixels(picture: Any, path: Path, depth: int) -> NDArray[Any]:
    key = picture.info.get("transparency")
    mode = picture.mode
    if mode == "P":
        picture, key = picture.convert("RGB" if key is None else "RGBA"), None
    elif mode in _CONVERTED:
        picture = picture.convert(_CONVERTED[mode])
    elif mode == "I":  # 16 bits that Pillow widens
        wide = np.asarray(picture)
        fits = not wide.size or (wide.min() >= 0 and wide.max() <= 65535)
        return wide.astype(np.uint16) if fits else wide
    elif mode not in _AS_IS:
        raise FileError(f"{path}: pictures of mode {mode} are not supported")
    pixels = np.asarray(picture)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if key is None or mode in ("LA", "RGBA"):
        return pixels
    scale = 255 // (2**depth - 1) if mode == "L" and depth < 8 else 1
    return _with_transparency(pixels, np.multiply(key, scale))


def _with_transparency(pixels: NDArray[Any], key: NDArray[Any]) -> NDArray[Any]:
    """Return gray or RGB as RGBA, with alpha 0 where a pixel is the color `key`."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    most = np.iinfo(pixels.dtype).max
    alpha = np.where((pixels == key).all(-1, keepdims=True), 0, most)
    return np.concatenate([pixels, alpha.astype(pixels.dtype)], axis=-1)


def _read_deep_png(path: Path) -> NDArray[Any]:
    """Read 16-bit color, which Pillow would cut to 8 bits."""
    decode = _imagecodecs(path).png_decode
    try:
        pixels: NDArray[Any] = decode(path.read_bytes())
    except RuntimeError as error:
        raise ValueError(error) from error
    return gray_alpha_to_rgba(pixels) if pixels.shape[-1] == 2 else pixels


def _profile_chunk(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))


def _imagecodecs(path: Path) -> Any:
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingDependencyError(
            f"{os.fspath(path)}: 16-bit color PNG needs imagecodecs: "
            'pip install "napari-swin2sr[tiff]"; or use .tif'
        ) from error
    return imagecodecs
