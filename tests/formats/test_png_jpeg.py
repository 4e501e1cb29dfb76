"""PNG and JPEG, compared with Pillow and imagecodecs."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import stand_in
from helpers.io_images import noise, smooth
from napari_swin2sr import upscale, upscale_file
from napari_swin2sr.errors import FileError, MissingDependencyError, OutputError
from napari_swin2sr.formats import open_image


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)


@pytest.mark.parametrize(
    ("mode", "axes", "dtype"),
    [
        ("L", "YX", "uint8"),
        ("RGB", "YXS", "uint8"),
        ("RGBA", "YXS", "uint8"),
        ("I;16", "YX", "uint16"),
        ("1", "YX", "uint8"),
        ("P", "YXS", "uint8"),
        ("LA", "YXS", "uint8"),
    ],
)
def test_modes_of_png(tmp_path, mode, axes, dtype):
    pixels = noise((20, 30)) if mode == "I;16" else noise((20, 30, 3), "uint8")
    picture = Image.fromarray(pixels)
    picture = picture if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / "in.png")
    image = open_image(tmp_path / "in.png")
    assert image.axes == axes
    assert image.data.dtype == dtype
    wanted = {"1": "L", "P": "RGB", "LA": "RGBA"}.get(mode)
    reference = picture.convert(wanted) if wanted else picture
    np.testing.assert_array_equal(image.data, np.asarray(reference))


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    picture = Image.fromarray(smooth((3, 20, 30), "uint8").transpose(1, 2, 0))
    picture.convert("CMYK").save(tmp_path / "in.jpg")
    assert open_image(tmp_path / "in.jpg").shape == (20, 30, 3)


def test_the_camera_may_have_turned_the_picture(tmp_path):
    picture = Image.fromarray(smooth((20, 30), "uint8"))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "in.jpg", exif=exif)
    assert open_image(tmp_path / "in.jpg").shape == (30, 20)


@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_in_and_out(tmp_path, samples, suffix):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = smooth((samples, 24, 40)).transpose(1, 2, 0)
    pixels = np.ascontiguousarray(pixels[..., 0] if samples == 1 else pixels)
    (tmp_path / "in.png").write_bytes(imagecodecs.png_encode(pixels))
    image = open_image(tmp_path / "in.png")
    np.testing.assert_array_equal(image.data, pixels)
    target = tmp_path / f"out{suffix}"
    if samples == 4:
        with pytest.warns(UserWarning, match="alpha"):
            upscale_file(tmp_path / "in.png", target, value_range=(0, 65535))
    else:
        upscale_file(tmp_path / "in.png", target, value_range=(0, 65535))
    out = open_image(target)
    assert out.data.dtype == np.uint16
    plane = np.asarray(out.data[...])
    plane = plane if samples == 1 else plane[..., 0]
    first = pixels if samples == 1 else pixels[..., 0]
    assert np.abs(plane - np.rint(stand_in.whole(first, 0, 65535))).max() <= 1


def test_color_profiles_are_carried(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.fromarray(smooth((3, 20, 30), "uint8").transpose(1, 2, 0))
    picture.save(tmp_path / "in.png", icc_profile=profile)
    for name in ("out.png", "out.jpg"):
        upscale_file(tmp_path / "in.png", tmp_path / name)
        with Image.open(tmp_path / name) as out:
            assert out.info["icc_profile"] == profile


@pytest.mark.parametrize("name", ["in.png", "in.jpg"])
def test_pictures_that_were_cut_off(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(noise((64, 64, 3), "uint8")).save(path)
    whole = path.read_bytes()
    for fraction in (0.01, 0.1, 0.3, 0.5, 0.8, 0.95):
        path.write_bytes(whole[: int(len(whole) * fraction)])
        with pytest.raises(FileError):
            open_image(path)


def test_pictures_too_large_for_this_way_of_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(noise((30, 30), "uint8")).save(tmp_path / "in.png")
    with pytest.raises(FileError, match="tiled TIFF"):
        open_image(tmp_path / "in.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert open_image(tmp_path / "in.png").shape == (30, 30)


def test_deep_color_without_imagecodecs(tmp_path, monkeypatch):
    imagecodecs = pytest.importorskip("imagecodecs")
    (tmp_path / "in.png").write_bytes(imagecodecs.png_encode(noise((20, 20, 3))))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingDependencyError, match=r"napari-swin2sr\[tiff\]"):
        open_image(tmp_path / "in.png")


# -- transparency ---------------------------------------------------------------------


def with_key(png: bytes, key: bytes) -> bytes:
    """Put a chunk tRNS before the pixels, as the PNG specification describes it."""
    body = b"tRNS" + key
    chunk = struct.pack(">I", len(key)) + body + struct.pack(">I", zlib.crc32(body))
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk + png[at:]


@pytest.mark.parametrize(
    ("mode", "key", "shown"),
    [
        ("L", struct.pack(">H", 7), (7, 7, 7)),
        ("RGB", struct.pack(">3H", 1, 2, 3), (1, 2, 3)),
        ("1", struct.pack(">H", 1), (255, 255, 255)),
    ],
)
def test_a_transparent_color(tmp_path, mode, key, shown):
    pixels = noise((20, 30, 3), "uint8") % 2 * 255
    pixels[5:9, 7:12] = shown
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    path = tmp_path / "in.png"
    path.write_bytes(with_key(buffer.getvalue(), key))
    found = open_image(path).data
    with Image.open(path) as picture:
        wanted = np.asarray(picture.convert("RGBA"))
    assert found.shape == (20, 30, 4)
    assert (found[5:9, 7:12, 3] == 0).all()
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_transparent_color_of_sixteen_bits(tmp_path, samples):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = noise((20, 30, samples))
    pixels[5:9, 7:12] = 1000
    png = imagecodecs.png_encode(pixels[..., 0] if samples == 1 else pixels)
    path = tmp_path / "in.png"
    path.write_bytes(with_key(png, struct.pack(f">{samples}H", *[1000] * samples)))
    found = open_image(path).data
    assert (found.shape, found.dtype) == ((20, 30, 4), "uint16")
    np.testing.assert_array_equal(found[..., :3], np.broadcast_to(pixels, (20, 30, 3)))
    hidden = (pixels == 1000).all(-1)
    np.testing.assert_array_equal(found[..., 3] == 0, hidden)


def test_a_transparent_gray_of_four_bits(tmp_path):
    """A file of four bits per pixel, written byte by byte."""
    rows = np.arange(16, dtype=np.uint8).reshape(2, 8)
    raw = b"".join(b"\0" + bytes((row[0::2] << 4) + row[1::2]) for row in rows)
    head = struct.pack(">IIBBBBB", 8, 2, 4, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", head), (b"tRNS", struct.pack(">H", 3)),
        (b"IDAT", zlib.compress(raw)), (b"IEND", b""),
    ):  # fmt: skip
        check = struct.pack(">I", zlib.crc32(name + body))
        png += struct.pack(">I", len(body)) + name + body + check
    (tmp_path / "in.png").write_bytes(png)
    found = open_image(tmp_path / "in.png").data
    np.testing.assert_array_equal(found[..., 0], rows * 17)
    np.testing.assert_array_equal(found[..., 3] == 0, rows == 3)


def test_a_few_bytes_that_ask_for_much_memory(tmp_path):
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", head),
        (b"IDAT", zlib.compress(bytes(99))),
        (b"IEND", b""),
    ):
        check = struct.pack(">I", zlib.crc32(name + body))
        png += struct.pack(">I", len(body)) + name + body + check
    (tmp_path / "in.png").write_bytes(png)
    with pytest.raises(FileError, match="tiled TIFF"):
        open_image(tmp_path / "in.png")


@pytest.mark.parametrize(
    ("pixels", "options", "match"),
    [
        (noise((20, 20)) > 999, {}, "true and false. Choose .tif"),
        (noise((20, 20, 5)), {"axes": "YXC"}, "this image has 5 along C. Choose .tif"),
        (noise((20, 20), "float32"), {}, "dtype='uint16', --dtype uint16, would fit"),
    ],
)
def test_why_a_png_cannot_hold_it(tmp_path, pixels, options, match):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(tmp_path / "in.zarr", data=pixels)
    warned: Any = contextlib.nullcontext()
    if pixels.dtype == bool:
        warned = pytest.warns(UserWarning, match="true/false")
    wanted = f"out.png: PNG cannot hold .*{match}"
    with warned, pytest.raises(OutputError, match=wanted):
        upscale_file(tmp_path / "in.zarr", tmp_path / "out.png", **options)


@pytest.mark.parametrize("kind", ["one bit", "gray and alpha", "inks", "color table"])
def test_any_tiff_to_png(tmp_path, kind):
    """Judged by Pillow, which reads the TIFF and our PNG."""
    path = tmp_path / "in.tif"
    mode = {"one bit": "1", "gray and alpha": "LA", "inks": "CMYK"}.get(kind, "P")
    picture = Image.fromarray(smooth((3, 40, 50), "uint8").transpose(1, 2, 0))
    picture.convert(mode).save(path)
    warned: Any = contextlib.nullcontext()
    if kind == "gray and alpha":
        warned = pytest.warns(UserWarning, match="alpha")
    with warned:
        upscale_file(path, tmp_path / "out.png", value_range=(0, 255))
    shown = "L" if kind == "one bit" else "RGB"
    with Image.open(path) as a, Image.open(tmp_path / "out.png") as b:
        assert b.size == (100, 80)
        wanted = np.asarray(a.convert("RGBA").convert(shown))
        found = np.asarray(b.convert("RGBA").convert(shown))
    plane = wanted if shown == "L" else wanted[..., 0]
    first = found if shown == "L" else found[..., 0]
    assert np.abs(first - np.rint(stand_in.whole(plane, 0, 255))).max() <= 1


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("height", [40, 41, 400])
def test_a_png_with_fewer_rows_than_it_declares(tmp_path, height, interlaced):
    """Every checksum is right; only the declared height is not."""
    buffer = io.BytesIO()
    Image.fromarray(noise((40, 50, 3), "uint8")).save(buffer, "PNG")
    png = buffer.getvalue()
    if interlaced:
        raw = bytes(4) * 3  # too little for any height
        body = b"IDAT" + zlib.compress(raw)
        png = png[:33] + struct.pack(">I", len(body) - 4) + body
        png += struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IEND\xaeB`\x82"
    head = b"IHDR" + struct.pack(">IIBBBBB", 50, height, 8, 2, 0, 0, interlaced)
    png = png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]
    (tmp_path / "in.png").write_bytes(png)
    if height == 40 and not interlaced:
        assert open_image(tmp_path / "in.png").shape == (40, 50, 3)
    else:
        with pytest.raises(FileError, match=r"its rows have \d+ of \d+ bytes"):
            open_image(tmp_path / "in.png")


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (50, 41)])
def test_whole_pngs_of_every_size_are_read(tmp_path, mode, size):
    Image.fromarray(noise((*size, 3), "uint8")).convert(mode).save(tmp_path / "in.png")
    assert open_image(tmp_path / "in.png").shape[:2] == size


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (41, 50), (2, 9)])
def test_interlaced_pngs_are_read(tmp_path, size):
    """Seven passes as the PNG specification lays them out; Pillow reads the same."""
    pixels = noise((*size, 3), "uint8")
    raw = b""
    for start, step in [
        ((0, 0), (8, 8)), ((0, 4), (8, 8)), ((4, 0), (8, 4)), ((0, 2), (4, 4)),
        ((2, 0), (4, 2)), ((0, 1), (2, 2)), ((1, 0), (2, 1)),
    ]:  # fmt: skip
        part = pixels[start[0] :: step[0], start[1] :: step[1]]
        if part.size:
            raw += b"".join(b"\0" + row.tobytes() for row in part)
    png = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", size[1], size[0], 8, 2, 0, 0, 1)
    for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + body))
        png += struct.pack(">I", len(body)) + name + body + check
    (tmp_path / "in.png").write_bytes(png)
    with Image.open(tmp_path / "in.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)
    np.testing.assert_array_equal(open_image(tmp_path / "in.png").data, pixels)


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive restarts": {"progressive": True, "restart_marker_blocks": 3},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_with_fewer_rows_than_it_declares(tmp_path, kind, mode):
    path = tmp_path / "a.jpg"
    shape = (45, 61) if mode == "L" else (45, 61, 3)
    Image.fromarray(noise(shape, "uint8")).save(path, **JPEGS[kind])
    assert open_image(path).shape == shape
    data = bytearray(path.read_bytes())
    (start,) = (data.find(b"\xff" + kind) for kind in (b"\xc0", b"\xc2") if
                data.find(b"\xff" + kind) > 0)  # fmt: skip
    data[start + 5 : start + 7] = (200).to_bytes(2, "big")
    path.write_bytes(data)
    assert np.asarray(Image.open(path)).shape[0] == 200  # Pillow says nothing
    with pytest.raises(FileError, match=r"a\.jpg.*fewer rows than it declares"):
        open_image(path)


@pytest.mark.parametrize("kind", ["gif", "bmp", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_other_pictures(tmp_path, kind, mode):
    pixels = (
        smooth((40, 50, 3), "uint8") if mode == "RGB" else smooth((40, 50), "uint8")
    )
    picture = Image.fromarray(pixels)
    if mode == "P":
        picture = picture.convert("RGB").quantize(16)
    path = tmp_path / f"a.{kind}"
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    picture.save(path, **options)
    with Image.open(path) as judge:
        expected = np.asarray(judge.convert("RGB"))
    read = open_image(path).data
    read = np.repeat(read[..., None], 3, -1) if read.ndim == 2 else read[..., :3]
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animations_are_refused(tmp_path, kind):
    frames = [Image.fromarray(noise((20, 20), "uint8", seed)) for seed in range(3)]
    path = tmp_path / f"a.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(FileError, match="an animation of 3 pictures"):
        open_image(path)


@pytest.mark.parametrize("at", [20, 60, -6])
def test_a_png_whose_checksum_is_wrong(tmp_path, at):
    path = tmp_path / "a.png"
    Image.fromarray(noise((30, 40), "uint8")).save(path)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"a\.png.*(checksum|CRC|decoded)"):
        open_image(path)


def test_what_stands_behind_the_end_of_a_png(tmp_path):
    path, pixels = tmp_path / "a.png", noise((30, 40), "uint8")
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes() + bytes(range(64, 128)))
    np.testing.assert_array_equal(open_image(path).data, pixels)


@pytest.mark.parametrize("keep", [8, 12, 25, 31])
def test_a_png_of_a_few_bytes(tmp_path, keep):
    path = tmp_path / "a.png"
    Image.fromarray(noise((30, 40), "uint8")).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match=r"a\.png"):
        open_image(path)
