"""Images with errors: both from one forward, and the image is the same bit for bit."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.tiny import tiny_error_head, tiny_folder, tiny_net, trusted_folder
from napari_swin2sr.engine import upscaler as module
from napari_swin2sr.engine.backends import SWITCH
from napari_swin2sr.engine.cpu_torch import CpuForward
from napari_swin2sr.engine.cuda import GpuForward
from napari_swin2sr.engine.reference import ModelHandle
from napari_swin2sr.engine.upscaler import Upscaler, load_model
from napari_swin2sr.errors import OptionError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def tiles(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def expected_error(x: np.ndarray, **changes: Any) -> np.ndarray:
    """Compute the error from the features that transformers calls by that name."""
    net, head = tiny_net(**changes), tiny_error_head(**changes)
    with torch.no_grad():
        pixels = torch.from_numpy(x).expand(-1, 3, -1, -1)
        features = net.swin2sr(pixels).last_hidden_state
        gathered = F.conv2d(features, head.gather.weight, head.gather.bias, padding=1)
        energy = (gathered**2 + 1e-4).log()
        mix = head.mix.weight[:, :, 0, 0]
        width = torch.einsum("oc,nchw->nohw", mix, energy)
        width = width + head.mix.bias[:, None, None]
        n, _, h, w = width.shape
        u = net.config.upscale
        width = torch.log1p(width.exp()).view(n, 3, u, u, h, w)
        width = width.permute(0, 1, 4, 2, 5, 3).reshape(n, 3, u * h, u * w)
    return (width if x.shape[1] == 3 else width.mean(1, keepdim=True)).numpy()


@pytest.mark.parametrize("way", ["0", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_is_the_same_and_the_error_belongs_to_it(
    way: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, way)
    upscaler = Upscaler(tiny_net(), "cpu", error_head=tiny_error_head())
    x = tiles(2, channels, 16, 24)
    image, error = upscaler.with_error(x)
    np.testing.assert_array_equal(image, upscaler(x))
    assert error.shape == image.shape
    assert error.min() >= 0
    np.testing.assert_allclose(error, expected_error(x), rtol=1e-4, atol=1e-5)


def test_sub_tiles_change_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    net, head, x = tiny_net(), tiny_error_head(), tiles(2, 1, 16, 128)
    image, error = Upscaler(net, "cpu", error_head=head).with_error(x)

    def limited(run: object, *_: object) -> object:
        def forward(x: Tensor, **options: object) -> Tensor:
            if x[:, 0].numel() > 16 * 96:
                raise torch.OutOfMemoryError("out of memory")
            return net.upscale_tile(x, **options)  # type: ignore[arg-type]

        return forward

    monkeypatch.setattr(module, "prepare", limited)
    cut = Upscaler(net, "cpu", error_head=head)
    again, cut_error = cut.with_error(x)
    np.testing.assert_array_equal(again, cut(x))
    np.testing.assert_allclose(again, image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(cut_error, error, rtol=1e-3)  # of logarithms near 0


@pytest.mark.parametrize("upsampler", ["pixelshuffle", "nearest+conv", ""])
def test_every_kind_of_network(upsampler: str) -> None:
    upscale = {"nearest+conv": 4, "": 1}.get(upsampler, 2)
    changes: dict[str, Any] = {"upsampler": upsampler, "upscale": upscale}
    upscaler = Upscaler(
        tiny_net(**changes), "cpu", error_head=tiny_error_head(**changes)
    )
    x = tiles(1, 3, 8, 8)
    image, error = upscaler.with_error(x)
    np.testing.assert_array_equal(image, upscaler(x))
    np.testing.assert_allclose(
        error, expected_error(x, **changes), rtol=1e-4, atol=1e-5
    )


def test_the_operations_for_a_gpu() -> None:
    x = torch.from_numpy(tiles(1, 3, 16, 16))
    forward = GpuForward(tiny_net(), torch.device("cpu"), "fp32", fuse=False)
    with torch.inference_mode():
        both = forward(x, error_head=tiny_error_head())
        image = forward(x)
    np.testing.assert_array_equal(both[:, :3], image)
    np.testing.assert_allclose(
        both[:, 3:], expected_error(x.numpy()), rtol=1e-4, atol=1e-5
    )


def test_what_lies_beyond_the_halo_changes_nothing() -> None:
    net, head = tiny_net(), tiny_error_head()
    halo = net.config.exact_halo
    x = torch.from_numpy(tiles(1, 3, 8, 2 * halo + 8))
    other = x.clone()
    other[..., 0] += 1  # farther than the halo from what is compared
    forward = CpuForward(net)
    both = [forward(v, error_head=head)[..., 2 * (halo + 1) :] for v in (x, other)]
    for channels in (slice(3), slice(3, 6)):
        near = [x[:, channels] for x in both]
        np.testing.assert_allclose(*near, rtol=0, atol=4e-6)


def test_an_empty_batch() -> None:
    upscaler = Upscaler(tiny_net(), "cpu", error_head=tiny_error_head())
    image, error = upscaler.with_error(tiles(0, 3, 8, 8))
    assert image.shape == error.shape == (0, 3, 16, 16)


def test_without_an_error_head() -> None:
    upscaler = Upscaler(tiny_net(), "cpu", name="tiny")
    assert not upscaler.has_error
    with pytest.raises(OptionError, match=r"tiny has no error head.*calibrate makes"):
        upscaler.with_error(tiles(1, 3, 8, 8))


# -- files ----------------------------------------------------------------------------


def test_a_folder_with_an_error_head(tmp_path: Path) -> None:
    x = tiles(1, 3, 16, 16)
    upscaler = load_model(trusted_folder(tmp_path), device="cpu")
    assert upscaler.has_error
    np.testing.assert_allclose(
        upscaler.with_error(x)[1], expected_error(x), rtol=1e-4, atol=1e-5
    )
    handle = pickle.loads(pickle.dumps(ModelHandle.open(tmp_path, "cpu")))
    assert handle.has_error
    for ours, theirs in zip(handle.with_error(x), upscaler.with_error(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_equal_weights_with_and_without_a_head_are_two_models(tmp_path: Path) -> None:
    plain = load_model(tiny_folder(tmp_path / "plain"), device="cpu")
    trusted = load_model(trusted_folder(tmp_path / "trusted"), device="cpu")
    assert (plain.has_error, trusted.has_error) == (False, True)
    tokens = {
        ModelHandle.open(tmp_path / name).__dask_tokenize__()
        for name in ("plain", "trusted")
    }
    assert len(tokens) == 2


def test_a_head_of_other_weights_is_not_used(tmp_path: Path) -> None:
    trusted_folder(tmp_path, seed=1)
    tiny_folder(tmp_path, seed=2)
    assert not load_model(tmp_path, device="cpu").has_error


def test_a_damaged_head_is_refused(tmp_path: Path) -> None:
    file = trusted_folder(tmp_path) / "trust.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=r"trust\.safetensors"):
        load_model(tmp_path, device="cpu")


def test_a_head_of_another_network_is_refused(tmp_path: Path) -> None:
    from napari_swin2sr.weights.download import file_sha256
    from napari_swin2sr.weights.error_head import write_error_head

    tiny_folder(tmp_path)
    write_error_head(
        tiny_error_head(embed_dim=24).state_dict(),
        tmp_path,
        file_sha256(tmp_path / "model.safetensors"),
    )
    with pytest.raises(WeightsError, match="no error head for this network"):
        load_model(tmp_path, device="cpu")
