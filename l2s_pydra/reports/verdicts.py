"""Which learned values the data determine, in words and as a map of correlations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .canvas import new_figure, save_png

__all__ = ["correlation_map", "learned_verdicts"]

_MOST_SHOWN = 40
_MOST_PARTNERS = 3
_INK = "#1b1f24"
_VERDICTS = {
    "determined": "determined",
    "partly": "determined in part:",
    "together": "only together",
    "pushed": "pushed by the data, not settled when training ended",
    "unmoved": "hardly moved by the data",
    "unknown": "too few steps to tell",
}


_BETWEEN = {
    "partly": " trades off with",
    "together": " with",
    "pushed": "; trades off with",
    "unmoved": ", nor is what it trades off with:",
    "unknown": "; trades off with",
}


def learned_verdicts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put ``identifiability.json`` into words.

    Parameters
    ----------
    facts : mapping
        What :func:`l2s_pydra.bilevel.identifiability.identifiability` returns.

    Returns
    -------
    dict
        ``summary`` and ``directions`` (sentences; ``directions`` may be empty), ``rows``, each with
        ``name``, ``value``, ``wander``, ``push``, ``hold``, ``verdict`` (words) and ``kind`` (one
        word), and the criteria ``steps``, ``threshold``, ``least``, ``pushed`` and ``held``.
    """
    rows = [
        {
            **{key: row.get(key) for key in ("name", "value", "wander")},
            **{key: _statistic(row.get(key)) for key in ("push", "hold")},
            "verdict": _in_words(row),
            "kind": row["verdict"],
        }
        for row in facts["values"]
    ]
    kinds = [row["verdict"] for row in facts["values"]]
    return {
        "summary": _summary(kinds, facts["steps"]),
        "directions": _directions(facts.get("spectrum")),
        "rows": rows,
        "steps": facts["steps"],
        "threshold": facts["threshold"],
        "least": facts.get("least_correlation"),
        "pushed": facts["pushed"],
        "held": facts["held"],
    }


def correlation_map(facts: Mapping[str, Any], path: str | Path) -> Path | None:
    """Draw the correlations of the gradients as a map, values that trade off side by side.

    Parameters
    ----------
    facts : mapping
        What :func:`l2s_pydra.bilevel.identifiability.identifiability` returns. Of more than 40
        values those with the largest correlations are drawn.
    path : str or Path
        PNG to write; its folder is made.

    Returns
    -------
    Path or None
        ``path``; None, and no file, with fewer than two values.
    """
    known = facts.get("correlation") or {"names": [], "matrix": []}
    if len(known["names"]) < 2:
        return None
    matrix = np.array(known["matrix"], dtype=np.float64)
    order = _order(known["names"], matrix, facts.get("groups") or [])
    names = [known["names"][i].replace("_", " ") for i in order]
    matrix = matrix[np.ix_(order, order)]
    numbers = len(names) <= 14
    cell = 46 if numbers else 20
    labels = 7.5 * max(len(name) for name in names)
    figure = new_figure(
        cell * len(names) + labels + 130,
        cell * len(names) + 0.75 * labels + 60,
        layout="constrained",
    )
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap="PuOr", vmin=-1, vmax=1)
    if numbers:
        for row, column in np.ndindex(*matrix.shape):
            value = matrix[row, column]
            ink = "white" if abs(value) > 0.6 else _INK
            text = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
            axes.text(column, row, text, ha="center", va="center", fontsize=8.5, color=ink)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_xticks(range(len(names)), names, fontsize=9, rotation=50, ha="left")
    axes.tick_params(length=0, labeltop=True, labelbottom=False, top=False, bottom=False)
    axes.spines[:].set_visible(False)
    _outline_groups(axes, [known["names"][i] for i in order], facts.get("groups") or [])
    bar = figure.colorbar(image, ax=axes, shrink=0.6, label="correlation of the gradients")
    bar.outline.set_visible(False)
    return save_png(figure, path)


def _order(names: Sequence[str], matrix: Any, groups: Sequence[Sequence[str]]) -> list[int]:
    """Put groups first, then the other values; leave out the least correlated ones."""
    first = [names.index(name) for group in groups for name in group]
    strongest = (np.abs(matrix) - np.eye(len(names))).max(axis=1)
    others = [i for i in range(len(names)) if i not in first]
    kept = set(sorted(others, key=lambda i: -strongest[i])[: max(0, _MOST_SHOWN - len(first))])
    return [*first, *(i for i in others if i in kept)][:_MOST_SHOWN]


def _outline_groups(axes: Any, names: Sequence[str], groups: Sequence[Sequence[str]]) -> None:
    from matplotlib.patches import Rectangle

    for group in groups:
        places = [names.index(name) for name in group if name in names]
        if len(places) > 1:
            corner, side = min(places) - 0.5, len(places)
            axes.add_patch(
                Rectangle((corner, corner), side, side, fill=False, edgecolor=_INK, linewidth=2)
            )


def _in_words(row: Mapping[str, Any]) -> str:
    """Verdict on one value."""
    words = _VERDICTS[row["verdict"]]
    if row["partners"]:
        words += f"{_BETWEEN[row['verdict']]} {_partners(row['partners'])}"
    if row.get("of"):
        words += f" (follows from {', '.join(_words(name) for name in row['of'])})"
    if row.get("moving") and row["verdict"] not in ("unmoved", "pushed"):
        words += "; still moving when training ended"
    return words


def _partners(partners: Sequence[Mapping[str, Any]]) -> str:
    """Name the closest partners and count the others."""
    names = [f"{_words(p['name'])} ({_signed(p['correlation'])})" for p in partners]
    rest = len(names) - _MOST_PARTNERS
    return ", ".join(names[:_MOST_PARTNERS]) + (f" and {rest} more" if rest > 0 else "")


def _summary(kinds: Sequence[str], steps: int) -> str:
    """Count the verdicts in a sentence."""
    if all(kind == "unknown" for kind in kinds):
        return (
            f"From {steps} gradients it cannot be told which values are determined: there are too "
            "few, or they are of a network, whose parameters mean nothing one by one."
        )
    count = {kind: kinds.count(kind) for kind in _VERDICTS}
    parts = [
        f"{count['determined']} of {len(kinds)} values are determined by the data",
        f"{count['partly']} in part" if count["partly"] else "",
        f"{count['together']} only together with others" if count["together"] else "",
        f"{count['pushed']} pushed, not settled when training ended" if count["pushed"] else "",
        f"{count['unmoved']} hardly moved" if count["unmoved"] else "",
    ]
    return f"Judged from {steps} gradients: {', '.join(part for part in parts if part)}."


def _directions(spectrum: Mapping[str, Any] | None) -> str:
    """Say how many combinations are determined, and which are not."""
    if not spectrum:
        return ""
    condition = spectrum["condition"]
    ratio = "more than 10\u202f000" if condition > 1e4 else f"{condition:.3g}"
    text = (
        f"The gradients tell {spectrum['determined']} of {spectrum['directions']} combinations of "
        f"the values apart; the best holds {ratio} times the information of the worst."
    )
    flat = [
        ", ".join(f"{_words(m['name'])} ({_signed(m['weight'])})" for m in direction["members"])
        for direction in spectrum["flat"][:_MOST_PARTNERS]
    ]
    more = len(spectrum["flat"]) - len(flat)
    if flat:
        text += f" Not told apart: {'; '.join(flat)}{f'; and {more} more' if more > 0 else ''}."
    return text


def _statistic(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}".replace("-", "\N{MINUS SIGN}")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _words(name: str) -> str:
    return name.replace("_", " ")
