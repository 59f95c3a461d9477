"""Training as figures: losses, validation, and what the augmentation learned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .canvas import new_figure, save_png
from .tables import read_columns

__all__ = ["learned_values", "theta_over_time", "training_curves"]

_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#767676"
_INK, _FAINT = "#1a1a1a", "#d9d9d9"
_QUANTITIES = (_BLUE, _ORANGE, _GREEN, _PURPLE)
_THETA = "theta/"
_COLUMNS = 6
_Numbers = npt.NDArray[np.float64]


def training_curves(table: str | Path, path: str | Path, *, width_px: int = 1400) -> Path:
    """Draw the losses, the validation Dice and the norms of both gradients over the steps.

    Parameters
    ----------
    table : str or Path
        ``training.tsv`` with the columns ``step``, ``synthetic_loss``, ``real_loss``,
        ``gradient_norm``, ``theta_gradient_norm`` and ``validation_dice``; ``n/a`` where a
        quantity was not measured.
    path : str or Path
        PNG to write.
    width_px : int, default=1400
        Width of the figure, pixels.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    DatasetError
        If the table cannot be read, lacks a column or has no row.
    """
    names = ("synthetic_loss", "real_loss", "gradient_norm", "theta_gradient_norm")
    columns = read_columns(table, ("step", "validation_dice", *names))
    steps = columns["step"]
    figure = new_figure(width_px, 380, layout="constrained")
    loss, dice, norms = figure.subplots(1, 3)
    _smooth_line(loss, steps, columns["synthetic_loss"], _BLUE, "synthetic images")
    _smooth_line(loss, steps, columns["real_loss"], _ORANGE, "real images")
    _validation(dice, steps, columns["validation_dice"])
    _smooth_line(norms, steps, columns["gradient_norm"], _BLUE, "segmenter")
    _smooth_line(norms, steps, columns["theta_gradient_norm"], _ORANGE, "augmentation")
    norms.set_yscale("log", nonpositive="mask")
    for axes, title in ((loss, "Loss"), (dice, "Validation Dice"), (norms, "Gradient norm")):
        _dress(axes, title)
        axes.set_xlabel("step")
    return save_png(figure, path)


def theta_over_time(table: str | Path, path: str | Path, *, width_px: int = 1400) -> Path | None:
    """Draw what the augmentation learned, over the steps, as small multiples.

    Quantities named ``<quantity>/<group>`` (mean and spread of the thalamus, say) share the panel
    of their group, and all groups one scale; any other quantity has a panel of its own. The
    numbers are the last values (the highest and the lowest, if a panel has more than two lines).

    Parameters
    ----------
    table : str or Path
        ``training.tsv``; the columns ``theta/<name>`` are drawn, in physical units.
    path : str or Path
        PNG to write.
    width_px : int, default=1400
        Width of the figure, pixels.

    Returns
    -------
    Path or None
        ``path``; None, and no file, if the table has no such column with a value.

    Raises
    ------
    DatasetError
        If the table cannot be read, lacks the column ``step`` or has no row.
    """
    columns = read_columns(table, ("step",))
    theta = {
        name.removeprefix(_THETA): values
        for name, values in columns.items()
        if name.startswith(_THETA) and np.isfinite(values).any()
    }
    if not theta:
        return None
    panels = _panels(theta)
    rows = -(-len(panels) // _COLUMNS)
    figure = new_figure(width_px, 165 * rows + 70, layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).ravel()
    limits = _limits([v for title, lines in panels if len(lines) > 1 for v in lines.values()])
    quantities = _colors(theta)
    for axes, (title, lines) in zip(grid, panels, strict=False):
        for quantity, values in lines.items():
            _line(axes, columns["step"], values, quantities.get(quantity, _GREY))
        _last_values(axes)
        _dress(axes, title)
        if len(lines) > 1:
            axes.set_ylim(limits)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(panels) - _COLUMNS) : len(panels)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    _legend(figure, quantities)
    return save_png(figure, path)


def learned_values(
    theta: Mapping[str, Mapping[str, float]], path: str | Path, *, width_px: int = 1400
) -> Path | None:
    """Draw each learned value beside the one training started from.

    Parameters
    ----------
    theta : mapping
        ``start``, ``average`` and ``final``, each a mapping of name to value, as in
        ``theta.json``; the average over the last iterates is drawn (the final value without it).
    path : str or Path
        PNG to write.
    width_px : int, default=1400
        Width of the figure, pixels.

    Returns
    -------
    Path or None
        ``path``; None, and no file, if there is no value.
    """
    learned = theta.get("average") or theta.get("final") or {}
    if not learned:
        return None
    start = theta.get("start") or {}
    blocks: dict[str, list[str]] = {}
    for name in learned:
        quantity, _, group = name.rpartition("/")
        blocks.setdefault(quantity, []).append(group)
    longest = max(len(groups) for groups in blocks.values())
    figure = new_figure(width_px, 24 * longest + 110, layout="constrained")
    columns = figure.subplots(1, len(blocks), squeeze=False)[0]
    for axes, (quantity, groups) in zip(columns, blocks.items(), strict=True):
        names = [f"{quantity}/{group}" if quantity else group for group in groups]
        _dots(axes, groups, [start.get(n, np.nan) for n in names], [learned[n] for n in names])
        _dress(axes, quantity.replace("_", " ") or "other values")
        axes.set_ylim(longest - 0.5, -0.5)
    columns[0].legend(loc="lower left", bbox_to_anchor=(0, 1.06), ncols=2, frameon=False)
    return save_png(figure, path)


def _panels(theta: Mapping[str, _Numbers]) -> list[tuple[str, dict[str, _Numbers]]]:
    """Title of each panel and its lines, by quantity; groups first."""
    groups: dict[str, dict[str, _Numbers]] = {}
    single: list[tuple[str, dict[str, _Numbers]]] = []
    for name, values in theta.items():
        quantity, _, group = name.rpartition("/")
        if quantity:
            groups.setdefault(group, {})[quantity] = values
        else:
            single.append((name.replace("_", " "), {name: values}))
    return [(group.replace("_", " "), lines) for group, lines in groups.items()] + single


def _colors(theta: Mapping[str, _Numbers]) -> dict[str, str]:
    """Colour of each quantity that several groups have."""
    quantities = dict.fromkeys(name.rpartition("/")[0] for name in theta if "/" in name)
    return {
        quantity: _QUANTITIES[number % len(_QUANTITIES)]
        for number, quantity in enumerate(quantities)
    }


def _limits(lines: Sequence[_Numbers]) -> tuple[float, float]:
    """Find the common range of all lines and 0."""
    values = np.concatenate([[0.0], *lines])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.16 * (high - low) + 1e-6
    return low - margin, high + margin


def _line(axes: Any, steps: _Numbers, values: _Numbers, color: str) -> None:
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    axes.plot(steps, values, color=color, linewidth=1.6)
    axes.plot(steps[-1], values[-1], "o", color=color, markersize=3.5)


def _last_values(axes: Any) -> None:
    """Write the last value above the highest line of a panel and below the lowest."""
    ends = sorted(((line.get_ydata()[-1], line) for line in axes.lines[1::2]), key=lambda e: e[0])
    for place, (value, line) in {1: ends[-1], -1: ends[0]}.items():
        if place == -1 and len(ends) == 1:
            return
        axes.annotate(
            f"{value:.3g}",
            (line.get_xdata()[-1], value),
            xytext=(2, 4 * place),
            textcoords="offset points",
            ha="right",
            va="bottom" if place == 1 else "top",
            color=line.get_color(),
            fontsize=8,
        )


def _smooth_line(axes: Any, steps: _Numbers, values: _Numbers, color: str, name: str) -> None:
    """Faint measurements and their running mean; nothing where nothing was measured."""
    known = np.isfinite(values)
    if not known.any():
        return
    steps, values = steps[known], values[known]
    axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    axes.plot(steps, _running_mean(values), color=color, linewidth=1.8, label=name)
    axes.legend(frameon=False, fontsize=9)


def _running_mean(values: _Numbers) -> _Numbers:
    """Mean over a fortieth of the series around each entry, shorter at the ends."""
    half = len(values) // 80
    total = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, len(values))
    mean: _Numbers = (total[high] - total[low]) / (high - low)
    return mean


def _validation(axes: Any, steps: _Numbers, dice: _Numbers) -> None:
    """Measured points and the best of them."""
    known = np.flatnonzero(np.isfinite(dice))
    if known.size == 0:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color=_GREY)
        return
    axes.plot(steps[known], dice[known], "o-", color=_GREEN, linewidth=1.6, markersize=4)
    best = known[np.argmax(dice[known])]
    axes.plot(steps[best], dice[best], "o", color="none", markeredgecolor=_INK, markersize=10)
    axes.set_title(
        f"best {dice[best]:.3f} at step {steps[best]:.0f}", loc="right", fontsize=9, color=_INK
    )


def _dots(axes: Any, groups: Sequence[str], start: Sequence[float], end: Sequence[float]) -> None:
    """One row a group: hollow where it started, filled where it arrived."""
    rows = np.arange(len(groups))
    axes.hlines(rows, start, end, color=_GREY, linewidth=1)
    axes.plot(start, rows, "o", color="white", markeredgecolor=_GREY, label="start")
    axes.plot(end, rows, "o", color=_BLUE, label="learned")
    axes.set_yticks(rows, [group.replace("_", " ") for group in groups], fontsize=9)


def _dress(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=_INK)
    axes.locator_params(axis="x", nbins=4)


def _legend(figure: Any, quantities: Mapping[str, str]) -> None:
    """Name the quantities above the panels."""
    if not quantities:
        return
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[
            Line2D([], [], color=color, label=quantity.replace("_", " "))
            for quantity, color in quantities.items()
        ],
        loc="outside upper left",
        ncols=len(quantities),
        frameon=False,
    )
