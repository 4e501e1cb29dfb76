"""Damaged weight files by the hundred: the right weights or a `WeightsError`, soon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("count", "seed"),
    [(40, 0), pytest.param(5000, 1, marks=[pytest.mark.slow, pytest.mark.timeout(0)])],
)
def test_every_outcome_is_the_right_weights_or_a_weights_error(
    count: int, seed: int
) -> None:
    """In a process of its own, and there in a thread with a small stack."""
    command = [sys.executable, "-W", "error", "-m", "helpers.mutated_weights"]
    done = subprocess.run(
        [*command, str(count), str(seed)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1] if done.stderr else ""
    assert done.returncode == 0, f"the process ended at {last}"
    wrong = json.loads(done.stdout)
    assert len(wrong) == 8
    assert {kind: found for kind, found in wrong.items() if found} == {}
