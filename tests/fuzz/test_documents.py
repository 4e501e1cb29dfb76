"""Damaged metadata of OME-Zarr and OME-TIFF, a few of each; the rest is a command."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from helpers.mutated_documents import xml_outcomes, zarr_outcomes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "count", [60, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(0)])]
)
@pytest.mark.parametrize("outcomes", [zarr_outcomes, xml_outcomes])
def test_every_outcome_is_an_image_or_a_message(
    outcomes: Any, count: int, tmp_path: Path
) -> None:
    counts = Counter(found for _, found in outcomes(range(count), tmp_path))
    assert set(counts) <= {"read", "refused"}
    assert len(counts) == 2
