"""The input catalogue as data: what people hand in, and what must come of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RNG_SEED = 20240


@dataclass(frozen=True)
class Row:
    """One kind of input.

    Attributes
    ----------
    id : number and name, as in the catalogue
    make : folder for files -> the input
    plain : the same pixels as float64, for the reference; None if only the shape counts
    axes : axes of `plain`, and of the result
    options : keywords of `apply`
    range : (low, high) that is passed as value_range and used by the reference
    dtype : of the result; None if it is that of `plain`'s maker, not compared
    warns : pattern of the one warning that is due
    error : pattern of the InputError that is due
    late : the error comes when pixels are computed, not at once
    """

    id: str
    make: Callable[[Path], Any]
    plain: Callable[[], np.ndarray] | None = None
    axes: str = "YX"
    options: dict[str, Any] = field(default_factory=dict)
    range: tuple[float, float] | None = (0.0, 255.0)
    dtype: Any = None
    warns: str | None = None
    error: str | None = None
    late: bool = False


def pixels(*shape: int, low: float = 0, high: float = 255) -> np.ndarray:
    """Return whole numbers between low and high, smooth enough to be an image."""
    rng = np.random.default_rng(RNG_SEED)
    values = rng.random(shape)
    for axis in range(max(0, len(shape) - 2), len(shape)):
        values = (values + np.roll(values, 1, axis)) / 2
    return np.floor(low + (high - low) * values)


def image(*shape: int, **options: float) -> Callable[[], np.ndarray]:
    """Return a maker of `pixels`."""
    return lambda: pixels(*(shape or (13, 21)), **options)


def typed(dtype: Any, **options: float) -> Callable[[Path], np.ndarray]:
    """Return a maker of a 13 x 21 image of a type."""
    return lambda _: pixels(13, 21, **options).astype(dtype)


class Bare:
    """An array-like of the least kind: shape, dtype and slicing."""

    def __init__(self, array: np.ndarray, **claims: Any) -> None:
        self._array = array
        self.shape = claims.get("shape", array.shape)
        self.dtype = claims.get("dtype", array.dtype)

    def __getitem__(self, index: Any) -> Any:
        return self._array[index]


class OnlyArray:
    """Something that NumPy can convert, and no more."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype=dtype)


class OnGpu:
    """What CuPy looks like from outside: refuses NumPy, offers .get()."""

    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index: Any) -> OnGpu:
        return OnGpu(self._array[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def get(self) -> np.ndarray:
        return self._array


class Quantity:
    """What a pint quantity looks like from outside."""

    def __init__(self, magnitude: np.ndarray, units: str) -> None:
        self.magnitude, self.units = magnitude, units
        self.shape, self.dtype = magnitude.shape, magnitude.dtype


def memmap(folder: Path) -> np.memmap:
    np.save(folder / "image.npy", pixels(13, 21).astype(np.uint8))
    return np.load(folder / "image.npy", mmap_mode="r")


def zarr_array(folder: Path) -> Any:
    import zarr

    array = zarr.create_array(
        folder / "image.zarr", shape=(13, 21), chunks=(5, 8), dtype="u1"
    )
    array[:] = pixels(13, 21).astype(np.uint8)
    return array


def dask_array(chunks: Any, shape: tuple[int, ...] = (13, 21)) -> Any:
    import dask.array as da

    return da.from_array(pixels(*shape).astype(np.uint8), chunks=chunks)


def dask_unknown(_: Path) -> Any:
    import dask.array as da

    values = da.from_array(pixels(26, 24), chunks=(13, 24))
    return values[values[:, 0] > -1]


def dask_block(function: Callable[[], np.ndarray], dtype: str = "u1") -> Any:
    """Return a dask array of one block that is not what it says."""
    import dask.array as da
    from dask import delayed

    return da.from_delayed(delayed(function)(), shape=(13, 21), dtype=dtype)


def tensor(dtype: str, **options: Any) -> Callable[[Path], Any]:
    def make(_: Path) -> Any:
        import torch

        values = torch.from_numpy(pixels(13, 21)).to(getattr(torch, dtype))
        return values.requires_grad_() if options.get("grad") else values

    return make


def special_tensor(kind: str) -> Callable[[Path], Any]:
    def make(_: Path) -> Any:
        import torch

        values = torch.from_numpy(pixels(13, 21))
        if kind == "meta":
            return values.to("meta")
        if kind == "sparse":
            return values.to_sparse()
        return values.to(torch.complex64).conj()

    return make


def picture(mode: str, **options: Any) -> Callable[[Path], Any]:
    def make(_: Path) -> Any:
        from PIL import Image

        gray = Image.fromarray(pixels(13, 21).astype(np.uint8))
        rgb = Image.fromarray(pixels(13, 21, 3).astype(np.uint8))
        if mode == "I;16":
            return Image.fromarray((pixels(13, 21) * 257).astype(np.uint16))
        if mode == "P":
            return rgb.quantize(16, dither=Image.Dither.NONE)
        source = rgb if mode in ("RGB", "CMYK") else gray
        return source if source.mode == mode else source.convert(mode)

    return make


def palette_colors() -> np.ndarray:
    return np.asarray(picture("P")(Path()).convert("RGB"), np.float64)


def truncated_picture(_: Path) -> Any:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels(64, 64, 3).astype(np.uint8)).save(stream, "PNG")
    return Image.open(io.BytesIO(stream.getvalue()[:3000]))


def png_path(folder: Path) -> str:
    from PIL import Image

    path = folder / "image with spaces ü.png"
    Image.fromarray(pixels(13, 21).astype(np.uint8)).save(path)
    return str(path)


def spoiled(value: float, *where: Any) -> Callable[[Path], np.ndarray]:
    def make(_: Path) -> np.ndarray:
        values = pixels(13, 21).astype(np.float32)
        values[where or (4, 5)] = value
        return values

    return make


def unaligned(_: Path) -> np.ndarray:
    values = pixels(13, 21).astype("<f4")
    array = np.frombuffer(b"\0" + values.tobytes(), "<f4", offset=1).reshape(13, 21)
    assert not array.flags.aligned
    return array


def subclass(_: Path) -> np.ndarray:
    class Tagged(np.ndarray):
        pass

    return pixels(13, 21).astype(np.uint8).view(Tagged)


def matrix(_: Path) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.matrix(pixels(13, 21).astype(np.uint8))


U8 = np.uint8
TO16 = {"low": 0, "high": 60000, "range": (0, 60000)}


def ok(name: str, make: Any, plain: Any = None, dtype: Any = U8, **more: Any) -> Row:
    return Row(name, make, plain or image(), dtype=dtype, **more)


def bad(name: str, make: Any, error: str, **more: Any) -> Row:
    return Row(name, make, error=error, **more)


def ranged(name: str, dtype: Any, low: float, high: float, **more: Any) -> Row:
    return Row(
        name,
        typed(dtype, low=low, high=high),
        lambda: pixels(13, 21, low=low, high=high).astype(dtype).astype(np.float64),
        range=(low, high),
        dtype=np.dtype(dtype).newbyteorder("="),
        **more,
    )


ROWS = [
    # -- types of numbers
    ranged("I01 uint8", "u1", 0, 255),
    ranged("I02 uint16", "u2", 0, 60000),
    ranged("I03 float16", "f2", 0, 200),
    ranged("I04 float32", "f4", 0, 1e4),
    ranged("I05 float64", "f8", -1e4, 1e4),
    ranged("I06 int16", "i2", -30000, 30000),
    ranged("I07 int8", "i1", -120, 120),
    Row(
        "I08 bool",
        lambda _: pixels(13, 21) > 128,
        lambda: (pixels(13, 21) > 128).astype(float),
        range=None,
        dtype=bool,
        warns="true/false image.*cut at 0.5",
    ),
    ranged("I09 uint32 above 2^24", "u4", 2**31, 2**31 + 1000),
    ranged("I10 int64 above 2^53", "i8", -(2.0**60), 2.0**60, warns="exact only up to"),
    ranged("I11 uint64 up to its end", "u8", 0, 1.8e19, warns="exact only up to"),
    ranged("I12 float64 1e300", "f8", 0, 1e300),
    ranged("I13 longdouble", np.longdouble, 0, 1000),
    bad("I14 complex", typed("c8"), "complex64 are complex; pass abs"),
    bad("I15 object integers", typed("O"), r"object are no numbers.*\.astype"),
    bad("I16 None", lambda _: np.full((9, 9), None), r"object.*\.astype"),
    bad("I17 str", lambda _: np.full((9, 9), "a"), "U1 are no numbers"),
    bad("I18 bytes", lambda _: np.full((9, 9), b"a"), "S1 are no numbers"),
    bad("I19 datetime", typed("M8[s]"), r"datetime64\[s\] are no numbers"),
    bad("I20 timedelta", typed("m8[s]"), r"timedelta64\[s\] are no numbers"),
    bad("I21 structured", lambda _: np.zeros((9, 9), "u1,u2"), "are no numbers"),
    bad("I22 void", lambda _: np.zeros((9, 9), "V4"), r"\|V4 are no numbers"),
    bad(
        "I23 StringDType",
        lambda _: np.full((9, 9), "ab", np.dtypes.StringDType()),
        "StringDType.* are no numbers",
    ),
    # -- memory layouts
    ranged("I24 big-endian u2", ">u2", 0, 60000),
    ranged("I25 big-endian f4", ">f4", 0, 1000),
    ok("I26 read-only", memmap),
    ok("I27 Fortran order", lambda _: np.asfortranarray(pixels(13, 21).astype(U8))),
    ok(
        "I28 negative strides",
        lambda _: pixels(13, 21).astype(U8)[::-1, ::-1],
        lambda: pixels(13, 21)[::-1, ::-1],
    ),
    ok(
        "I29 strided",
        lambda _: pixels(26, 42).astype(U8)[::2, ::2],
        lambda: pixels(26, 42)[::2, ::2],
    ),
    ok(
        "I30 broadcast, stride 0",
        lambda _: np.broadcast_to(pixels(1, 21).astype(U8), (13, 21)),
        lambda: np.broadcast_to(pixels(1, 21), (13, 21)),
    ),
    ok("I31 unaligned", unaligned, dtype="f4"),
    ok("I32 subclass", subclass),
    # -- axes and shapes
    bad("I33 no axis", lambda _: np.array(5.0), r"shape \(\) has 0 axes"),
    bad("I34 one axis", lambda _: np.zeros(9), r"shape \(9,\) has 1 axes"),
    bad("I35a six axes", lambda _: np.zeros((1, 1, 1, 1, 9, 9)), "6 axes; say which"),
    ok(
        "I35b six axes, named",
        lambda _: pixels(2, 1, 2, 9, 10, 3).astype(U8),
        image(2, 1, 2, 9, 10, 3),
        axes="TCZYXS",
        options={"axes": "TCZYXS"},
    ),
    ok("I36 no rows", lambda _: np.zeros((0, 10), U8), image(0, 10)),
    ok("I37 no columns", lambda _: np.zeros((10, 0), "f4"), image(10, 0), dtype="f4"),
    bad("I38 empty line", lambda _: np.zeros((0,)), r"shape \(0,\) has 1 axes"),
    ok("I39 one pixel", lambda _: pixels(1, 1).astype(U8), image(1, 1)),
    ok("I40 one row", lambda _: pixels(1, 30).astype(U8), image(1, 30)),
    ok("I41 one column", lambda _: pixels(4096, 1).astype(U8), image(4096, 1)),
    *(
        ok(
            f"I{number} {n} channels last",
            lambda _, n=n: pixels(13, 21, n).astype(U8),
            image(13, 21, n),
            axes="YXC",
            options={"axes": "YXC"},
        )
        for number, n in ((42, 1), (43, 2), (47, 5))
    ),
    bad(
        "I44a three last",
        lambda _: np.zeros((13, 21, 3), U8),
        r"\(13, 21, 3\) has length 3.*rgb=True",
    ),
    ok(
        "I44b RGB",
        lambda _: pixels(13, 21, 3).astype(U8),
        image(13, 21, 3),
        axes="YXS",
        options={"rgb": True},
    ),
    Row(
        "I45 RGBA",
        lambda _: pixels(13, 21, 4).astype(U8),
        image(13, 21, 4),
        axes="YXS",
        options={"rgb": True},
        dtype=U8,
        warns="alpha channel is interpolated",
    ),
    Row(
        "I46 floating-point RGBA",
        lambda _: pixels(13, 21, 4).astype("f4"),
        image(13, 21, 4),
        axes="YXS",
        options={"rgb": True},
        dtype="f4",
        warns="alpha channel is interpolated",
    ),
    ok(
        "I48 RGB planes first",
        lambda _: pixels(3, 13, 21).astype(U8),
        image(3, 13, 21),
        axes="SYX",
        options={"axes": "SYX"},
    ),
    *(
        bad(name, lambda _, s=s: np.zeros(s, U8), "Say rgb=True, rgb=False or axes")
        for name, s in {
            "I49 three of everything": (3, 3, 3),
            "I50 four rows or channels": (4, 16, 3),
            "I51 four axes": (1, 16, 24, 3),
        }.items()
    ),
    ok(
        "I52 mixed order",
        lambda _: pixels(9, 3, 2, 10).astype(U8),
        image(9, 3, 2, 10),
        axes="YCTX",
        options={"axes": "YCTX"},
    ),
    # -- values: masked, not finite and extreme ones have tests of their own as well
    Row("I53 masked", lambda _: np.ma.masked_greater(pixels(13, 21).astype(U8), 200)),
    Row("I54 all masked", lambda _: np.ma.masked_all((13, 21), U8)),
    ok("I55 matrix", matrix),
    Row("I56 NaN", spoiled(np.nan), dtype="f4"),
    Row("I57 all NaN", spoiled(np.nan, slice(None)), dtype="f4", range=None),
    Row("I58 infinite", spoiled(-np.inf), dtype="f4", range=None),
    ok(
        "I59 negative",
        lambda _: (pixels(13, 21) - 300).astype("f4"),
        lambda: pixels(13, 21) - 300,
        dtype="f4",
        range=(-300, -45),
    ),
    Row("I60 denormal", lambda _: pixels(13, 21) * 5e-324, dtype="f8", range=None),
    Row("I61 constant", lambda _: np.full((13, 21), 777, "u2"), range=None, dtype="u2"),
    Row(
        "I62 constant float", lambda _: np.full((13, 21), -2.5), range=None, dtype="f8"
    ),
    Row("I63 all zero", lambda _: np.zeros((13, 21), "u2"), range=None, dtype="u2"),
    Row("I64 hot pixel", spoiled(65535.0), dtype="f4", range=None),
    # -- arrays of other libraries
    ok("I65 memory map", memmap),
    ok("I66 zarr", zarr_array),
    ok("I67 dask", lambda _: dask_array((8, 8))),
    ok("I68 dask, uneven", lambda _: dask_array(((3, 10), (1, 20)))),
    ok("I69 dask, empty chunk", lambda _: dask_array(((0, 13), (21, 0)))),
    bad("I70 dask, unknown size", dask_unknown, r"compute_chunk_sizes\(\)"),
    bad(
        "I71 dask, raises",
        lambda _: dask_block(lambda: np.zeros(1) // (1 // 0)),
        r"reading the pixels \[0:13, 0:21\].*ZeroDivisionError",
        late=True,
    ),
    bad(
        "I72 dask, another type",
        lambda _: dask_block(lambda: np.zeros((13, 21))),
        "declares type uint8.*have type float64",
        late=True,
    ),
    bad(
        "I73 dask, another shape",
        lambda _: dask_block(lambda: np.zeros((3, 24), U8)),
        r"declares shape \(13, 21\).*have shape",
        late=True,
    ),
    ok("I74 tensor", tensor("uint8")),
    ok("I75 tensor with gradient", tensor("float32", grad=True), dtype="f4"),
    ok("I76 bfloat16 tensor", tensor("bfloat16"), dtype="f4"),
    bad("I77 meta tensor", special_tensor("meta"), "a meta tensor has no pixels"),
    bad("I78 sparse tensor", special_tensor("sparse"), r"sparse_coo tensor.*to_dense"),
    bad("I79 conjugate", special_tensor("conj"), r"complex; pass its \.abs\(\)"),
    ok("I80 on a GPU", lambda _: OnGpu(pixels(13, 21).astype(U8))),
    ok("I81 only __array__", lambda _: OnlyArray(pixels(13, 21).astype(U8))),
    bad(
        "I82 lying shape",
        lambda _: Bare(np.zeros((5, 5), U8), shape=(13, 21)),
        r"declares shape \(13, 21\).*have shape \(5, 5\)",
        late=True,
    ),
    # -- Pillow
    ok("I83 picture L", picture("L")),
    ok("I84 picture RGB", picture("RGB"), image(13, 21, 3), axes="YXS"),
    ok("I85 picture with palette", picture("P"), palette_colors, axes="YXS"),
    Row(
        "I86 picture 1",
        picture("1"),
        dtype=bool,
        range=None,
        warns="true/false image",
    ),
    ok(
        "I87 picture I;16",
        picture("I;16"),
        lambda: pixels(13, 21) * 257,
        dtype="u2",
        range=(0, 65535),
    ),
    Row("I88 picture CMYK", picture("CMYK"), axes="YXS", warns="CMYK is converted"),
    Row("I89 picture LA", picture("LA"), axes="YXS", warns="LA is converted|alpha"),
    bad("I90 truncated picture", truncated_picture, "cannot be decoded"),
    # -- what is no array
    ok("I91 nested list", lambda _: pixels(13, 21).tolist(), dtype="f8"),
    bad("I92 ragged list", lambda _: [[1, 2], [3]], "rows differ in length"),
    ok("I93 path", png_path),
    bad("I94 bytes", lambda _: b"image", "a bytes is no image; pass an array"),
    bad("I95 None", lambda _: None, "a NoneType is no image"),
    bad("I96 dict", lambda _: {"image": 1}, "a dict is no image; open the array"),
    bad("I97 generator", lambda _: (i for i in range(3)), "a generator is no image"),
    Row(
        "I98 pyramid",
        lambda _: [pixels(13, 21).astype(U8), np.zeros((6, 10), U8)],
        image(),
        dtype=U8,
        warns=r"2 levels: the first one, of shape \(13, 21\)",
    ),
    bad("I99 number", lambda _: 5, "a int is no image"),
    # -- meaning around the pixels: xarray has tests of its own as well
    Row(
        "I105 quantity",
        lambda _: Quantity(pixels(13, 21).astype(U8), "volt"),
        image(),
        dtype=U8,
        warns="unit volt is left out",
    ),
]
