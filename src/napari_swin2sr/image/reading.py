"""Read one block of any array and believe nothing that it says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_swin2sr.errors import FileError, InputError, Swin2SRError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

Index = tuple[slice, ...]

_FIX = "convert the image with .astype to an integer or floating-point type"


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the pixels' type in native byte order.

    Raises
    ------
    InputError
        If such pixels are no real numbers; the text says what to do.
    """
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


def read_block(source: Any, index: Index) -> NDArray[Any]:
    """Read the pixels at `index`, one slice with start and stop per axis.

    A dask array is computed in this thread: a nested scheduler would multiply the
    tiles in memory.

    Returns
    -------
    array of the declared type in native byte order, masked if the source's block is;
    it may share memory with the source and must not be written to

    Raises
    ------
    FileError
        If reading fails with an error of the operating system.
    InputError
        If reading fails otherwise, or gives another shape or type than declared.
    """
    try:
        block = source[index]
        if hasattr(block, "__dask_graph__"):
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


def _words(index: Index) -> str:
    return f"[{', '.join(f'{part.start}:{part.stop}' for part in index)}]"
