"""A small read computes what it needs, and gives the pixels of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_swin2sr.engine import upscaler
from napari_swin2sr.upscale import apply


@pytest.fixture
def seen(monkeypatch):
    """Note the size of every tile that reaches the network."""
    sizes, run = [], upscaler.Upscaler._run

    def noting(self, x, forward):
        sizes.append(tuple(x.shape[-2:]))
        return run(self, x, forward)

    monkeypatch.setattr(upscaler.Upscaler, "_run", noting)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield sizes
    torch.set_num_threads(before)


@pytest.mark.parametrize("halo", [16, None])
def test_any_slice_is_that_of_the_whole(halo, seen):
    image = np.random.default_rng(0).integers(0, 255, (300, 277), np.uint8)
    image[130:150, 20:60] = 7
    options = {"halo": halo, "nodata": 7, "dtype": "float32"}
    whole = np.asarray(apply(image, **options))
    (full,) = seen
    for small, key in (
        (True, np.s_[:100, :100]),
        (True, np.s_[301, 250]),
        (True, np.s_[590:, 500:]),
        (False, np.s_[200:400:3, 550:500:-1]),
        (False, np.s_[[1, 90, 5], 60:200]),
        (False, np.s_[4, [7, 3]]),
    ):
        seen.clear()
        part = apply(image, **options)[key].compute()
        np.testing.assert_allclose(part, whole[key], rtol=0, atol=2e-3)
        assert not small or [2 * h * w < full[0] * full[1] for h, w in seen] == [True]


def test_most_of_a_tile_is_computed_in_one_piece_and_kept(seen):
    image = np.random.default_rng(0).integers(0, 255, (160, 160), np.uint8)
    lazy = apply(image)
    lazy[:300, :310].compute()
    assert seen == [(168, 168)]
    lazy[:10, :10].compute()  # in the cache
    assert len(seen) == 1
