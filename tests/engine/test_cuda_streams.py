"""Copies beside kernels: order on the streams, threads, memory and faults.

Without a GPU, streams are stand-ins that work in order and only when they are waited
for, as late as the real ones may.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.tiny import tiny_net
from napari_swin2sr.engine import cuda_streams
from napari_swin2sr.engine import upscaler as module
from napari_swin2sr.engine.cuda_streams import TILES_ON_DEVICE, run_on_cuda
from napari_swin2sr.engine.upscaler import Upscaler
from napari_swin2sr.errors import InferenceError

DEVICE = torch.device("cuda", 0)


class Stream:
    """Work in order; nothing is done before somebody waits for it."""

    def __init__(self, device: object = None) -> None:
        self.todo: list[Callable[[], object]] = []

    def put(self, work: Callable[[], object]) -> None:
        self.todo.append(work)

    def wait_stream(self, other: Stream) -> None:
        n = len(other.todo)
        self.put(lambda: other.finish(n))

    def finish(self, n: int) -> None:
        with DOING:
            for i in range(n):
                work, self.todo[i] = self.todo[i], lambda: None
                work()


class Event:
    def __init__(self, blocking: bool) -> None:
        assert blocking

    def record(self, stream: Stream) -> None:
        self.stream, self.n = stream, len(stream.todo)

    def synchronize(self) -> None:
        WAITING.release()
        self.stream.finish(self.n)


class Lazy(Tensor):
    """A tensor on the device: filled when its stream gets there."""

    def record_stream(self, stream: Any) -> None:
        KNOWN_TO.setdefault(self.data_ptr(), set()).add(stream)

    def to(self, *args: object, **kwargs: object) -> Tensor:
        if args != (DEVICE,):
            return super().to(*args, **kwargs)
        assert kwargs == {"non_blocking": True}
        copy = torch.full(self.shape, torch.nan).as_subclass(Lazy)
        CURRENT.stream.put(lambda: fill(copy, self))
        return copy

    def copy_(self, source: Tensor, non_blocking: bool = False) -> Tensor:
        if non_blocking:
            CURRENT.stream.put(lambda: fill(self, source))
            return self
        return fill(self, source)


CURRENT = threading.local()
DOING = threading.RLock()
KNOWN_TO: dict[int, set[Stream]] = {}  # by address
WAITING = threading.Semaphore(0)


def fill(target: Tensor, source: Tensor) -> Tensor:
    target.as_subclass(Tensor).copy_(source.as_subclass(Tensor))
    return target


def on_device(run: Callable[[Tensor], Tensor], upscale: int = 2) -> Any:
    """Make a forward that is put on the current stream, like kernels."""

    def forward(x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        shape = (n, c, upscale * height, upscale * width)
        y = torch.full(shape, torch.nan).as_subclass(Lazy)

        def kernel() -> None:
            with torch.inference_mode():
                fill(y, run(x.as_subclass(Tensor)))

        CURRENT.stream.put(kernel)
        return y

    return forward


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        before = getattr(CURRENT, "stream", None)
        CURRENT.stream = chosen
        yield
        CURRENT.stream = before

    def locked(shape: object, *, pin_memory: bool = False, **more: object) -> Tensor:
        made = empty(shape, **more)
        return made.as_subclass(Lazy) if pin_memory else made

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch, "empty", locked)
    monkeypatch.setattr(cuda_streams, "_streams", {})
    KNOWN_TO.clear()
    while WAITING.acquire(blocking=False):
        pass


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_the_host_gets_what_the_last_stream_made(fake_cuda: None) -> None:
    """Without any of the waits, NaN would come out of these streams."""
    x = torch.rand(2, 3, 8, 16)
    y = run_on_cuda(x, on_device(double), DEVICE)
    assert torch.equal(y.as_subclass(Tensor), double(x))


def test_the_allocator_knows_every_stream(fake_cuda: None) -> None:
    """Memory of a stream is not given away while another stream still uses it."""
    seen: list[Lazy] = []

    def forward(x: Tensor, *_: object, **__: object) -> Tensor:
        y = on_device(double)(x)  # type: ignore[operator]
        seen.extend([x, y])
        return y

    run_on_cuda(torch.rand(1, 1, 8, 8), forward, DEVICE)
    streams = cuda_streams._streams[DEVICE]
    copies = {streams._copies.get() for _ in range(TILES_ON_DEVICE)}
    tiles, y = (KNOWN_TO[tensor.data_ptr()] for tensor in seen)
    assert tiles == {streams._kernels}
    assert len(y) == 1
    assert y <= copies


def test_another_tile_is_enqueued_while_the_first_one_runs(fake_cuda: None) -> None:
    """At most `TILES_ON_DEVICE` at a time, and no lock is held while they run."""
    running, may_end = threading.Semaphore(0), threading.Event()
    enqueued: list[int] = []

    def kernel(x: Tensor) -> Tensor:
        running.release()
        assert may_end.wait(60)
        return double(x)

    def forward(x: Tensor, *_: object, **__: object) -> Tensor:
        enqueued.append(1)
        return on_device(kernel)(x)  # type: ignore[operator]

    inputs = [torch.rand(1, 1, 8, 8) for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(run_on_cuda, x, forward, DEVICE) for x in inputs]
        try:
            assert running.acquire(timeout=60)
            for _ in range(TILES_ON_DEVICE):
                assert WAITING.acquire(timeout=10)
            assert not WAITING.acquire(timeout=0.2)
            assert len(enqueued) == TILES_ON_DEVICE
        finally:
            may_end.set()
        for x, job in zip(inputs, jobs, strict=True):
            assert torch.equal(job.result(60).as_subclass(Tensor), double(x))


def test_a_failure_gives_its_place_back(fake_cuda: None) -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: no")

    x = torch.rand(1, 1, 8, 8)
    for place in ("before", "after"):
        for _ in range(TILES_ON_DEVICE + 1):
            forward = fails if place == "before" else on_device(fails)
            with pytest.raises(RuntimeError, match="CUDA error"):
                run_on_cuda(x, forward, DEVICE)  # type: ignore[arg-type]
    y = run_on_cuda(x, on_device(double), DEVICE)  # type: ignore[arg-type]
    assert torch.equal(y.as_subclass(Tensor), double(x))


def test_without_page_locked_memory_it_is_ordinary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = torch.empty

    def refuses(shape: object, pin_memory: bool = False) -> Tensor:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return empty(shape)

    monkeypatch.setattr(torch, "empty", refuses)
    assert cuda_streams._page_locked((2, 3)).shape == (2, 3)


# -- the upscaler on such a device ----------------------------------------------------


@pytest.fixture
def fake_upscaler(
    fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Upscaler]:
    """Make an upscaler on a stand-in for a GPU, with memory for so many pixels."""
    monkeypatch.setattr(module, "choose_device", lambda device: DEVICE)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def make(pixels: float = np.inf, overflow: bool = False) -> Upscaler:
        def prepare(net: object, device: torch.device, how: str) -> object:
            run = net.upscale_tile  # type: ignore[attr-defined]
            if device.type == "cpu":
                return run

            def kernel(x: Tensor) -> Tensor:
                big = overflow and how != "fp32" and x.shape[-1] > 32
                return run(x) * torch.inf if big else run(x)

            def forward(x: Tensor) -> Tensor:
                if x.shape[0] * x.shape[2] * x.shape[3] > pixels:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return on_device(kernel)(x)  # type: ignore[operator]

            return forward

        monkeypatch.setattr(module, "prepare", prepare)
        return Upscaler(tiny_net(), "cuda", "bf16" if overflow else "fp32")

    return make


def expected(x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return tiny_net().upscale_tile(torch.from_numpy(x)).numpy()


def test_many_threads(fake_upscaler: Callable[..., Upscaler]) -> None:
    upscaler, rng = fake_upscaler(), np.random.default_rng(0)
    inputs = [rng.random((1, 3, 8 * h, 16), np.float32) for h in (1, 2, 3) * 3]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(upscaler, inputs))
    for x, y in zip(inputs, results, strict=True):
        assert type(y) is np.ndarray
        np.testing.assert_allclose(y, expected(x), rtol=0, atol=2e-6)


def test_out_of_memory(fake_upscaler: Callable[..., Upscaler]) -> None:
    x = np.random.default_rng(0).random((3, 3, 32, 32), np.float32)
    y = fake_upscaler(pixels=32 * 32)(x)
    np.testing.assert_allclose(y, expected(x), rtol=0, atol=2e-6)


def test_overflow_is_repeated_in_float32(
    fake_upscaler: Callable[..., Upscaler],
) -> None:
    x = np.random.default_rng(0).random((1, 3, 16, 64), np.float32)
    upscaler = fake_upscaler(overflow=True)
    with pytest.warns(UserWarning, match="overflowed in bf16"):
        y = upscaler(x)
    np.testing.assert_allclose(y, expected(x), rtol=0, atol=2e-6)


def test_a_device_that_fails_late_is_not_trusted(
    fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(module, "choose_device", lambda device: DEVICE)
    monkeypatch.setattr(
        module,
        "prepare",
        lambda net, device, how: (
            net.upscale_tile if device.type == "cpu" else on_device(fails)
        ),
    )
    with pytest.raises(InferenceError, match=r"cuda:0 cannot be trusted.*illegal"):
        Upscaler(tiny_net(), "cuda:0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_threads_on_the_gpu() -> None:
    upscaler, rng = Upscaler(tiny_net(), "cuda", "fp32"), np.random.default_rng(0)
    inputs = [rng.random((1, 3, 64, 8 * w), np.float32) for w in (8, 16, 32) * 20]
    alone = [upscaler(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(upscaler, inputs))
    for x, a, b in zip(inputs, alone, together, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, expected(x), rtol=0, atol=1e-4)
