"""Values of many images, arranged for the page of a group."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from .charts import strip

__all__ = [
    "THRESHOLD",
    "ImageValue",
    "Unusual",
    "distributions",
    "matrix",
    "mean_over_images",
    "robust_center",
    "unusual_values",
]

THRESHOLD = 3.5
"""Robust standard deviations beyond which a value is unusual."""
_FEWEST = 5
# Of a normal distribution, the standard deviation over the median absolute deviation.
_MAD_TO_SD = 1.4826


@attrs.frozen
class ImageValue:
    """A number that belongs to one structure in one image."""

    name: str
    """Unique name of the image."""
    label: str
    """Name of the structure."""
    value: float
    """NaN where it is not defined."""

    @property
    def participant(self) -> str:
        """First part of the name, ``sub-<label>``."""
        return self.name.split("_")[0]

    @property
    def contrast(self) -> str:
        """Last part of the name, such as ``T1w``."""
        return self.name.rpartition("_")[2]


@attrs.frozen
class Unusual:
    """A value far from those of the other images."""

    name: str
    """Unique name of the image."""
    participant: str
    """``sub-<label>``."""
    label: str
    """Name of the structure."""
    value: float
    """The value."""
    median: float
    """Median over images."""
    deviations: float
    """Distance from the median in robust standard deviations."""


def robust_center(numbers: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """Median and robust standard deviation; None of fewer than five values, or without a spread.

    >>> robust_center(np.array([1.0, 2.0, 3.0, 4.0, 90.0]))
    (3.0, 1.4826)
    """
    if len(numbers) < _FEWEST:
        return None
    median = float(np.median(numbers))
    spread = _MAD_TO_SD * float(np.median(np.abs(numbers - median)))
    return (median, spread) if spread > 0 else None


def unusual_values(values: Sequence[ImageValue]) -> list[Unusual]:
    """Find values more than 3.5 robust standard deviations from the median of their structure.

    Images of different contrasts are not compared with one another.

    The robust standard deviation is 1.4826 times the median absolute deviation (Iglewicz and
    Hoaglin, How to Detect and Handle Outliers, 1993). Fewer than five images are not judged.

    Parameters
    ----------
    values : sequence of ImageValue
        One a structure and image.

    Returns
    -------
    list of Unusual
        The farthest first.
    """
    found = []
    for label, group in _by_label_and_contrast(values):
        center = robust_center(np.array([value.value for value in group]))
        if center is None:
            continue
        median, spread = center
        for value in group:
            deviations = (value.value - median) / spread
            if abs(deviations) > THRESHOLD:
                found.append(
                    Unusual(value.name, value.participant, label, value.value, median, deviations)
                )
    return sorted(found, key=lambda row: -abs(row.deviations))


def distributions(
    values: Sequence[ImageValue],
    *,
    scale: float = 1.0,
    limits: tuple[float, float] | None = None,
    decimals: int = 2,
) -> list[dict[str, Any]]:
    """Summarise each structure over the images, with a chart.

    Parameters
    ----------
    values : sequence of ImageValue
        One a structure and image; NaN are left out.
    scale : float, default=1
        Factor from the value to what is shown.
    limits : (float, float), optional
        Ends of all charts; those of each structure's values by default.
    decimals : int, default=2
        Decimals shown.

    Returns
    -------
    list of dict
        ``label``, ``n``, ``mean``, ``sd``, ``low``, ``high`` (text) and ``svg``, one a structure.
    """
    from markupsafe import Markup

    rows = []
    for label, group in _by_label(values).items():
        if not group:
            continue
        points = [(value.name, scale * value.value) for value in group]
        numbers = np.array([number for _, number in points])
        deviation = f"{numbers.std(ddof=1):.{decimals}f}" if len(numbers) > 1 else "n/a"
        texts = [f"{x:.{decimals}f}" for x in (numbers.mean(), numbers.min(), numbers.max())]
        rows.append(
            {
                "label": label,
                "n": len(numbers),
                "mean": texts[0],
                "sd": deviation,
                "low": texts[1],
                "high": texts[2],
                "svg": Markup(strip(points, limits=limits)),  # names are escaped in it
            }
        )
    return rows


def matrix(
    values: Sequence[ImageValue],
    *,
    scale: float = 1.0,
    decimals: int = 2,
    far: Mapping[tuple[str, str], str] | None = None,
    with_mean: bool = False,
) -> dict[str, Any]:
    """Arrange values as a table, an image a row, a structure a column.

    Parameters
    ----------
    values : sequence of ImageValue
        One a structure and image.
    scale : float, default=1
        Factor from the value to what is shown.
    decimals : int, default=2
        Decimals shown.
    far : mapping, optional
        Remark on the value of an image (name) and structure (label).
    with_mean : bool, default=False
        Put the mean over the structures first.

    Returns
    -------
    dict
        ``labels`` and ``rows``; a row has ``name``, ``participant`` and ``cells``, a cell
        ``value`` (to sort by; empty if not defined), ``text`` and ``far``.
    """
    remarks = far or {}
    labels = list(dict.fromkeys(value.label for value in values))
    table: dict[str, dict[str, float]] = {}
    for value in values:
        table.setdefault(value.name, {})[value.label] = scale * value.value
    rows = []
    for name, numbers in sorted(table.items()):
        cells = [
            _cell(numbers.get(label, math.nan), decimals, remarks.get((name, label)))
            for label in labels
        ]
        if with_mean:
            known = [number for number in numbers.values() if math.isfinite(number)]
            mean = sum(known) / len(known) if known else math.nan
            cells.insert(0, _cell(mean, decimals, None))
        rows.append({"name": name, "participant": name.split("_")[0], "cells": cells})
    return {"labels": ["mean", *labels] if with_mean else labels, "rows": rows}


def mean_over_images(values: Sequence[ImageValue]) -> tuple[float, int]:
    """Mean over images of the mean over structures, and the number of images that have one.

    >>> mean_over_images([ImageValue("a", "x", 0.8), ImageValue("a", "y", 0.6)])
    (0.7, 1)
    """
    by_image: dict[str, list[float]] = {}
    for value in values:
        if math.isfinite(value.value):
            by_image.setdefault(value.name, []).append(value.value)
    means = [sum(numbers) / len(numbers) for numbers in by_image.values()]
    return (sum(means) / len(means) if means else math.nan), len(means)


def _cell(number: float, decimals: int, remark: str | None) -> dict[str, Any]:
    if not math.isfinite(number):
        return {"value": "", "text": "n/a", "far": remark}
    return {"value": f"{number:.6g}", "text": f"{number:.{decimals}f}", "far": remark}


def _by_label_and_contrast(
    values: Sequence[ImageValue],
) -> Iterator[tuple[str, list[ImageValue]]]:
    for label, group in _by_label(values).items():
        for contrast in dict.fromkeys(value.contrast for value in group):
            yield label, [value for value in group if value.contrast == contrast]


def _by_label(values: Sequence[ImageValue]) -> dict[str, list[ImageValue]]:
    """Finite values of each structure, in the order met."""
    groups: dict[str, list[ImageValue]] = {}
    for value in values:
        group = groups.setdefault(value.label, [])
        if math.isfinite(value.value):
            group.append(value)
    return groups
