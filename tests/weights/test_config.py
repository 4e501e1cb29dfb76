"""The configuration: fields as in transformers, errors that say what to do, halos."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from napari_swin2sr.errors import OptionError, WeightsError
from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution

LIGHTWEIGHT: dict[str, Any] = {
    "embed_dim": 60,
    "depths": (6, 6, 6, 6),
    "num_heads": (6, 6, 6, 6),
    "upsampler": "pixelshuffledirect",
}
JPEG: dict[str, Any] = {
    "upsampler": "",
    "upscale": 1,
    "window_size": 7,
    "img_range": 255.0,
}


def test_fields_and_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Swin2SRConfig().to_dict()
    ours = Swin2SRConfig().to_dict()
    common = set(ours) - {"architectures"}
    assert common <= set(theirs)
    for name in common:
        expected = theirs[name]
        assert ours[name] == (
            list(expected) if isinstance(expected, tuple) else expected
        )


def test_transformers_reads_what_we_write_and_the_other_way_round(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = Swin2SRConfig(**LIGHTWEIGHT, num_channels=1)
    config.save_pretrained(tmp_path)
    theirs = transformers.Swin2SRConfig.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path)
    assert Swin2SRConfig.from_pretrained(tmp_path) == config


def test_unknown_keys_survive_the_round_trip(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"embed_dim": 60, "path_norm": True, "_name": "x"}))
    config = Swin2SRConfig.from_pretrained(file)
    config.save_pretrained(tmp_path / "copy")
    written = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert (written["path_norm"], written["_name"]) == (True, "x")
    assert written["model_type"] == "swin2sr"
    assert Swin2SRConfig.from_dict(written) == config


def test_equal_configurations_are_equal_hash_equal_and_print_equal():
    a, b = (
        Swin2SRConfig(depths=[2, 2], num_heads=(2, 2)),  # type: ignore[arg-type]
        Swin2SRConfig(depths=(2, 2), num_heads=[2, 2], extra={"seen": 1}),  # type: ignore[arg-type]
    )
    assert a == b
    assert hash(a) == hash(b)
    assert repr(a) == repr(b)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"embed_dim": 0}, "embed_dim=0"),
        ({"embed_dim": 61, "num_heads": (6,) * 6}, "no multiple of num_heads=6"),
        ({"depths": (6, 6)}, "differ in length"),
        ({"depths": ()}, "depths="),
        ({"depths": "666666"}, "depths="),
        ({"depths": (6, 6, 6, 6, 6, 0)}, "depths=0"),
        ({"window_size": 8.0}, "window_size=8.0"),
        ({"window_size": True}, "window_size=True"),
        ({"upscale": 5}, "2, 4, 8, ... or 3"),
        ({"upscale": 6, "upsampler": "pixelshuffle_aux"}, "or 3"),
        ({"upscale": 2, "upsampler": "nearest+conv"}, "by 4 only"),
        ({"upscale": 2, "upsampler": ""}, "needs upscale=1"),
        ({"upsampler": "pixelshuffle_hf"}, "pixelshuffle_hf"),
        ({"upsampler": "bicubic"}, "'bicubic' is not one of"),
        ({"upsampler": "", "upscale": 1, "num_channels_out": 1}, "must be the same"),
        ({"upsampler": "pixelshuffle_aux", "num_channels": 1}, "takes 3 channels"),
        ({"resi_connection": "2conv"}, "1conv, 3conv"),
        ({"resi_connection": "3conv", "embed_dim": 3, "num_heads": (3,) * 6}, ">= 4"),
        ({"patch_size": 4}, "patch_size=4"),
        ({"image_size": (8, 8, 8)}, "not one number or a pair"),
        ({"image_size": 5}, "does not divide it"),
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings"),
        ({"hidden_act": "relu"}, "'relu' is not 'gelu'"),
        ({"mlp_ratio": -1.0}, "mlp_ratio=-1.0"),
        ({"mlp_ratio": 1e-9}, "no hidden layer"),
        ({"img_range": float("nan")}, "img_range=nan"),
        ({"img_range": "1"}, "img_range='1'"),
        ({"embed_dim": 10**9}, "to 65536"),
        ({"embed_dim": 10**5000}, "embed_dim=a number of 16610 bits"),
        ({"mlp_ratio": 10**400}, "mlp_ratio=a number of"),
        ({"mlp_ratio": True}, "mlp_ratio=True"),
        ({"initializer_range": 0}, "initializer_range=0 is not a number above 0"),
        ({"initializer_range": "small"}, "initializer_range='small'"),
        ({"drop_path_rate": None}, "drop_path_rate=None"),
        ({"drop_path_rate": 2}, "drop_path_rate=2 is not a number from 0 to 1"),
        ({"qkv_bias": 1}, "qkv_bias=1 is not true or false"),
        ({"upsampler": ["x" * 9000]}, "..."),
        ({"upsampler": {"\x1b": 1}}, r"upsampler={'\x1b': 1}"),
        ({"hidden_act": []}, "hidden_act=[]"),
        ({"patch_size": None}, "patch_size=None"),
        ({"image_size": "64"}, "image_size='64'"),
    ],
)
def test_what_no_network_can_be_is_refused_with_the_value(values, words):
    with pytest.raises(OptionError) as error:
        Swin2SRConfig(**values)
    assert words in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[1]", "mapping"),
        ('{"model_type": "swinv2"}', "'swinv2' is not 'swin2sr'"),
        ('{"upscale": "two"}', "upscale='two'"),
        ('{"depths": [[6]]}', "depths=[6]"),
        ('{"a": ' + "[" * 100_000, "too deep"),
        ('{"embed_dim": ' + "1" * 5000 + "}", "cannot be read"),
    ],
)
def test_a_bad_file_is_a_weights_error_that_names_it(tmp_path, text, words):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(WeightsError) as error:
        Swin2SRConfig.from_pretrained(tmp_path)
    assert words in str(error.value)
    assert str(file) in str(error.value)


def test_a_folder_without_configuration_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json"):
        Swin2SRConfig.from_pretrained(tmp_path)


def test_small_training_crops_shrink_the_window_and_stop_the_shift():
    assert (Swin2SRConfig().attention_window, Swin2SRConfig().shift_size) == (8, 4)
    same = Swin2SRConfig(image_size=8)
    assert (same.attention_window, same.shift_size) == (8, 0)
    small = Swin2SRConfig(image_size=(4, 64))
    assert (small.attention_window, small.shift_size) == (4, 0)


def test_halo_default_exact_and_checked():
    config = Swin2SRConfig(**LIGHTWEIGHT)
    assert config.exact_halo == 104
    assert (config.halo(), config.halo("exact"), config.halo(0)) == (48, 104, 0)
    assert Swin2SRConfig(**JPEG).halo() == 49
    tiny = Swin2SRConfig(embed_dim=12, depths=(2,), num_heads=(2,))
    assert tiny.halo() == tiny.exact_halo == 24
    with pytest.raises(OptionError, match="use 16"):
        config.halo(12)
    for wrong in (-8, 8.0, True, "all"):
        with pytest.raises(OptionError, match="halo="):
            config.halo(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("depths", [(2,), (1, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize(
    "values",
    [
        {"upsampler": "pixelshuffledirect"},
        {"upsampler": "pixelshuffledirect", "resi_connection": "3conv"},
        {"upsampler": "pixelshuffle"},
        {"upsampler": "pixelshuffle", "upscale": 8},
        {"upsampler": "pixelshuffle", "upscale": 3},
        {"upsampler": "nearest+conv", "upscale": 4, "resi_connection": "3conv"},
        {"upsampler": "pixelshuffle_aux", "upscale": 4},
        JPEG,
        {**JPEG, "window_size": 5},
        {"upsampler": "pixelshuffledirect", "image_size": 4},
    ],
    ids=lambda v: "-".join(str(x) for x in v.values()),
)
def test_exact_halo_is_the_receptive_field(values, depths, monkeypatch):
    """Every input pixel with a gradient lies in it, and some lie near its end."""
    monkeypatch.setattr("napari_swin2sr.model.heads.NUM_FEATURES", 4)  # fast
    config = Swin2SRConfig(
        **values, embed_dim=4, depths=depths, num_heads=(1,) * len(depths)
    )
    halo, window = config.exact_halo, config.window_size
    side = window + 2 * halo + 2 * window  # a window as core, and more than the halo
    torch.manual_seed(0)
    net = Swin2SRForImageSuperResolution(config).double()
    for parameter in net.parameters():  # strong enough to be seen through all layers
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    x = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    start = halo + window
    core = slice(start * config.upscale, (start + window) * config.upscale)
    net(x).reconstruction[..., core, core].square().sum().backward()
    seen = (x.grad.abs().sum((0, 1)) > 0).nonzero()
    low, high = seen.min().item(), seen.max().item() + 1
    reach = max(start - low, high - start - window)
    assert halo - window < reach <= halo


def test_configuration_needs_no_torch():
    code = (
        "import sys, napari_swin2sr.model as m; m.Swin2SRConfig().halo();"
        "assert 'torch' not in sys.modules; assert dir(m) == sorted(m.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error():
    import napari_swin2sr.model as package

    with pytest.raises(AttributeError, match="Swin3SR"):
        package.Swin3SR  # noqa: B018


def test_a_name_stands_for_the_configuration_of_its_model():
    from napari_swin2sr.model import Swin2SRImageProcessor
    from napari_swin2sr.weights.catalog import resolve_model

    expected = Swin2SRConfig.from_pretrained(resolve_model("default").path)
    assert Swin2SRConfig.from_pretrained("default") == expected
    assert Swin2SRImageProcessor.from_pretrained("default").size_divisor == 8
