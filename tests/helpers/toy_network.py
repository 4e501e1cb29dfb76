"""Block functions with a known reach, exact in integers, instead of a network."""

from __future__ import annotations

import numpy as np


def repeat(tiles):
    """Every pixel twice per axis: no reach at all; (N, C, H, W)."""
    return tiles.repeat(2, axis=-1).repeat(2, axis=-2)


def neighbors(tiles):
    """Sum of the 5 x 5 pixels around each, zeros beyond the tile, then `repeat`."""
    height, width = tiles.shape[-2:]
    padded = np.pad(tiles, ((0, 0), (0, 0), (2, 2), (2, 2)))
    total = sum(
        padded[..., i : i + height, j : j + width] for i in range(5) for j in range(5)
    )
    return repeat(total.astype(np.float32))


def window_network(image, window, layers, upscale):
    """Plain and shifted windows in turn, exact in integers, chaotic in its inputs.

    Like a Swin layer: every pixel learns of its whole window and of nothing else,
    and windows that wrap around the border are cut in four.
    """
    height, width = image.shape
    assert height % window == 0 == width % window
    x = image.astype(np.int64)
    for layer in range(layers):
        shift = (layer % 2) * (window // 2)
        rows, columns = (
            np.repeat(np.arange(-1, n // window), window)[window - shift :][:n]
            for n in (height, width)
        )
        labels = (rows[:, None] + 1) * (width + 2) + columns[None, :] + 1
        sums = np.bincount(labels.ravel(), (x % 1009).ravel())
        places = np.arange(height)[:, None] % window * 31 + np.arange(width) % window
        x = (x * 17 + sums[labels].astype(np.int64) * (layer + 3) + places) % 100_003
    return np.repeat(np.repeat(x, upscale, 0), upscale, 1)


def windows(tiles, layers=4):
    """`window_network` x2 as a block function; needs a halo of 4 px per layer.

    Works on thousandths, so that filled pixels count too.
    """
    planes = [
        window_network(np.rint(plane.astype(np.float64) * 1000), 8, layers, 2)
        for plane in tiles.reshape(-1, *tiles.shape[-2:])
    ]
    height, width = planes[0].shape
    return np.array(planes, np.float32).reshape(*tiles.shape[:2], height, width)
