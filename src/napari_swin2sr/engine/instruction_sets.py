"""What compilers are told for each instruction set of the kernels.

Nothing is imported from the package: `hatch_build.py` reads this file, too.
"""

from __future__ import annotations

from typing import NamedTuple

FLAGS = (
    *("-O3", "-std=gnu11", "-shared", "-fPIC"),
    *("-ffp-contract=fast", "-fno-math-errno"),
)
"""IEEE arithmetic, except that a product and a sum may be joined."""

HALF = ("-DHALF", "-mavx512bf16")
"""Further ones for the kernels in bfloat16, which need AVX-512."""


class InstructionSet(NamedTuple):
    """What a compiler is told, and what a processor must have (see `features`)."""

    flags: tuple[str, ...]
    needs: frozenset[str]


_AVX512 = ("avx512f", "avx512dq", "avx512bw", "avx512vl")

INSTRUCTION_SETS = {
    "avx512": InstructionSet(
        ("-march=x86-64", "-mfma", *(f"-m{name}" for name in _AVX512)),
        frozenset({"fma", *_AVX512}),
    ),
    "avx2": InstructionSet(
        ("-march=x86-64", "-mfma", "-mavx2"), frozenset({"fma", "avx2"})
    ),
    "sse": InstructionSet(("-march=x86-64",), frozenset({"x86-64"})),
    "neon": InstructionSet(("-march=armv8-a",), frozenset({"aarch64"})),
}
"""Those that the source knows, the ones with the longest vectors first."""
