"""Run a network on tiles: device, precision, one at a time, within memory."""

from __future__ import annotations

import copy
import gc
import logging
import math
import os
import threading
import warnings
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_swin2sr.engine.backends import gray_ramp, prepare
from napari_swin2sr.engine.cpu_native import has_bfloat16
from napari_swin2sr.engine.cuda_streams import run_on_cuda
from napari_swin2sr.engine.trim import cut
from napari_swin2sr.errors import (
    InferenceError,
    InputError,
    MemoryLimitError,
    OptionError,
)
from napari_swin2sr.model.error_head import load_error_head
from napari_swin2sr.model.swin2sr import load_network
from napari_swin2sr.options import PRECISIONS
from napari_swin2sr.tiles.plan import TilePlan, plan_tiles
from napari_swin2sr.weights.catalog import resolve_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_swin2sr.engine.backends import Forward
    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.image.box import Box
    from napari_swin2sr.model.error_head import ErrorHead
    from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution
    from napari_swin2sr.weights.catalog import ResolvedModel
    from napari_swin2sr.weights.config import Swin2SRConfig

logger = logging.getLogger(__name__)

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "ALLOC_FAILED",
    "could not create a primitive",  # all that oneDNN says when it cannot allocate
    "bad_alloc",
    "can't start new thread",
)
_SELF_TEST_TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}

_device_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_first_run_in: int | None = None  # process id
_loaded: dict[tuple[object, ...], Upscaler] = {}
_loading = threading.Lock()


class Upscaler:
    """A loaded network that turns tiles into super-resolved tiles.

    It may be called from many threads at once: forwards on the same device wait
    for each other (on CUDA the next tile is copied meanwhile), and the network keeps
    no state between them.

    Parameters
    ----------
    net : Swin2SRForImageSuperResolution
        The network, in evaluation mode.
    device : str or torch.device, optional
        "auto" (CUDA, then MPS, then CPU), "cpu", "cuda", "cuda:N" or "mps".
    precision : str, optional
        "auto" and "fp32" compute in float32. "bf16" and "fp16" keep input, first
        convolution, residual stream, logits and head in float32, and only the
        products inside the transformer in 16 bits. A CPU without fast arithmetic of
        that kind runs float32, with a warning.
    name : str, optional
        What messages call the model.
    error_head : ErrorHead, optional
        Tells how far the results may be off; see `with_error`.

    Attributes
    ----------
    device : torch.device
        The device in use.
    precision : str
        What it computes in: "fp32", "bf16" or "fp16".
    config : Swin2SRConfig
        Configuration of the network.
    upscale : int
        Output pixels per input pixel and side.
    window_size : int
        Tiles have sides that are multiples of this [input px].

    Raises
    ------
    OptionError
        If the device does not exist, or there is no such precision.
    InferenceError
        If a device that was asked for by name computes wrong numbers.
    """

    def __init__(
        self,
        net: Swin2SRForImageSuperResolution,
        device: str | torch.device = "auto",
        precision: str = "auto",
        *,
        name: str = "",
        error_head: ErrorHead | None = None,
    ) -> None:
        self.name = name or type(net).__name__
        self.config: Swin2SRConfig = net.config
        self.upscale: int = net.config.upscale
        self.window_size: int = net.config.window_size
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        if precision not in ("auto", self.precision):
            reason = {
                "bf16": "this processor has no bfloat16 arithmetic",
                "fp16": "float16 is slower than float32 on a CPU",
            }[precision]
            warnings.warn(
                f"precision={precision!r}: {reason}; float32 runs instead, which is "
                "faster here and more exact",
                stacklevel=2,
            )
        self._net = net
        self._forward_fp32: Forward | None = None
        self._too_big: float = float("inf")  # pixels per forward that did not fit
        self._warned = False
        self._forward = self._prepare_on_trusted_device(may_fall_back=device == "auto")
        self._error_head: ErrorHead | None = None
        if error_head is not None:
            head = copy.deepcopy(error_head).requires_grad_(False)
            self._error_head = head.to(self.device).eval()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # other streams may use it now

    def __repr__(self) -> str:
        return (
            f"Upscaler({self.name!r}, x{self.upscale}, {self.device}, {self.precision})"
        )

    def __call__(
        self,
        tiles: NDArray[np.float32],
        *,
        core: Box | None = None,
        cancel: CancelToken | None = None,
    ) -> NDArray[np.float32]:
        """Super-resolve a batch of tiles; nothing is padded or clipped.

        Parameters
        ----------
        tiles : ndarray
            (N, C, H, W) float32, black is 0.0 and white 1.0; values outside are
            allowed. C is 3 (RGB) or 1 (gray); H and W are multiples of `window_size`
            [input px]. Not modified.
        core : Box, optional
            The part of each tile to return [input px]; on a CPU, what cannot reach it
            is not computed. Its pixels are the same as without.
        cancel : CancelToken, optional
            When set, the forward ends within a second or two.

        Returns
        -------
        ndarray
            (N, C, upscale * H, upscale * W) float32 in the same value range, a new
            array; H and W are those of the core if there is one.

        Raises
        ------
        InputError
            If the shape is none of those.
        MemoryLimitError
            If the tiles do not fit in memory, however they are split.
        InferenceError
            If the network fails, or gives NaN or Inf for finite tiles.
        Cancelled
            If `cancel` was set.
        """
        return self._upscale(tiles, core, cancel)

    @property
    def has_error(self) -> bool:
        """Whether there is an error head, so that `with_error` can be called."""
        return self._error_head is not None

    def with_error(
        self,
        tiles: NDArray[np.float32],
        *,
        core: Box | None = None,
        cancel: CancelToken | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Super-resolve a batch of tiles, and tell how far each pixel may be off.

        Both come from one forward.

        Parameters
        ----------
        tiles : ndarray
            (N, C, H, W) float32, as for `__call__`.
        core : Box, optional
            The part of each tile to return [input px].
        cancel : CancelToken, optional
            When set, the forward ends within a second or two.

        Returns
        -------
        image : ndarray
            (N, C, upscale * H, upscale * W) float32: bit for bit what `__call__` gives.
        error : ndarray
            Of the same shape, 0 or more, in the same value range: a half-width that is
            to be multiplied by a factor of `napari_swin2sr.trust.calibration`. For
            gray tiles the mean over the network's channels, as the image is.

        Raises
        ------
        OptionError
            If there is no error head.
        InputError, MemoryLimitError, InferenceError, Cancelled
            As for `__call__`.
        """
        if self._error_head is None:
            raise OptionError(
                f"model {self.name} has no error head, so nothing tells how far its "
                "results may be off. napari-swin2sr calibrate makes one"
            )
        both = self._upscale(tiles, core, cancel, self._error_head)
        image, error = np.split(both, 2, axis=1)
        return image, error

    def _upscale(
        self,
        tiles: NDArray[np.float32],
        core: Box | None,
        cancel: CancelToken | None,
        error_head: ErrorHead | None = None,
    ) -> NDArray[np.float32]:
        """Run the network; with an error head there are twice as many channels."""
        _check_tiles(tiles, self.window_size, self.config.num_channels)
        n, c, *size = tiles.shape
        c = c if error_head is None else 2 * c
        if tiles.size == 0:
            height, width = size if core is None else core.shape
            shape = (n, c, self.upscale * height, self.upscale * width)
            return np.empty(shape, np.float32)
        x = torch.from_numpy(np.require(tiles, np.float32, ["C", "W"]))
        options = {"cancel": cancel, "error_head": error_head}
        y = self._within_memory(x, self._forward, core, options)
        if not _is_finite(y) and _is_finite(x):
            y = self._in_full_precision(x, core, options)
        result: NDArray[np.float32] = y.numpy()
        return result

    # -- precision ---------------------------------------------------------------

    def _in_full_precision(
        self, x: Tensor, core: Box | None, options: dict[str, Any]
    ) -> Tensor:
        """Repeat a forward that overflowed, in float32."""
        if self.precision != "fp32":
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"model {self.name}: a tile overflowed in {self.precision} and was "
                    "computed again in float32; so will others be. "
                    "precision='fp32' avoids the detour",
                    stacklevel=4,
                )
            if self._forward_fp32 is None:
                self._forward_fp32 = prepare(self._net, self.device, "fp32")
            y = self._within_memory(x, self._forward_fp32, core, options)
            if _is_finite(y):
                return y
        raise InferenceError(
            f"model {self.name} gives numbers that are not finite for a finite tile of "
            f"values {x.min():.4g} to {x.max():.4g}, even in float32. Set value_range "
            "so that the image lies between 0 and 1, or choose another model"
        )

    # -- memory ------------------------------------------------------------------

    def _within_memory(
        self, x: Tensor, forward: Forward, core: Box | None, options: dict[str, Any]
    ) -> Tensor:
        """Run a batch whole if it fits, else fewer tiles at once, else sub-tiles."""
        if given := {k: v for k, v in options.items() if v is not None}:
            forward = partial(forward, **given)
        n, _, height, width = x.shape
        halo, window = self.config.exact_halo, self.window_size
        ways = list(splits(n, (height, width), window, halo, self.upscale))
        for split in [s for s in ways if s.pixels < self._too_big] or ways[-1:]:
            y = self._attempt(x, split, forward, core)
            if y is not None:
                return y
            _free_memory(self.device)
            if self._too_big == float("inf"):
                logger.warning(
                    "%s: no memory on %s for %d x %d x %d pixels at once; continuing "
                    "with smaller sub-tiles (same pixels, slower). A smaller tile "
                    "avoids this",
                    *(self.name, self.device, split.batch, *split.largest),
                )
            self._too_big = min(self._too_big, split.pixels)
        raise MemoryLimitError(
            f"a tile of {height} x {width} px does not fit in the memory of "
            f"{self.device}, even in sub-tiles of {' x '.join(map(str, split.largest))}"
            " px. Choose a smaller tile and halo, a smaller model or device='cpu', or "
            "close other programs"
        )

    def _attempt(
        self, x: Tensor, split: Split, forward: Forward, core: Box | None
    ) -> Tensor | None:
        """Return the result, or None if memory ran out.

        The exception, and with it the frames that hold tensors, is gone when this
        returns; retrying inside the except block would keep them alive.
        """
        try:
            return self._run_split(x, split, forward, core)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise InferenceError(
                    f"model {self.name} failed on {self.device} with a batch of shape "
                    f"{tuple(x.shape)}: {error}"
                ) from error
        return None

    def _run_split(
        self, x: Tensor, split: Split, forward: Forward, core: Box | None
    ) -> Tensor:
        n, plan = len(x), split.plan
        if split.batch == n and len(plan) == 1:
            if core is not None:
                forward = partial(forward, core=core)
            return self._run(x, forward)
        out: Tensor | None = None
        for first in range(0, n, split.batch):
            batch = slice(first, first + split.batch)
            for tile in plan:
                if core is not None and tile.core.intersect(core) is None:
                    continue
                y = self._run(x[(batch, ..., *tile.read.slices)], forward)
                if out is None:
                    out = torch.empty((n, y.shape[1], *plan.output_shape))
                out[(batch, ..., *tile.write.slices)] = y[(..., *tile.crop)]
        assert out is not None
        return cut(out, core, self.upscale)

    def _run(self, x: Tensor, forward: Forward) -> Tensor:
        """One forward; gradient and autocast states belong to the calling thread."""
        global _first_run_in
        _refuse_fork()
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, enabled=False),
        ):
            _first_run_in = os.getpid()
            if self.device.type == "cuda":
                return run_on_cuda(x, forward, self.device)
            with _device_locks[str(self.device)]:
                return forward(x.to(self.device).contiguous()).float().cpu()

    # -- device ------------------------------------------------------------------

    def _prepare_on_trusted_device(self, *, may_fall_back: bool) -> Forward:
        """Prepare the network, and compare a small tile with the CPU."""
        if self.device.type == "cpu":
            return prepare(self._net, self.device, self.precision)
        cpu = torch.device("cpu")
        x = gray_ramp(self.config, windows=4)
        with torch.inference_mode():
            expected = prepare(self._net, cpu, "fp32")(x)
        try:
            forward = prepare(self._net, self.device, self.precision)
            error = float((self._run(x, forward) - expected).abs().max())
            if error <= _SELF_TEST_TOLERANCE[self.precision]:
                return forward
            problem = f"its result for a test tile is wrong by {error:.2g}"
        except (RuntimeError, AssertionError) as failure:
            problem = f"it failed on a test tile: {failure}"
        if not may_fall_back:
            raise InferenceError(
                f"device {self.device} cannot be trusted: {problem}. Use device='cpu', "
                "or update PyTorch and the driver"
            )
        warnings.warn(
            f"device {self.device} is not used: {problem}. The CPU is used instead",
            stacklevel=4,
        )
        self.device = cpu
        self.precision = choose_precision("auto", cpu)
        return prepare(self._net, cpu, self.precision)


def load_model(
    name_or_path: str | os.PathLike[str] = "default",
    *,
    device: str = "auto",
    precision: str = "auto",
) -> Upscaler:
    """Load a model once per process; later calls return the same object.

    Parameters
    ----------
    name_or_path : str or PathLike, optional
        A name of `list_models()`, a folder or a weight file.
    device, precision : str, optional
        As for `Upscaler`.

    Returns
    -------
    Upscaler
        Callable on tiles of shape (N, C, H, W).

    Raises
    ------
    WeightsError
        If the model cannot be found, downloaded, read or trusted.
    OptionError
        If the device does not exist, or there is no such precision.
    """
    resolved = resolve_model(name_or_path)
    return load_resolved(resolved, device=device, precision=precision)


def load_resolved(
    resolved: ResolvedModel, *, device: str = "auto", precision: str = "auto"
) -> Upscaler:
    """Load a model that is already found; see `load_model`."""
    _refuse_fork()
    where, auto = choose_device(device), str(device) == "auto"
    # By what was asked for, so that each request for what it cannot have is told.
    how = "fp32" if precision == "auto" else precision
    head = resolved.error_head
    hashes = (resolved.sha256, None if head is None else head.sha256)
    key = (*hashes, resolved.config, auto, str(where), how)
    with _loading:
        if key not in _loaded:
            net = load_network(resolved.path, resolved.config, sha256=resolved.sha256)
            wanted = "auto" if auto else where
            _loaded[key] = Upscaler(
                *(net, wanted, how),
                name=resolved.name,
                error_head=load_error_head(resolved, net.config),
            )
        return _loaded[key]


def choose_device(device: str | torch.device) -> torch.device:
    """Return an existing device; "auto" prefers CUDA, then MPS.

    Raises
    ------
    OptionError
        If the device does not exist on this machine.
    """
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if str(device) == "auto":
        device = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    chosen = torch.device(device)
    n = torch.cuda.device_count() if has_cuda else 0
    if chosen.type == "cuda" and (chosen.index or 0) < n:
        index = torch.cuda.current_device() if chosen.index is None else chosen.index
        return torch.device("cuda", index)
    if chosen.type == "cpu" or (chosen.type == "mps" and has_mps):
        return torch.device(chosen.type)
    here = ["cpu", *(f"cuda:{i}" for i in range(n)), *(["mps"] if has_mps else [])]
    raise OptionError(
        f"device={str(device)!r} does not exist here; there is {', '.join(here)}"
    )


def choose_precision(precision: str, device: torch.device) -> str:
    """Return "fp32", "bf16" or "fp16": what a device computes in if asked for it.

    Raises
    ------
    OptionError
        If there is no such precision.
    """
    if precision not in PRECISIONS:
        allowed = ", ".join(PRECISIONS)
        raise OptionError(f"precision={precision!r} is not one of {allowed}")
    fast = device.type != "cpu" or (precision == "bf16" and has_bfloat16())
    return precision if fast and precision != "auto" else "fp32"


@dataclass(frozen=True, slots=True)
class Split:
    """A way to run a batch: so many tiles at once, each in the plan's sub-tiles."""

    batch: int
    plan: TilePlan

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width of the largest sub-tile, context included [input px]."""
        rows, columns = self.plan.grid_shape
        heights = (self.plan.tile_at(i, 0).read.height for i in range(rows))
        widths = (self.plan.tile_at(0, j).read.width for j in range(columns))
        return max(heights), max(widths)

    @property
    def pixels(self) -> int:
        """Pixels in the largest single forward."""
        return self.batch * math.prod(self.largest)


def splits(
    n: int, shape: tuple[int, int], window: int, halo: int, upscale: int
) -> Iterator[Split]:
    """Yield ever smaller ways to run n tiles of one shape, all with the same pixels.

    First fewer tiles at once, then sub-tiles on the window grid with the exact halo:
    nothing farther away than that can change a pixel.
    """
    pixels, side = math.inf, max(shape)
    ways = [(batch, side) for batch in _halvings(n, 1)]
    for batch, core in [*ways, *((1, core) for core in _halvings(side, window))]:
        plan = plan_tiles(
            shape,
            core=core,
            halo=halo,
            multiple_of=window,
            upscale=upscale,
            padded=True,
        )
        split = Split(batch, plan)
        if split.pixels < pixels:
            pixels = split.pixels
            yield split


def _halvings(start: int, unit: int) -> Iterator[int]:
    """Yield `start`, then half of it and so on, rounded up to `unit`, down to it."""
    yield start
    while start > unit:
        start = -(-start // (2 * unit)) * unit
        yield start


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(t in text for t in _OUT_OF_MEMORY)


def _check_tiles(tiles: NDArray[np.float32], window: int, channels: int) -> None:
    """Refuse arrays that are no batch of tiles."""
    shape, dtype = np.shape(tiles), getattr(tiles, "dtype", type(tiles).__name__)
    if len(shape) != 4 or dtype != np.float32:
        raise InputError(
            f"tiles have shape {shape} and type {dtype}; expected (N, C, H, W) float32"
        )
    if shape[1] not in {1, channels}:
        allowed = "1" if channels == 1 else f"1 or {channels}"
        raise InputError(f"tiles have {shape[1]} channels; this model takes {allowed}")
    if shape[2] % window or shape[3] % window:
        raise InputError(
            f"tiles are {shape[2]} x {shape[3]} px; each side must be a multiple of "
            f"the window, {window} px. Pad them, or call napari_swin2sr.apply"
        )


def _is_finite(x: Tensor) -> bool:
    """Tell whether all numbers are finite, without needing memory for the answer."""
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(x))


def _free_memory(device: torch.device) -> None:
    """Give back what the failed forward has left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _refuse_fork() -> None:
    """Raise instead of hanging: PyTorch's threads do not survive a fork."""
    if _first_run_in not in {None, os.getpid()}:
        raise InferenceError(
            "this process was forked after a network ran in its parent, and would "
            "hang. Start worker processes with the 'spawn' method"
        )
