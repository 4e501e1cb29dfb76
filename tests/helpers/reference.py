"""What the result should be: the whole image in one pass, the slow and sure way."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution


def whole_pass(net: Swin2SRForImageSuperResolution, plane: np.ndarray) -> np.ndarray:
    """Run (C, H, W) pixels of 0 to 1 as the authors' script does.

    Pad the far sides symmetrically to the next multiple of the window, run the
    network, crop. A gray plane enters as three equal channels, and their results are
    averaged.
    """
    _, height, width = plane.shape
    window, u = net.config.window_size, net.config.upscale
    far = [(0, (n // window + 1) * window - n) for n in (height, width)]
    padded = np.pad(plane.astype(np.float32), ((0, 0), *far), mode="symmetric")
    gray = len(plane) < net.config.num_channels
    if gray:
        padded = np.repeat(padded, net.config.num_channels, axis=0)
    with torch.no_grad():
        result = net(torch.from_numpy(padded[None])).reconstruction[0].numpy()
    if gray:
        result = result.astype(np.float64).mean(axis=0, keepdims=True)
    return result[:, : u * height, : u * width]


def whole_image(
    net: Swin2SRForImageSuperResolution,
    values: np.ndarray,
    axes: str,
    low: float,
    high: float,
    top: float = 1.0,
) -> np.ndarray:
    """Super-resolve an array of any axes, plane by plane, in float64 around the net."""
    values = np.asarray(values, np.float64)
    order = [axes.index(a) for a in axes if a not in "YXS"]
    samples = [axes.index("S")] if "S" in axes else []
    order += [*samples, axes.index("Y"), axes.index("X")]
    stacked = values.transpose(order)
    stack = stacked.shape[: len(order) - len(samples) - 2]
    u = net.config.upscale
    height, width = stacked.shape[-2:]
    out = np.empty((*stacked.shape[:-2], u * height, u * width))
    for index in itertools.product(*map(range, stack)):
        plane = stacked[index].reshape(-1, height, width)
        mapped = (plane - low) / (high - low) * top
        result = whole_pass(net, mapped) / top * (high - low) + low
        out[index] = result.reshape(out[index].shape)
    return out.transpose(np.argsort(order))
