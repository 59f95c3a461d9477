"""Checks of what tasks are given, where the type does not say it all.

Pydra checks an input when a task is made. In a workflow it may not be known yet, or be one of many
that a node is split over.
"""

from collections.abc import Callable
from typing import Any

import attrs

from ..errors import ConfigError

__all__ = ["at_least", "known_device", "one_of", "share"]

Check = Callable[[Any, Any, Any], None]


def at_least(lowest: float) -> Check:
    """Return a check that a number, if there is one, is not below ``lowest``.

    Examples
    --------
    >>> from attrs import fields, make_class
    >>> field = fields(make_class("Task", ["count"])).count
    >>> at_least(1)(None, field, 0)
    Traceback (most recent call last):
        ...
    l2s_pydra.errors.ConfigError: count must be at least 1, not 0
    """

    def check(task: Any, field: Any, value: Any) -> None:
        for number in _known(value):
            if number is not None and not number >= lowest:
                raise ConfigError(f"{field.name} must be at least {lowest:g}, not {number!r}")

    return check


def one_of(*allowed: str) -> Check:
    """Return a check that a word, or each of a list, is among ``allowed``."""

    def check(task: Any, field: Any, value: Any) -> None:
        for given in _known(value):
            for word in given if isinstance(given, list | tuple) else [given]:
                if word not in allowed:
                    raise ConfigError(
                        f"{field.name}: {word!r} is unknown; available: "
                        f"{', '.join(map(repr, allowed))}"
                    )

    return check


def share(task: Any, field: Any, value: Any) -> None:
    """Check that a share, if there is one, is in [0, 1].

    Raises
    ------
    ConfigError
        If it is not.
    """
    for number in _known(value):
        if number is not None and not 0 <= number <= 1:
            raise ConfigError(f"{field.name} must be between 0 and 1, not {number!r}")


def known_device(owner: Any, field: Any, value: str) -> None:
    """Check that a device is ``auto``, ``cpu``, ``cuda`` or ``cuda:n``.

    Raises
    ------
    ConfigError
        If it is not.
    """
    kind, colon, number = value.partition(":")
    if value not in ("auto", "cpu", "cuda") and not (
        kind == "cuda" and colon and number.isdecimal()
    ):
        raise ConfigError(
            f"{field.name}: {value!r} is unknown; available: 'auto', 'cpu', 'cuda', 'cuda:0' and so on"
        )


def _known(value: Any) -> list[Any]:
    """Values that are known already: none of a lazy one, each that a node is split over."""
    from pydra.utils.typing import StateArray, is_lazy

    if value is attrs.NOTHING or is_lazy(value):
        return []
    return list(value) if isinstance(value, StateArray) else [value]
