"""`napari-swin2sr train` and `evaluate` as a person runs them."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.tiny import tiny_folder
from helpers.training_images import image_folder
from napari_swin2sr.cli.main import build_parser, main
from napari_swin2sr.cli.train import chosen_options
from napari_swin2sr.training import run
from napari_swin2sr.training.options import TrainOptions

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ["--batch", "2", "--patch", "16", "--validate-every", "2", "--threads", "1"]


def train(folder: Path, output: Path, *more: str) -> int:
    return main(["train", str(folder), "-o", str(output), *QUICK, *more])


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ([], {}),
        (["--steps", "5"], {"steps": 5, "minutes": None}),
        (["--steps", "5", "--minutes", "10"], {"steps": 5, "minutes": 10.0}),
        (["--from", "default"], {"start": "default"}),
        (["--downscale", "area=2,psf=2"], {"downscale": {"area": 0.5, "psf": 0.5}}),
    ],
)
def test_the_command_line_has_the_options_and_their_defaults(
    flags: list[str], changed: dict
) -> None:
    args = build_parser().parse_args(["train", "images", "-o", "out", *flags])
    assert chosen_options(args) == TrainOptions(**changed)


def test_every_training_option_is_a_flag_with_its_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = "".join(capsys.readouterr().out.split())  # lines break at hyphens, too
    for field in dataclasses.fields(TrainOptions):
        name = {"start": "from"}.get(field.name, field.name)
        assert "--" + name.replace("_", "-") in text
        assert "".join(field.metadata["help"].split(":")[0].split()) in text
    assert "[bicubic=0.5,area=0.25,psf=0.25]" in text


def test_a_trained_folder_loads_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers", reason="not installed")
    import napari_swin2sr

    geometry = ["--embed-dim", "28", "--depths", "1,1", "--heads", "2,2"]
    folder, output = image_folder(tmp_path / "images"), tmp_path / "mine"
    assert train(folder, output, "--steps", "3", "--json", *geometry) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["step"] for r in records if r["event"] == "validation"] == [0, 2, 3]
    assert records[-1] == {"event": "result", "output": str(output)}

    image = np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)
    ours = napari_swin2sr.apply(
        image, output, axes="YXS", value_range=(0, 1), halo="exact"
    ).compute()
    assert ours.shape == (48, 64, 3)
    theirs, loading = transformers.Swin2SRForImageSuperResolution.from_pretrained(
        output, output_loading_info=True
    )
    assert not any(loading[k] for k in ("missing_keys", "unexpected_keys"))
    padded = np.pad(image, ((0, 8), (0, 8), (0, 0)), mode="symmetric")
    with torch.inference_mode():
        pixels = torch.from_numpy(padded.transpose(2, 0, 1)[None].copy())
        expected = theirs(pixels).reconstruction[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(ours, expected[:48, :64], atol=2e-6)

    card = (output / "README.md").read_text()
    for words in (
        "Do not measure",
        "| color |",
        "bicubic",
        "`steps=3`",
        "| gray, noisy",
    ):
        assert words in card
    assert str(tmp_path) not in card + (output / "training.json").read_text()


def test_the_same_command_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = image_folder(tmp_path / "images"), tmp_path / "mine"
    start = tiny_folder(tmp_path / "start")
    options = ["--from", str(start), "--steps", "2"]
    assert train(folder, output, *options) == 0
    before = load_file(output / "model.safetensors")
    assert train(folder, output, *options[:-1], "4") == 0
    err = capsys.readouterr().err
    assert "continuing at step 2" in err
    assert "dB over bicubic: color" in err
    after = load_file(output / "model.safetensors")
    assert any(not torch.equal(before[k], after[k]) for k in before)
    record = json.loads((output / "training.json").read_text())
    assert [run["from_step"] for run in record["runs"]] == [0, 2]
    assert train(folder, output, *options, "--fresh", "--quiet") == 0
    again = load_file(output / "model.safetensors")
    assert all(torch.equal(before[k], again[k]) for k in before)


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "training.json", "model.safetensors"]
)
def test_files_that_training_did_not_write_are_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder, output = image_folder(tmp_path / "images"), tmp_path / "project"
    output.mkdir()
    for text in ("mine", "{}"):
        (output / name).write_text(text)
        assert train(folder, output, "--steps", "1", "--fresh") == 1
        assert f"holds {name}, which training did not write" in capsys.readouterr().err
        assert [(p.name, p.read_text()) for p in output.iterdir()] == [(name, text)]


def test_a_model_card_that_was_edited_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = image_folder(tmp_path / "images"), tmp_path / "mine"
    options = ["--from", str(tiny_folder(tmp_path / "start")), "--steps", "1"]
    assert train(folder, output, *options) == 0
    assert train(folder, output, *options, "--fresh") == 0  # its own files
    card = output / "README.md"
    card.write_text(card.read_text() + "my notes")
    assert train(folder, output, *options, "--fresh") == 1
    assert "README.md, which training did not write or" in capsys.readouterr().err
    assert card.read_text().endswith("my notes")


@pytest.mark.parametrize("at", [1, 2, 3])
def test_training_killed_while_it_writes_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    folder, output = image_folder(tmp_path / "images"), tmp_path / "mine"
    options = ["--from", str(tiny_folder(tmp_path / "start")), "--steps", "1"]
    original, calls = run.rename_over, []

    def killed(own: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == at:
            raise RuntimeError("killed")
        original(own, target)

    for steps in ("1", "2"):  # with nothing there, then with half of the first run's
        with monkeypatch.context() as patch:
            patch.setattr(run, "rename_over", killed)
            assert train(folder, output, *options[:-1], steps) != 0
        assert len(calls) == at
        calls.clear()
    assert train(folder, output, *options[:-1], "3") == 0
    run.check_output(output)


def test_a_state_of_unknown_origin_is_kept(tmp_path: Path) -> None:
    folder, output = image_folder(tmp_path / "images"), tmp_path / "mine"
    (output / "training").mkdir(parents=True)
    for name in ("state.pt", "state.part"):
        (output / "training" / name).write_text("mine")
    options = ["--from", str(tiny_folder(tmp_path / "start")), "--steps", "1"]
    assert train(folder, output, *options, "--fresh") == 0
    for name in ("state.pt.old-1", "state.part"):
        assert (output / "training" / name).read_text() == "mine"
    assert train(folder, output, *options, "--fresh") == 0
    assert not (output / "training" / "state.pt.old-2").exists()


def test_a_teacher_is_used_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = image_folder(tmp_path / "images"), tmp_path / "mine"
    start = tiny_folder(tmp_path / "start")
    teacher = ["--teacher", str(start), "--teacher-crops", "2"]
    code = train(folder, output, "--from", str(start), "--steps", "2", *teacher)
    assert code == 0
    assert (output / "training" / "teacher-2-0.npz").exists()
    assert "teacher=start" in (output / "README.md").read_text()
    capsys.readouterr()


def test_crops_of_another_teacher_are_not_taken_for_this_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = image_folder(tmp_path / "images"), tmp_path / "mine"
    start = tiny_folder(tmp_path / "start")
    pool = output / "training" / "teacher-2-0.npz"
    command = ["--from", str(start), "--steps", "1", "--teacher-crops", "2", "--fresh"]
    assert train(folder, output, *command, "--teacher", str(start)) == 0
    first = pool.read_bytes()
    assert train(folder, output, *command, "--teacher", str(start)) == 0
    assert pool.read_bytes() == first
    capsys.readouterr()
    assert train(folder, output, *command, "--teacher", "default") == 0
    assert "teacher-2-0.npz: is damaged or holds crops of" in capsys.readouterr().err
    second = pool.read_bytes()
    assert second != first
    pool.write_bytes(second[:100])
    assert train(folder, output, *command, "--teacher", "default") == 0
    assert np.load(pool)["lowres"].shape == (2, 3, 48, 48)


def test_a_model_folder_that_cannot_be_made_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "model"):
        assert train(tmp_path, output, "--steps", "1") == 1
        assert f"since {tmp_path / 'file'} is no folder" in capsys.readouterr().err


def test_a_teacher_of_another_factor_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder(tmp_path / "images")
    teacher = tiny_folder(tmp_path / "four", upscale=4)
    code = train(folder, tmp_path / "out", "--steps", "1", "--teacher", str(teacher))
    assert code == 1
    assert "RGB model with upscale 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        (["--downscale", "cubic=1"], 2, "downscale names 'cubic'"),
        (["--noise", "2"], 2, "--noise 2.0 is not a share"),
        (["--validation", "1"], 2, "--validation 1.0 is not"),
        (["--teacher-crops", "0"], 2, "--teacher-crops 0 is not"),
        (["--device", "abacus"], 2, "--device abacus cannot be used"),
        (["--embed-dim", "20", "--heads", "2,2"], 2, "embed_dim >= 27"),
        (["--depths", "4,4,4"], 2, "--depths 4,4,4 and --heads 3,3 differ in length"),
        (["--from", "nowhere"], 1, "nowhere"),
        ([], 1, "no images in this folder"),
    ],
)
def test_wrong_training_commands_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    code: int,
    text: str,
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert train(folder, tmp_path / "out", "--steps", "1", *more) == code
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ("--mix", "a"),
        ("--mix", "a=0"),
        ("--photons", "5"),
        ("--depths", "four"),
        ("--downscale", "bicubic=-1,area=2"),
    ],
)
def test_unreadable_options_are_usage_errors(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "images", "-o", "out", *option])
    assert option[1] in capsys.readouterr().err


def test_evaluate_prints_scores_and_draws_a_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, folder = tiny_folder(tmp_path / "model"), image_folder(tmp_path / "images")
    sheet = tmp_path / "sheet.png"
    command = ["evaluate", str(model), str(folder)]
    assert main([*command, "--against", "nearest,lanczos", "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "c0.png" in out
    assert "color (4, Y, 8 bits)  nearest" in out
    assert "gray (4, linear)  lanczos" in out
    with Image.open(sheet) as picture:
        assert picture.size[0] == 4 * (96 * 2 + 4)
    assert main([*command, "--json", "--noise", "150,0.01", "--crop", "64"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == 17
    assert records[-1]["means"][0]["measure"] == "linear"
