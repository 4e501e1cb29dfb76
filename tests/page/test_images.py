"""What the page does with an image, without a browser."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers import stand_in
from helpers.io_images import noise, smooth
from napari_swin2sr import apply, upscale
from napari_swin2sr.errors import FileError, InputError
from napari_swin2sr.formats import open_image
from napari_swin2sr.page import images
from napari_swin2sr.page.images import look_at, super_resolve, write_samples


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)
    monkeypatch.setattr(images, "has_error_bars", lambda model: False)


def test_models_with_error_bars_show_them(tmp_path, monkeypatch):
    monkeypatch.undo()
    pixels = smooth((40, 48), "uint16")
    tifffile.imwrite(tmp_path / "in.tif", pixels)
    result = super_resolve(tmp_path / "in.tif", tmp_path, "default")
    image, error = apply(pixels, trust=True)
    np.testing.assert_array_equal(tifffile.imread(result.path), image.compute())
    wanted = error.compute()
    np.testing.assert_allclose(tifffile.imread(result.bars.path), wanted, rtol=1e-5)
    assert result.bars.median == pytest.approx(np.median(wanted), rel=1e-4)
    assert result.bars.picture.shape == result.detail[1].shape
    assert result.bars.picture.max() == 255


def test_samples_are_what_they_are_called(tmp_path):
    samples = write_samples(tmp_path / "samples")
    for name, path in samples.items():
        found = look_at(path, 1)
        assert ("color" in name) == ("S" in found.image.axes)
        assert ("16 bits" in name) == (found.image.data.dtype == np.uint16)
        assert found.model in ("default", "default-clean")


def test_an_image_above_the_limit_is_refused_with_a_way_out(tmp_path):
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, np.zeros((3, 500, 1000), np.uint8), photometric="minisblack")
    wanted = (
        r"large.tif has 1.5 million pixels .* this page takes 1 million.*"
        r"napari-swin2sr upscale large.tif .*--limit 2"
    )
    with pytest.raises(InputError, match=wanted):
        look_at(path, 1)
    assert look_at(path, 1.5).image.shape == (3, 500, 1000)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "notes.png").write_text("mine")
    with pytest.raises(FileError, match=r"notes\.png"):
        look_at(tmp_path / "notes.png", 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(200, 150), (2, 40, 300), (60, 70, 3), (5, 9)])
def test_the_file_is_what_apply_gives_and_the_pictures_fit(tmp_path, dtype, shape):
    path = tmp_path / "in.tif"
    pixels = noise(shape, dtype) if dtype != "float32" else noise(shape) / 7e4
    color = "rgb" if shape[-1] == 3 else "minisblack"
    tifffile.imwrite(path, pixels.astype(dtype), photometric=color)
    result = super_resolve(path, tmp_path, "default")
    wanted = apply(open_image(path)).compute()
    np.testing.assert_array_equal(tifffile.imread(result.path), wanted)
    assert wanted.dtype == dtype
    for before, after in (result.detail, result.whole):
        assert before.shape == after.shape
        assert before.dtype == after.dtype == np.uint8
    assert max(result.detail[1].shape[:2]) <= 768


def test_the_detail_is_where_something_is_to_be_seen(tmp_path):
    pixels = np.full((400, 500), 50, np.uint8)
    pixels[260:380, 330:480] = noise((120, 150), "uint8")
    Image.fromarray(pixels).save(tmp_path / "in.png")
    result = super_resolve(tmp_path / "in.png", tmp_path, "default")
    assert result.detail[0].std() > 40


def test_deep_images_are_shown_from_their_black_to_their_white(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", (smooth((100, 90)) // 64 + 300))
    result = super_resolve(tmp_path / "in.tif", tmp_path, "default")
    for picture in result.whole:
        low, high = np.percentile(picture, (1, 99))
        assert low < 20
        assert high > 235
