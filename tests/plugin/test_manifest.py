"""The manifest: found, valid, honored by napari, light, and its commands work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from napari._app_model.constants import MenuId
from npe2 import PluginManager, PluginManifest

from napari_swin2sr.options import DEVICES, PRECISIONS
from napari_swin2sr.plugin import samples
from napari_swin2sr.plugin.settings import Settings, current_settings, own_models

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def manifest():
    return PluginManifest(**yaml.safe_load((ROOT / "napari.yaml").read_text()))


def test_it_is_found_by_the_installed_package_and_valid():
    found = PluginManifest.from_distribution("napari-swin2sr")
    found.validate_imports()
    assert found.display_name == "Swin2SR"


def test_menus_are_those_that_napari_honors(manifest):
    """A wrong id passes `npe2 validate` and is ignored by napari."""
    assert set(manifest.contributions.menus) <= {
        m.value for m in MenuId.contributables()
    }
    commands = {command.id for command in manifest.contributions.commands}
    for items in manifest.contributions.menus.values():
        assert {item.command for item in items} <= commands


def test_there_are_no_icons_and_nothing_that_older_readers_refuse(manifest):
    text = (ROOT / "napari.yaml").read_text()
    for word in (
        "icon",
        "default_dock_area",
        "tabify",
        "schema_version",
        "keybindings",
    ):
        assert word not in text
    for command in manifest.contributions.commands:
        module, name = command.python_name.split(":")
        assert min(map(len, [*module.split("."), name])) >= 2


def test_there_are_three_samples_and_writers_for_both_formats(manifest):
    assert len(manifest.contributions.sample_data) == 3
    suffixes = {
        suffix
        for writer in manifest.contributions.writers
        for suffix in writer.filename_extensions
    }
    assert {".ome.zarr", ".ome.tif"} <= suffixes


def test_the_preferences_offer_what_the_options_allow(manifest):
    pages = {
        name: page.model_dump()["properties"]
        for name, page in manifest.contributions.configurations.items()
    }
    inference, live = pages["inference"], pages["live"]
    assert tuple(inference["device"]["enum"]) == DEVICES
    assert tuple(inference["precision"]["enum"]) == PRECISIONS
    defaults = Settings()
    assert inference["device"]["default"] == defaults.device
    assert inference["precision"]["default"] == defaults.precision
    assert inference["model_folder"]["default"] == defaults.model_folder
    assert live["tile"]["default"] == defaults.live_tile
    assert live["cache_gb"]["default"] == defaults.cache_gb


def test_preferences_are_kept_checked_and_used(
    plugin_settings, npe2pm, manifest, tmp_path
):
    from napari.settings import get_plugin_settings

    npe2pm.register(manifest)
    page = get_plugin_settings("napari-swin2sr")
    page.live.cache_gb = 0.5
    page.inference.device = "cpu"
    with pytest.raises(ValueError, match="abacus"):
        page.inference.device = "abacus"
    (tmp_path / "mine.safetensors").touch()
    page.inference.model_folder = str(tmp_path)
    settings = current_settings()
    assert (settings.device, settings.cache_bytes) == ("cpu", 500_000_000)
    assert [path.name for path in own_models()] == ["mine.safetensors"]


def test_without_a_preferences_page_there_are_defaults(npe2pm, plugin_settings):
    assert current_settings() == Settings()


@pytest.mark.parametrize("make", [samples.cells, samples.tissue, samples.fields])
def test_samples_have_scale_units_license_and_are_the_same_every_time(make, qapp):
    from napari.layers import Layer

    layers = [Layer.create(*data) for data in make()]
    for layer in layers:
        assert str(layer.units[0]) in ("micrometer", "meter")
        assert layer.metadata["license"]
        assert max(layer.data.shape) <= 512
        assert min(layer.scale) > 0.2
        assert layer.data.std() > 10
    for one, two in zip(make(), layers, strict=True):
        np.testing.assert_array_equal(one[0], two.data)


def test_napari_makes_the_widget_from_the_menu(make_napari_viewer):
    viewer = make_napari_viewer(strict_qt="raise")
    if "napari-swin2sr" not in PluginManager.instance():
        pytest.skip("the package is not installed with its manifest")
    _, widget = viewer.window.add_plugin_dock_widget(
        "napari-swin2sr", "Super-resolution"
    )
    assert widget.layers == []


def test_opening_is_quick_and_imports_no_torch_on_the_main_thread():
    """In a fresh interpreter: modules, and what building the widget takes."""
    code = """
import sys, threading, time
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication, QLabel
app = QApplication([])
before = set(sys.modules)
import napari_swin2sr.plugin
light = {m.split('.')[0] for m in set(sys.modules) - before}
assert light <= {'napari_swin2sr'}, light
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ('torch', 'zarr'):
            main = threading.current_thread() is threading.main_thread()
            assert not main, name + ' on the main thread'
sys.meta_path.insert(0, Watch())
from napari_swin2sr.plugin import widget as widget_module
from napari_swin2sr.plugin.widget import SuperResolutionWidget
viewer = ViewerModel()
viewer.add_image(__import__('numpy').zeros((9, 9)))
start = time.process_time()
widget_module.warm_up = lambda: None
widget = SuperResolutionWidget(viewer)
def texts():
    return ' '.join(label.text() for label in widget.findChildren(QLabel))
took = time.process_time() - start
end = time.monotonic() + 30
while 'Gray' not in texts() or 'in view' not in texts():
    assert time.monotonic() < end
    app.processEvents()
assert 'torch' not in sys.modules
print(took)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(result.stdout.split()[-1]) < 0.3
