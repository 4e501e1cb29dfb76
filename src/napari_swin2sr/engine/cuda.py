"""The fast path on CUDA: fused Triton kernels and half-precision convolutions.

In "bf16" and "fp16" the products inside the transformer and the stages' convolutions
take 16-bit operands. Input, first convolution, residual stream, normalization, logits
and head stay float32 (their convolutions may use TF32, whose mantissa is float16's).
In "fp32" everything is float32 and TF32 is off. Without Triton the same packed weights
go through PyTorch's own operations.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_swin2sr.engine.cpu_torch import stage_convolution
from napari_swin2sr.engine.trim import cut
from napari_swin2sr.errors import check_cancel
from napari_swin2sr.model.windows import from_windows, shift_mask, to_windows

if TYPE_CHECKING:
    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.box import Box
    from napari_swin2sr.model.error_head import ErrorHead
    from napari_swin2sr.model.swin2sr import (
        Dense,
        Layer,
        Stage,
        Swin2SRForImageSuperResolution,
        WindowAttention,
    )

logger = logging.getLogger(__name__)

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Type of the operands of matrix products, per precision."""

CHANNEL_BLOCK = 64
"""Channels per block of a kernel; a network may have up to four blocks."""

HIDDEN_BLOCK = 64
"""Columns of the MLP's hidden layer that a kernel holds at a time."""

MLP_ROWS = 128
"""Pixels per program of the MLP kernel; all of them share its reading of weights."""

ATTENTION_LAUNCH = {"num_warps": 4, "num_stages": 1}
MLP_LAUNCH = {"num_warps": 8, "num_stages": 2}
"""Warps per program, so many that accumulators fit in registers, and copies of weight
blocks in shared memory: more would keep a second window off the processor, or fit no
GPU with less than 100 KB."""

NEVER = -1e9
"""Logit of the padding columns of a window that has fewer pixels than its tile."""


def can_fuse(net: Swin2SRForImageSuperResolution) -> bool:
    """Tell whether Triton is here and the network fits its kernels."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    config = net.config
    return config.attention_window <= 8 and config.embed_dim <= 4 * CHANNEL_BLOCK


class GpuForward:
    """A network packed for one precision: (N, C, H, W) -> (N, C, uH, uW) float32.

    The network is copied; tiles and results are on the device. `fuse` tells whether to
    use the Triton kernels: by default in 16 bits, where they run.
    """

    def __init__(
        self,
        net: Swin2SRForImageSuperResolution,
        device: torch.device,
        precision: str,
        fuse: bool | None = None,
    ) -> None:
        self.net = copy.deepcopy(net).to(device).requires_grad_(False)
        self.half = HALF[precision]
        self._pack(precision != "fp32" and can_fuse(net) if fuse is None else fuse)
        if fuse is None and self.fuse and not self._kernels_run(device):
            self._pack(False)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # other streams may use the weights now

    def _pack(self, fuse: bool) -> None:
        self.fuse = fuse
        with torch.no_grad():
            self.stages = [
                PackedStage.from_stage(cast("Stage", stage), self.half, fuse)
                for stage in self.net.swin2sr.encoder.stages
            ]

    def _kernels_run(self, device: torch.device) -> bool:
        """Try the kernels: they need a C compiler, and GPUs differ in what fits."""
        config = self.net.config
        shape = (1, config.num_channels, config.window_size, config.window_size)
        try:
            with torch.inference_mode():
                self(torch.zeros(shape, device=device))
        except Exception as error:
            logger.warning(
                "%s: the fused kernels cannot be used (%s: %s); PyTorch's operations "
                "run instead, which are slower",
                *(device, type(error).__name__, str(error).strip().split("\n")[-1]),
            )
            return False
        return True

    def __call__(
        self,
        x: Tensor,
        core: Box | None = None,
        cancel: CancelToken | None = None,
        error_head: ErrorHead | None = None,
    ) -> Tensor:
        """Upscale tiles of (N, C, H, W) float32; sides of any length."""
        tf32 = self.half != torch.float32
        with (
            torch.cuda.device_of(x),  # Triton launches on the current device
            torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32),
        ):
            run_body = partial(self._run_body, cancel=cancel)
            y = self.net.upscale_tile(x, run_body, error_head)
        return cut(y, core, self.net.config.upscale)

    def _run_body(self, pixels: Tensor, cancel: CancelToken | None) -> Tensor:
        """Turn normalized pixels (N, channels, H, W) into the head's input."""
        body = self.net.swin2sr
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        shallow = body.first_convolution(pixels)
        stream = body.embeddings["patch_embeddings"](shallow).contiguous()
        for stage in self.stages:
            check_cancel(cancel)
            stream = stage(stream)
        deep = body.layernorm(stream).permute(0, 3, 1, 2)
        return cast("Tensor", body.conv_after_body(deep) + shallow)


@dataclass(frozen=True, slots=True)
class PackedStage:
    """A stage: packed layers, its convolution, the residual connection."""

    layers: tuple[PackedLayer, ...]
    convolution: nn.Module

    @classmethod
    def from_stage(cls, stage: Stage, half: torch.dtype, fuse: bool) -> PackedStage:
        """Pack a stage for products in `half`."""
        layers = (
            PackedLayer.from_layer(cast("Layer", x), half, fuse) for x in stage.layers
        )
        return cls(tuple(layers), stage_convolution(stage).to(half))

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the stage to (N, H, W, C) float32, which is not changed."""
        y = x.clone()
        for layer in self.layers:
            y = layer(y)
        dtype = next(self.convolution.parameters()).dtype
        y = self.convolution(y.to(dtype).permute(0, 3, 1, 2))
        return x + y.permute(0, 2, 3, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayer:
    """The weights of a transformer layer, as `cuda_kernels` takes them.

    Channels are padded with zeros to `blocks * CHANNEL_BLOCK`, features per head to
    a power of two from 16, hidden columns to multiples of `HIDDEN_BLOCK`.
    """

    window: int
    shift: int
    blocks: int
    fuse: bool
    wqkv: Tensor  # (heads, 3, channels, head) half
    bqkv: Tensor  # (heads, 3, head)
    scale: Tensor  # (heads,)
    bias: Tensor  # (heads, T, T)
    wproj: Tensor  # (heads, head, channels) half
    bproj: Tensor  # (C,)
    norm1: nn.LayerNorm
    w1: Tensor  # (channels, hidden) half
    b1: Tensor  # (hidden,)
    w2: Tensor  # (hidden, channels) half
    b2: Tensor  # (C,)
    norm2: nn.LayerNorm

    @classmethod
    def from_layer(cls, layer: Layer, half: torch.dtype, fuse: bool) -> PackedLayer:
        """Pack a layer for products in `half`."""
        attention = cast("WindowAttention", layer.attention["self"])
        dense = cast("Dense", layer.attention["output"]).dense
        heads, dim = attention.heads, dense.in_features
        head, hidden = dim // heads, layer.intermediate.dense.out_features
        pixels = layer.window**2
        blocks = -(-dim // CHANNEL_BLOCK)
        channels = blocks * CHANNEL_BLOCK
        padded_head = max(16, 1 << (head - 1).bit_length())
        padded_hidden = -(-hidden // HIDDEN_BLOCK) * HIDDEN_BLOCK
        side = max(16, 1 << (pixels - 1).bit_length())

        qkv = (attention.query, attention.key, attention.value)
        w = torch.stack([m.weight.unflatten(0, (heads, head)) for m in qkv], 1)
        zero = torch.zeros(dim, device=w.device)
        biases = [zero if m.bias is None else m.bias for m in qkv]
        b = torch.stack([v.unflatten(0, (heads, head)) for v in biases], 1)
        bias = torch.full((heads, side, side), NEVER, device=w.device)
        bias[:, :, :pixels] = 0
        bias[:, :pixels, :pixels] = attention.position_bias()
        first, second = layer.intermediate.dense, layer.output.dense
        return cls(
            window=layer.window,
            shift=layer.shift,
            blocks=blocks,
            fuse=fuse,
            wqkv=_padded(w.mT, (heads, 3, channels, padded_head)).to(half),
            bqkv=_padded(b, (heads, 3, padded_head)),
            scale=attention.scale().flatten().contiguous(),
            bias=bias,
            wproj=_padded(
                dense.weight.T.unflatten(0, (heads, head)),
                (heads, padded_head, channels),
            ).to(half),
            bproj=dense.bias,
            norm1=layer.layernorm_before,
            w1=_padded(first.weight.T, (channels, padded_hidden)).to(half),
            b1=_padded(first.bias, (padded_hidden,)),
            w2=_padded(second.weight.T, (padded_hidden, channels)).to(half),
            b2=second.bias,
            norm2=layer.layernorm_after,
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the layer to (N, H, W, C) float32; a fused layer works in place."""
        if self.fuse:
            assert x.is_contiguous()
            self.fused_attention(x)
            self.fused_mlp(x)
            return x
        x = x + self.norm1(self._attention(x))
        return x + self.norm2(self._mlp(x))

    def fused_attention(self, x: Tensor) -> None:
        """Apply the first half of the layer in place."""
        from napari_swin2sr.engine import cuda_kernels as kernels

        n, height, width, dim = x.shape
        windows = n * (height // self.window) * (width // self.window)
        heads, _, _, head = self.wqkv.shape
        kernels.attention_block[(windows,)](
            *(x, x, self.wqkv, self.bqkv, self.scale, self.bias, self.wproj),
            *(self.bproj, self.norm1.weight, self.norm1.bias, self.norm1.eps),
            *(height, width, self.shift),
            C=dim, NB=self.blocks, BC=CHANNEL_BLOCK,
            HEADS=heads, D=head, WS=self.window, T=self.bias.shape[-1],
            **ATTENTION_LAUNCH,
        )  # fmt: skip

    def fused_mlp(self, x: Tensor) -> None:
        """Apply the second half of the layer in place."""
        from napari_swin2sr.engine import cuda_kernels as kernels

        dim = x.shape[-1]
        pixels = x.numel() // dim
        kernels.mlp_block[(-(-pixels // MLP_ROWS),)](
            *(x, x, self.w1, self.b1, self.w2, self.b2),
            *(self.norm2.weight, self.norm2.bias, self.norm2.eps, pixels),
            C=dim, NB=self.blocks, BC=CHANNEL_BLOCK,
            HIDDEN=len(self.b1), BH=HIDDEN_BLOCK, BM=MLP_ROWS,
            **(MLP_LAUNCH if self.blocks < 4 else MLP_LAUNCH | {"num_stages": 1}),
        )  # fmt: skip

    def _attention(self, x: Tensor) -> Tensor:
        """Window attention by PyTorch's operations, with the packed weights."""
        _, height, width, dim = x.shape
        half, pixels = self.wqkv.dtype, self.window**2
        x = x.roll((-self.shift, -self.shift), (1, 2)) if self.shift else x
        w = to_windows(x, self.window).to(half)  # (N, windows, L, C)
        qkv = torch.einsum("nwlc,hscd->snwhld", w, self.wqkv[:, :, :dim])
        q, k, v = qkv.float() + self.bqkv.permute(1, 0, 2)[:, None, None, :, None]
        q, k = F.normalize(q, dim=-1).to(half), F.normalize(k, dim=-1).to(half)
        logits = (q @ k.mT).float() * self.scale[:, None, None]
        logits += self.bias[:, :pixels, :pixels]
        if self.shift:
            logits += shift_mask(height, width, self.window, self.shift, like=logits)
        context = logits.softmax(-1).to(half) @ v.to(half)
        y = torch.einsum("nwhld,hdc->nwlc", context, self.wproj[..., :dim])
        y = from_windows(y.float() + self.bproj, height, width, self.window)
        return y.roll((self.shift, self.shift), (1, 2)) if self.shift else y

    def _mlp(self, x: Tensor) -> Tensor:
        half, dim = self.w1.dtype, x.shape[-1]
        hidden = F.gelu((x.to(half) @ self.w1[:dim]).float() + self.b1)
        return (hidden.to(half) @ self.w2[:, :dim]).float() + self.b2


def _padded(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return x with zeros appended along every axis, contiguous."""
    grow = [(0, n - m) for n, m in zip(shape, x.shape, strict=True)]
    return F.pad(x, [p for pair in reversed(grow) for p in pair]).contiguous()
