"""Measuring: pairs are found, published numbers come out, mistakes are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from helpers.shared import shared_path
from helpers.tiny import tiny_folder
from helpers.training_images import image_folder, texture
from napari_swin2sr.errors import InputError, OptionError, OutputError
from napari_swin2sr.training.degrade import downscale_levels
from napari_swin2sr.training.evaluate import (
    cases,
    enlarge,
    evaluate,
    find_pairs,
    summary,
    write_sheet,
)

if TYPE_CHECKING:
    from pathlib import Path


def benchmark(folder: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    """HR and LR_bicubic/X2 folders."""
    (folder / "HR").mkdir(parents=True)
    (folder / "LR_bicubic" / "X2").mkdir(parents=True)
    for number, name in enumerate(names):
        levels = (texture(number, 3, 48) * 255).astype(np.uint8)
        small = downscale_levels(np.moveaxis(levels, -1, 0), 2)
        Image.fromarray(levels).save(folder / "HR" / f"{name}.png")
        Image.fromarray(np.ascontiguousarray(np.moveaxis(small, 0, -1))).save(
            folder / "LR_bicubic" / "X2" / f"{name}x2.png"
        )
    return folder


def test_pairs_are_the_same_as_making_the_small_side_here(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "set")
    paired = list(cases([folder], 2, None))
    made = list(cases([folder / "HR"], 2, None))
    assert [case.name for case in paired] == ["a.png", "b.png"]
    for one, other in zip(paired, made, strict=True):
        np.testing.assert_array_equal(one.lowres, other.lowres)
        np.testing.assert_array_equal(one.target, other.target)


def test_missing_and_misfitting_partners_are_named(tmp_path: Path) -> None:
    folder = benchmark(tmp_path / "set")
    (folder / "LR_bicubic" / "X2" / "bx2.png").rename(folder / "other.png")
    with pytest.raises(InputError, match=r"b\.png: no image of that name"):
        find_pairs(folder, 2)
    Image.fromarray(
        np.zeros((30, 24, 3), np.uint8) + np.arange(3, dtype=np.uint8)
    ).save(folder / "LR_bicubic" / "X2" / "bx2.png")
    with pytest.raises(InputError, match="24 x 30 pixels do not belong to"):
        list(cases([folder], 2, None))


def test_scores_of_an_interpolation_need_no_model_of_their_own(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    folder = image_folder(tmp_path / "images")
    scores = evaluate(["bicubic", str(model)], [folder], keep_crops=True)
    assert len(scores) == 16
    means = {(m["kind"], m["method"]): m for m in summary(scores)}
    assert means["gray", "bicubic"]["measure"] == "linear"
    assert means["color", "model"]["measure"] == "y"
    assert means["gray", "bicubic"]["psnr"] > means["gray", "model"]["psnr"]
    assert all(0.99 < s.intensity < 1.01 for s in scores if s.method == "bicubic")
    with pytest.raises(OutputError, match="cannot write the contact sheet"):
        write_sheet(tmp_path / "sheet.unknown", scores)


def test_nothing_to_measure_or_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="models of one factor"):
        evaluate(["bicubic"], [tmp_path])
    with pytest.raises(InputError, match="made to keep crops"):
        write_sheet(tmp_path / "sheet.png", [])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"crop": 0}, "crop=0 is not a positive"),
        ({"border": -1}, "border=-1 is not"),
        ({"noise": (0.0, 0.0)}, "noise=0,0 is not PHOTONS,SIGMA"),
        ({"noise": (150.0, float("nan"))}, "noise=150,nan is not"),
    ],
)
def test_impossible_measurements_are_refused(
    tmp_path: Path, options: dict, text: str
) -> None:
    with pytest.raises(OptionError, match=text):
        evaluate(["bicubic"], [tmp_path], upscale=2, **options)


@pytest.mark.parametrize("options", [{"border": 60}, {"crop": 12}])
def test_an_image_of_which_nothing_is_left_is_named(
    tmp_path: Path, options: dict
) -> None:
    folder = image_folder(tmp_path / "images")
    with pytest.raises(InputError, match=r"c0\.png: .* too few to measure.* 11 x 11"):
        evaluate(["bicubic"], [folder], upscale=2, **options)


@pytest.mark.parametrize("method", ["nearest", "bicubic", "lanczos"])
def test_interpolations_keep_a_constant(method: str) -> None:
    flat = np.full((1, 12, 16), 0.3, np.float32)
    result = enlarge(flat, method, 2)
    assert result.shape == (1, 24, 32)
    np.testing.assert_allclose(result, 0.3, atol=1e-6)


@pytest.mark.slow
def test_published_numbers_of_the_official_model() -> None:
    """Set5 x2 in the paper: 38.17 dB and 0.9613 on Y."""
    model = shared_path("weights", "swin2sr-lightweight-x2-64")
    images = shared_path("testsets", "Set5")
    (mean,) = summary(evaluate([str(model)], [images], measure="y"))
    assert mean["images"] == 5
    assert mean["psnr"] == pytest.approx(38.17, abs=0.01)
    assert mean["ssim"] == pytest.approx(0.9613, abs=0.0001)
