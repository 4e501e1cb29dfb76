"""The demo: real pixels, honest numbers, files that a person can open."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers.browser import browser, requested
from napari_swin2sr.cli import demo
from napari_swin2sr.cli import main as cli

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Run the demo once."""
    return demo.run_demo(tmp_path_factory.mktemp("demo"))


def test_the_input_is_the_means_of_four_pixels(result):
    means = demo.sample().reshape(256, 2, 256, 2, 3).mean((1, 3))
    assert np.abs(tifffile.imread(result.input) - means).max() <= 0.5


def test_scores_are_those_of_the_definition():
    original = demo.sample()[:64, :64]
    other = np.where(np.arange(64)[:, None] % 2, original, original ^ 4).astype(
        np.uint8
    )
    error = np.mean((original.astype(float) - other) ** 2)
    score = demo.compare(other, original)
    assert score.psnr == pytest.approx(10 * np.log10(255**2 / error))
    assert 0 < score.ssim < 1


def test_result_has_the_size_of_the_original_and_is_closer_than_bicubic(result):
    assert tifffile.imread(result.input).shape == (256, 256, 3)
    upscaled = tifffile.imread(result.result)
    assert (upscaled.shape, upscaled.dtype) == ((512, 512, 3), np.uint8)
    assert result.swin2sr.psnr > result.bicubic.psnr + 0.5
    assert result.swin2sr.ssim > result.bicubic.ssim
    assert demo.compare(upscaled, demo.sample()) == result.swin2sr


def test_comparison_shows_four_different_panels(result):
    comparison = np.asarray(Image.open(result.comparison).convert("L"), float)
    panels = np.array_split(comparison[:400], 4, axis=1)
    assert all(panel.std() > 20 for panel in panels)
    for i in range(3):
        assert np.abs(panels[i] - panels[i + 1][:, : panels[i].shape[1]]).mean() > 1


def test_readme_quotes_the_numbers_of_this_run(result):
    rows = re.findall(r"\| (bicubic|Swin2SR) \| ([\d.]+) \|", README.read_text("utf-8"))
    quoted = {name: float(psnr) for name, psnr in rows}
    assert quoted == {
        "bicubic": pytest.approx(result.bicubic.psnr, abs=0.01),
        "Swin2SR": pytest.approx(result.swin2sr.psnr, abs=0.01),
    }


def test_command_prints_scores_and_files(result, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_demo", lambda folder, **options: result)
    assert cli.main(["demo", "somewhere"]) == 0
    out = capsys.readouterr().out
    assert f"{result.swin2sr.psnr:.2f} dB" in out
    assert f"wrote {result.comparison}" in out
    assert cli.main(["demo", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["swin2sr"]["psnr"] == result.swin2sr.psnr


def test_the_page_shows_the_images_and_its_line_can_be_dragged(result, tmp_path):
    text = result.page.read_text("utf-8")
    pictures = json.loads(re.search(r"const images = (\[.*\]);", text)[1])
    assert [re.split(r"\W", p["name"])[0] for p in pictures] == [
        "input",
        "bicubic",
        "Swin2SR",
        "original",
    ]
    shown = base64.b64decode(pictures[2]["source"].partition(",")[2])
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(shown))), tifffile.imread(result.result)
    )
    with browser(tmp_path) as chromium:
        from selenium.webdriver.common.action_chains import ActionChains

        chromium.get(result.page.as_uri())
        frame = chromium.find_element("class name", "frame")
        assert frame.rect["y"] + frame.rect["height"] < 900  # on one screen
        hand = ActionChains(chromium).move_to_element(frame).click_and_hold()
        hand.move_by_offset(frame.size["width"] // 4, 0).release().perform()
        cut = "return getComputedStyle(document.querySelector('.line')).left"
        assert float(chromium.execute_script(cut)[:-2]) == pytest.approx(
            0.75 * frame.size["width"], abs=8
        )
        sides = "return ['left-image', 'right'].map(i => document.getElementById(i)"
        widths = chromium.execute_script(f"{sides}.naturalWidth)")
        assert widths == [256, 512]
        for address in requested(chromium):
            assert address.startswith(("file:", "data:")), address
