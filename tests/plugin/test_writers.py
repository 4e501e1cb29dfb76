"""File > Save keeps levels, scale, units and position, which napari's writers lose."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.layers import Image

from napari_swin2sr.io import open_image
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.files import open_levels
from napari_swin2sr.plugin.live import add_live_layer
from napari_swin2sr.plugin.writers import write_tiff, write_zarr

PIXELS = (np.arange(1100 * 300).reshape(1100, 300) % 60000).astype(np.uint16)
WRITERS = {".ome.zarr": write_zarr, ".ome.tif": write_tiff}


def save(layer, path):
    data, attributes, _ = layer.as_layer_data_tuple()
    return WRITERS["".join(path.suffixes[-2:])](str(path), data, attributes)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_multiscale_layer_with_scale_and_units(tmp_path, suffix):
    layer = Image(
        [PIXELS, PIXELS[::2, ::2]],
        scale=(0.5, 0.25),
        translate=(3, -4),
        units=("um", "um"),
        name="cells",
    )
    path = tmp_path / f"cells{suffix}"
    assert save(layer, path) == [str(path)]
    image = open_image(path)
    np.testing.assert_array_equal(np.asarray(image.data[:]), PIXELS)
    assert image.axes == "YX"
    assert (image.pixel_size["Y"], image.pixel_size["X"]) == (0.5, 0.25)
    assert image.unit["Y"] == "micrometer"
    if suffix == ".ome.zarr":
        assert (image.origin["Y"], image.origin["X"]) == (3, -4)
        assert "ome" in zarr.open_group(path, mode="r").attrs
    else:
        with tifffile.TiffFile(path) as tif:
            assert tif.is_ome
    assert len(open_levels(path, "YX")) >= 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("shape", "axes", "rgb"),
    [((40, 50, 3), "YXS", True), ((2, 3, 40, 50), "TZYX", False)],
)
def test_rgb_and_stacks_come_back_as_they_were(tmp_path, suffix, shape, axes, rgb):
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    save(Image(pixels, rgb=rgb), path)
    save(Image(255 - pixels, rgb=rgb), path)  # replaces the old one
    np.testing.assert_array_equal(np.asarray(open_levels(path, axes)[0]), 255 - pixels)


def test_a_live_layer_is_saved_with_exact_pixels(tmp_path, fake_model, fake_run, qapp):
    viewer = ViewerModel()
    small = PIXELS[:40, :50].astype(np.uint8)
    layer = viewer.add_image(small, scale=(2, 2), name="a")
    new = add_live_layer(viewer, layer, UpscaleOptions(tile=16), fake_model)
    new.data[0].level._lazy = fake_run.lazy_of(small)
    save(new, tmp_path / "a.ome.zarr")
    (level,) = open_levels(tmp_path / "a.ome.zarr", "YX")
    np.testing.assert_array_equal(np.asarray(level), small.repeat(2, 0).repeat(2, 1))
    assert open_image(tmp_path / "a.ome.zarr").origin["Y"] == -0.5


def test_what_the_format_cannot_hold_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("napari_swin2sr.plugin.writers.show_warning", said.append)
    save(Image(PIXELS, rotate=20), tmp_path / "a.ome.zarr")
    assert "rotation" in said[0]
