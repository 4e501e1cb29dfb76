"""The documentation does what it says: its code runs, its commands and links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from napari_swin2sr.cli import main as cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]*) -->\n+)?^```(?P<kind>\w*)[^\n]*\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
pages = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def fences(page, kind):
    """Return (marker before it, text) of each code block of a kind."""
    found = FENCE.finditer(page.read_text("utf-8"))
    return [(m["marker"] or "", m["body"]) for m in found if m["kind"] == kind]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if fences(page, "python")],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, (marker, body) in enumerate(fences(page, "python"), 1):
        if marker.startswith("not run: "):
            continue
        exec(compile(body, f"{page.name}, Python block {number}", "exec"), names)


@pages
def test_every_block_says_what_it_is(page):
    kinds = {m["kind"] for m in FENCE.finditer(page.read_text("utf-8"))}
    allowed = {"python", "console", "text", "toml", "yaml", "bash", "json", "mermaid"}
    assert kinds <= allowed


def commands(page):
    """Return the command lines of a page's console blocks as lists of words."""
    lines = "\n".join(body for _, body in fences(page, "console"))
    found = re.findall(r"^\$ (.*)", lines.replace("\\\n", " "), re.MULTILINE)
    return [
        shlex.split(part, comments=True)
        for line in found
        for part in re.split(r" (?:\||&&|;) ", line)
    ]


@pages
def test_commands_are_understood_by_the_real_parser(page):
    parser = cli.build_parser()
    for program, *words in commands(page):
        if program == "napari-swin2sr" and words[-1] not in ("--help", "--version"):
            parser.parse_args(words)  # exits when it does not understand


@pages
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for program, *words in commands(page):
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE), words


@pages
def test_links_and_pictures_lead_somewhere(page):
    text = FENCE.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target
