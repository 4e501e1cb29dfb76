"""A fine-tuned model is never worse than its start, and the gain has an interval."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from scipy.stats import bootstrap

from helpers.tiny import tiny_config
from helpers.training_images import image_folder, texture
from napari_swin2sr.errors import InputError
from napari_swin2sr.model.swin2sr import save_network
from napari_swin2sr.training.data import load_images
from napari_swin2sr.training.gain import HeldOut, interval
from napari_swin2sr.training.loop import Trainer
from napari_swin2sr.training.options import TrainOptions
from napari_swin2sr.training.run import train
from napari_swin2sr.training.start import bicubic_network


def network(blur=0.0):
    """Return bicubic interpolation, or something worse."""
    torch.manual_seed(0)
    net = bicubic_network(tiny_config(embed_dim=28, depths=(1,), num_heads=(2,)))
    with torch.no_grad():
        net.upsample.conv.weight.mul_(1 - blur)
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def sources(folder):
    return load_images([folder], min_size=96, validation=0.5).validation


def test_the_interval_is_that_of_scipy():
    values = np.random.default_rng(1).normal(0.3, 0.2, 9)
    theirs = bootstrap(
        (values,),
        np.mean,
        confidence_level=0.9,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert interval(values) == pytest.approx(tuple(theirs), abs=0.01)


def test_better_worse_and_the_same_are_told_apart(sources):
    held_out = HeldOut(sources, network(0.2), noise=0.35)
    same = held_out.gain(network(0.2))
    better = held_out.gain(network())
    worse = held_out.gain(network(0.4))
    assert (same.mean, same.low, same.high, same.better) == (0, 0, 0, False)
    assert better.better
    assert 1 < better.low <= better.mean <= better.high
    assert not worse.better
    assert worse.high < -1
    assert (better.units, better.over) == (4, "held-out images")


def test_few_images_are_judged_by_their_crops(sources):
    gain = HeldOut(sources[:1], network(0.2), noise=0).gain(network())
    assert gain.over == "held-out crops"


def test_the_preview_shows_both_models(sources):
    held_out = HeldOut(sources, network(0.2), noise=0)
    new = network(0.1)
    shown = held_out.preview(new, network().state_dict())
    inner = np.s_[:, 8:-8, 8:-8]
    truth = shown["truth"][inner]
    error = {k: abs(shown[k][inner] - truth).mean() for k in ("before", "after")}
    assert error["after"] < error["before"]
    assert shown["input"].shape[-1] * 2 == shown["truth"].shape[-1]
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            new.state_dict().values(), network(0.1).state_dict().values(), strict=True
        )
    ), "the network is as it was"


def options(**changes):
    quick: dict[str, Any] = {"steps": 2, "minutes": None, "batch": 2, "patch": 16}
    quick |= {"validate_every": 1, "threads": 1, "device": "cpu"}
    return TrainOptions(**(quick | changes))


@pytest.mark.parametrize("blur", [0.0, 0.3])
def test_what_is_not_better_than_its_start_is_not_kept(folder, tmp_path, blur):
    """Two huge steps from bicubic are worse than it; from something blurred, better."""
    save_network(network(blur), tmp_path / "start")
    events: list[Any] = []
    train(
        [folder],
        tmp_path / "mine",
        options(
            start=str(tmp_path / "start"),
            learning_rate=3e-1 if blur == 0 else 3e-3,
            steps=2 if blur == 0 else 40,
            validate_every=20,
        ),
        report=events.append,
        preview=True,
    )
    (gain,) = [event for event in events if event["event"] == "gain"]
    old, new = (
        load_file(tmp_path / name / "model.safetensors") for name in ("start", "mine")
    )
    kept = all(torch.equal(old[name], new[name]) for name in old)
    record = json.loads((tmp_path / "mine" / "training.json").read_text())
    assert record["gain"]["better"] == gain["better"]
    card = (tmp_path / "mine" / "README.md").read_text()
    if blur == 0:
        assert not gain["better"]
        assert kept, "the weights of the start"
        assert "not better than start: keep start" in gain["message"]
        assert "not better than start" in card
    else:
        assert gain["better"]
        assert not kept
        assert gain["low"] > 0
        assert gain["message"] in card
    paths = [event["path"] for event in events if event["event"] == "preview"]
    with np.load(paths[-1]) as crops:
        assert set(crops) == {"input", "before", "after", "truth"}


def test_the_best_of_all_validations_is_kept(folder, tmp_path, monkeypatch):
    images = load_images([folder], min_size=96)
    trainer = Trainer(network(), images, options(steps=3), tmp_path)
    seen = []

    def scores(net):
        seen.append({k: v.clone() for k, v in net.state_dict().items()})
        return {"images": [0.0, 0.1, 0.9, 0.5][len(seen) - 1]}

    monkeypatch.setattr(trainer.validation, "scores", scores)
    trainer.run()
    trainer.use_best()
    found = trainer.network.state_dict()
    assert len(seen) == 4
    assert all(torch.equal(found[k], v) for k, v in seen[2].items())
    assert not all(torch.equal(found[k], v) for k, v in seen[3].items())

    again = Trainer(network(), images, options(steps=3), tmp_path)
    assert again.resume()
    again.use_best()
    found = again.network.state_dict()
    assert all(torch.equal(found[k], v) for k, v in seen[2].items())


def test_stopping_between_validations_loses_nothing(folder, tmp_path):
    images = load_images([folder], min_size=96)
    trainer = Trainer(network(), images, options(steps=50, validate_every=50), tmp_path)

    class Soon:
        def is_set(self):
            return trainer.state.step >= 2

    history = trainer.run(cancel=Soon())
    assert [record["step"] for record in history] == [0, 2]


def test_one_large_image_is_enough(tmp_path):
    plane = (texture(3, side=300)[:220, :, 0] * 60000).astype(np.uint16)
    tifffile.imwrite(tmp_path / "one.tif", plane)
    images = load_images([tmp_path], min_size=96, validation=0.2)
    (mine,), (checked,) = images.training, images.validation
    joined = np.concatenate([mine.pixels, checked.pixels], axis=-1)
    np.testing.assert_array_equal(joined[0], plane, "no pixel in both")
    assert checked.pixels.shape[-1] == 96
    with pytest.raises(InputError, match="or one with a side of at least 320 pixels"):
        load_images([tmp_path], min_size=160)
