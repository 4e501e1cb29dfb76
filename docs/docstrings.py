"""Lets the reference read docstrings whose types stand in the signature only.

They say ``name : what it is`` where numpydoc expects ``name : type`` and a text below;
and ``Returns`` holds prose, without a type of its own.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(\w+)\n-{3,}$\n", re.MULTILINE)


class ProseDocstrings(griffe.Extension):
    """Rewrites sections on the way from the source to the page."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            returns = str(obj.returns) if isinstance(obj, griffe.Function) else ""
            obj.docstring.value = rewrite(obj.docstring.value, returns)


def rewrite(docstring: str, returns: str) -> str:
    """Return a docstring in the form that the parser expects.

    Parameters
    ----------
    docstring : cleaned, without common indentation
    returns : annotation of what the function returns
    """
    lead, *sections = _SECTION.split(docstring)
    parts = [lead]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        if title in ("Parameters", "Attributes"):
            parts.append(f"{title}\n{'-' * len(title)}\n{_below(body)}")
        elif title == "Returns":
            text = " ".join(body.split())
            parts.append(f"Returns\n-------\n{returns}\n    {text}\n\n")
        else:
            parts.append(f"{title}\n{'-' * len(title)}\n{body}")
    return "".join(parts)


def _below(body: str) -> str:
    """Move the text after each ``name :`` to a line of its own."""
    return re.sub(r"^(\S[^:\n]*?) : (.*)$", r"\1\n    \2", body, flags=re.MULTILINE)
