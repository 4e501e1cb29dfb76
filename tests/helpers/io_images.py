"""Small images in files of every kind, made for the tests of input and output."""

from __future__ import annotations

import numpy as np


def noise(shape, dtype="uint16", seed=0):
    """Random pixels over the whole range of an integer type, or 0..1 for floats."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def smooth(shape, dtype="uint16"):
    """A gradient with waves, different in every plane."""
    index = np.indices(shape, dtype=np.float64)
    value = np.sin(index[-1] / 9) + np.cos(index[-2] / 7) + 2
    value += 0.5 * sum(index[:-2], np.zeros(shape))
    value *= 1 / value.max()
    if np.dtype(dtype).kind == "f":
        return value.astype(dtype)
    return (value * np.iinfo(dtype).max).astype(dtype)
