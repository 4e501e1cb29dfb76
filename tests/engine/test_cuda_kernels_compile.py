"""The kernels compile for real chips, and fit them; no GPU is needed for that.

In a process of its own, since the interpreter, once chosen, stays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not made for this system")

SHARED_MEMORY = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}
"""Bytes that a program may have, per compute capability."""

SCRIPT = """
import json, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from napari_swin2sr.engine import cuda, cuda_kernels
from napari_swin2sr.weights.config import Swin2SRConfig
from napari_swin2sr.model.swin2sr import Swin2SRForImageSuperResolution

capability, shape = int(sys.argv[1]), json.loads(sys.argv[2])
net = Swin2SRForImageSuperResolution(Swin2SRConfig(**shape))
layer = net.swin2sr.encoder.stages[0].layers[0]
packed = cuda.PackedLayer.from_layer(layer, torch.bfloat16, True)
found = {}

class Launch:
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        return self.compile
    def compile(self, *values, num_warps, num_stages, **constants):
        names = [p.name for p in self.kernel.params]
        types = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
        kinds = {int: "i32", float: "fp32"}
        signature = {
            name: types[v.dtype] if hasattr(v, "dtype") else kinds[type(v)]
            for name, v in zip(names, values)
        } | dict.fromkeys(constants, "constexpr")
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names) if signature[name].startswith("*")
        }
        source = ASTSource(
            self.kernel, {name: signature[name] for name in names},
            {(names.index(k),): v for k, v in constants.items()}, aligned,
        )
        options = {"num_warps": num_warps, "num_stages": num_stages}
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options=options)
        assert compiled.asm["cubin"]
        found[self.kernel.__name__] = compiled.metadata.shared

for name in ("attention_block", "mlp_block"):
    setattr(cuda_kernels, name, Launch(getattr(cuda_kernels, name)))
with torch.no_grad():
    packed(torch.zeros(1, 16, 16, shape["embed_dim"]))
print(json.dumps(found))
"""

SHAPES = {
    "classical": {"embed_dim": 180, "depths": [2], "num_heads": [6]},
    "lightweight": {"embed_dim": 60, "depths": [2], "num_heads": [6]},
}


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        (90, "classical"),
        pytest.param(89, "classical", marks=pytest.mark.slow),
        pytest.param(80, "classical", marks=pytest.mark.slow),
        pytest.param(80, "lightweight", marks=pytest.mark.slow),
    ],
)
def test_the_kernels_fit(capability: int, name: str, tmp_path: Path) -> None:
    code = [sys.executable, "-c", SCRIPT, str(capability), json.dumps(SHAPES[name])]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        code, env=environment, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    assert set(shared) == {"attention_block", "mlp_block"}
    assert max(shared.values()) <= SHARED_MEMORY[capability]
    if capability == 90:  # two windows at a time on a processor of 228 KB
        assert 2 * (shared["attention_block"] + 1024) <= 228 * 1024
