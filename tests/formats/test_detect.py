"""What a path or URL holds; files over HTTP from a server on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from helpers.io_images import noise
from napari_swin2sr.errors import FileError, MissingDependencyError, OutputError
from napari_swin2sr.formats import open_image
from napari_swin2sr.formats.detect import Kind, check_place, kind_of, kind_of_target


@pytest.fixture
def server(tmp_path):
    script = Path(__file__).parents[1] / "helpers" / "range_server.py"
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True
    )
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_geotiff_over_http(tmp_path, server):
    pytest.importorskip("rasterio")
    pixels = noise((3, 60, 70))
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500.0, 900.0, 0.0), True),
        (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), True),
    ]
    tifffile.imwrite(
        tmp_path / "in.tif", pixels, photometric="minisblack",
        planarconfig="separate", extratags=tags, metadata=None,
    )  # fmt: skip
    image = open_image(f"{server}/in.tif")
    np.testing.assert_array_equal(image.data[1:, 10:20], pixels[1:, 10:20])
    assert image.transform == (10.0, 0.0, 500.0, 0.0, -10.0, 900.0)
    assert image.crs == "EPSG:32633"
    with pytest.raises(FileError, match="cannot be read"):
        open_image(f"{server}/gone.tif")


def test_what_a_geotiff_over_http_says(tmp_path, server):
    """Scale, offset, names, tags and points, as from the same file on the disk."""
    rasterio = pytest.importorskip("rasterio")
    from rasterio.control import GroundControlPoint

    points = [
        GroundControlPoint(row=r, col=c, x=c / 10, y=50 - r / 10)
        for r, c in [(0, 0), (70, 0), (0.5, 93)]
    ]
    for name, place in [
        ("a.tif", {"transform": rasterio.Affine(2, 0, 5, 0, -2, 9)}),
        ("b.tif", {"gcps": points}),
    ]:
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", count=2, height=70, width=93,
            dtype="int16", crs="EPSG:4326", nodata=-1, **place,
        ) as dst:  # fmt: skip
            dst.write(noise((2, 70, 93), "int16"))
            dst.scales, dst.offsets = (0.1, 0.2), (-5.0, 7.0)
            dst.descriptions, dst.units = ("α", "b"), ("m", "K")
            dst.update_tags(SENSING="2024", AREA_OR_POINT="Point")
            dst.update_tags(2, WAVELENGTH="492")
        here, there = open_image(tmp_path / name), open_image(f"{server}/{name}")
        assert there.transform == here.transform
        assert there.geo_tags.ground_points == here.geo_tags.ground_points
        assert set(there.geo_tags.metadata) == set(here.geo_tags.metadata)
        assert there.geo_tags.is_point
        assert there.geo_tags.crs == here.geo_tags.crs == "EPSG:4326"
        assert there.channel_names == here.channel_names == ("α", "b")


def test_color_tables_over_http(tmp_path, server):
    rasterio = pytest.importorskip("rasterio")
    pixels = noise((1, 40, 50), "uint8") % 4
    table = {k: (60 * k, 9, 255 - k, 255) for k in range(4)}
    with rasterio.open(
        tmp_path / "in.tif", "w", driver="GTiff", width=50, height=40, count=1,
        dtype="uint8", crs="EPSG:32633", transform=rasterio.Affine(9, 0, 5, 0, -9, 7),
        photometric="palette",
    ) as dst:  # fmt: skip
        dst.write(pixels)
        dst.write_colormap(1, table)
    image = open_image(f"{server}/in.tif")
    assert image.axes == "SYX"
    wanted = np.array([table[k][:3] for k in range(4)], np.uint8)[pixels[0]]
    np.testing.assert_array_equal(np.moveaxis(image.data[...], 0, -1), wanted)


def test_zarr_over_http(tmp_path, server):
    pytest.importorskip("aiohttp")
    pixels = noise((60, 70))
    zarr.create_array(tmp_path / "in.zarr", data=pixels, chunks=(32, 32))
    image = open_image(f"{server}/in.zarr")
    np.testing.assert_array_equal(image.data[20:40, 30:], pixels[20:40, 30:])
    with pytest.raises(FileError, match="not a Zarr image"):
        open_image(f"{server}/gone.zarr")


def test_urls_without_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"napari-swin2sr\[remote\]"):
        open_image("memory://x/y.zarr")


def test_the_content_counts_not_the_name(tmp_path):
    tifffile.imwrite(tmp_path / "in.png", noise((20, 20)))
    assert open_image(tmp_path / "in.png").shape == (20, 20)
    assert kind_of(tmp_path / "in.png") is Kind.TIFF


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"8BPS....", "begins with b'8BPS"),
        (b"\0" * 50, "no image"),
    ],
)
def test_files_that_are_no_image(tmp_path, content, match):
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(FileError, match=match):
        open_image(tmp_path / "x.tif")


def test_what_is_no_file_at_all(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        open_image(tmp_path / "nothing.tif")
    with pytest.raises(FileError, match="neither a file nor a folder"):
        open_image("/dev/null")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.ome.zarr", Kind.ZARR), ("a.ZARR/", Kind.ZARR), ("s3://b/a.zarr", Kind.ZARR),
        ("a.ome.tiff", Kind.TIFF), ("a.TIF", Kind.TIFF), ("a.btf", Kind.TIFF),
        ("a.PNG", Kind.PICTURE), ("a.jpeg", Kind.PICTURE),
    ],
)  # fmt: skip
def test_suffixes_are_formats(name, kind):
    assert kind_of_target(name) is kind


def test_targets_that_cannot_be(tmp_path):
    with pytest.raises(OutputError, match=r"\(none\)"):
        kind_of_target("result")
    with pytest.raises(OutputError, match="only OME-Zarr"):
        kind_of_target("s3://b/a.tif")
    with pytest.raises(OutputError, match="its own source"):
        check_place("s3://b/a.zarr", "s3://b/a.zarr/")


def test_a_vrt_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "a.vrt").write_text('<VRTDataset rasterXSize="3" rasterYSize="3"/>')
    with pytest.raises(FileError, match=r"gdal_translate a\.vrt a\.tif"):
        open_image(tmp_path / "a.vrt")
