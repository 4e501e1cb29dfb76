"""OME-Zarr in and out; the judges are ome-zarr-models, ome-zarr-py, xarray, napari."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import warnings
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import GzipCodec

from helpers import stand_in
from helpers.io_images import noise, smooth
from napari_swin2sr import upscale, upscale_file
from napari_swin2sr.errors import FileError, InputError
from napari_swin2sr.formats import open_image
from napari_swin2sr.formats import pyramid as blocks


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)
    monkeypatch.setattr(blocks, "SMALLEST_LEVEL", 100)


@pytest.fixture(params=["0.5", "0.4"])
def version(request):
    return request.param


@pytest.fixture
def microscopy(tmp_path):
    """A two-channel z-stack with everything that OME-TIFF can say."""
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(
        path,
        smooth((2, 3, 90, 110)),
        ome=True,
        photometric="minisblack",
        metadata={
            "axes": "CZYX",
            "PhysicalSizeX": 0.325,
            "PhysicalSizeY": 0.325,
            "PhysicalSizeZ": 1.5,
            "Channel": {"Name": ["DAPI", "actin"], "Color": [0x0000FFFF, 0x00FF00FF]},
        },
    )
    return path


def attributes(path) -> dict:
    found: dict[str, Any] = dict(zarr.open_group(path, mode="r").attrs)
    return found.get("ome", found)


def test_scale_and_translation_of_every_level(tmp_path, microscopy, version):
    target = tmp_path / "out.ome.zarr"
    upscale_file(microscopy, target, tile=32, ome_version=version)
    multiscale = attributes(target)["multiscales"][0]
    assert [a["name"] for a in multiscale["axes"]] == list("czyx")
    assert [a["type"] for a in multiscale["axes"]] == ["channel"] + 3 * ["space"]
    assert [a.get("unit") for a in multiscale["axes"]] == [None] + 3 * ["micrometer"]
    assert len(multiscale["datasets"]) == 3
    for level, dataset in enumerate(multiscale["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        pixel = 0.325 / 2 * 2**level
        # The outer corner of the image stays where it was: at -0.325 / 2.
        np.testing.assert_allclose(scale["scale"], [1, 1.5, pixel, pixel], rtol=1e-12)
        np.testing.assert_allclose(
            translation["translation"],
            [0, 0] + 2 * [-0.325 / 2 + pixel / 2],
            atol=1e-12,
        )
        shape = zarr.open_group(target)[dataset["path"]].shape
        assert shape == (2, 3, *(-(-n // 2**level) for n in (180, 220)))


def test_channels_keep_names_and_colors(tmp_path, microscopy, version):
    target = tmp_path / "out.ome.zarr"
    upscale_file(microscopy, target, tile=32, ome_version=version)
    channels = attributes(target)["omero"]["channels"]
    assert [c["label"] for c in channels] == ["DAPI", "actin"]
    assert [c["color"] for c in channels] == ["0000FF", "00FF00"]
    for channel in channels:
        window = channel["window"]
        assert (window["min"], window["max"]) == (0, 65535)
        assert 0 <= window["start"] < window["end"] <= 65535
    image = open_image(target)
    assert image.channel_names == ("DAPI", "actin")
    assert image.unit == {"Z": "micrometer", "Y": "micrometer", "X": "micrometer"}
    assert image.value_range is not None
    assert open_image(target, level=1).pixel_size["X"] == pytest.approx(0.325)


def test_ome_zarr_models_validates(tmp_path, microscopy, version):
    target = tmp_path / "out.ome.zarr"
    upscale_file(microscopy, target, tile=32, ome_version=version)
    group = zarr.open_group(target, mode="r")
    if version == "0.5":
        from ome_zarr_models.v05 import image as models
    else:
        from ome_zarr_models.v04 import image as models  # type: ignore[no-redef]
    image = models.Image.from_zarr(group)
    text = image.model_dump_json()
    assert "DAPI" in text


def test_ome_zarr_py_reads(tmp_path, microscopy, version):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    target = tmp_path / "out.ome.zarr"
    upscale_file(microscopy, target, tile=32, ome_version=version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (node,) = list(Reader(parse_url(str(target)))())
    assert [level.shape for level in node.data] == [
        (2, 3, 180, 220), (2, 3, 90, 110), (2, 3, 45, 55)
    ]  # fmt: skip
    assert node.metadata["channel_names"] == ["DAPI", "actin"]
    np.testing.assert_array_equal(node.data[0].compute(), open_image(target).data[...])


def test_napari_opens_it(tmp_path, microscopy, version):
    napari_layers = pytest.importorskip("napari.layers")
    target = tmp_path / "out.ome.zarr"
    upscale_file(microscopy, target, tile=32, ome_version=version)
    group = zarr.open_group(target, mode="r")
    datasets = attributes(target)["multiscales"][0]["datasets"]
    first = datasets[0]["coordinateTransformations"]
    layer = napari_layers.Image(
        [group[d["path"]] for d in datasets],
        multiscale=True,
        scale=first[0]["scale"],
        translate=first[1]["translation"],
        contrast_limits=(0, 65535),
    )
    assert layer.level_shapes.tolist() == [
        [2, 3, 180, 220],
        [2, 3, 90, 110],
        [2, 3, 45, 55],
    ]
    corner = layer.data_to_world((0, 0, -0.5, -0.5))
    np.testing.assert_allclose(corner, (0, 0, -0.1625, -0.1625))
    far = layer.data_to_world((0, 0, 179.5, 219.5))
    np.testing.assert_allclose(far, (0, 0, 89.5 * 0.325, 109.5 * 0.325))


def test_xarray_reads_the_names_of_the_axes(tmp_path, microscopy):
    xarray = pytest.importorskip("xarray")
    upscale_file(microscopy, tmp_path / "out.ome.zarr", tile=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = xarray.open_zarr(
            tmp_path / "out.ome.zarr", consolidated=False, drop_variables=["1", "2"]
        )
    assert data["0"].dims == ("c", "z", "y", "x")


def test_one_tile_is_one_object(tmp_path, version):
    source = tmp_path / "in.zarr"
    pixels = noise((2, 100, 70))
    pixels[:, :64, :32] = 0  # empty tiles are stored as well
    zarr.create_array(source, data=pixels, dimension_names=["c", "y", "x"])
    target = tmp_path / "out.ome.zarr"
    upscale_file(source, target, tile=32, ome_version=version, value_range=(0, 65535))
    objects = [
        p for p in (target / "0").rglob("*") if p.is_file() and p.name[0].isdigit()
    ]
    assert len(objects) == 2 * 4 * 3
    array = zarr.open_group(target)["0"]
    assert (array.shards or array.chunks) == (1, 64, 64)


def test_shards_hold_small_chunks(tmp_path):
    source = tmp_path / "in.zarr"
    zarr.create_array(source, data=noise((700, 700), "uint8"))
    upscale_file(source, tmp_path / "out.ome.zarr", tile=512)
    array = zarr.open_group(tmp_path / "out.ome.zarr")["0"]
    assert (array.shards, array.chunks) == ((1024, 1024), (512, 512))
    upscale_file(source, tmp_path / "out4.ome.zarr", tile=512, ome_version="0.4")
    array = zarr.open_group(tmp_path / "out4.ome.zarr")["0"]
    assert (array.shards, array.chunks) == (None, (1024, 1024))
    assert array.metadata.zarr_format == 2


# -- reading what others write --------------------------------------------------------


def other(path, version, pixels, axes, shards=None, **multiscale):
    """An OME-Zarr as others write it."""
    fmt: Literal[2, 3] = 2 if version == "0.4" else 3
    group = zarr.create_group(path, zarr_format=fmt)
    chunks = (1,) * (pixels.ndim - 2) + (16, 16)
    extra: dict[str, Any] = (
        {"chunk_key_encoding": {"name": "v2", "separator": "/"}} if fmt == 2 else {}
    )
    group.create_array("a/0", data=pixels, chunks=chunks, shards=shards, **extra)
    group.create_array("a/1", data=pixels[..., ::2, ::2], chunks=chunks, **extra)
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    described[-1]["unit"] = "nanometer"
    n = len(axes)
    record = {
        "axes": described,
        "datasets": [
            {
                "path": f"a/{k}",
                "coordinateTransformations": [
                    {
                        "type": "scale",
                        "scale": [1.0] * (n - 2) + [2.0 * 2**k, 3.0 * 2**k],
                    },
                    {"type": "translation", "translation": [0.0] * (n - 1) + [7.0]},
                ],
            }
            for k in (0, 1)
        ],
        **multiscale,
    }
    omero = {
        "channels": [
            {"label": "x", "color": "ff0000", "window": {"start": 1, "end": 9}}
        ]
    }
    if fmt == 2:
        group.attrs.update(
            {"multiscales": [record | {"version": "0.4"}], "omero": omero}
        )
    else:
        group.attrs.update(
            {"ome": {"version": "0.5", "multiscales": [record], "omero": omero}}
        )
    return path


@pytest.mark.parametrize("shards", [False, True])
def test_reading_what_others_write(tmp_path, version, shards):
    if shards and version == "0.4":
        pytest.skip("Zarr 2 has no shards")
    pixels = noise((2, 1, 64, 96))
    shard = (1, 1, 32, 32) if shards else None
    path = other(tmp_path / "in.zarr", version, pixels, "tcyx", shard)
    image = open_image(path)
    assert image.axes == "TCYX"
    assert image.pixel_size == {"T": 1.0, "C": 1.0, "Y": 2.0, "X": 3.0}
    assert image.origin["X"] == 7.0
    assert image.unit == {"X": "nanometer"}
    assert image.channel_names == ("x",)
    assert image.channel_colors == ("FF0000",)
    assert image.value_range == ((1.0, 9.0),)
    again = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(again.data[...], pixels)
    coarse = open_image(path, level=1)
    assert coarse.shape == (2, 1, 32, 48)
    assert coarse.pixel_size["X"] == 6.0
    with pytest.raises(FileError, match="no level 2"):
        open_image(path, level=2)


def test_transformations_of_the_whole_multiscale_come_after(tmp_path, version):
    steps = [{"type": "scale", "scale": [0.1, 1.0, 10.0]},
             {"type": "translation", "translation": [0.0, 0.0, 1.0]}]  # fmt: skip
    path = other(
        tmp_path / "in.zarr", version, noise((2, 32, 32)), "tyx",
        coordinateTransformations=steps,
    )  # fmt: skip
    image = open_image(path)
    assert image.pixel_size == {"T": 0.1, "Y": 2.0, "X": 30.0}
    assert image.origin["X"] == 71.0


def test_old_versions_without_axes(tmp_path):
    group = zarr.create_group(tmp_path / "in.zarr", zarr_format=2)
    group.create_array("0", data=noise((1, 2, 1, 20, 30)))
    group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "0"}]}]
    image = open_image(tmp_path / "in.zarr")
    assert image.axes == "TCZYX"
    assert image.pixel_size == {}


def test_images_inside_a_collection(tmp_path, version):
    outer = zarr.create_group(tmp_path / "all.zarr", zarr_format=3)
    outer.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    for k in (0, 1):
        other(tmp_path / "all.zarr" / str(k), "0.5", noise((2, 32, 32), seed=k), "cyx")
    np.testing.assert_array_equal(
        open_image(tmp_path / "all.zarr", series=1).data[...],
        noise((2, 32, 32), seed=1),
    )
    with pytest.raises(FileError, match="Give the path of what is inside: 0, 1"):
        open_image(tmp_path / "all.zarr", series=2)


@pytest.mark.parametrize(
    ("ome", "error", "match"),
    [
        ({"plate": {}}, FileError, "plate with many images"),
        ({"plate": {}}, FileError, "A/1/0"),
        ({"well": {}}, FileError, "a well with many images.*in.zarr/0$"),
        ({}, FileError, "no image"),
        ({"multiscales": [{}]}, FileError, "cannot? be read|not a Zarr image"),
        (
            {"multiscales": [{"datasets": [{"path": "gone"}]}]},
            FileError,
            "the array 'gone' of level 0 is not there",
        ),
    ],
)
def test_groups_that_are_no_image(tmp_path, ome, error, match):
    group = zarr.create_group(tmp_path / "in.zarr")
    group.attrs["ome"] = {"version": "0.5", **ome}
    with pytest.raises(error, match=match):
        open_image(tmp_path / "in.zarr")


def test_labels_are_refused(tmp_path):
    path = other(tmp_path / "in.zarr", "0.5", noise((32, 32), "uint16"), "yx")
    group = zarr.open_group(path)
    group.attrs["ome"] = {**group.attrs["ome"], "image-label": {}}
    with pytest.raises(InputError, match="labels"):
        open_image(path)


def test_an_axis_nobody_knows(tmp_path):
    path = other(tmp_path / "in.zarr", "0.5", noise((2, 32, 32)), "qyx")
    with pytest.raises(FileError, match=r"axis.*'q'"):
        open_image(path)


def test_scales_of_zero_are_refused(tmp_path):
    steps = [{"type": "scale", "scale": [1.0, 0.0]}]
    path = other(
        tmp_path / "in.zarr",
        "0.5",
        noise((32, 32)),
        "yx",
        coordinateTransformations=steps,
    )
    with pytest.raises(FileError, match="a pixel of size"):
        open_image(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_arrays(tmp_path, zarr_format):
    pixels = noise((2, 20, 30))
    zarr.create_array(tmp_path / "a.zarr", data=pixels, zarr_format=zarr_format)
    assert open_image(tmp_path / "a.zarr").axes == "ZYX"
    assert open_image(tmp_path / "a.zarr", axes="CYX").axes == "CYX"
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=zarr_format)
    group.create_array("only", data=pixels)
    assert open_image(tmp_path / "g.zarr").shape == (2, 20, 30)
    group.create_array("second", data=pixels)
    with pytest.raises(FileError, match="only, second"):
        open_image(tmp_path / "g.zarr")
    assert open_image(tmp_path / "g.zarr" / "second").shape == (2, 20, 30)


def test_names_of_dimensions_are_axes(tmp_path):
    names = ["y", "x", "c"]
    zarr.create_array(
        tmp_path / "3.zarr", data=noise((20, 30, 4)), dimension_names=names
    )
    assert open_image(tmp_path / "3.zarr").axes == "YXC"
    array = zarr.create_array(
        tmp_path / "2.zarr", data=noise((20, 30, 4)), zarr_format=2
    )
    with pytest.raises(InputError, match="rgb=True"):
        open_image(tmp_path / "2.zarr")
    array.attrs["_ARRAY_DIMENSIONS"] = names
    assert open_image(tmp_path / "2.zarr").axes == "YXC"
    assert open_image(tmp_path / "2.zarr", rgb=True).axes == "YXS"


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        open_image(tmp_path / "none.zarr")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    with pytest.raises(FileError, match="not a Zarr image"):
        open_image(tmp_path / "broken.zarr")
    with pytest.raises(FileError, match="not a Zarr image"):
        open_image("memory://nowhere/at-all.zarr")


def test_metadata_that_lie_about_the_pixels(tmp_path):
    path = other(tmp_path / "in.zarr", "0.5", noise((2, 32, 32)), "yx")
    with pytest.raises((FileError, InputError)):
        open_image(path)
    shutil.rmtree(path)
    path = other(tmp_path / "in.zarr", "0.5", noise((2, 32, 32)), "cyx")
    meta = path / "a" / "0" / "zarr.json"
    record = json.loads(meta.read_text())
    record["shape"] = [2, 32]
    meta.write_text(json.dumps(record))
    with pytest.raises((FileError, InputError)):
        open_image(path)


def test_an_image_without_pixel_size_still_fits_over_its_source(tmp_path):
    zarr.create_array(tmp_path / "in.zarr", data=noise((40, 50)))
    upscale_file(tmp_path / "in.zarr", tmp_path / "out.ome.zarr", tile=32)
    image = open_image(tmp_path / "out.ome.zarr")
    assert image.pixel_size == {"Y": 0.5, "X": 0.5}
    assert image.origin == {"Y": -0.25, "X": -0.25}


# -- what is not understood is not guessed --------------------------------------------


@pytest.mark.parametrize("version", ["0.6", "0.6.dev3", "9.9", "0.10", 1, None])
def test_unknown_versions_are_refused(tmp_path, version):
    path = other(tmp_path / "in.zarr", "0.5", noise((2, 32, 32)), "cyx")
    group = zarr.open_group(path)
    group.attrs["ome"] = {**group.attrs["ome"], "version": version}
    with pytest.raises(FileError, match=f"version {version!r}.*only 0.1 to 0.5"):
        open_image(path)
    assert open_image(path / "a" / "0", axes="CYX").shape == (2, 32, 32)


def test_versions_that_are_known(tmp_path, version):
    path = other(tmp_path / "in.zarr", version, noise((2, 32, 32)), "cyx")
    assert open_image(path).pixel_size["Y"] == 2.0


@pytest.mark.parametrize(
    "step",
    [
        {"type": "affine", "affine": [[1, 0.1, 0], [0, 1, 0]]},
        {"type": "rotation", "rotation": [[0, 1], [-1, 0]]},
        {"type": "mapAxis", "mapAxis": [1, 0]},
    ],
)
def test_transformations_that_are_not_known_are_refused(tmp_path, version, step):
    path = other(
        tmp_path / "in.zarr", version, noise((32, 32)), "yx",
        coordinateTransformations=[step],
    )  # fmt: skip
    with pytest.raises(FileError, match=f"{step['type']}.*only scale and translation"):
        open_image(path)


@pytest.mark.parametrize(
    ("written", "read"),
    [("#ff0000", "FF0000"), ("00ff00ff", "00FF00"), ("red", ""), (7, ""), (None, "")],
)
@pytest.mark.parametrize("target", ["out.ome.tif", "out.ome.zarr"])
def test_colors_written_in_other_ways(tmp_path, written, read, target):
    path = other(tmp_path / "in.zarr", "0.5", noise((1, 32, 32)), "cyx")
    group = zarr.open_group(path)
    ome = group.attrs["ome"]
    ome["omero"]["channels"] = [{"label": "x", "color": written}]
    group.attrs["ome"] = ome
    assert (open_image(path).channel_colors or ("",))[0] == read
    upscale_file(path, tmp_path / target)
    if read:
        assert open_image(tmp_path / target).channel_colors == (read,)


@pytest.mark.parametrize("where", ["zarr.json", "a/0/zarr.json"])
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_metadata_that_are_no_file(tmp_path, where, kind):
    path = other(tmp_path / "in.zarr", "0.5", noise((2, 32, 32)), "cyx")
    (path / where).unlink()
    if kind == "device":
        (path / where).symlink_to("/dev/zero")
    else:
        os.mkfifo(path / where)
    with pytest.raises(FileError, match="no regular file"):
        open_image(path)


def test_channels_that_are_colors_keep_their_roles(tmp_path):
    """Two RGB channels of an OME-TIFF, which OME-Zarr stores as six."""
    path = tmp_path / "in.ome.tif"
    pixels = np.moveaxis(smooth((2, 3, 40, 50), "uint8"), 1, -1)
    tifffile.imwrite(
        path, pixels, photometric="rgb",
        metadata={"axes": "CYXS", "Channel": {"Name": ["day", "night"]}},
    )  # fmt: skip
    assert open_image(path).axes == "CYXS"
    upscale_file(path, tmp_path / "out.ome.zarr", value_range=(0, 255))
    image = open_image(tmp_path / "out.ome.zarr")
    assert image.channel_names == (
        "day red", "day green", "day blue", "night red", "night green", "night blue",
    )  # fmt: skip
    wanted = np.rint(stand_in.whole(pixels[1, ..., 2], 0, 255))
    assert np.abs(image.data[5].astype(float) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("axes", "scale", "match"),
    [
        ("cyx", [1.0, 2.0], "its scale of 2 numbers does not fit 3 axes"),
        ("yx", [1.0, 2.0], "name 2 axes, YX, but its array has 3"),
    ],
)
def test_metadata_of_another_number_of_axes(tmp_path, version, axes, scale, match):
    path = other(
        tmp_path / "in.zarr", version, noise((2, 32, 32)), axes,
        coordinateTransformations=[{"type": "scale", "scale": scale}],
    )  # fmt: skip
    with pytest.raises(FileError, match=match):
        open_image(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_in_a_zip(tmp_path, zarr_format):
    pixels = noise((40, 50))
    array = zarr.create_array(
        tmp_path / "a", data=pixels, chunks=(16, 16), zarr_format=zarr_format
    )
    array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    shutil.make_archive(str(tmp_path / "a.zarr"), "zip", tmp_path / "a")
    image = open_image(tmp_path / "a.zarr.zip")
    np.testing.assert_array_equal(image.data[3:30, ::7], pixels[3:30, ::7])
    assert image.axes == "YX"
    again = pickle.loads(pickle.dumps(image.data))
    np.testing.assert_array_equal(again[...], pixels)


def test_a_zip_that_is_no_store(tmp_path):
    (tmp_path / "a.zarr.zip").write_bytes(b"PK\3\4" + bytes(50))
    with pytest.raises(FileError, match=r"a\.zarr\.zip: not a Zarr image"):
        open_image(tmp_path / "a.zarr.zip")


def test_a_chunk_that_is_larger_than_declared(tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr",
        data=noise((40, 50), "uint8"),
        chunks=(16, 16),
        compressors=[GzipCodec()],
    )
    assert array.shape == (40, 50)
    (tmp_path / "a.zarr" / "c" / "0" / "0").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(FileError, match=r"a\.zarr: .*cannot reshape"):
        open_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("side", [2**40, 2**63 - 1])
def test_chunks_larger_than_memory(tmp_path, side):
    zarr.create_array(tmp_path / "a.zarr", data=noise((40, 50)), chunks=(16, 16))
    document = tmp_path / "a.zarr" / "zarr.json"
    content = json.loads(document.read_text())
    content["chunk_grid"]["configuration"]["chunk_shape"] = [side, 16]
    document.write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"a\.zarr: its chunks .* of memory are free"):
        open_image(tmp_path / "a.zarr")
