"""Parts of other packages that settings name: where they are, and which version of them it was.

A setting names such a part as ``PACKAGE.MODULE``, or ``MODULE:FUNCTION`` if its function is not called
``build``. The module must be importable: installed, or in a folder of ``PYTHONPATH``. Settings keep
a checksum of its source, so that results of another version of it are not taken for its own.
"""

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ConfigError

__all__ = ["is_plugin", "load_plugin", "plugin_code"]


def is_plugin(name: str) -> bool:
    """Whether a name is where something is to be imported from, rather than a name of ours.

    Examples
    --------
    >>> [is_plugin(name) for name in ("noise_bias", "mypackage.fog", "fog:build")]
    [False, True, True]
    """
    return "." in name or ":" in name


def plugin_code(name: str, *, kind: str = "part") -> str:
    """Return ``name@checksum``: what is to be imported, and the SHA-256 of the file it is in.

    The packages above the module are imported, the module itself is not.

    Parameters
    ----------
    name : str
        ``PACKAGE.MODULE`` or ``MODULE:FUNCTION``.
    kind : str, default="part"
        What it is, for messages.

    Raises
    ------
    ConfigError
        If there is no such module, or no source of it.

    Examples
    --------
    >>> plugin_code("l2s_pydra.errors")[:21]
    'l2s_pydra.errors@sha2'
    """
    module = _split(name)[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise _missing(name, kind, str(error)) from error
    if spec is None:
        raise _missing(name, kind, f"No module named {module!r}")
    source = Path(spec.origin or "")
    if not source.is_file():
        raise _missing(name, kind, f"{module!r} is a folder without __init__.py")
    return f"{name}@sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}"


def load_plugin(name: str, *, kind: str = "part") -> Callable[..., Any]:
    """Import what a name means.

    Parameters
    ----------
    name : str
        ``PACKAGE.MODULE``, of which the function ``build`` is taken, or ``MODULE:FUNCTION``.
    kind : str, default="part"
        What it is, for messages.

    Raises
    ------
    ConfigError
        If it cannot be imported, or has no such function.
    """
    module, attribute = _split(name)
    try:
        found = importlib.import_module(module)
    except (ImportError, TypeError) as error:
        raise _missing(name, kind, str(error)) from error
    function: Callable[..., Any] | None = getattr(found, attribute, None)
    if not callable(function):
        raise ConfigError(
            f"{kind} {name!r}: {module} has no function {attribute!r}; "
            f"define it, or name another as {module}:FUNCTION"
        )
    return function


def _split(name: str) -> tuple[str, str]:
    module, _, attribute = name.partition(":")
    return module, attribute or "build"


def _missing(name: str, kind: str, why: str) -> ConfigError:
    return ConfigError(
        f"{kind} {name!r} cannot be imported ({why}); "
        "install its package, or add its folder to PYTHONPATH"
    )
