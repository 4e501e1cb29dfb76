"""Reading, refusing, splitting and cropping training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers.training_images import image_folder, texture
from napari_swin2sr.errors import FileError, InputError, OptionError
from napari_swin2sr.training.data import (
    Sampler,
    find_images,
    held_out,
    load_images,
    read_sources,
    turn,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_every_kind_of_image_is_found_read_and_normalized(tmp_path: Path) -> None:
    images = load_images([image_folder(tmp_path)], min_size=96, validation=0.25)
    assert images.kinds == {"color": 3, "gray": 3}
    assert len(images.validation) == 2
    assert images.skipped == ()
    for source in images.training:
        crop = source.crop(0, 0, 128)
        assert crop.dtype == np.float32
        assert source.rgb == (source.kind == "color")
        assert len(crop) == (3 if source.rgb else 1)
        assert -0.1 <= crop.min() < 0.3
        assert 0.7 < crop.max() <= 1.5


def test_the_split_depends_on_names_alone(tmp_path: Path) -> None:
    paths = [tmp_path / f"image{i}.tif" for i in range(40)]
    moved = [tmp_path / "elsewhere" / path.name for path in reversed(paths)]
    chosen = {path.name for path in held_out(paths, 0.15)}
    assert len(chosen) == 6
    assert {path.name for path in held_out(moved, 0.15)} == chosen
    assert len(held_out(paths[:1], 0.5)) == 0
    assert len(held_out(paths[:2], 0.9)) == 1


def test_planes_of_a_stack_are_images_of_their_own(tmp_path: Path) -> None:
    stack = np.stack([texture(i)[..., 0] for i in range(3)])
    path = tmp_path / "stack.tif"
    tifffile.imwrite(
        path,
        (stack * 900).astype(np.uint16),
        metadata={"axes": "ZYX"},
        photometric="minisblack",
    )
    sources = read_sources(path, "", 96)
    assert [source.pixels.shape for source in sources] == [(1, 128, 128)] * 3


def test_channels_stay_together_for_false_colors(tmp_path: Path) -> None:
    planes = np.stack([texture(i)[..., 0] for i in range(4)])
    path = tmp_path / "bands.ome.tif"
    tifffile.imwrite(
        path,
        (planes * 900).astype(np.uint16),
        metadata={"axes": "CYX"},
        photometric="minisblack",
    )
    (source,) = read_sources(path, "", 96)
    assert source.pixels.shape == (4, 128, 128)
    assert not source.rgb
    crop, _ = Sampler([source]).draw(32, np.random.default_rng(1))
    assert crop.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.full((112, 112), 7, np.uint8), "constant"),
        (np.full((112, 112), 7, np.uint16), "constant"),
        (np.full((112, 112), np.nan, np.float32), "not finite"),
        (np.zeros((20, 200), np.uint8), "200 x 20 pixels are too few.* 96 x 96"),
        (np.zeros((112, 112), np.complex64), "complex64"),
    ],
)
def test_unusable_images_are_refused_with_the_reason(
    tmp_path: Path, pixels: np.ndarray, reason: str
) -> None:
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, pixels)
    with pytest.raises((InputError, FileError), match=reason):
        read_sources(path, "", 96)


def test_bad_files_are_left_out_and_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path)
    (folder / "color" / "broken.png").write_bytes(b"not an image")
    images = load_images([folder], min_size=96)
    assert len(images.skipped) == 1
    assert "broken.png" in images.skipped[0]


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(FileError, match=r"no images in this folder.*\.png"):
        find_images(tmp_path)
    levels = (texture(0, 3) * 255).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "only.png")
    with pytest.raises(InputError, match="at least two are needed"):
        load_images([tmp_path], min_size=96)


def test_crops_repeat_with_the_seed_and_obey_the_mix(tmp_path: Path) -> None:
    images = load_images([image_folder(tmp_path)], min_size=96)
    only = Sampler(images.training, {"gray": 1.0})
    for seed in range(8):
        crop, gray = only.draw(64, np.random.default_rng(seed))
        again, _ = only.draw(64, np.random.default_rng(seed))
        assert gray
        np.testing.assert_array_equal(crop, again)
        np.testing.assert_array_equal(crop[0], crop[1])
        assert crop.dtype == np.float32
    with pytest.raises(OptionError, match=r"mix names 'blue'.*'color', 'gray'"):
        Sampler(images.training, {"blue": 1.0})


def test_the_eight_turns_are_different_and_complete() -> None:
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    turned = {turn(image, number).tobytes() for number in range(8)}
    assert len(turned) == 8
