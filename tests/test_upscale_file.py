"""From file to file: every format, resume, replace, parts."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from helpers import stand_in
from helpers.io_images import noise, smooth
from napari_swin2sr import upscale, upscale_file, verify_file
from napari_swin2sr.errors import (
    Cancelled,
    InputError,
    OptionError,
    OutputError,
    Swin2SRError,
)
from napari_swin2sr.formats import open_image
from napari_swin2sr.runs import job as work
from napari_swin2sr.runs.runner import RunFinished, RunStarted, TileDone

RANGE = (0.0, 65535.0)


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)


@pytest.fixture
def in_store(monkeypatch):
    """Let even small results go through a tile store."""
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 0)


def tiff(path: Path, pixels: np.ndarray, axes: str, **options) -> Path:
    photometric = "rgb" if axes.endswith("S") else "minisblack"
    tifffile.imwrite(
        path, pixels, photometric=photometric, metadata={"axes": axes}, **options
    )
    return path


def expected(pixels: np.ndarray) -> np.ndarray:
    """The stand-in's result of a uint16 stack (..., Y, X) with the range RANGE."""
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    out = np.stack([stand_in.whole(p, *RANGE) for p in planes])
    out = np.clip(np.rint(out), 0, 65535).astype(pixels.dtype)
    return out.reshape(*pixels.shape[:-2], *out.shape[-2:])


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    """Equal but for the last bit of float32 before rounding."""
    assert actual.shape == wanted.shape
    assert actual.dtype == wanted.dtype
    assert np.abs(actual.astype(np.int64) - wanted.astype(np.int64)).max() <= 1


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".ome.zarr", ".zarr"])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [("YX", (150, 203)), ("CYX", (2, 90, 70)), ("TZYX", (2, 3, 40, 33))],
)
def test_every_format_holds_the_expected_pixels(
    tmp_path, monkeypatch, axes, shape, suffix, small
):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 2**27 if small else 0)
    pixels = noise(shape)
    source = tiff(tmp_path / "in.tif", pixels, axes)
    target = tmp_path / f"out{suffix}"
    assert upscale_file(source, target, tile=64, value_range=RANGE) == target
    image = open_image(target)
    assert image.axes == axes
    close(np.asarray(image.data[...]), expected(pixels))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", target.name]


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".png", ".jpg", ".ome.zarr"])
def test_color_stays_color(tmp_path, suffix):
    pixels = smooth((3, 60, 70), "uint8").transpose(1, 2, 0)
    source = tiff(tmp_path / "in.tif", pixels, "YXS")
    target = tmp_path / f"out{suffix}"
    upscale_file(source, target, tile=32)
    image = open_image(target, rgb=True)
    out = np.asarray(image.data[...])
    if image.axes == "SYX":
        out = out.transpose(1, 2, 0)
    wanted = np.stack(
        [stand_in.whole(pixels[..., k], 0, 255) for k in range(3)], axis=-1
    )
    assert out.shape == wanted.shape
    assert np.abs(out - np.rint(wanted)).max() <= (12 if suffix == ".jpg" else 1)


@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
def test_alpha_is_kept(tmp_path, suffix):
    pixels = smooth((4, 40, 50), "uint8").transpose(1, 2, 0)
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, pixels, photometric="rgb", extrasamples=["unassalpha"])
    with pytest.warns(UserWarning, match="alpha"):
        upscale_file(source, tmp_path / f"out{suffix}", tile=32)
    image = open_image(tmp_path / f"out{suffix}", rgb=True)
    assert sorted(image.shape) == [4, 80, 100]


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_an_odd_order_of_axes_is_put_right(tmp_path, in_store, suffix):
    pixels = noise((2, 3, 24, 40))
    source = tiff(tmp_path / "in.tif", pixels, "ZCYX")
    upscale_file(source, tmp_path / f"out{suffix}", value_range=RANGE, tile=16)
    image = open_image(tmp_path / f"out{suffix}")
    assert image.axes == "CZYX"
    close(np.asarray(image.data[...]), expected(pixels.swapaxes(0, 1)))


def test_samples_of_several_channels_become_channels(tmp_path):
    pixels = noise((2, 24, 40, 3), "uint8")
    array: Any = zarr.create_array(
        tmp_path / "in.zarr", data=pixels, dimension_names=list("cyxs")
    )
    upscale_file(tmp_path / "in.zarr", tmp_path / "out.ome.zarr", tile=16)
    out = open_image(tmp_path / "out.ome.zarr")
    assert out.axes == "CYX"
    wanted = [
        stand_in.whole(array[c, :, :, s], 0, 255) for c in range(2) for s in range(3)
    ]
    assert np.abs(out.data[:] - np.rint(np.stack(wanted))).max() <= 1


@pytest.mark.parametrize("tile", [8, 64, 120, 1000])
def test_the_tile_does_not_change_a_pixel(tmp_path, tile):
    pixels = noise((130, 170))
    source = tiff(tmp_path / "in.tif", pixels, "YX")
    upscale_file(source, tmp_path / "out.ome.zarr", tile=tile, value_range=RANGE)
    close(open_image(tmp_path / "out.ome.zarr").data[:], expected(pixels))


# -- pyramid and metadata -------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ome.zarr", ".ome.tif", ".tif"])
@pytest.mark.parametrize("small", [True, False])
def test_the_pyramid_is_made_of_block_means(tmp_path, monkeypatch, suffix, small):
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 2**27 if small else 0)
    from napari_swin2sr.formats import pyramid as blocks

    monkeypatch.setattr(blocks, "SMALLEST_LEVEL", 100)
    pixels = noise((2, 150, 203))
    source = tiff(tmp_path / "in.tif", pixels, "CYX")
    target = tmp_path / f"out{suffix}"
    upscale_file(source, target, tile=64, value_range=RANGE)
    full = np.asarray(open_image(target).data[...])
    wanted = full
    for level in (1, 2, 3):
        padded = np.pad(
            wanted.astype(float),
            [(0, 0), *((0, n % 2) for n in wanted.shape[1:])],
            constant_values=np.nan,
        )
        c, h, w = padded.shape
        means = np.nanmean(padded.reshape(c, h // 2, 2, w // 2, 2), axis=(2, 4))
        wanted = np.rint(means).astype(np.uint16)
        image = open_image(target, level=level)
        np.testing.assert_array_equal(np.asarray(image.data[...]), wanted)
    assert max(wanted.shape) <= 100
    with pytest.raises(Swin2SRError, match="no level 4"):
        open_image(target, level=4)


def test_provenance_is_recorded(tmp_path):
    source = tiff(tmp_path / "in.tif", noise((40, 40)), "YX")
    upscale_file(source, tmp_path / "out.ome.zarr", tile=32, value_range=RANGE)
    record = dict(zarr.open_group(tmp_path / "out.ome.zarr").attrs)["napari_swin2sr"]
    assert record["complete"] is True
    assert record["source_changed"] is False
    assert record["sha256"] == "0" * 64
    assert record["tile"] == 32
    assert record["pixel_overhead"] > 1
    assert record["value_range"] == [{"low": 0.0, "high": 65535.0, "top": 1.0}]
    versions: Any = record["versions"]
    assert set(versions) == {"python", "numpy", "tifffile", "torch", "zarr"}
    upscale_file(source, tmp_path / "out.tif", tile=32, value_range=RANGE)
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        text = tif.pages.first.tags["Software"].value
    assert json.loads(text)["napari_swin2sr"]["fingerprint"]["tile"] == 32


# -- events ---------------------------------------------------------------------------


def test_events_tell_every_stage(tmp_path, monkeypatch, in_store):
    from napari_swin2sr.formats import pyramid as blocks

    monkeypatch.setattr(blocks, "SMALLEST_LEVEL", 100)
    source = tiff(tmp_path / "in.tif", noise((90, 90)), "YX")
    events: list[Any] = []
    upscale_file(source, tmp_path / "out.tif", tile=24, progress=events.append)
    stages = [e.stage for e in events if isinstance(e, RunStarted)]
    assert stages == ["tiles", "pyramid", "export"]
    starts = [e for e in events if isinstance(e, RunStarted)]
    assert starts[0].expected_seconds >= 0
    assert starts[0].pixel_overhead > 1
    assert starts[1].pixel_overhead is None
    for stage in stages:
        done = [e.done for e in events if isinstance(e, TileDone) and e.stage == stage]
        last = [e for e in events if isinstance(e, RunFinished) and e.stage == stage]
        assert done == list(range(1, len(done) + 1))
        assert last[0].done == last[0].total == len(done)


# -- what is refused ------------------------------------------------------------------


def test_an_existing_result_is_not_replaced_unasked(tmp_path):
    source = tiff(tmp_path / "in.tif", noise((40, 40)), "YX")
    for name in ("out.tif", "out.png", "out.ome.zarr"):
        target = tmp_path / name
        if name.endswith("zarr"):
            target.mkdir()
            (target / "precious").write_text("x")
        else:
            target.write_text("precious")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(OutputError, match=r"exists already.*--overwrite"):
            upscale_file(source, target)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("out.bmp", r"suffix '\.bmp'.*\.ome\.zarr"),
        ("out", "suffix"),
        ("nowhere/out.tif", "does not exist"),
        ("in.tif", "replace its own source"),
        ("link.tif", "replace its own source"),
    ],
)
def test_impossible_targets(tmp_path, name, match):
    source = tiff(tmp_path / "in.tif", noise((40, 40)), "YX")
    (tmp_path / "link.tif").symlink_to(source)
    with pytest.raises(OutputError, match=match):
        upscale_file(source, tmp_path / name, overwrite=True)
    np.testing.assert_array_equal(tifffile.imread(source), noise((40, 40)))


def test_a_result_inside_its_source_or_around_it(tmp_path):
    inner = tmp_path / "in.zarr"
    zarr.create_array(inner, data=noise((40, 40)))
    with pytest.raises(OutputError, match="inside its own source"):
        upscale_file(inner, inner / "out.ome.zarr")
    folder = tmp_path / "out.zarr"
    folder.mkdir()
    shutil.move(inner, folder / "in.zarr")
    with pytest.raises(OutputError, match="lies inside this folder"):
        upscale_file(folder / "in.zarr", folder, overwrite=True)
    assert (folder / "in.zarr" / "zarr.json").exists()


@pytest.mark.parametrize("name", ["out.png", "out.jpg"])
def test_a_picture_holds_no_stack(tmp_path, name):
    source = tiff(tmp_path / "in.tif", noise((3, 40, 40), "uint8"), "ZYX")
    with pytest.raises(OutputError, match="more than one plane"):
        upscale_file(source, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("out.png", "float32"), ("out.png", "int16"), ("out.jpg", "uint16")],
)
def test_a_picture_holds_few_types(tmp_path, name, dtype):
    source = tiff(tmp_path / "in.tif", noise((40, 40), dtype), "YX")
    with pytest.raises(OutputError, match=f"numbers of type {dtype}.*--dtype uint"):
        upscale_file(source, tmp_path / name)


def test_wrong_options(tmp_path):
    source = tiff(tmp_path / "in.tif", noise((40, 40)), "YX")
    target = tmp_path / "out.ome.zarr"
    with pytest.raises(OptionError, match=r"ome_version='0\.6'"):
        upscale_file(source, target, ome_version="0.6")
    with pytest.raises(OptionError, match="I/N"):
        upscale_file(source, target, part="2/2")
    with pytest.raises(OptionError, match="part with overwrite"):
        upscale_file(source, target, part="0/2", overwrite=True)
    with pytest.raises(OptionError, match="part with overwrite"):
        upscale_file(source, target, part="0/2", resume=False)
    with pytest.raises(InputError, match="axes"):
        upscale_file(source, target, axes="ZYX")
    assert not target.exists()


# -- resume ---------------------------------------------------------------------------


class StopAfter:
    """A progress callback and token that cancels after so many tiles."""

    def __init__(self, n: int, stage: str = "tiles") -> None:
        self.n, self.stage = n, stage
        self.events: list[Any] = []
        self.event = threading.Event()

    def __call__(self, event) -> None:
        self.events.append(event)
        if isinstance(event, TileDone) and event.stage == self.stage:
            self.n -= 1
            if self.n <= 0:
                self.event.set()

    def is_set(self) -> bool:
        return self.event.is_set()


@pytest.mark.parametrize("suffix", [".ome.zarr", ".ome.tif"])
@pytest.mark.parametrize("stage", ["tiles", "pyramid", "export"])
def test_a_cancelled_run_goes_on(tmp_path, monkeypatch, in_store, suffix, stage):
    if (suffix, stage) == (".ome.zarr", "export"):
        pytest.skip("an OME-Zarr needs no export")
    from napari_swin2sr.formats import pyramid as blocks

    monkeypatch.setattr(blocks, "SMALLEST_LEVEL", 40)
    pixels = noise((150, 203))
    source = tiff(tmp_path / "in.tif", pixels, "YX")
    target = tmp_path / f"out{suffix}"
    stop = StopAfter(3, stage)
    options: dict[str, Any] = {"tile": 32, "value_range": RANGE, "workers": 1}
    with pytest.raises(Cancelled, match=r"goes on from there|exported"):
        upscale_file(source, target, progress=stop, cancel=stop, **options)
    if target.exists():
        assert target.suffix == ".zarr"
        with pytest.raises(Swin2SRError, match="not finished"):
            open_image(target)
    events: list[Any] = []
    upscale_file(source, target, progress=events.append, **options)
    start = next(e for e in events if isinstance(e, RunStarted) and e.stage == "tiles")
    first = [e for e in stop.events if isinstance(e, TileDone) and e.stage == "tiles"]
    assert start.done == len(first) >= 3
    close(np.asarray(open_image(target).data[...]), expected(pixels))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", target.name]


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_a_finished_result_costs_nothing(tmp_path, monkeypatch, in_store, suffix):
    source = tiff(tmp_path / "in.tif", noise((60, 60)), "YX")
    target = tmp_path / f"out{suffix}"
    upscale_file(source, target, tile=32)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    events: list[Any] = []
    monkeypatch.setattr(stand_in.StandIn, "__call__", None)
    assert upscale_file(source, target, tile=32, progress=events.append) == target
    assert [type(e) for e in events] == [RunStarted, RunFinished]
    assert events[0].done == events[0].total == 4
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert {p: t for p, t in after.items() if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tile": 40}, "tile: 32 then, 40 now"),
        ({"halo": 16}, "halo"),
        ({"model": "other"}, "model"),
        ({"value_range": (0.0, 100.0)}, "value_range"),
        ({"dtype": "float32"}, "dtype: uint16 then, float32 now"),
        ({"nodata": 7}, "nodata"),
    ],
)
def test_other_options_do_not_go_on(tmp_path, in_store, suffix, change, named):
    source = tiff(tmp_path / "in.tif", noise((100, 100)), "YX")
    target = tmp_path / f"out{suffix}"
    stop = StopAfter(2)
    options: dict[str, Any] = {"tile": 32, "value_range": RANGE, "workers": 1}
    with pytest.raises(Cancelled):
        upscale_file(source, target, progress=stop, cancel=stop, **options)
    with pytest.raises(OutputError, match="different run") as caught:
        upscale_file(source, target, **(options | change))
    assert named in str(caught.value)
    assert "--no-resume" in str(caught.value)
    upscale_file(source, target, **(options | change), resume=False)
    assert open_image(target).shape == (200, 200)


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_a_changed_source_does_not_go_on(tmp_path, in_store, suffix):
    source = tiff(tmp_path / "in.tif", noise((100, 100)), "YX")
    target = tmp_path / f"out{suffix}"
    stop = StopAfter(2)
    with pytest.raises(Cancelled):
        upscale_file(source, target, progress=stop, cancel=stop, tile=32)
    tiff(source, noise((100, 100), seed=1), "YX")
    with pytest.raises(OutputError, match="source: "):
        upscale_file(source, target, tile=32)


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_overwrite_replaces_only_after_success(tmp_path, in_store, suffix):
    first, second = noise((100, 100)), noise((100, 100), seed=1)
    source = tiff(tmp_path / "in.tif", first, "YX")
    target = tmp_path / f"out{suffix}"
    options: dict[str, Any] = {"tile": 32, "value_range": RANGE, "workers": 1}
    upscale_file(source, target, **options)
    tiff(source, second, "YX")
    with pytest.raises(OutputError, match=r"other settings.*source"):
        upscale_file(source, target, **options)
    stop = StopAfter(2)
    with pytest.raises(Cancelled):
        upscale_file(
            source, target, progress=stop, cancel=stop, overwrite=True, **options
        )
    close(np.asarray(open_image(target).data[...]), expected(first))
    events: list[Any] = []
    upscale_file(source, target, overwrite=True, progress=events.append, **options)
    assert events[0].done >= 2 or events[0].stage == "check"
    close(np.asarray(open_image(target).data[...]), expected(second))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", target.name]


def test_a_replacement_killed_between_its_renames_is_put_right(tmp_path):
    source = tiff(tmp_path / "in.tif", noise((60, 60)), "YX")
    target = tmp_path / "out.ome.zarr"
    upscale_file(source, target, tile=32)
    aside = tmp_path / f".out.ome.zarr.{'0a' * 16}.replaced"
    for done in (False, True):  # killed after the first rename, and after the second
        aside.mkdir()
        record = {"replaced": target.name, "by": target.lstat().st_ino}
        (aside / "owner.json").write_text(json.dumps({"napari_swin2sr": record}))
        if done:
            shutil.copytree(target, aside / "old")
        else:
            target.rename(aside / "old")
        events: list[Any] = []
        upscale_file(source, target, tile=32, progress=events.append)
        assert events[0].done == events[0].total
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "out.ome.zarr"]


def test_moved_source_and_target_still_belong_together(tmp_path, in_store):
    (tmp_path / "a").mkdir()
    source = tiff(tmp_path / "a" / "in.tif", noise((100, 100)), "YX")
    stop = StopAfter(2)
    with pytest.raises(Cancelled):
        upscale_file(
            source, tmp_path / "a/out.tif", progress=stop, cancel=stop, tile=32
        )
    (tmp_path / "a").rename(tmp_path / "b")
    events: list[Any] = []
    upscale_file(
        tmp_path / "b/in.tif", tmp_path / "b/out.tif", progress=events.append, tile=32
    )
    starts = [e for e in events if isinstance(e, RunStarted) and e.stage == "tiles"]
    assert starts[0].done >= 2


# -- parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ome.zarr", ".ome.tif"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_parts_make_the_same_file(tmp_path, in_store, suffix, order):
    pixels = noise((2, 100, 100))
    source = tiff(tmp_path / "in.tif", pixels, "CYX")
    target = tmp_path / f"out{suffix}"
    options: dict[str, Any] = {"tile": 32, "value_range": RANGE}
    for i in order[:-1]:
        upscale_file(source, target, part=(i, 3), **options)
        with pytest.raises(Swin2SRError, match=r"not finished|no such"):
            open_image(target)
    upscale_file(source, target, part=f"{order[-1]}/3", **options)
    close(np.asarray(open_image(target).data[...]), expected(pixels))
    upscale_file(source, target, part=(order[0], 3), **options)  # requeued: nothing
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", target.name]


def test_parts_side_by_side(tmp_path):
    pixels = noise((200, 200))
    source = tiff(tmp_path / "in.tif", pixels, "YX")
    target = tmp_path / "out.ome.zarr"
    failures = []

    def one(i):
        try:
            upscale_file(source, target, part=(i, 6), tile=24, value_range=RANGE)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    close(open_image(target).data[:], expected(pixels))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tif", "out.ome.zarr"]
    assert not list(target.rglob("*.partial"))


def test_a_part_of_another_job_is_refused(tmp_path):
    source = tiff(tmp_path / "in.tif", noise((100, 100)), "YX")
    target = tmp_path / "out.ome.zarr"
    upscale_file(source, target, part=(0, 3), tile=32)
    with pytest.raises(OutputError, match="tile: 32 then, 40 now"):
        upscale_file(source, target, part=(1, 3), tile=40)


# -- verify ---------------------------------------------------------------------------


@pytest.mark.parametrize("ome_version", ["0.5", "0.4"])
def test_a_flipped_bit_is_found_and_repaired(tmp_path, monkeypatch, ome_version):
    from napari_swin2sr.formats import pyramid as blocks

    monkeypatch.setattr(blocks, "SMALLEST_LEVEL", 100)
    pixels = noise((100, 100))
    source = tiff(tmp_path / "in.tif", pixels, "YX")
    target = tmp_path / "out.ome.zarr"
    options: dict[str, Any] = {
        "tile": 32,
        "value_range": RANGE,
        "ome_version": ome_version,
    }
    upscale_file(source, target, **options)
    assert verify_file(target) == {}
    head = "c/" if ome_version == "0.5" else ""
    for name in (f"0/{head}1/2", f"1/{head}0/0"):
        data = bytearray((target / name).read_bytes())
        data[len(data) // 2] ^= 4
        (target / name).write_bytes(data)
    (target / f"0/{head}3/3").unlink()
    assert verify_file(target) == {0: [(1, 2), (3, 3)], 1: [(0, 0)]}
    upscale_file(source, target, verify=True, **options)
    assert verify_file(target) == {}
    close(open_image(target).data[:], expected(pixels))


def test_what_can_be_verified(tmp_path):
    with pytest.raises(OutputError, match="no OME-Zarr result"):
        verify_file(tmp_path / "nothing.zarr")
    zarr.create_array(tmp_path / "other.zarr", data=noise((40, 40)))
    with pytest.raises(OutputError, match="no OME-Zarr result"):
        verify_file(tmp_path / "other.zarr")


# -- object stores --------------------------------------------------------------------


def test_a_url_in_and_out(tmp_path):
    pixels = noise((100, 100))
    source = tiff(tmp_path / "in.tif", pixels, "YX")
    first, second = "memory://nsr/first.ome.zarr", "memory://nsr/second.ome.zarr"
    options: dict[str, Any] = {"tile": 32, "value_range": RANGE}
    assert upscale_file(source, first, **options) == first
    close(open_image(first).data[:], expected(pixels))
    upscale_file(first, second, **options)
    assert open_image(second).shape == (400, 400)
    assert verify_file(second) == {}
    events: list[Any] = []
    upscale_file(source, first, progress=events.append, **options)
    assert events[0].done == events[0].total == 16
    with pytest.raises(OutputError, match="cannot be replaced in one go"):
        upscale_file(source, first, overwrite=True, **options)
    with pytest.raises(OutputError, match=r"only OME-Zarr"):
        upscale_file(source, "memory://nsr/x.tif")


def test_an_unfinished_url_goes_on(tmp_path):
    source = tiff(tmp_path / "in.tif", noise((100, 100)), "YX")
    target, stop = "memory://nsr/third.ome.zarr", StopAfter(2)
    events: list[Any] = []
    with pytest.raises(Cancelled):
        upscale_file(source, target, progress=stop, cancel=stop, tile=32, workers=1)
    upscale_file(source, target, progress=events.append, tile=32)
    assert events[0].done >= 2
    assert open_image(target).shape == (200, 200)


def test_home_folder_and_strange_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "ä b [c]* ☃"
    folder.mkdir()
    name = f"~/{folder.name}"
    tiff(folder / "in put.tif", noise((40, 40)), "YX")
    for target in ("o ut.tif", "o [1]*?.ome.zarr", "ü.png"):
        out = upscale_file(f"{name}/in put.tif", f"{name}/{target}", tile=16)
        assert out == folder / target
        assert open_image(out).shape == (80, 80)
    assert len(list(folder.iterdir())) == 4


def test_a_name_that_is_too_long_says_so(tmp_path):
    source = tiff(tmp_path / "in.tif", noise((40, 40)), "YX")
    with pytest.raises((OutputError, OSError), match="long"):
        upscale_file(source, tmp_path / ("n" * 300 + ".ome.zarr"))


@pytest.mark.parametrize("name", ["ä b.tif", "o.ome.zarr"])
def test_file_urls_are_paths(tmp_path, name):
    source = tiff(tmp_path / "in.tif", noise((40, 40)), "YX")
    target = tmp_path / name
    out = upscale_file(source.as_uri(), target.as_uri(), tile=16, value_range=RANGE)
    assert out == target
    image = open_image(target.as_uri())
    close(np.asarray(image.data[...]), expected(noise((40, 40))))
    assert upscale_file(source, target, tile=16, value_range=RANGE) == target
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.tif", name])


@pytest.mark.parametrize("suffix", [".ome.zarr", ".tif"])
def test_a_name_too_long_for_temporary_files(tmp_path, monkeypatch, in_store, suffix):
    """Names of 240 bytes exist, but nothing can be written beside them."""
    source = tiff(tmp_path / "in.tif", noise((40, 40)), "YX")
    calls = []
    monkeypatch.setattr(stand_in.StandIn, "__call__", lambda *a: calls.append(a))
    target = tmp_path / ("ä" * ((240 - len(suffix)) // 2) + suffix)
    with pytest.raises(OutputError, match=r"\d+ bytes too long.*a shorter one"):
        upscale_file(source, target, tile=16)
    assert not calls
    monkeypatch.undo()
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)
    monkeypatch.setattr(work, "SMALL_RESULT_BYTES", 0)
    longest = tmp_path / ("n" * (255 - 58 - len(suffix)) + suffix)
    upscale_file(source, longest, tile=16)
    upscale_file(source, longest, tile=32, overwrite=True)
    assert open_image(longest).shape == (80, 80)


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_metadata_that_cannot_be_written_are_said_before_the_first_tile(
    tmp_path, monkeypatch, suffix
):
    from napari_swin2sr.formats import tiff_write

    def fail(*args, **kwargs):
        raise ValueError("must be 7-bit ASCII")

    source = tiff(tmp_path / "in.tif", noise((40, 40)), "YX")
    monkeypatch.setattr(tiff_write, "_ome", fail)
    monkeypatch.setattr(work, "ome_attributes", fail)
    calls = []
    monkeypatch.setattr(stand_in.StandIn, "__call__", lambda *a: calls.append(a))
    with pytest.raises(OutputError, match=r"says about its pixels.*7-bit ASCII"):
        upscale_file(source, tmp_path / f"out{suffix}", tile=16)
    assert not calls
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]
