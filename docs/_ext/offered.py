"""What the pages of the API are made of: the public names of every public module."""

import importlib
import inspect
import pkgutil
import types
from typing import Any

ELSEWHERE = {"l2s_pydra": ["bids_examples", "workflows"]}
"""Packages that lie in folders of their own, where an editable install does not list them."""


def pages(root: str) -> dict[str, dict[str, Any]]:
    """Return, for a package and all modules below, what each explains and what lies below it.

    A name is explained where it is to be imported from: by the package, if that offers it, and by
    its module otherwise.
    """
    found: dict[str, dict[str, Any]] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        module = importlib.import_module(name)
        below = {m.name for m in pkgutil.iter_modules(getattr(module, "__path__", ()))}
        below |= set(ELSEWHERE.get(name, ()))
        public = [f"{name}.{b}" for b in sorted(below) if not b.startswith(("_", "make_"))]
        waiting.extend(public)
        package = name.rpartition(".")[0]
        above = getattr(importlib.import_module(package), "__all__", ()) if package else ()
        here = [
            n
            for n in getattr(module, "__all__", ())
            if n not in above and not _foreign(getattr(module, n))
        ]
        found[name] = {
            "modules": public,
            "names": [[_directive(getattr(module, n)), n, repr(getattr(module, n))] for n in here],
            "elsewhere": [n for n in getattr(module, "__all__", ()) if n in above],
            "package": package,
        }
    return found


def _foreign(value: Any) -> bool:
    """Whether it is handed on from another library, which explains it."""
    whole = inspect.isclass(value) or inspect.isroutine(value)
    return whole and not value.__module__.startswith(("l2s_pydra", "types", "builtins"))


def _directive(value: Any) -> str:
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    if isinstance(value, types.GenericAlias | types.UnionType) or hasattr(value, "__origin__"):
        return "data"  # an alias, whose docstring would be that of what it stands for
    return "autofunction" if inspect.isroutine(value) else "autodata"
