"""The compiled kernels give what the network gives, or stand aside."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.golden import (
    TOLERANCE,
    VARIANTS,
    make_network,
    pad_like_reference,
    read_cases,
)
from helpers.tiny import two_stage_net
from napari_swin2sr.engine import cpu_native
from napari_swin2sr.engine.backends import SWITCH, one_thread, prepare
from napari_swin2sr.engine.cpu_native import NativeForward, prepare_native
from napari_swin2sr.engine.cpu_torch import CpuForward
from napari_swin2sr.engine.trim import trim

CPU = torch.device("cpu")

needs_compiler = pytest.mark.skipif(
    cpu_native.find_compiler() is None, reason="no C compiler on this machine"
)
needs_bfloat16 = pytest.mark.skipif(
    not cpu_native.instruction_sets("bf16"),
    reason="the processor has no bfloat16 products",
)
each_set = pytest.mark.parametrize(
    "instructions",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name not in cpu_native.instruction_sets(),
                reason=f"the processor has no {name}",
            ),
        )
        for name in cpu_native.INSTRUCTION_SETS
    ],
)


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Compile into a folder of its own, once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv(SWITCH, raising=False)
        cpu_native.load_kernels.cache_clear()
        yield folder
        cpu_native.load_kernels.cache_clear()


@pytest.fixture(autouse=True)
def threads():
    """PyTorch's threads wait for each other, which takes long where others run."""
    with one_thread():
        yield


@pytest.fixture
def fresh():
    """Look for kernels anew, and forget the outcome."""
    for function in (cpu_native.load_kernels, cpu_native.version_of):
        function.cache_clear()
    yield
    for function in (cpu_native.load_kernels, cpu_native.version_of):
        function.cache_clear()
    cpu_native.hung.clear()


def layers_of(net):
    return [layer for stage in net.swin2sr.encoder.stages for layer in stage.layers]


def native(net, precision="fp32", instructions=None):
    forward = prepare_native(net, precision, instructions)
    assert isinstance(forward, NativeForward)
    return forward


def assert_close(actual, expected, tolerance=TOLERANCE):
    limit = tolerance * expected.abs().max().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


@needs_compiler
@each_set
@pytest.mark.parametrize("variant", [v for v in VARIANTS if "jpeg" not in v])
def test_reference_outputs_of_the_authors(variant, instructions):
    net = make_network(variant)
    forward, up = native(net, "fp32", instructions), net.config.upscale
    for case in read_cases(variant):
        height, width = case.x.shape[-2:]
        result = forward(pad_like_reference(case.x, 8))
        result = result[0, :, : up * height, : up * width]
        assert_close(result, torch.from_numpy(case.y))


@needs_compiler
@each_set
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"qkv_bias": False},
        {"image_size": 8},  # windows are not shifted
        {"resi_connection": "3conv"},
        {"embed_dim": 15, "num_heads": (3, 5), "mlp_ratio": 1.4},  # odd everywhere
        {"embed_dim": 90, "num_heads": (3, 9), "upsampler": "pixelshuffle"},
        {"num_channels": 1},
        {"num_channels": 5, "layer_norm_eps": 1e-2},
    ],
    ids=str,
)
def test_every_shape_of_network_and_image(values, instructions, monkeypatch):
    monkeypatch.setattr(cpu_native, "WINDOWS_PER_TASK", 3)
    net = two_stage_net(**values)
    forward = native(net, "fp32", instructions)
    for size in ((8, 8), (16, 40), (17, 3), (56, 56)):
        x = torch.rand(2, net.config.num_channels, *size)
        with torch.inference_mode():
            assert_close(forward(x), net.upscale_tile(x), 4e-6)


@needs_compiler
@each_set
def test_attention_scales_at_their_limit(instructions):
    net = two_stage_net()
    with torch.no_grad():
        for layer in layers_of(net):
            layer.attention["self"].logit_scale.fill_(math.log(99))
            layer.attention["self"].logit_scale[0] = 50
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        result = native(net, "fp32", instructions)(x)
        assert_close(result, net.upscale_tile(x), 2e-5)  # scale 100: steep


@needs_compiler
@each_set
def test_zero_keys_and_large_activations(instructions):
    """No length of zero divides, and no input of an MLP is too large."""
    net = two_stage_net()
    with torch.no_grad():
        for layer in layers_of(net):
            layer.attention["self"].key.weight.zero_()
            layer.intermediate.dense.weight.mul_(100)
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        result = native(net, "fp32", instructions)(x)
        assert_close(result, net.upscale_tile(x), 4e-6)


@needs_compiler
@each_set
def test_not_a_number_is_not_hidden(instructions):
    x = torch.rand(1, 3, 16, 16)
    x[0, 0, 3, 3] = math.nan
    assert not native(two_stage_net(), "fp32", instructions)(x).isfinite().all()


@needs_compiler
def test_gray_tiles():
    net = make_network("light_x2")
    x = torch.rand(3, 1, 16, 16)
    with torch.inference_mode():
        assert_close(native(net)(x), net.upscale_tile(x))


@needs_compiler
@needs_bfloat16
@pytest.mark.parametrize(
    "values", [{}, {"embed_dim": 15, "num_heads": (3, 5)}, {"resi_connection": "3conv"}]
)
def test_bfloat16_is_close(values):
    net = two_stage_net(**values)
    x = torch.rand(1, 3, 24, 40)
    with torch.inference_mode():
        expected = net.upscale_tile(x)
        error = native(net, "bf16")(x) - expected
    assert 0 < error.abs().max() < 0.03 * expected.abs().max()
    assert error.square().mean().sqrt() < 0.005 * expected.abs().max()


@needs_compiler
def test_many_callers_share_one_forward():
    forward = native(two_stage_net())
    inputs = [torch.rand(1, 3, 16, 8 * (1 + i)) for i in range(4)]
    expected = [forward(x) for x in inputs]
    results: list[Any] = [None] * 4

    def work(i):
        results[i] = forward(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted)


@needs_compiler
def test_threads_change_not_a_bit():
    forward, x = native(two_stage_net()), torch.rand(1, 3, 48, 80)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            stream = forward.run_body(x, trim(forward.net.config, 48, 80, None))
            results.append(stream)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_other_windows_are_left_to_the_portable_path():
    assert isinstance(prepare(two_stage_net(window_size=7), CPU, "fp32"), CpuForward)
    assert prepare_native(two_stage_net(window_size=7), "fp32") is None
    assert prepare_native(two_stage_net(image_size=4), "fp32") is None


def test_without_a_compiler_the_portable_path_serves(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "no-such-compiler")
    forward = prepare(two_stage_net(), CPU, "fp32")
    assert isinstance(forward, CpuForward)
    assert not isinstance(forward, NativeForward)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_a_compiler_that_fails_is_reported_once(fresh, monkeypatch, tmp_path, caplog):
    script = tmp_path / "broken-cc"
    script.write_text("#!/bin/sh\n[ $1 = --version ] && echo 1 && exit 0\nexit 1\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    with caplog.at_level(logging.WARNING):
        assert prepare_native(two_stage_net(), "fp32") is None
        assert prepare_native(two_stage_net(), "fp32") is None
    assert caplog.text.count("cannot be compiled") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("at", ["--version", "compile"])
def test_a_compiler_that_hangs_is_left_alone(at, fresh, monkeypatch, tmp_path, caplog):
    script = tmp_path / "slow-cc"
    answer = "[ $1 = --version ] && echo 1 && exit 0\n" if at == "compile" else ""
    script.write_text(f"#!/bin/sh\n{answer}exec sleep 60\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setitem(cpu_native.SECONDS, at, 0.5)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        forward = prepare(two_stage_net(), CPU, "bf16")
    assert time.monotonic() - start < 20
    assert not isinstance(forward, NativeForward)
    assert caplog.text.count("timed out") == 1


@needs_compiler
def test_compiled_once_and_only_into_a_safe_folder(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cpu_native.load_kernels("fp32") is not None
    (made,) = (tmp_path / "napari-swin2sr").iterdir()
    before = made.stat().st_mtime_ns
    cpu_native.load_kernels.cache_clear()
    assert cpu_native.load_kernels("fp32") is not None
    assert made.stat().st_mtime_ns == before
    made.parent.chmod(0o777)  # others could put kernels there
    with cpu_native.cache_folder() as folder:
        assert folder != made.parent
    assert not folder.exists()
    cpu_native.load_kernels.cache_clear()
    assert cpu_native.load_kernels("fp32") is not None  # its file is gone already


def cut_in_half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@needs_compiler
@pytest.mark.parametrize(
    "spoil",
    [
        cut_in_half,
        damage,
        lambda file: file.write_bytes(b""),
        lambda file: file.chmod(0o777),
        pytest.param(
            lambda file: os.chown(file, 12345, -1),
            marks=pytest.mark.skipif(
                getattr(os, "getuid", lambda: 1)() != 0,
                reason="only root gives files away",
            ),
        ),
    ],
    ids=["cut", "damaged", "empty", "writable by others", "another user's"],
)
def test_spoiled_kernels_are_compiled_again(
    spoil, fresh, monkeypatch, tmp_path, caplog
):
    """Loading them would end the process, or run what somebody else has written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "napari-swin2sr"
    folder.mkdir(mode=0o700)
    command = [cpu_native.find_compiler() or "", *cpu_native.FLAGS]
    made = cpu_native._compiled(command, b"1", folder)
    good, inode = made.read_bytes(), made.stat().st_ino
    assert cpu_native._compiled(command, b"1", folder).stat().st_ino == inode
    assert cpu_native._compiled(command, b"2", folder) != made
    spoil(made)
    with made.open("rb"):  # an open file keeps its inode to itself
        again = cpu_native._compiled(command, b"1", folder)
    assert again.read_bytes() == good
    assert again.stat().st_ino != inode or made != again
    assert cpu_native.is_private(again)
    assert "is damaged or not this user's" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="home folders of POSIX systems")
def test_a_user_without_a_home_gets_a_folder_for_the_time_being(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(RuntimeError):
        Path.home()
    with cpu_native.cache_folder() as folder:
        assert cpu_native.is_private(folder)
    assert not folder.exists()


# -- what the compilers make of the source -----------------------------------------

FMA = re.compile(r"v?(f?n?m(add|ul)\w*ps|f?ml[as]?|dpbf16ps)\s")
JUMP = re.compile(r"(?:j\w+|b\.?\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$")
OTHER = re.compile(r"v?f?(div|max|psll|shl|cvt)")  # softmax and gelu
STACK = re.compile(r"\(%r[sb]p|\[(sp|x29)\b")
VECTOR = re.compile(r"%[xyz]mm|\b[qv]\d+\b")

X86 = [("avx512", "fp32"), ("avx512", "bf16"), ("avx2", "fp32"), ("sse", "fp32")]
BUILDS = [
    *((compiler, *kind) for compiler in ("gcc", "clang") for kind in X86),
    ("aarch64-linux-gnu-gcc", "neon", "fp32"),
]


def inner_loops(assembly):
    """Yield the instructions of each loop that has no other inside."""
    lines = [re.split(r"#|//", line)[0].strip() for line in assembly.splitlines()]
    lines = [x for x in lines if x and (x.endswith(":") or not x.startswith("."))]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    loops = [
        (labels[jump[1]], i)
        for i, line in enumerate(lines)
        if (jump := JUMP.match(line)) and labels.get(jump[1], i) < i
    ]
    for first, last in loops:
        inside = [x for x in loops if first <= x[0] and x[1] <= last]
        if inside == [(first, last)]:
            yield [x for x in lines[first : last + 1] if not x.endswith(":")]


@pytest.mark.parametrize(("compiler", "name", "precision"), BUILDS)
def test_the_sums_of_a_product_stay_in_registers(compiler, name, precision):
    """A compiler that keeps them in memory makes the kernels slower than PyTorch."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} on this machine")
    if compiler in {"gcc", "clang"} and platform.machine() not in {"x86_64", "AMD64"}:
        pytest.skip("needs a compiler for x86-64")
    flags = cpu_native.INSTRUCTION_SETS[name].flags
    half = ["-DHALF", "-mavx512bf16"] if precision == "bf16" else []
    command = [compiler, *cpu_native.FLAGS, *flags, *half, "-S", "-o", "-"]
    made = subprocess.run(
        [*command, str(cpu_native.SOURCE)],
        check=True,
        capture_output=True,
        text=True,
    )
    sums = {"avx512": 24, "neon": 20}.get(name, 12)
    products = [
        loop
        for loop in inner_loops(made.stdout)
        if sum(bool(FMA.match(x)) for x in loop) >= sums
        and not any(OTHER.match(x) for x in loop)
    ]
    assert products
    for loop in products:
        assert not [x for x in loop if STACK.search(x) and VECTOR.search(x)]


# -- the kernels of another processor ----------------------------------------------

DRIVER = r"""
/* Read a kernel's weights, grid and features, call it, write the last features. */
#include <stdio.h>
#include SOURCE

static long number(void)
{
    long n;
    if (fread(&n, sizeof n, 1, stdin) != 1) exit(2);
    return n;
}

static void *bytes(long n) /* none if there are no bytes */
{
    void *memory;
    if (!n) return NULL;
    if (posix_memalign(&memory, 64, n) || fread(memory, n, 1, stdin) != 1) exit(3);
    return memory;
}

int main(int count, char **words)
{
    char *weights = bytes(number());
    for (long n = number(); n > 0; n--) { /* the pointers among them */
        long offset = number();
        void *to = bytes(number());
        memcpy(weights + offset, &to, sizeof to);
    }
    struct grid *g = bytes(number());
    long arrays = number(), size[3];
    vec *x[3];
    for (int i = 0; i < arrays; i++) x[i] = bytes(size[i] = number());
    long first = number(), last = number();
    int failed = 4;
    if (count == 2 && !strcmp(words[1], "swin_layer"))
        failed = swin_layer((void *)weights, g, x[0], x[1], first, last);
    else if (count == 2 && !strcmp(words[1], "swin_norm"))
        failed = swin_norm((void *)weights, g, x[0], x[1], first, last);
    else if (count == 2 && !strcmp(words[1], "swin_convolution"))
        failed = swin_convolution((void *)weights, g, x[0], x[1], x[2], first, last);
    if (!failed && fwrite(x[arrays - 1], size[arrays - 1], 1, stdout) != 1) return 5;
    return failed;
}
"""


class Emulated:
    """Kernels in a program for another processor, called like a library.

    It serves one image, all of whose windows are one task. Its arrays of pixels can be
    given too short, by some bytes.
    """

    missing = 0

    def __init__(self, *command):
        self.command = command

    def __getattr__(self, name):
        return lambda *values: self.call(name, *values)

    def call(self, name, weights, grid, *rest):
        weights, grid, *places = weights._obj, grid._obj, *(x.value for x in rest)
        *places, first, last = places
        numbers = {k: getattr(weights, k) for k, kind in weights._fields_}
        c = numbers.get("channels") or numbers["in_channels"]
        n, h = numbers.get("out_channels", c), numbers.get("hidden", 0)
        heads = numbers.get("heads", 0)
        floats = {  # of each weight
            **{"scale": heads, "position": heads * 64**2, "mask": 4 * 64**2},
            **{"qkv": 3 * c * c, "project": c * c, "expand": h * c, "reduce": h * c},
            **{"qkv_bias": 3 * c, "project_bias": c, "expand_bias": h},
            **{"reduce_bias": c, "norm1": 2 * c, "norm2": 2 * c, "norm": 2 * c},
            **{"a": c * c if name == "swin_norm" else 9 * n * c, "bias": n},
        }
        pointers = [k for k, kind in weights._fields_ if kind is ctypes.c_void_p]
        parts = [sized(bytes(weights)), number(len(pointers))]
        for key in pointers:
            parts += [number(getattr(type(weights), key).offset)]
            parts += [sized(content(numbers[key], 4 * floats[key]))]
        pixels = 4 * 64 * grid.tall * grid.wide
        sizes = [pixels * c, *[pixels * n] * (len(places) - 1)]
        parts += [sized(bytes(grid)), number(len(places))]
        parts += [
            sized(content(place, size - self.missing))
            for place, size in zip(places, sizes, strict=True)
        ]
        done = subprocess.run(
            [*self.command, name],
            input=b"".join([*parts, number(first), number(last)]),
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        ctypes.memmove(places[-1], done.stdout, sizes[-1])
        return done.returncode


def number(value):
    return value.to_bytes(8, "little")


def sized(data):
    return number(len(data)) + data


def content(address, size):
    return ctypes.string_at(address, size) if address else b""


VALUES: list[dict[str, Any]] = [
    {},
    {"embed_dim": 15, "num_heads": (3, 5), "mlp_ratio": 1.4},
    {"resi_connection": "3conv", "num_channels": 1},
]


@pytest.mark.parametrize(
    ("compiler", "emulator", "name"),
    [
        ("aarch64-linux-gnu-gcc", "qemu-aarch64", "neon"),
        ("gcc", "env", "sse"),  # the driver itself, where nothing is emulated
    ],
)
@pytest.mark.parametrize("values", VALUES, ids=str)
def test_the_kernels_of_another_processor(
    compiler, emulator, name, values, tmp_path, monkeypatch
):
    if shutil.which(compiler) is None or shutil.which(emulator) is None:
        pytest.skip(f"no {compiler} or no {emulator} on this machine")
    if emulator == "env" and name not in cpu_native.instruction_sets():
        pytest.skip(f"the processor has no {name}")
    program = built(
        compiler, ["-static", *cpu_native.INSTRUCTION_SETS[name].flags], tmp_path
    )
    check_emulated(monkeypatch, values, emulator, program)


def built(compiler: str, flags: list[str], folder: Path) -> Path:
    """Compile the kernels and the driver to a program."""
    driver, program = folder / "driver.c", folder / "driver"
    driver.write_text(DRIVER.replace("SOURCE", f'"{cpu_native.SOURCE}"'))
    usual = [x for x in cpu_native.FLAGS if x not in {"-shared", "-fPIC"}]
    command = [compiler, *usual, *flags, str(driver), "-lm", "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    return program


def check_emulated(monkeypatch, values, *command):
    monkeypatch.setattr(cpu_native, "WINDOWS_PER_TASK", 10**6)
    net = two_stage_net(**values)
    library: Any = Emulated(*command)
    forward = NativeForward(net, {"fp32": library}, "fp32")
    x = torch.rand(1, net.config.num_channels, 16, 24)
    with torch.inference_mode():
        assert_close(forward(x), net.upscale_tile(x), 4e-6)


SANITIZERS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-O1",
    "-g",
]


@pytest.mark.parametrize("values", VALUES, ids=str)
@pytest.mark.parametrize("name", cpu_native.INSTRUCTION_SETS)
def test_no_kernel_leaves_its_arrays(name, values, tmp_path, monkeypatch):
    """Judged by the sanitizers for addresses and undefined behavior."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc on this machine")
    if name not in cpu_native.instruction_sets():
        pytest.skip(f"the processor has no {name}")
    flags = [*cpu_native.INSTRUCTION_SETS[name].flags, *SANITIZERS]
    try:
        program = built(compiler, flags, tmp_path)
    except subprocess.CalledProcessError as error:
        if b"asan" not in error.stderr:
            raise
        pytest.skip("gcc has no address sanitizer here")
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")  # the driver frees nothing
    check_emulated(monkeypatch, values, program)
    monkeypatch.setattr(Emulated, "missing", 64)
    with pytest.raises(AssertionError, match="heap-buffer-overflow"):
        check_emulated(monkeypatch, values, program)
