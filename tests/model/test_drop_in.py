"""Scripts written for transformers, with the import changed: the same, or an error."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.tiny import tiny_config, tiny_net
from napari_swin2sr.errors import InputError, OptionError, WeightsError
from napari_swin2sr.model import (
    Swin2SRConfig,
    Swin2SRForImageSuperResolution,
    Swin2SRImageProcessor,
    Swin2SRModel,
)
from napari_swin2sr.model.swin2sr import FeatureOutput, SuperResolutionOutput

MODELS = (Swin2SRModel, Swin2SRForImageSuperResolution)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_net().save_pretrained(tmp_path)
    Swin2SRImageProcessor().save_pretrained(tmp_path)
    return tmp_path


def theirs_of(net: Swin2SRForImageSuperResolution) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.Swin2SRConfig.from_dict(net.config.to_dict())
    theirs = transformers.Swin2SRForImageSuperResolution(config).eval()
    theirs.load_state_dict(net.state_dict(), strict=True)
    return theirs


# -- from_pretrained -----------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("given", [torch.float16, "bfloat16", "float64"])
def test_dtype_is_that_of_transformers(
    model: Any, given: torch.dtype | str, folder: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = getattr(transformers, model.__name__).from_pretrained(folder, dtype=given)
    for name in ("dtype", "torch_dtype"):
        ours = model.from_pretrained(folder, **{name: given})
        assert ours.dtype == theirs.dtype
        assert not ours.training


@pytest.mark.parametrize("given", ["cpu", torch.device("cpu"), {"": "cpu"}])
def test_device_map_of_one_device(given: Any, folder: Path) -> None:
    net = Swin2SRModel.from_pretrained(folder, device_map=given, dtype="auto")
    assert (net.device.type, net.dtype) == ("cpu", torch.float32)


def test_keywords_of_the_hub_do_not_disturb_a_folder(folder: Path) -> None:
    (folder / "inner").mkdir()
    tiny_net(window_size=4).save_pretrained(folder / "inner")
    options: dict[str, Any] = {
        "revision": "main",
        "cache_dir": folder / "cache",
        "local_files_only": True,
        "token": False,
        "force_download": True,
        "subfolder": "inner",
    }
    for model in MODELS:
        found = model.from_pretrained(folder, **options)
        assert found.config.window_size == 4
    assert Swin2SRConfig.from_pretrained(folder, **options).window_size == 4
    assert Swin2SRImageProcessor.from_pretrained(folder, **options).size_divisor == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantization_config": {}}, "no option 'quantization_config'"),
        ({"attn_implementation": "flash_attention_2"}, "flash_attention_2"),
        ({"trust_remote_code": True}, "trust_remote_code=True"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"dtype": "no"}, "dtype='no'"),
        ({"device_map": {"a": "cpu", "b": "cpu"}}, "no single device"),
        ({"device_map": "nowhere"}, "device_map='nowhere'"),
    ],
)
def test_what_cannot_be_honored_is_an_error(
    options: dict[str, Any], words: str, folder: Path
) -> None:
    for model in MODELS:
        with pytest.raises(OptionError, match=words):
            model.from_pretrained(folder, **options)


def test_harmless_keywords_of_transformers(folder: Path) -> None:
    options: dict[str, Any] = {
        "attn_implementation": "eager",
        "low_cpu_mem_usage": True,
        "trust_remote_code": False,
        "weights_only": True,
    }
    assert Swin2SRModel.from_pretrained(folder, **options)


def test_harmless_keywords_of_the_others(folder: Path) -> None:
    for kind in (*MODELS, Swin2SRConfig, Swin2SRImageProcessor):
        assert kind.from_pretrained(folder, trust_remote_code=False)
        with pytest.raises(OptionError, match="trust_remote_code=True"):
            kind.from_pretrained(folder, trust_remote_code=True)
    assert Swin2SRImageProcessor.from_pretrained(folder, use_fast=True)
    assert Swin2SRModel.from_pretrained(folder, use_safetensors=True)
    torch.save(tiny_net().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OptionError, match=r"use_safetensors=True, but .*\.bin"):
        Swin2SRModel.from_pretrained(folder, use_safetensors=True)


def test_fields_of_the_configuration_must_fit_the_weights(folder: Path) -> None:
    model = Swin2SRForImageSuperResolution
    assert model.from_pretrained(folder, img_range=2.0).config.img_range == 2.0
    with pytest.raises(WeightsError, match="embed_dim=24, but the weights have 12"):
        model.from_pretrained(folder, embed_dim=24)


def test_our_own_models_have_one_revision() -> None:
    with pytest.raises(OptionError, match="pinned to this package"):
        Swin2SRModel.from_pretrained("default", revision="v1")
    with pytest.raises(OptionError, match="not on the hub"):
        Swin2SRModel.from_pretrained("default", force_download=True)


def test_nothing_is_downloaded_with_local_files_only(tmp_path: Path) -> None:
    options: dict[str, Any] = {"local_files_only": True, "cache_dir": tmp_path}
    for kind in (*MODELS, Swin2SRConfig, Swin2SRImageProcessor):
        with pytest.raises(WeightsError, match="local_files_only forbids downloads"):
            kind.from_pretrained("somebody/something", **options)


# -- configuration -------------------------------------------------------------------


def test_other_keywords_are_kept_written_and_read_by_transformers(
    tmp_path: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    values: dict[str, Any] = {"num_labels": 3, "note": {"by": "me"}, "hidden_size": 24}
    depths: dict[str, Any] = {"depths": [2, 2], "num_attention_heads": [2, 2]}
    config = Swin2SRConfig(**values, **depths)
    theirs = transformers.Swin2SRConfig(**values, depths=[2, 2], num_heads=[2, 2])
    assert config.embed_dim == theirs.embed_dim == 24
    assert config.num_labels == theirs.num_labels == 3
    config.save_pretrained(tmp_path)
    read = transformers.Swin2SRConfig.from_pretrained(tmp_path)
    assert (read.num_labels, read.note, read.embed_dim) == (3, {"by": "me"}, 24)
    assert Swin2SRConfig.from_pretrained(tmp_path).note == {"by": "me"}
    changed = Swin2SRConfig.from_pretrained(tmp_path, upscale=4, note="new")
    assert (changed.upscale, changed.note) == (4, "new")


def test_attributes_can_be_assigned_until_a_network_is_made() -> None:
    config: Any = tiny_config()
    config.upscale, config.hidden_size, config.seen = 4, 24, True
    assert (config.upscale, config.embed_dim, config.seen) == (4, 24, True)
    assert config == tiny_config(upscale=4, embed_dim=24)
    with pytest.raises(OptionError, match="no multiple of num_heads"):
        config.embed_dim = 25
    assert config.embed_dim == 24
    with pytest.raises(OptionError, match="exact_halo follows"):
        config.exact_halo = 3
    net = Swin2SRForImageSuperResolution(config)
    config.upscale = 2
    assert (net.config.upscale, net.swin2sr.config.upscale) == (4, 4)
    net.config.note = "mine"
    for part in (net, net.swin2sr):
        with pytest.raises(OptionError, match=r"upscale=2: .* dataclasses.replace"):
            part.config.upscale = 2
    assert dataclasses.replace(net.config, upscale=2) == config


def test_misspelled_fields_and_unknown_attributes() -> None:
    with pytest.raises(OptionError, match="did you mean window_size"):
        Swin2SRConfig(windowsize=8)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="did you mean embed_dim"):
        Swin2SRConfig.from_dict({"embed_dims": 60})
    with pytest.raises(AttributeError, match="num_labels"):
        Swin2SRConfig().num_labels  # noqa: B018


def test_configurations_are_copied_and_pickled() -> None:
    config = tiny_config(extra={"a": 1})
    for again in (copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.a == 1
    assert json.loads(config.to_json_string()) == config.to_dict()


def test_what_a_forward_gives_is_told_by_the_configuration() -> None:
    transformers = pytest.importorskip("transformers")
    x = torch.rand(1, 3, 8, 16)
    for options in (
        {"return_dict": False},
        {"output_attentions": True, "output_hidden_states": True},
    ):
        values: dict[str, Any] = tiny_config().to_dict() | options
        net = Swin2SRForImageSuperResolution(Swin2SRConfig.from_dict(values)).eval()
        theirs = transformers.Swin2SRForImageSuperResolution(
            transformers.Swin2SRConfig.from_dict(values, attn_implementation="eager")
        ).eval()
        theirs.load_state_dict(net.state_dict())
        for ours, other in ((net, theirs), (net.swin2sr, theirs.swin2sr)):
            found, expected = ours(x), other(x)
            assert isinstance(found, tuple) == isinstance(expected, tuple)
            assert len(found) == len(expected)
        asked = net(x, return_dict=True, output_attentions=False)
        assert asked.attentions is None
    config = Swin2SRConfig()
    assert (config.return_dict, config.output_attentions) == (True, False)


def test_without_an_upsampler_nothing_is_enlarged() -> None:
    no_upsampler: Any = None
    assert Swin2SRConfig(upsampler=no_upsampler).upscale == 1
    assert Swin2SRConfig.from_dict({"upsampler": ""}).upscale == 1
    assert Swin2SRConfig().upscale == 2
    with pytest.raises(OptionError, match="needs upscale=1"):
        Swin2SRConfig(upsampler="", upscale=2)


def test_update_and_json_files(tmp_path: Path) -> None:
    config = tiny_config()
    config.update({"upscale": 4, "note": "x", "depths": [2, 2]})
    assert config == tiny_config(upscale=4)
    assert (config.note, config.model_type) == ("x", "swin2sr")
    with pytest.raises(OptionError, match="no multiple"):
        config.update({"upscale": 3, "embed_dim": 13})
    assert config.upscale == 4
    config.to_json_file(tmp_path / "any.json")
    assert Swin2SRConfig.from_json_file(tmp_path / "any.json") == config


# -- processor -----------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_processor_takes_any_channels_if_it_is_told_where(
    channels: int, layout: str
) -> None:
    """As NumPy arrays and tensors, singly and as a list: the numbers of theirs."""
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.Swin2SRImageProcessorPil(), Swin2SRImageProcessor()
    rng = np.random.default_rng(channels)
    shape = (channels, 10, 17) if layout == "channels_first" else (10, 17, channels)
    arrays = [rng.integers(0, 256, shape, np.uint8) for _ in range(2)]
    options: dict[str, Any] = {"return_tensors": "pt", "input_data_format": layout}
    for images in (arrays[0], arrays, [torch.from_numpy(a) for a in arrays]):
        found = ours(images, data_format="channels_first", **options).pixel_values
        expected = theirs(images, **options).pixel_values
        assert found.shape == expected.shape == (len(found), channels, 16, 24)
        torch.testing.assert_close(found, expected, rtol=0, atol=6e-8)


def test_batch_moves_in_place() -> None:
    """Scripts write `inputs.to(device)` without taking the result."""
    batch = Swin2SRImageProcessor()(np.zeros((8, 8, 3), np.uint8), return_tensors="pt")
    assert batch.to(torch.float16) is batch
    assert batch["pixel_values"].dtype == batch.data["pixel_values"].dtype
    assert batch.pixel_values.dtype == torch.float16
    several = Swin2SRImageProcessor()([np.zeros((8, 8), np.uint8)])
    assert several.to(torch.float64).pixel_values[0].dtype == torch.float64


def test_sizes_and_layouts_said_in_a_call() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    found = Swin2SRImageProcessor()(image, return_tensors="np", pad_size=7)
    assert found.pixel_values.shape == (1, 3, 14, 14)
    with pytest.raises(OptionError, match="channels_last"):
        Swin2SRImageProcessor()(image, data_format="channels_last")


def test_a_rejected_alpha_channel_is_explained() -> None:
    with pytest.raises(InputError, match="alpha, say input_data_format"):
        Swin2SRImageProcessor()(np.zeros((9, 9, 4), np.uint8))


def test_processor_in_json_is_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours, theirs = Swin2SRImageProcessor(), transformers.Swin2SRImageProcessorPil()
    assert json.loads(ours.to_json_string()) == json.loads(theirs.to_json_string())
    ours.to_json_file(tmp_path / "ours.json")
    theirs.to_json_file(tmp_path / "theirs.json")
    assert json.loads((tmp_path / "ours.json").read_text()) == ours.to_dict()
    for file in tmp_path.iterdir():
        again = Swin2SRImageProcessor.from_json_file(file)
        assert again.to_dict() == ours.to_dict()
    kept = Swin2SRImageProcessor.from_dict(theirs.to_dict(), do_pad=False)
    assert (kept.do_pad, kept.size_divisor) == (False, 8)
    with pytest.raises(OptionError, match="no setting 'do_flip'"):
        Swin2SRImageProcessor.from_dict({}, do_flip=True)


# -- networks ------------------------------------------------------------------------


def test_number_of_parameters_and_embeddings() -> None:
    net = tiny_net()
    theirs = theirs_of(net)
    for ours, other in ((net, theirs), (net.swin2sr, theirs.swin2sr)):
        assert ours.num_parameters() == other.num_parameters()
        assert ours.num_parameters(exclude_embeddings=True) == other.num_parameters()
        names = [n for n, _ in ours.get_input_embeddings().named_parameters()]
        wanted = [n for n, _ in other.get_input_embeddings().named_parameters()]
        assert names == wanted
    next(net.parameters()).requires_grad_(False)
    next(theirs.parameters()).requires_grad_(False)
    trained = net.num_parameters(only_trainable=True)
    assert trained == theirs.num_parameters(only_trainable=True) < net.num_parameters()


def test_gradient_checkpointing_saves_memory_and_changes_no_gradient() -> None:
    x = torch.rand(1, 3, 32, 32)
    kept, gradients = [], []
    for enabled in (False, True):
        net = tiny_net(depths=(2, 2, 2, 2), num_heads=(2, 2, 2, 2)).train()
        if enabled:
            net.gradient_checkpointing_enable({"use_reentrant": False})
        assert net.is_gradient_checkpointing == enabled
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = net(x).reconstruction.square().mean()
        kept.append(sum(sizes))
        loss.backward()
        gradients.append([p.grad for p in net.parameters()])
    assert kept[1] < kept[0] / 4
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    net.gradient_checkpointing_disable()
    assert not net.is_gradient_checkpointing
    with pytest.raises(OptionError, match="use_reentrant"):
        net.gradient_checkpointing_enable({"use_reentrant": True})
    net.gradient_checkpointing_enable()
    asked = net(x, output_attentions=True, output_hidden_states=True)
    assert (len(asked.attentions), len(asked.hidden_states)) == (4, 5)


def test_outputs_are_trees_of_tensors() -> None:
    from torch.utils import _pytree as pytree

    for output in (
        FeatureOutput(torch.ones(2), (torch.zeros(1), torch.zeros(2))),
        SuperResolutionOutput(reconstruction=torch.ones(3), auxiliary=torch.ones(1)),
    ):
        double = pytree.tree_map(lambda x: 2 * x, output)
        assert type(double) is type(output)
        assert double.keys() == output.keys()
        leaves = pytree.tree_leaves(output)
        assert len(leaves) == len(pytree.tree_leaves(output.to_tuple()))


def test_networks_are_exported_and_compiled_whole() -> None:
    net = tiny_net()
    x = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        expected = net(x).reconstruction
        exported = torch.export.export(net, (x,)).module()(x)
        compiled = torch.compile(net, backend="eager", fullgraph=True)(x)
    for output in (exported, compiled):
        assert isinstance(output, SuperResolutionOutput)
        torch.testing.assert_close(output.reconstruction, expected)


def test_save_and_load_give_the_same_numbers(tmp_path: Path) -> None:
    """With transformers in between, for one, three and four channels."""
    transformers = pytest.importorskip("transformers")
    for channels in (1, 3, 4):
        net = tiny_net(num_channels=channels)
        net.save_pretrained(tmp_path / f"{channels}")
        kind = transformers.Swin2SRForImageSuperResolution
        kind.from_pretrained(tmp_path / f"{channels}").save_pretrained(tmp_path / "b")
        again = Swin2SRForImageSuperResolution.from_pretrained(tmp_path / "b")
        x = torch.rand(2, channels, 9, 17)
        with torch.no_grad():
            np.testing.assert_array_equal(
                again(x).reconstruction, net(x).reconstruction
            )


def test_convolutions_can_be_replaced_and_heads_called_alone() -> None:
    """As fine-tuning on raw sensor data does: four channels in, one out."""
    net: Any = tiny_net(upsampler="pixelshuffle")
    wide: Any = torch.nn.Conv2d(4, 12, 3, padding=1)
    wide.weight.data[:, :3] = net.swin2sr.first_convolution.weight
    wide.weight.data[:, 3] = 0
    wide.bias.data[:] = net.swin2sr.first_convolution.bias
    x = torch.rand(1, 4, 8, 16)
    with torch.no_grad():
        expected = net.swin2sr(x[:, :3]).last_hidden_state
        net.swin2sr.first_convolution = wide
        net.swin2sr.register_buffer("mean", torch.zeros(1, 4, 1, 1))
        net.swin2sr.mean[:, :3] = tiny_net().swin2sr.mean
        features = net.swin2sr(x)[0]
    torch.testing.assert_close(features, expected)
    assert net.upsample(features).shape == (1, 3, 16, 32)
    assert (net.upscale, net.upsampler, net.swin2sr.img_range) == (2, "pixelshuffle", 1)
    padded = net.swin2sr.pad_and_normalize(torch.rand(1, 4, 9, 9))
    assert padded.shape == (1, 4, 16, 16)


def test_facts_that_scripts_ask_for() -> None:
    net, theirs = tiny_net(), theirs_of(tiny_net())
    assert net.base_model is net.swin2sr
    for name in (
        "base_model_prefix",
        "main_input_name",
        "supports_gradient_checkpointing",
    ):
        assert getattr(net, name) == getattr(theirs, name)
    assert net.config_class is Swin2SRConfig
    plain = net.get_memory_footprint(return_buffers=False)
    assert plain == theirs.get_memory_footprint(return_buffers=False)
    assert net.get_memory_footprint() > plain


def test_networks_are_made_without_memory() -> None:
    with torch.device("meta"):
        net = Swin2SRForImageSuperResolution(tiny_config())
    assert net.device.type == "meta"
    assert net.num_parameters() == tiny_net().num_parameters()


def test_new_weights_are_drawn_as_in_transformers() -> None:
    """Normal with `initializer_range`, biases 0, norms 1: those of theirs."""
    transformers = pytest.importorskip("transformers")
    config = tiny_config(initializer_range=0.01, embed_dim=48)
    torch.manual_seed(0)
    ours = Swin2SRForImageSuperResolution(config)
    theirs = transformers.Swin2SRForImageSuperResolution(
        transformers.Swin2SRConfig.from_dict(config.to_dict())
    )
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        other = expected[name]
        assert parameter.requires_grad == other.requires_grad
        if parameter.numel() > 2000:
            ratio = float(parameter.detach().std() / other.detach().std())
            assert 0.85 < ratio < 1.15, name
            assert abs(float(parameter.detach().mean())) < 0.002
        elif parameter.ndim == 1 or "logit_scale" in name:
            torch.testing.assert_close(parameter, other)


@pytest.mark.parametrize("model", MODELS)
def test_a_forward_is_deterministic_and_a_training_step_changes_every_weight(
    model: Any,
) -> None:
    torch.manual_seed(0)
    net = model(tiny_config(drop_path_rate=0.5))
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        for mode in (False, True):  # no dropout is left in training either
            net.train(mode)
            torch.testing.assert_close(net(x)[0], net(x)[0], rtol=0, atol=0)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net(x)[0].square().mean().backward()
    optimizer.step()
    for name, parameter in net.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_a_forward_has_the_parameters_of_transformers() -> None:
    import inspect

    transformers = pytest.importorskip("transformers")
    for model in MODELS:
        theirs = inspect.signature(getattr(transformers, model.__name__).forward)
        wanted = [
            p.name for p in theirs.parameters.values() if p.kind is not p.VAR_KEYWORD
        ]
        ours = list(inspect.signature(model.forward).parameters)
        assert ours[: len(wanted)] == wanted
