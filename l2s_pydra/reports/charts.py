"""Small charts that are part of a page: SVG, without text, described for screen readers."""

from collections.abc import Sequence
from html import escape

import numpy as np

__all__ = ["strip"]

_WIDTH, _HEIGHT, _PAD = 400, 30, 6
_MOST_DOTS = 300
_BLUE, _INK, _BOX, _ORANGE = "#0072b2", "#1b1f24", "#dfe8ef", "#e69f00"
_MARK = 8


def strip(
    points: Sequence[tuple[str, float]],
    *,
    limits: tuple[float, float] | None = None,
    mark: float | None = None,
) -> str:
    """Draw values as dots on a line, with their quartiles as a box and their median.

    Parameters
    ----------
    points : sequence of (str, float)
        Name and value; the name shows when the dot is pointed at. Of more than 300 points only
        those outside the box are drawn.
    limits : (float, float), optional
        Values at the left and right end; those of the data, and of the mark, by default.
    mark : float, optional
        Value to point out by a diamond.

    Returns
    -------
    str
        An SVG element; the empty string without points.
    """
    if not points:
        return ""
    values = np.array([value for _, value in points])
    ends = values if mark is None else np.append(values, mark)
    low, high = limits or (float(ends.min()), float(ends.max()))
    first, median, third = (float(v) for v in np.percentile(values, (25, 50, 75)))

    def x(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(_PAD + share * (_WIDTH - 2 * _PAD), 1)

    middle = _HEIGHT / 2
    parts = [
        f'<line x1="{_PAD}" y1="{middle}" x2="{_WIDTH - _PAD}" y2="{middle}" stroke="#d5dae0"/>',
        f'<rect x="{x(first)}" y="5" width="{max(1.0, round(x(third) - x(first), 1))}" '
        f'height="{_HEIGHT - 10}" fill="{_BOX}" stroke="#7d8a97" rx="2"/>',
    ]
    parts += _dots(points, (first, third), x)
    parts.append(
        f'<line x1="{x(median)}" y1="3" x2="{x(median)}" y2="{_HEIGHT - 3}" '
        f'stroke="{_INK}" stroke-width="2.5"/>'
    )
    described = (
        f"{len(points)} values, median {median:.4g}, middle half from {first:.4g} to {third:.4g}"
    )
    if mark is not None:
        center = max(_MARK, min(_WIDTH - _MARK, x(mark)))
        shape = f"{center},{middle - _MARK} {center + _MARK},{middle} {center},{middle + _MARK} "
        parts.append(
            f'<polygon points="{shape}{center - _MARK},{middle}" fill="{_ORANGE}" '
            f'stroke="{_INK}" stroke-width="1.5"/>'
        )
        described += f"; this one {mark:.4g}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{described}">{"".join(parts)}</svg>'
    )


def _dots(points: Sequence[tuple[str, float]], box: tuple[float, float], x: object) -> list[str]:
    """One circle a point, moved up or down by its number so that equal values stay apart."""
    assert callable(x)
    drawn = points
    if len(points) > _MOST_DOTS:
        drawn = [point for point in points if not box[0] <= point[1] <= box[1]]
    return [
        f'<circle cx="{x(value)}" cy="{_HEIGHT / 2 + 2.5 * ((number * 3) % 5 - 2)}" r="3.2" '
        f'fill="{_BLUE}" fill-opacity="0.7"><title>{escape(name)}: {value:.4g}</title></circle>'
        for number, (name, value) in enumerate(drawn)
    ]
