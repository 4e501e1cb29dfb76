"""Choosing a model, and warning of one that does not suit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import skimage.data

import napari_swin2sr as nsr


def camera(photons: float | None) -> np.ndarray:
    image = skimage.data.camera()[::2, ::2] / 255
    if photons is None:
        return (255 * image).astype(np.float32)
    counts = np.random.default_rng(0).poisson(image * photons)
    return (255 * counts / photons).astype(np.float32)


def test_auto_takes_the_recommendation_and_says_so(caplog) -> None:
    image = camera(60)
    result = nsr.apply(image, model="auto")
    assert "model='auto' takes 'default': noisy" in caplog.text
    expected = nsr.apply(image, model="default")
    np.testing.assert_array_equal(result[:64, :64], expected[:64, :64])


def test_a_model_for_clean_images_warns_on_a_noisy_one(caplog) -> None:
    nsr.apply(camera(60), model="default-clean")
    assert "amplifies noise" in caplog.text
    assert "model='default' removes noise" in caplog.text


@pytest.mark.parametrize("model", ["default", "default-clean"])
def test_no_warning_without_a_reason(caplog, model: str) -> None:
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(0, 1, (256, 256)), 0), 1)
    with caplog.at_level(logging.WARNING):
        nsr.apply(smooth.astype(np.float32), model=model)
    assert "noise" not in caplog.text


class Counted:
    """An array-like that remembers which blocks were read of it."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.reads = []

    def __getitem__(self, index):
        self.reads.append(str(index))
        return self.array[index]


@pytest.mark.parametrize("model", ["auto", "default-clean"])
def test_the_sample_is_read_once(model: str, monkeypatch) -> None:
    source = Counted(np.tile(camera(60), (3, 3)))
    nsr.apply(source, model=model)
    assert len(source.reads) == len(set(source.reads)) > 1
    nsr.inspect(again := Counted(source.array))
    assert sorted(again.reads) == sorted(source.reads)
    # What does not fit is read again, and says the same.
    monkeypatch.setattr("napari_swin2sr.image.sources.READ_ONCE_BYTES", 0)
    more = Counted(source.array)
    assert nsr.inspect(more) == nsr.inspect(source)
    assert len(more.reads) > len(set(more.reads))
