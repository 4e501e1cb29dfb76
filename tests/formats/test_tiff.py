"""TIFF files of every kind: made by tifffile, read by us; and the other way round."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import ome_types
import pytest
import tifffile

from helpers import stand_in
from helpers.io_images import noise, smooth
from napari_swin2sr import upscale, upscale_file
from napari_swin2sr.errors import FileError, InputError, OutputError
from napari_swin2sr.formats import open_image, tiff, tiff_array
from napari_swin2sr.formats.tiff_array import TiffArray

STACK = noise((3, 71, 93))
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "pages": {"metadata": None},
    "tiled": {"tile": (32, 48)},
    "tiled deflate": {"tile": (16, 16), "compression": "zlib", "byteorder": ">"},
    "strips deflate": {"rowsperstrip": 7, "compression": "zlib"},
    "one strip": {"compression": "zlib"},
    "predictor": {"tile": (32, 32), "compression": "zlib", "predictor": True},
    "zstd": {"tile": (32, 32), "compression": "zstd"},
    "lzw": {"compression": "lzw", "predictor": True},
    "ome": {"ome": True},
    "imagej": {"imagej": True},
}
INDICES = [
    np.s_[...],
    np.s_[1],
    np.s_[..., 5:9],
    np.s_[2, 10:60, 33:90],
    np.s_[::2, 60:3:-7, 5],
    np.s_[0:0],
    np.s_[-1, -1],
    np.s_[:, 64:71, 90:],
]


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)


def write(path, pixels=STACK, **options):
    tifffile.imwrite(path, pixels, **({"photometric": "minisblack"} | options))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_regions_of_every_kind(tmp_path, kind):
    array = TiffArray(write(tmp_path / "in.tif", **KINDS[kind]))
    array = pickle.loads(pickle.dumps(array))
    assert array.shape == STACK.shape
    assert array.dtype == np.uint16
    for index in INDICES:
        np.testing.assert_array_equal(array[index], STACK[index])
        assert array[index].dtype.isnative


@pytest.mark.parametrize("kind", ["tiled deflate", "one strip", "plain"])
def test_many_threads_read_the_same(tmp_path, kind):
    array = TiffArray(write(tmp_path / "in.tif", **KINDS[kind]))
    rng = np.random.default_rng(0)
    boxes = [
        (slice(None), slice(*sorted(a)), slice(*sorted(b)))
        for a, b in zip(
            rng.integers(0, 71, (200, 2)), rng.integers(0, 93, (200, 2)), strict=True
        )
    ]
    with ThreadPoolExecutor(8) as pool:
        for box, part in zip(boxes, pool.map(array.__getitem__, boxes), strict=True):
            np.testing.assert_array_equal(part, STACK[box])


def test_strips_are_decoded_once_per_row_of_tiles(tmp_path, monkeypatch):
    write(tmp_path / "in.tif", noise((512, 512)), compression="zlib", rowsperstrip=16)
    array = TiffArray(tmp_path / "in.tif")
    decoded = []
    original = TiffArray._decode

    def count(self, place):
        decoded.append(place)
        return original(self, place)

    monkeypatch.setattr(TiffArray, "_decode", count)
    for x in range(0, 512, 64):
        array[0:128, x : x + 64]
    assert len(decoded) == 8
    assert array.chunks == (16, 512)


def test_the_cache_of_strips_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_array, "CACHE_BYTES", 40_000)
    write(tmp_path / "in.tif", noise((512, 512)), compression="zlib", rowsperstrip=16)
    array = TiffArray(tmp_path / "in.tif")
    np.testing.assert_array_equal(array[:], noise((512, 512)))
    assert array._cache.n_bytes == 2 * 16 * 512 * 2


def test_too_many_indices(tmp_path):
    array = TiffArray(write(tmp_path / "in.tif", compression="zlib"))
    with pytest.raises(IndexError, match="4 indices"):
        array[0, 0, 0, 0]
    with pytest.raises(IndexError):
        array[3]


def test_a_token_names_the_pixels(tmp_path):
    path = write(tmp_path / "in.tif")
    first = TiffArray(path).__dask_tokenize__()
    assert TiffArray(path).__dask_tokenize__() == first
    write(path, noise((3, 71, 93), seed=1), compression="zlib")
    assert TiffArray(path).__dask_tokenize__() != first


# -- axes and metadata ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "options", "axes"),
    [
        (STACK, {}, "ZYX"),
        (STACK, {"metadata": None}, "ZYX"),
        (STACK, {"metadata": {"axes": "TYX"}}, "TYX"),
        (noise((2, 3, 20, 30)), {}, "CZYX"),
        (noise((20, 30, 3), "uint8"), {"photometric": "rgb"}, "YXS"),
        (noise((3, 20, 30), "uint8"),
         {"photometric": "rgb", "planarconfig": "separate"}, "SYX"),
        (noise((2, 20, 30, 3), "uint8"), {"photometric": "rgb"}, "ZYXS"),
        (noise((20, 30, 4), "uint8"),
         {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "YXS"),
        (noise((20, 30, 4)),
         {"photometric": "rgb", "extrasamples": ["unspecified"]}, "YXC"),
        (noise((20, 30, 4)), {"planarconfig": "contig"}, "YXC"),
        (noise((5, 20, 30)), {"planarconfig": "separate"}, "CYX"),
        (noise((3, 2, 4, 20, 30)), {"imagej": True, "metadata": {"axes": "TZCYX"}},
         "TZCYX"),
        (noise((3, 2, 20, 30)), {"ome": True, "metadata": {"axes": "TCYX"}}, "TCYX"),
    ],
)  # fmt: skip
def test_axes_are_named_by_the_file(tmp_path, pixels, options, axes):
    image = open_image(write(tmp_path / "in.tif", pixels, **options))
    assert image.axes == axes
    assert image.shape == pixels.shape
    np.testing.assert_array_equal(image.data[...], pixels)


def test_a_person_may_overrule_the_axes(tmp_path):
    path = write(tmp_path / "in.tif")
    assert open_image(path, axes="CYX").axes == "CYX"
    assert open_image(path, axes="SYX").axes == "SYX"
    with pytest.raises(InputError):
        open_image(path, axes="YX")
    write(path, noise((20, 30, 4)), planarconfig="contig")
    assert open_image(path, rgb=True).axes == "YXS"


def test_ome_metadata(tmp_path):
    path = tmp_path / "in.ome.tif"
    tifffile.imwrite(
        path,
        noise((2, 2, 40, 50)),
        photometric="minisblack",
        metadata={
            "axes": "TCYX",
            "PhysicalSizeX": 0.2,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.3,
            "TimeIncrement": 30.0,
            "Channel": {"Name": ["α", "b & c"], "Color": [-1, 0xFF0000FF - 2**32]},
        },
    )
    image = open_image(path)
    assert image.pixel_size == {"X": 0.2, "Y": 0.3, "T": 30.0}
    assert image.unit == {"X": "nanometer", "Y": "micrometer", "T": "second"}
    assert image.channel_names == ("α", "b & c")
    assert image.channel_colors == ("FFFFFF", "FF0000")


@pytest.mark.parametrize("unit", ["um", "\\u00B5m", "micron"])
def test_imagej_metadata(tmp_path, unit):
    path = tmp_path / "in.tif"
    lut = np.zeros((3, 256), np.uint8)
    lut[1] = range(256)
    tifffile.imwrite(
        path,
        noise((3, 2, 40, 50)),
        imagej=True,
        resolution=(1 / 0.325, 1 / 0.65),
        metadata={
            "axes": "TCYX", "unit": unit, "finterval": 2.5, "spacing": 3.0,
            "LUTs": [lut, lut[::-1]], "Ranges": (10.0, 500.0, 0.0, 4095.0),
        },
    )  # fmt: skip
    image = open_image(path)
    assert image.pixel_size["X"] == pytest.approx(0.325)
    assert image.pixel_size["Y"] == pytest.approx(0.65)
    assert image.pixel_size["T"] == 2.5
    assert image.unit["X"] == "micrometer"
    assert image.channel_colors == ("00FF00", "00FF00")
    assert image.value_range == ((10.0, 500.0), (0.0, 4095.0))


def test_a_declared_range(tmp_path):
    tags = [(340, "H", 1, 100, True), (341, "H", 1, 4000, True)]
    image = open_image(write(tmp_path / "in.tif", extratags=tags))
    assert image.value_range == ((100.0, 4000.0),)


def test_levels_of_a_pyramid(tmp_path):
    path = tmp_path / "in.ome.tif"
    pixels = smooth((2, 128, 96))
    with tifffile.TiffWriter(path, ome=True) as writer:
        options: dict[str, Any] = {"photometric": "minisblack", "tile": (32, 32)}
        writer.write(
            pixels, subifds=1, metadata={"axes": "CYX", "PhysicalSizeX": 0.5}, **options
        )
        writer.write(pixels[:, ::2, ::2], subfiletype=1, **options)
    coarse = open_image(path, level=1)
    assert coarse.shape == (2, 64, 48)
    assert coarse.pixel_size == {"X": 1.0}
    assert coarse.origin == {"X": 0.25}
    np.testing.assert_array_equal(coarse.data[...], pixels[:, ::2, ::2])
    with pytest.raises(FileError, match="no level 2"):
        open_image(path, level=2)
    with pytest.raises(FileError, match=r"no series 1.*0 \(2, 128, 96\)"):
        open_image(path, series=1)


def test_several_images_in_a_file(tmp_path):
    path = tmp_path / "in.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for k, shape in enumerate([(40, 50), (2, 30, 20)]):
            axes = "YX" if k == 0 else "CYX"
            metadata = {"axes": axes, "PhysicalSizeX": 0.5 + k}
            writer.write(noise(shape), photometric="minisblack", metadata=metadata)
    second = open_image(path, series=1)
    assert second.shape == (2, 30, 20)
    assert second.pixel_size == {"X": 1.5}
    np.testing.assert_array_equal(second.data[...], noise((2, 30, 20)))


# -- what tifffile reads of ours ------------------------------------------------------


def test_ome_tiff_out(tmp_path):
    path = tmp_path / "in.ome.tif"
    tifffile.imwrite(
        path,
        smooth((2, 3, 40, 50)),
        photometric="minisblack",
        metadata={
            "axes": "CZYX", "PhysicalSizeX": 0.325, "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 0.325, "PhysicalSizeZ": 2.0,
            "Channel": {"Name": ["DAPI", "µ"], "Color": [-1, 65535]},
        },
    )  # fmt: skip
    upscale_file(path, tmp_path / "out.ome.tif", tile=32)
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as tif:
        assert tif.is_ome
        assert tif.series[0].axes == "CZYX"
        assert tif.series[0].shape == (2, 3, 80, 100)
        assert tif.pages.first.is_tiled
        pixels = tifffile.xml2dict(tif.ome_metadata or "")["OME"]["Image"]["Pixels"]
    assert pixels["PhysicalSizeX"] == 0.1625
    assert pixels["PhysicalSizeXUnit"] == "nm"
    assert pixels["PhysicalSizeZ"] == 2.0
    assert [c["Name"] for c in pixels["Channel"]] == ["DAPI", "µ"]
    assert [c["Color"] for c in pixels["Channel"]] == [-1, 65535]


@pytest.mark.parametrize(
    "dtype",
    ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"],
)
@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
def test_types_are_kept(tmp_path, dtype, suffix):
    path = write(tmp_path / "in.tif", smooth((40, 50), dtype))
    upscale_file(path, tmp_path / f"out{suffix}", tile=32)
    assert open_image(tmp_path / f"out{suffix}").data.dtype == dtype


def test_big_results_become_bigtiff(tmp_path, monkeypatch):
    from napari_swin2sr.formats import tiff_write

    path = write(tmp_path / "in.tif", noise((40, 50)))
    upscale_file(path, tmp_path / "small.tif")
    monkeypatch.setattr(tiff_write, "_CLASSIC_LIMIT", 1000)
    upscale_file(path, tmp_path / "big.tif")
    with tifffile.TiffFile(tmp_path / "small.tif") as a:
        assert not a.is_bigtiff
    with tifffile.TiffFile(tmp_path / "big.tif") as b:
        assert b.is_bigtiff


# -- files that are not whole ---------------------------------------------------------

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_cut_off_is_refused(tmp_path, kind):
    path = write(tmp_path / "in.tif", noise((8, 64, 64)), **KINDS[kind])
    open_image(path)
    whole = path.read_bytes()
    for fraction in FRACTIONS:
        path.write_bytes(whole[: int(len(whole) * fraction)])
        with pytest.raises(FileError, match="cut off"):
            open_image(path)


def test_a_pyramid_that_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "in.tif"
    with tifffile.TiffWriter(path) as writer:
        options: dict[str, Any] = {"photometric": "minisblack", "tile": (32, 32)}
        writer.write(noise((128, 128)), subifds=1, metadata=None, **options)
        writer.write(noise((64, 64)), subfiletype=1, metadata=None, **options)
    whole = path.read_bytes()
    for fraction in FRACTIONS:
        path.write_bytes(whole[: int(len(whole) * fraction)])
        with pytest.raises(FileError, match="cut off"):
            open_image(path)


def test_files_that_are_no_tiff_at_all(tmp_path):
    path = tmp_path / "in.tif"
    for content in (
        b"",
        b"II*\0",
        b"II*\0\0\0\0\0",
        b"hello world, this is text",
        b"MM\0+",
    ):
        path.write_bytes(content)
        with pytest.raises(FileError):
            open_image(path)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_directories_never_crash(tmp_path, seed):
    path = write(tmp_path / "in.tif", noise((2, 32, 32)), compression="zlib")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(4, 400, 6):
        data[at] = rng.integers(0, 256)
    path.write_bytes(data)
    try:
        image = open_image(path)
        image.data[...]
    except (FileError, InputError):
        pass


def test_planes_that_the_metadata_promise_and_the_file_lacks(tmp_path):
    path = tmp_path / "in.ome.tif"
    tifffile.imwrite(
        path, noise((4, 32, 32)), photometric="minisblack", metadata={"axes": "ZYX"}
    )
    data = path.read_bytes()
    path.write_bytes(data.replace(b'SizeZ="4"', b'SizeZ="9"'))
    with pytest.raises(FileError, match="planes are missing"):
        open_image(path)


def test_pixels_that_cannot_be_decoded(tmp_path):
    path = write(
        tmp_path / "in.tif", noise((64, 64)), compression="zlib", tile=(32, 32)
    )
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.dataoffsets[1]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    image = open_image(path)
    image.data[:32, :32]
    with pytest.raises(FileError, match=r"\(0, 32\), \(32, 64\).*cannot be decoded"):
        image.data[:32, 32:]


def test_one_piece_larger_than_memory_is_refused(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "in.tif", noise((300, 300)), compression="zlib")
    monkeypatch.setattr(tiff, "CACHE_BYTES", 1000)
    monkeypatch.setattr(tiff, "available_memory", lambda: 10**9)
    open_image(path)
    assert "has to be decoded as a whole" in caplog.text
    monkeypatch.setattr(tiff, "available_memory", lambda: 2 * 300 * 300)
    with pytest.raises(FileError, match="Convert it to a tiled TIFF"):
        open_image(path)


def test_strips_that_do_not_fit_the_declared_size(tmp_path):
    path = write(tmp_path / "in.tif", noise((64, 48)), rowsperstrip=16, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["ImageLength"].overwrite(2000)
    with pytest.raises(FileError, match=r"\(2000, 48\) has 125 strips .* lists 4"):
        open_image(path)


def test_tiles_that_do_not_fit_the_declared_size(tmp_path):
    path = write(tmp_path / "in.tif", noise((64, 48)), tile=(16, 16), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["ImageWidth"].overwrite(400)
    with pytest.raises(FileError, match="100 strips or tiles, but the file lists 12"):
        open_image(path)


def test_one_strip_that_is_shorter_than_declared(tmp_path):
    path = write(tmp_path / "in.tif", noise((64, 48)), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        tags["ImageLength"].overwrite(2000)
        tags["RowsPerStrip"].overwrite(2000)
    path.write_bytes(path.read_bytes() + bytes(10**6))
    with pytest.raises(FileError, match="fewer bytes"):
        open_image(path)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "packbits", "zstd"])
def test_a_compressed_strip_that_is_shorter_than_declared(tmp_path, compression):
    path = tmp_path / "in.tif"
    write(path, noise((64, 48)), metadata=None, compression=compression)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        tags["ImageLength"].overwrite(2000)
        tags["RowsPerStrip"].overwrite(2000)
    with pytest.raises(FileError, match=r"cannot be .*corrupted strip"):
        open_image(path)


def test_no_offsets_at_all(tmp_path):
    path = write(tmp_path / "in.tif", noise((64, 48)), metadata=None)
    data = path.read_bytes()
    at = data.index(struct.pack("<HH", 273, 4))
    path.write_bytes(data[:at] + struct.pack("<HH", 272, 4) + data[at + 4 :])
    with pytest.raises(FileError, match="the file lists 0"):
        open_image(path)


def test_what_tifffile_logs_does_not_reach_the_terminal(tmp_path, caplog):
    """A missing value that the type cannot hold is the commonest of its lines."""
    tags = [(42113, "s", 0, "-9999", True)]
    path = write(
        tmp_path / "in.tif", noise((20, 20), "uint8"), extratags=tags, metadata=None
    )
    with tifffile.TiffFile(path) as tif:
        assert tif.pages.first.nodata == 0
    assert "GDAL_NODATA" in caplog.text  # it is logged
    caplog.clear()
    open_image(path)
    upscale_file(path, tmp_path / "out.tif")
    assert "GDAL_NODATA" not in caplog.text


def test_a_declared_range_of_type_byte(tmp_path):
    tags = [(340, "B", 1, 10, True), (341, "B", 1, 200, True)]
    path = write(tmp_path / "in.tif", noise((20, 20), "uint8"), extratags=tags)
    assert open_image(path).value_range == ((10.0, 200.0),)


@pytest.mark.parametrize(
    ("symbol", "size", "name"),
    [
        ("fm", 0.2, "femtometer"), ("dm", 0.2, "decimeter"), ("km", 0.2, "kilometer"),
        ("Mm", 0.2, "megameter"), ("pt", 0.2 / 72, "inch"), ("thou", 0.0002, "inch"),
        ("ft", 0.2, "foot"), ("dam", 2.0, "meter"), ("µm", 0.2, "micrometer"),
        ("pixel", 0.2, None),
    ],
)  # fmt: skip
def test_units_of_ome_xml(tmp_path, symbol, size, name):
    path = tmp_path / "in.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 0.2, "PhysicalSizeXUnit": symbol}
    tifffile.imwrite(path, noise((20, 20)), metadata=metadata)
    image = open_image(path)
    assert image.pixel_size["X"] == pytest.approx(size)
    assert image.unit.get("X") == name
    upscale_file(path, tmp_path / "out.ome.tif")
    out = open_image(tmp_path / "out.ome.tif")
    assert (out.pixel_size["X"], out.unit.get("X")) == (pytest.approx(size / 2), name)


@pytest.mark.parametrize(
    ("dtype", "wider"),
    [("float16", "float32"), ("uint64", "float64"), ("int64", "float64")],
)
def test_what_ome_tiff_lacks_is_refused_before_the_run(tmp_path, dtype, wider):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, smooth((20, 20), "uint8").astype(dtype), metadata=None)
    with pytest.raises(OutputError, match=f"cannot hold.*{dtype}.*--dtype {wider}"):
        upscale_file(path, tmp_path / "out.ome.tif")
    upscale_file(path, tmp_path / "out.ome.tif", dtype=wider)
    upscale_file(path, tmp_path / "out.ome.zarr")
    assert open_image(tmp_path / "out.ome.zarr").data.dtype == dtype


@pytest.mark.parametrize("compression", ["zstd", "jpeg", "packbits"])
def test_a_codec_that_is_not_installed(tmp_path, compression):
    """In a process of its own, as tifffile looks for its codecs when it is loaded."""
    pytest.importorskip("imagecodecs")
    pixels = noise((64, 48), "uint8")
    path = write(tmp_path / "in.tif", pixels, compression=compression)
    script = f"""
import sys
sys.modules["imagecodecs"] = None
from napari_swin2sr.errors import MissingDependencyError
from napari_swin2sr.formats import open_image
try:
    open_image({str(path)!r})
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    if compression == "packbits":  # which tifffile knows by itself
        assert done.stdout == ""
    else:
        assert "in.tif: its compression needs imagecodecs" in done.stdout
        assert 'pip install "napari-swin2sr[tiff]"' in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("target", ["out.ome.tif", "out.ome.zarr"])
@pytest.mark.parametrize("level", [0, 1])
def test_the_place_of_a_level_is_kept(tmp_path, level, target):
    pixels = noise((64, 80))
    unit = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
    metadata = {"axes": "YX", "PhysicalSizeX": 200.0, "PhysicalSizeY": 100.0} | unit
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(pixels, subifds=1, tile=(32, 32), metadata=metadata)
        file.write(pixels[::2, ::2], subfiletype=1, tile=(32, 32))
    upscale_file(tmp_path / "a.ome.tif", tmp_path / target, level=level)
    image = open_image(tmp_path / target)
    size = {"X": 100.0 * 2**level, "Y": 50.0 * 2**level}
    assert image.pixel_size == pytest.approx(size)
    # the outer corner of the image is where it was: half an old pixel before (0, 0)
    corner = {axis: image.origin.get(axis, 0.0) - size[axis] / 2 for axis in "YX"}
    assert corner == pytest.approx({"Y": -50.0, "X": -100.0})
    if target.endswith(".tif") and level == 0:
        ome = ome_types.from_tiff(tmp_path / target)
        plane = ome.images[0].pixels.planes[0]
        assert plane.position_x == pytest.approx(image.origin["X"])
        assert plane.position_x_unit.value == "nm"


def test_axes_that_are_not_clear_name_the_file(tmp_path):
    pixels = noise((4, 5, 6, 30, 40))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    with pytest.raises(InputError, match=r"a\.tif: axes='YX' names 2 axes"):
        open_image(tmp_path / "a.tif", axes="YX")
