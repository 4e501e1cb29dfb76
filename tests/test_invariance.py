"""The result does not depend on how the image was cut: a real image, real weights."""

from __future__ import annotations

import logging
from typing import Any

import dask.array as da
import numpy as np
import pytest
import skimage.data

import napari_swin2sr as nsr
from helpers.reference import whole_pass
from helpers.shared import shared_path
from napari_swin2sr.model.swin2sr import load_network
from napari_swin2sr.weights.catalog import resolve_model

logger = logging.getLogger(__name__)

SIDE = 384

LAYOUTS = {
    "one chunk": (SIDE, SIDE),
    "64 px": (64, 64),
    "off the grid": (100, 90),
    "lines": (1, SIDE),
    "uneven": ((3, 250, 131), (383, 1)),
}

EXACT = 2e-6
"""Of the value range: two orders of summation of float32."""


def photograph() -> np.ndarray:
    """Return a part of scikit-image's `camera` with fine texture and hard edges."""
    return np.ascontiguousarray(skimage.data.camera()[60 : 60 + SIDE, 100 : 100 + SIDE])


def whole(model: str) -> np.ndarray:
    """Run the photograph in one piece, padded and cropped as the reference does."""
    resolved = resolve_model(model)
    net = load_network(resolved.path, resolved.config)
    return whole_pass(net, photograph()[None] / np.float32(255))[0]


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return whole("default")


@pytest.fixture(scope="module")
def lightweight() -> str:
    return str(shared_path("weights", "swin2sr-lightweight-x2-64"))


@pytest.fixture(scope="module")
def lightweight_reference(lightweight: str) -> np.ndarray:
    return whole(lightweight)


def tiled(source: Any, model: str = "default", **options: Any) -> np.ndarray:
    """Run tile by tile, in float32 before rounding, 0 to 1."""
    lazy = nsr.apply(source, model, value_range=(0, 255), dtype="float32", **options)
    return lazy.compute(scheduler="sync") / 255


@pytest.fixture(scope="module")
def unchunked() -> np.ndarray:
    return tiled(photograph(), tile=192, halo="exact")


def levels_apart(a: np.ndarray, b: np.ndarray, levels: int) -> tuple[int, int]:
    """Return the largest difference after rounding, and how many pixels differ."""
    rounded = (np.rint(np.clip(x, 0, 1) * levels).astype(int) for x in (a, b))
    difference = abs(np.subtract(*rounded))
    return int(difference.max()), int(np.count_nonzero(difference))


@pytest.mark.parametrize("tile", [48, 64, 100, 128])
def test_exact_halo_gives_the_whole_image_whatever_the_tile(
    tile: int, reference: np.ndarray
) -> None:
    result = tiled(photograph(), tile=tile, halo="exact")
    error = abs(result - reference).max()
    logger.info("%s: %s", "error", error)
    assert error <= EXACT
    for levels in (255, 65535):
        apart, differing = levels_apart(result, reference, levels)
        logger.info("%s: %s", f"pixels_one_level_apart_of_{levels}", differing)
        assert apart <= 1
        assert differing <= result.size // (100 if levels > 255 else 10_000)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_of_the_source_change_no_bit(
    layout: str, reference: np.ndarray, unchunked: np.ndarray
) -> None:
    """Tiles are cut from the image's corner, whatever the chunks are."""
    source = da.from_array(photograph(), chunks=LAYOUTS[layout])
    result = tiled(source, tile=192, halo="exact")
    assert abs(result - reference).max() <= EXACT
    np.testing.assert_array_equal(result, unchunked)


def test_chunks_of_the_result_change_no_bit(reference: np.ndarray) -> None:
    lazy = nsr.apply(photograph(), tile=192, value_range=(0, 255), dtype="float32")
    again = lazy.rechunk((100, 90)).compute()
    assert abs(again / 255 - reference).max() <= 1e-3
    np.testing.assert_array_equal(again[300:420, 5:99], lazy[300:420, 5:99].compute())


def test_integers_are_at_most_one_level_from_the_whole_image(
    reference: np.ndarray,
) -> None:
    result = nsr.apply(photograph(), tile=100).compute()
    assert result.dtype == np.uint8
    apart, differing = levels_apart(result / 255, reference, 255)
    logger.info("%s: %s", "differing_pixels", differing)
    assert apart <= 1
    assert differing <= result.size // 1000


def test_default_halo_of_the_official_network(
    lightweight: str, lightweight_reference: np.ndarray
) -> None:
    """24 layers reach 104 px; the default, 48 px, must be within 1/1000."""
    result = tiled(photograph(), lightweight, tile=128)
    error = abs(result - lightweight_reference).max()
    logger.info("%s: %s", "error", error)
    assert 0 < error <= 1e-3
    apart, differing = levels_apart(result, lightweight_reference, 255)
    logger.info("%s: %s", "differing_pixels", differing)
    assert apart <= 1
    assert differing <= result.size // 1000


@pytest.mark.slow
@pytest.mark.parametrize("tile", [48, 64, 100, 128])
def test_exact_halo_of_the_official_network(
    tile: int, lightweight: str, lightweight_reference: np.ndarray
) -> None:
    result = tiled(photograph(), lightweight, tile=tile, halo="exact")
    error = abs(result - lightweight_reference).max()
    logger.info("%s: %s", "error", error)
    assert error <= EXACT
