"""`apply(trust=True)`: an image and its error, from one forward, for every input."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import cast

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import napari_swin2sr as nsr
from helpers.bad_inputs import Bare, pixels
from helpers.tiny import tiny_folder, trusted_folder
from napari_swin2sr.engine.upscaler import Upscaler
from napari_swin2sr.errors import InputError, OptionError, WeightsError
from napari_swin2sr.options import RunOptions, UpscaleOptions
from napari_swin2sr.trust.calibration import load_calibration


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(trusted_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def image() -> np.ndarray:
    return pixels(60, 75).astype(np.uint16)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the calls of the network."""
    calls: list[str] = []
    lock = threading.Lock()
    for name in ("__call__", "with_error"):
        original = getattr(Upscaler, name)

        def counted(self, *args, name=name, original=original, **options):
            with lock:
                calls.append(name)
            return original(self, *args, **options)

        monkeypatch.setattr(Upscaler, name, counted)
    return calls


def test_a_named_pair_of_lazy_arrays_from_one_forward(image, model, forwards) -> None:
    alone = nsr.apply(image, model, tile=32)
    result = nsr.apply(image, model, tile=32, trust=True)
    assert result._fields == ("image", "error")
    assert result.image.chunks == result.error.chunks == alone.chunks
    assert result.error.dtype == np.float32
    assert not forwards
    both = dask.compute(*result)
    assert forwards == ["with_error"] * alone.npartitions
    np.testing.assert_array_equal(both[0], alone.compute())
    assert (both[1] > 0).all()


def test_the_error_is_factor_times_head_times_range(image, model) -> None:
    bars = nsr.apply(image, model, trust=0.8, value_range=(0, 2000), halo="exact")
    normal = np.pad(image, ((0, 4), (0, 5)), "symmetric")[None, None] / 2000
    loaded = nsr.load_model(model, device="cpu")
    _, half_width = loaded.with_error(normal.astype(np.float32))
    factor = load_calibration(model).factor(0.8)
    want = 2000 * factor * half_width[0, 0, :120, :150]
    np.testing.assert_allclose(bars.error.compute(), want, rtol=1e-4)


def test_a_higher_level_has_wider_bars(image, model) -> None:
    half, most = (nsr.apply(image, model, trust=level).error for level in (0.5, 0.99))
    default, named = (nsr.apply(image, model, trust=level) for level in (True, 0.9))
    narrow, wide, one, other = dask.compute(half, most, default.error, named.error)
    assert (narrow < one).all()
    assert (one < wide).all()
    np.testing.assert_array_equal(one, other)
    assert half.name != most.name


@pytest.mark.parametrize(("halo", "bound"), [("exact", 4e-6), (None, 1e-3)])
def test_the_error_does_not_depend_on_the_tiles(image, model, halo, bound) -> None:
    options = {"value_range": (0, 1000), "halo": halo}
    whole = nsr.apply(image, model, tile=128, trust=True, **options).error.compute()
    tiled = nsr.apply(image, model, tile=16, trust=True, **options).error.compute()
    # The random head's half-widths are several times the value range; a float32 is
    # exact to a share of its own size.
    assert abs(tiled - whole).max() <= bound * whole.max()


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 24, 20), "CYX"),
        ((2, 2, 2, 16, 16), "TCZYX"),
        ((24, 20, 3), "YXS"),
        ((24, 20, 4), "YXS"),
        ((24, 3, 20), "YZX"),
    ],
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.filterwarnings("ignore:the alpha channel")
def test_every_kind_of_image(shape, axes, dtype, model) -> None:
    array = np.random.default_rng(0).integers(1, 250, shape).astype(dtype)
    alone = nsr.apply(array, model, axes=axes)
    pair = nsr.apply(array, model, axes=axes, trust=True)
    made, error = dask.compute(*pair)
    np.testing.assert_array_equal(made, alone.compute())
    assert error.shape == made.shape
    colors = error[..., :3] if shape[-1] == 4 else error
    assert (colors > 0).all()
    assert np.isnan(error[..., 3:]).all() or shape[-1] != 4


def test_a_dataarray_becomes_a_dataset(image, model) -> None:
    array = xr.DataArray(
        image,
        dims=("y", "x"),
        coords={"y": np.arange(60) * 0.5, "x": np.arange(75) * 0.5, "time": 7},
        attrs={"units": "counts", "valid_min": 3, "res": (0.5, 0.5)},
        name="cells",
    )
    found = nsr.apply(array, model, trust=True)
    alone = nsr.apply(array, model)
    assert isinstance(found, xr.Dataset)
    assert list(found.data_vars) == ["image", "error"]
    assert isinstance(found.error.data, da.Array)
    found, alone = found.compute(), alone.compute()
    np.testing.assert_array_equal(found.image, alone)
    assert found.image.coords.equals(alone.coords)
    assert found.error.coords.equals(alone.coords)
    assert found.error.attrs["units"] == "counts"
    assert found.error.attrs["res"] == (0.25, 0.25)
    assert "valid_min" not in found.error.attrs
    record = json.loads(found.image.attrs["napari_swin2sr"])["trust"]
    assert record["level"] == 0.9
    assert record["images"] == 30
    assert record["model_sha256"] == load_calibration(model).model_sha256


def test_a_dataarray_with_such_names_is_refused(image, model) -> None:
    array = xr.DataArray(image, dims=("y", "x"), coords={"error": 3})
    with pytest.raises(InputError, match="Rename"):
        nsr.apply(array, model, trust=True)


def test_missing_and_masked_pixels(image, model) -> None:
    holes = np.zeros(image.shape, bool)
    holes[10:20, 30:50] = True
    doubled = holes.repeat(2, 0).repeat(2, 1)
    masked = np.ma.MaskedArray(image, holes)
    pair = nsr.apply(da.from_array(masked, chunks=40), model, trust=True)
    made, error = dask.compute(*pair)
    np.testing.assert_array_equal(np.ma.getmaskarray(made), doubled)
    np.testing.assert_array_equal(np.isnan(error), doubled)
    filled = masked.filled(0)
    _, error = dask.compute(*nsr.apply(filled, model, trust=True, nodata=0))
    np.testing.assert_array_equal(
        np.isnan(error), (filled == 0).repeat(2, 0).repeat(2, 1)
    )


@pytest.mark.parametrize("wrong", [1.5, 0.4, 1, 0, 90, -1, "yes", float("nan"), [0.9]])
def test_a_level_that_is_none_is_refused(image, model, wrong) -> None:
    with pytest.raises(OptionError, match=r"trust=.* from 0.5 to 0.99"):
        nsr.apply(image, model, trust=wrong)


def test_levels_are_normalized_once() -> None:
    levels = [
        UpscaleOptions(trust=cast(float, t)).trust
        for t in (True, False, None, 0.5, np.float32(0.75))
    ]
    assert levels == [0.9, False, False, 0.5, 0.75]


def test_a_model_without_calibration_is_refused_before_pixels_are_read(
    tmp_path: Path,
) -> None:
    plain = tiny_folder(tmp_path / "plain")

    class Untouched(Bare):
        def __getitem__(self, index):
            raise AssertionError("read")

    with pytest.raises(WeightsError, match="calibrate"):
        nsr.apply(Untouched(pixels(20, 20)), plain, trust=True)


@pytest.mark.parametrize("wrong", ["x", "4", 0, -1, 1.5, True])
def test_workers_that_are_no_number_are_refused(wrong) -> None:
    with pytest.raises(OptionError, match="is not a positive number of threads"):
        RunOptions(workers=wrong)
