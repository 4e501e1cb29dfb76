"""Files of microscopes and slide scanners, judged by the readers of one maker each."""

from __future__ import annotations

import lzma
import pickle
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from helpers import stand_in
from helpers.io_images import noise, smooth
from napari_swin2sr import upscale, upscale_file
from napari_swin2sr.errors import FileError, InputError, MissingDependencyError
from napari_swin2sr.formats import open_image
from napari_swin2sr.formats.detect import Kind, kind_of

czifile = pytest.importorskip("czifile")
liffile = pytest.importorskip("liffile")
nd2 = pytest.importorskip("nd2")
tiffslide = pytest.importorskip("tiffslide")
pytest.importorskip("openreadout")

ND2 = Path(__file__).parents[1] / "data" / "nd2" / "example-zstack.nd2.xz"
CHANNELS = {0: "DNA", 1: "actin"}


def czi(path, planes=None, **metadata):
    """Two channels of three depths, as ZEISS's own library writes them."""
    from pylibCZIrw import czi as zeiss

    planes = noise((2, 3, 60, 80)) if planes is None else planes
    with zeiss.create_czi(str(path)) as file:
        for c, z in np.ndindex(planes.shape[:2]):
            file.write(planes[c, z], plane={"C": c, "Z": z, "T": 0})
        file.write_metadata(
            "made", channel_names=CHANNELS, scale_x=2e-7, scale_y=3e-7, scale_z=1e-6
        )
    return planes


def real_nd2(path):
    path.write_bytes(lzma.decompress(ND2.read_bytes()))
    return nd2.imread(path)


def lif(path, planes, names=("first", "second")):
    """Images of (C, Y, X) with pixels of 0.25 x 0.5 um, as Leica lays them out."""
    elements, blocks = "", b""
    for k, (name, pixels) in enumerate(zip(names, planes, strict=False)):
        n_c, n_y, n_x = pixels.shape
        size = pixels.dtype.itemsize
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="{8 * size}" '
            f'NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" IsLUTInverted="0" '
            f'LUTName="{lut}" BytesInc="{c * n_y * n_x * size}" BitInc="0"/>'
            for c, lut in zip(range(n_c), ("Green", "Red"), strict=False)
        )
        sides = "".join(
            f'<DimensionDescription DimID="{axis}" NumberOfElements="{n}" Origin="0" '
            f'Length="{step * (n - 1)}" Unit="m" BitInc="0" BytesInc="{bytes_}"/>'
            for axis, n, step, bytes_ in (
                (1, n_x, 0.25e-6, size),
                (2, n_y, 0.5e-6, n_x * size),
            )
        )
        elements += (
            f'<Element Name="{name}"><Data><Image><ImageDescription><Channels>'
            f"{channels}</Channels><Dimensions>{sides}</Dimensions></ImageDescription>"
            f'</Image></Data><Memory Size="{pixels.nbytes}" '
            f'MemoryBlockID="MemBlock_{k}"/></Element>'
        )
        label = f"MemBlock_{k}".encode("utf-16-le")
        head = struct.pack("<BQBI", 0x2A, pixels.nbytes, 0x2A, len(label) // 2) + label
        blocks += struct.pack("<II", 0x70, len(head)) + head + pixels.tobytes()
    text = (
        '<LMSDataContainerHeader Version="2"><Element Name="made"><Data/>'
        f'<Memory Size="0" MemoryBlockID="MemBlock_9"/><Children>{elements}</Children>'
        "</Element></LMSDataContainerHeader>"
    ).encode("utf-16-le")
    head = struct.pack("<IIBI", 0x70, 5 + len(text), 0x2A, len(text) // 2)
    path.write_bytes(head + text + blocks)


def svs(path, pixels):
    """A slide of two levels as Aperio's scanners describe it."""
    text = "Aperio Image Library v12.0.0 \r\n{} [0,0 {}] (32x32) |AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as file:
        for image, tile in (
            (pixels, 32),
            (pixels[::4, ::4], 0),
            (pixels[::2, ::2], 32),
        ):
            sides = f"{image.shape[1]}x{image.shape[0]}"
            file.write(
                image,
                photometric="rgb",
                tile=(tile, tile) if tile else None,  # a thumbnail comes second
                compression="zlib",
                metadata=None,
                software=False,
                description=text.format(sides, sides),
            )


# -- pixels, places and names ---------------------------------------------------------


def test_a_czi_is_what_zeiss_wrote(tmp_path):
    planes = czi(tmp_path / "a.czi")
    image = open_image(tmp_path / "a.czi")
    with czifile.CziFile(tmp_path / "a.czi") as judge:
        read = judge.asarray().squeeze()
    np.testing.assert_array_equal(image.data[...], read)
    np.testing.assert_array_equal(read, planes)
    assert image.axes == "CZYX"
    assert image.channel_names == ("DNA", "actin")
    assert image.pixel_size == pytest.approx({"X": 0.2, "Y": 0.3, "Z": 1.0})
    assert set(image.unit.values()) == {"micrometer"}


def test_a_real_nd2(tmp_path):
    planes = real_nd2(tmp_path / "a.nd2")
    image = open_image(tmp_path / "a.nd2")
    np.testing.assert_array_equal(image.data[...], planes)
    assert image.axes == "ZYX"
    with nd2.ND2File(tmp_path / "a.nd2") as judge:
        x, y, z = judge.voxel_size()
        channel = judge.metadata.channels[0].channel
    assert image.pixel_size == pytest.approx({"X": x, "Y": y, "Z": z})
    assert image.channel_names == (channel.name,) == ("FITC BP",)
    assert image.channel_colors == ("07FF00",)
    assert channel.color[:3] == (7, 255, 0)


def test_every_image_of_a_lif(tmp_path):
    planes = [noise((2, 40, 50), "uint8"), noise((1, 30, 20), "uint16")]
    lif(tmp_path / "a.lif", planes)
    with liffile.LifFile(tmp_path / "a.lif") as judge:
        for number, pixels in enumerate(planes):
            image = open_image(tmp_path / "a.lif", series=number)
            read = judge.images[number]
            np.testing.assert_array_equal(image.data[...], read.asarray())
            np.testing.assert_array_equal(image.data[...], pixels.squeeze())
            x, y = (read.coords[axis] for axis in "XY")
            assert image.pixel_size["X"] == pytest.approx((x[1] - x[0]) * 1e6)
            assert image.pixel_size["Y"] == pytest.approx((y[1] - y[0]) * 1e6)
    first = open_image(tmp_path / "a.lif")
    assert first.channel_colors == ("00FF00", "FF0000")
    with pytest.raises(FileError, match=r"no series 2.*0 'made/first' \(40 x 50\), 1"):
        open_image(tmp_path / "a.lif", series=2)


@pytest.mark.parametrize("level", [0, 1])
def test_levels_of_a_slide(tmp_path, level):
    pixels = noise((96, 64, 3), "uint8")
    svs(tmp_path / "a.svs", pixels)
    image = open_image(tmp_path / "a.svs", level=level)
    with tiffslide.TiffSlide(tmp_path / "a.svs") as slide:
        sides = slide.level_dimensions[level]
        read = np.asarray(slide.read_region((0, 0), level, sides))
        size = float(slide.properties["tiffslide.mpp-x"]) * 2**level
        np.testing.assert_array_equal(image.data[...], read[..., :3])
    assert image.axes == "YXS"
    assert image.pixel_size == pytest.approx({"X": size, "Y": size})
    assert image.origin.get("X", 0.0) == pytest.approx((size - 0.5) / 2)
    with pytest.raises(FileError, match="no level 2; it has 2"):
        open_image(tmp_path / "a.svs", level=2)


def test_regions_of_every_kind(tmp_path):
    planes = czi(tmp_path / "a.czi")
    data = open_image(tmp_path / "a.czi").data
    for index in (
        (slice(None), 1, slice(7, 31), slice(3, 70, 4)),
        (..., slice(None, None, -3), 5),
        (1, slice(None, None, 2), -1),
        (slice(0, 0),),
        (0, 0, slice(10, 10)),
    ):
        np.testing.assert_array_equal(data[index], planes[index])
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again[1, 2], planes[1, 2])
    assert again.__dask_tokenize__() == data.__dask_tokenize__()
    colors = noise((96, 64, 3), "uint8")
    svs(tmp_path / "a.svs", colors)
    slide = open_image(tmp_path / "a.svs").data
    np.testing.assert_array_equal(slide[90:2:-7, 3:, ::2], colors[90:2:-7, 3:, ::2])


def test_super_resolved_and_named_right(tmp_path, monkeypatch):
    planes = czi(tmp_path / "a.czi", smooth((2, 3, 60, 80)))
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)
    upscale_file(tmp_path / "a.czi", tmp_path / "a.ome.zarr")
    attributes: Any = zarr.open(tmp_path / "a.ome.zarr").attrs["ome"]
    (multiscale,) = attributes["multiscales"]
    scale, shift = multiscale["datasets"][0]["coordinateTransformations"]
    assert [axis["name"] for axis in multiscale["axes"]] == list("czyx")
    assert scale["scale"] == pytest.approx([1, 1.0, 0.15, 0.1])
    assert shift["translation"] == pytest.approx([0, 0, -0.075, -0.05])
    names = [c["label"] for c in attributes["omero"]["channels"]]
    assert names == ["DNA", "actin"]
    pixels: Any = zarr.open(tmp_path / "a.ome.zarr")["0"]
    assert pixels.shape == (2, 3, 120, 160)
    means = pixels[...].reshape(2, 3, 60, 2, 80, 2).mean((3, 5))
    windows = planes[..., :56, :].reshape(2, 3, 7, 8, 10, 8).mean((3, 5))
    expected = 0.25 * windows.repeat(8, 2).repeat(8, 3) + 0.75 * planes[..., :56, :]
    np.testing.assert_allclose(means[..., :56, :], expected, atol=1)


# -- refusals -------------------------------------------------------------------------


def test_a_scan_without_rows(tmp_path):
    lif(tmp_path / "a.lif", [noise((2, 1, 50), "uint8")])
    with pytest.raises(InputError, match="scan of 50 x 1 x 1 pixels along X, Y and Z"):
        open_image(tmp_path / "a.lif")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["czi", "nd2", "lif"])
def test_a_file_that_was_cut_off(tmp_path, kind, keep):
    whole, cut = tmp_path / f"whole.{kind}", tmp_path / f"cut.{kind}"
    if kind == "czi":
        czi(whole)
    elif kind == "nd2":
        real_nd2(whole)
    else:
        lif(whole, [noise((2, 40, 50)), noise((2, 40, 50))])
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(FileError, match=re.escape(str(cut))):
        open_image(cut, series=1 if kind == "lif" else 0).data[...]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.czi", b"ZISRAWFILE"),
        ("a.nd2", b"\xda\xce\xbe\x0a"),
        ("a.lif", b"\x70\0\0\0"),
        ("a.oir", b"OLYMPUSRAWFORMAT"),
        ("a.oib", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("a.ims", b"\x89HDF\r\n\x1a\n"),
        ("a.vsi", b"II*\0"),
        ("a.ndpi", b"II*\0"),
        ("a.svs", b"MM\0*"),
        ("a.mrxs", b"\xff\xd8\xff"),
    ],
)
def test_only_the_first_bytes(tmp_path, name, head):
    path = tmp_path / name
    path.write_bytes(head + bytes(200))
    assert kind_of(path) is Kind.INSTRUMENT
    with pytest.raises(FileError, match=re.escape(str(path))):
        open_image(path)


def test_without_the_library(tmp_path, monkeypatch):
    czi(tmp_path / "a.czi")
    monkeypatch.setitem(sys.modules, "openreadout", None)
    with pytest.raises(MissingDependencyError, match=r"napari-swin2sr\[instrument\]"):
        open_image(tmp_path / "a.czi")
