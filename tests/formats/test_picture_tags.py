"""What photographs say about themselves, judged by Pillow and ExifTool."""

from __future__ import annotations

import io
import json
import logging
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, PngImagePlugin

from helpers import stand_in
from helpers.io_images import smooth
from napari_swin2sr import upscale, upscale_file
from napari_swin2sr.formats import open_image

GPS, DETAILS = ExifTags.IFD.GPSInfo, ExifTags.IFD.Exif
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta '
    b'xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    b'syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/'
    b'1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/'
    b'elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" tiff:Orientation="6" '
    b'exif:PixelXDimension="30"><tiff:ImageLength>20</tiff:ImageLength><xmp:Thumbnails>'
    b"<rdf:Alt><rdf:li>abc</rdf:li></rdf:Alt></xmp:Thumbnails><dc:title><rdf:Alt>"
    b'<rdf:li xml:lang="x-default">Kidney &#246; section</rdf:li></rdf:Alt></dc:title>'
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x78\x00\x07A kiosk\x1c\x02\x50\x00\x05Ernst"


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)


def exif(order: str = "<", orientation: int = 6) -> bytes:
    """Return EXIF with a thumbnail, laid out byte by byte as the standard says."""

    def entry(tag, kind, n, value):
        if isinstance(value, bytes):
            return struct.pack(order + "HHI", tag, kind, n) + value.ljust(4, b"\0")
        form = "H2x" if kind == 3 else "I"
        return struct.pack(order + "HHI" + form, tag, kind, n, value)

    def listed(entries, after):
        body = b"".join(entries) + struct.pack(order + "I", after)
        return struct.pack(order + "H", len(entries)) + body

    def ratio(value):
        return struct.pack(order + "II", value, 1)

    buffer = io.BytesIO()
    Image.new("L", (16, 8)).save(buffer, "JPEG")
    thumbnail = buffer.getvalue()
    # header 8, first list 8 + 2 + 7 * 12 + 4, values, details, values, thumbnail
    at_values = 8 + 2 + 7 * 12 + 4
    at_details = at_values + 16 + 8
    details_values = at_details + 2 + 7 * 12 + 4
    at_next = details_values + 16 + 8
    at_thumbnail = at_next + 2 + 2 * 12 + 4
    first = [
        entry(0x010F, 2, 7, at_values + 16),
        entry(0x0112, 3, 1, orientation),
        entry(0x011A, 5, 1, at_values),
        entry(0x011B, 5, 1, at_values + 8),
        entry(0x0128, 3, 1, 3),  # per centimeter
        entry(0x0213, 3, 1, 1),
        entry(0x8769, 4, 1, at_details),
    ]
    details = [
        entry(0x9102, 5, 1, details_values),
        entry(0x9214, 3, 2, struct.pack(order + "HH", 3, 4)),
        entry(0x927C, 7, 8, details_values + 16),
        entry(0xA002, 3, 1, 30),
        entry(0xA003, 4, 1, 20),
        entry(0xA20E, 5, 1, details_values + 8),
        entry(0xA402, 3, 1, 1),
    ]
    thumb = [
        entry(0x0201, 4, 1, at_thumbnail),
        entry(0x0202, 4, 1, len(thumbnail)),
    ]
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark
        + struct.pack(order + "I", 8)
        + listed(first, at_next)
        + ratio(100)
        + ratio(50)
        + b"Lenses\0\0"
        + listed(details, 0)
        + ratio(3)
        + ratio(400)
        + b"MAKER\1\2\3"
        + listed(thumb, 0)
        + thumbnail
    )


def photograph(path: Path, order: str = "<", orientation: int = 6) -> np.ndarray:
    """Write a picture with all kinds of tags; return its pixels as stored."""
    pixels = smooth((3, 20, 30), "uint8").transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    if path.suffix == ".jpg":
        iptc = b"Photoshop 3.0\0" + block + b"\0" * (len(IPTC) % 2)
        picture.save(
            path,
            quality=95,
            exif=b"Exif\0\0" + exif(order, orientation),
            xmp=XMP,
            comment=b"a comment",
            extra=b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc,
        )
    else:
        info = PngImagePlugin.PngInfo()
        info.add_text("Description", "a kidney")
        info.add_text("Author", "Łukasz")
        info.add_text("exif:Orientation", "6")
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        text = f"\niptc\n{len(block):8d}\n{block.hex()}\n"
        info.add_text("Raw profile type iptc", text, zip=True)
        info.add(b"gAMA", struct.pack(">I", 55000))
        info.add(b"cHRM", struct.pack(">8I", *[31270, 32900, 64000, 33000] * 2))
        picture.save(path, exif=exif(order, orientation), pnginfo=info, dpi=(200, 100))
    return pixels


def read(path: Path) -> tuple[Any, Image.Exif]:
    picture = Image.open(path)
    picture.load()
    return picture, picture.getexif()


@pytest.mark.parametrize(
    ("source", "target", "order"),
    [
        ("in.jpg", "out.jpg", "<"),
        ("in.jpg", "out.png", ">"),
        ("in.png", "out.jpg", ">"),
        ("in.png", "out.png", "<"),
    ],
)
def test_exif_says_what_is_true_of_the_result(tmp_path, source, target, order):
    pixels = photograph(tmp_path / source, order)
    upscale_file(tmp_path / source, tmp_path / target)
    picture, tags = read(tmp_path / target)
    assert picture.size == (40, 60)  # the camera was turned
    assert tags[ExifTags.Base.Make] == "Lenses"
    assert tags[ExifTags.Base.Orientation] == 1
    details = tags.get_ifd(DETAILS)
    assert details[ExifTags.Base.MakerNote] == b"MAKER\1\2\3"
    assert details[ExifTags.Base.ExposureMode] == 1
    assert details[ExifTags.Base.ExifImageWidth] == 40
    assert details[ExifTags.Base.ExifImageHeight] == 60
    assert details[ExifTags.Base.FocalPlaneXResolution] == 800
    assert 0x9214 not in details  # where the subject was, in other pixels
    assert not tags.get_ifd(ExifTags.IFD.IFD1)
    assert b"JFIF" not in picture.info["exif"]
    if source == "in.jpg":  # 100 x 50 per centimeter, turned and twice as fine
        assert tags[ExifTags.Base.XResolution] == pytest.approx(254, abs=1)
        assert tags[ExifTags.Base.ResolutionUnit] == 2
    if source == "in.png":
        assert picture.info["dpi"] == pytest.approx((200, 400), abs=0.1)
        stored = pixels[..., 0]
        turned = np.rot90(stored, -1)
        found = np.asarray(picture)[..., 0]
        wanted = np.rint(stand_in.whole(turned, 0, 255))
        assert np.abs(found - wanted).max() <= (1 if target == "out.png" else 12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_no_picture_is_turned_twice(tmp_path, orientation):
    """The result, shown as its tags say, lies as the source shown as its tags say."""
    from PIL import ImageOps

    source = f"in.{'jpg' if orientation % 2 else 'png'}"
    photograph(tmp_path / source, orientation=orientation)
    upscale_file(tmp_path / source, tmp_path / "out.png")
    with (
        Image.open(tmp_path / source) as old,
        Image.open(tmp_path / "out.png") as new,
    ):
        wanted = ImageOps.exif_transpose(old).convert("RGB")
        found = ImageOps.exif_transpose(new).resize(wanted.size, Image.Resampling.BOX)
        difference = np.asarray(wanted, float) - np.asarray(found, float)
    assert np.abs(difference[..., 0]).mean() < 8


@pytest.mark.parametrize("target", ["out.jpg", "out.png", "out.tif"])
@pytest.mark.parametrize("source", ["in.jpg", "in.png", "in.tif"])
def test_xmp_and_iptc(tmp_path, source, target):
    if source == "in.tif":
        pixels = smooth((3, 20, 30), "uint8").transpose(1, 2, 0)
        tifffile.imwrite(
            tmp_path / source,
            pixels,
            photometric="rgb",
            metadata=None,
            extratags=[
                (274, "H", 1, 6, True),
                (700, "B", len(XMP), XMP, True),
                (33723, "B", len(IPTC), IPTC, True),
            ],
        )
    else:
        photograph(tmp_path / source)
    upscale_file(tmp_path / source, tmp_path / target)
    picture, _ = read(tmp_path / target)
    xmp = picture.info["xmp"]
    xmp = xmp if isinstance(xmp, str) else xmp.decode()
    assert 'tiff:Orientation="1"' in xmp
    assert 'exif:PixelXDimension="40"' in xmp
    assert "<tiff:ImageLength>60</tiff:ImageLength>" in xmp
    assert "Kidney &#246; section" in xmp
    assert "Thumbnails" not in xmp
    if target == "out.jpg":
        assert picture.info["photoshop"][0x0404] == IPTC
    elif target == "out.tif":
        with tifffile.TiffFile(tmp_path / target) as tif:
            assert bytes(tif.pages[0].tags[33723].value) == IPTC
    else:
        assert IPTC.hex() in picture.text["Raw profile type iptc"]


def test_texts_gamma_and_primaries_of_png(tmp_path):
    photograph(tmp_path / "in.png")
    upscale_file(tmp_path / "in.png", tmp_path / "out.png")
    picture, _ = read(tmp_path / "out.png")
    assert picture.text["Description"] == "a kidney"
    assert picture.text["Author"] == "Łukasz"
    assert "exif:Orientation" not in picture.text
    assert picture.info["gamma"] == pytest.approx(0.55)
    assert picture.info["chromaticity"][0] == pytest.approx(0.3127)


def test_sixteen_bit_color_carries_the_same(tmp_path):
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(
        tmp_path / "in.tif",
        smooth((3, 20, 30)).transpose(1, 2, 0),
        photometric="rgb",
        metadata=None,
        description="a kidney",
        extratags=[(700, "B", len(XMP), XMP, True)],
    )
    upscale_file(tmp_path / "in.tif", tmp_path / "deep.png", value_range=(0, 65535))
    upscale_file(tmp_path / "deep.png", tmp_path / "out.png", value_range=(0, 65535))
    picture, _ = read(tmp_path / "out.png")
    assert picture.text["Description"] == "a kidney"
    assert 'exif:PixelXDimension="120"' in picture.info["xmp"].decode()
    assert open_image(tmp_path / "out.png").data.dtype == np.uint16


def test_descriptions_go_where_formats_have_them(tmp_path):
    photograph(tmp_path / "in.png")
    upscale_file(tmp_path / "in.png", tmp_path / "out.jpg")
    upscale_file(tmp_path / "in.png", tmp_path / "out.tif")
    picture, _ = read(tmp_path / "out.jpg")
    assert picture.info["comment"] == b"a kidney"
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        assert "<Description>a kidney</Description>" in tif.ome_metadata
        tags = tif.pages[0].tags
        assert tags["Artist"].value == "?ukasz"
        assert tags["Make"].value == "Lenses"
        for name, dpi in (("XResolution", 200), ("YResolution", 400)):
            top, bottom = tags[name].value
            assert top / bottom == pytest.approx(dpi, abs=0.1)
    photograph(tmp_path / "in.jpg")
    upscale_file(tmp_path / "in.jpg", tmp_path / "out.png")
    assert read(tmp_path / "out.png")[0].text["Comment"] == "a comment"


def test_a_picture_without_tags_gets_none(tmp_path):
    Image.fromarray(smooth((20, 30), "uint8")).save(tmp_path / "in.jpg")
    for name in ("out.png", "out.jpg"):
        upscale_file(tmp_path / "in.jpg", tmp_path / name)
        picture, tags = read(tmp_path / name)
        assert not dict(tags)
        assert not {"exif", "xmp", "comment", "photoshop", "gamma"} & set(picture.info)
        assert picture.info.get("dpi") in (None, (1, 1), (72, 72))
        assert not getattr(picture, "text", {})


def test_a_result_wider_than_exif_gave_room_for():
    from napari_swin2sr.formats.picture_tags import PictureTags

    found = Image.Exif()
    found.load(b"Exif\0\0" + PictureTags(exif=exif()).mended_exif(70000, 10))
    assert found.get_ifd(DETAILS)[ExifTags.Base.ExifImageWidth] == 70000


@pytest.mark.parametrize("length", [9, 20, 60, 120, 180])
def test_damaged_exif_does_not_stop_the_picture(tmp_path, caplog, length):
    picture = Image.fromarray(smooth((20, 30), "uint8"))
    picture.save(tmp_path / "in.png", exif=exif(orientation=1)[:length])
    with caplog.at_level(logging.WARNING):
        upscale_file(tmp_path / "in.png", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as out:
        assert out.size == (60, 40)
        out.load()
    assert "EXIF data are damaged and left out" in caplog.text


def test_exif_too_long_for_jpeg_is_said(tmp_path, caplog):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode() + " " * 70000)
    picture = Image.fromarray(smooth((20, 30), "uint8"))
    picture.save(tmp_path / "in.png", pnginfo=info)
    upscale_file(tmp_path / "in.png", tmp_path / "out.jpg")
    assert "bytes of xmp do not fit in a JPEG" in caplog.text


def test_chunks_are_where_the_png_standard_wants_them(tmp_path):
    photograph(tmp_path / "in.png")
    upscale_file(tmp_path / "in.png", tmp_path / "out.png")
    data, at, names = (tmp_path / "out.png").read_bytes(), 8, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        check = int.from_bytes(data[at + 8 + size : at + 12 + size], "big")
        assert check == zlib.crc32(data[at + 4 : at + 8 + size])
        names.append(name)
        at += 12 + size
    assert names[0] == b"IHDR"
    assert names[-1] == b"IEND"
    for name in (b"gAMA", b"cHRM", b"pHYs", b"eXIf"):
        assert names.count(name) == 1
        assert names.index(name) < names.index(b"IDAT")


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not here")
@pytest.mark.parametrize(
    ("source", "target"),
    [("in.jpg", "out.jpg"), ("in.jpg", "out.png"), ("in.png", "out.tif")],
)
def test_exiftool_finds_it_well_formed(tmp_path, source, target):
    photograph(tmp_path / source, ">")
    upscale_file(tmp_path / source, tmp_path / target)
    command = ["exiftool", "-j", "-n", "-G1", "-validate", "-warning", "-a"]
    done = subprocess.run(
        [*command, "-all", str(tmp_path / target)],
        capture_output=True,
        check=True,
        text=True,
    )
    (found,) = json.loads(done.stdout)
    assert found["IFD0:Make"] == "Lenses"
    assert found["XMP-dc:Title"] == "Kidney ö section"
    assert found["IPTC:Caption-Abstract"] == "A kiosk"
    assert found["XMP-tiff:Orientation"] == 1
    if target != "out.tif":
        assert found["IFD0:Orientation"] == 1
        assert found["ExifIFD:ExifImageWidth"] == 40
    assert not [key for key in found if "Thumbnail" in key]
