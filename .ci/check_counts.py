"""Fail when a test run was smaller than the suite: a green run must mean that it ran.

    python .ci/check_counts.py REPORT.xml

REPORT.xml is what `pytest --junitxml` wrote. Three things are compared with it: what
pytest collects now (without the opt-in slow tests), the test files on disk, and, for
files of which every test was skipped, whether the reason holds on this machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("NAPARI_SWIN2SR_SHARED", ROOT.parent / "shared"))

NOT_IN_A_CLONE = {"tests/test_quality.py"}
"""Test files that need images and weights which this repository may not distribute.

What proves that the network gives the authors' outputs lies in `tests/golden`, so no
other file may be skipped as a whole for want of reference material.
"""


def collected() -> Counter[str]:
    """Return test file -> number of tests that pytest collects."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        sys.exit(f"collecting the tests failed:\n{run.stdout}{run.stderr}")
    return Counter(
        line.split("::", 1)[0] for line in run.stdout.splitlines() if "::" in line
    )


def reported(report: Path) -> dict[str, list[str | None]]:
    """Return test file -> one entry per test: None if it ran, else why it did not."""
    tests: dict[str, list[str | None]] = defaultdict(list)
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314  (our own file)
        # a file that is skipped while it is imported has a name but no file
        file = case.get("file") or case.get("name", "").replace(".", "/") + ".py"
        skipped, reason = case.find("skipped"), None
        if skipped is not None:
            reason = f"{skipped.get('message', '')} {skipped.text or ''}".strip()
        tests[file].append(reason)
    return tests


def excused(file: str, reason: str) -> bool:
    """Return whether a skip has a cause that lies in the machine, not in us."""
    if "CUDA" in reason or "GPU" in reason:
        return True
    absent = "reference material" in reason and not SHARED.is_dir()
    return absent and file in NOT_IN_A_CLONE


def problems(expected: Counter[str], tests: dict[str, list[str | None]]) -> list[str]:
    """Return one line per way in which the run was smaller than the suite."""
    found = []
    on_disk = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("tests/**/test_*.py")}
    for file in sorted(on_disk | set(expected)):
        ran = tests.get(file, [])
        if len(ran) < expected[file]:
            found.append(f"{file}: {len(ran)} of {expected[file]} tests ran")
        elif not ran:
            found.append(f"{file}: holds no test, or all of them are opt-in")
        elif None not in ran and not all(excused(file, reason or "") for reason in ran):
            found.append(f"{file}: every test was skipped: {ran[0]}")
    return found


def main(report: str) -> None:
    """Compare and say so in one line, or exit with what is wrong."""
    expected, tests = collected(), reported(Path(report))
    found = problems(expected, tests)
    if found:
        sys.exit("the run was smaller than the suite:\n  " + "\n  ".join(found))
    total = sum(len(ran) for ran in tests.values())
    skipped = sum(reason is not None for ran in tests.values() for reason in ran)
    sys.stdout.write(
        f"whole suite accounted for: {total} tests in {len(tests)} files, "
        f"{skipped} skipped on this machine\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
