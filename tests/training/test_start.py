"""A new network interpolates bicubically before it has learned anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.tiny import tiny_config
from napari_swin2sr.errors import OptionError
from napari_swin2sr.training.degrade import resize_bicubic
from napari_swin2sr.training.start import bicubic_network


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
def test_geometries_without_room_are_refused(changes: dict, text: str) -> None:
    with pytest.raises(OptionError, match=text):
        bicubic_network(tiny_config(**changes))
