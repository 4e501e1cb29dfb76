"""Weights in every published form, in and out, with transformers as the witness."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from helpers.golden import (
    TOLERANCE,
    VARIANTS,
    make_config,
    original_shapes,
    original_weights,
    read_cases,
    rename,
)
from helpers.official import official, write
from helpers.shared import shared_path
from helpers.tiny import tiny_config, tiny_net
from napari_swin2sr.errors import WeightsError
from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution
from napari_swin2sr.model.swin2sr import load_network, save_network
from napari_swin2sr.weights.checkpoint import read_weights
from napari_swin2sr.weights.state_dict import (
    count_parameters,
    hub_names,
    hub_shapes,
)

NO_3CONV = [v for v in VARIANTS if v not in ("real_x4_large", "light_3conv")]
"""What transformers has a place for."""


# -- the table of names --------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_has_every_original_name_and_shape(variant):
    theirs = original_shapes(variant)
    translated: dict[str, Any] = {}
    for name, hub in hub_names(theirs).items():
        rows, *rest = theirs[name]
        translated |= dict.fromkeys(hub, (rows // len(hub), *rest))
    assert translated == hub_shapes(make_config(variant))
    assert sum(len(hub) for hub in hub_names(theirs).values()) == len(translated)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_has_every_name_and_shape_of_the_network(variant):
    net = Swin2SRForImageSuperResolution(make_config(variant))
    assert hub_shapes(net.config) == {
        k: tuple(v.shape) for k, v in net.state_dict().items()
    }


def test_without_bias_the_table_follows():
    config = tiny_config(qkv_bias=False)
    net = Swin2SRForImageSuperResolution(config)
    assert set(hub_shapes(config)) == set(net.state_dict())


def test_parameters_of_published_models():
    light = Swin2SRConfig(
        embed_dim=60,
        depths=(6,) * 4,
        num_heads=(6,) * 4,
        upsampler="pixelshuffledirect",
    )
    assert count_parameters(light) == 1_005_348
    assert len(hub_shapes(light)) == 484  # 436 in the authors' file, 24 of them fused


# -- official files ------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_file_gives_the_outputs_of_the_authors(variant, tmp_path):
    path = write(tmp_path / "official.pth", official(variant))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = load_network(path)
    config = make_config(variant)
    assert dataclasses.replace(net.config, image_size=64) == config
    case = read_cases(variant)[0]
    window, u = config.window_size, config.upscale
    far = [(0, (n // window + 1) * window - n) for n in case.x.shape[-2:]]
    x = torch.from_numpy(np.pad(case.x, [(0, 0), *far], mode="symmetric"))[None]
    with torch.no_grad():
        y = net(x).reconstruction[0].numpy()
    y = y[:, : u * case.x.shape[-2], : u * case.x.shape[-1]]
    np.testing.assert_allclose(y, case.y, rtol=0, atol=TOLERANCE * abs(case.y).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_rows_are_split_as_the_reference_is(variant, tmp_path):
    state, config, metadata = read_weights(write(tmp_path / "a.pth", official(variant)))
    expected = rename(original_weights(variant), config)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert metadata == {}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"params": s},
        lambda s: {"params_ema": s},
        lambda s: {"state_dict": s, "epoch": 7},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"params": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"params": {k: 0 * v for k, v in s.items()}, "params_ema": s},
        lambda s: {
            k: torch.nn.Parameter(v, v.is_floating_point()) for k, v in s.items()
        },
    ],
    ids=[
        "bare",
        "params",
        "ema",
        "state_dict",
        "module",
        "params+module",
        "both",
        "parameters",
    ],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_every_wrapper(wrap, legacy, tmp_path):
    state = official("light_x2")
    path = write(
        tmp_path / "a.pth",
        wrap(state),
        _use_new_zipfile_serialization=not legacy,
    )
    found = read_weights(path)[0]
    first = "swin2sr.first_convolution.weight"
    assert torch.equal(found[first], state["conv_first.weight"])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_content_decides_not_the_suffix(suffix, kind, tmp_path):
    path, state = tmp_path / f"a{suffix}", official("light_x2")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        write(path, state, _use_new_zipfile_serialization=kind == "zip")
    assert read_weights(path)[1].embed_dim == 24


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, tmp_path):
    state = {k: v.to(dtype) for k, v in original_weights("light_x2").items()}
    path = write(tmp_path / "a.pth", state)
    found = read_weights(path, make_config("light_x2"))[0]
    name = "conv_first.weight"
    assert {v.dtype for v in found.values()} == {torch.float32}
    assert torch.equal(
        found["swin2sr.first_convolution.weight"], state[name].to(torch.float32)
    )


def test_channels_last_and_shared_storage_load(tmp_path):
    whole = torch.zeros(2, 24, 3, 3, 3)
    state = official("light_x2")
    whole[1] = state["conv_first.weight"]
    state["conv_first.weight"] = whole[1]
    state["conv_after_body.weight"] = state["conv_after_body.weight"].to(
        memory_format=torch.channels_last
    )
    found = read_weights(write(tmp_path / "a.pth", state))[0]
    assert torch.equal(found["swin2sr.first_convolution.weight"], whole[1])
    assert found["swin2sr.conv_after_body.weight"].is_contiguous()


# -- in and out ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_we_save_we_read(variant, tmp_path):
    net = Swin2SRForImageSuperResolution(make_config(variant))
    assert save_network(net, tmp_path / "new" / "folder") == tmp_path / "new/folder"
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((folder / "model.safetensors").read_bytes())
    for path in (folder, folder / "model.safetensors", alone):
        again = load_network(path)
        assert again.config == net.config
        assert not again.training
        ours = net.state_dict()
        assert all(torch.equal(v, ours[k]) for k, v in again.state_dict().items())


def test_metadata_travels(tmp_path):
    save_network(tiny_net(), tmp_path, {"trained_on": "stars", "config": "mine"})
    metadata = read_weights(tmp_path)[2]
    assert metadata["trained_on"] == "stars"
    assert metadata["format"] == "pt"
    assert json.loads(metadata["config"])["embed_dim"] == 12


@pytest.mark.parametrize("variant", NO_3CONV)
def test_transformers_reads_strictly_what_we_save(variant, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_network(Swin2SRForImageSuperResolution(make_config(variant)), tmp_path)
    theirs, info = transformers.Swin2SRForImageSuperResolution.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values())
    ours = load_network(tmp_path).state_dict()
    found = theirs.state_dict()
    assert ours.keys() == found.keys()
    assert all(torch.equal(ours[k], found[k]) for k in ours)


@pytest.mark.parametrize("variant", NO_3CONV)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_we_read_strictly_what_transformers_saves(variant, form, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = make_config(variant)
    theirs = transformers.Swin2SRForImageSuperResolution(
        transformers.Swin2SRConfig(**config.to_dict())
    )
    theirs.save_pretrained(tmp_path)
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        write(tmp_path / "pytorch_model.bin", theirs.state_dict())
    ours = load_network(tmp_path)
    assert ours.config == config
    found = theirs.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in ours.state_dict().items())


def test_published_lightweight_weights_load():
    folder = shared_path("weights", "swin2sr-lightweight-x2-64")
    net = load_network(
        folder,
        sha256="9784753b51c4b93b87d53088b862c1961b04eaa69460463bed170d5c444b3d0b",
    )
    assert sum(p.numel() for p in net.parameters()) == 1_005_348
    assert net.config.upsampler == "pixelshuffledirect"
    alone = load_network(folder / "pytorch_model.bin")
    assert alone.config == net.config


def test_a_folder_with_one_file_of_any_name(tmp_path):
    net = tiny_net(window_size=4)
    write(tmp_path / "epoch_9.pth", net.state_dict())
    net.config.save_pretrained(tmp_path)
    assert load_network(tmp_path).config == net.config


def test_a_file_beside_the_configuration_of_something_else(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    path = write(tmp_path / "mine.pth", official("light_x2"))
    assert read_weights(path)[1].embed_dim == 24
    with pytest.raises(WeightsError, match="'bert' is not 'swin2sr'"):
        read_weights(tmp_path)


# -- nothing half-written ------------------------------------------------------------


def test_equal_models_are_equal_files(tmp_path):
    contents = set()
    for i in range(8):  # the library writes its texts in an order of chance
        folder = save_network(tiny_net(0), tmp_path / str(i), {"a": "1", "ä": "é"})
        contents.add((folder / "model.safetensors").read_bytes())
    assert len(contents) == 1
    assert read_weights(folder / "model.safetensors")[2]["ä"] == "é"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_failed_saving_keeps_the_old_model(name, tmp_path, monkeypatch):
    save_network(tiny_net(0), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    move = Path.replace

    def fail(self, target):
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(WeightsError, match=r"cannot be written .*No space left"):
        save_network(tiny_net(0), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_full_disk_leaves_nothing(tmp_path):
    script = f"""
        import resource, signal, sys
        sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
        from helpers.tiny import tiny_net
        from napari_swin2sr.errors import WeightsError
        from napari_swin2sr.model.swin2sr import save_network
        net = tiny_net()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            save_network(net, {str(tmp_path)!r})
        except WeightsError as error:
            sys.exit("cannot be written" not in str(error))
        sys.exit(2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_network(tiny_net(), tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
