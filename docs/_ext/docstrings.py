"""What docstrings write for readers of the source, as Sphinx wants it."""

import re
from typing import Any

from sphinx.application import Sphinx

_SHAPE = re.compile(r"``.*?``|:\w+:`.*?`|(?<=[(\s])\*(?=\w)")
"""A literal or a role, which stay as they are, or the star of a shape: ``(B, 1, *S)``."""


def _escape_shapes(
    app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = [_SHAPE.sub(lambda m: r"\*" if m[0] == "*" else m[0], line) for line in lines]


def _no_signature(
    app: Any, what: str, name: str, value: Any, options: Any, signature: str, returns: str
) -> tuple[None, str] | None:
    """Constants and aliases of types have none; numpydoc would look for one in what they are of."""
    return (None, "") if what == "data" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Go first, before numpydoc."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _escape_shapes, priority=100)
    app.connect("autodoc-process-signature", _no_signature, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
