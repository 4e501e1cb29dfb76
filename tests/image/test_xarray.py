"""xarray in, xarray out: names, coordinates, attributes, georeference (I100-I104)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import napari_swin2sr as nsr
from helpers.bad_inputs import pixels
from helpers.tiny import tiny_folder
from napari_swin2sr.errors import InputError
from napari_swin2sr.image.xarray import axes_of, from_dataarray, is_dataarray


def upscaled(*args: Any, **options: Any) -> Any:
    return nsr.apply(*args, **options)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("models") / "tiny"))


def raster(**coords: Any) -> xr.DataArray:
    """Return a 10 x 12 raster of 20 m pixels, as rioxarray would give it."""
    values = pixels(2, 10, 12).astype(np.uint16)
    return xr.DataArray(
        values,
        dims=("band", "y", "x"),
        coords={
            "band": [4, 8],
            "y": ("y", 5000 - 20 * np.arange(10.0), {"units": "metre"}),
            "x": ("x", 100 + 20 * np.arange(12.0), {"units": "metre"}),
            **coords,
        },
        name="reflectance",
        attrs={"platform": "S2", "long_name": "B4 and B8"},
    )


def test_the_result_is_a_lazy_dataarray_with_the_same_pixels(model: str) -> None:
    image = raster()
    result = upscaled(image, model)
    assert isinstance(result, xr.DataArray)
    assert isinstance(result.data, da.Array)
    assert (result.dims, result.name) == (image.dims, image.name)
    plain = upscaled(image.values, model, axes="CYX")
    np.testing.assert_array_equal(result.values, plain.compute())


def test_coordinates_are_the_centers_of_the_new_pixels(model: str) -> None:
    """x2 of centers 100, 120, ...: 95, 105, 115, ...: outer edges stay at 90."""
    result = upscaled(raster(), model)
    np.testing.assert_allclose(result.x, 95 + 10 * np.arange(24))
    np.testing.assert_allclose(result.y, 5005 - 10 * np.arange(20))
    assert result.x.attrs == {"units": "metre"}
    np.testing.assert_array_equal(result.band, [4, 8])
    edges = result.x[0] - 5, result.x[-1] + 5
    assert [float(edge) for edge in edges] == [90, 330]


def test_new_coordinates_average_to_the_old_ones(model: str) -> None:
    rng = np.random.default_rng(0)
    even = np.linspace(-3, 7, 12)
    uneven = np.cumsum(rng.random(12)) + 50
    for values in (even, uneven, even.astype("f4"), np.arange(12)):
        image = xr.DataArray(pixels(10, 12), dims=("y", "x"), coords={"x": values})
        new = upscaled(image, model).x.values
        assert (np.diff(new) > 0).all()
        if values is not uneven:
            np.testing.assert_allclose(new.reshape(-1, 2).mean(1), values, atol=1e-5)
        else:
            inner = np.interp(np.arange(1, 23) / 2 - 0.25, np.arange(12), values)
            np.testing.assert_allclose(new[1:-1], inner)


def test_attributes_are_kept_and_say_how_it_was_made(model: str) -> None:
    image = raster()
    before = image.copy(deep=True)
    result = upscaled(image, model, value_range=(0, 255), halo=16)
    record = json.loads(result.attrs.pop("napari_swin2sr"))
    assert result.attrs == image.attrs
    assert (record["upscale"], record["halo"]) == (2, 16)
    assert record["value_range"] == [{"low": 0.0, "high": 255.0, "top": 1.0}] * 2
    xr.testing.assert_identical(image, before)


def test_georeference(model: str) -> None:
    """GDAL's order is x0 dx rx y0 ry dy: all but the corner shrink."""
    image = raster(
        spatial_ref=(
            (),
            0,
            {"GeoTransform": "90.0 20.0 3.0 5010.0 4.0 -20.0", "crs_wkt": "EPSG"},
        )
    )
    image.attrs["transform"] = (20.0, 3.0, 90.0, 4.0, -20.0, 5010.0)
    image.attrs["res"] = (20.0, 20.0)
    result = upscaled(image, model)
    reference = result.spatial_ref.attrs
    assert reference["GeoTransform"] == "90.0 10.0 1.5 5010.0 2.0 -10.0"
    assert reference["crs_wkt"] == "EPSG"
    assert result.attrs["transform"] == (10.0, 1.5, 90.0, 2.0, -10.0, 5010.0)
    assert result.attrs["res"] == (10.0, 10.0)
    assert image.spatial_ref.attrs["GeoTransform"].startswith("90.0 20.0")


def test_the_geotransform_agrees_with_the_coordinates(model: str) -> None:
    image = raster(spatial_ref=((), 0, {"GeoTransform": "90 20 0 5010 0 -20"}))
    result = upscaled(image, model)
    x0, dx, _, y0, _, dy = map(float, result.spatial_ref.attrs["GeoTransform"].split())
    np.testing.assert_allclose(result.x, x0 + dx * (np.arange(24) + 0.5))
    np.testing.assert_allclose(result.y, y0 + dy * (np.arange(20) + 0.5))


def test_coordinates_that_cannot_be_refined_are_dropped_with_a_warning(
    model: str,
) -> None:
    image = raster(
        lon=(("y", "x"), np.zeros((10, 12))),
        line=("y", list("abcdefghij")),
        day=((), 5),
        sensor=("band", ["a", "b"]),
    )
    with pytest.warns(UserWarning, match="coordinates lon, line are dropped") as seen:
        result = upscaled(image, model)
    assert len(seen) == 1
    assert set(result.coords) == {"x", "y", "band", "day", "sensor"}


def test_a_single_row_has_no_spacing_to_refine(model: str) -> None:
    image = raster().isel(y=[0])
    with pytest.warns(UserWarning, match="coordinates y are dropped"):
        assert upscaled(image, model).shape == (2, 2, 24)


@pytest.mark.parametrize(
    ("dims", "axes"),
    [
        (("y", "x"), "YX"),
        (("lat", "lon"), "YX"),
        (("Latitude", "Longitude"), "YX"),
        (("x", "y"), "XY"),
        (("time", "band", "y", "x"), "TCYX"),
        (("t", "c", "z", "y", "x"), "TCZYX"),
        (("y", "x", "rgb"), "YXS"),
        (("scene", "row", "col"), "TYX"),
        (("time", "scene", "row", "col"), "TZYX"),
        (("dim_0", "dim_1"), None),
    ],
    ids=str,
)
def test_names_of_dimensions(dims: tuple[str, ...], axes: str | None) -> None:
    image = xr.DataArray(np.zeros((3,) * len(dims)), dims=dims)
    assert axes_of(image) == axes


def test_the_cf_axis_attribute_is_believed() -> None:
    coords = {"u": ("u", [0, 1], {"axis": "Y"}), "v": ("v", [0, 1], {"axis": "X"})}
    image = xr.DataArray(np.zeros((2, 2)), dims=("u", "v"), coords=coords)
    assert axes_of(image) == "YX"


@pytest.mark.parametrize(
    "dims",
    [("u", "v"), ("y", "lat"), ("x", "lon", "y"), ("a", "b", "c", "d", "x", "y")],
)
def test_names_that_tell_nothing_are_refused(dims: tuple[str, ...], model: str) -> None:
    image = xr.DataArray(np.zeros((3,) * len(dims), np.uint8), dims=dims)
    with pytest.raises(InputError, match=rf'{", ".join(dims)} do not tell.*axes="'):
        upscaled(image, model)


def test_axes_and_rgb_overrule_the_names(model: str) -> None:
    image = xr.DataArray(pixels(9, 10, 3).astype("u1"), dims=("u", "v", "band"))
    with pytest.raises(InputError):
        upscaled(image, model)
    result = upscaled(image, model, axes="YXS")
    expected = upscaled(image.values, model, rgb=True).compute()
    np.testing.assert_array_equal(result.values, expected)
    named = image.rename(u="y", v="x")
    np.testing.assert_array_equal(upscaled(named, model, rgb=True).values, expected)
    numbered = xr.DataArray(image.values)
    result = upscaled(numbered, model, rgb=True)
    assert result.dims == ("dim_0", "dim_1", "dim_2")
    np.testing.assert_array_equal(result.values, expected)


def test_missing_values_of_the_attributes_stay_missing(model: str) -> None:
    image = raster().astype("i2")
    image.attrs["_FillValue"] = np.int16(-999)
    image[0, :2] = -999
    result = upscaled(image, model)
    assert (result[0, :4] == -999).all()
    assert (result[0, 4:] != -999).all()


def test_a_dask_backed_array_stays_lazy(model: str) -> None:
    computed: list[int] = []

    def block(values: np.ndarray) -> np.ndarray:
        computed.append(values.size)
        return values

    image = raster().chunk(y=4)
    image = image.copy(data=image.data.map_blocks(block, dtype=image.dtype))
    computed.clear()
    result = upscaled(image, model, value_range=(0, 255))
    assert not computed
    expected = upscaled(raster(), model, value_range=(0, 255))
    np.testing.assert_array_equal(result.values, expected.values)
    assert computed


def test_a_file_behind_xarray_is_read_piece_by_piece(
    tmp_path: Path, model: str
) -> None:
    """Without dask chunks, `.values` of the whole would load everything."""
    raster().to_dataset().to_zarr(tmp_path / "scene.zarr", consolidated=False)
    opened = xr.open_dataset(
        tmp_path / "scene.zarr", engine="zarr", chunks=None, consolidated=False
    )
    image = opened["reflectance"]
    assert not image.variable._in_memory
    result = upscaled(image, model, tile=8).values
    assert not image.variable._in_memory
    np.testing.assert_array_equal(result, upscaled(raster(), model, tile=8).values)


def test_what_an_image_record_learns() -> None:
    image = from_dataarray(raster(), "CYX")
    assert image.pixel_size == {"Y": 20, "X": 20}
    assert image.origin == {"Y": 5000, "X": 100}
    assert image.unit == {"Y": "metre", "X": "metre"}
    assert image.channel_names == ("4", "8")
    assert image.source == "reflectance"


def test_other_arrays_are_no_dataarrays() -> None:
    assert not is_dataarray(np.zeros(3))
    assert is_dataarray(xr.DataArray(3))
