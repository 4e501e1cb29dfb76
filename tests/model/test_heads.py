"""The reconstruction heads, each by a formula of its own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from napari_swin2sr.model import Swin2SRConfig
from napari_swin2sr.model.heads import HEADS, Upsample, last_convolution
from napari_swin2sr.weights.config import UPSAMPLERS

UPSCALES = {
    "pixelshuffle": (1, 2, 3, 4, 8),
    "pixelshuffle_aux": (2, 3, 4),
    "pixelshuffledirect": (1, 2, 3, 4, 5),
    "nearest+conv": (4,),
    "": (1,),
}


def make(upsampler, upscale, channels=3):
    torch.manual_seed(0)
    config = Swin2SRConfig(
        embed_dim=8,
        depths=(1,),
        num_heads=(1,),
        upsampler=upsampler,
        upscale=upscale,
        num_channels=channels,
    )
    return (
        HEADS[upsampler](config),
        torch.rand(2, 8, 6, 5),
        torch.rand(2, channels, 6, 5),
    )


def test_every_upsampler_has_a_head():
    assert tuple(HEADS) == UPSAMPLERS


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_size_and_grey(upsampler):
    for upscale in UPSCALES[upsampler]:
        head, features, pixels = make(upsampler, upscale)
        color = head(features, pixels)
        assert color.shape == (2, 3, 6 * upscale, 5 * upscale)
        grey = head(features, pixels, True)
        torch.testing.assert_close(grey, color.mean(1, keepdim=True), rtol=0, atol=1e-6)


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_gradients_reach_every_parameter(upsampler):
    head, features, pixels = make(upsampler, UPSCALES[upsampler][-1])
    head(features, pixels).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in head.parameters())


def test_direct_shuffles_one_convolution():
    head, features, pixels = make("pixelshuffledirect", 3)
    flat = F.conv2d(features, head.conv.weight, head.conv.bias, padding=1)
    result = head(features, pixels)
    for channel in range(3):
        for dy in range(3):
            for dx in range(3):
                expected = flat[:, 9 * channel + 3 * dy + dx]
                torch.testing.assert_close(result[:, channel, dy::3, dx::3], expected)


def test_restoration_adds_to_the_input():
    head, features, pixels = make("", 1)
    expected = pixels + F.conv2d(features, head.weight, head.bias, padding=1)
    torch.testing.assert_close(head(features, pixels), expected)


def test_auxiliary_picture_is_made_before_the_enlargement():
    head, features, pixels = make("pixelshuffle_aux", 4)
    assert head.auxiliary(features).shape == pixels.shape
    with torch.no_grad():
        head.conv_bicubic.weight.zero_()
    first = head(features, pixels)
    torch.testing.assert_close(head(features, pixels + 1), first)


def test_names_of_the_enlarging_convolutions():
    assert Upsample(3, 4).names == ["convolution"]
    assert Upsample(8, 4).names == ["convolution_0", "convolution_1", "convolution_2"]
    assert Upsample(1, 4).names == []


def test_last_convolution_without_bias():
    conv = torch.nn.Conv2d(4, 6, 3, padding=1, bias=False)
    x = torch.rand(1, 4, 5, 5)
    expected = conv(x).unflatten(1, (3, 2)).mean(1)
    torch.testing.assert_close(last_convolution(conv, x, True, phases=2), expected)
