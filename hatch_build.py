"""Puts compiled kernels into a wheel for one platform, if asked to.

``NAPARI_SWIN2SR_KERNELS=linux-x86_64 python -m build --wheel`` makes a wheel with the
kernels of every instruction set of that platform, cross-compiled with ziglang. Without
the variable the wheel is pure Python, and kernels are compiled on first use.
"""

from __future__ import annotations

import hashlib
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "NAPARI_SWIN2SR_KERNELS"

PLATFORMS = {  # zig's target, tag of the wheel, suffix, instruction sets
    "linux-x86_64": ("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "so"),
    "linux-aarch64": ("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", "so"),
    "macos-arm64": ("aarch64-macos.11.0", "macosx_11_0_arm64", "dylib"),
    "windows-x86_64": ("x86_64-windows-gnu", "win_amd64", "dll"),
}

ENGINE = Path("src/napari_swin2sr/engine")


class KernelsHook(BuildHookInterface):
    """Compiles the kernels for a platform."""

    def dependencies(self) -> list[str]:
        """Ask for the compiler only where it is needed."""
        return ["ziglang>=0.13"] if os.environ.get(VARIABLE) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the kernels to the wheel, which is then for one platform."""
        platform = os.environ.get(VARIABLE)
        if not platform or version == "editable":
            return
        if platform not in PLATFORMS:
            allowed = ", ".join(PLATFORMS)
            raise ValueError(f"{VARIABLE}={platform!r} is not one of {allowed}")
        target, tag, suffix = PLATFORMS[platform]
        self.folder = tempfile.TemporaryDirectory()
        engine = Path(self.root, ENGINE)
        known = runpy.run_path(str(engine / "instruction_sets.py"))
        for name, kind in known["INSTRUCTION_SETS"].items():
            if (name == "neon") != target.startswith("aarch64"):
                continue
            for precision in ("fp32", "bf16") if name == "avx512" else ("fp32",):
                half = known["HALF"] if precision == "bf16" else ()
                flags = *known["FLAGS"], *zig_flags(target, (*kind.flags, *half))
                made = Path(self.folder.name, f"{name}-{precision}.{suffix}")
                source = str(engine / "cpu_native.c")
                command = [sys.executable, "-m", "ziglang", "cc", "-target", target]
                subprocess.run([*command, *flags, "-s", source, "-o", made], check=True)
                content = hashlib.sha256(made.read_bytes()).hexdigest()[:16]
                path = f"napari_swin2sr/engine/kernels/{made.stem}-{content}.{suffix}"
                build_data["force_include"][str(made)] = path
        build_data["pure_python"], build_data["tag"] = False, f"py3-none-{tag}"

    def finalize(self, version: str, build_data: dict[str, Any], path: str) -> None:
        """Remove what was compiled."""
        if hasattr(self, "folder"):
            self.folder.cleanup()


def zig_flags(target: str, flags: tuple[str, ...]) -> list[str]:
    """Return the flags of GCC and Clang as zig takes them: features are one word."""
    features = [x[2:] for x in flags if x.startswith("-m") and "=" not in x]
    base = "generic" if target.startswith("aarch64") else "x86_64"
    defines = [x for x in flags if x.startswith("-D")]
    return ["-mcpu=" + "+".join([base, *features]), *defines]
