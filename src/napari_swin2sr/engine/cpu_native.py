"""The fast path on the CPU, compiled from `cpu_native.c`.

A wheel for one platform holds the kernels of its instruction sets. Elsewhere they are
compiled once per machine for those that it has, and kept in the user's cache. Without
either, for other windows than 8 pixels, or if anything goes wrong, there are none, and
`backends` takes another way.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_swin2sr.engine.cpu_torch import (
    LOG2E,
    CpuForward,
    Map,
    merge_convolutions,
    until,
    workers,
)
from napari_swin2sr.engine.instruction_sets import FLAGS, HALF, INSTRUCTION_SETS
from napari_swin2sr.engine.trim import Windows, windows_of, within
from napari_swin2sr.image.box import Box
from napari_swin2sr.model.windows import shift_mask
from napari_swin2sr.replace import flush_to_disk, remove_file, rename_over, scratch_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from napari_swin2sr.engine.trim import Trim
    from napari_swin2sr.errors import CancelToken
    from napari_swin2sr.model.swin2sr import (
        Dense,
        Layer,
        Projection,
        Swin2SRForImageSuperResolution,
        WindowAttention,
    )

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("cpu_native.c")

PREBUILT = Path(__file__).with_name("kernels")
"""Where a wheel for one platform holds kernels: see `hatch_build.py`."""

SECONDS = {"--version": 10, "compile": 30}
"""How long a compiler may take; it needs one second where nothing else runs."""

WINDOW, BLOCK = 8, 4
"""The window that the kernels are written for, and the blocks that it is made of."""

WINDOWS_PER_TASK = 16
"""So few that threads end together, so many that a task is worth its overhead."""


def _fields(integers: str, floats: str = "", pointers: str = "") -> list[Any]:
    """Return the fields of a struct: first its integers, then floats, then pointers."""
    names = (integers, ctypes.c_int), (floats, ctypes.c_float)
    kinds = (*names, (pointers, ctypes.c_void_p))
    return [(name, kind) for words, kind in kinds for name in words.split()]


class _Layer(ctypes.Structure):
    _fields_ = _fields(
        "channels heads hidden shift",
        "epsilon",
        "scale position mask qkv project expand reduce "
        "qkv_bias project_bias expand_bias reduce_bias norm1 norm2",
    )


class _Norm(ctypes.Structure):
    _fields_ = _fields("channels", "epsilon", "a bias norm")


class _Convolution(ctypes.Structure):
    _fields_ = _fields("in_channels out_channels", "slope", "a bias")


class _Grid(ctypes.Structure):
    _fields_ = _fields("tall wide top left rows columns")


# -- compiling -----------------------------------------------------------------------


@functools.cache
def features() -> frozenset[str]:
    """Return what the processor has: its kind, "avx2", "avx512f", "fma", ..."""
    if found := _cpuinfo("flags", "Features"):
        words = {word for line in found for word in line.split()}
    else:  # since PyTorch 2.11
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        words = {name for name, value in known.items() if value is True}
    machine = platform.machine().lower()
    kind = {"amd64": "x86-64", "x86_64": "x86-64", "arm64": "aarch64"}
    words = {word.replace("_", "").replace("fma3", "fma") for word in words}
    return frozenset({*words, kind.get(machine, machine)})


def has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16; without, it takes many times."""
    return not features().isdisjoint({"avx512bf16", "amxbf16", "bf16"})


def instruction_sets(precision: str = "fp32") -> list[str]:
    """Return those that kernels of a precision can use here, the widest first."""
    if precision != "fp32":
        usable = ["avx512"] if {"avx512bf16"} <= features() else []
    else:
        usable = list(INSTRUCTION_SETS)
    return [name for name in usable if INSTRUCTION_SETS[name].needs <= features()]


@functools.cache
def processor() -> str:
    """Describe the processor: what was measured on another one does not hold."""
    found = _cpuinfo("model name", "flags", "Features", "CPU part")
    return "\n".join(found) or f"{platform.processor()} {platform.version()}"


def processor_name() -> str:
    """Return what the processor is called."""
    names = _cpuinfo("model name")
    return names[0].strip() if names else platform.processor() or platform.machine()


def _cpuinfo(*keys: str) -> list[str]:
    """Return what Linux says of the first core under these keys."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return []
    lines = cpuinfo.read_text(errors="replace").split("\n\n")[0].splitlines()
    return [line.partition(":")[2] for line in lines if line.startswith(keys)]


def find_compiler() -> str | None:
    """Return a C compiler that understands the source, if there is one."""
    if sys.platform == "win32":
        return None
    names = (os.environ.get("CC", "cc"), "gcc", "clang")
    return next((path for name in names if (path := shutil.which(name))), None)


hung: set[str] = set()  # compilers that have not answered in time


@functools.cache
def load_kernels(precision: str, instructions: str | None = None) -> ctypes.CDLL | None:
    """Return the kernels for "fp32" or "bf16", compiled if needed, if possible.

    Without a name they are those of the first of `instruction_sets`.
    """
    compiler, usable = find_compiler(), instruction_sets(precision)
    if not usable or (instructions or usable[0]) not in usable:
        return None
    instructions = instructions or usable[0]
    if (library := _prebuilt(f"{instructions}-{precision}")) is not None:
        return library
    if compiler is None or compiler in hung:
        return None
    flags = INSTRUCTION_SETS[instructions].flags
    half = HALF if precision == "bf16" else ()
    try:
        version = version_of(compiler)
        with cache_folder() as folder:
            command = [compiler, *FLAGS, *flags, *half]
            return ctypes.CDLL(str(_compiled(command, version, folder)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("the CPU kernels cannot be compiled (%s)", error)
        if isinstance(error, subprocess.TimeoutExpired):
            hung.add(compiler)
        return None


def _prebuilt(name: str) -> ctypes.CDLL | None:
    """Return kernels that came with the wheel, if it has any that run here."""
    for file in PREBUILT.glob(f"{name}-*"):
        try:
            return ctypes.CDLL(str(file))
        except OSError as error:  # such as another C library
            logger.warning("%s cannot be used (%s)", file, error)
    return None


@functools.cache
def version_of(compiler: str) -> bytes:
    """Return what a compiler says of itself."""
    return subprocess.run(
        [compiler, "--version"],
        check=True,
        capture_output=True,
        timeout=SECONDS["--version"],
    ).stdout


def _compiled(command: list[str], version: bytes, folder: Path) -> Path:
    """Return the library that a command makes, from the folder if it is there.

    Its name holds the hash of what it was made from and its own: a library that was
    cut short or changed is made anew.
    """
    key = hashlib.sha256(SOURCE.read_bytes() + version)
    key.update("\n".join(command).encode())
    name = f"kernels-{key.hexdigest()[:24]}"
    for found in folder.glob(f"{name}-*.so"):
        if found.name == f"{name}-{_digest(found)}.so" and is_private(found):
            return found
        logger.warning("%s is damaged or not this user's; compiling it again", found)
        remove_file(found)
    logger.info("compiling the CPU kernels, once on this machine: %s", folder / name)
    with scratch_file(folder / f"{name}.so") as made:
        subprocess.run(
            [*command, str(SOURCE), "-lm", "-o", str(made)],
            check=True,
            capture_output=True,
            timeout=SECONDS["compile"],
        )
        made.chmod(0o700)  # whatever the umask
        flush_to_disk(made)
        target = folder / f"{name}-{_digest(made)}.so"
        rename_over(made, target)
    return target


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:24]


def is_private(path: Path) -> bool:
    """Tell whether a file or folder is this user's, and nobody else can write to it."""
    if sys.platform == "win32":
        return True
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (
        stat.S_IWGRP | stat.S_IWOTH
    )


@contextmanager
def cache_folder() -> Iterator[Path]:
    """Give a folder that only this user can write to; else a temporary one."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "napari-swin2sr"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        usable = is_private(folder) and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: this user has no home folder
        usable = False
    if usable:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="napari-swin2sr-") as temporary:
        yield Path(temporary)


# -- packing -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel with its weights: call it with the grid, addresses, first and last."""

    function: Callable[..., int]
    weights: ctypes.Structure
    tensors: tuple[Tensor, ...]  # what the addresses in `weights` belong to

    @classmethod
    def from_weights(
        cls, function: Any, kind: Any, numbers: Any, **tensors: Tensor
    ) -> Kernel:
        """Bind weights to a kernel."""
        held = {k: v.contiguous().clone() for k, v in tensors.items()}
        addresses = {k: v.data_ptr() for k, v in held.items()}
        return cls(function, kind(**numbers, **addresses), tuple(held.values()))


class Packer:
    """Weights in the form that the kernels of one precision take."""

    def __init__(self, kernels: ctypes.CDLL, precision: str) -> None:
        self.kernels, self.half = kernels, precision == "bf16"
        pixels = torch.arange(WINDOW**2).view(2, BLOCK, 2, BLOCK)
        self.order = pixels.permute(0, 2, 1, 3).flatten()  # of a window's four blocks
        mask = shift_mask(2 * WINDOW, 2 * WINDOW, WINDOW, BLOCK, torch.ones(1))
        self.mask = LOG2E * self.reordered(mask.squeeze(1))

    def reordered(self, x: Tensor) -> Tensor:
        """Bring (..., keys, queries) from lines of a window to blocks."""
        return x[..., self.order, :][..., self.order]

    def operand(self, weight: Tensor) -> Tensor:
        """Return weights with the summed axis last, in pairs of bfloat16 if half."""
        if not self.half:
            return weight
        return F.pad(weight, (0, weight.shape[-1] % 2)).to(torch.bfloat16)

    def layer(self, layer: Layer) -> Kernel:
        """Pack a transformer layer."""
        attention = cast("WindowAttention", layer.attention["self"])
        heads, dim = attention.heads, attention.query.in_features
        linears = (attention.query, attention.key, attention.value)
        zeros = torch.zeros(dim)

        def per_head(parts: Iterable[Tensor]) -> Tensor:
            return torch.stack([x.unflatten(0, (heads, -1)) for x in parts], 1)

        biases = [zeros if m.bias is None else m.bias for m in linears]
        project = cast("Dense", layer.attention["output"]).dense
        expand, reduce = layer.intermediate.dense, layer.output.dense
        position = attention.position_bias().mT  # (heads, keys, queries)
        numbers = {
            "channels": dim,
            "heads": heads,
            "hidden": expand.out_features,
            "shift": int(layer.shift > 0),
            "epsilon": layer.layernorm_before.eps,
        }
        return Kernel.from_weights(
            self.kernels.swin_layer,
            _Layer,
            numbers,
            scale=LOG2E * attention.scale().flatten(),
            position=LOG2E * self.reordered(position),
            mask=self.mask,
            qkv=self.operand(per_head([m.weight for m in linears])),
            project=self.operand(project.weight),
            expand=self.operand(expand.weight),
            reduce=self.operand(reduce.weight),
            qkv_bias=per_head(biases),
            project_bias=project.bias,
            expand_bias=expand.bias,
            reduce_bias=reduce.bias,
            norm1=norm_weights(layer.layernorm_before),
            norm2=norm_weights(layer.layernorm_after),
        )

    def convolution(self, conv: nn.Conv2d, slope: float = 1.0) -> Kernel:
        """Pack a 3x3 convolution, or a 1x1 one as its center."""
        weight = conv.weight
        if weight.shape[-1] == 1:
            weight = F.pad(weight, (1, 1, 1, 1))
        assert conv.bias is not None
        return Kernel.from_weights(
            self.kernels.swin_convolution,
            _Convolution,
            {
                "in_channels": conv.in_channels,
                "out_channels": conv.out_channels,
                "slope": slope,
            },
            a=self.operand(weight.permute(2, 3, 0, 1)),
            bias=conv.bias,
        )

    def norm(self, norm: nn.LayerNorm, before: nn.Conv2d | None = None) -> Kernel:
        """Pack a layer norm, and the 1x1 convolution before it if there is one."""
        linear = {}
        if before is not None:
            assert before.bias is not None
            linear = {"a": self.operand(before.weight[:, :, 0, 0]), "bias": before.bias}
        numbers = {"channels": norm.weight.numel(), "epsilon": norm.eps}
        return Kernel.from_weights(
            self.kernels.swin_norm, _Norm, numbers, norm=norm_weights(norm), **linear
        )

    def residual(self, module: nn.Module, then: nn.Conv2d | None) -> list[Kernel]:
        """Pack the convolutions before a residual connection, and a 1x1 one after."""
        convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        if then is not None:
            convs[-1] = merge_convolutions(convs[-1], then)
        first = [self.convolution(conv, slope=0.2) for conv in convs[:-1]]
        return [*first, self.convolution(convs[-1])]


def norm_weights(norm: nn.LayerNorm) -> Tensor:
    """Return gain and bias of a layer norm, (2, C)."""
    return torch.stack((norm.weight, norm.bias))


# -- running -------------------------------------------------------------------------


class Runner:
    """Runs kernels on the images of one size, in the threads that it is given."""

    def __init__(self, run_all: Map, images: int, height: int, width: int) -> None:
        self.run_all, self.images = run_all, images
        self.tile = Box(0, 0, height, width)

    def empty(self, channels: int) -> Tensor:
        """Return memory for features in blocks: (N, H / 4, W / 4, C, 16).

        Nothing depends on what is not computed, but it must be numbers.
        """
        shape = (self.images, self.tile.height // BLOCK, self.tile.width // BLOCK)
        return torch.zeros((*shape, channels, BLOCK**2))

    def at(self, part: Box, kernel: Kernel, *features: Tensor | None) -> None:
        """Run a kernel on the windows that hold pixels of a part of the tile."""
        self(windows_of(part, self.tile, WINDOW, 0)[0], kernel, *features)

    def __call__(
        self, windows: Windows, kernel: Kernel, *features: Tensor | None
    ) -> None:
        """Run a kernel on windows; its result goes to the last of the features."""
        grid = _Grid(
            self.tile.height // WINDOW,
            self.tile.width // WINDOW,
            *(windows.top, windows.left, windows.rows, windows.columns),
        )
        places = [
            ctypes.c_void_p(None if x is None else x.data_ptr()) for x in features
        ]
        total = self.images * windows.rows * windows.columns

        def run(first: int) -> int:
            last = min(first + WINDOWS_PER_TASK, total)
            return kernel.function(
                ctypes.byref(kernel.weights),
                ctypes.byref(grid),
                *places,
                ctypes.c_long(first),
                ctypes.c_long(last),
            )

        if any(list(self.run_all(run, range(0, total, WINDOWS_PER_TASK)))):
            raise MemoryError("out of memory in the CPU kernels")

    def chain(
        self, part: Box, kernels: list[Kernel], x: Tensor, add: Tensor, out: Tensor
    ) -> None:
        """Run convolutions one after the other, and add to the last one's result."""
        for after, kernel in zip(range(len(kernels) - 1, 0, -1), kernels, strict=False):
            y = self.empty(cast("_Convolution", kernel.weights).out_channels)
            self.at(within(part.grown(after), self.tile), kernel, x, None, y)
            x = y
        self.at(part, kernels[-1], x, add, out)


class NativeForward(CpuForward):
    """A network with windows of 8 pixels for the compiled kernels; it is copied.

    `kernels` are those for float32 and for the products inside the transformer.
    """

    def __init__(
        self,
        net: Swin2SRForImageSuperResolution,
        kernels: dict[str, ctypes.CDLL],
        precision: str,
    ) -> None:
        self.exact = Packer(kernels["fp32"], "fp32")
        self.inner = Packer(kernels[precision], precision)
        super().__init__(net)

    def pack(self, half: torch.dtype) -> None:
        """Pack all weights but the head's."""
        body, exact, inner = self.net.swin2sr, self.exact, self.inner
        embedding = cast("Projection", body.embeddings["patch_embeddings"])
        assert embedding.layernorm is not None
        self.first = exact.convolution(body.first_convolution)
        self.embed = exact.norm(embedding.layernorm, embedding.projection)
        self.packed = [
            (
                [inner.layer(cast("Layer", layer)) for layer in stage.layers],
                inner.residual(stage.conv, stage.patch_embed.projection),
            )
            for stage in cast("Any", body.encoder.stages)
        ]
        self.last_norm = exact.norm(body.layernorm)
        self.after_body = exact.residual(body.conv_after_body, None)

    def sample(self) -> Callable[[], object]:
        """Return a function that runs a layer on 16 windows, in one thread."""
        run = Runner(map, 1, 4 * WINDOW, 4 * WINDOW)
        source = run.empty(self.net.config.embed_dim)
        torch.linspace(-1, 1, source.numel(), out=source.view(-1))
        other = torch.empty_like(source)
        layer = self.packed[0][0][-1]
        windows = Windows(0, 0, 4, 4)
        return lambda: run(windows, layer, source, other)

    def run_body(
        self, pixels: Tensor, needed: Trim, cancel: CancelToken | None = None
    ) -> Tensor:
        """Turn normalized pixels (N, channels, H, W) into the head's input."""
        images, channels, height, width = pixels.shape
        blocks = pixels.view(images, channels, height // BLOCK, BLOCK, -1, BLOCK)
        blocks = blocks.permute(0, 2, 4, 1, 3, 5).contiguous()
        dim = self.net.config.embed_dim
        with workers(torch.get_num_threads()) as run_all:
            run = Runner(until(cancel, run_all), images, height, width)
            shallow, stream, other = run.empty(dim), run.empty(dim), run.empty(dim)
            run.at(needed.embedded, self.first, blocks, None, shallow)
            run.at(needed.embedded, self.embed, shallow, stream)
            for (layers, convolutions), (windows, _, gives) in zip(
                self.packed, needed.stages, strict=True
            ):
                source = stream
                for layer, some in zip(layers, windows, strict=True):
                    run(some, layer, source, other)
                    source = other
                run.chain(gives, convolutions, source, stream, stream)
            run.at(needed.deep, self.last_norm, stream, stream)
            run.chain(needed.features, self.after_body, stream, shallow, other)
        del shallow, stream
        blocks = other.view(images, height // BLOCK, width // BLOCK, dim, BLOCK, BLOCK)
        lines = blocks.permute(0, 3, 1, 4, 2, 5)
        return cut_blocks(lines, needed.features)


def cut_blocks(x: Tensor, part: Box) -> Tensor:
    """Return a part of (N, C, H / 4, 4, W / 4, 4) as (N, C, its height, its width)."""
    (y0, x0), y1, x1 = (part.y0 // BLOCK, part.x0 // BLOCK), part.y1, part.x1
    x = x[:, :, y0 : -(-y1 // BLOCK), :, x0 : -(-x1 // BLOCK)]
    x = x.flatten(4, 5).flatten(2, 3)
    inner = part.shifted(-BLOCK * y0, -BLOCK * x0)
    return x[(..., *inner.slices)].contiguous()


def serves(net: Swin2SRForImageSuperResolution) -> bool:
    """Tell whether the kernels are written for a network's windows."""
    return net.config.window_size == net.config.attention_window == WINDOW


def prepare_native(
    net: Swin2SRForImageSuperResolution,
    precision: str,
    instructions: str | None = None,
) -> NativeForward | None:
    """Return a network for the compiled kernels, if there are some that serve it.

    Without a name of instructions, those with the longest vectors are used.
    """
    if not serves(net):
        return None
    inner = load_kernels(precision, instructions)
    exact = load_kernels("fp32", instructions)
    if inner is None or exact is None:
        return None
    return NativeForward(net, {"fp32": exact, precision: inner}, precision)
