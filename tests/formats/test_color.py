"""What samples mean: files by tifffile, Pillow, GDAL; colors judged by Pillow, GDAL."""

from __future__ import annotations

import pickle
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from helpers import stand_in
from helpers.io_images import noise, smooth
from napari_swin2sr import upscale, upscale_file
from napari_swin2sr.errors import FileError
from napari_swin2sr.formats import open_image


@pytest.fixture(autouse=True)
def stand_in_model(monkeypatch):
    monkeypatch.setattr(upscale, "ModelHandle", stand_in.StandIn)


def colors(shape=(40, 50), dtype="uint8", n=3):
    """Smooth colors, different in every sample."""
    return np.moveaxis(smooth((n, *shape), dtype), 0, -1)


def as_pillow_sees(path, mode):
    with Image.open(path) as picture:
        return np.asarray(picture.convert(mode))


def read(path):
    """All pixels, and the same from regions of a pickled copy."""
    image = open_image(path)
    whole = np.asarray(image.data[...])
    again = pickle.loads(pickle.dumps(image.data))
    assert (whole.shape, whole.dtype) == (image.shape, image.data.dtype)
    for index in (np.s_[3:20, 7:31], np.s_[30:4:-3, ::2], np.s_[5], np.s_[..., 1]):
        np.testing.assert_array_equal(again[index], whole[index])
    return image, whole


# -- orientation ----------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (16, 16)}])
def test_orientation_of_a_tiff(tmp_path, orientation, options):
    pixels = noise((40, 56, 3), "uint8")
    tags = [(274, "H", 1, orientation, True)]
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, pixels, photometric="rgb", extratags=tags, metadata=None, **options
    )
    (tmp_path / "ref").mkdir()
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "ref" / "in.png", exif=exif)
    with Image.open(tmp_path / "ref" / "in.png") as picture:
        wanted = np.asarray(ImageOps.exif_transpose(picture))
    image, found = read(path)
    np.testing.assert_array_equal(found, wanted)
    assert image.axes == "YXS"
    upscale_file(path, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as out:
        assert out.size == (2 * wanted.shape[1], 2 * wanted.shape[0])


def test_turned_stacks_and_pixel_sizes(tmp_path):
    path = tmp_path / "in.tif"
    pixels = noise((3, 20, 30))
    tifffile.imwrite(
        path, pixels, imagej=True, resolution=(1 / 0.5, 1 / 0.25),
        metadata={"unit": "um", "axes": "ZYX"},
        extratags=[(274, "H", 1, 6, True)],
    )  # fmt: skip
    image = open_image(path)
    assert image.shape == (3, 30, 20)
    np.testing.assert_array_equal(image.data[1], np.rot90(pixels[1], -1))
    assert image.pixel_size["X"] == pytest.approx(0.25)
    assert image.pixel_size["Y"] == pytest.approx(0.5)


# -- gray -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("target", ["out.png", "out.tif", "out.ome.zarr"])
def test_white_is_zero(tmp_path, dtype, target):
    pixels = smooth((40, 50), dtype)
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, pixels, photometric="miniswhite")
    most = np.iinfo(dtype).max
    _, found = read(path)
    np.testing.assert_array_equal(found, most - pixels)
    if dtype == "uint8":
        np.testing.assert_array_equal(found, as_pillow_sees(path, "L"))
    upscale_file(path, tmp_path / target, value_range=(0, most))
    out = open_image(tmp_path / target).data[...]
    wanted = stand_in.whole(most - pixels, 0, most)
    assert np.abs(out - np.rint(wanted)).max() <= 1
    if target == "out.tif":
        with tifffile.TiffFile(tmp_path / target) as tif:
            assert tif.pages.first.photometric == tifffile.PHOTOMETRIC.MINISBLACK


def test_white_is_zero_turns_nodata_and_range_too(tmp_path):
    path = tmp_path / "in.tif"
    tags = [
        (42113, "s", 0, "0", True), (340, "H", 1, 10, True), (341, "H", 1, 200, True),
    ]  # fmt: skip
    tifffile.imwrite(
        path, noise((20, 20), "uint8"), photometric="miniswhite", extratags=tags,
        metadata=None,
    )  # fmt: skip
    image = open_image(path)
    assert image.nodata == 255
    assert image.value_range == ((55.0, 245.0),)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_spread(tmp_path, bits, photometric):
    path = tmp_path / "in.tif"
    pixels = np.arange(40 * 48, dtype=np.uint8).reshape(40, 48) % 2**bits
    if bits == 1:
        tifffile.imwrite(path, pixels.astype(bool), photometric=photometric)
    else:
        write_packed(path, pixels, bits, photometric)
    _, found = read(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, as_pillow_sees(path, "L"))
    assert (found.min(), found.max()) == (0, 255)


def write_packed(path, pixels, bits, photometric):
    """Write 2 or 4 bits per sample as Pillow and scanners do."""
    per_byte = 8 // bits
    parts = pixels.reshape(pixels.shape[0], -1, per_byte)
    shifts = np.arange(per_byte)[::-1] * bits
    packed = (parts << shifts).sum(-1).astype(np.uint8)
    white = 0 if photometric == "miniswhite" else 1
    tifffile.imwrite(path, packed, photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        tags["ImageWidth"].overwrite(pixels.shape[1])
        tags["BitsPerSample"].overwrite(bits)
        tags["PhotometricInterpretation"].overwrite(white)


# -- color ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["by Pillow", "by tifffile", "8-bit entries"])
def test_color_tables_of_tiff(tmp_path, kind):
    path = tmp_path / "in.tif"
    if kind == "by Pillow":
        Image.fromarray(colors()).quantize(20).save(path, compression="tiff_lzw")
    else:
        table = noise((3, 256), "uint16" if kind == "by tifffile" else "uint8")
        tifffile.imwrite(
            path, noise((40, 50), "uint8"), photometric="palette",
            colormap=table.astype(np.uint16),
        )  # fmt: skip
    image, found = read(path)
    assert image.axes == "YXS"
    if kind == "8-bit entries":  # which libtiff understands and Pillow does not
        with tifffile.TiffFile(path) as tif:
            wanted = table.T[tif.asarray()]
    else:
        wanted = as_pillow_sees(path, "RGB")
    np.testing.assert_array_equal(found, wanted)
    upscale_file(path, tmp_path / "out.tif")
    with Image.open(tmp_path / "out.tif") as out:
        assert (out.mode, out.size) == ("RGB", (100, 80))


def test_the_missing_number_of_a_color_table_is_transparent(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "in.tif"
    pixels = noise((1, 40, 50), "uint8") % 4
    table = {
        0: (9, 9, 9, 255),
        1: (250, 0, 3, 255),
        2: (0, 9, 0, 255),
        3: (1, 2, 3, 255),
    }
    with rasterio.open(
        path, "w", driver="GTiff", width=50, height=40, count=1, dtype="uint8",
        nodata=2, crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5, 0, -10, 7),
        photometric="palette",
    ) as dst:  # fmt: skip
        dst.write(pixels)
        dst.write_colormap(1, table)
    image, found = read(path)
    assert image.nodata is None
    wanted = np.array([table[k] for k in range(4)], np.uint8)
    wanted[2, 3] = 0
    np.testing.assert_array_equal(found, wanted[pixels[0]])
    assert image.crs == "EPSG:32633"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("gray", [False, True])
def test_premultiplied_alpha(tmp_path, dtype, gray):
    """Straight colors are known; what is stored is multiplied by NumPy."""
    straight = colors(dtype=dtype, n=2 if gray else 4)
    most = 1.0 if dtype == "float32" else float(np.iinfo(dtype).max)
    stored = straight.astype(float)
    stored[..., :-1] *= stored[..., -1:] / most
    stored = (stored if dtype == "float32" else np.rint(stored)).astype(dtype)
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, stored, photometric="minisblack" if gray else "rgb",
        planarconfig="contig", extrasamples=["assocalpha"],
    )  # fmt: skip
    image, found = read(path)
    assert image.axes == "YXS"
    assert found.shape[-1] == 4
    if gray:
        np.testing.assert_array_equal(found[..., 0], found[..., 2])
    alpha = straight[..., -1:].astype(float) / most
    np.testing.assert_array_equal(found[..., 3:], straight[..., -1:])
    error = np.abs(found[..., 0].astype(float) - straight[..., 0])
    rounding = 0.51 if dtype != "float32" else 1e-6
    assert (error <= rounding / np.maximum(alpha[..., 0], 1e-3) + rounding).all()
    if dtype == "uint8" and not gray:  # Pillow converts RGBa in the same way
        wanted = as_pillow_sees(path, "RGBA")
        seen = wanted[..., 3] > 0
        assert np.abs(found[seen].astype(int) - wanted[seen]).max() <= 1


def test_gray_with_alpha(tmp_path):
    pixels = colors(n=2)
    path = tmp_path / "in.tif"
    Image.fromarray(pixels, "LA").save(path)
    _, found = read(path)
    np.testing.assert_array_equal(found, as_pillow_sees(path, "RGBA"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_cmyk_of_tiff(tmp_path, dtype):
    pixels = colors(dtype=dtype, n=4)
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, pixels, photometric="separated", planarconfig="contig")
    image, found = read(path)
    assert (image.axes, found.dtype) == ("YXS", dtype)
    eight = pixels if dtype == "uint8" else (pixels >> 8).astype(np.uint8)
    wanted = np.asarray(Image.fromarray(eight, "CMYK").convert("RGB"))
    seen = found if dtype == "uint8" else found >> 8
    assert np.abs(seen.astype(int) - wanted).max() <= (1 if dtype == "uint8" else 2)


def test_inks_that_are_not_cmyk_stay_channels(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, colors(n=4), photometric="separated", planarconfig="contig",
        extratags=[(332, "H", 1, 2, True)], metadata=None,
    )  # fmt: skip
    assert open_image(path).axes == "YXC"


def test_ycbcr_that_is_not_compressed(tmp_path):
    rgb = colors()
    stored = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, stored, photometric="ycbcr", compression="zlib", subsampling=(1, 1),
        metadata=None,
    )  # fmt: skip
    image, found = read(path)
    assert image.axes == "YXS"
    assert np.abs(found.astype(int) - rgb).max() <= 2
    wanted = as_pillow_sees(path, "RGB")
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_subsampled_ycbcr_is_refused_before_the_run(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(
        path, colors(), photometric="rgb", compression="zlib", metadata=None
    )
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["PhotometricInterpretation"].overwrite(6)
    with pytest.raises(FileError, match="subsampling"):
        open_image(path)


def test_jpeg_in_tiff_is_rgb_already(tmp_path):
    path = tmp_path / "in.tif"
    Image.fromarray(colors()).save(path, compression="jpeg", quality=95)
    _, found = read(path)
    assert np.abs(found.astype(int) - as_pillow_sees(path, "RGB")).max() <= 3


@pytest.mark.parametrize("model", ["cielab", "icclab"])
def test_lab_of_tiff(tmp_path, model):
    """The color management of Pillow (Little CMS) makes L*a*b* of known sRGB."""
    lab, srgb = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
    rgb = colors()
    to_lab = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    picture = ImageCms.applyTransform(Image.fromarray(rgb), to_lab)
    stored = np.asarray(picture).copy()
    if model == "icclab":
        stored[..., 1:] ^= 128
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, stored, photometric=model, metadata=None)
    image, found = read(path)
    assert image.axes == "YXS"
    error = np.abs(found.astype(int) - rgb)  # that of Little CMS itself is up to 6
    assert error.max() <= 3
    assert error.mean() < 0.5


@pytest.mark.parametrize("photometric", [10, 32803, 32844])
def test_what_cannot_be_interpolated_is_refused(tmp_path, photometric):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, noise((20, 20), "uint8"), metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["PhotometricInterpretation"].overwrite(photometric)
    with pytest.raises(FileError, match=r"cannot be interpolated. Convert it to RGB"):
        open_image(path)


# -- profiles -------------------------------------------------------------------------


@pytest.fixture
def profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("source", ["in.tif", "in.png"])
@pytest.mark.parametrize("target", ["out.tif", "out.png"])
def test_profiles_are_carried(tmp_path, profile, dtype, source, target):
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = np.ascontiguousarray(colors(dtype=dtype))
    path = tmp_path / source
    if source == "in.tif":
        tifffile.imwrite(path, pixels, photometric="rgb", iccprofile=profile)
    elif dtype == "uint8":
        Image.fromarray(pixels).save(path, icc_profile=profile)
    else:
        path.write_bytes(with_profile(imagecodecs.png_encode(pixels), profile))
    upscale_file(path, tmp_path / target)
    with Image.open(tmp_path / target) as out:
        assert out.info["icc_profile"] == profile
    assert open_image(tmp_path / target).data.dtype == dtype


def with_profile(png, profile):
    """Put a chunk iCCP behind the header, as the PNG specification describes it."""
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(profile)
    chunk = (
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    )
    return png[:33] + chunk + png[33:]


def test_a_profile_of_other_colors_is_left_out(tmp_path, profile):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, noise((20, 20), "uint8"), iccprofile=profile)
    upscale_file(path, tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as tif:
        assert "InterColorProfile" not in tif.pages.first.tags
