"""Images cut into attention windows: padding, shifting, masks and offset tables.

L = window * window is the number of pixels in a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from napari_swin2sr.weights.state_dict import MASKED


def pad_to_window(x: Tensor, window: int) -> Tensor:
    """Mirror rows and columns at the bottom and right, to multiples of the window.

    The edge pixel is repeated, and images smaller than the padding are mirrored
    again and again (`numpy.pad(mode="symmetric")`). Multiples stay as they are.
    """
    for dim in (-2, -1):
        size = x.shape[dim]
        if size % window:
            index = torch.arange(-(-size // window) * window, device=x.device)
            index = index % (2 * size)
            index = torch.minimum(index, 2 * size - 1 - index)
            x = x.index_select(dim, index)
    return x


def to_windows(x: Tensor, window: int) -> Tensor:
    """Cut (N, H, W, C) into windows: (N, windows, L, C)."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, height: int, width: int, window: int) -> Tensor:
    """Put (N, windows, L, C) together again: (N, H, W, C)."""
    x = x.unflatten(2, (window, window))
    x = x.unflatten(1, (height // window, width // window))
    return x.transpose(2, 3).reshape(x.shape[0], height, width, -1)


def shift_mask(
    height: int, width: int, window: int, shift: int, like: Tensor
) -> Tensor:
    """Return what is added to the logits of shifted windows, (windows, 1, L, L).

    A cyclic shift brings opposite sides of the image into one window; pixels attend
    only to those from their own side.
    """
    last_rows = torch.arange(height, device=like.device) >= height - shift
    last_columns = torch.arange(width, device=like.device) >= width - shift
    side = last_rows[:, None] + 2 * last_columns  # (H, W): which sides came around
    side = to_windows(side[None, :, :, None], window)[0, ..., 0]  # (windows, L)
    different = side[:, None, :, None] != side[:, None, None, :]
    return like.new_zeros(different.shape).masked_fill_(different, MASKED)
