"""The learned augmentation A_theta, one module a model.

A model is found by the name of its module, which offers ``build(*, ndim, group_names, **options)``.
It may be of another package: then the name is where it is to be imported from,
``mypackage.fog`` or ``fog:build`` (:mod:`l2s_pydra.plugins`).
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from ..plugins import is_plugin, load_plugin
from .base import Augmentation

__all__ = ["Augmentation", "available", "build_augmentation"]


def available() -> tuple[str, ...]:
    """Names that :func:`build_augmentation` understands.

    >>> "noise" in available()
    True
    """
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in names if name != "base" and not name.startswith("_")))


def build_augmentation(
    name: str, *, ndim: int, group_names: Sequence[str], options: Mapping[str, Any] | None = None
) -> Augmentation:
    """Build an augmentation by name.

    Parameters
    ----------
    name : str
        Module of this package, or of another: ``mypackage.fog``, ``fog:build``.
    ndim : int
        2 or 3.
    group_names : sequence of str
        Names of the synthesis groups, the first of which is the outside.
    options : mapping, optional
        Starting values and sizes; see the class in the module.

    Returns
    -------
    Augmentation

    Raises
    ------
    ConfigError
        If the name or an option is unknown, an option is out of range, or what another package
        builds is no augmentation.
    """
    build = _builder(name)
    options = dict(options or {})
    known = [key for key in inspect.signature(build).parameters if key not in _GIVEN]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(
            f"augmentation {name!r} has no option {unknown[0]!r}; "
            f"available: {', '.join(known) or 'none'}"
        )
    augmentation = build(ndim=ndim, group_names=group_names, **options)
    if not isinstance(augmentation, Augmentation):
        raise ConfigError(
            f"augmentation {name!r}: build returned {type(augmentation).__name__}, "
            "which is no subclass of l2s_pydra.augmentation.Augmentation"
        )
    return augmentation


def _builder(name: str) -> Callable[..., Any]:
    if is_plugin(name):
        return load_plugin(name, kind="augmentation")
    if name not in available():
        raise ConfigError(
            f"unknown augmentation {name!r}; available: {', '.join(available())}, "
            "or one of yours as PACKAGE.MODULE or MODULE:build"
        )
    build: Callable[..., Any] = importlib.import_module(f".{name}", __name__).build
    return build


_GIVEN = ("ndim", "group_names")
