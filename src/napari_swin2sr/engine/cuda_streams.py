"""Tiles to a CUDA device and back while the kernels of another tile run.

The kernels of all tiles of a device go to one stream: a tile fills the GPU, and the
next one works in the memory that it leaves behind. Each tile on the device has a
stream of its own for its two copies, which go to and from page-locked memory. So one
tile is copied in or out while another is computed, and a thread waits for its own
result only.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_swin2sr.engine.backends import Forward

TILES_ON_DEVICE = 2
"""Tiles of a device that are copied or computed at a time: one and the next."""

_enqueue = threading.Lock()
"""Held while kernels are enqueued, not while they run.

One for all devices, since switches such as TF32 belong to the whole process.
"""

_streams: dict[torch.device, Streams] = {}


def run_on_cuda(x: Tensor, forward: Forward, device: torch.device) -> Tensor:
    """Copy tiles to a device, run a forward there, and copy its result back.

    Tiles and result are float32 on the CPU. The forward enqueues its kernels on the
    current stream, and does not wait for them. Any number of threads may call this;
    `TILES_ON_DEVICE` of them get in at a time. The device may report an error of the
    kernels (RuntimeError) only after they were enqueued.
    """
    with _enqueue:
        if device not in _streams:
            _streams[device] = Streams(device)
    return _streams[device](x, forward)


class Streams:
    """The streams of a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kernels = torch.cuda.Stream(device)
        self._copies: queue.SimpleQueue[torch.cuda.Stream] = queue.SimpleQueue()
        for _ in range(TILES_ON_DEVICE):
            self._copies.put(torch.cuda.Stream(device))

    def __call__(self, x: Tensor, forward: Forward) -> Tensor:
        """Run one forward, with one of the streams for copies."""
        copies = self._copies.get()
        try:
            return self._run(x, forward, copies)
        finally:
            self._copies.put(copies)

    def _run(self, x: Tensor, forward: Forward, copies: torch.cuda.Stream) -> Tensor:
        """Memory belongs to the stream it was taken on; others that use it say so."""
        kernels = self._kernels
        source = _page_locked(x.shape).copy_(x)
        with torch.cuda.stream(copies):
            tiles = source.to(self._device, non_blocking=True)
        with _enqueue, torch.cuda.stream(kernels):
            kernels.wait_stream(copies)
            tiles.record_stream(kernels)
            y = forward(tiles).float().contiguous()
            copies.wait_stream(kernels)
        result = _page_locked(y.shape)
        with torch.cuda.stream(copies):
            result.copy_(y, non_blocking=True)
            y.record_stream(copies)
            done = torch.cuda.Event(blocking=True)  # a waiting thread sleeps
            done.record(copies)
        done.synchronize()
        return result


def _page_locked(shape: Sequence[int]) -> Tensor:
    """Return float32 memory that is copied while the CPU does other things.

    Systems limit how much of it there is. Copies from and to other memory are right
    too, but wait for each other.
    """
    try:
        return torch.empty(shape, pin_memory=True)
    except RuntimeError:
        return torch.empty(shape)
