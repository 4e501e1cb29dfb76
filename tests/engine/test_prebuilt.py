"""Kernels that come with a wheel are used where there is no compiler."""

from __future__ import annotations

import importlib.util
import runpy
import shutil
from pathlib import Path

import pytest
import torch

from napari_swin2sr.engine import cpu_native
from napari_swin2sr.engine.cpu_native import (
    INSTRUCTION_SETS,
    NativeForward,
    prepare_native,
)
from napari_swin2sr.model import Swin2SRConfig, Swin2SRForImageSuperResolution

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh():
    """Forget which kernels were loaded."""
    yield
    cpu_native.load_kernels.cache_clear()


def hide_compilers(monkeypatch, folder):
    """Leave nothing but the kernels that a wheel would have in this folder."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(cpu_native, "PREBUILT", folder)
    cpu_native.load_kernels.cache_clear()


def small_net():
    config = Swin2SRConfig(
        embed_dim=12, depths=(2,), num_heads=(2,), upsampler="pixelshuffledirect"
    )
    torch.manual_seed(0)
    return Swin2SRForImageSuperResolution(config).eval()


@pytest.mark.skipif(cpu_native.find_compiler() is None, reason="no C compiler")
def test_they_are_used_and_right(monkeypatch, tmp_path):
    compiled = Path(cpu_native.load_kernels("fp32")._name)
    name = cpu_native.instruction_sets()[0]
    hide_compilers(monkeypatch, tmp_path)
    shutil.copy(compiled, tmp_path / f"{name}-fp32-0123.so")
    net = small_net()
    forward, x = prepare_native(net, "fp32"), torch.rand(1, 3, 16, 24)
    assert isinstance(forward, NativeForward)
    with torch.inference_mode():
        torch.testing.assert_close(forward(x), net.upscale_tile(x), rtol=0, atol=4e-6)


def test_those_of_another_system_are_left_alone(monkeypatch, tmp_path, caplog):
    if not cpu_native.instruction_sets():
        pytest.skip("there are no kernels for this processor")
    name = cpu_native.instruction_sets()[0]
    hide_compilers(monkeypatch, tmp_path)
    (tmp_path / f"{name}-fp32-0123.so").write_bytes(b"no library")
    assert cpu_native.load_kernels("fp32") is None
    assert "cannot be used" in caplog.text


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed"
)
def test_zig_is_told_of_every_feature():
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))
    x86 = {
        name: hook["zig_flags"]("x86_64-linux-gnu", kind.flags)
        for name, kind in INSTRUCTION_SETS.items()
        if name != "neon"
    }
    assert x86["sse"] == ["-mcpu=x86_64"]
    assert x86["avx2"] == ["-mcpu=x86_64+fma+avx2"]
    half = hook["zig_flags"]("x86_64-linux-gnu", (*cpu_native.HALF,))
    assert half == ["-mcpu=x86_64+avx512bf16", "-DHALF"]
    arm = hook["zig_flags"]("aarch64-macos", INSTRUCTION_SETS["neon"].flags)
    assert arm == ["-mcpu=generic"]
