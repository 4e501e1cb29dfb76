"""What the documentation takes from the code when it is built."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/napari-swin2sr/napari-swin2sr"
COMMANDS = ("upscale", "inspect", "models", "info", "demo", "page", "train", "evaluate")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the design decisions, one page each, oldest first."""
    folder = Path(config.docs_dir)
    pages = sorted(folder.glob("decisions/*.md"))
    if pages:
        names: list[str] = [page.relative_to(folder).as_posix() for page in pages]
        config.nav.append({"Decisions": names})
    return config


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put in the root's page for contributors, and the help texts of the commands."""
    if page.file.src_uri == "contributing.md":
        text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
        text = text.replace("](docs/", "](")
        return re.sub(r"\]\((\w+\.md)\)", rf"]({REPOSITORY}/blob/main/\1)", text)
    if page.file.src_uri != "reference/cli.md":
        return markdown
    parts = [markdown]
    for name in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "napari_swin2sr", name, "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        parts.append(f"## {name}\n\n```text\n{done.stdout}```\n")
    return "\n".join(parts)
