"""Error bars for one's own images, from the function and from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

import napari_swin2sr as nsr
from helpers.tiny import tiny_folder, tiny_net, trusted_folder
from helpers.training_images import texture
from napari_swin2sr.cli.main import main
from napari_swin2sr.engine.upscaler import load_model
from napari_swin2sr.errors import InputError, OutputError, WeightsError
from napari_swin2sr.training.calibrate import add_error_bars, mean_and_interval
from napari_swin2sr.training.data import ImageSet, read_sources
from napari_swin2sr.training.options import TrainOptions
from napari_swin2sr.trust.calibration import level_index, load_calibration

if TYPE_CHECKING:
    from pathlib import Path


def images(folder: Path, count: int, side: int = 64) -> Path:
    """Write so many different images."""
    folder.mkdir()
    for seed in range(count):
        plane = (texture(seed, side=side)[..., 0] * 255).astype(np.uint8)
        tifffile.imwrite(folder / f"{seed}.tif", plane)
    return folder


def test_the_bars_hold_for_the_images(tmp_path: Path) -> None:
    model = trusted_folder(tmp_path / "model")
    found = nsr.calibrate([images(tmp_path / "images", 12)], model, device="cpu")
    assert (found.folder, found.images, found.trained) == (model, 12, False)
    assert load_calibration(model) == found.calibration
    (group,) = found.calibration.groups
    assert (group.kind, group.images) == ("", 12)
    upscaler = load_model(model, device="cpu")
    shares = []
    for seed in range(12):
        plane = (texture(seed, side=64)[..., 0] * 255).astype(np.uint8)
        truth = plane.astype(np.float32)[None, None] / 255
        small = truth.reshape(1, 1, 32, 2, 32, 2).mean((3, 5), dtype=np.float32)
        image, error = upscaler.with_error(small)
        inner = (..., slice(16, -16), slice(16, -16))
        bar = group.factors[level_index(0.8)] * error
        shares.append(np.mean(abs(image - truth)[inner] <= bar[inner]))
    assert 0.8 <= np.mean(shares) <= 0.9
    mean, low, high = found.gain
    assert low <= mean <= high < 0  # these weights are random


def test_a_model_without_an_error_head_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_swin2sr.training.calibrate.CROPS", 8)
    model = tiny_folder(tmp_path / "model")
    out = tmp_path / "out"
    found = nsr.calibrate(
        [images(tmp_path / "images", 18, side=112)], model, output=out
    )
    assert (found.trained, found.images) == (True, 9)
    assert load_model(out, device="cpu").has_error
    assert load_calibration(out) == found.calibration
    assert not (model / "trust.json").exists()


def test_too_few_images(tmp_path: Path) -> None:
    model = trusted_folder(tmp_path / "model")
    with pytest.raises(InputError, match=r"8 usable image.*at least 9 independent"):
        nsr.calibrate([images(tmp_path / "images", 8)], model)
    bare = tiny_folder(tmp_path / "bare")
    with pytest.raises(InputError, match=r"at least 18 .*no error head: half of them"):
        nsr.calibrate([images(tmp_path / "larger", 9, side=112)], bare)


def test_the_same_image_twice(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 9)
    (folder / "copy.tif").write_bytes((folder / "3.tif").read_bytes())
    with pytest.raises(InputError, match=r"3\.tif and .*copy\.tif are the same image"):
        nsr.calibrate([folder], trusted_folder(tmp_path / "model"))


def test_where_a_calibration_may_go(tmp_path: Path) -> None:
    from napari_swin2sr.weights.registry import published_models

    own = published_models()["default"].own_path
    assert own is not None
    with pytest.raises(OutputError, match="default is no folder of yours"):
        nsr.calibrate([tmp_path], "default")
    with pytest.raises(OutputError, match="inside of the installed package"):
        nsr.calibrate([tmp_path], "default", output=own.parent)
    other = tiny_folder(tmp_path / "other", seed=7)
    with pytest.raises(OutputError, match="holds another model"):
        nsr.calibrate([tmp_path], "default", output=other)


def test_the_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(2, 0.5, 100)
    mean, low, high = mean_and_interval(list(values))
    assert mean == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.2)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trusted_folder(tmp_path / "model")
    folder, out = images(tmp_path / "images", 9), tmp_path / "out"
    command = ["calibrate", str(folder), "--model", str(model), "-o", str(out)]
    assert main(command) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(out)
    assert "dB over bicubic interpolation (95 % interval" in told.err
    assert main([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["factor"] == load_calibration(out).factor()
    assert main(["calibrate", str(folder / "0.tif"), "--model", str(model)]) != 0
    assert "at least 9 independent" in capsys.readouterr().err


@pytest.mark.parametrize("held_out", [9, 8])
def test_a_trained_model_gets_error_bars(held_out: int, tmp_path: Path) -> None:
    """Calibrated if enough images were held out; else it is said what to do."""
    model = tiny_folder(tmp_path / "model")
    folder = images(tmp_path / "images", held_out + 2, side=112)
    paths = sorted(folder.glob("*.tif"))
    sources = [read_sources(path, "", 64)[0] for path in paths]
    split = ImageSet(tuple(sources[:2]), tuple(sources[2:]), ())
    told: list[str] = []
    add_error_bars(
        *(model, tiny_net(), split, TrainOptions()), crops=4, say=told.append
    )
    assert load_model(model, device="cpu").has_error
    if held_out == 9:
        assert load_calibration(model).groups[0].images == 9
        assert "calibrated on the 9 images held out" in told[0]
        return
    assert "not calibrated: 8 usable images were held out, 9 are needed" in told[0]
    with pytest.raises(WeightsError, match="not calibrated"):
        load_calibration(model)
