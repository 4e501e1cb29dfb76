"""Every row of the input catalogue, and the values that need a closer look."""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import dask
import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import strategies as st

import napari_swin2sr as nsr
from helpers.bad_inputs import ROWS, Row, pixels
from helpers.reference import whole_image
from helpers.tiny import tiny_folder, tiny_net
from napari_swin2sr.errors import FileError, InputError


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No temporary file and no thread of ours may outlive a call."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = set(threading.enumerate())
    with dask.config.set(scheduler="sync"):
        yield
    assert not list(folder.iterdir())
    assert not [t for t in set(threading.enumerate()) - before if not t.daemon]


def fingerprint(value: Any) -> str | None:
    """Hash the bytes of an input that lies in memory."""
    if type(value).__module__ == "torch":
        if str(value.layout) != "torch.strided" or value.is_meta or value.is_complex():
            return None
        value = value.detach().double().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        data = np.ma.getdata(value).tobytes() + np.ma.getmaskarray(value).tobytes()
        return hashlib.sha256(data).hexdigest()
    return None


def keywords(row: Row, model: str) -> dict[str, Any]:
    range_ = {} if row.range is None else {"value_range": row.range}
    return {"model": model, **range_, **row.options}


ACCEPTED = [row for row in ROWS if row.error is None]
REFUSED = [row for row in ROWS if row.error is not None]


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row.id)
def test_accepted(row: Row, model: str, tmp_path: Path) -> None:
    """The result is the whole-image reference's; the input keeps its bytes."""
    value = row.make(tmp_path)
    before = fingerprint(value)
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lazy = nsr.apply(value, **keywords(row, model))
        result = lazy.compute()
    assert time.monotonic() - start < 20
    assert fingerprint(value) == before
    assert lazy.dtype == result.dtype
    assert lazy.shape == result.shape
    if row.dtype is not None:
        assert result.dtype == np.dtype(row.dtype)
    if row.warns is None:
        assert [str(w.message) for w in caught] == []
    else:
        texts = {str(w.message) for w in caught}
        assert texts
        assert all(re.search(row.warns, text) for text in texts), texts
    if row.plain is not None:
        compare(row, result)


def compare(row: Row, result: np.ndarray) -> None:
    """Compare with one pass over the whole plane, in the same value range."""
    assert row.plain is not None
    plain = row.plain()
    scaled = tuple(
        2 * n if axis in "YX" else n
        for axis, n in zip(row.axes, plain.shape, strict=True)
    )
    assert result.shape == scaled
    if not plain.size:
        return
    low, high = row.range or (0.0, 1.0)
    expected = whole_image(
        tiny_net(),
        plain[..., :3] if plain.shape[-1] == 4 else plain,
        row.axes,
        low,
        high,
    )
    colors = result[..., :3] if plain.shape[-1] == 4 else result
    span = high - low
    if result.dtype.kind == "b":
        certain = abs(expected - 0.5) > 1e-5
        np.testing.assert_array_equal(colors[certain], (expected > 0.5)[certain])
        return
    if result.dtype.kind in "ui":
        info = np.iinfo(result.dtype)
        expected = np.clip(np.rint(expected), info.min, info.max)
        tolerance = max(1.0, 4e-6 * span)
    else:
        tolerance = 4e-6 * span + np.finfo(result.dtype).eps * max(abs(low), abs(high))
    difference = abs(colors.astype(np.longdouble) - expected)
    assert difference.max() <= tolerance


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.id)
def test_refused(row: Row, model: str, tmp_path: Path) -> None:
    """With the right error, before anything is computed where that is possible."""
    value = row.make(tmp_path)
    before = fingerprint(value)
    start = time.monotonic()
    if row.late:
        lazy = nsr.apply(value, **keywords(row, model))
        with pytest.raises(InputError, match=row.error):
            lazy.compute()
    else:
        with pytest.raises(InputError, match=row.error):
            nsr.apply(value, **keywords(row, model))
    assert time.monotonic() - start < 5
    assert fingerprint(value) == before


def test_the_catalogue_is_complete() -> None:
    numbers = {int(row.id[1:].split()[0].rstrip("abc")) for row in ROWS}
    elsewhere = {100, 101, 102, 103, 104}  # xarray and spatial images: below
    assert numbers | elsewhere == set(range(1, 106))
    assert len({row.id for row in ROWS}) == len(ROWS)


# -- values that need a closer look ---------------------------------------------------


def upscaled(value: Any, model: str, **options: Any) -> np.ndarray:
    return nsr.apply(value, model, **options).compute()


def blocks(mask: np.ndarray) -> np.ndarray:
    """Every pixel of a mask as the 2 x 2 pixels that it becomes."""
    return mask.repeat(2, 0).repeat(2, 1)


def test_masked_pixels_stay_masked_and_the_rest_is_finite(model: str) -> None:
    values = np.ma.masked_greater(pixels(40, 72).astype(np.float32), 230)
    assert 0 < values.mask.sum() < 100
    result = upscaled(values, model)
    assert isinstance(result, np.ma.MaskedArray)
    np.testing.assert_array_equal(
        np.ma.getmaskarray(result), blocks(np.ma.getmaskarray(values))
    )
    assert np.isfinite(result.compressed()).all()


def test_all_masked_comes_out_all_masked(model: str) -> None:
    result = upscaled(np.ma.masked_all((9, 10), np.uint8), model)
    assert result.shape == (18, 20)
    assert np.ma.getmaskarray(result).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_pixel_stays_in_its_place_and_spoils_nothing_far_away(
    bad: float, model: str
) -> None:
    """Left in, one NaN would make everything within the receptive field NaN."""
    good = pixels(16, 160).astype(np.float32)
    spoiled = good.copy()
    spoiled[8, 5] = bad
    options = {"value_range": (0, 255)}
    result, clean = (upscaled(v, model, **options) for v in (spoiled, good))
    where = np.zeros((16, 160), bool)
    where[8, 5] = True
    np.testing.assert_array_equal(~np.isfinite(result), blocks(where))
    np.testing.assert_array_equal(result[16:18, 10:12], np.full((2, 2), bad, "f4"))
    np.testing.assert_array_equal(result[:, 240:], clean[:, 240:])
    assert abs(result - clean)[~blocks(where)].max() < 60


def test_all_nan_comes_out_all_nan_without_a_warning(model: str) -> None:
    assert np.isnan(upscaled(np.full((9, 10), np.nan), model)).all()


@pytest.mark.parametrize("value", [0, 777, 65535])
@pytest.mark.parametrize("dtype", ["u2", "f4", "f8"])
def test_a_constant_image_is_returned_unchanged(
    value: float, dtype: str, model: str
) -> None:
    result = upscaled(np.full((9, 10), value, dtype), model)
    np.testing.assert_array_equal(result, np.full((18, 20), value, dtype))


def test_denormal_numbers_survive(model: str) -> None:
    values = pixels(13, 21) * 5e-324
    result = upscaled(values, model)
    assert np.isfinite(result).all()
    assert 0 < result.max() <= 2 * values.max()


def test_a_hot_pixel_does_not_darken_the_rest(model: str) -> None:
    clean = pixels(64, 160, low=1000, high=1100).astype(np.uint16)
    hot = clean.copy()
    hot[10, 10] = 65535
    difference = abs(upscaled(hot, model) - upscaled(clean, model).astype(float))
    assert difference[:, 200:].max() <= 1
    assert upscaled(hot, model)[20:22, 20:22].max() > 2000  # not clipped away


def test_no_data_stays_no_data(model: str) -> None:
    values = pixels(20, 30).astype(np.int16)
    values[3:5, 7] = -9999
    result = upscaled(values, model, nodata=-9999)
    np.testing.assert_array_equal(result == -9999, blocks(values == -9999))
    assert result[result != -9999].min() > -300


def test_alpha_is_interpolated_on_its_own(model: str) -> None:
    colors = pixels(13, 21, 3).astype(np.uint8)
    opaque = np.dstack([colors, np.full((13, 21), 255, np.uint8)])
    with pytest.warns(UserWarning, match="alpha channel is interpolated"):
        result = upscaled(opaque, model, rgb=True)
    np.testing.assert_array_equal(result[..., 3], 255)
    np.testing.assert_array_equal(result[..., :3], upscaled(colors, model, rgb=True))


def test_planar_and_interleaved_colors_give_the_same(model: str) -> None:
    interleaved = pixels(13, 21, 3).astype(np.uint8)
    planar = np.moveaxis(interleaved, -1, 0)
    np.testing.assert_array_equal(
        upscaled(interleaved, model, rgb=True),
        np.moveaxis(upscaled(planar, model, axes="SYX"), 0, -1),
    )
    np.testing.assert_array_equal(
        upscaled(interleaved, model, axes="YXC"),
        np.moveaxis(upscaled(planar, model, axes="CYX"), 0, -1),
    )


def test_channels_are_processed_one_by_one(model: str) -> None:
    stack = pixels(3, 13, 21).astype(np.uint16) * np.array([1, 20, 250])[:, None, None]
    stack = stack.astype(np.uint16)
    result = upscaled(stack, model, axes="CYX")
    for channel, plane in zip(result, stack, strict=True):
        np.testing.assert_array_equal(channel, upscaled(plane, model))


@pytest.mark.parametrize(
    "chunks", [(13, 21), (8, 8), (1, 21), ((3, 10), (1, 20)), ((0, 13), (21, 0))]
)
def test_chunks_of_the_source_change_no_bit(chunks: Any, model: str) -> None:
    import dask.array as da

    values = pixels(13, 21).astype(np.uint16)
    expected = upscaled(values, model)
    source = da.from_array(values, chunks=chunks)
    np.testing.assert_array_equal(upscaled(source, model), expected)


def test_views_and_copies_give_the_same(model: str) -> None:
    large = pixels(40, 60).astype(np.uint16)
    view = large[3:29:2, 5:47:2].T
    np.testing.assert_array_equal(upscaled(view, model), upscaled(view.copy(), model))


def test_transposed_axes_give_the_transposed_result(model: str) -> None:
    stack = pixels(2, 3, 13, 21).astype(np.uint8)
    expected = upscaled(stack, model, axes="TCYX")
    turned = upscaled(stack.transpose(2, 0, 3, 1), model, axes="YTXC")
    np.testing.assert_array_equal(turned, expected.transpose(2, 0, 3, 1))


def test_a_file_that_is_missing_or_no_image(tmp_path: Path, model: str) -> None:
    with pytest.raises(FileError, match="missing"):
        nsr.apply(tmp_path / "missing.tif", model)
    (tmp_path / "page.png").write_text("<html>Not found</html>")
    with pytest.raises(FileError, match="page"):
        nsr.apply(tmp_path / "page.png", model)


# -- anything at all ------------------------------------------------------------------

ANY_DTYPE = hypothesis.extra.numpy.scalar_dtypes() | (
    hypothesis.extra.numpy.nested_dtypes()
)


@hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(st.data())
def test_any_array_is_upscaled_or_refused(model: str, data: st.DataObject) -> None:
    """Either an `InputError`, or the scaled shape and finite where the input is."""
    shape = data.draw(
        hypothesis.extra.numpy.array_shapes(
            min_dims=0, max_dims=6, min_side=0, max_side=9
        )
    )
    dtype = data.draw(ANY_DTYPE)
    try:
        value = data.draw(hypothesis.extra.numpy.arrays(dtype, shape))
    except (ValueError, TypeError):
        hypothesis.reject()
    rgb = data.draw(st.sampled_from([None, False, True]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            lazy = nsr.apply(value, model, rgb=rgb)
        except InputError:
            return
        result = lazy.compute()
    last = value.ndim - 1 if rgb else value.ndim
    assert result.shape == tuple(
        2 * n if i in (last - 2, last - 1) else n for i, n in enumerate(value.shape)
    )
    if value.dtype.kind == "f" and np.isfinite(value).all():
        assert np.isfinite(result).all()


JUNK = [None, 1, -1.5, "", "nowhere", b"x", [], {}, object(), slice(None), np.nan, ()]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_junk_is_refused_with_words(junk: Any) -> None:
    with pytest.raises(nsr.errors.Swin2SRError) as caught:
        nsr.apply(junk)
    assert len(str(caught.value)) > 10
