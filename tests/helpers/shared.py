"""Where the reference images and weights lie, when they are there at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def shared_path(*parts: str) -> Path:
    """Return a path of the shared reference material, or skip the test."""
    base = Path(os.environ.get("NAPARI_SWIN2SR_SHARED", ROOT.parent / "shared"))
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference material {'/'.join(parts)} is not on this machine")
    return path
