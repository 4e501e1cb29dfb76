"""The one place that chooses how a network is run; every way gives the same pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from napari_swin2sr.engine.cpu_native import prepare_native
from napari_swin2sr.engine.cpu_torch import CpuForward

if TYPE_CHECKING:
    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution

Forward: TypeAlias = Callable[[Tensor], Tensor]
"""(N, C, H, W) float32 on a device -> (N, C, upscale * H, upscale * W) float32."""


def prepare(
    net: Swin2SRForImageSuperResolution, device: torch.device, precision: str
) -> Forward:
    """Return the fastest way to run a network on a device.

    Parameters
    ----------
    net : the network, in evaluation mode; not changed, and not needed afterwards
    device : where the tiles are and the results go
    precision : "fp32", "bf16" or "fp16": operands of the products inside the
        transformer. Everything else is float32

    Returns
    -------
    Forward
        Like `net.upscale_tile`, without state: threads may share it.
    """
    if device.type == "cuda":
        from napari_swin2sr.engine.cuda import GpuForward

        return GpuForward(net, device, precision)
    if device.type == "cpu":
        return prepare_cpu(net, precision)
    return copy.deepcopy(net).to(device).eval().requires_grad_(False).upscale_tile


def prepare_cpu(net: Swin2SRForImageSuperResolution, precision: str) -> Forward:
    """Return the compiled kernels if they can be had, else PyTorch's operations.

    Compiled float32 is faster than PyTorch's bfloat16, and more exact.
    """
    half = torch.bfloat16 if precision == "bf16" else torch.float32
    return (
        prepare_native(net, precision)
        or prepare_native(net, "fp32")
        or CpuForward(net, half)
    )
