"""Error bars in files: beside or inside the image, at the same place, resumable."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import zarr

import napari_swin2sr as nsr
from helpers.io_images import noise
from helpers.tiny import trusted_folder
from napari_swin2sr import upscale_file, verify_file
from napari_swin2sr.cli.main import main
from napari_swin2sr.errors import Cancelled, OutputError
from napari_swin2sr.files import upscale_image
from napari_swin2sr.formats import open_image
from napari_swin2sr.options import UpscaleOptions
from napari_swin2sr.runs import job as work
from napari_swin2sr.runs.runner import RunStarted, TileDone

RANGE = (0.0, 65535.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(trusted_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def in_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even small results go through a tile store."""
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 0)


@pytest.fixture
def options(model: str) -> dict:
    return {"model": model, "tile": 32, "value_range": RANGE, "trust": True}


def source(folder: Path, shape=(70, 90), axes="YX", name="in.tif", **more) -> Path:
    path = folder / name
    more.setdefault("metadata", {"axes": axes})
    tifffile.imwrite(path, noise(shape), photometric="minisblack", **more)
    return path


def truth(path: Path, options: dict):
    image, error = nsr.apply(path, **options)
    return image.compute(), error.compute()


def geotiff(path: Path, bands: int = 2) -> Path:
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype="uint16",
        width=90,
        height=70,
        count=bands,
        crs="EPSG:32633",
        transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
        nodata=0,
    ) as file:
        pixels = noise((bands, 70, 90))
        pixels[:, :9] = 0
        file.write(pixels)
        file.scales, file.offsets = (0.5,) * bands, (-7.0,) * bands
    return path


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(
    ("suffix", "axes", "shape"),
    [
        (".ome.tif", "CYX", (2, 70, 90)),
        (".tif", "YX", (600, 520)),
        (".png", "YX", (70, 90)),
    ],
)
def test_a_file_has_its_error_bars_beside_it(
    tmp_path, monkeypatch, options, suffix, axes, shape, small
):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 2**27 if small else 0)
    options["tile"] = 256
    where = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    path = source(tmp_path, shape, axes, "in.ome.tif", metadata=where)
    target = tmp_path / f"out{suffix}"
    assert upscale_file(path, target, **options) == target
    image, error = truth(path, options)
    np.testing.assert_array_equal(np.asarray(open_image(target).data[...]), image)
    with tifffile.TiffFile(tmp_path / "out_trust.tif") as tif:
        np.testing.assert_array_equal(tif.asarray(), error)
        assert tif.series[0].dtype == np.float32
        levels = tif.series[0].levels
        pixel = tifffile.xml2dict(str(tif.ome_metadata))["OME"]["Image"]["Pixels"]
        assert pixel["PhysicalSizeX"] == 0.25
        record = json.loads(tif.pages.first.tags.valueof("Software"))
        assert len(levels) == (2 if shape == (600, 520) else 1)
        if len(levels) == 2:
            mean = error.reshape(600, 2, 520, 2).mean((1, 3))
            np.testing.assert_allclose(levels[1].asarray(), mean, rtol=1e-5)
    trust = record["napari_swin2sr"]["fingerprint"]["trust"]
    assert trust["level"] == 0.9
    assert trust["images"] == 30
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["in.ome.tif", target.name, "out_trust.tif"]
    )


def test_a_geotiff_has_them_at_the_same_place(tmp_path, options):
    path, target = geotiff(tmp_path / "in.tif"), tmp_path / "out.tif"
    upscale_file(path, target, **options)
    _, error = truth(path, options)
    with rasterio.open(target) as image, rasterio.open(tmp_path / "out_trust.tif") as e:
        assert e.transform == image.transform == rasterio.Affine(5, 0, 5e5, 0, -5, 5e6)
        assert e.crs == image.crs
        assert e.dtypes == ("float32",) * 2
        assert e.nodata is None
        assert e.scales == image.scales == (0.5, 0.5)
        assert e.offsets == (0.0, 0.0)  # the error of a shifted value is not shifted
        np.testing.assert_array_equal(e.read(), np.moveaxis(error, -1, 0))
        np.testing.assert_array_equal(np.isnan(e.read()), image.read() == 0)


def test_colors_become_channels(tmp_path, options):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, noise((40, 50, 3)), photometric="rgb")
    upscale_file(path, tmp_path / "out.tif", **options)
    _, error = truth(path, options)
    with tifffile.TiffFile(tmp_path / "out_trust.tif") as tif:
        assert tif.series[0].axes == "CYX"
        np.testing.assert_array_equal(np.moveaxis(tif.asarray(), 0, -1), error)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_holds_a_second_image_of_the_same_place(tmp_path, options, version):
    where = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    options["tile"] = 512
    path = source(tmp_path, (2, 600, 90), "CYX", "in.ome.tif", metadata=where)
    target = tmp_path / "out.ome.zarr"
    upscale_file(path, target, ome_version=version, **options)
    image, error = truth(path, options)
    group = zarr.open(target, mode="r")
    inside = group[group.attrs["napari_swin2sr"]["trust"]["path"]]
    np.testing.assert_array_equal(group["0"][:], image)
    np.testing.assert_array_equal(inside["0"][:], error)
    halves = error.reshape(2, 600, 2, 90, 2).mean((2, 4))
    np.testing.assert_allclose(np.asarray(inside["1"][:]), halves, rtol=1e-5)
    own, outer = (dict(g.attrs) for g in (inside, group))
    assert own["napari_swin2sr"]["image"] == ".."
    assert own["napari_swin2sr"]["level"] == 0.9
    of = [a["ome"] if version == "0.5" else a for a in (own, outer)]
    own, outer = (a["multiscales"][0] for a in of)
    assert own["datasets"] == outer["datasets"]
    assert own["axes"] == outer["axes"]
    opened = open_image(target / "trust")
    assert opened.pixel_size["X"] == 0.25
    assert verify_file(target) == {}


def test_it_finds_a_damaged_tile_of_the_error_and_mends_it(tmp_path, options):
    path, target = source(tmp_path), tmp_path / "out.ome.zarr"
    upscale_file(path, target, **options)
    _, error = truth(path, options)
    tile = target / "trust" / "0" / "c" / "0" / "1"
    tile.write_bytes(b"\0" + tile.read_bytes()[1:])
    assert verify_file(target) == {0: [(0, 1)]}
    upscale_file(path, target, verify=True, **options)
    assert verify_file(target) == {}
    np.testing.assert_array_equal(zarr.open(target)["trust/0"][:], error)


def interrupted(path, target, options, **more):
    cancel = threading.Event()

    def stop(event):
        if isinstance(event, TileDone) and event.done >= 2:
            cancel.set()

    with pytest.raises(Cancelled):
        upscale_file(
            path, target, cancel=cancel, progress=stop, workers=1, **more, **options
        )


def tiles_found(path, target, options):
    """Run to the end; return how many tiles there were before."""
    events: list = []
    upscale_file(path, target, progress=events.append, **options)
    return next(
        e.done for e in events if isinstance(e, RunStarted) and e.stage == "tiles"
    )


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_it_is_resumed_by_the_same_run_only(tmp_path, in_store, options, suffix):
    path, target = source(tmp_path), tmp_path / f"out{suffix}"
    interrupted(path, target, options)
    for other in (0.8, False):
        with pytest.raises(OutputError, match="trust"):
            upscale_file(path, target, **options | {"trust": other})
    assert tiles_found(path, target, options) >= 2
    image, error = truth(path, options)
    if suffix == ".tif":
        found = tifffile.imread(tmp_path / "out_trust.tif")
        np.testing.assert_array_equal(tifffile.imread(target), image)
    else:
        found = np.asarray(zarr.open(target)["trust/0"][:])
    np.testing.assert_array_equal(found, error)
    with pytest.raises(OutputError, match="trust"):
        upscale_file(path, target, **options | {"trust": 0.8})
    upscale_file(path, target, **options)  # has nothing to do


def test_a_tile_counts_when_both_of_it_are_there(tmp_path, in_store, options):
    path, target = source(tmp_path), tmp_path / "out.ome.zarr"
    interrupted(path, target, options)
    for chunk in (target / "trust" / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    assert tiles_found(path, target, options) == 0
    assert verify_file(target) == {}


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_parts_make_both(tmp_path, in_store, options, suffix):
    path, target = source(tmp_path), tmp_path / f"out{suffix}"
    for part in ("0/2", "1/2"):
        upscale_file(path, target, part=part, **options)
    _, error = truth(path, options)
    inside = target / "trust" if suffix == ".ome.zarr" else tmp_path / "out_trust.tif"
    np.testing.assert_array_equal(np.asarray(open_image(inside).data[...]), error)


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif", ".png"])
def test_overwrite_replaces_both(tmp_path, options, suffix):
    path, target = source(tmp_path), tmp_path / f"out{suffix}"
    upscale_file(path, target, **options)
    narrow = options | {"trust": 0.5}
    with pytest.raises(OutputError, match="exists already"):
        upscale_file(path, target, **narrow)
    upscale_file(path, target, overwrite=True, **narrow)
    inside = target / "trust" if suffix == ".ome.zarr" else tmp_path / "out_trust.tif"
    found = np.asarray(open_image(inside).data[...])
    np.testing.assert_array_equal(found, truth(path, narrow)[1])
    assert len(list(tmp_path.iterdir())) == (2 if suffix == ".ome.zarr" else 3)


def test_what_others_have_put_there_is_never_replaced_unasked(tmp_path, options):
    path, target = source(tmp_path), tmp_path / "out.tif"
    theirs = tmp_path / "out_trust.tif"
    theirs.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"out_trust\.tif: exists already"):
        upscale_file(path, target, **options)
    assert theirs.read_bytes() == b"mine"
    assert not target.exists()
    theirs.unlink()
    theirs.mkdir()
    with pytest.raises(OutputError, match="folder"):
        upscale_file(path, target, overwrite=True, **options)


def test_a_group_of_that_name_that_is_not_ours_is_kept(tmp_path, options):
    path, target = source(tmp_path), tmp_path / "out.ome.zarr"
    upscale_file(path, target, **options | {"trust": False})
    zarr.open(target).create_group("trust").create_array("0", data=np.ones(3))
    with pytest.raises(OutputError, match="would delete trust"):
        upscale_file(path, target, overwrite=True, **options)
    assert zarr.open(target)["trust/0"][0] == 1


def test_error_bars_that_somebody_deleted_are_missed(tmp_path, options):
    path = source(tmp_path)
    for name, inside in (("o.tif", "o_trust.tif"), ("o.ome.zarr", "o.ome.zarr/trust")):
        upscale_file(path, tmp_path / name, **options)
        lost = tmp_path / inside
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
        with pytest.raises(OutputError, match="error bars are not there"):
            upscale_file(path, tmp_path / name, **options)
        upscale_file(path, tmp_path / name, overwrite=True, **options)
        assert lost.exists()


def test_the_source_is_not_replaced_by_its_error_bars(tmp_path, options):
    path = source(tmp_path, name="a_trust.tif")
    before = path.read_bytes()
    with pytest.raises(OutputError, match="replace its own source"):
        upscale_file(path, tmp_path / "a.tif", overwrite=True, **options)
    assert path.read_bytes() == before


def test_pixels_in_memory(tmp_path, options):
    image = open_image(source(tmp_path))
    target = tmp_path / "out.ome.zarr"
    upscale_image(image, target, UpscaleOptions(**options))
    _, error = truth(tmp_path / "in.tif", options)
    np.testing.assert_array_equal(zarr.open(target)["trust/0"][:], error)


def test_the_space_that_is_needed_counts_both(tmp_path, in_store, options, monkeypatch):
    free = 70 * 90 * 4 * (2 + 4) - 1  # without pyramid
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    path, target = source(tmp_path), tmp_path / "out.ome.zarr"
    with pytest.raises(OutputError, match="too little"):
        upscale_file(path, target, **options)
    upscale_file(path, target, **options | {"trust": False})


def test_the_command_line(tmp_path, options, capsys):
    path, target = str(source(tmp_path)), tmp_path / "out.tif"
    common = ["--model", options["model"], "--tile", "32", "--value-range", "0,65535"]
    assert main(["upscale", path, str(target), *common, "--json", "--trust"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["output"] == str(target)
    assert last["error"] == str(tmp_path / "out_trust.tif")
    _, error = truth(Path(path), options)
    np.testing.assert_array_equal(tifffile.imread(last["error"]), error)
    zarred = tmp_path / "out.ome.zarr"
    assert main(["upscale", path, str(zarred), *common, "--trust=0.5", "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["error"] == str(zarred / "trust")
    assert zarr.open(zarred)["trust"].attrs["napari_swin2sr"]["level"] == 0.5


@pytest.mark.parametrize("wrong", ["1.5", "yes", "nan"])
def test_a_wrong_level_on_the_command_line(tmp_path, capsys, wrong):
    path = str(source(tmp_path))
    with pytest.raises(SystemExit):
        raise SystemExit(main(["upscale", path, "out.tif", f"--trust={wrong}"]))
    assert "share of the pixels" in capsys.readouterr().err


def test_two_files_with_one_name_for_their_error_bars(tmp_path, options, capsys):
    for name in ("a.tif", "a.ome.tif"):
        source(tmp_path, name=name)
    names = [str(tmp_path / name) for name in ("a.tif", "a.ome.tif")]
    folder = str(tmp_path / "out")
    assert main(
        ["upscale", *names, "-o", folder, "--trust", "--model", options["model"]]
    )
    assert "a_trust.tif" in capsys.readouterr().err
    assert not Path(folder).exists()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_a_killed_run_goes_on(tmp_path, in_store, options, suffix):
    path, target = source(tmp_path, (300, 300)), tmp_path / f"out{suffix}"
    code = (
        "import sys, json\n"
        "from napari_swin2sr import upscale_file\n"
        "from napari_swin2sr.runs import job\n"
        "job.SMALL_RESULT_BYTES = 0\n"
        "upscale_file(*sys.argv[1:3], workers=1, **json.loads(sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", code, str(path), str(target), json.dumps(options)]
    store = (
        target if suffix == ".ome.zarr" else target.with_name("out.tif.unfinished.zarr")
    )
    with subprocess.Popen(command) as run:
        while not (store / "0/c/0/3").exists():
            assert run.poll() is None
            time.sleep(0.02)
        run.kill()
    assert 0 < tiles_found(path, target, options) < 100
    image, error = truth(path, options)
    place = target / "trust" if suffix == ".ome.zarr" else tmp_path / "out_trust.tif"
    for where, want in ((target, image), (place, error)):
        np.testing.assert_array_equal(np.asarray(open_image(where).data[...]), want)
    left = [p for p in tmp_path.rglob("*") if p.name.endswith(".partial")]
    assert not left
