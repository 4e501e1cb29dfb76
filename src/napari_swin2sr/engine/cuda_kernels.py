"""Two fused GPU kernels for a SwinV2 block, in Triton.

A block is ``x + LN(attention(x))`` followed by ``x + LN(mlp(x))``. Each half is one
kernel that reads the float32 residual stream once and writes it once; queries, keys,
logits, probabilities and the hidden layer of the MLP never leave the GPU's processors.
Matrix products take operands in the type of the packed weights (bfloat16, float16, or
float32 for checking) and add up in float32; normalization, logits, softmax and the
residual stream are float32.

Channels are cut into `NB` blocks of `BC` (180 channels: 3 x 64), because a power of
two is all that a Triton tensor can measure; packed weights are zero past the last
real channel. `TRITON_INTERPRET=1` runs the same code on the CPU, which is how it is
tested on machines without a GPU.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_rows(x, rows, columns, valid, C: tl.constexpr):
    """Load (rows x columns) of the stream; zero past the last row and channel."""
    return tl.load(
        x + rows[:, None] + columns[None, :],
        mask=valid[:, None] & (columns < C)[None, :],
        other=0.0,
    )


@triton.jit
def _add_normalized(
    x, out, rows, columns, valid, value, mean, rstd, gamma, beta, C: tl.constexpr
):
    """Write x + LN(value) for one block of channels."""
    inside = columns < C
    g = tl.load(gamma + columns, mask=inside, other=0.0)
    b = tl.load(beta + columns, mask=inside, other=0.0)
    residual = _load_rows(x, rows, columns, valid, C)
    result = (
        residual + (value - mean[:, None]) * rstd[:, None] * g[None, :] + b[None, :]
    )
    tl.store(
        out + rows[:, None] + columns[None, :],
        result,
        mask=valid[:, None] & inside[None, :],
    )


@triton.jit
def _squares(value, mean, columns, C: tl.constexpr):
    """Sum of squared deviations over the real channels of one block."""
    delta = tl.where((columns < C)[None, :], value - mean[:, None], 0.0)
    return tl.sum(delta * delta, axis=1)


@triton.jit
def _store_block(
    x, out, rows, valid, a0, a1, a2, a3, bias, gamma, beta, eps,
    C: tl.constexpr, NB: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Add the bias, normalize over all channels, add the residual, write."""
    c0 = tl.arange(0, BC)
    c1, c2, c3 = c0 + BC, c0 + 2 * BC, c0 + 3 * BC
    a0 += tl.load(bias + c0, mask=c0 < C, other=0.0)[None, :]
    total = tl.sum(a0, axis=1)
    if NB > 1:
        a1 += tl.load(bias + c1, mask=c1 < C, other=0.0)[None, :]
        total += tl.sum(a1, axis=1)
    if NB > 2:
        a2 += tl.load(bias + c2, mask=c2 < C, other=0.0)[None, :]
        total += tl.sum(a2, axis=1)
    if NB > 3:
        a3 += tl.load(bias + c3, mask=c3 < C, other=0.0)[None, :]
        total += tl.sum(a3, axis=1)
    mean = total / C
    squares = _squares(a0, mean, c0, C)
    if NB > 1:
        squares += _squares(a1, mean, c1, C)
    if NB > 2:
        squares += _squares(a2, mean, c2, C)
    if NB > 3:
        squares += _squares(a3, mean, c3, C)
    rstd = 1.0 / tl.sqrt(squares / C + eps)
    _add_normalized(x, out, rows, c0, valid, a0, mean, rstd, gamma, beta, C)
    if NB > 1:
        _add_normalized(x, out, rows, c1, valid, a1, mean, rstd, gamma, beta, C)
    if NB > 2:
        _add_normalized(x, out, rows, c2, valid, a2, mean, rstd, gamma, beta, C)
    if NB > 3:
        _add_normalized(x, out, rows, c3, valid, a3, mean, rstd, gamma, beta, C)


@triton.jit
def _times(
    x0, x1, x2, x3, w, stride, n0, NB: tl.constexpr, BC: tl.constexpr, BN: tl.constexpr
):
    """Multiply (rows, NB*BC) by columns n0.. of w (NB*BC, stride) -> (rows, BN)."""
    k = tl.arange(0, BC)
    n = n0 + tl.arange(0, BN)
    at = w + k[:, None] * stride + n[None, :]
    y = tl.dot(x0, tl.load(at), input_precision="ieee")
    if NB > 1:
        y = tl.dot(x1, tl.load(at + BC * stride), y, input_precision="ieee")
    if NB > 2:
        y = tl.dot(x2, tl.load(at + 2 * BC * stride), y, input_precision="ieee")
    if NB > 3:
        y = tl.dot(x3, tl.load(at + 3 * BC * stride), y, input_precision="ieee")
    return y


@triton.jit
def _unit(v):
    """Scale each row to length one, as torch.nn.functional.normalize does."""
    return v / tl.maximum(tl.sqrt(tl.sum(v * v, axis=1)), 1e-12)[:, None]


@triton.jit(do_not_specialize=["H", "W", "shift"])
def attention_block(
    x, out, wqkv, bqkv, scale, bias, wproj, bproj, gamma, beta, eps,
    H, W, shift,
    C: tl.constexpr, NB: tl.constexpr, BC: tl.constexpr,
    HEADS: tl.constexpr, D: tl.constexpr, WS: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Write ``out = x + LN(window attention of x)``; one program is one window.

    x and out are (N, H, W, C), H and W multiples of WS; they may be the same memory,
    since a window's pixels are touched by its own program alone. `shift` is that of
    the window grid [px]. For the weights see `cuda.PackedLayer`; bias is -1e9 in
    columns past the window's WS*WS pixels.
    """
    window = tl.program_id(0)
    across, down = W // WS, H // WS
    image = window // (across * down)
    wy, wx = (window // across) % down, window % across
    t = tl.arange(0, T)
    valid = t < WS * WS
    ys, xs = wy * WS + t // WS, wx * WS + t % WS  # in the shifted image
    # pixels that the cyclic shift brought together from opposite edges don't mix
    side = (ys >= H - shift).to(tl.int32) + 2 * (xs >= W - shift).to(tl.int32)
    y, xx = (ys + shift) % H, (xs + shift) % W
    rows = ((image.to(tl.int64) * H + y) * W + xx) * C

    half = wqkv.dtype.element_ty
    c = tl.arange(0, BC)
    x0 = _load_rows(x, rows, c, valid, C).to(half)
    x1, x2, x3 = x0, x0, x0
    a0 = tl.zeros((T, BC), tl.float32)
    a1, a2, a3 = a0, a0, a0
    if NB > 1:
        x1 = _load_rows(x, rows, c + BC, valid, C).to(half)
    if NB > 2:
        x2 = _load_rows(x, rows, c + 2 * BC, valid, C).to(half)
    if NB > 3:
        x3 = _load_rows(x, rows, c + 3 * BC, valid, C).to(half)

    d = tl.arange(0, D)
    for h in range(HEADS):
        w = wqkv + h * 3 * NB * BC * D
        b = bqkv + h * 3 * D
        q = _times(x0, x1, x2, x3, w, D, 0, NB, BC, D) + tl.load(b + d)[None, :]
        w += NB * BC * D
        k = _times(x0, x1, x2, x3, w, D, 0, NB, BC, D) + tl.load(b + D + d)[None, :]
        cosine = tl.dot(
            _unit(q).to(half), tl.trans(_unit(k).to(half)), input_precision="ieee"
        )
        table = tl.load(bias + h * T * T + t[:, None] * T + t[None, :])
        logits = cosine * tl.load(scale + h) + table
        logits += tl.where(side[:, None] != side[None, :], -100.0, 0.0)
        p = tl.exp(logits - tl.max(logits, axis=1)[:, None])
        p = p / tl.sum(p, axis=1)[:, None]
        w += NB * BC * D
        v = _times(x0, x1, x2, x3, w, D, 0, NB, BC, D) + tl.load(b + 2 * D + d)[None, :]
        context = tl.dot(p.to(half), v.to(half), input_precision="ieee").to(half)
        at = wproj + h * D * NB * BC + d[:, None] * (NB * BC) + c[None, :]
        a0 = tl.dot(context, tl.load(at), a0, input_precision="ieee")
        if NB > 1:
            a1 = tl.dot(context, tl.load(at + BC), a1, input_precision="ieee")
        if NB > 2:
            a2 = tl.dot(context, tl.load(at + 2 * BC), a2, input_precision="ieee")
        if NB > 3:
            a3 = tl.dot(context, tl.load(at + 3 * BC), a3, input_precision="ieee")
    _store_block(
        x, out, rows, valid, a0, a1, a2, a3, bproj, gamma, beta, eps, C, NB, BC
    )


@triton.jit(do_not_specialize=["M"])
def mlp_block(
    x, out, w1, b1, w2, b2, gamma, beta, eps, M,
    C: tl.constexpr, NB: tl.constexpr, BC: tl.constexpr,
    HIDDEN: tl.constexpr, BH: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Write ``out = x + LN(w2 gelu(w1 x + b1) + b2)``; one program is BM pixels.

    x and out are (M, C) float32 and may be the same memory; w1 is (NB*BC, HIDDEN), w2
    (HIDDEN, NB*BC), HIDDEN a multiple of BH.
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    valid = m < M
    rows = m.to(tl.int64) * C
    half = w1.dtype.element_ty
    c = tl.arange(0, BC)
    x0 = _load_rows(x, rows, c, valid, C).to(half)
    x1, x2, x3 = x0, x0, x0
    a0 = tl.zeros((BM, BC), tl.float32)
    a1, a2, a3 = a0, a0, a0
    if NB > 1:
        x1 = _load_rows(x, rows, c + BC, valid, C).to(half)
    if NB > 2:
        x2 = _load_rows(x, rows, c + 2 * BC, valid, C).to(half)
    if NB > 3:
        x3 = _load_rows(x, rows, c + 3 * BC, valid, C).to(half)
    j = tl.arange(0, BH)
    for h0 in range(0, HIDDEN, BH):
        hidden = _times(x0, x1, x2, x3, w1, HIDDEN, h0, NB, BC, BH)
        hidden += tl.load(b1 + h0 + j)[None, :]
        hidden = 0.5 * hidden * (1.0 + tl.erf(hidden * 0.7071067811865476))
        hidden = hidden.to(half)
        at = w2 + (h0 + j)[:, None] * (NB * BC) + c[None, :]
        a0 = tl.dot(hidden, tl.load(at), a0, input_precision="ieee")
        if NB > 1:
            a1 = tl.dot(hidden, tl.load(at + BC), a1, input_precision="ieee")
        if NB > 2:
            a2 = tl.dot(hidden, tl.load(at + 2 * BC), a2, input_precision="ieee")
        if NB > 3:
            a3 = tl.dot(hidden, tl.load(at + 3 * BC), a3, input_precision="ieee")
    _store_block(x, out, rows, valid, a0, a1, a2, a3, b2, gamma, beta, eps, C, NB, BC)
