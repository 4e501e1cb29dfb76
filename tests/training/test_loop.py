"""The loop: repeatable, resumable, bounded, and it learns."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from helpers.tiny import tiny_config, tiny_net
from helpers.training_images import image_folder
from napari_swin2sr.errors import (
    Cancelled,
    FileError,
    InferenceError,
    OptionError,
    OutputError,
)
from napari_swin2sr.training.data import ImageSet, Sampler, load_images
from napari_swin2sr.training.loop import (
    INTENSITY,
    STATE_NAME,
    Trainer,
    optimizers,
    schedule,
)
from napari_swin2sr.training.options import TrainOptions
from napari_swin2sr.training.start import bicubic_network
from napari_swin2sr.training.teacher import TeacherPool, label_crops

if TYPE_CHECKING:
    from pathlib import Path

    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution

CLEAN = {"downscale": {"bicubic": 1}, "noise": 0, "hot": 0}
CHECKS = 1 - 2 * (torch.arange(8)[:, None] + torch.arange(8)).remainder(2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = image_folder(tmp_path_factory.mktemp("images"))
    return load_images([folder], min_size=128)


def network() -> Swin2SRForImageSuperResolution:
    torch.manual_seed(0)
    return bicubic_network(tiny_config(embed_dim=28, depths=(1,), num_heads=(2,)))


def trainer(images: ImageSet, folder: Path, **changes: object) -> Trainer:
    options: dict[str, Any] = {
        "steps": 6,
        "minutes": None,
        "batch": 2,
        "patch": 16,
        "precision": "fp32",
    }
    options |= {"validate_every": 3, "learning_rate": 1e-3} | changes
    return Trainer(network(), images, TrainOptions(**options), folder)


def test_training_beats_bicubic_and_says_so(images: ImageSet, tmp_path: Path) -> None:
    run = trainer(images, tmp_path, steps=80, validate_every=80, **CLEAN, ema=0.9)
    seen: list[Any] = []
    history = run.run(report=seen.append)
    assert [entry["step"] for entry in history] == [0, 80]
    assert all(abs(gain) < 0.6 for gain in history[0]["validation"].values())
    clean = {k: v for k, v in history[1]["validation"].items() if "noisy" not in k}
    assert set(clean) == {"color", "gray"}
    assert sum(clean.values()) > sum(history[0]["validation"][k] for k in clean) + 0.1
    assert seen[1].loss > 0
    assert seen[1].samples_per_second > 0


def test_two_runs_with_one_seed_are_equal(images: ImageSet, tmp_path: Path) -> None:
    weights = []
    for number, seed in enumerate((5, 5, 6)):
        run = trainer(images, tmp_path / str(number), seed=seed)
        run.run()
        weights.append(run.average["upsample.conv.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_interrupted_run_continues_exactly(images: ImageSet, tmp_path: Path) -> None:
    whole = trainer(images, tmp_path / "whole")
    whole.run()
    first = trainer(images, tmp_path / "parts")
    assert not first.resume()
    first.run(cancel=SimpleNamespace(is_set=lambda: first.state.step >= 4))
    assert first.state.step == 4
    second = trainer(images, tmp_path / "parts")
    assert second.resume()
    assert second.state.step == 4
    second.run()
    for name, value in whole.average.items():
        assert torch.equal(value, second.average[name]), name


def test_every_weight_has_one_optimizer_and_muon_only_matrices_of_layers() -> None:
    net = network()
    muon, adam = (
        [id(p) for group in each.param_groups for p in group["params"]]
        for each in optimizers(net, 1e-3)
    )
    assert sorted(muon + adam) == sorted(id(p) for p in net.parameters())
    names = {name for name, p in net.named_parameters() if id(p) in muon}
    layer = "swin2sr.encoder.stages.0.layers.0"
    assert names == {
        f"{layer}.{part}.weight"
        for part in (
            *("attention.self.query", "attention.self.key", "attention.self.value"),
            *("attention.output.dense", "intermediate.dense", "output.dense"),
        )
    }


def test_the_time_budget_ends_training(images: ImageSet, tmp_path: Path) -> None:
    run = trainer(images, tmp_path, steps=None, minutes=0.02)
    run.run()
    assert 1.2 <= run.state.seconds < 30


def test_another_geometry_is_not_continued(images: ImageSet, tmp_path: Path) -> None:
    trainer(images, tmp_path).save()
    other = Trainer(tiny_net(), images, TrainOptions(patch=16), tmp_path)
    with pytest.raises(OptionError, match="another geometry"):
        other.resume()


def test_a_damaged_state_is_named(images: ImageSet, tmp_path: Path) -> None:
    trainer(images, tmp_path).save()
    state = tmp_path / STATE_NAME
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(FileError, match=r"state\.pt: .* cannot be read .* --fresh"):
        trainer(images, tmp_path).resume()


def test_a_wrong_mean_costs_more_than_a_wrong_pattern(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(images, tmp_path)
    target = torch.full((2, 3, 8, 8), 0.5)
    losses = []
    for error in (torch.tensor(0.1), 0.1 * CHECKS):
        monkeypatch.setattr(run.network, "upscale_tile", lambda x, e=error: target + e)
        losses.append(float(run.loss(target, target, target)))
    assert losses == pytest.approx([0.1 * (1 + INTENSITY), 0.1])


def test_the_last_share_of_the_budget_raises_the_psnr(
    images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(images, tmp_path, steps=100, psnr_share=0.25)
    target = torch.full((2, 3, 8, 8), 0.5)
    error = torch.tensor([0.1, 0.01])[:, None, None, None] * CHECKS
    monkeypatch.setattr(run.network, "upscale_tile", lambda x: target + error)
    run.state.step = 74
    before = float(run.loss(target, target, target))
    run.state.step = 75
    after = float(run.loss(target, target, target))
    assert before == pytest.approx(0.055)
    assert after == pytest.approx((40 + 20) / 2 / 200, abs=1e-3)


def test_smooth_samples_hold_no_more_than_their_small_image(
    images: ImageSet, tmp_path: Path
) -> None:
    lost = []
    for share in (0.0, 1.0):
        run = trainer(images, tmp_path, smooth=share, **CLEAN, batch=16)
        lowres, target, _ = run.batch(0)
        again = torch.nn.functional.interpolate(lowres, scale_factor=2, mode="bicubic")
        lost.append(float((again - target)[..., 4:-4, 4:-4].abs().mean()))
    assert lost[1] < 0.5 * lost[0]


def test_weights_that_are_not_finite_are_never_kept(
    images: ImageSet, tmp_path: Path
) -> None:
    run = trainer(images, tmp_path, steps=1, validate_every=9)
    run.save()
    before = (tmp_path / STATE_NAME).read_bytes()
    next(iter(run.average.values())).fill_(torch.inf)
    for keep in (run.run, run.save):
        with pytest.raises(InferenceError, match=r"not kept.*learning rate below"):
            keep()
    assert (tmp_path / STATE_NAME).read_bytes() == before


def test_divergence_is_an_error(images: ImageSet, tmp_path: Path) -> None:
    run = trainer(images, tmp_path)
    with torch.no_grad():
        next(run.network.parameters()).fill_(torch.nan)
    with pytest.raises(
        InferenceError, match=r"diverged at step 0.*learning rate below"
    ):
        run.step()


def test_an_unwritable_state_is_an_error(images: ImageSet, tmp_path: Path) -> None:
    run = trainer(images, tmp_path)
    (tmp_path / STATE_NAME).mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        run.save()


def test_bfloat16_stays_close_and_keeps_float32_weights(
    images: ImageSet, tmp_path: Path
) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        options = TrainOptions(batch=2, patch=16, precision=precision)
        run = Trainer(tiny_net(), images, options, tmp_path)
        losses[precision] = run.step()
        assert all(p.dtype == torch.float32 for p in run.network.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.01)
    assert losses["bf16"] != losses["fp32"]


def test_the_learning_rate_warms_up_and_falls() -> None:
    assert schedule(0.0, 0) == pytest.approx(1 / 50)
    assert schedule(0.0, 100) == pytest.approx(1.0)
    assert schedule(1.0, 100) == pytest.approx(0.02)


def test_a_teacher_labels_crops_once_and_is_learned_from(
    images: ImageSet, tmp_path: Path
) -> None:
    pool = label_crops(tiny_net(), Sampler(images.training), 3, 0, progress=print)
    assert len(pool) == 3
    pool.save(tmp_path / "pool.npz")
    again = TeacherPool.load(tmp_path / "pool.npz")
    lowres, target, output = again.draw(16, np.random.default_rng(0))
    with torch.inference_mode():
        pixels = torch.from_numpy(again.lowres[:1].astype(np.float32))
        labeled = tiny_net().upscale_tile(pixels)[0].numpy()
    inner = (slice(None), slice(40, 56), slice(40, 56))
    to_teacher, to_target = (
        np.abs(labeled - part[0])[inner].mean() for part in (again.output, again.target)
    )
    assert to_teacher < 0.1 * to_target
    assert lowres.shape == (3, 16, 16)
    assert target.shape == output.shape == (3, 32, 32)
    run = trainer(images, tmp_path, teacher_share=1.0, steps=2)
    plain = run.loss(*run.batch(0))
    run.pool = again
    assert run.loss(*run.batch(0)) != plain
    run.run()
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled, match="labeled"):
        label_crops(
            tiny_net(),
            Sampler(images.training),
            3,
            0,
            progress=print,
            cancel=cancel,
        )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"minutes": None}, "would not end"),
        ({"batch": 0}, "batch=0 is not positive"),
        ({"minutes": -1.0}, "minutes=-1.0 is not positive"),
        ({"ema": 2.0}, "ema=2.0 is not a share between"),
        ({"precision": "fp8"}, "'fp8' is not one of auto, fp32, bf16"),
        ({"seed": -1}, "seed=-1 is below 0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf is not positive and fin"),
        ({"photons": (1.0, float("inf"))}, "photons=1.0,inf is not a range"),
        ({"validate_every": 0}, "validate_every=0 is not positive"),
    ],
)
def test_impossible_options_are_refused(options: dict, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        TrainOptions(**options)


def test_a_patch_off_the_window_is_refused(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"patch=20 .* window of 8 px; .* 24"):
        trainer(images, tmp_path, patch=20)


def test_runs_are_recorded_once_each(images: ImageSet, tmp_path: Path) -> None:
    run = trainer(images, tmp_path)
    run.note_run({"seed": 1})
    run.note_run({"seed": 1})
    run.note_run({"seed": 2})
    assert json.loads(json.dumps(run.state.runs)) == [
        {"from_step": 0, "seed": 1},
        {"from_step": 0, "seed": 2},
    ]
