"""Damaged image files of every format, a few of each; the large run is a command."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from helpers.mutated_images import KINDS, outcomes, run

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("openreadout")
pytest.importorskip("pylibCZIrw")
pytest.importorskip("rasterio")

ALLOWED = {"same", "other", "refused"}


def allowed(kind: str) -> set[str]:
    """What may come of a file: nothing is silently other where there are checksums."""
    return ALLOWED - {"other"} if kind == "png" else ALLOWED


@pytest.mark.parametrize("kind", KINDS)
def test_every_outcome_is_pixels_or_a_message(kind: str, tmp_path: Path) -> None:
    counts = Counter(found for _, found in outcomes(kind, range(30), tmp_path))
    assert set(counts) <= allowed(kind)
    assert counts["refused"] > 0


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_of_each(kind: str) -> None:
    counts = run(kind, 10_000, first=1000)
    assert counts.pop("bad") == {}
    assert {"kind", "n", *allowed(kind)} >= set(counts)


def test_a_gif_that_ends_in_a_block(tmp_path: Path) -> None:
    assert [word for _, word in outcomes("gif", range(5318, 5319), tmp_path)] == [
        "refused"
    ]
