"""Reading one block: every kind of array, and arrays that lie."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr

from napari_swin2sr.errors import FileError, InputError
from napari_swin2sr.image.sources import check_dtype, is_masked, read_block

INDEX = (slice(1, 2), slice(2, 5), slice(0, 4))
VALUES = np.arange(3 * 6 * 5, dtype=np.uint16).reshape(3, 6, 5)


class Fake:
    """An array-like whose words and deeds can differ."""

    def __init__(self, block, shape=(3, 6, 5), dtype=np.uint16):
        self.block, self.shape, self.dtype = block, shape, dtype

    def __getitem__(self, index):
        if isinstance(self.block, BaseException):
            raise self.block
        return self.block[index]


class OnlyArray:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


def as_zarr(values):
    array = zarr.create_array(
        {}, shape=values.shape, dtype=values.dtype, chunks=(1, 2, 2)
    )
    array[:] = values
    return array


@pytest.mark.parametrize(
    "make",
    [
        lambda v: v,
        lambda v: np.asfortranarray(v),
        lambda v: np.broadcast_to(v, v.shape),
        lambda v: v.astype(">u2"),
        lambda v: np.repeat(v, 2, 1)[:, ::2],
        lambda v: v[::-1].copy()[::-1],
        lambda v: da.from_array(v, chunks=(2, 5, 1)),
        lambda v: da.from_array(v, chunks=((1, 2), (1, 5), (4, 1))),
        as_zarr,
        Fake,
        lambda v: Fake(da.from_array(v)),
    ],
)
def test_any_array_gives_native_numpy_blocks(make):
    source = make(VALUES.copy())
    block = read_block(source, INDEX)
    assert type(block) is np.ndarray
    assert block.dtype.isnative
    assert block.dtype == np.uint16
    np.testing.assert_array_equal(block, VALUES[INDEX])


def test_an_array_protocol_block_is_converted():
    class Source(Fake):
        def __getitem__(self, index):
            return OnlyArray(VALUES[index])

    np.testing.assert_array_equal(read_block(Source(None), INDEX), VALUES[INDEX])


@pytest.mark.parametrize("lazy", [False, True])
def test_masks_are_kept(lazy):
    masked = np.ma.masked_greater(VALUES, 40)
    source = da.from_array(masked, chunks=2) if lazy else masked
    assert is_masked(source)
    assert not is_masked(VALUES)
    block = read_block(source, INDEX)
    assert isinstance(block, np.ma.MaskedArray)
    np.testing.assert_array_equal(np.ma.getmaskarray(block), VALUES[INDEX] > 40)


def test_dask_is_computed_in_this_thread():
    import threading

    threads = set()

    def look(block):
        threads.add(threading.get_ident())
        return block

    source = da.from_array(VALUES, chunks=2).map_blocks(look, dtype=np.uint16)
    threads.clear()
    read_block(source, INDEX)
    assert threads == {threading.get_ident()}


def test_lying_shape():
    with pytest.raises(
        InputError, match=r"\(3, 60, 5\).*\[1:2, 2:5, 0:4\].*\(1, 3, 4\)"
    ):
        read_block(Fake(VALUES[:, :3], (3, 60, 5)), INDEX)


def test_lying_dtype():
    with pytest.raises(InputError, match=r"type float32.*\[1:2, .* type uint16"):
        read_block(Fake(VALUES, dtype=np.float32), INDEX)


def test_lying_dask_meta():
    liar = da.from_array(VALUES, chunks=2).map_blocks(
        lambda block: block.astype(float), dtype=np.uint16, meta=np.empty(0, np.uint16)
    )
    with pytest.raises(InputError, match="type float64"):
        read_block(liar, INDEX)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ZeroDivisionError("x / 0"), InputError),
        (OSError(5, "Input/output error"), FileError),
        (KeyError("chunk"), InputError),
    ],
)
def test_errors_of_the_source_tell_the_place(error, kind):
    match = rf"pixels \[1:2, 2:5, 0:4\] .* failed: {type(error).__name__}"
    with pytest.raises(kind, match=match) as caught:
        read_block(Fake(error), INDEX)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [MemoryError(), FileError("gone"), KeyboardInterrupt()]
)
def test_errors_with_a_meaning_pass(error):
    with pytest.raises(type(error)) as caught:
        read_block(Fake(error), INDEX)
    assert caught.value is error


@pytest.mark.parametrize(
    ("dtype", "match"),
    [
        (complex, r"complex128 are complex; pass abs\(image\)"),
        (object, "object are no numbers; convert"),
        ("S3", "no numbers"),
        ("U3", "no numbers"),
        ("M8[s]", "no numbers"),
        ("m8[s]", "no numbers"),
        ([("a", "i4")], "no numbers"),
        ("V4", "no numbers"),
        (np.dtypes.StringDType(), "no numbers"),
        ("no type", "not supported; convert"),
    ],
)
def test_only_real_numbers(dtype, match):
    with pytest.raises(InputError, match=match):
        check_dtype(dtype)


@pytest.mark.parametrize("dtype", ["?", "u1", ">u2", "i4", "<u8", ">f2", "f4", "g"])
def test_types_become_native(dtype):
    assert check_dtype(dtype) == np.dtype(dtype).newbyteorder("=")
    assert check_dtype(dtype).isnative
