"""A comparison of trainings as figures: overlap, paired differences, differences by structure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .canvas import new_figure, save_png

__all__ = ["difference_map", "dots_by_mode", "paired_dots"]

_BLUE, _ORANGE, _GREY, _INK, _LINE = "#0072b2", "#d55e00", "#767676", "#1b1f24", "#e3e7eb"
_PANEL_PX, _NAMES_PX, _ROW_PX, _MARGIN_PX = 330, 170, 46, 110
_PER_ROW = 3


def dots_by_mode(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    means: Mapping[str, Mapping[str, float]],
    path: str | Path,
    *,
    baseline: str,
) -> Path:
    """Draw the mean Dice of each training: a panel a contrast, a row a mode, a dot a seed.

    Parameters
    ----------
    values : mapping
        Contrast to mode to the values of its seeds.
    means : mapping
        Contrast to mode to the mean, drawn as a bar; NaN if there is none.
    path : str or Path
        PNG to write; its folder is made.
    baseline : str
        Mode whose mean is drawn through all rows.

    Returns
    -------
    Path
        ``path``.
    """
    modes = _modes(means)
    figure, panels = _panels(list(means), modes)
    every = [v for by in values.values() for dots in by.values() for v in dots]
    every += [v for by in means.values() for v in by.values() if math.isfinite(v)]
    for axes, contrast in panels:
        for row, mode in enumerate(modes):
            mean, color = means[contrast].get(mode, math.nan), _color(mode, baseline)
            dots = values.get(contrast, {}).get(mode, ())
            axes.plot(dots, _spread(row, len(dots)), "o", color=color, alpha=0.75, markersize=6)
            if math.isfinite(mean):
                axes.plot([mean, mean], [row - 0.28, row + 0.28], color=_INK, linewidth=2.4)
                _write(axes, mean, row, f"{mean:.3f}")
            else:
                _nothing(axes, row, "no result")
        level = means[contrast].get(baseline, math.nan)
        if math.isfinite(level):
            axes.axvline(level, color=_GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        _frame(axes, contrast, "mean Dice", _limits(every))
    return save_png(figure, path)


def paired_dots(
    differences: Mapping[str, Mapping[str, Sequence[float]]],
    intervals: Mapping[str, Mapping[str, tuple[float, float, float]]],
    path: str | Path,
) -> Path:
    """Draw the difference from the baseline of each participant, with mean and interval.

    Parameters
    ----------
    differences : mapping
        Contrast to mode to one difference a participant.
    intervals : mapping
        Contrast to mode to the mean and the ends of its 95 % interval; NaN where unknown.
    path : str or Path
        PNG to write; its folder is made.

    Returns
    -------
    Path
        ``path``.
    """
    modes = _modes(intervals)
    figure, panels = _panels(list(intervals), modes)
    every = [0.0, *(v for by in differences.values() for dots in by.values() for v in dots)]
    every += [v for by in intervals.values() for ends in by.values() for v in ends]
    limits = _limits([v for v in every if math.isfinite(v)])
    for axes, contrast in panels:
        axes.axvline(0, color=_INK, linewidth=1)
        for row, mode in enumerate(modes):
            dots = differences.get(contrast, {}).get(mode, ())
            mean, low, high = intervals[contrast].get(mode, (math.nan,) * 3)
            if not math.isfinite(mean):
                _nothing(axes, row, "not comparable")
                continue
            sure = math.isfinite(low) and not low <= 0 <= high
            color = _GREY if not sure else _BLUE if mean > 0 else _ORANGE
            if math.isfinite(low):
                axes.plot([low, high], [row, row], color=color, linewidth=5, alpha=0.45)
            axes.plot(dots, _spread(row, len(dots)), "o", color=color, alpha=0.8, markersize=5)
            axes.plot([mean, mean], [row - 0.28, row + 0.28], color=_INK, linewidth=2.4)
            _write(axes, mean, row, f"{mean:+.3f}".replace("-", "\N{MINUS SIGN}"))
        _frame(axes, contrast, "difference of the mean Dice", limits)
    return save_png(figure, path)


def difference_map(
    columns: Sequence[tuple[str, str]],
    structures: Sequence[str],
    differences: Mapping[tuple[str, str, str], float],
    path: str | Path,
) -> Path:
    """Draw differences by structure as a table of colours with the numbers in it.

    Parameters
    ----------
    columns : sequence of (str, str)
        Contrast and mode of each column.
    structures : sequence of str
        Names of the rows.
    differences : mapping
        Contrast, mode and structure to the difference of the mean Dice; what is missing stays
        empty. Purple is better than the baseline, orange worse.
    path : str or Path
        PNG to write; its folder is made.

    Returns
    -------
    Path
        ``path``.
    """
    table = np.array([[differences.get((*c, s), math.nan) for c in columns] for s in structures])
    known = np.abs(table[np.isfinite(table)])
    most = max(float(known.max()) if known.size else 0.0, 0.01)
    longest = max(len(name) for name in structures)
    width = 40 + 7.5 * longest + 62 * len(columns)
    figure = new_figure(max(width, 420), 150 + 25 * len(structures), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("#f4f6f8")
    axes.imshow(table, cmap="PuOr", vmin=-most, vmax=most, aspect="auto")
    for row, column in np.argwhere(np.isfinite(table)):
        value = table[row, column]
        ink = "white" if abs(value) > 0.6 * most else _INK
        text = f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
        axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=ink)
    axes.set_yticks(range(len(structures)), [_words(name) for name in structures], fontsize=9)
    names = [_words(mode) for _, mode in columns]
    axes.set_xticks(range(len(columns)), names, fontsize=9, rotation=35, ha="left")
    axes.tick_params(length=0, labeltop=True, labelbottom=False, top=False, bottom=False)
    _contrasts_above(axes, [contrast for contrast, _ in columns])
    axes.spines[:].set_visible(False)
    return save_png(figure, path)


def _contrasts_above(axes: Any, contrasts: Sequence[str]) -> None:
    """Name each contrast under its columns, and part it from the next."""
    for contrast in dict.fromkeys(contrasts):
        places = [i for i, name in enumerate(contrasts) if name == contrast]
        axes.annotate(
            contrast,
            (sum(places) / len(places), 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -8),
            textcoords="offset points",
            ha="center",
            va="top",
            fontweight="bold",
            annotation_clip=False,
        )
        if places[0]:
            axes.axvline(places[0] - 0.5, color="white", linewidth=5)


def _panels(contrasts: Sequence[str], modes: Sequence[str]) -> tuple[Any, list[tuple[Any, str]]]:
    """Make a figure with a panel for each contrast."""
    columns = min(len(contrasts), _PER_ROW)
    rows = -(-len(contrasts) // columns)
    height = rows * (_ROW_PX * len(modes) + _MARGIN_PX)
    width = _NAMES_PX + max(_PANEL_PX * columns, 480)
    figure = new_figure(width, height, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(contrasts) :]:
        axes.set_visible(False)
    for axes in grid:
        axes.set_yticks(range(len(modes)), [_words(mode) for mode in modes], fontsize=10)
        axes.set_ylim(len(modes) - 0.4, -0.75)
    return figure, list(zip(grid, contrasts, strict=False))


def _frame(axes: Any, title: str, label: str, limits: tuple[float, float]) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.set_xlabel(label)
    axes.set_xlim(limits)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color=_LINE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Range of all values with room for the numbers."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = max(0.12 * (high - low), 0.01)
    return low - margin, high + margin


def _spread(row: int, count: int) -> list[float]:
    """Heights of the dots of a row, so that equal ones stay apart."""
    return [row + 0.06 * ((3 * i) % 5 - 2) * (count > 1) for i in range(count)]


def _write(axes: Any, x: float, row: int, text: str) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text, (x, row - 0.32), xytext=(0, 1), textcoords="offset points", ha="center",
        va="bottom", fontsize=8.5, color=_INK,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )  # fmt: skip


def _nothing(axes: Any, row: int, text: str) -> None:
    axes.text(
        0.02, row, text, transform=axes.get_yaxis_transform(), va="center", color=_GREY,
        fontsize=9, fontstyle="italic",
    )  # fmt: skip


def _color(mode: str, baseline: str) -> str:
    return _GREY if mode == baseline else _BLUE


def _modes(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(mode for by in table.values() for mode in by))


def _words(name: str) -> str:
    return name.replace("_", " ")
