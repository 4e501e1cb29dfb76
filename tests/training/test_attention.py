"""The reordered attention is the network's attention, in values and gradients."""

from __future__ import annotations

import copy

import torch

from helpers.tiny import tiny_net
from napari_swin2sr.training.attention import use_fast_attention


def test_results_and_gradients_are_those_of_the_network() -> None:
    plain = tiny_net()
    fast = copy.deepcopy(plain)
    use_fast_attention(fast)
    image = torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    results = [network.upscale_tile(image) for network in (plain, fast)]
    torch.testing.assert_close(*results, atol=2e-6, rtol=0)
    for result in results:
        result.square().mean().backward()
    for one, other in zip(plain.parameters(), fast.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        scale = float(one.grad.abs().max())
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5 * scale, rtol=1e-4)
