"""The documentation does what it says: its code runs, its commands and links exist."""

from __future__ import annotations

import doctest
import importlib.metadata
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import numpydoc.validate
import pytest

import napari_swin2sr as nsr
from napari_swin2sr.cli import main as cli
from napari_swin2sr.tiles.plan import plan_tiles
from napari_swin2sr.weights.config import Swin2SRConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
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


@pytest.mark.parametrize("function", [nsr.apply, plan_tiles, Swin2SRConfig.halo])
def test_examples_in_docstrings_run(function):
    module = inspect.getmodule(function)
    finder = doctest.DocTestFinder(recurse=False)
    (found,) = finder.find(function, function.__name__, globs=vars(module).copy())
    assert found.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found)
    assert result.failed == 0


def public_functions():
    """Return module:name of what the package and `model` give to everybody."""
    names = [f"napari_swin2sr.{name}" for name in nsr.__all__]
    return [
        name
        for name in names
        if inspect.isroutine(getattr(nsr, name.rpartition(".")[2]))
    ]


@pytest.mark.parametrize("name", public_functions())
def test_public_functions_document_every_parameter(name):
    found = numpydoc.validate.validate(name)["errors"]
    wanted = ("PR", "RT", "GL05", "GL06", "GL07", "GL08", "SS")
    style = {"PR08", "PR09", "RT04", "RT05", "SS06"}  # capitals and full stops
    wrong = [(code, text) for code, text in found if code.startswith(wanted)]
    assert [(code, text) for code, text in wrong if code not in style] == []


ARCHITECTURE = ROOT / "docs/explanation/architecture.md"


def script_of_the_docs(name):
    """Return `docs/NAME.py` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_transformers_is_complete_and_current():
    pytest.importorskip("transformers")
    page = ROOT / "docs/reference/transformers.md"
    text = page.read_text("utf-8")
    version = re.search(r"Compared with transformers (\S+)\.\n", text)
    assert version is not None
    if importlib.metadata.version("transformers") != version[1]:
        pytest.skip(f"the table compares with transformers {version[1]}")
    written = script_of_the_docs("make_transformers_table").written(text)
    assert text == written, "run docs/make_transformers_table.py"


def test_the_tree_and_the_layers_are_those_of_the_package():
    make_tree = script_of_the_docs("make_tree")
    files = make_tree.PACKAGE.rglob("*.py")
    modules = [
        f for f in files if f.parent == make_tree.PACKAGE or f.stem != "__init__"
    ]
    lines = make_tree.tree()
    assert len([line for line in lines if ".py " in line]) == len(modules)
    text = ARCHITECTURE.read_text("utf-8")
    assert text == make_tree.written(text), "run docs/make_tree.py"


@pytest.mark.parametrize("page", [ARCHITECTURE, ROOT / "CONTRIBUTING.md"])
def test_files_and_names_of_the_code_on_pages_exist(page):
    """`folder/file.py` is a file of ours; a `name` right after it is defined there."""
    package = ROOT / "src/napari_swin2sr"
    text = FENCE.sub("", page.read_text("utf-8"))
    found = re.findall(r"`((?:[\w/]+/)?\w+\.(?:py|c))`(?: \(?`(\w+)`)?", text)
    assert len(found) >= 20
    for file, name in found:
        path = next(p for p in (package / file, ROOT / file) if p.is_file())
        if name:
            defined = rf"^\s*(?:def|class) {name}\b|^{name}\b"
            assert re.search(defined, path.read_text("utf-8"), re.MULTILINE), name
