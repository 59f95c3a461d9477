"""Small charts that are part of a page: SVG, without text, described for screen readers."""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

__all__ = ["box", "strip"]

_WIDTH, _HEIGHT, _PAD = 400, 30, 6
_MIDDLE = _HEIGHT / 2
_MOST_DOTS = 300
_BLUE, _INK, _GREY, _BOX, _ORANGE = "#0072b2", "#1b1f24", "#7d8a97", "#dfe8ef", "#e69f00"
_MARK = 8
_Axis = Callable[[float], float]


def strip(points: Sequence[tuple[str, float]], *, limits: tuple[float, float] | None = None) -> str:
    """Draw values as dots on a line, with their quartiles as a box and their median.

    Parameters
    ----------
    points : sequence of (str, float)
        Name and value; the name shows when the dot is pointed at. Of more than 300 points only
        those outside the box are drawn.
    limits : (float, float), optional
        Values at the left and right end; those of the data by default.

    Returns
    -------
    str
        An SVG element; the empty string without points.
    """
    if not points:
        return ""
    values = np.array([value for _, value in points])
    x = _axis(*(limits or (float(values.min()), float(values.max()))))
    first, median, third = (float(v) for v in np.percentile(values, (25, 50, 75)))
    dots = _dots(points, (first, third), x)
    described = (
        f"{len(points)} values, median {median:.4g}, middle half from {first:.4g} to {third:.4g}"
    )
    return _svg([*_quartiles(first, third, x), *dots, _median(median, x)], described)


def box(five: Sequence[float], *, n: int, mark: float) -> str:
    """Draw the range of values as a line, their quartiles as a box, and one value as a diamond.

    Parameters
    ----------
    five : sequence of float
        Smallest value, quartiles and largest value, in this order.
    n : int
        Number of values, for the description.
    mark : float
        Value to point out.

    Returns
    -------
    str
        An SVG element, of the same size for any number of values.
    """
    low, first, median, third, high = five
    x = _axis(min(low, mark), max(high, mark))
    ends = [
        f'<line x1="{x(a)}" y1="{y1:g}" x2="{x(b)}" y2="{y2:g}" stroke="{_GREY}" '
        f'stroke-width="1.5"/>'
        for a, b, y1, y2 in (
            (low, high, _MIDDLE, _MIDDLE),
            (low, low, _MIDDLE - 5, _MIDDLE + 5),
            (high, high, _MIDDLE - 5, _MIDDLE + 5),
        )
    ]
    center = max(_MARK, min(_WIDTH - _MARK, x(mark)))
    shape = f"{center},{_MIDDLE - _MARK} {center + _MARK},{_MIDDLE} {center},{_MIDDLE + _MARK} "
    diamond = (
        f'<polygon points="{shape}{center - _MARK},{_MIDDLE}" fill="{_ORANGE}" '
        f'stroke="{_INK}" stroke-width="1.5"/>'
    )
    described = (
        f"{n} values from {low:.4g} to {high:.4g}, median {median:.4g}, "
        f"middle half from {first:.4g} to {third:.4g}; this one {mark:.4g}"
    )
    line, middle_half = _quartiles(first, third, x)
    parts = [line, *ends, middle_half, _median(median, x), diamond]
    return _svg(parts, described)


def _axis(low: float, high: float) -> _Axis:
    """Place of a value on the line."""

    def x(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(_PAD + share * (_WIDTH - 2 * _PAD), 1)

    return x


def _quartiles(first: float, third: float, x: _Axis) -> list[str]:
    """Line over the whole width, and the box of the middle half."""
    return [
        f'<line x1="{_PAD}" y1="{_MIDDLE}" x2="{_WIDTH - _PAD}" y2="{_MIDDLE}" stroke="#d5dae0"/>',
        f'<rect x="{x(first)}" y="5" width="{max(1.0, round(x(third) - x(first), 1))}" '
        f'height="{_HEIGHT - 10}" fill="{_BOX}" stroke="{_GREY}" rx="2"/>',
    ]


def _median(median: float, x: _Axis) -> str:
    return (
        f'<line x1="{x(median)}" y1="3" x2="{x(median)}" y2="{_HEIGHT - 3}" '
        f'stroke="{_INK}" stroke-width="2.5"/>'
    )


def _svg(parts: Sequence[str], described: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{described}">{"".join(parts)}</svg>'
    )


def _dots(points: Sequence[tuple[str, float]], middle: tuple[float, float], x: _Axis) -> list[str]:
    """One circle a point, moved up or down by its number so that equal values stay apart."""
    drawn = points
    if len(points) > _MOST_DOTS:
        drawn = [point for point in points if not middle[0] <= point[1] <= middle[1]]
    return [
        f'<circle cx="{x(value)}" cy="{_MIDDLE + 2.5 * ((number * 3) % 5 - 2)}" r="3.2" '
        f'fill="{_BLUE}" fill-opacity="0.7"><title>{escape(name)}: {value:.4g}</title></circle>'
        for number, (name, value) in enumerate(drawn)
    ]
