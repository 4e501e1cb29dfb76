"""Factors that make half-widths hold, and the calibrations that carry them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers.tiny import tiny_folder, trusted_folder
from napari_swin2sr.errors import OptionError, WeightsError
from napari_swin2sr.trust.calibration import (
    FACTORS,
    LEVELS,
    Calibration,
    calibrate_group,
    level_index,
    load_calibration,
    risk_curve,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_risk_curve_counts_the_pixels_beyond_each_factor() -> None:
    rng = np.random.default_rng(0)
    error = rng.normal(0, 1, (3, 40)).astype(np.float32)
    width = rng.uniform(0.1, 2, (3, 40)).astype(np.float32)
    curve = risk_curve(error, width)
    for number in (0, 400, 500, 520, 1000):
        beyond = np.abs(error.astype(float)) > FACTORS[number] * width.astype(float)
        assert curve[number] == pytest.approx(beyond.mean(), abs=0.01)


def curves(n: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Make images whose bars are right up to a factor that differs from one to next."""
    return [
        risk_curve(rng.normal(0, np.exp(rng.normal(0, 0.3)), 2000), np.ones(2000))
        for _ in range(n)
    ]


def test_one_more_image_is_covered_as_promised() -> None:
    """The promise is about the mean over calibrations and further images."""
    rng = np.random.default_rng(1)
    risks = []
    for _ in range(150):
        *known, further = curves(25, rng)
        group = calibrate_group(known, list(map(str, range(24))))
        factor = group.factors[level_index(0.9)]
        risks.append(np.interp(factor, FACTORS, further))
    mean, error = np.mean(risks), np.std(risks) / len(risks) ** 0.5
    assert mean <= 0.1 + 2 * error
    assert mean >= 0.1 - 1 / 24 - 2 * error  # how much the bound may give away


def test_what_so_few_images_can_promise() -> None:
    group = calibrate_group(curves(24, np.random.default_rng(2)), ["one"] * 24)
    assert group.certified == 0.96  # 1 - 1 / 25
    assert (group.images, group.clusters) == (24, 1)
    assert list(group.factors) == sorted(group.factors)
    few = calibrate_group(curves(3, np.random.default_rng(2)), ["a", "b", "c"])
    assert few.certified == 0.75


def test_a_source_with_few_images_counts_as_much_as_one_with_many() -> None:
    easy, hard = (risk_curve(np.linspace(0, top, 999), np.ones(999)) for top in (1, 9))
    many = calibrate_group([easy] * 40 + [hard], ["a"] * 41)
    one_of_two = calibrate_group([easy] * 40 + [hard], ["a"] * 40 + ["b"])
    number = level_index(0.9)
    assert many.factors[number] < 2
    assert one_of_two.factors[number] == pytest.approx(0.8 * 9, rel=0.03)


def test_the_factor_of_a_level_and_a_kind(tmp_path: Path) -> None:
    found = load_calibration(trusted_folder(tmp_path))
    assert found.kinds == ("fluorescence", "natural")
    assert found.factor(0.9) == found.factor(0.9, "fluorescence") == 3.8
    assert found.factor(0.5, "natural") == 1.5
    assert found.factor(0.901, "natural") == found.factor(0.91, "natural")
    assert found.factor(0.99, "natural") == 1.99
    with pytest.raises(OptionError, match=r"kind='text'.*'fluorescence', 'natural'"):
        found.factor(0.9, "text")


@pytest.mark.parametrize("level", [0.49, 0.991, 1, 90, float("nan"), True, "0.9"])
def test_other_levels_are_refused(level: object) -> None:
    with pytest.raises(OptionError, match=r"0\.5 to 0\.99"):
        level_index(level)  # type: ignore[arg-type]


def test_a_model_without_an_error_head(tmp_path: Path) -> None:
    tiny_folder(tmp_path)
    with pytest.raises(WeightsError, match=r"no error head.*calibrate IMAGES"):
        load_calibration(tmp_path)


def test_a_head_without_a_calibration(tmp_path: Path) -> None:
    (trusted_folder(tmp_path) / "trust.json").unlink()
    with pytest.raises(WeightsError, match=r"not calibrated.*calibrate IMAGES"):
        load_calibration(tmp_path)


def test_a_calibration_of_other_weights(tmp_path: Path) -> None:
    trusted_folder(tmp_path, seed=1)
    tiny_folder(tmp_path, seed=2)
    with pytest.raises(WeightsError, match="made for other weights"):
        load_calibration(tmp_path)
    ours = trusted_folder(tmp_path / "ours", seed=1)
    record = trusted_folder(tmp_path / "theirs", seed=2) / "trust.json"
    (ours / "trust.json").write_bytes(record.read_bytes())
    with pytest.raises(WeightsError, match=r"trust\.json.*made for other weights"):
        load_calibration(ours)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r["groups"].clear(), "no groups"),
        (lambda r: r["groups"][0]["factors"].pop(), "not one factor"),
        (lambda r: r["groups"][0]["factors"].reverse(), "do not rise"),
        (lambda r: r["levels"].pop(), "other levels"),
        (lambda r: r["groups"][0].pop("kind"), "kind"),
        (lambda r: r.pop("date"), "date"),
    ],
)
def test_a_damaged_calibration(change: object, text: str, tmp_path: Path) -> None:
    file = trusted_folder(tmp_path) / "trust.json"
    record = json.loads(file.read_text("utf-8"))
    change(record)  # type: ignore[operator]
    file.write_text(json.dumps(record), "utf-8")
    with pytest.raises(WeightsError, match=f"no calibration.*{text}"):
        load_calibration(tmp_path)


def test_a_calibration_is_what_it_was_in_a_file(tmp_path: Path) -> None:
    found = load_calibration(trusted_folder(tmp_path))
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert len(found.groups[0].factors) == len(LEVELS)
