"""File > Save keeps levels, scale, units and position, which napari's writers lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from napari.components import ViewerModel
from napari.layers import Image

from napari_swin2sr.errors import OutputError
from napari_swin2sr.formats import open_image
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.plugin.live.layer import add_live_layer
from napari_swin2sr.plugin.readers import open_levels
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


def everything(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_saving_over_what_is_more_than_an_image_of_ours_is_refused(tmp_path):
    """A plate, an image of another program, documents, a folder named as a file."""
    plate = zarr.create_group(tmp_path / "plate.ome.zarr")
    for well in ("A/1/0", "B/2/0"):
        plate.create_group(well).create_array("0", data=PIXELS[:8, :8])
    other = zarr.create_group(
        tmp_path / "other.ome.zarr",
        attributes={"ome": {"multiscales": [{"datasets": [{"path": "0"}]}]}},
    )
    other.create_array("0", data=PIXELS[:8, :8])
    for name in ("mydata.ome.zarr", "folder.ome.tif"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    before = everything(tmp_path)
    for name, match in (
        ("plate.ome.zarr", "more than one image.*A, B"),
        ("other.ome.zarr", "not made by this program"),
        ("mydata.ome.zarr", r"notes\.txt"),
        ("folder.ome.tif", "a file cannot replace"),
    ):
        with pytest.raises(OutputError, match=match):
            save(Image(PIXELS), tmp_path / name)
    assert everything(tmp_path) == before


def test_saving_keeps_an_unfinished_run_and_a_well_beside_it(tmp_path):
    plate = zarr.create_group(tmp_path / "plate.zarr")
    plate.create_group("A/1/0").create_array("0", data=PIXELS[:8, :8])
    unfinished = tmp_path / "plate.zarr/B.ome.zarr.unfinished.zarr"
    zarr.create_group(unfinished, attributes={"napari_swin2sr": {"complete": False}})
    before = everything(tmp_path)
    save(Image(PIXELS), tmp_path / "plate.zarr/B.ome.zarr")
    save(Image(PIXELS), tmp_path / "plate.zarr/B.ome.zarr")
    after = everything(tmp_path)
    assert {k: after[k] for k in before} == before
    names = sorted(p.name for p in (tmp_path / "plate.zarr").iterdir())
    assert names == ["A", "B.ome.zarr", "B.ome.zarr.unfinished.zarr", "zarr.json"]


def test_a_save_that_fails_leaves_the_old_image(tmp_path, monkeypatch):
    path = tmp_path / "a.ome.zarr"
    save(Image(PIXELS), path)
    before = everything(tmp_path)

    def fail(*args):
        raise OSError("no space left")

    monkeypatch.setattr("napari_swin2sr.runs.tile_store.TileStore.complete", fail)
    with pytest.raises(OSError, match="no space left"):
        save(Image(255 - PIXELS), path)
    assert everything(tmp_path) == before


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
    said: list[Any] = []
    monkeypatch.setattr("napari_swin2sr.plugin.writers.show_warning", said.append)
    save(Image(PIXELS, rotate=20), tmp_path / "a.ome.zarr")
    assert "rotation" in said[0]
