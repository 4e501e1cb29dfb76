"""Files of many writers are read as their writers and other readers say."""

from __future__ import annotations

import pytest

from helpers.written_elsewhere import WRITERS, is_there, verdicts


@pytest.mark.parametrize("name", WRITERS)
def test_what_others_write_is_read_right(name: str) -> None:
    if not is_there(name):
        pytest.skip(f"{name} needs {WRITERS[name][0]}")
    assert list(verdicts(name, range(4))) == ["right"] * 4
