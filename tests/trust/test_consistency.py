"""Super-resolved images against their source."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import skimage.measure

from napari_swin2sr.errors import InputError
from napari_swin2sr.trust.consistency import consistency


def pair(gain: float = 0.25, read: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy source and the true scene at twice its resolution."""
    truth = skimage.data.camera().astype(float)
    clean = skimage.measure.block_reduce(truth, 2, np.mean)
    rng = np.random.default_rng(0)
    return rng.poisson(clean / gain) * gain + rng.normal(0, read, clean.shape), truth


def test_the_true_scene_is_consistent() -> None:
    """|z| > 3 in 0.27 +- 0.25 % of the pixels, as for a normal distribution."""
    source, truth = pair()
    z = consistency(source, truth).z.compute()
    assert z.dtype == np.float32
    assert z.shape == source.shape
    assert abs(np.mean(np.abs(z) > 3) - 0.0027) < 0.0025
    assert z.std() == pytest.approx(1, abs=0.1)


def test_light_that_was_invented_or_lost_is_seen() -> None:
    source, truth = pair()
    rng = np.random.default_rng(1)
    for y, x in rng.integers(0, 256, (20, 2)):
        edited = truth.copy()
        sigma = np.sqrt(0.25 * source[y, x] + 4)
        edited[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] += 8 * sigma
        assert consistency(source, edited).z[y, x].compute() < -3


def test_a_pattern_of_mean_zero_shows_in_added_detail_only() -> None:
    source, truth = pair()
    edited = truth.copy()
    edited[100:102, 200:202] += [[40, -40], [-40, 40]]
    before, after = consistency(source, truth), consistency(source, edited)
    np.testing.assert_allclose(after.z.compute(), before.z.compute(), atol=1e-4)
    change = (after.added - before.added)[100:102, 200:202].compute()
    assert np.abs(change).min() > 5


def test_added_detail_against_scipy() -> None:
    """Away from edges, the interpolation is a convolution with Keys' cubic."""
    source, truth = pair()
    added = consistency(source, truth).added.compute()
    binned = skimage.measure.block_reduce(truth, 2, np.mean)
    wide = np.zeros((512, 512))
    wide[::2, ::2] = binned
    t = np.abs((np.arange(-4, 4) + 0.5) / 2)  # a new center to its neighbors
    keys = np.where(
        t < 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    )
    smooth = scipy.ndimage.convolve1d(wide, keys, axis=0, origin=-1)
    smooth = scipy.ndimage.convolve1d(smooth, keys, axis=1, origin=-1)
    inner = (slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(added[inner], np.abs(truth - smooth)[inner], atol=1e-3)


def test_chunks_change_nothing() -> None:
    source, truth = pair()
    whole = consistency(source, truth)
    cut = consistency(da.from_array(source, chunks=(100, 77)), truth)
    np.testing.assert_array_equal(cut.z.compute(), whole.z.compute())
    np.testing.assert_array_equal(cut.added.compute(), whole.added.compute())


def test_channels_have_noise_of_their_own() -> None:
    a, truth = pair(0.25, 2.0)
    b, _ = pair(4.0, 20.0)
    both = consistency(np.stack([a, b]), np.stack([truth, truth]), axes="CYX")
    np.testing.assert_allclose(
        both.z[1].compute(), consistency(b, truth).z.compute(), rtol=1e-5
    )


def test_missing_pixels_stay_missing() -> None:
    source, truth = pair()
    source[3, 5] = np.nan
    result = consistency(source, truth)
    assert np.argwhere(np.isnan(result.z.compute())).tolist() == [[3, 5]]
    holes = np.argwhere(np.isnan(result.added.compute())).tolist()
    assert holes == [[6, 10], [6, 11], [7, 10], [7, 11]]


def test_a_known_sigma_is_taken() -> None:
    source, truth = pair()
    z = consistency(source, truth, sigma=2.0).z.compute()
    binned = skimage.measure.block_reduce(truth, 2, np.mean)
    np.testing.assert_allclose(z, (source - binned) / 2, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "changes", "text"),
    [
        ((511, 512), {}, "same whole number of times"),
        ((512, 768), {}, "same whole number of times"),
        ((2, 512, 512), {}, "does not belong"),
        ((512, 512), {"sigma": -1.0}, "sigma=-1.0 is not a positive"),
        ((512, 512), {"sigma": float("nan")}, "sigma=nan is not a positive"),
    ],
)
def test_what_does_not_belong_together(shape: tuple, changes: dict, text: str) -> None:
    source, _ = pair()
    with pytest.raises(InputError, match=text):
        consistency(source, np.zeros(shape), **changes)
