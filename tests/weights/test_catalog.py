"""Models by name, folder and file, found without PyTorch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import napari_swin2sr
from helpers.shared import shared_path
from helpers.tiny import tiny_config, tiny_net
from napari_swin2sr.errors import WeightsError
from napari_swin2sr.model import Swin2SRConfig
from napari_swin2sr.model.swin2sr import load_network
from napari_swin2sr.weights import registry
from napari_swin2sr.weights.catalog import list_models, resolve_model

PUBLISHED = {m.name: m for m in list_models()}


def test_names():
    assert list(PUBLISHED) == [
        "default",
        "default-clean",
        "default-x4",
        "lightweight-x2",
        "classical-x2",
        "classical-x4",
        "realworld-x4",
        "compressed-x4",
        "jpeg-dynamic",
    ]


@pytest.mark.parametrize(
    ("name", "upscale", "window", "channels", "million"),
    [
        ("default", 2, 8, 3, 0.256),
        ("default-clean", 2, 8, 3, 0.256),
        ("default-x4", 4, 8, 3, 0.2717),
        ("lightweight-x2", 2, 8, 3, 1.005),
        ("classical-x2", 2, 8, 3, 12.09),
        ("classical-x4", 4, 8, 3, 12.24),
        ("realworld-x4", 4, 8, 3, 12.06),
        ("compressed-x4", 4, 8, 3, 12.25),
        ("jpeg-dynamic", 1, 7, 1, 11.84),
    ],
)
def test_facts(name, upscale, window, channels, million):
    info = PUBLISHED[name]
    facts = (info.upscale, info.window_size, info.num_channels)
    assert facts == (upscale, window, channels)
    assert info.n_parameters == pytest.approx(million * 1e6, rel=2e-3)
    assert info.config is not None
    assert info.purpose
    if info.n_bytes:  # the numbers, and a list of their names
        assert 0 < info.n_bytes - 4 * info.n_parameters < 300_000
    if info.source != "embedded":
        assert info.license == "Apache-2.0"
        assert info.revision == "v0.0.1" or len(info.revision) == 40


def test_only_the_file_without_a_published_hash_has_none():
    without = [info.name for info in PUBLISHED.values() if info.sha256 is None]
    assert without == ["jpeg-dynamic"]
    assert all(len(i.sha256) == 64 for i in PUBLISHED.values() if i.sha256)


def test_infos_can_be_written_as_json():
    text = json.dumps([dataclasses.asdict(info) for info in PUBLISHED.values()])
    assert '"compressed-x4"' in text


@pytest.mark.parametrize("name", ["default", "default-clean", "default-x4"])
def test_embedded(name):
    found = resolve_model(name)
    content = found.path.read_bytes()
    assert found.path.is_relative_to(Path(napari_swin2sr.__file__).parent)
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    info = PUBLISHED[name]
    assert info.downloaded
    assert (info.sha256, info.n_bytes) == (found.sha256, len(content))
    assert Swin2SRConfig.from_pretrained(found.path.parent) == found.config
    net = load_network(found.path, found.config, sha256=found.sha256)
    assert sum(p.numel() for p in net.parameters()) == info.n_parameters
    card = found.path.with_name("README.md").read_text(encoding="utf-8")
    assert f"{info.n_parameters:,}" in card


def test_damaged_default_is_noticed(tmp_path, monkeypatch):
    damaged = bytearray(resolve_model("default").path.read_bytes())
    damaged[-100] ^= 1
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "model.safetensors").write_bytes(damaged)
    monkeypatch.setattr(registry, "_EMBEDDED", tmp_path)
    with pytest.raises(WeightsError, match="damaged or was replaced"):
        resolve_model("default")


def test_configuration_of_the_published_file_is_the_known_one():
    folder = shared_path("weights", "swin2sr-lightweight-x2-64")
    found = resolve_model(folder)
    info = PUBLISHED["lightweight-x2"]
    assert found.config == info.config
    assert found.sha256 == info.sha256
    assert found.path.stat().st_size == info.n_bytes


@pytest.fixture
def folder(tmp_path):
    net = tiny_net()
    safetensors.torch.save_file(net.state_dict(), tmp_path / "model.safetensors")
    net.config.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("give", [str, Path, os.path.relpath])
def test_folders_and_files(give, folder):
    for path in (folder, folder / "model.safetensors"):
        found = resolve_model(give(path))
        assert found.path == folder / "model.safetensors"
        assert found.name == str(path)  # absolute: the working folder may change
        assert found.config == tiny_config()
        content = found.path.read_bytes()
        assert found.sha256 == hashlib.sha256(content).hexdigest()


def test_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert resolve_model(f"~/{folder.name}").config == tiny_config()


def test_configuration_as_far_as_it_is_stated(tmp_path):
    net = tiny_net()
    metadata = {"config": json.dumps(net.config.to_dict())}
    safetensors.torch.save_file(net.state_dict(), tmp_path / "a", metadata)
    assert resolve_model(tmp_path / "a").config == net.config
    # Without it, the window of these is unknown, and reading them will warn.
    safetensors.torch.save_file(net.state_dict(), tmp_path / "b")
    assert resolve_model(tmp_path / "b").config is None
    torch.save(net.state_dict(), tmp_path / "c.pth")
    assert resolve_model(tmp_path / "c.pth").config is None


def test_metadata_that_is_no_configuration(tmp_path):
    for text in ("{", "[1]", '{"embed_dim": -1}', '{"embed_dim": "wide"}'):
        file = tmp_path / "a.safetensors"
        safetensors.torch.save_file(tiny_net().state_dict(), file, {"config": text})
        with pytest.raises(WeightsError, match="no valid configuration"):
            resolve_model(file)


@pytest.mark.parametrize(
    "name", ["defualt", "no-such-model", "weights/mine.pth", "", "a/b/c", "x\0y"]
)
def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(WeightsError) as caught:
        resolve_model(name)
    if name == "defualt":
        assert "Did you mean 'default'?" in str(caught.value)
    if name == "no-such-model":
        assert all(known in str(caught.value) for known in PUBLISHED)


def test_a_folder_called_like_a_model_needs_its_path(folder, monkeypatch):
    folder.joinpath("default").mkdir()
    monkeypatch.chdir(folder)
    assert resolve_model("default").config == PUBLISHED["default"].config
    with pytest.raises(WeightsError, match="the folder holds no weights"):
        resolve_model("./default")


def test_finding_models_imports_no_torch():
    code = (
        "import sys\n"
        "from napari_swin2sr.weights.catalog import list_models, resolve_model\n"
        "list_models(); resolve_model('default'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
