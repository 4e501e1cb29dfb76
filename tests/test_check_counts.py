"""The check that a green run is a whole run."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Load the script and let it look at a tree with two test files."""
    spec = importlib.util.spec_from_file_location(
        "check_counts", ROOT / ".ci" / "check_counts.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "tests" / "io").mkdir(parents=True)
    (tmp_path / "tests" / "test_a.py").touch()
    (tmp_path / "tests" / "io" / "test_b.py").touch()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "SHARED", tmp_path / "shared")
    assert all((ROOT / name).exists() for name in module.NOT_IN_A_CLONE)
    monkeypatch.setattr(module, "NOT_IN_A_CLONE", {"tests/io/test_b.py"})
    return module


EXPECTED = Counter({"tests/test_a.py": 2, "tests/io/test_b.py": 1})


def test_report_is_read_by_file(check, tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase file="tests/test_a.py" classname="tests.test_a" name="one"/>
        <testcase file="tests/test_a.py" classname="tests.test_a.TestB" name="two"/>
        <testcase file="tests/io/test_b.py" name="three">
        <skipped message="needs CUDA">tests/io/test_b.py:9: needs CUDA</skipped>
        </testcase>
        <testcase classname="" name="tests.test_c"><skipped
        message="collection skipped">(line 3, 'no Qt')</skipped></testcase>
        </testsuite></testsuites>"""
    )
    assert check.reported(report) == {
        "tests/test_a.py": [None, None],
        "tests/io/test_b.py": ["needs CUDA tests/io/test_b.py:9: needs CUDA"],
        "tests/test_c.py": ["collection skipped (line 3, 'no Qt')"],
    }


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ([None, None], [None], []),
        ([None, "why not"], [None], []),
        ([None, None], ["needs CUDA"], []),
        ([None, None], ["reference material x is not on this machine"], []),
        (
            ["reference material x is not on this machine"] * 2,
            [None],
            [
                "tests/test_a.py: every test was skipped: "
                "reference material x is not on this machine"
            ],
        ),
        ([None], [None], ["tests/test_a.py: 1 of 2 tests ran"]),
        ([None, None], [], ["tests/io/test_b.py: 0 of 1 tests ran"]),
        (
            [None, None],
            ["no Qt"],
            ["tests/io/test_b.py: every test was skipped: no Qt"],
        ),
    ],
)
def test_a_smaller_run_is_a_problem(check, a, b, found):
    tests = {"tests/test_a.py": a, "tests/io/test_b.py": b}
    assert check.problems(EXPECTED, tests) == found


def test_reference_material_that_is_there_excuses_nothing(check):
    check.SHARED.mkdir()
    skipped = ["reference material x is not on this machine"]
    tests = {"tests/test_a.py": [None, None], "tests/io/test_b.py": skipped}
    assert len(check.problems(EXPECTED, tests)) == 1


def test_a_file_without_tests_is_a_problem(check):
    expected = Counter({"tests/test_a.py": 2})
    assert check.problems(expected, {"tests/test_a.py": [None, None]}) == [
        "tests/io/test_b.py: holds no test, or all of them are opt-in"
    ]
