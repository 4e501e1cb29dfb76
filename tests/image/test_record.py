"""Half-pixel arithmetic: two grids of pixels over one image share their corners."""

from __future__ import annotations

import numpy as np
import pytest

from napari_swin2sr.formats.geo_tags import GeoTags
from napari_swin2sr.image.record import SpatialImage, center_shift, pixel_centers

FACTORS = [2, 3, 4, 0.5, 0.25]


@pytest.mark.parametrize("factor", FACTORS)
def test_both_grids_cover_the_same_ground(factor):
    old = np.zeros((5, 24, 48))
    new = np.zeros((5, int(24 * factor), int(48 * factor)))
    image = SpatialImage(
        data=old,
        axes="ZYX",
        pixel_size={"Z": 2.0, "Y": 0.5, "X": 0.25},
        origin={"Z": 7.0, "Y": 1.0},
    )
    scaled = image.scaled(new, {"Y": factor, "X": factor})

    def ground(image):
        """Return where each axis begins and ends."""
        first = [image.origin.get(a, 0) - image.pixel_size[a] / 2 for a in "ZYX"]
        ends = zip("ZYX", first, image.shape, strict=True)
        return first, [f + n * image.pixel_size[a] for a, f, n in ends]

    np.testing.assert_allclose(ground(scaled), ground(image))
    assert scaled.data is new


@pytest.mark.parametrize("factor", FACTORS)
def test_a_place_keeps_its_coordinates(factor):
    transform = (3.0, 0.5, 100.0, 0.25, -2.0, 200.0)
    tags = GeoTags(ground_points=((4.0, 6.0, 0.0, 10.0, 20.0, 0.0),))
    image = SpatialImage(
        data=np.zeros((8, 8)), axes="YX", transform=transform, geo_tags=tags
    )
    scaled = image.scaled(image.data, {"Y": factor, "X": 2 * factor})

    def world(image, column, row):
        a, b, c, d, e, f = image.transform
        return a * column + b * row + c, d * column + e * row + f

    for column, row in ((0, 0), (3, 5), (8, 8)):
        np.testing.assert_allclose(
            world(scaled, column * 2 * factor, row * factor), world(image, column, row)
        )
    assert scaled.geo_tags.ground_points == (
        (8 * factor, 6 * factor, 0.0, 10.0, 20.0, 0.0),
    )


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_the_centers_of_an_old_pixels_parts_have_its_center_as_mean(factor):
    centers = pixel_centers(5, factor)
    np.testing.assert_allclose(centers.reshape(5, factor).mean(1), np.arange(5))
    np.testing.assert_allclose(np.diff(centers), 1 / factor)
    assert centers[0] == pytest.approx(center_shift(factor))
