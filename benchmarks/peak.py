"""How much memory this process has needed, where the system tells."""

from __future__ import annotations

import math
from pathlib import Path


def forget_peak() -> bool:
    """Let the peak of memory begin here; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_megabytes() -> float:
    """Return this process's own peak; ru_maxrss would include its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    lines = status.read_text().splitlines()
    return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024
