"""The plugin's tests: skipped as a folder where napari or Qt is absent."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault(
    "NAPARI_CONFIG", str(Path(tempfile.mkdtemp(prefix="napari-")) / "settings.yaml")
)

# Imported once, here, where the warnings of napari's own imports may pass.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import napari.layers
        import napari.viewer  # noqa: F401
        import qtpy.QtWidgets  # noqa: F401
    except ImportError:
        collect_ignore_glob = ["test_*.py"]
