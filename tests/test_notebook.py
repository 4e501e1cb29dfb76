"""The notebook runs offline from top to bottom, and shows what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/notebooks/swin2sr.ipynb"

OFFLINE = """
import socket
def refuse(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
        raise AssertionError(f"the notebook asks {address}")
    return connect(self, address)
connect, socket.socket.connect = socket.socket.connect, refuse
"""


def texts(notebook: Any) -> list[str]:
    """Return what each cell of code prints or gives, as text."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            parts = [o.get("text") or o["data"]["text/plain"] for o in outputs]
            found.append("".join(parts).strip())
    return found


# In a process of its own: Jupyter leaves a loop and sockets to the collector.
RUN = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=250).execute()
nbformat.write(notebook, sys.argv[1])
"""


def test_the_notebook_runs_and_its_stored_results_are_true(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is missing")
    pytest.importorskip("nbclient", reason="nbclient is missing")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = texts(notebook)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(OFFLINE))
    copy = tmp_path / "copy.ipynb"
    nbformat.write(notebook, copy)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, copy],
        capture_output=True,
        text=True,
        check=False,
        cwd=NOTEBOOK.parent,
    )
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(copy, as_version=4)
    found = texts(notebook)[1:]
    assert "torch.Size([1, 3, 528, 528])" in found
    assert any(text.startswith("(512, 512, 3) largest difference: ") for text in found)
    for now, then in zip(found, stored, strict=True):
        numbers = re.findall(r"-?\d+\.?\d*", now), re.findall(r"-?\d+\.?\d*", then)
        assert re.sub(r"-?\d+\.?\d*", "0", now) == re.sub(r"-?\d+\.?\d*", "0", then)
        assert [float(n) for n in numbers[0]] == pytest.approx(
            [float(n) for n in numbers[1]], rel=0.01, abs=1
        )


def test_pictures_are_stored_and_small():
    text = NOTEBOOK.read_text("utf-8")
    assert text.count('"image/png"') == 4
    assert len(text) < 700_000
    assert "stderr" not in text
