"""What the classes of settings say about their fields."""

import inspect
import re

__all__ = ["field_doc"]


def field_doc(kind: type, name: str) -> str:
    """Return the docstring written under a field of a config class.

    Task and interface specifications take their help texts from here.
    """
    source = inspect.getsource(kind)
    match = re.search(rf'^    {name}:.*?\n    """(.*?)"""', source, re.S | re.M)
    return " ".join(match.group(1).split()) if match else ""
