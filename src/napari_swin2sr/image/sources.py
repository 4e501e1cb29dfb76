"""What can be an image: pixels of any library as a lazy, numpy-like source.

Libraries are recognised without being imported: an object of a library that
nobody has loaded cannot exist. What is sliceable already stays as it is; blocks are
checked where they are read.
"""

from __future__ import annotations

import itertools
import sys
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_swin2sr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

Index = tuple[int | slice, ...]


class Pixels(NamedTuple):
    """A lazy source, and what its library says about the axes."""

    source: Any
    axes: str | None = None


class Adapter:
    """An array whose blocks need a function to become NumPy arrays.

    Parameters
    ----------
    array : anything with a shape
    dtype : NumPy type of the blocks
    read : (array, index) -> block, a NumPy array

    Attributes
    ----------
    array, dtype : as given
    shape, ndim : of the array
    """

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
    """Wrap an image of any library; no pixel is read unless it is in memory.

    Raises
    ------
    InputError
        If it is no image, or one whose pixels are no real numbers.
    """
    for convert in (_from_list, _from_pillow, _from_torch, _from_numpy):
        pixels = convert(array)
        if pixels is not None:
            return pixels
    return _from_any(array)


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
    elif mode in _CONVERTED:
        picture = array.convert(_CONVERTED[mode])
        warnings.warn(
            f"a picture of mode {mode} is converted to {picture.mode}", stacklevel=4
        )
    elif mode not in _TAKEN and not mode.startswith("I;16"):
        raise InputError(
            f"a picture of mode {mode} is not supported; convert it to RGB or L first"
        )
    axes = "YXS" if picture.mode in ("RGB", "RGBA") else "YX"
    return Pixels(np.asarray(picture), axes)


_TAKEN = ("1", "L", "I", "F", "RGB", "RGBA")
_CONVERTED = {"CMYK": "RGB", "YCbCr": "RGB", "RGBX": "RGB"} | dict.fromkeys(
    ("LA", "La", "PA", "RGBa"), "RGBA"
)


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
        else "pass an array (NumPy, dask, zarr, xarray, PyTorch), a Pillow picture, a "
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
