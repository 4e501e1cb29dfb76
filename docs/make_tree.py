"""Write the tree and the layers on the page about the architecture.

    python docs/make_tree.py

The line of a file is the first line of its docstring; the layers are those that
import-linter checks.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/napari_swin2sr"
PAGE = ROOT / "docs/explanation/architecture.md"


def first_line(file: Path) -> str:
    """Return the summary of a module or of a C file."""
    text = file.read_text("utf-8")
    if file.suffix == ".c":
        return text.removeprefix("/*").strip(" /*\n").partition("\n")[0].strip(" */.")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].rstrip(".")


def tree(folder: Path = PACKAGE, depth: int = 0) -> list[str]:
    """Return one line per folder and file; `__init__.py` speaks for its folder."""
    lines = []
    files = [p for p in folder.iterdir() if p.suffix in (".py", ".c")]
    for path in sorted(p for p in folder.iterdir() if (p / "__init__.py").exists()):
        lines.append(entry(f"{path.name}/", path / "__init__.py", depth))
        lines += tree(path, depth + 1)
    shown = (file for file in sorted(files) if depth == 0 or file.stem != "__init__")
    return lines + [entry(file.name, file, depth) for file in shown]


def entry(name: str, file: Path, depth: int) -> str:
    """Return the line of one file, its text in a column of its own."""
    return f"{'    ' * depth + name:<26}{first_line(file)}"


def layers() -> list[str]:
    """Return the layers, highest first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (found,) = (contract for contract in contracts if contract["type"] == "layers")
    return found["layers"]


def written(text: str) -> str:
    """Return the page with its generated parts as they should be."""
    for name, lines in {"tree": tree(), "layers": layers()}.items():
        body = "\n".join(["```text", *lines, "```\n"])
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(
            pattern, lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL
        )
        assert count == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
