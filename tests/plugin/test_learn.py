"""The tab that learns: a real training, and every way in which one can end."""

from __future__ import annotations

import json
import sys
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import torch
from qtpy.QtCore import Qt

from helpers.tiny import tiny_config
from helpers.training_images import texture
from napari_swin2sr.model.swin2sr import load_network, save_network
from napari_swin2sr.plugin import learn
from napari_swin2sr.plugin.layer_source import layer_source, spatial_image
from napari_swin2sr.plugin.learn import LearnTab, write_examples
from napari_swin2sr.plugin.placement import METADATA_KEY
from napari_swin2sr.training.start import bicubic_network

GAIN = {"event": "gain", "mean": 0.5, "low": 0.4, "high": 0.6, "units": 3}
GAIN |= {"over": "held-out images", "better": True, "message": ""}
STEP = {"event": "validation", "step": 25, "seconds": 3.0, "loss": 0.01}
STEP |= {"validation": {"images": 2.0}}


class Never:
    def is_set(self):
        return False


@pytest.fixture
def models(tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setattr(learn, "models_folder", lambda: folder)
    monkeypatch.setattr(
        learn,
        "own_models",
        lambda: sorted(folder.iterdir()) if folder.is_dir() else [],
    )
    return folder


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=False, strict_qt="raise")


@pytest.fixture
def open_tab(viewer, models):
    def make():
        tab = LearnTab(viewer)
        viewer.window.add_dock_widget(tab, name="Fine-tune")
        return tab

    return make


@pytest.fixture
def process(monkeypatch):
    """Give a function: this Python code is what trains."""

    def use(code):
        start = "import json, sys, pathlib\nout = pathlib.Path(sys.argv[4])\n"
        start += "tell = lambda r: print(json.dumps(r), flush=True)\n"
        command = (sys.executable, "-c", start + code)
        monkeypatch.setattr(learn, "COMMAND", command)

    return use


def add_textures(viewer, count=3, side=128):
    for number in range(count):
        plane = (texture(number, side=side)[..., 0] * 3000).astype(np.uint16)
        viewer.add_image(plane, name=f"field {number}")


WRITE = f"""
out.mkdir()
for name in {learn.FILES!r}:
    (out / name).write_text(name)
"""


def test_a_model_is_learned_from_layers(
    viewer, open_tab, models, wait_until, responsive, monkeypatch
):
    """The whole way, with a start that is easily beaten."""
    torch.manual_seed(0)
    start = bicubic_network(tiny_config(embed_dim=28, depths=(1,), num_heads=(2,)))
    with torch.no_grad():
        start.upsample.conv.weight.mul_(0.7)
    save_network(start, models / "weak")
    add_textures(viewer, 4)
    tab = open_tab()
    tab.start_model.setCurrentText("weak")
    tab.inputs.setCurrentIndex(0)
    tab.minutes.setValue(0.1)
    learned: list[Any] = []
    tab.learned.connect(learned.append)
    with responsive():
        tab.button.click()
        wait_until(lambda: not tab.running, timeout=120)
    assert tab.status.text().startswith("+"), tab.status.text()
    assert "my-model is in the list of models" in tab.status.text()
    assert learned == [str(models / "my-model")]
    assert tab.start_model.findText("my-model") >= 0
    assert load_network(models / "my-model").config.upscale == 2
    record = json.loads((models / "my-model" / "training.json").read_text())
    assert record["gain"]["better"]
    assert len(tab.curve.points) >= 2
    assert not tab.preview.pixmap().isNull()


def test_what_is_not_better_is_said_and_not_kept(
    viewer, open_tab, models, process, wait_until
):
    process(
        f"tell({STEP})\ntell({GAIN | {'better': False}})\n{WRITE}".replace(
            "true", "True"
        )
    )
    add_textures(viewer)
    tab = open_tab()
    tab.button.click()
    wait_until(lambda: not tab.running)
    assert tab.status.text() == (
        "Not better than default: keep default "
        "(+0.50 dB (+0.40 to +0.60) on 3 held-out images)."
    )
    assert not models.exists()
    assert tab.button.text() == "Start"


def test_stopping_keeps_the_best(viewer, open_tab, models, process, wait_until):
    process(f"tell({STEP})\nsys.stdin.read()\ntell({GAIN})\n{WRITE}")
    add_textures(viewer)
    tab = open_tab()
    tab.button.click()
    wait_until(lambda: "Step 25: loss 0.0100" in tab.status.text())
    assert tab.button.text() == "Stop and keep the best"
    assert not tab.minutes.isEnabled()
    tab.button.click()
    wait_until(lambda: not tab.running)
    assert tab.status.text().startswith("+0.50 dB (+0.40 to +0.60) on 3 held-out")
    assert {path.name for path in (models / "my-model").iterdir()} == {*learn.FILES}
    assert tab.minutes.isEnabled()

    tab.button.click()
    wait_until(lambda: "Step 25" in tab.status.text())
    tab.button.click()
    wait_until(lambda: not tab.running)
    assert (models / "my-model [2]").is_dir(), "nothing is replaced"


def test_what_went_wrong_is_said_in_one_sentence(viewer, open_tab, process, wait_until):
    process(
        "print('napari-swin2sr: error: too few usable images', file=sys.stderr)\n"
        "sys.exit(1)"
    )
    add_textures(viewer)
    tab = open_tab()
    tab.button.click()
    wait_until(lambda: not tab.running)
    assert tab.status.text() == "too few usable images"


def test_too_small_images_are_refused_by_the_real_command(viewer, open_tab, wait_until):
    add_textures(viewer, 2, side=32)
    tab = open_tab()
    tab.button.click()
    wait_until(lambda: not tab.running, timeout=60)
    assert "too few usable training images" in tab.status.text()
    assert "/" not in tab.status.text().split("too few")[0]


def test_a_program_that_cannot_be_started_is_named(
    viewer, open_tab, monkeypatch, wait_until
):
    monkeypatch.setattr(learn, "COMMAND", ("no-such-python",))
    add_textures(viewer)
    tab = open_tab()
    tab.button.click()
    wait_until(lambda: not tab.running)
    assert "no-such-python cannot be started" in tab.status.text()


def test_closing_the_tab_ends_its_training(
    viewer, open_tab, models, process, wait_until
):
    process(f"tell({STEP})\nsys.stdin.read()\ntell({GAIN})\n{WRITE}")
    add_textures(viewer)
    tab = open_tab()
    tab.button.click()
    wait_until(lambda: "Step 25" in tab.status.text())
    assert learn._RUNNING
    viewer.window.remove_dock_widget(tab)
    tab.deleteLater()
    wait_until(lambda: not learn._RUNNING)
    assert (models / "my-model").is_dir(), "the best is kept"
    viewer.add_image(np.zeros((8, 8)))  # nobody listens any more


def test_layers_are_offered_and_results_are_not(viewer, open_tab):
    tab = open_tab()
    assert tab.status.text() == "Open an image to learn from."
    assert not tab.button.isEnabled()
    add_textures(viewer, 2)
    viewer.add_image(np.zeros((9, 9)), name="made", metadata={METADATA_KEY: {}})
    viewer.add_labels(np.zeros((9, 9), int))
    assert [layer.name for layer in tab.chosen()] == ["field 0", "field 1"]
    tab.layers.item(0).setCheckState(Qt.CheckState.Unchecked)
    viewer.add_image(np.zeros((9, 9)), name="more")
    assert [layer.name for layer in tab.chosen()] == ["field 1", "more"]
    assert tab.button.isEnabled()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_that_is_none_is_refused(viewer, open_tab, name):
    add_textures(viewer)
    tab = open_tab()
    tab.name.setText(name)
    tab.button.click()
    assert "is no name for a model" in tab.status.text()
    assert not tab.running


def test_examples_are_a_bounded_part_that_is_read_only_there(viewer, tmp_path):
    seen = []

    def note(block):
        seen.append(block.size)
        return block

    data = da.zeros((40, 6000, 6000), np.uint8, chunks=(1, 1000, 1000))
    layer = viewer.add_image(
        data.map_blocks(note, meta=np.empty((0, 0, 0), np.uint8)),
        visible=False,
        contrast_limits=(0, 1),
        multiscale=False,
    )
    image = spatial_image(layer, layer_source(layer))
    seen.clear()
    write_examples([(layer.name, image)], tmp_path, Never())
    with tifffile.TiffFile(tmp_path / "0000.ome.tif") as file:
        assert file.series[0].axes == "ZYX"
        assert file.series[0].shape == (8, 2048, 2048)
    assert sum(seen) <= 8 * 16 * 1000**2


@pytest.mark.parametrize("axes", ["YXS", "CYX"])
def test_examples_of_colors_and_channels_are_what_they_were(viewer, tmp_path, axes):
    rgb = axes == "YXS"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    pixels = pixels if rgb else pixels.transpose(2, 0, 1)
    keywords = {} if rgb else {"axis_labels": ("c", "y", "x")}
    layer = viewer.add_image(pixels, rgb=rgb, **keywords)
    image = spatial_image(layer, layer_source(layer))
    write_examples([(layer.name, image)], tmp_path, Never())
    from napari_swin2sr.formats import open_image

    again = open_image(tmp_path / "0000.ome.tif")
    assert again.axes == axes
    np.testing.assert_array_equal(np.asarray(again.data[:]), pixels)
