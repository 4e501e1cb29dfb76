"""Only what can reach a core is computed, and its pixels stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from helpers.tiny import two_stage_net
from napari_swin2sr.engine.cpu_native import instruction_sets, prepare_native
from napari_swin2sr.engine.cpu_torch import CpuForward
from napari_swin2sr.engine.trim import Windows, trim, windows_of
from napari_swin2sr.engine.upscaler import Upscaler
from napari_swin2sr.image.box import Box
from napari_swin2sr.model.error_head import ErrorHead

NETWORKS = [
    {},
    {"resi_connection": "3conv"},
    {"image_size": 8},  # windows are not shifted
    {"upsampler": "pixelshuffle", "upscale": 4},
    {"upsampler": "pixelshuffle_aux", "upscale": 4},
    {"upsampler": "nearest+conv", "upscale": 4},
    {"depths": (6, 6), "num_heads": (3, 3)},
]
CORES = [  # of tiles of 10 x 12 windows [windows]
    (4, 3, 6, 7),
    (0, 3, 2, 12),  # at three sides: shifted windows lie on both ends of the tile
    (9, 0, 10, 1),
    (0.25, 0.5, 0.5, 1.25),  # not on the grid
]


def box(windows):
    return Box(*(int(8 * x) for x in windows))


def assert_close(actual, expected):
    limit = 2e-6 * float(expected.abs().max())  # PyTorch rounds by size
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("values", NETWORKS, ids=str)
def test_the_kernels_give_the_same_core_to_the_last_bit(values, precision):
    net = two_stage_net(**values)
    if not instruction_sets(precision) or not (
        forward := prepare_native(net, precision)
    ):
        pytest.skip("no such kernels here")
    x, upscale = torch.rand(1, 3, 80, 96), net.config.upscale
    whole, pixels = forward(x), net.swin2sr.normalize(x)
    features = forward.run_body(pixels, trim(net.config, 80, 96, None))
    for core in map(box, CORES):
        needed = trim(net.config, 80, 96, core)
        part = forward.run_body(pixels, needed)
        assert torch.equal(part, features[(..., *needed.features.slices)])
        assert_close(forward(x, core), whole[(..., *core.scaled(upscale).slices)])


@pytest.mark.parametrize("values", [*NETWORKS, {"window_size": 7}], ids=str)
def test_the_operations_of_pytorch_give_the_same_core(values):
    net = two_stage_net(**values)
    forward, window = CpuForward(net), net.config.window_size
    x, upscale = torch.rand(1, 3, 10 * window, 12 * window), net.config.upscale
    whole = forward(x)
    for core in map(box, CORES):
        core = Box(core.y0, core.x0, min(core.y1, x.shape[2]), min(core.x1, x.shape[3]))
        if core.y0 < core.y1 and core.x0 < core.x1:
            assert_close(forward(x, core), whole[(..., *core.scaled(upscale).slices)])


def test_what_is_skipped_cannot_reach_the_core():
    """With the exact halo, pixels that the trim does not look at change nothing."""
    config = two_stage_net().config
    halo = config.exact_halo
    core = Box(halo, halo, halo + 16, halo + 16)
    needed = trim(config, 2 * halo + 16, 2 * halo + 16, core)
    area = [
        sum(w.rows * w.columns for w in layers) / len(layers)
        for layers, _, _ in needed.stages
    ]
    windows = (2 * halo // 8 + 2) ** 2
    assert area[1] < area[0] < windows
    assert needed.features == core.grown(1)
    assert needed.embedded.grown(1).y0 >= 0


@pytest.mark.parametrize(
    ("need", "shift", "expected", "pixels"),
    [
        (Box(0, 9, 8, 10), 0, Windows(0, 1, 1, 1), Box(0, 8, 8, 16)),
        (Box(4, 12, 12, 13), 4, Windows(0, 1, 1, 1), Box(4, 12, 12, 20)),
        (Box(0, 0, 2, 5), 4, Windows(-1, -1, 1, 2), Box(0, 0, 4, 12)),
        (Box(30, 3, 32, 32), 4, Windows(3, 0, 1, 4), Box(28, 0, 32, 32)),
        (Box(0, 0, 32, 32), 4, Windows(0, 0, 4, 4), Box(0, 0, 32, 32)),
    ],
)
def test_windows(need, shift, expected, pixels):
    assert windows_of(need, Box(0, 0, 32, 32), 8, shift) == (expected, pixels)


def test_everything_without_a_core():
    config = two_stage_net().config
    needed, tile = trim(config, 24, 40, None), Box(0, 0, 24, 40)
    assert needed.embedded == needed.deep == needed.features == tile
    for layers, takes, gives in needed.stages:
        assert takes == gives == tile
        assert set(layers) == {Windows(0, 0, 3, 5)}


def test_an_upscaler_gives_the_core_and_its_error():
    net = two_stage_net()
    head: Any = ErrorHead(net.config)
    torch.nn.init.normal_(head.mix.weight)
    upscaler = Upscaler(net, "cpu", error_head=head)
    x = np.random.default_rng(0).random((2, 1, 48, 56), np.float32)
    core = Box(8, 16, 24, 56)
    wanted = [y[(..., *core.scaled(2).slices)] for y in upscaler.with_error(x)]
    image, error = upscaler.with_error(x, core=core)
    np.testing.assert_array_equal(image, upscaler(x, core=core))
    for found, expected in zip((image, error), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
