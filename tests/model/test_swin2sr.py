"""The network against the authors' outputs, and transformers where it is right."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch

from helpers.golden import (
    TOLERANCE,
    VARIANTS,
    make_config,
    make_network,
    pad_like_reference,
    read_cases,
)
from napari_swin2sr.errors import InputError
from napari_swin2sr.model import (
    Swin2SRConfig,
    Swin2SRForImageSuperResolution,
    Swin2SRImageProcessor,
    Swin2SRModel,
)
from napari_swin2sr.model.windows import (
    from_windows,
    pad_to_window,
    shift_mask,
    to_windows,
)
from napari_swin2sr.weights.state_dict import offset_tables

SIZES = [(8, 8), (16, 24), (40, 8)]

# transformers has no 3conv after the body, and is wrong for these heads
WRONG_THERE = (
    "real_x4_large",
    "light_3conv",
    "compressed_x4",
    "jpeg_gray",
    "jpeg_color",
)


def tiny(**values):
    """A network that takes milliseconds."""
    defaults = {"embed_dim": 12, "depths": (2, 1), "num_heads": (2, 3)}
    defaults["upsampler"] = "pixelshuffledirect"
    torch.manual_seed(0)
    net = Swin2SRForImageSuperResolution(Swin2SRConfig(**{**defaults, **values}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net.eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


# -- the authors' network ------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_reference_outputs_of_the_authors(variant):
    net = make_network(variant)
    for case in read_cases(variant):
        height, width = case.x.shape[-2:]
        up, window = net.config.upscale, net.config.window_size
        with torch.inference_mode():
            output = net(pad_like_reference(case.x, window))
        result = output.reconstruction[0, :, : up * height, : up * width]
        limit = TOLERANCE * np.abs(case.y).max()
        np.testing.assert_allclose(result, case.y, rtol=0, atol=limit)
        if case.aux is not None:
            result = output.auxiliary[0, :, :height, :width]
            limit = TOLERANCE * np.abs(case.aux).max()
            np.testing.assert_allclose(result, case.aux, rtol=0, atol=limit)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_that_are_no_multiple_are_padded_as_the_reference_does(variant):
    net = make_network(variant)
    for case in read_cases(variant):
        if any(side % net.config.window_size == 0 for side in case.x.shape[-2:]):
            continue
        with torch.inference_mode():
            result = net(torch.from_numpy(case.x)[None]).reconstruction[0]
        limit = TOLERANCE * np.abs(case.y).max()
        np.testing.assert_allclose(result, case.y, rtol=0, atol=limit)


# -- transformers --------------------------------------------------------------------


def their_network(net):
    """The network of transformers with the same configuration and weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Swin2SRConfig.from_dict(net.config.to_dict())
    theirs = transformers.Swin2SRForImageSuperResolution(config).eval()
    theirs.load_state_dict(net.state_dict(), strict=True)
    return theirs


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in WRONG_THERE])
def test_transformers_gives_the_same(variant):
    net = make_network(variant)
    theirs = their_network(net)
    for size in SIZES:
        x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(size[0]))
        with torch.inference_mode():
            expected = theirs(x).reconstruction
            features = theirs.swin2sr(x).last_hidden_state
            result, ours = net(x).reconstruction, net.swin2sr(x).last_hidden_state
        limit = TOLERANCE * expected.abs().max().item()
        torch.testing.assert_close(result, expected, rtol=0, atol=limit)
        limit = TOLERANCE * features.abs().max().item()
        torch.testing.assert_close(ours, features, rtol=0, atol=limit)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_have_the_names_and_shapes_of_transformers(variant):
    transformers = pytest.importorskip("transformers")
    config = make_config(variant)
    ours = Swin2SRForImageSuperResolution(config).state_dict()
    theirs = transformers.Swin2SRForImageSuperResolution(
        transformers.Swin2SRConfig.from_dict(config.to_dict())
    ).state_dict()
    if config.resi_connection == "3conv":  # no place for it there
        for state in (ours, theirs):
            for key in [k for k in state if "conv_after_body" in k]:
                del state[key]
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in theirs.items()
    }


@pytest.mark.parametrize(
    "values",
    [
        {"qkv_bias": False},
        {"mlp_ratio": 1.5, "layer_norm_eps": 1e-3},
        {"image_size": 8},  # windows are not shifted
        {"image_size": 4},  # the window shrinks
        {"num_channels": 1, "img_range": 2.0},
        {"window_size": 5},
        {"num_channels": 5, "upscale": 5},
    ],
    ids=str,
)
def test_transformers_gives_the_same_for_unusual_configurations(values):
    net = tiny(**values)
    side = 2 * net.config.window_size
    x = torch.rand(1, net.config.num_channels, side, 3 * side)
    with torch.inference_mode():
        expected, result = their_network(net)(x), net(x)
    torch.testing.assert_close(
        result.reconstruction, expected.reconstruction, rtol=0, atol=4e-6
    )


def test_hidden_states_attentions_and_tuples_are_those_of_transformers(images):
    net = tiny()
    wanted = {"output_hidden_states": True, "output_attentions": True}
    with torch.inference_mode():
        theirs, ours = their_network(net)(images, **wanted), net(images, **wanted)
        plain = net(images, return_dict=False)
        features = net.swin2sr(images, return_dict=False, **wanted)
    assert list(ours) == list(ours.keys()) == list(theirs.keys())
    for name in ("hidden_states", "attentions"):
        assert len(ours[name]) == len(theirs[name])
        for a, b in zip(ours[name], theirs[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert [type(x) for x in features] == [torch.Tensor, tuple, tuple]
    assert ours[0] is ours.reconstruction
    assert len(ours) == 3
    assert isinstance(plain, tuple)
    torch.testing.assert_close(plain[0], ours["reconstruction"])
    with pytest.raises(KeyError):
        ours["loss"]


def test_the_documented_example_of_transformers(tmp_path):
    """Only the import line differs (and a folder stands for the name on the hub)."""
    from PIL import Image

    from napari_swin2sr.weights.config import Swin2SRConfig

    folder = tmp_path / "model"
    tiny().save_pretrained(folder)
    Swin2SRImageProcessor().save_pretrained(folder)
    assert Swin2SRConfig.from_pretrained(folder) == tiny().config
    pixels = np.random.default_rng(0).integers(0, 256, (21, 16, 3), np.uint8)

    processor = Swin2SRImageProcessor.from_pretrained(folder)
    model = Swin2SRForImageSuperResolution.from_pretrained(folder)
    image = Image.fromarray(pixels)
    # prepare image for the model
    inputs = processor(image, return_tensors="pt")
    # forward pass
    with torch.no_grad():
        outputs = model(**inputs)
    output = outputs.reconstruction.data.squeeze().float().cpu().clamp_(0, 1).numpy()
    output = np.moveaxis(output, source=0, destination=-1)
    output = (output * 255.0).round().astype(np.uint8)  # float32 to uint8

    assert output.shape == (48, 48, 3)  # 24 x 24 after padding, twice as large
    theirs = their_network(tiny())
    with torch.no_grad():
        expected = theirs(**inputs).reconstruction[0].clamp(0, 1).permute(1, 2, 0)
    difference = np.abs(output - (expected.numpy() * 255).round())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001
    features = Swin2SRModel.from_pretrained(folder)(**inputs).last_hidden_state
    assert features.shape == (1, 12, 24, 24)


# -- any size, any use ---------------------------------------------------------------


@pytest.mark.parametrize("window", [7, 8])
def test_every_size_from_one_pixel(window):
    net = tiny(window_size=window, depths=(2,), num_heads=(2,))
    for height in range(1, 25):
        x = torch.rand(1, 3, height, 25 - height)
        with torch.inference_mode():
            y, features = net(x).reconstruction, net.swin2sr(x).last_hidden_state
        assert y.shape == (1, 3, 2 * height, 2 * (25 - height))
        assert features.shape == (1, 12, height, 25 - height)
        assert y.isfinite().all()


def test_padding_is_that_of_numpy():
    for height in range(1, 20):
        x = torch.rand(1, 2, height, 20 - height)
        padded = pad_to_window(x, 8)
        extra = [(0, -side % 8) for side in x.shape[-2:]]
        expected = np.pad(x.numpy(), ((0, 0), (0, 0), *extra), mode="symmetric")
        np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize(
    "shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8), (1, 3, 8, 8, 8)]
)
def test_wrong_shapes_are_refused_with_the_shape(shape):
    net = tiny()
    for call in (net, net.swin2sr):
        with pytest.raises(InputError, match=r"takes \(N, 3, H, W\)"):
            call(torch.zeros(shape))


def test_labels_give_the_mean_absolute_difference_and_gradients_flow(images):
    net = tiny(upsampler="pixelshuffle_aux", upscale=4).train()
    labels = torch.rand(2, 3, 64, 96)
    output = net(images, labels=labels)
    expected = (output.reconstruction - labels).abs().mean()
    torch.testing.assert_close(output.loss, expected)
    assert output[0] is output.loss
    output.loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_are_those_of_transformers(images):
    net = tiny()
    theirs = their_network(net)
    labels = torch.rand(2, 3, 32, 48)
    net(images, labels=labels).loss.backward()
    (theirs(images).reconstruction - labels).abs().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in net.named_parameters():
        limit = 1e-4 * expected[name].grad.abs().max().item() + 1e-8
        torch.testing.assert_close(
            parameter.grad, expected[name].grad, rtol=0, atol=limit
        )


def test_training_after_inference_mode_works(images):
    """No table made inside inference mode is kept and breaks the backward pass."""
    net = tiny()
    with torch.inference_mode():
        net(images)
    net(images).reconstruction.sum().backward()


def test_threads_share_a_network_and_a_pass_changes_nothing(images):
    net = tiny()
    before = copy.deepcopy(dict(net.named_buffers()) | net.state_dict())
    inputs = [torch.rand(1, 3, 8 * (1 + i % 3), 16) for i in range(6)]
    with torch.inference_mode():
        expected = [net(x).reconstruction for x in inputs]
    results: list[Any] = [None] * len(inputs)

    def work(i):
        with torch.inference_mode():
            for _ in range(5):
                results[i] = net(inputs[i]).reconstruction

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=0, atol=1e-6)
    after = dict(net.named_buffers()) | net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_batch_gives_what_its_images_give(images):
    net = tiny()
    with torch.inference_mode():
        together = net(images).reconstruction
        single = torch.cat([net(x[None]).reconstruction for x in images])
    torch.testing.assert_close(together, single, rtol=0, atol=4e-6)


def test_nothing_that_is_derived_is_saved():
    names = set(tiny().state_dict())
    assert not [n for n in names if "mean" in n or "offset" in n or "mask" in n]


def test_device_and_dtype_are_those_of_the_weights():
    net = tiny()
    assert (net.device.type, net.dtype) == ("cpu", torch.float32)
    assert net.double().dtype == torch.float64


def test_half_precision_networks_run(images):
    net = tiny().to(torch.bfloat16)
    with torch.inference_mode():
        result = net(images.to(torch.bfloat16)).reconstruction
    assert result.dtype == torch.bfloat16


# -- inference entry -----------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_tiles_give_the_reconstruction(variant):
    net = make_network(variant)
    x = torch.rand(2, net.config.num_channels, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(net.upscale_tile(x), net(x).reconstruction)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "jpeg_gray"])
def test_grey_tiles_give_the_mean_of_the_channels(variant):
    net = make_network(variant)
    grey = torch.rand(2, 1, 16, 24)
    with torch.inference_mode():
        expected = net(grey.expand(-1, 3, -1, -1)).reconstruction.mean(1, keepdim=True)
        result = net.upscale_tile(grey)
    assert result.shape == expected.shape
    limit = TOLERANCE * expected.abs().max().item()
    torch.testing.assert_close(result, expected, rtol=0, atol=limit)


# -- windows -------------------------------------------------------------------------


def test_windows_are_cut_in_reading_order_and_put_together_again():
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    windows = to_windows(x, 2)
    assert windows.shape == (2, 6, 4, 3)
    np.testing.assert_array_equal(windows[1, 4, :, 0], x[1, 2:4, 2:4, 0].flatten())
    assert torch.equal(from_windows(windows, 4, 6, 2), x)


def test_mask_by_brute_force():
    height, width, window, shift = 6, 9, 3, 1
    mask = shift_mask(height, width, window, shift, torch.zeros(1))
    assert mask.shape == (6, 1, 9, 9)
    position = torch.arange(height * width).view(1, height, width, 1)
    rolled = position.roll((-shift, -shift), (1, 2))
    for number, pixels in enumerate(to_windows(rolled, window)[0, ..., 0]):
        y, x = (pixels // width).tolist(), (pixels % width).tolist()
        for i in range(9):
            for j in range(9):
                near = abs(y[i] - y[j]) < window and abs(x[i] - x[j]) < window
                assert mask[number, 0, i, j] == (0 if near else -100)


def test_offset_tables_by_brute_force():
    offsets, index = offset_tables(3)
    assert offsets.shape == (25, 2)
    for i in range(9):
        for j in range(9):
            steps = np.array([i // 3 - j // 3, i % 3 - j % 3]) / 2 * 8
            expected = np.sign(steps) * np.log2(np.abs(steps) + 1) / np.log2(8)
            np.testing.assert_allclose(offsets[index[i, j]], expected, rtol=1e-6)
    assert offset_tables(1)[0].tolist() == [[0, 0]]
