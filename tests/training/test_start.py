"""A new network interpolates bicubically before it has learned anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.tiny import tiny_config, tiny_net
from napari_swin2sr.errors import OptionError
from napari_swin2sr.training.degrade import resize_bicubic
from napari_swin2sr.training.start import bicubic_network, enlarge_head


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_output_is_bicubic_interpolation(channels: int) -> None:
    config = tiny_config(embed_dim=28, num_channels=channels)
    network = bicubic_network(config).eval()
    image = np.random.default_rng(0).random((channels, 32, 40), dtype=np.float32)
    with torch.inference_mode():
        result = network.upscale_tile(torch.from_numpy(image[None]))[0].numpy()
    inner = (slice(None), slice(4, -4), slice(4, -4))
    expected = resize_bicubic(image, (64, 80))
    np.testing.assert_allclose(result[inner], expected[inner], atol=1e-5)


def test_everything_in_between_can_learn() -> None:
    network = bicubic_network(tiny_config(embed_dim=28)).train()
    loss = network.upscale_tile(torch.rand(1, 3, 16, 16)).square().mean()
    loss.backward()
    body = network.swin2sr.conv_after_body.weight.grad
    assert body is not None
    assert body.abs().max() > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"embed_dim": 24}, "embed_dim >= 27"),
        ({"upsampler": "pixelshuffle", "embed_dim": 30}, "'pixelshuffledirect'"),
        ({"upscale": 4, "embed_dim": 30}, "upscale=4 cannot start"),
    ],
)
def test_geometries_that_cannot_hold_the_kernel_are_refused(
    changes: dict, text: str
) -> None:
    with pytest.raises(OptionError, match=text):
        bicubic_network(tiny_config(**changes))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_larger_head_starts_from_the_old_result_repeated(channels: int) -> None:
    network = tiny_net(num_channels=channels)
    image = torch.rand(1, channels, 16, 24, generator=torch.manual_seed(0))
    with torch.inference_mode():
        small = network.upscale_tile(image).numpy()
        large = enlarge_head(network, 4).eval().upscale_tile(image).numpy()
    np.testing.assert_allclose(large, small.repeat(2, -1).repeat(2, -2), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "upscale"), [({}, 3), ({"upsampler": "pixelshuffle"}, 4)]
)
def test_a_head_that_cannot_grow_is_refused(changes: dict, upscale: int) -> None:
    network = tiny_net(**changes)
    with pytest.raises(OptionError, match="multiple of the model's own factor"):
        enlarge_head(network, upscale)
