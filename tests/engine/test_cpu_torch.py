"""The fast path on the CPU gives what the network gives."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch

from helpers.golden import (
    TOLERANCE,
    VARIANTS,
    make_network,
    pad_like_reference,
    read_cases,
)
from helpers.tiny import two_stage_net
from napari_swin2sr.engine import cpu_torch
from napari_swin2sr.engine.backends import prepare
from napari_swin2sr.engine.cpu_torch import CpuForward
from napari_swin2sr.errors import InputError


def assert_close(actual, expected, tolerance=TOLERANCE):
    limit = tolerance * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_outputs_of_the_authors(variant):
    net = make_network(variant)
    forward, up = CpuForward(net), net.config.upscale
    for case in read_cases(variant):
        height, width = case.x.shape[-2:]
        result = forward(pad_like_reference(case.x, net.config.window_size))
        assert_close(
            result[0, :, : up * height, : up * width], torch.from_numpy(case.y)
        )


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"qkv_bias": False},
        {"image_size": 8},
        {"image_size": 4},
        {"window_size": 7},
        {"window_size": 5},
        {"resi_connection": "3conv"},
        {"embed_dim": 36, "num_heads": (6, 3), "mlp_ratio": 1.3},
        {"num_channels": 1},
    ],
    ids=str,
)
def test_every_shape_of_network_and_image(values, monkeypatch):
    monkeypatch.setattr(cpu_torch, "GROUP_BYTES", 3 * 4 * 64**2)  # some groups
    net = two_stage_net(**values)
    forward = CpuForward(net)
    for size in ((8, 8), (16, 40), (17, 3), (56, 56)):
        x = torch.rand(2, net.config.num_channels, *size)
        with torch.inference_mode():
            assert_close(forward(x), net.upscale_tile(x), 4e-6)


def test_attention_scales_at_their_limit():
    """Where the maximum must be subtracted, and one scale is clamped."""
    net = two_stage_net()
    with torch.no_grad():
        for layer in (x for s in net.swin2sr.encoder.stages for x in s.layers):
            layer.attention["self"].logit_scale.fill_(math.log(99))
            layer.attention["self"].logit_scale[0] = 50
    forward, x = CpuForward(net), torch.rand(1, 3, 32, 32)
    assert forward.stages[0].layers[0].subtract_maximum
    with torch.inference_mode():
        assert_close(forward(x), net.upscale_tile(x), 2e-5)  # scale 100: steep


def test_zero_keys_give_no_nan():
    net = two_stage_net()
    with torch.no_grad():
        for layer in (x for s in net.swin2sr.encoder.stages for x in s.layers):
            layer.attention["self"].key.weight.zero_()
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        assert_close(CpuForward(net)(x), net.upscale_tile(x), 4e-6)


def test_gray_tiles():
    net = make_network("light_x2")
    x = torch.rand(3, 1, 16, 16)
    with torch.inference_mode():
        assert_close(CpuForward(net)(x), net.upscale_tile(x))


def test_bfloat16_is_close():
    net = make_network("light_x2")
    x = torch.from_numpy(read_cases("light_x2")[0].x)[None]
    with torch.inference_mode():
        error = CpuForward(net, torch.bfloat16)(x) - net.upscale_tile(x)
    assert 0 < error.square().mean().sqrt() < 0.02


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing_and_torch_keeps_its_own(threads):
    net, x = two_stage_net(), torch.rand(1, 3, 48, 80)
    forward = CpuForward(net)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        result = forward(x)
        assert torch.get_num_threads() == threads
        seen = []
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen == [threads]
    finally:
        torch.set_num_threads(before)
    with torch.inference_mode():
        assert_close(result, net.upscale_tile(x), 4e-6)


def test_many_callers_share_one_forward():
    net = two_stage_net()
    forward = CpuForward(net)
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
        assert_close(result, wanted)


def test_an_error_in_a_worker_is_raised_and_torch_keeps_its_threads():
    forward = CpuForward(two_stage_net())
    broken = forward.stages[1].layers[0].norms[0]
    broken.weight = torch.nn.Parameter(torch.ones(5), requires_grad=False)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        forward(torch.rand(1, 3, 16, 16))
    assert torch.get_num_threads() == before


def test_the_network_is_copied_and_stays_as_it_is():
    net = two_stage_net()
    forward, x = CpuForward(net), torch.rand(1, 3, 16, 16)
    expected = forward(x)
    assert all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(forward(x), expected)


def test_wrong_channels_are_refused():
    with pytest.raises(InputError, match=r"takes \(N, 3, H, W\)"):
        CpuForward(two_stage_net())(torch.rand(1, 2, 8, 8))


def test_other_devices_run_the_network_itself():
    net, x = two_stage_net(), torch.rand(1, 3, 8, 8)
    meta = prepare(net, torch.device("meta"), "fp32")(x.to("meta"))
    assert meta.shape == (1, 3, 16, 16)
