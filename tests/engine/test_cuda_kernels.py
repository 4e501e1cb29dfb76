"""The GPU path: Triton kernels against the network as it is written.

Without a GPU the kernels run in Triton's interpreter, on the CPU. The interpreter
cannot multiply bfloat16 matrices, and rounds 1.999 to 1 in bfloat16; PyTorch's rounding
takes the place of its own here.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are imported

from napari_swin2sr.engine.cuda import GpuForward, PackedLayer, can_fuse
from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
from napari_swin2sr.weights.config import Swin2SRConfig

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

SHAPES = {
    "lightweight": {
        "embed_dim": 60,
        "depths": (2,),
        "num_heads": (6,),
        "upsampler": "pixelshuffledirect",
        "upscale": 2,
    },
    "classical": {"embed_dim": 180, "depths": (2,), "num_heads": (6,), "upscale": 4},
    "four blocks, 3conv": {
        "embed_dim": 200,
        "depths": (2,),
        "num_heads": (2,),
        "upsampler": "nearest+conv",
        "upscale": 4,
        "resi_connection": "3conv",
    },
    "window 7": {
        "embed_dim": 36,
        "depths": (2,),
        "num_heads": (3,),
        "window_size": 7,
        "upsampler": "",
        "upscale": 1,
        "img_range": 255.0,
        "num_channels": 1,
        "num_channels_out": 1,
    },
}


def network(**shape: object) -> Swin2SRForImageSuperResolution:
    """Return a network whose biases, norms and scales are all at work."""
    generator = torch.Generator().manual_seed(1)
    net = Swin2SRForImageSuperResolution(Swin2SRConfig(**shape)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for p in net.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.add_(0.1 * noise / max(p.shape[-1], 1) ** 0.5)
    return net


def run(forward: object, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return forward(x.to(DEVICE)).cpu()  # type: ignore[operator]


@pytest.mark.parametrize("fuse", [False, True], ids=["operations", "kernels"])
@pytest.mark.parametrize("name", SHAPES)
def test_float32_equals_the_network_as_written(name: str, fuse: bool) -> None:
    net = network(**SHAPES[name])
    batch = 2 if name == "lightweight" else 1
    x = torch.rand(batch, net.config.num_channels, 9, 13)
    with torch.inference_mode():
        expected = net.upscale_tile(x)
    assert can_fuse(net)
    result = run(GpuForward(net, DEVICE, "fp32", fuse), x)
    assert result.dtype == torch.float32
    assert result.shape == expected.shape
    error = float((result - expected).abs().max() / expected.abs().max())
    assert error <= 5e-6


@pytest.fixture
def bfloat16_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round as PyTorch does, and multiply bfloat16 as the float32 numbers they are."""
    if DEVICE.type == "cuda":
        return
    import triton.language as tl
    from triton.runtime import interpreter as module

    convert, dot = module._convert_float, module.InterpreterBuilder.create_dot

    def convert_too(x, source, target, rounding):
        if (source, target) == (tl.float32, tl.bfloat16):
            numbers = torch.from_numpy(np.array(x, np.float32)).bfloat16()
            return numbers.view(torch.int16).numpy().view(np.uint16)
        if (source, target) == (tl.bfloat16, tl.float32):
            return x.astype(np.uint32) << 16
        return convert(x, source, target, rounding)

    def widened(x):
        if x.dtype.scalar != tl.bfloat16:
            return x
        bits = x.data.view(np.uint16).astype(np.uint32) << 16
        return module.TensorHandle(bits.view(np.float32), tl.float32)

    def dot_too(self, a, b, *more):
        return dot(self, widened(a), widened(b), *more)

    monkeypatch.setattr(module, "_convert_float", convert_too)
    monkeypatch.setattr(module.InterpreterBuilder, "create_dot", dot_too)


@pytest.mark.usefixtures("bfloat16_in_the_interpreter")
@pytest.mark.parametrize("name", ["lightweight", "classical"])
@pytest.mark.parametrize(("precision", "most"), [("fp16", 1e-3), ("bf16", 1e-2)])
@pytest.mark.parametrize("fuse", [False, True], ids=["operations", "kernels"])
def test_16_bits_are_near_float32(
    fuse: bool, precision: str, most: float, name: str
) -> None:
    net = network(**SHAPES[name])
    x = torch.rand(1, 3, 16, 16)
    exact = run(GpuForward(net, DEVICE, "fp32", fuse=False), x)
    result = run(GpuForward(net, DEVICE, precision, fuse), x)
    error = (result - exact) / exact.abs().max()
    assert most / 1e3 < float(error.square().mean().sqrt()) < most


@pytest.mark.usefixtures("bfloat16_in_the_interpreter")
def test_kernels_and_operations_round_alike() -> None:
    """The same packed weights in 16 bits, product by product: only sums differ."""
    net = network(**SHAPES["classical"]).to(DEVICE)
    layer: Any = net.swin2sr.encoder.stages[0].layers[1]  # shifted
    x = torch.randn(1, 16, 16, 180, device=DEVICE)
    for half in (torch.float16, torch.bfloat16):
        ours, plain = (
            PackedLayer.from_layer(layer, half, fuse)(x.clone())
            for fuse in (True, False)
        )
        with torch.inference_mode():
            exact = PackedLayer.from_layer(layer, torch.float32, False)(x)
        rounding = (plain - exact).square().mean().sqrt()
        assert (ours - plain).square().mean().sqrt() < rounding


def test_without_working_kernels_operations_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU with too little shared memory, or a machine without a C compiler."""

    def fails(layer: PackedLayer, x: torch.Tensor) -> None:
        raise ValueError("traceback\nout of resource: shared memory")

    net, x = network(**SHAPES["lightweight"]), torch.rand(1, 3, 8, 8)
    expected = run(GpuForward(net, DEVICE, "fp16", fuse=False), x)
    monkeypatch.setattr(PackedLayer, "fused_attention", fails)
    with caplog.at_level(logging.WARNING):
        forward = GpuForward(net, DEVICE, "fp16")
    assert not forward.fuse
    assert len(caplog.records) == 1
    assert (
        "ValueError: out of resource: shared memory); PyTorch's operations run"
        in caplog.text
    )
    assert torch.equal(run(forward, x), expected)
    with pytest.raises(ValueError, match="shared memory"):  # asked for by name
        run(GpuForward(net, DEVICE, "fp16", fuse=True), x)


def test_gray_is_the_mean_of_the_channels() -> None:
    net = network(**SHAPES["lightweight"])
    x = torch.rand(1, 1, 8, 16)
    forward = GpuForward(net, DEVICE, "fp32", fuse=True)
    color = run(forward, x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(
        run(forward, x), color.mean(1, keepdim=True), rtol=0, atol=1e-5
    )


def test_the_network_is_left_alone() -> None:
    net = network(**SHAPES["lightweight"])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    run(GpuForward(net, DEVICE, "fp16"), torch.rand(1, 3, 8, 8))
    assert all(
        torch.equal(value, before[key]) for key, value in net.state_dict().items()
    )
    assert all(p.requires_grad and p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(("precision", "least_db"), [("fp16", 80), ("bf16", 70)])
def test_half_precision_on_the_gpu(precision: str, least_db: float) -> None:
    net = network(**SHAPES["lightweight"])
    x = torch.rand(1, 3, 64, 64)
    exact = run(GpuForward(net, DEVICE, "fp32"), x)
    error = (run(GpuForward(net, DEVICE, precision), x) - exact) / exact.abs().max()
    assert -10 * float(error.square().mean().log10()) >= least_db
