"""The fast path on the CPU, with nothing but PyTorch.

The pixels are kept in the order of the windows, one row each, so that a layer reads
its input through an index (which does the shift as well) and writes its result in one
piece. A few windows at a time go through the whole layer, so that everything in
between stays in the cache. Threads take such groups from a queue; PyTorch's own
threads, which wait for each other after every small operation, are used only for the
convolutions.

Attention is computed with keys along rows and queries along columns. Weights, biases
and scales are prepared for powers of two instead of e, because `exp2` is three times
as fast as `exp`; a row of ones beside the values adds up each query's weights.
"""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Barrier
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_swin2sr.engine.trim import cut, trim
from napari_swin2sr.errors import check_cancel
from napari_swin2sr.model.windows import shift_mask, to_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from napari_swin2sr.engine.trim import Trim, Windows
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

GROUP_BYTES = 512 * 1024
"""Attention weights of one head for a group of windows: half a usual L2 cache."""

Map: TypeAlias = "Callable[[Callable[[int], Any], range], Iterable[Any]]"
"""Calls a function on many numbers, perhaps in several threads."""

LOG2E = math.log2(math.e)

SAFE_SCALE = 70.0
"""Up to this attention scale nothing overflows if no maximum is subtracted."""

MEAN_BIAS = 8.0
"""Subtracted from all logits; position biases lie between 0 and 16."""


@contextmanager
def workers(count: int) -> Iterator[Map]:
    """Give a `map` that runs in so many threads; one is the caller's own."""
    if count == 1:
        yield map
        return
    with ThreadPoolExecutor(count, "swin2sr") as pool:
        yield pool.map


@contextmanager
def single_threaded_workers(count: int) -> Iterator[Map]:
    """Give a `map` in whose threads PyTorch uses one thread each."""
    if count == 1:
        yield map
        return
    ready = Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        ready.wait()

    before = torch.get_num_threads()
    with ThreadPoolExecutor(count, "swin2sr", initializer=start) as pool:
        try:
            for _ in range(count):
                pool.submit(int)  # a task each, so that all threads start
        except BaseException:  # too few threads: let those that wait go
            ready.abort()
            raise
        ready.wait()
        torch.set_num_threads(before)  # for threads that start later
        yield pool.map


def until(cancel: CancelToken | None, run_all: Map) -> Map:
    """Return a `map` that raises `Cancelled` once the token is set."""

    def run_some(function: Callable[[int], Any], numbers: range) -> Iterable[Any]:
        def run(number: int) -> Any:
            check_cancel(cancel)
            return function(number)

        return run_all(run, numbers)

    return run_some


class CpuForward:
    """A network packed for one precision: (N, C, H, W) -> (N, C, uH, uW) float32.

    The network is copied. `half` is the type of the operands of the products of
    queries, keys, values, projections and MLPs; everything else is float32.
    """

    def __init__(
        self, net: Swin2SRForImageSuperResolution, half: torch.dtype = torch.float32
    ) -> None:
        self.net = copy.deepcopy(net).cpu().float().eval().requires_grad_(False)
        with torch.no_grad():
            self.pack(half)

    @torch.inference_mode()
    def __call__(
        self,
        x: Tensor,
        core: Box | None = None,
        cancel: CancelToken | None = None,
        error_head: ErrorHead | None = None,
    ) -> Tensor:
        """Upscale tiles of (N, C, H, W) float32; sides of any length."""
        config, window = self.net.config, self.net.config.window_size
        height, width = (-(-side // window) * window for side in x.shape[-2:])
        needed = trim(config, height, width, core)
        part = None if core is None else needed.features
        run_body = partial(self.run_body, needed=needed, cancel=cancel)
        y = self.net.upscale_tile(x, run_body, error_head, part=part)
        if core is not None:
            core = core.shifted(-needed.features.y0, -needed.features.x0)
        return cut(y, core, config.upscale)

    def pack(self, half: torch.dtype) -> None:
        """Pack the transformer's weights."""
        self.window = self.net.config.attention_window
        self.shift = self.net.config.shift_size
        self.mask = LOG2E * shift_mask(
            2 * self.window, 2 * self.window, self.window, self.shift, torch.ones(1)
        ).squeeze(1)  # windows elsewhere, at the right, at the bottom, at both
        self.stages = [
            PackedStage.from_stage(cast("Stage", stage), half)
            for stage in self.net.swin2sr.encoder.stages
        ]

    def sample(self) -> Callable[[], object]:
        """Return a function that runs a layer on 16 windows, in one thread."""
        layer, kinds = self.stages[0].layers[-1], torch.zeros(16, dtype=torch.int64)
        channels = self.net.config.embed_dim
        x = torch.linspace(-1, 1, 16 * layer.pixels * channels).view(-1, channels)
        return lambda: layer(x.clone(), kinds, self.mask)

    def run_body(
        self, pixels: Tensor, needed: Trim, cancel: CancelToken | None = None
    ) -> Tensor:
        """Turn normalized pixels (N, channels, H, W) into the head's input.

        Maps of a whole image are let go as soon as they have served. The token is
        looked at before each group of windows.
        """
        body = self.net.swin2sr
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        shallow = body.first_convolution(pixels)
        stream = body.embeddings["patch_embeddings"](shallow)
        plan = WindowPlan.from_shape(stream.shape, self.window, self.shift)
        with single_threaded_workers(torch.get_num_threads()) as all_threads:
            run_all = until(cancel, all_threads)
            for stage, (layers, takes, gives) in zip(
                self.stages, needed.stages, strict=True
            ):
                added = stage(stream, layers, takes, plan, self.mask, run_all)
                stream[(slice(None), *gives.slices)] += cut_out(added, gives, takes)
            check_cancel(cancel)
        deep = body.layernorm(stream[(slice(None), *needed.deep.slices)])
        deep = body.conv_after_body(deep.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        features = cut_out(deep, needed.features, needed.deep).permute(0, 3, 1, 2)
        return features + shallow[(..., *needed.features.slices)]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Which pixel comes where, for images of one size.

    `plain` and `shifted` hold the number of the pixel (row by row) for each place in
    the order of the windows; `kinds` tells which windows of the shifted order lie at
    the right (1), the bottom (2) or both. All are (N, rows of windows, columns, ...).
    """

    plain: Tensor
    shifted: Tensor
    kinds: Tensor

    @classmethod
    def from_shape(cls, shape: torch.Size, window: int, shift: int) -> WindowPlan:
        """Make the plan for features of (N, H, W, C)."""
        n, height, width, _ = shape
        numbers = torch.arange(n * height * width).view(n, height, width, 1)
        rolled = numbers.roll((-shift, -shift), (1, 2))
        kinds = torch.zeros(n, height // window, width // window, dtype=torch.int64)
        kinds[:, :, -1] += 1
        kinds[:, -1] += 2
        grid = (n, height // window, width // window)
        return cls(
            to_windows(numbers, window).reshape(*grid, -1),
            to_windows(rolled, window).reshape(*grid, -1),
            kinds,
        )

    def order(self, shifted: bool, windows: Windows) -> tuple[Tensor, Tensor]:
        """Return the pixel for each place in some windows, and their kinds."""
        _, tall, wide = self.kinds.shape
        rows = torch.arange(windows.top, windows.top + windows.rows) % tall
        columns = torch.arange(windows.left, windows.left + windows.columns) % wide
        index = slice(None), rows[:, None], columns
        pixels = self.shifted if shifted else self.plain
        return pixels[index].flatten(), self.kinds[index].flatten()

    @property
    def pixels(self) -> int:
        """Return the number of pixels in the images."""
        return self.plain.numel()


def moves(old: Tensor, new: Tensor, pixels: int) -> Tensor:
    """Return, for each place of the new order, the place in the old order.

    It is 0 for pixels that the old order lacks: nothing depends on their values, but
    they must be numbers.
    """
    places = torch.zeros(pixels, dtype=torch.int64)
    places[old] = torch.arange(len(old))
    return places[new]


def cut_out(x: Tensor, part: Box, of: Box) -> Tensor:
    """Return a part of (N, H, W, C), which is itself a part of a tile."""
    return x[(slice(None), *part.shifted(-of.y0, -of.x0).slices)]


@dataclass(frozen=True, slots=True)
class PackedStage:
    """The layers of a stage and its convolution, without the residual connection."""

    layers: tuple[PackedLayer, ...]
    convolution: nn.Module

    @classmethod
    def from_stage(cls, stage: Stage, half: torch.dtype) -> PackedStage:
        """Pack a stage for matrix products in `half`."""
        layers = (PackedLayer.from_layer(cast("Layer", x), half) for x in stage.layers)
        return cls(tuple(layers), stage_convolution(stage))

    def __call__(
        self,
        stream: Tensor,
        needed: tuple[Windows, ...],
        takes: Box,
        plan: WindowPlan,
        mask: Tensor,
        run_all: Map,
    ) -> Tensor:
        """Return what the stage adds to a part `takes` of (N, H, W, C)."""
        rows = stream.reshape(-1, stream.shape[-1])
        numbers = order = torch.arange(len(rows))
        for layer, windows in zip(self.layers, needed, strict=True):
            wanted, kinds = plan.order(layer.shifted, windows)
            index = moves(order, wanted, plan.pixels)
            rows = layer.run(rows, index, kinds, mask, run_all)
            order = wanted
        part = numbers.view(stream.shape[:3])[(slice(None), *takes.slices)]
        image = rows[moves(order, part.flatten(), plan.pixels)]
        image = image.view(*part.shape, -1).permute(0, 3, 1, 2)
        return cast("Tensor", self.convolution(image).permute(0, 2, 3, 1))


def stage_convolution(stage: Stage) -> nn.Module:
    """Return a stage's convolutions; a 3x3 and the 1x1 after it become one."""
    projection = stage.patch_embed.projection
    if isinstance(stage.conv, nn.Conv2d):
        return merge_convolutions(stage.conv, projection)
    return nn.Sequential(stage.conv, projection)


def merge_convolutions(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Return one convolution that does the first and then the second, a 1x1 one."""
    assert first.bias is not None
    assert second.bias is not None
    mix = second.weight[:, :, 0, 0].double()
    merged = copy.deepcopy(first)
    merged.weight.copy_(torch.einsum("om,mihw->oihw", mix, first.weight.double()))
    assert merged.bias is not None
    merged.bias.copy_(mix @ first.bias.double() + second.bias.double())
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayer:
    """The weights of a transformer layer, as its operations take them."""

    shifted: bool
    pixels: int  # of a window
    scales: tuple[float, ...]  # per head, for powers of two
    subtract_maximum: bool
    bias: Tensor  # (heads, keys, queries), for powers of two
    qk_weight: Tensor  # (2 * C, C)
    qk_bias: Tensor  # (2 * C, 1)
    v_weight: Tensor  # (heads * rows, C): a head's values, ones, zeros
    v_bias: Tensor  # (heads * rows, 1)
    projection: tuple[Tensor, Tensor]  # (heads * rows, C), (C,)
    expand: tuple[Tensor, Tensor]  # (C, hidden), (hidden,)
    reduce: tuple[Tensor, Tensor]  # (hidden, C), (C,)
    norms: tuple[nn.LayerNorm, nn.LayerNorm]

    @classmethod
    def from_layer(cls, layer: Layer, half: torch.dtype) -> PackedLayer:
        """Pack a layer for matrix products in `half`."""
        attention = cast("WindowAttention", layer.attention["self"])
        heads, dim = attention.heads, attention.query.in_features
        features = dim // heads
        padding = -(features + 1) % 4 + 1  # a row of ones, and zeros to a multiple
        scale = attention.scale().flatten()
        value, project = attention.value, cast("Dense", layer.attention["output"]).dense

        def rows_per_head(x: Tensor) -> Tensor:
            x = x.unflatten(0, (heads, features)).flatten(2)
            return F.pad(x, (0, 0, 0, padding)).flatten(0, 1)

        zeros = torch.zeros(dim)
        bias_of = [
            zeros if m.bias is None else m.bias for m in (attention.query, value)
        ]
        v_bias = rows_per_head(bias_of[1][:, None])
        v_bias[features :: features + padding] = 1
        qk_weight = torch.cat((attention.query.weight, attention.key.weight))

        def packed(linear: nn.Linear) -> tuple[Tensor, Tensor]:
            return linear.weight.T.to(half), linear.bias.to(half)

        return cls(
            shifted=layer.shift > 0,
            pixels=layer.window**2,
            scales=tuple((scale * LOG2E).tolist()),
            subtract_maximum=bool(scale.max() > SAFE_SCALE),
            bias=((attention.position_bias() - MEAN_BIAS) * LOG2E).mT.contiguous(),
            qk_weight=qk_weight.to(half),
            qk_bias=torch.cat((bias_of[0], zeros))[:, None].to(half),
            v_weight=rows_per_head(value.weight).to(half),
            v_bias=v_bias.to(half),
            projection=(
                rows_per_head(project.weight.T).to(half),
                project.bias.to(half),
            ),
            expand=packed(layer.intermediate.dense),
            reduce=packed(layer.output.dense),
            norms=(layer.layernorm_before, layer.layernorm_after),
        )

    def run(
        self, rows: Tensor, index: Tensor, kinds: Tensor, mask: Tensor, run_all: Map
    ) -> Tensor:
        """Apply the layer to the rows of an index (pixels, C), in groups of windows."""
        result = rows.new_empty((len(index), rows.shape[1]))
        windows = max(1, GROUP_BYTES // (4 * self.pixels**2))

        def run_group(first: int) -> None:
            part = slice(first * self.pixels, (first + windows) * self.pixels)
            with torch.inference_mode():
                x = rows.index_select(0, index[part])
                result[part] = self(x, kinds[first : first + windows], mask)

        for _ in run_all(run_group, range(0, len(kinds), windows)):
            pass
        return result

    def __call__(self, x: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """Apply the layer to (windows * pixels, C); see `WindowPlan` for the kinds."""
        half = self.qk_weight.dtype
        y = self.attend(x.to(half), kinds if self.shifted else None, mask)
        x = x.add_(self.norms[0](y.float()))
        y = torch.addmm(self.expand[1], x.to(half), self.expand[0])
        y = torch.addmm(self.reduce[1], F.gelu(y), self.reduce[0])
        return x.add_(self.norms[1](y.float()))

    def attend(self, x: Tensor, kinds: Tensor | None, mask: Tensor) -> Tensor:
        """Mix the pixels of each window of (windows * pixels, C)."""
        heads, windows = len(self.bias), len(x) // self.pixels
        qk = torch.addmm(self.qk_bias, self.qk_weight, x.T).float()
        qk = qk.view(2, heads, -1, len(x))
        square = (qk * qk).sum(2, keepdim=True)
        qk *= square.clamp_(min=1e-24).rsqrt_()
        # (2, heads, features, windows, pixels) and (heads, rows, windows, pixels)
        query, key = qk.unflatten(-1, (windows, -1)).transpose(2, 3)
        value = torch.addmm(self.v_bias, self.v_weight, x.T).float()
        value = value.view(heads, -1, windows, self.pixels)
        mixed = torch.empty_like(value)
        weights = x.new_empty((windows, self.pixels, self.pixels), dtype=torch.float32)
        border = x.new_empty(0, dtype=torch.int64)  # windows that need a mask
        if kinds is not None:
            border = kinds.nonzero().flatten()
            mask = mask[kinds[border]]
        for head in range(heads):
            # weights: (windows, keys, queries)
            bias = self.bias[head].expand_as(weights)
            scale = self.scales[head]
            torch.baddbmm(bias, key[head].mT, query[head], alpha=scale, out=weights)
            if len(border):
                weights[border] += mask
            if self.subtract_maximum:
                weights -= weights.amax(1, keepdim=True)
            torch.exp2(weights, out=weights)
            sums = torch.bmm(value[head].transpose(0, 1), weights)
            ones = self.qk_weight.shape[1] // heads
            torch.div(sums, sums[:, ones : ones + 1], out=mixed[head].transpose(0, 1))
        return torch.addmm(
            self.projection[1], mixed.view(-1, len(x)).T.to(x.dtype), self.projection[0]
        )
