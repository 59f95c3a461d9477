"""Small pieces of prose."""

import re
from collections.abc import Sequence

__all__ = ["counted", "listed", "plain"]


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun.

    >>> counted(1, "image"), counted(1200, "image"), counted(2, "copy", "copies")
    ('1 image', '1,200 images', '2 copies')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(items: Sequence[str]) -> str:
    """Join with commas and a last ``and``.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def plain(text: object) -> str:
    """Return a name from outside without what Markdown or HTML would take for markup.

    >>> plain("Left <b>x</b>|`y`")
    'Left bx/by'
    """
    return re.sub(r"[<>|`*\\\[\]\x00-\x1f]", "", str(text)).strip()
