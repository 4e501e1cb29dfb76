"""The image processor: like that of transformers, for everything it fails on too."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from napari_swin2sr.errors import InputError, OptionError, WeightsError
from napari_swin2sr.model import Swin2SRConfig, Swin2SRImageProcessor


def picture(height, width, channels=3, dtype=np.uint8):
    rng = np.random.default_rng(height * 100 + width)
    shape = (height, width, channels) if channels else (height, width)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("size", [(8, 8), (17, 23), (24, 16), (9, 40), (4, 5)])
def test_same_numbers_as_transformers(size):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Swin2SRImageProcessorPil()
    image = Image.fromarray(picture(*size))
    expected = theirs(image, return_tensors="pt")["pixel_values"]
    actual = Swin2SRImageProcessor()(image, return_tensors="pt")
    assert list(actual) == ["pixel_values"]
    assert actual.pixel_values.dtype == torch.float32
    torch.testing.assert_close(actual["pixel_values"], expected, rtol=0, atol=6e-8)


@pytest.mark.parametrize("height", range(1, 10))
@pytest.mark.parametrize("width", [1, 2, 3, 8, 15])
def test_every_size_is_padded_to_the_line_after_its_last_window(height, width):
    array = picture(height, width)
    result = Swin2SRImageProcessor()(Image.fromarray(array), return_tensors="np")
    tall, wide = (height // 8 + 1) * 8, (width // 8 + 1) * 8
    mirrored = np.concatenate([array, array[::-1]] * 8)[:tall]
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]] * 8, axis=1)[:, :wide]
    expected = mirrored.transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(result["pixel_values"], expected, atol=6e-8)


def test_every_form_of_a_picture_gives_the_same_numbers():
    array = picture(10, 12)
    forms = [
        Image.fromarray(array),
        array,
        array.transpose(2, 0, 1),
        torch.from_numpy(array),
        torch.from_numpy(array.transpose(2, 0, 1).copy()),
        array[None],
        [array],
        array.astype(np.float64),
        array.astype(np.float32),
    ]
    processor = Swin2SRImageProcessor()
    results = [processor(form, return_tensors="np").pixel_values for form in forms]
    for result in results:
        assert result.shape == (1, 3, 16, 16)
        np.testing.assert_allclose(result, results[0], atol=6e-8)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32])
def test_wide_integers_are_divided_by_their_largest_number(dtype):
    array = picture(8, 8, 0, dtype)
    result = Swin2SRImageProcessor(do_pad=False)(array, return_tensors="np")
    expected = array[None, None] / np.iinfo(dtype).max
    np.testing.assert_allclose(result.pixel_values, expected, atol=1e-7)


def test_palettes_and_bits_become_colors():
    image = Image.fromarray(picture(8, 8)).convert("P")
    assert Swin2SRImageProcessor()(image)["pixel_values"][0].shape == (3, 16, 16)
    bits = Image.fromarray(picture(8, 8, 0)).convert("1")
    values = Swin2SRImageProcessor()(bits, return_tensors="np").pixel_values
    assert set(np.unique(values)) == {0.0, 1.0}


def test_scaled_floats_pass_only_when_said():
    array = np.random.default_rng(0).random((8, 8, 3))
    processor = Swin2SRImageProcessor(do_pad=False)
    with pytest.raises(InputError, match="do_rescale=False"):
        processor(array)
    result = processor(array, return_tensors="np", do_rescale=False).pixel_values
    np.testing.assert_array_equal(
        result[0], array.transpose(2, 0, 1).astype(np.float32)
    )
    assert processor(np.zeros((8, 8, 3)), return_tensors="np").pixel_values.max() == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8, 4), np.uint8), "1 or 3 channels"),
        (np.zeros((8, 0, 3), np.uint8), "channels"),
        (np.zeros((2, 3, 8, 8, 8), np.uint8), "2 or 3 axes"),
        (np.zeros((3, 8, 3), np.uint8), "input_data_format"),
        (np.zeros((8, 8), complex), "complex"),
        (np.array(["a"]), "type"),
        ([], "no image"),
        (Image.fromarray(np.zeros((8, 8, 4), np.uint8)), "alpha"),
        ([np.zeros((8, 8), np.uint8), np.zeros((8, 9), np.uint8)], None),
        ([np.zeros((8, 8), np.uint8), np.zeros((8, 16), np.uint8)], "different shapes"),
    ],
)
def test_what_cannot_be_prepared_is_refused(images, words):
    processor = Swin2SRImageProcessor()
    if words is None:  # different, but the same after padding
        assert processor(images, return_tensors="np").pixel_values.shape[0] == 2
        return
    with pytest.raises(InputError, match=words):
        processor(images, return_tensors="pt")


def test_ambiguous_axes_can_be_said():
    array = picture(3, 8)
    result = Swin2SRImageProcessor(do_pad=False)(
        array, input_data_format="channels_last", return_tensors="np"
    )
    assert result.pixel_values.shape == (1, 3, 3, 8)
    with pytest.raises(OptionError, match="input_data_format='HWC'"):
        Swin2SRImageProcessor()(array, input_data_format="HWC")


def test_options_that_are_not_allowed():
    with pytest.raises(OptionError, match="size_divisor=0"):
        Swin2SRImageProcessor(size_divisor=0)
    with pytest.raises(OptionError, match="return_tensors='tf'"):
        Swin2SRImageProcessor()(picture(8, 8), return_tensors="tf")


def test_settings_round_trip_and_the_window_of_the_model_counts(tmp_path):
    Swin2SRImageProcessor(rescale_factor=1 / 1023).save_pretrained(tmp_path)
    again = Swin2SRImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict()["rescale_factor"] == 1 / 1023
    Swin2SRConfig(
        upsampler="", upscale=1, window_size=7, img_range=255.0
    ).save_pretrained(tmp_path)
    assert Swin2SRImageProcessor.from_pretrained(tmp_path).size_divisor == 7
    (tmp_path / "preprocessor_config.json").unlink()
    assert Swin2SRImageProcessor.from_pretrained(tmp_path).size_divisor == 7


def test_settings_of_transformers_old_and_new(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({"do_pad": False, "pad_size": 16, "do_rescale": True}))
    old = Swin2SRImageProcessor.from_pretrained(tmp_path)
    assert (old.size_divisor, old.do_pad) == (16, False)
    transformers = pytest.importorskip("transformers")
    transformers.Swin2SRImageProcessorPil().save_pretrained(tmp_path)
    assert Swin2SRImageProcessor.from_pretrained(tmp_path).size_divisor == 8
    Swin2SRImageProcessor(size_divisor=24).save_pretrained(tmp_path)
    theirs = transformers.Swin2SRImageProcessorPil.from_pretrained(tmp_path)
    assert theirs.size_divisor == 24


def test_bad_settings_are_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="neither"):
        Swin2SRImageProcessor.from_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    for text, words in (("{", "cannot be read"), ("[]", "mapping")):
        file.write_text(text)
        with pytest.raises(WeightsError, match=words):
            Swin2SRImageProcessor.from_pretrained(tmp_path)


def test_the_batch_moves_and_converts():
    batch = Swin2SRImageProcessor()(picture(8, 8), return_tensors="pt")
    assert batch.to(torch.float64).pixel_values.dtype == torch.float64
    with pytest.raises(AttributeError):
        batch.nothing  # noqa: B018
