"""What can be an image: pixels of any library as a lazy source of checked blocks.

Libraries are recognized without being imported: an object of a library that nobody
has loaded cannot exist. What is sliceable already stays as it is; nothing that it says
about itself is believed where blocks are read.
"""

from __future__ import annotations

import itertools
import sys
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from napari_swin2sr.errors import FileError, InputError, Swin2SRError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

Index: TypeAlias = tuple[int | slice, ...]

_PILLOW_AS_IS = ("1", "L", "I", "F", "RGB", "RGBA")
PILLOW_CONVERTED = dict.fromkeys(("LA", "La", "PA", "RGBa"), "RGBA")
PILLOW_CONVERTED |= dict.fromkeys(("CMYK", "YCbCr", "LAB", "HSV", "RGBX"), "RGB")
"""Pillow's modes whose pixels are no gray, RGB or RGBA, and what they become."""


READ_ONCE_BYTES = 2**28
"""What `ReadOnce` keeps; more is read again."""


class Pixels(NamedTuple):
    """A lazy source, and what its library says about the axes."""

    source: Any
    axes: str | None = None


class ReadOnce:
    """An array of which blocks that were read are kept, up to a number of bytes.

    For the bounded sample of pixels that several look at before anything runs.
    """

    def __init__(self, array: Any) -> None:
        self.dtype, self.shape = array.dtype, tuple(array.shape)
        self._array, self._left = array, READ_ONCE_BYTES
        self._blocks: dict[tuple[tuple[int, int], ...], NDArray[Any]] = {}

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Return a block, not to be written to."""
        key = tuple((part.start, part.stop) for part in index)
        block = self._blocks.get(key)
        if block is None:
            block = read_block(self._array, index)
            if block.nbytes <= self._left:
                self._left -= block.nbytes
                self._blocks[key] = block
        return block


class Adapter:
    """An array whose blocks need a function (array, index) -> NumPy array."""

    def __init__(
        self, array: Any, dtype: DTypeLike, read: Callable[[Any, Index], NDArray[Any]]
    ) -> None:
        self.array = array
        self.dtype = np.dtype(dtype)
        self.shape = tuple(array.shape)
        self.ndim = len(self.shape)
        self._read = read
        self._token = uuid.uuid4().hex

    def __repr__(self) -> str:
        kind = f"{type(self.array).__module__}.{type(self.array).__qualname__}"
        return f"Adapter({kind}, shape={self.shape}, dtype={self.dtype})"

    def __dask_tokenize__(self) -> object:
        """Name the pixels at random: to tell them by content they must be read."""
        return self._token

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """Read one block, not to be written to; it may share memory."""
        return self._read(self.array, index)


def as_pixels(array: Any) -> Pixels:
    """Wrap an image of any library; no pixel is read unless it is in memory."""
    for convert in (_from_list, _from_pillow, _from_torch, _from_numpy):
        pixels = convert(array)
        if pixels is not None:
            return pixels
    return _from_any(array)


_FIX = "convert the image with .astype to an integer or floating-point type"


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the pixels' type in native byte order; refuse what is no real number."""
    try:
        numpy_dtype = np.dtype(dtype)
    except TypeError as error:
        raise InputError(f"pixels of type {dtype} are not supported; {_FIX}") from error
    if numpy_dtype.kind == "c":
        raise InputError(
            f"pixels of type {numpy_dtype} are complex; pass abs(image) or image.real"
        )
    if numpy_dtype.kind not in "buif":
        raise InputError(f"pixels of type {numpy_dtype} are no numbers; {_FIX}")
    return numpy_dtype.newbyteorder("=")


def is_masked(source: Any) -> bool:
    """Tell whether the blocks of an array carry masks (NumPy's or dask's)."""
    return isinstance(source, np.ma.MaskedArray) or isinstance(
        getattr(source, "_meta", None), np.ma.MaskedArray
    )


def read_block(source: Any, index: tuple[slice, ...]) -> NDArray[Any]:
    """Read the pixels at `index`, one slice with start and stop per axis.

    Returns an array of the declared shape and type in native byte order, masked if
    the source's block is. It may share memory with the source and must not be written
    to. Raises FileError for errors of the operating system, InputError for all others
    and for blocks that are not what the source declares.
    """
    try:
        block = source[index]
        if hasattr(block, "__dask_graph__"):
            # In this thread: a nested scheduler would multiply the tiles in memory.
            block = block.compute(scheduler="sync")
        if not isinstance(block, np.ma.MaskedArray):
            if hasattr(block, "__cuda_array_interface__") and hasattr(block, "get"):
                block = block.get()  # CuPy
            block = np.asarray(block)
    except (Swin2SRError, MemoryError):
        raise
    except Exception as error:
        kind = FileError if isinstance(error, OSError) else InputError
        raise kind(
            f"reading the pixels {_words(index)} of the image failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    shape = tuple(part.stop - part.start for part in index)
    if block.shape != shape:
        raise InputError(
            f"the image declares shape {tuple(source.shape)}, but its pixels "
            f"{_words(index)} have shape {block.shape} instead of {shape}"
        )
    native = check_dtype(source.dtype)
    if block.dtype.newbyteorder("=") != native:
        raise InputError(
            f"the image declares type {native}, but its pixels {_words(index)} "
            f"have type {block.dtype}"
        )
    checked: NDArray[Any] = block.astype(native, copy=False)
    return checked


# -- one function per library: None means "not mine" ----------------------------------


def _from_numpy(array: Any) -> Pixels | None:
    if not isinstance(array, np.ndarray):
        return None
    if isinstance(array, np.ma.MaskedArray):
        return Pixels(array)
    if isinstance(array, np.memmap) and array.filename is not None:
        return Pixels(_Memmap(array))
    return Pixels(np.asarray(array))


def _from_list(array: Any) -> Pixels | None:
    if not isinstance(array, Sequence) or isinstance(array, (str, bytes, bytearray)):
        return None
    if len(array) > 1 and all(len(getattr(a, "shape", ())) >= 2 for a in array):
        shapes = [tuple(a.shape) for a in array]
        if len(set(shapes)) > 1:
            return _from_pyramid(array, shapes)
        if not all(isinstance(a, np.ndarray) for a in array):
            raise InputError(
                f"a list of {len(array)} arrays of the same shape {shapes[0]} is not "
                "one image; stack them first, for example with dask.array.stack"
            )
    try:
        values = np.asarray(array)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"a list of length {len(array)} is no image: its rows differ in length. "
            "Give one array"
        ) from error
    return Pixels(values)


def _from_pyramid(levels: Sequence[Any], shapes: list[tuple[int, ...]]) -> Pixels:
    pairs = itertools.pairwise(shapes)
    if any(len(a) != len(b) or any(np.less(a, b)) for a, b in pairs):
        raise InputError(
            f"a list of arrays of shapes {shapes} is neither an image nor a pyramid "
            "of decreasing sizes. Give one array"
        )
    warnings.warn(
        f"a pyramid of {len(levels)} levels: the first one, of shape {shapes[0]}, is "
        "upscaled",
        stacklevel=5,
    )
    return as_pixels(levels[0])


def _from_pillow(array: Any) -> Pixels | None:
    pillow = sys.modules.get("PIL.Image")
    if pillow is None or not isinstance(array, pillow.Image):
        return None
    picture, mode = array, array.mode
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"the picture cannot be decoded: {error}") from error
    if mode == "P":
        picture = array.convert("RGBA" if "transparency" in array.info else "RGB")
    elif mode in PILLOW_CONVERTED:
        picture = array.convert(PILLOW_CONVERTED[mode])
        warnings.warn(
            f"a picture of mode {mode} is converted to {picture.mode}", stacklevel=4
        )
    elif mode not in ("1", "L", "I", "F", "RGB", "RGBA") and not mode.startswith(
        "I;16"
    ):
        raise InputError(
            f"a picture of mode {mode} is not supported; convert it to RGB or L first"
        )
    axes = "YXS" if picture.mode in ("RGB", "RGBA") else "YX"
    return Pixels(np.asarray(picture), axes)


def _from_torch(array: Any) -> Pixels | None:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(array, torch.Tensor):
        return None
    if array.is_complex():
        raise InputError(
            f"a tensor of type {array.dtype} is complex; pass its .abs() or .real"
        )
    kind = "meta" if array.device.type == "meta" else str(array.layout)
    if kind != "torch.strided":
        raise InputError(
            f"a {kind} tensor has no pixels in memory; pass a dense one (.to_dense())"
        )
    if (
        array.is_floating_point()
        and array.itemsize < 4
        and array.dtype != torch.float16
    ):
        return Pixels(Adapter(array, np.float32, _read_narrow_tensor))
    try:
        dtype = torch.empty(0, dtype=array.dtype).numpy().dtype
    except TypeError as error:
        raise InputError(f"a tensor of type {array.dtype} is no image") from error
    return Pixels(Adapter(array, dtype, _read_tensor))


def _read_tensor(tensor: Any, index: Index) -> Any:
    return tensor[index].detach().cpu().resolve_neg().numpy()


def _read_narrow_tensor(tensor: Any, index: Index) -> Any:
    return tensor[index].detach().float().cpu().numpy()


def _from_any(array: Any) -> Pixels:
    if hasattr(array, "magnitude") and hasattr(array, "units"):  # pint
        warnings.warn(f"the unit {array.units} is left out of the result", stacklevel=4)
        return as_pixels(array.magnitude)
    has_shape = hasattr(array, "shape") and hasattr(array, "dtype")
    if has_shape and hasattr(array, "__getitem__"):
        if hasattr(array.dtype, "numpy_dtype"):  # tensorstore
            return Pixels(Adapter(array, array.dtype.numpy_dtype, _read_any))
        return Pixels(array)
    if hasattr(array, "__array__"):
        return Pixels(np.asarray(array))
    kind = type(array).__name__
    hint = (
        "open the array inside it"
        if hasattr(array, "keys")
        else "pass an array (NumPy, dask, zarr, xarray, PyTorch), a Pillow image, a "
        "nested list or a path"
    )
    raise InputError(f"a {kind} is no image; {hint}")


def _read_any(array: Any, index: Index) -> NDArray[Any]:
    return np.asarray(array[index])


# -- details --------------------------------------------------------------------------


class _Memmap:
    """A memory-mapped array that pickles as a reference to its file."""

    def __init__(self, array: np.memmap[Any, Any]) -> None:
        self._pixels = np.asarray(array)
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim
        self._reference = _file_reference(array)
        self._token: object = uuid.uuid4().hex
        if self._reference is not None:
            stat = Path(self._reference["filename"]).stat()
            self._token = (stat.st_mtime_ns, stat.st_size, str(self._reference))

    def __getitem__(self, index: Index) -> NDArray[Any]:
        block: NDArray[Any] = self._pixels[index]
        return block

    def __dask_tokenize__(self) -> object:
        """Name the pixels by file and time of writing, or else at random."""
        return self._token

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._reference is not None:
            del state["_pixels"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._reference is not None:
            self._pixels = np.asarray(np.memmap(**self._reference))


def _file_reference(array: np.memmap[Any, Any]) -> dict[str, Any] | None:
    """Return how to map the same pixels again, or None for a view that is no file."""
    order = "C" if array.flags.c_contiguous else "F"
    is_block = array.flags.c_contiguous or array.flags.f_contiguous
    if not is_block or not array.size or array.mode == "c":
        return None
    whole = array
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    shift = array.ctypes.data - whole.ctypes.data
    return {
        "filename": array.filename,
        "dtype": array.dtype,
        "mode": "r",
        "offset": whole.offset + shift,
        "shape": array.shape,
        "order": order,
    }


def _words(index: tuple[slice, ...]) -> str:
    return f"[{', '.join(f'{part.start}:{part.stop}' for part in index)}]"
