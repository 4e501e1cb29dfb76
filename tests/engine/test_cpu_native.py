"""The compiled kernels give what the network gives, or stand aside."""

from __future__ import annotations

import logging
import math
import stat
import sys
import threading

import pytest
import torch

from helpers.golden import (
    TOLERANCE,
    VARIANTS,
    make_network,
    pad_like_reference,
    read_cases,
)
from napari_swin2sr.engine import cpu_native as fast_native
from napari_swin2sr.engine.backends import prepare
from napari_swin2sr.engine.cpu_native import NativeForward, prepare_native
from napari_swin2sr.engine.cpu_torch import CpuForward
from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    fast_native.find_compiler() is None, reason="no C compiler on this machine"
)
needs_bfloat16 = pytest.mark.skipif(
    not fast_native.has_bfloat16(), reason="the processor has no bfloat16 products"
)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Compile into a folder of its own, once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        fast_native.load_kernels.cache_clear()
        yield folder
        fast_native.load_kernels.cache_clear()


@pytest.fixture
def fresh():
    """Look for kernels anew, and forget the outcome."""
    fast_native.load_kernels.cache_clear()
    yield
    fast_native.load_kernels.cache_clear()


def tiny(**values):
    torch.manual_seed(0)
    defaults = {"embed_dim": 12, "depths": (3, 2), "num_heads": (2, 3)}
    defaults["upsampler"] = "pixelshuffledirect"
    net = Swin2SRForImageSuperResolution(Swin2SRConfig(**{**defaults, **values}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


def layers_of(net):
    return [layer for stage in net.swin2sr.encoder.stages for layer in stage.layers]


def native(net, precision="fp32"):
    forward = prepare_native(net, precision)
    assert isinstance(forward, NativeForward)
    return forward


def assert_close(actual, expected, tolerance=TOLERANCE):
    limit = tolerance * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


@needs_compiler
@pytest.mark.parametrize("variant", [v for v in VARIANTS if "jpeg" not in v])
def test_reference_outputs_of_the_authors(variant):
    net = make_network(variant)
    forward, up = native(net), net.config.upscale
    for case in read_cases(variant):
        height, width = case.x.shape[-2:]
        result = forward(pad_like_reference(case.x, 8))
        result = result[0, :, : up * height, : up * width]
        assert_close(result, torch.from_numpy(case.y))


@needs_compiler
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"qkv_bias": False},
        {"image_size": 8},  # windows are not shifted
        {"resi_connection": "3conv"},
        {"embed_dim": 15, "num_heads": (3, 5), "mlp_ratio": 1.4},  # odd everywhere
        {"embed_dim": 90, "num_heads": (3, 9), "upsampler": "pixelshuffle"},
        {"num_channels": 1},
        {"num_channels": 5, "layer_norm_eps": 1e-2},
    ],
    ids=str,
)
def test_every_shape_of_network_and_image(values, monkeypatch):
    monkeypatch.setattr(fast_native, "WINDOWS_PER_TASK", 3)
    net = tiny(**values)
    forward = native(net)
    for size in ((8, 8), (16, 40), (17, 3), (56, 56)):
        x = torch.rand(2, net.config.num_channels, *size)
        with torch.inference_mode():
            assert_close(forward(x), net.upscale_tile(x), 4e-6)


@needs_compiler
def test_attention_scales_at_their_limit():
    net = tiny()
    with torch.no_grad():
        for layer in layers_of(net):
            layer.attention["self"].logit_scale.fill_(math.log(99))
            layer.attention["self"].logit_scale[0] = 50
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert_close(native(net)(x), net.upscale_tile(x), 2e-5)  # scale 100: steep


@needs_compiler
def test_zero_keys_and_large_activations():
    """No length of zero divides, and no perceptron's input is too large."""
    net = tiny()
    with torch.no_grad():
        for layer in layers_of(net):
            layer.attention["self"].key.weight.zero_()
            layer.intermediate.dense.weight.mul_(100)
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert_close(native(net)(x), net.upscale_tile(x), 4e-6)


@needs_compiler
def test_not_a_number_is_not_hidden():
    x = torch.rand(1, 3, 16, 16)
    x[0, 0, 3, 3] = math.nan
    assert not native(tiny())(x).isfinite().all()


@needs_compiler
def test_grey_tiles():
    net = make_network("light_x2")
    x = torch.rand(3, 1, 16, 16)
    with torch.inference_mode():
        assert_close(native(net)(x), net.upscale_tile(x))


@needs_compiler
@needs_bfloat16
@pytest.mark.parametrize(
    "values", [{}, {"embed_dim": 15, "num_heads": (3, 5)}, {"resi_connection": "3conv"}]
)
def test_bfloat16_is_close(values):
    net = tiny(**values)
    x = torch.rand(1, 3, 24, 40)
    with torch.inference_mode():
        expected = net.upscale_tile(x)
        error = native(net, "bf16")(x) - expected
    assert 0 < error.abs().max() < 0.03 * expected.abs().max()
    assert error.square().mean().sqrt() < 0.005 * expected.abs().max()


@needs_compiler
def test_many_callers_share_one_forward():
    forward = native(tiny())
    inputs = [torch.rand(1, 3, 16, 8 * (1 + i)) for i in range(4)]
    expected = [forward(x) for x in inputs]
    results = [None] * 4

    def work(i):
        results[i] = forward(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted)


@needs_compiler
def test_threads_change_not_a_bit():
    forward, x = native(tiny()), torch.rand(1, 3, 48, 80)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            stream = forward.run_body(x)
            results.append(stream)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_compiler
def test_the_door_prefers_the_kernels(cache):
    assert isinstance(prepare(tiny(), CPU, "fp32"), NativeForward)
    assert isinstance(prepare(tiny(), CPU, "bf16"), NativeForward)
    assert list((cache / "napari-swin2sr").glob("kernels-*.so"))


def test_other_windows_are_left_to_the_portable_path():
    assert isinstance(prepare(tiny(window_size=7), CPU, "fp32"), CpuForward)
    assert prepare_native(tiny(window_size=7), "fp32") is None
    assert prepare_native(tiny(image_size=4), "fp32") is None


def test_without_a_compiler_the_portable_path_serves(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "no-such-compiler")
    forward = prepare(tiny(), CPU, "fp32")
    assert isinstance(forward, CpuForward)
    assert not isinstance(forward, NativeForward)


def test_the_switch(fresh, monkeypatch):
    monkeypatch.setenv(fast_native.SWITCH, "0")
    assert fast_native.find_compiler() is None
    assert fast_native.load_kernels("fp32") is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_a_compiler_that_fails_is_reported_once(fresh, monkeypatch, tmp_path, caplog):
    script = tmp_path / "broken-cc"
    script.write_text("#!/bin/sh\n[ $1 = --version ] && echo 1 && exit 0\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    with caplog.at_level(logging.WARNING):
        assert prepare_native(tiny(), "fp32") is None
        assert prepare_native(tiny(), "fp32") is None
    assert caplog.text.count("cannot be compiled") == 1


@needs_compiler
def test_kernels_that_are_wrong_are_not_used(monkeypatch, caplog):
    right = fast_native.norm_weights
    monkeypatch.setattr(fast_native, "norm_weights", lambda norm: 2 * right(norm))
    with caplog.at_level(logging.WARNING):
        assert prepare_native(tiny(), "fp32") is None
    assert "are off by" in caplog.text


@needs_compiler
def test_compiled_once_and_only_into_a_safe_folder(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fast_native.load_kernels("fp32") is not None
    (made,) = (tmp_path / "napari-swin2sr").iterdir()
    before = made.stat().st_mtime_ns
    fast_native.load_kernels.cache_clear()
    assert fast_native.load_kernels("fp32") is not None
    assert made.stat().st_mtime_ns == before
    made.parent.chmod(0o777)  # others could put kernels there
    with fast_native._cache_folder() as folder:
        assert folder != made.parent
    assert not folder.exists()
    fast_native.load_kernels.cache_clear()
    assert fast_native.load_kernels("fp32") is not None  # its file is gone already
