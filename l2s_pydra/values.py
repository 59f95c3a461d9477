"""What values settings may have: converters and validators of attrs fields."""

import re
from collections.abc import Mapping
from typing import Any

from attrs import validators

__all__ = [
    "check_names",
    "count",
    "level_pair",
    "pair",
    "positive",
    "positive_or_none",
    "prior_table",
    "share",
    "sides",
    "theta_table",
]

positive: Any = validators.gt(0)
"""Validator of numbers above 0."""
positive_or_none: Any = validators.optional(positive)
"""Validator of settings that are numbers above 0 or not given."""
share: Any = validators.and_(validators.ge(0), validators.le(1))
"""Validator of shares and probabilities, in [0, 1]."""


def count(_: Any, field: Any, value: Any) -> None:
    """Validate a whole number above 0.

    Raises
    ------
    ValueError
        If it is not one.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{field.name!r} must be a whole number above 0, not {value}")


def pair(value: Any) -> tuple[float, float]:
    """Convert a range to two numbers, low and high.

    Raises
    ------
    ValueError
        If it is not a range.

    Examples
    --------
    >>> pair([0, 1])
    (0.0, 1.0)
    """
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not low <= high:
        raise ValueError(f"a range is given as two numbers, low and high, not as {value}")
    return low, high


def level_pair(value: Any) -> tuple[float, float]:
    """Convert a range of intensities or of standard deviations.

    Raises
    ------
    ValueError
        If it is not a range, or reaches below 0.
    """
    low, high = pair(value)
    if low < 0:
        raise ValueError(f"intensities and standard deviations are not negative, as in {value}")
    return low, high


def prior_table(value: Any) -> dict[str, tuple[float, float, float, float]]:
    """Convert priors of groups: name to mean and standard deviation of its mean, and of its std.

    Raises
    ------
    ValueError
        If a prior is not four finite numbers from 0 on.
    """
    table = {}
    for name, numbers in dict(value).items():
        found = tuple(float(number) for number in numbers)
        if len(found) != 4 or not all(0 <= number < float("inf") for number in found):
            raise ValueError(
                f"the prior of {name!r} is given as four numbers from 0 on (mean and standard "
                f"deviation of its mean and of its standard deviation), not as {numbers}"
            )
        table[str(name)] = found
    return table  # type: ignore[return-value]


def theta_table(value: Any) -> dict[str, float] | None:
    """Convert values of theta, by name, or the contents of ``theta.json``; none are kept.

    Raises
    ------
    ValueError
        If a value is not a finite number.
    """
    if value is None:
        return None
    values = dict(value)
    if isinstance(values.get("average"), Mapping):
        values = dict(values["average"])
    table = {str(name): float(number) for name, number in values.items()}
    for name, number in table.items():
        if not abs(number) < float("inf"):
            raise ValueError(f"the value of {name!r} is to be a finite number, not {number}")
    return table


def sides(value: Any) -> tuple[int, ...] | None:
    """Convert the size of a crop, voxels; none is kept.

    Raises
    ------
    ValueError
        If it is not 2 or 3 whole numbers above 0.
    """
    if value is None:
        return None
    found = tuple(value)
    if len(found) not in (2, 3) or not all(isinstance(n, int) and n > 0 for n in found):
        raise ValueError(f"a crop is given as 2 or 3 whole numbers above 0, not as {value}")
    return found


def check_names(config: Mapping[str, Any]) -> None:
    """Check what names files: the name of a model, and that of its set of labels.

    Parameters
    ----------
    config : mapping
        Contents of the ``config.json`` of a model.

    Raises
    ------
    ValueError
        If one could lead out of a folder, or cannot be part of a file name of BIDS.
    """
    for key, pattern, words in (
        ("name", r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}", "letters, digits, '-', '_' and '.'"),
        ("segmentation", r"[a-zA-Z0-9+]{1,99}", "letters and digits"),
    ):
        value = config[key]
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"{key} {str(value)[:100]!r} is not made of {words} only")
