"""Cheap stand-ins for lazy images and stores; they pickle, for other processes."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class FakeLazy:
    """Blocks of 4 x 4 with known content; `ill` blocks raise so many times."""

    grid: tuple[int, ...] = (3, 4)
    side: int = 4
    ill: dict[tuple[int, ...], int] = field(default_factory=dict)
    seconds: float = 0.0
    error: type[Exception] = ValueError

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(n * self.side for n in self.grid)

    def block_at(self, index: tuple[int, ...]) -> np.ndarray:
        time.sleep(self.seconds)
        if self.ill.get(index, 0):
            self.ill[index] -= 1
            raise self.error(f"block {index} is ill")
        number = np.ravel_multi_index(index, self.grid) + 1
        return np.full((self.side,) * len(self.grid), number, np.uint16)

    def slices_at(self, index: tuple[int, ...]) -> tuple[slice, ...]:
        return tuple(slice(i * self.side, (i + 1) * self.side) for i in index)

    def truth(self) -> np.ndarray:
        out = np.zeros(self.shape, np.uint16)
        for index in np.ndindex(self.grid):
            number = np.ravel_multi_index(index, self.grid) + 1
            out[self.slices_at(index)] = number
        return out


class FailingSink:
    """An array whose writes number `first` to `last` raise an OSError."""

    def __init__(
        self, shape: tuple[int, ...], code: int, first: int, last: int
    ) -> None:
        self.array = np.zeros(shape, np.uint16)
        self.code, self.first, self.last = code, first, last
        self.writes = 0
        self.lock = threading.Lock()

    def __setitem__(self, key: Any, value: Any) -> None:
        with self.lock:
            self.writes += 1
            number = self.writes
        if self.first <= number <= self.last:
            raise OSError(self.code, errno.errorcode[self.code])
        self.array[key] = value
