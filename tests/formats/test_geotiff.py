"""Georeferenced rasters, made and read by rasterio (GDAL), upscaled by us."""

from __future__ import annotations

import math
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from helpers import stand_in
from helpers.io_images import noise, smooth
from napari_swin2sr import upscale, upscale_file
from napari_swin2sr.errors import FileError, MissingDependencyError, OutputError
from napari_swin2sr.formats import open_image
from napari_swin2sr.runs import job as work

rasterio = pytest.importorskip("rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.transform import Affine  # noqa: E402

NORTH_UP = Affine(10.0, 0.0, 399960.0, 0.0, -10.0, 5300040.0)
ROTATED = Affine.translation(512345.678, 4987654.321) @ Affine.rotation(31.4)
ROTATED = ROTATED @ Affine.scale(0.6, -0.55) @ Affine.shear(3.0, 0.0)
SOUTH_UP = Affine(0.01, 0.0, -12.5, 0.0, 0.02, 40.25)
SCENES = {
    "north-up": (NORTH_UP, "EPSG:32633"),
    "rotated": (ROTATED, "EPSG:32611"),
    "south-up": (SOUTH_UP, "EPSG:4326"),
    "own projection": (
        NORTH_UP,
        "+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +ellps=GRS80",
    ),
}
NAMES = ("B02 blue", "B03 <green>", "B04 & red", "B08 nir")


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)


@pytest.fixture(params=[True, False], ids=["memory", "store"])
def small(request, monkeypatch):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 2**27 if request.param else 0)


def scene(path: Path, transform, crs, pixels=None, **options) -> Path:
    pixels = noise((4, 70, 93)) if pixels is None else pixels
    settings = {
        "driver": "GTiff",
        "count": pixels.shape[0],
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "dtype": pixels.dtype,
        "transform": transform,
        "crs": crs,
    }
    with rasterio.open(path, "w", **(settings | options)) as dst:
        dst.write(pixels)
        if pixels.shape[0] == 4:
            dst.descriptions = NAMES
        dst.update_tags(SENSING="2024-07-01")
        dst.update_tags(1, STATISTICS_MAXIMUM="65535", WAVELENGTH="492")
        dst.scales = (0.0001,) * pixels.shape[0]
    return path


def corners(transform, width, height):
    return [transform @ xy for xy in ((0, 0), (width, 0), (0, height), (width, height))]


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("name", SCENES)
def test_the_result_lies_exactly_over_the_scene(tmp_path, small, name, interleave):
    transform, crs = SCENES[name]
    source = scene(
        tmp_path / "in.tif", transform, crs, interleave=interleave, nodata=0.0
    )
    upscale_file(source, tmp_path / "out.tif", tile=32, value_range=(0.0, 65535.0))
    with rasterio.open(source) as a, rasterio.open(tmp_path / "out.tif") as b:
        assert (b.width, b.height, b.count) == (2 * a.width, 2 * a.height, 4)
        assert b.crs == a.crs
        assert b.nodata == a.nodata == 0
        assert b.descriptions == NAMES
        assert b.tags()["SENSING"] == "2024-07-01"
        assert b.tags(1)["WAVELENGTH"] == "492"
        assert "STATISTICS_MAXIMUM" not in b.tags(1)
        assert b.scales == a.scales
        assert b.dtypes == a.dtypes
        np.testing.assert_allclose(
            corners(b.transform, b.width, b.height),
            corners(a.transform, a.width, a.height),
            rtol=1e-12,
            atol=1e-9,
        )
        np.testing.assert_allclose(
            tuple(b.transform)[:6], tuple(transform @ Affine.scale(0.5))[:6], rtol=1e-12
        )
        assert b.profile["interleave"] == "band"
        assert b.profile["tiled"]


@pytest.mark.parametrize("name", ["north-up", "rotated"])
def test_an_overlay_has_no_shift(tmp_path, name):
    """A smooth scene and its result, looked up at the same places on the ground."""
    transform, crs = SCENES[name]
    pixels = smooth((1, 120, 110))
    source = scene(tmp_path / "in.tif", transform, crs, pixels)
    upscale_file(source, tmp_path / "out.tif", value_range=(0.0, 65535.0))
    rng = np.random.default_rng(0)
    with rasterio.open(source) as a, rasterio.open(tmp_path / "out.tif") as b:
        places = [a.transform @ (x, y) for x, y in rng.uniform(4, 100, (500, 2))]
        before = np.array([v[0] for v in a.sample(places)], float)
        after = np.array([v[0] for v in b.sample(places)], float)
    wanted = stand_in.whole(pixels[0], 0, 65535)
    inverse = ~(transform @ Affine.scale(0.5))
    columns, rows = np.floor(np.array([inverse @ p for p in places])).astype(int).T
    np.testing.assert_allclose(after, wanted[rows, columns], atol=1)
    assert np.corrcoef(before, after)[0, 1] > 0.97


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("float32", math.nan), ("float32", -9999.0), ("int16", -32768)],
)
def test_missing_pixels_stay_missing(tmp_path, small, dtype, nodata):
    pixels = smooth((2, 50, 60), dtype)
    pixels[:, 10:20, 30:45] = nodata
    source = scene(tmp_path / "in.tif", NORTH_UP, "EPSG:32633", pixels, nodata=nodata)
    upscale_file(source, tmp_path / "out.tif", tile=24)
    with rasterio.open(tmp_path / "out.tif") as b:
        np.testing.assert_equal(b.nodata, float(nodata))
        mask = b.dataset_mask() == 0
        out = b.read()
    hole = np.zeros((100, 120), bool)
    hole[20:40, 60:90] = True
    np.testing.assert_array_equal(mask, hole)
    assert np.isfinite(out[:, ~hole]).all()


def test_a_file_that_ties_pixel_centers(tmp_path):
    source = scene(tmp_path / "in.tif", NORTH_UP, "EPSG:32633", AREA_OR_POINT="Point")
    with rasterio.open(source, "r+") as dst:
        dst.update_tags(AREA_OR_POINT="Point")
    upscale_file(source, tmp_path / "out.tif", tile=32)
    with rasterio.open(source) as a, rasterio.open(tmp_path / "out.tif") as b:
        assert a.tags()["AREA_OR_POINT"] == b.tags()["AREA_OR_POINT"] == "Point"
        np.testing.assert_allclose(b.bounds, a.bounds, atol=1e-9)
    with tifffile.TiffFile(source) as tif:
        tie = tif.pages.first.tags[33922].value
    assert tie[3] == NORTH_UP.c + 5  # the file really ties a center


def test_ground_control_points_move_with_the_pixels(tmp_path):
    points = [
        GroundControlPoint(row=r, col=c, x=x, y=y, z=z)
        for r, c, x, y, z in [
            (0, 0, 10, 50, 1),
            (70, 0, 10, 49, 2),
            (0.5, 93, 12, 50, 3),
        ]
    ]
    source = tmp_path / "in.tif"
    pixels = noise((1, 70, 93))
    with rasterio.open(
        source, "w", driver="GTiff", count=1, height=70, width=93, dtype="uint16",
        gcps=points, crs="EPSG:4326",
    ) as dst:  # fmt: skip
        dst.write(pixels)
    upscale_file(source, tmp_path / "out.tif", tile=32)
    with rasterio.open(tmp_path / "out.tif") as b:
        found, crs = b.gcps
    assert crs.to_epsg() == 4326
    for old, new in zip(points, found, strict=True):
        assert (new.row, new.col) == (2 * old.row, 2 * old.col)
        assert (new.x, new.y, new.z) == (old.x, old.y, old.z)


def test_overviews_are_found_by_gdal(tmp_path, monkeypatch, small):
    from napari_swin2sr.formats import pyramid as blocks

    monkeypatch.setattr(blocks, "SMALLEST_LEVEL", 60)
    source = scene(tmp_path / "in.tif", NORTH_UP, "EPSG:32633")
    upscale_file(source, tmp_path / "out.tif", tile=32)
    with rasterio.open(tmp_path / "out.tif") as b:
        assert b.overviews(1) == [2, 4]
        half = b.read(out_shape=(4, 70, 93))
    full = open_image(tmp_path / "out.tif").data[:]
    means = full.reshape(4, 70, 2, 93, 2).mean((2, 4))
    assert np.abs(half - means).max() <= 0.5
    image = open_image(tmp_path / "out.tif", level=1)
    assert image.transform is not None
    np.testing.assert_allclose(image.transform, tuple(NORTH_UP)[:6])


def test_color_rasters_stay_color(tmp_path):
    pixels = smooth((3, 40, 50), "uint8")
    source = scene(
        tmp_path / "in.tif", NORTH_UP, "EPSG:32633", pixels, photometric="RGB"
    )
    assert set(open_image(source).axes) == set("YXS")
    upscale_file(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as b:
        assert [c.name for c in b.colorinterp] == ["red", "green", "blue"]
        assert b.crs.to_epsg() == 32633


def test_cloud_optimized(tmp_path, small):
    source = scene(tmp_path / "in.tif", ROTATED, "EPSG:32611", noise((4, 700, 600)))
    upscale_file(source, tmp_path / "out.tif", cog=True, tile=256)
    with rasterio.open(tmp_path / "out.tif") as b:
        assert b.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert b.overviews(1)
        assert b.descriptions == NAMES
        np.testing.assert_allclose(
            tuple(b.transform)[:6], tuple(ROTATED @ Affine.scale(0.5))[:6], rtol=1e-12
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "out.tif"]
    upscale_file(tmp_path / "out.tif", tmp_path / "again.tif", tile=512)  # COG in
    with rasterio.open(tmp_path / "again.tif") as c:
        np.testing.assert_allclose(
            tuple(c.transform)[:6], tuple(ROTATED @ Affine.scale(0.25))[:6], rtol=1e-12
        )


def test_through_ome_zarr_and_back(tmp_path):
    source = scene(tmp_path / "in.tif", ROTATED, "EPSG:32611", nodata=0)
    upscale_file(source, tmp_path / "mid.ome.zarr", tile=32)
    upscale_file(tmp_path / "mid.ome.zarr", tmp_path / "out.tif", tile=64)
    with rasterio.open(tmp_path / "out.tif") as b:
        assert b.crs.to_epsg() == 32611
        assert b.descriptions == NAMES
        assert b.nodata == 0
        np.testing.assert_allclose(
            tuple(b.transform)[:6], tuple(ROTATED @ Affine.scale(0.25))[:6], rtol=1e-12
        )


def test_a_transform_to_nowhere_is_refused(tmp_path):
    source = tmp_path / "in.tif"
    tags = [
        (33550, "d", 3, (10.0, 0.0, 0.0), True),
        (33922, "d", 6, (0.0, 0, 0, 5.0, 6.0, 0), True),
        (34735, "H", 4, (1, 1, 0, 0), True),
    ]
    tifffile.imwrite(
        source, noise((20, 20)), photometric="minisblack", extratags=tags, metadata=None
    )
    with pytest.raises(FileError, match="to a line or to nowhere"):
        open_image(source)


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED], ids=["north-up", "rotated"])
@pytest.mark.parametrize("target", ["out.tif", "out.ome.zarr"])
def test_a_transform_without_a_reference_system(tmp_path, transform, target):
    source = scene(tmp_path / "in.tif", transform, None, smooth((1, 40, 50)), nodata=7)
    with tifffile.TiffFile(source, mode="r+") as tif:
        tag = tif.pages.first.tags.get(34735)
        if tag is not None:  # GDAL writes a directory without a reference system
            tag.overwrite((1, 1, 0, 0))
    upscale_file(source, tmp_path / target, tile=32)
    if target == "out.ome.zarr":
        upscale_file(tmp_path / target, tmp_path / "out.tif", tile=64)
    factor = 0.5 if target == "out.tif" else 0.25
    with rasterio.open(tmp_path / "out.tif") as b:
        assert b.nodata == 7
        np.testing.assert_allclose(
            tuple(b.transform)[:6], tuple(transform @ Affine.scale(factor))[:6]
        )


def test_tags_without_any_geokeys(tmp_path):
    tags = [
        (33550, "d", 3, (2.0, 3.0, 0.0), True),
        (33922, "d", 6, (0.0, 0, 0, 5.0, 6.0, 0), True),
    ]
    source = tmp_path / "in.tif"
    pixels = noise((20, 20))
    tifffile.imwrite(
        source, pixels, photometric="minisblack", extratags=tags, metadata=None
    )
    upscale_file(source, tmp_path / "out.tif")
    with rasterio.open(source) as a, rasterio.open(tmp_path / "out.tif") as b:
        assert a.transform == Affine(2, 0, 5, 0, -3, 6)
        assert b.transform == Affine(1, 0, 5, 0, -1.5, 6)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_missing_pixels_of_an_image_without_a_place(tmp_path, dtype):
    pixels = smooth((40, 50), dtype)
    pixels += pixels == 0
    pixels[5:15, 10:20] = 0
    source = tmp_path / "in.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            source, "w", driver="GTiff", width=50, height=40, count=1, dtype=dtype,
            nodata=0,
        ) as dst:  # fmt: skip
            dst.write(pixels, 1)
        upscale_file(source, tmp_path / "out.tif")
        with rasterio.open(tmp_path / "out.tif") as b:
            assert b.nodata == 0
            hole = b.dataset_mask() == 0
    assert hole[10:30, 20:40].all()
    assert hole.sum() == 400


def test_points_of_a_file_that_ties_pixel_centers(tmp_path):
    points = [
        GroundControlPoint(row=r, col=c, x=c / 10, y=50 - r / 10, z=0)
        for r, c in [(0, 0), (70, 0), (0.5, 93), (60, 80)]
    ]
    source = tmp_path / "in.tif"
    with rasterio.open(
        source, "w", driver="GTiff", count=1, height=70, width=93, dtype="uint16",
        gcps=points, crs="EPSG:4326",
    ) as dst:  # fmt: skip
        dst.write(noise((1, 70, 93)))
        dst.update_tags(AREA_OR_POINT="Point")
    upscale_file(source, tmp_path / "out.tif", tile=32)
    with rasterio.open(source) as a, rasterio.open(tmp_path / "out.tif") as b:
        assert b.tags()["AREA_OR_POINT"] == "Point"
        for old, new in zip(a.gcps[0], b.gcps[0], strict=True):
            # GDAL's own view is of corners, whatever the file ties.
            assert (new.row, new.col) == pytest.approx((2 * old.row, 2 * old.col))


def test_letters_of_every_language(tmp_path):
    source = scene(tmp_path / "in.tif", NORTH_UP, "EPSG:32633", smooth((2, 40, 50)))
    with rasterio.open(source, "r+") as dst:
        dst.descriptions = ("Höhe über Grund", "高さ")
        dst.update_tags(ORT="Zürich", 名="値")
        dst.units = ("µm", "°")
    upscale_file(source, tmp_path / "out.tif", tile=32)
    with rasterio.open(tmp_path / "out.tif") as b:
        assert b.descriptions == ("Höhe über Grund", "高さ")
        assert b.units == ("µm", "°")
        assert b.tags()["ORT"] == "Zürich"


@pytest.mark.parametrize("dtype", ["uint64", "int64"])
@pytest.mark.parametrize("target", ["out.tif", "out.ome.zarr"])
def test_integers_of_64_bits(tmp_path, small, dtype, target):
    pixels = smooth((1, 40, 50), "uint16").astype(dtype)
    source = scene(tmp_path / "in.tif", NORTH_UP, "EPSG:32633", pixels)
    upscale_file(source, tmp_path / target, tile=32, value_range=(0, 65535))
    image = open_image(tmp_path / target)
    assert image.data.dtype == dtype
    wanted = np.rint(stand_in.whole(pixels[0], 0, 65535))
    assert np.abs(np.squeeze(image.data[...]).astype(float) - wanted).max() <= 1


def test_bands_beyond_rgb_keep_their_roles(tmp_path):
    pixels = smooth((4, 40, 50), "uint8")
    source = tmp_path / "in.tif"
    tifffile.imwrite(
        source, np.moveaxis(pixels, 0, -1), photometric="rgb",
        extrasamples=["unspecified"], metadata=None,
        extratags=[(33550, "d", 3, (1.0, 1.0, 0.0), True),
                   (33922, "d", 6, (0.0, 0, 0, 5.0, 6.0, 0), True)],
    )  # fmt: skip
    upscale_file(source, tmp_path / "out.tif")
    with rasterio.open(source) as a, rasterio.open(tmp_path / "out.tif") as b:
        assert b.colorinterp == a.colorinterp
        assert [c.name for c in b.colorinterp][:3] == ["red", "green", "blue"]


@pytest.mark.parametrize("name", ["in.tif", "in.png", "in.jpg"])
def test_world_files(tmp_path, name):
    from PIL import Image

    Image.fromarray(smooth((40, 50), "uint8")).save(tmp_path / name)
    world = {"in.tif": "in.tfw", "in.png": "in.pgw", "in.jpg": "in.jgw"}[name]
    (tmp_path / world).write_text("2.0\n0.5\n0.25\n-3.0\n100.0\n200.0\n")
    with rasterio.open(tmp_path / name) as a:
        wanted = a.transform
    assert open_image(tmp_path / name).transform == pytest.approx(tuple(wanted)[:6])
    upscale_file(tmp_path / name, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as b:
        assert tuple(b.transform)[:6] == pytest.approx(
            tuple(wanted @ Affine.scale(0.5))[:6]
        )


# -- through GDAL ---------------------------------------------------------------------


def jp2(path: Path, pixels: np.ndarray, transform=NORTH_UP) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", count=pixels.shape[0], dtype=pixels.dtype,
        height=pixels.shape[1], width=pixels.shape[2], crs="EPSG:32633",
        transform=transform, QUALITY=100, REVERSIBLE="YES",
    ) as dst:  # fmt: skip
        dst.write(pixels)
    return path


def test_jpeg_2000(tmp_path):
    pixels = smooth((1, 150, 130))
    source = jp2(tmp_path / "in.jp2", pixels)
    image = pickle.loads(pickle.dumps(open_image(source)))
    np.testing.assert_array_equal(image.data[:], pixels)
    np.testing.assert_array_equal(
        image.data[0, 140:20:-7, 5:9], pixels[0, 140:20:-7, 5:9]
    )
    upscale_file(source, tmp_path / "out.tif", tile=64, value_range=(0.0, 65535.0))
    with rasterio.open(tmp_path / "out.tif") as b:
        assert b.crs.to_epsg() == 32633
        np.testing.assert_allclose(b.transform, NORTH_UP @ Affine.scale(0.5))
        wanted = stand_in.whole(pixels[0], 0, 65535)
        assert np.abs(b.read(1) - np.rint(wanted)).max() <= 1


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_a_sentinel_2_product(tmp_path, level):
    folder = tmp_path / f"S2A_MSI{level}_20240701T101031.SAFE"
    images = folder / "GRANULE" / "L1C_T33UUP" / "IMG_DATA"
    planes: dict[str, Any] = {}
    for band, meters in [
        ("B02", 10),
        ("B03", 10),
        ("B04", 10),
        ("B08", 10),
        ("B8A", 20),
    ]:
        n = 1200 // meters
        planes[band] = noise((1, n, n), seed=len(planes))
        name = f"T33UUP_20240701T101031_{band}"
        if level == "L2A":
            name = f"R{meters}m/{name}_{meters}m"
        transform = NORTH_UP @ Affine.scale(meters / 10)
        jp2(images / f"{name}.jp2", planes[band], transform)
    (folder / f"MTD_MSI{level}.xml").write_text("<n1/>")
    for source in (folder, folder / f"MTD_MSI{level}.xml"):
        image = open_image(source)
        assert image.axes == "CYX"
        assert image.channel_names == ("B02", "B03", "B04", "B08")
        assert image.nodata == 0
        assert image.crs == "EPSG:32633"
        for k, name in enumerate(image.channel_names):
            np.testing.assert_array_equal(image.data[k], planes[name][0])
    assert open_image(folder, series=1).channel_names == ("B8A",)
    with pytest.raises(FileError, match="no bands of 60 m"):
        open_image(folder, series=2)
    upscale_file(folder, tmp_path / "out.tif", tile=64)
    with rasterio.open(tmp_path / "out.tif") as b:
        assert b.descriptions == ("B02", "B03", "B04", "B08")
        assert b.nodata == 0
        assert tuple(b.bounds) == (399960.0, 5298840.0, 401160.0, 5300040.0)


def test_what_gdal_cannot_read(tmp_path):
    path = tmp_path / "x.jp2"
    path.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100))
    with pytest.raises(FileError, match="cannot be read"):
        open_image(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match="neither a Zarr store"):
        open_image(tmp_path / "folder")


def test_gdal_reads_ours_without_a_warning(tmp_path):
    source = scene(tmp_path / "in.tif", NORTH_UP, "EPSG:32633")
    upscale_file(source, tmp_path / "out.tif", tile=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with rasterio.open(tmp_path / "out.tif") as b:
            b.read()


def test_bands_with_missing_tools_say_what_to_install(tmp_path, monkeypatch):
    import sys

    from napari_swin2sr.errors import MissingDependencyError

    source = jp2(tmp_path / "in.jp2", smooth((1, 50, 50)))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingDependencyError, match=r"napari-swin2sr\[geo\]"):
        open_image(source)


def test_an_unwritable_cog_leaves_nothing(tmp_path, monkeypatch):
    import rasterio.shutil

    def fail(*args, **kwargs):
        raise rasterio.errors.RasterioIOError("no")

    monkeypatch.setattr(rasterio.shutil, "copy", fail)
    source = scene(tmp_path / "in.tif", NORTH_UP, "EPSG:32633")
    with pytest.raises(OutputError, match="GDAL cannot write it"):
        upscale_file(source, tmp_path / "out.tif", tile=32, cog=True)
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


VRT = """<VRTDataset rasterXSize="20" rasterYSize="20">
<VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="0">{private}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize("kind", ["VRT", "TIFF", "device"])
def test_a_band_that_is_no_jpeg_2000(tmp_path, kind):
    """GDAL would read the private file, and hand its pixels to whoever sent this."""
    private = scene(
        tmp_path / "private.tif", NORTH_UP, None, noise((1, 20, 20), "uint8")
    )
    folder = tmp_path / "S2A_MSIL1C.SAFE"
    images = folder / "GRANULE" / "L1C" / "IMG_DATA"
    band = images / "T33UUP_B02.jp2"
    jp2(images / "T33UUP_B03.jp2", smooth((1, 120, 120)))
    if kind == "VRT":
        band.write_text(VRT.format(private=private))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(band) as dst:
                assert dst.driver == "VRT"  # what GDAL does when it is let
    elif kind == "TIFF":
        band.write_bytes(private.read_bytes())
    else:
        band.symlink_to("/dev/zero")
    with pytest.raises(FileError, match="is no JPEG 2000 file"):
        open_image(folder)


def test_a_damaged_jpeg_2000_is_refused_before_the_run(tmp_path):
    source = jp2(tmp_path / "in.jp2", noise((1, 150, 130)))
    data = bytearray(source.read_bytes())
    at = data.index(b"\xff\x93") + 2  # start of data
    data[at:] = b"\xff" * (len(data) - at)
    source.write_bytes(data)
    with pytest.raises(FileError, match=r"in.jp2: cannot be read: (?!Read failed)"):
        open_image(source)


def test_color_tables_of_jpeg_2000(tmp_path):
    source = tmp_path / "in.jp2"
    pixels = noise((1, 60, 50), "uint8") % 4
    table = {k: (60 * k, 9, 255 - k, 255) for k in range(4)}
    with rasterio.open(
        tmp_path / "p.tif", "w", driver="GTiff", width=50, height=60, count=1,
        dtype="uint8", crs="EPSG:32633", transform=NORTH_UP, photometric="palette",
    ) as dst:  # fmt: skip
        dst.write(pixels)
        dst.write_colormap(1, table)
    import rasterio.shutil as tools

    tools.copy(
        tmp_path / "p.tif", source, driver="JP2OpenJPEG", QUALITY=100, REVERSIBLE="YES"
    )
    with rasterio.open(source) as a:
        assert a.colorinterp[0].name == "palette"
    image = open_image(source)
    assert image.axes == "SYX"
    wanted = np.array([table[k][:3] for k in range(4)], np.uint8)[pixels[0]]
    np.testing.assert_array_equal(np.moveaxis(image.data[...], 0, -1), wanted)


MASKS: dict[str, Any] = {
    "nodata": (smooth((2, 40, 50)), {"nodata": 7}),
    "float": (smooth((2, 40, 50), "float32"), {}),
    "color": (smooth((3, 40, 50), "uint8"), {"photometric": "rgb"}),
    "integers": (smooth((2, 40, 50)), {}),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("inside", [True, False])
def test_masks_of_gdal(tmp_path, kind, inside, caplog):
    pixels, options = MASKS[kind]
    source = tmp_path / "in.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside):
        scene(source, NORTH_UP, "EPSG:32633", pixels, **options)
        with rasterio.open(source, "r+") as dst:
            dst.write_mask(noise((40, 50), "uint8") > 99)
    assert (tmp_path / "in.tif.msk").exists() is not inside
    image = open_image(source)
    with rasterio.open(source) as judge:
        valid = (
            judge.dataset_mask() != 0 if kind != "nodata" else judge.read_masks(1) != 0
        )
    if kind == "nodata":  # GDAL prefers the value to the mask
        valid = noise((40, 50), "uint8") > 99
    bands = image.axes.index("S" if kind == "color" else "C")
    read = np.moveaxis(image.data[...], bands, 0)
    if kind == "integers":
        assert "no value for missing pixels" in caplog.text
        np.testing.assert_array_equal(read, pixels)
        return
    if kind == "color":
        assert image.axes == "YXS"
        np.testing.assert_array_equal(read[3], np.where(valid, 255, 0))
        np.testing.assert_array_equal(read[:3], pixels)
        np.testing.assert_array_equal(image.data[5:9, ::3, 3], read[3, 5:9, ::3])
    else:
        value = 7 if kind == "nodata" else np.nan
        np.testing.assert_array_equal(read, np.where(valid, pixels, value))
    again = pickle.loads(pickle.dumps(image.data))
    np.testing.assert_array_equal(again[...], image.data[...])


def test_what_gdal_keeps_beside_an_image(tmp_path):
    source = tmp_path / "in.tif"
    pixels = smooth((2, 40, 50))
    tifffile.imwrite(source, pixels, planarconfig="separate", photometric="minisblack")
    text = (
        "<PAMDataset><SRS>{}</SRS><GeoTransform>500, 2, 0, 900, 0, -2</GeoTransform>"
        '<PAMRasterBand band="1"><Description>red edge</Description><NoDataValue>7'
        '</NoDataValue></PAMRasterBand><PAMRasterBand band="2"><NoDataValue>7'
        "</NoDataValue></PAMRasterBand></PAMDataset>"
    )
    wkt = rasterio.crs.CRS.from_epsg(32633).to_wkt().replace('"', "&quot;")
    source.with_name("in.tif.aux.xml").write_text(text.format(wkt))
    image = open_image(source)
    with rasterio.open(source) as judge:
        assert image.nodata == judge.nodata == 7
        assert image.transform == tuple(judge.transform)[:6]
        assert image.channel_names[0] == judge.descriptions[0] == "red edge"
        crs = judge.crs
    upscale_file(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as result:
        assert result.crs == crs
        assert result.nodata == 7
        assert tuple(result.transform)[:6] == (1, 0, 500, 0, -1, 900)


@pytest.mark.parametrize(
    "text", ["", "<PAMDataset>", "<a/>", "<PAMDataset><GeoTransform>x</GeoTransform>"]
)
def test_a_sidecar_that_says_nothing(tmp_path, text):
    source = scene(tmp_path / "in.tif", NORTH_UP, "EPSG:32633", smooth((1, 40, 50)))
    before = open_image(source)
    (tmp_path / "in.tif.aux.xml").write_text(text)
    after = open_image(source)
    assert (after.transform, after.crs) == (before.transform, before.crs)


def test_a_cog_without_gdal_is_refused_before_the_first_tile(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", noise((20, 20)))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    events: list[Any] = []
    with pytest.raises(MissingDependencyError, match=r"napari-swin2sr\[geo\]"):
        upscale_file(
            tmp_path / "a.tif", tmp_path / "b.tif", cog=True, progress=events.append
        )
    assert events == []
