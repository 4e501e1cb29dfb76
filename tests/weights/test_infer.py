"""The configuration of a network, stated with its weights or read off their shapes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import warnings

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.golden import VARIANTS, make_config, original_shapes, original_weights
from helpers.official import derived, official, write
from helpers.tiny import tiny_config, tiny_net
from napari_swin2sr.errors import WeightsError
from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution
from napari_swin2sr.model.swin2sr import load_network, save_network
from napari_swin2sr.weights.catalog import resolve_model
from napari_swin2sr.weights.checkpoint import read_weights
from napari_swin2sr.weights.state_dict import check_config, hub_shapes, infer_config


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["original", "hub"])
def test_configuration_from_shapes_alone(variant, family):
    config = make_config(variant)
    shapes = original_shapes(variant) if family == "original" else hub_shapes(config)
    found = infer_config(shapes, "a.pth")
    assert not found.window_known
    assert found.config == config  # restoration has window 7 and range 255


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 18, "depths": (1, 3, 2), "num_heads": (2, 3, 6)},
        {"mlp_ratio": 1.5},
        {"embed_dim": 14, "num_heads": (7, 7), "mlp_ratio": 1.3},
        {"qkv_bias": False},
        {"num_channels": 1},
        {"num_channels": 4, "upscale": 3},
        {"num_channels": 3, "num_channels_out": 1, "upsampler": "pixelshuffle"},
        {"upsampler": "pixelshuffle", "upscale": 8},
        {"upsampler": "", "upscale": 1, "window_size": 7, "img_range": 255.0},
    ],
)
def test_unusual_configurations_from_shapes(changes):
    config = tiny_config(**changes)
    found = infer_config(hub_shapes(config), "a").config
    assert hub_shapes(found) == hub_shapes(config)
    names = ("depths", "num_heads", "mlp_dim", "num_channels_out", "upscale")
    assert [getattr(found, n) for n in names] == [getattr(config, n) for n in names]


@pytest.mark.parametrize("window", [4, 7, 8, 12])
def test_window_and_image_size_from_derived_tables(window, tmp_path):
    state = original_weights("light_x2")
    config = make_config("light_x2")
    state |= derived(dataclasses.replace(config, window_size=window), 6 * window)
    found = read_weights(write(tmp_path / "a.pth", state))[1]
    assert (found.window_size, found.image_size) == (window, 6 * window)


def test_training_crops_of_one_window_mean_no_shift(tmp_path):
    path = write(tmp_path / "a.pth", official("light_x2", image_size=8))
    assert read_weights(path)[1].shift_size == 0


def test_unknown_window_is_assumed_with_one_warning(tmp_path):
    path = write(tmp_path / "a.pth", original_weights("light_x2"))
    with pytest.warns(UserWarning, match="window size, 8 is assumed") as caught:
        net = load_network(path)
    assert len(caught) == 1
    assert net.config.window_size == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_weights(path, make_config("light_x2"))[1].window_size == 8


def test_other_position_tables_are_another_network(tmp_path):
    for name in ("relative_coords_table", "relative_position_index", "attn_mask"):
        state = official("light_x2")
        key = next(k for k in state if k.endswith(name))
        state[key] = state[key] + 1
        with pytest.raises(WeightsError, match=f"{name} is not what Swin2SR uses"):
            read_weights(write(tmp_path / f"{name}.pth", state))


def test_window_of_the_configuration_must_be_that_of_the_tables(tmp_path):
    path = write(tmp_path / "a.pth", official("light_x2"))
    config = dataclasses.replace(make_config("light_x2"), window_size=7)
    with pytest.raises(WeightsError, match="window_size=7, but the weights have 8"):
        read_weights(path, config)


def test_contradicting_configuration_names_the_fields(tmp_path):
    save_network(tiny_net(), tmp_path)
    with pytest.raises(WeightsError, match=r"depths=\(2,\).*\(2, 2\).*config.json"):
        load_network(tmp_path, tiny_config(depths=(2,), num_heads=(2,)))


def test_unusual_head_is_read_with_its_configuration(tmp_path):
    config = tiny_config(num_channels=4, num_channels_out=3)
    net = Swin2SRForImageSuperResolution(config)
    save_network(net, tmp_path)
    assert load_network(tmp_path / "model.safetensors").config == config
    safetensors.torch.save_file(net.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="the upscale factor is unknown"):
        read_weights(tmp_path / "bare.safetensors")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_shapes_give_a_configuration_or_a_weights_error(data):
    if data.draw(st.booleans()):
        config = tiny_config()
        shapes = hub_shapes(config)
    else:
        config = make_config("light_x2")
        tables = {k: tuple(v.shape) for k, v in derived(config, 16).items()}
        shapes = original_shapes("light_x2") | tables
    telling = [k for k in shapes if "qkv" not in k or "logit" in k]
    for _ in range(data.draw(st.integers(0, 4))):
        name = data.draw(st.sampled_from(telling))
        shape = st.lists(st.sampled_from([0, 1, 2, 3, 12, 27, 70_000]), max_size=5)
        if data.draw(st.booleans()):
            shapes.pop(name, None)
        else:
            shapes[name] = tuple(data.draw(shape))
    for attempt in (
        lambda: infer_config(shapes, "a"),
        lambda: check_config(config, shapes, "a"),
    ):
        with contextlib.suppress(WeightsError):
            attempt()


@pytest.mark.parametrize(
    "changes",
    [{"window_size": 4000}, {"depths": (60_000,) * 2}, {"depths": [9] * 900}],
)
def test_configurations_that_would_fill_the_memory(changes, tmp_path):
    net = tiny_net()
    values = net.config.to_dict() | changes | {"image_size": 8000}
    values["num_heads"] = [2] * len(values["depths"])
    metadata = {"config": json.dumps(values)}
    alone = tmp_path / "alone.safetensors"
    safetensors.torch.save_file(net.state_dict(), alone, metadata)
    folder = tmp_path / "folder"
    save_network(net, folder)
    (folder / "config.json").write_text(json.dumps(values))
    for path in (alone, folder):
        with pytest.raises(WeightsError, match="no Swin2SR network has more"):
            resolve_model(path)
        with pytest.raises(WeightsError, match="no Swin2SR network has more"):
            load_network(path)
    with pytest.raises(WeightsError, match="no Swin2SR network has more"):
        load_network(alone, Swin2SRConfig.from_dict(values))


def test_position_table_that_would_fill_the_memory(tmp_path):
    state = original_weights("light_x2")
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        name = f"layers.{i}.residual_group.blocks.{j}.attn.relative_coords_table"
        state[name] = torch.zeros(1, 599, 599, 2)
    with pytest.raises(WeightsError, match="a window of 300"):
        read_weights(write(tmp_path / "a.pth", state))


@pytest.mark.parametrize("kind", ["huge", "pipe"])
def test_configuration_file_that_is_none(kind, tmp_path):
    save_network(tiny_net(), tmp_path)
    config = tmp_path / "config.json"
    if kind == "huge":
        os.truncate(config, 1 << 40)
    else:
        config.unlink()
        os.mkfifo(config)
    with pytest.raises(WeightsError, match="no regular file of at most"):
        load_network(tmp_path)
