r"""Which of the learned values the data determine, told from the gradients of theta.

Two parameters that act on images alike have gradients in proportion in every step: their
correlation over steps is 1 or -1, and only a combination of the two is determined. The covariance of
the gradients is, up to scale, the Fisher information of theta as far as it can be had without a
second derivative; of standardised parameters it is the correlation matrix, whose small eigenvalues
are the directions in which theta may move without being noticed (Belsley, Kuh and Welsch,
Regression Diagnostics, 1980, chapter 3).

* Differences of successive gradients are correlated, not the gradients: while the segmenter learns,
  all gradients shrink together, which is no trade-off. White noise stays so; the variance of a
  correlation grows to 1.5 / N.
* A step whose gradients are much longer than the median is shortened, so that no single one decides,
  and an effective number of steps N stands for what the long ones leave of the others.
* A pair is marked from :data:`THRESHOLD` = 0.7 on: each explains half of the variance of the other's
  gradient, and of their two combinations the less well determined one has
  sqrt((1 + r) / (1 - r)) = 2.4 times the standard error of the other. It must also be beyond what one pair of 100 such matrices of independent
  parameters reaches (Bonferroni). All values that change how hard an image is have gradients that
  rise and fall together: mostly below 0.7 between the noise and the bias of small problems, where
  the exponents of three bias fields had 0.5 to 0.95 with one another. Hence the gentler verdict
  from :data:`PARTLY` on.
* A value is moved by the data if its mean gradient is not zero (push), or if the gradient grows
  with the value, so that the data bring it back (hold), both of
  :mod:`~l2s_pydra.bilevel.push_and_hold`.
* A moved value is determined only if it came to rest: held, and no longer pushed in the last half
  of the steps; or pushed, with the last half below :data:`SETTLED` standard errors and the value
  without a trend. Else it is pushed, not settled: a constant gradient moves a value as far as the
  training is long.

How often chance is taken for data, in per cent of 12000 values that Adam walked on gradients without
a mean (drift: 4000), each judged alone, and in brackets as one of 6:

================================== ================= =================
Gradients                          moved             determined
================================== ================= =================
white noise, 30 steps              1.0 (0.2)         0.5 (0.0)
white noise, 60 steps              1.4 (0.2)         1.0 (0.1)
white noise, 100 steps             1.0 (0.2)         0.7 (0.1)
white noise, 200 steps             0.9 (0.4)         0.5 (0.2)
AR(1), rho 0.5, 400 steps          0.6 (0.3)         0.2 (0.1)
AR(1), rho 0.8, 400 steps          0.7 (0.3)         0.2 (0.1)
AR(1), rho 0.9, 400 steps          1.5 (0.7)         0.2 (0.1)
constant drift, 60 and 400 steps   (true)            0.0 to 0.9 (0.4)
================================== ================= =================

The drift was 0.1 to 3 standard deviations of white noise a step; from 1 on none of 4000 was called
determined. Of drifts of 0.3 that fade to a fiftieth in 400 steps with their noise, as when the
segmenter stops learning, 3.6 % were: they cannot be told from a value that comes to rest.
"""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .push_and_hold import held_from, hold, over, push, pushed_from

__all__ = [
    "HELD",
    "MOST_ENTRIES",
    "PARTLY",
    "PUSHED",
    "SETTLED",
    "THRESHOLD",
    "gradient_correlation",
    "identifiability",
    "record",
]

MOST_ENTRIES = 200
"""Entries of theta up to which a trace is kept; networks have more."""
THRESHOLD = 0.7
"""Correlation of gradients from which two parameters are told to trade off."""
PARTLY = 0.5
"""Correlation from which they are told to do so in part: 1.7 times the standard error."""
PUSHED = 4.0
"""Least standard errors from zero of a mean gradient that pushes a value."""
HELD = 4.0
"""Least t of the slope of the gradient over the value, where the data hold a value."""
SETTLED = 1.5
"""Standard errors below which the push of the last half must fall if a pushed value is determined."""

_MOST_BLOCKS = 1024
_FEWEST_BLOCKS = 24
_LONG = 128
_CAP = 3.0
_LARGEST_SHARE = 0.05
_PAIR_LEVEL = 0.01
_NUDGE = 0.01
_MOVING = 1.5
_MEMBERS = 4

_Array = npt.NDArray[np.float64]


def record(
    trace: Mapping[str, Tensor], gradient: Sequence[Tensor], theta: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Add a step to the trace of gradients, whose size is bounded.

    The trace holds means over blocks of steps. When there are 1024 of them, neighbours are merged
    and blocks are twice as long from then on; until then each step is a block.

    Parameters
    ----------
    trace : mapping
        What this function returned before; empty at first. Its tensors are changed in place.
    gradient : sequence of Tensor
        Of the outer loss with respect to unconstrained theta, P entries together.
    theta : sequence of Tensor
        Where it was computed.

    Returns
    -------
    dict
        ``gradient`` (N, P) means over each block, ``theta`` (N, P) at the start of each block, float64 on
        the CPU, and ``steps``: how many steps a block has, and how many the last one. Empty if
        theta has more than 200 entries, or none.
    """
    if not 0 < sum(g.numel() for g in gradient) <= MOST_ENTRIES:
        return {}
    new, place = _flat(gradient), _flat(theta)
    if not trace:
        steps = torch.ones(2, dtype=torch.int64)
        return {"gradient": new[None], "theta": place[None], "steps": steps}
    kept = {key: value.cpu() for key, value in trace.items()}
    length, last = kept["steps"].tolist()
    if last < length:
        mean = kept["gradient"][-1]
        mean += (new - mean) / (last + 1)
        return {**kept, "steps": torch.tensor([length, last + 1])}
    if len(kept["gradient"]) == _MOST_BLOCKS:
        pairs = kept["gradient"].view(_MOST_BLOCKS // 2, 2, -1)
        kept = {"gradient": pairs.mean(1), "theta": kept["theta"][::2]}
        length *= 2
    return {
        "gradient": torch.cat([kept["gradient"], new[None]]),
        "theta": torch.cat([kept["theta"], place[None]]),
        "steps": torch.tensor([length, 1]),
    }


def identifiability(
    trace: Mapping[str, Tensor],
    *,
    theta: Sequence[Tensor],
    describe: Callable[[], Mapping[str, float]],
    history: Sequence[Mapping[str, float]] = (),
) -> dict[str, Any]:
    """Tell what is determined of a learned augmentation.

    Parameters
    ----------
    trace : mapping
        Of :func:`record`.
    theta : sequence of Tensor
        Unconstrained parameters at their learned value; they are nudged and put back.
    describe : callable
        Values of ``theta`` in physical terms, by name.
    history : sequence of mappings
        Rows of the training log with ``step`` and ``theta/<name>``, from which the wander is told.

    Returns
    -------
    dict
        Plain values: ``steps``, ``steps_a_block`` and ``blocks``; the criteria ``threshold``,
        ``least_correlation``, ``pushed``, ``held`` and ``settled``; ``values``, one a described value, with
        ``name``, ``value``, ``wander`` (standard deviation over the last half of the log),
        ``moving`` (whether it still went somewhere), ``push``, ``late_push`` (of the last half of the steps) and ``hold`` (statistics), ``settled``
        (whether a push is over, and the value without a trend),
        ``partners`` (name and correlation, from :data:`PARTLY` on), ``of`` (the parameters that it follows from, if it is
        no parameter itself) and ``verdict``: ``determined``, ``partly`` (trades off in part),
        ``together``, ``pushed`` (by the data, not settled when training ended), ``unmoved`` or
        ``unknown``; ``correlation`` with ``names`` and ``matrix``; ``groups`` of names that trade
        off; ``spectrum`` with ``eigenvalues``, ``directions``, ``determined``, ``condition`` and
        ``flat``, the undetermined directions with their largest ``members``. Without a trace
        ``blocks`` is 0, and there is no correlation and no spectrum.
    """
    from scipy.stats import norm

    described = dict(describe())
    wander = _wander(history, described)
    gradient, places, counts = _complete(trace)
    facts: dict[str, Any] = {**counts, "threshold": THRESHOLD, "settled": SETTLED}
    blocks, number = len(gradient), len(described)
    facts["pushed"] = max(PUSHED, pushed_from(blocks, number)) if blocks else PUSHED
    facts["held"] = max(HELD, held_from(blocks, number)) if blocks else HELD
    if not len(gradient):
        values = [_value(name, value, wander) for name, value in described.items()]
        return {**facts, "values": values, "groups": []}
    axes = _Axes.of(theta, describe, described)
    gradient = axes.in_units(gradient)
    enough = len(gradient) >= _FEWEST_BLOCKS
    late = gradient[len(gradient) // 2 :] if len(gradient) >= _LONG else gradient
    matrix, effective = gradient_correlation(late)
    pairs = max(1, len(matrix) * (len(matrix) - 1) // 2)
    beyond = norm.isf(_PAIR_LEVEL / (2 * pairs)) * math.sqrt(1.5 / max(effective - 3, 1))
    chance = math.tanh(beyond)
    strength = np.abs(matrix) * ~np.eye(len(matrix), dtype=bool) * enough
    least, part = max(THRESHOLD, chance), max(PARTLY, chance)
    statistics = _statistics(gradient, axes.places(places))
    values = []
    for name, value in described.items():
        row = _value(name, value, wander)
        if name in axes.names:
            i = axes.names.index(name)
            row |= statistics[i]
            order = [j for j in np.argsort(-strength[i], kind="stable") if strength[i, j] >= part]
            row["partners"] = [
                {"name": axes.names[j], "correlation": float(matrix[i, j])} for j in order
            ]
        else:
            row |= axes.follow(name, gradient, places)
        values.append(row)
    if enough:
        still = max(PUSHED, pushed_from(blocks - blocks // 2, number))
        moved = {row["name"] for row in values if _moved(row, facts)}
        rest = {row["name"] for row in values if _rests(row, facts, still)}
        values = [{**row, "verdict": _verdict(row, moved, rest, least)} for row in values]
    return {
        **facts,
        "least_correlation": least,
        "values": values,
        "correlation": {"names": axes.names, "matrix": np.round(matrix, 4).tolist()},
        "groups": [[axes.names[i] for i in group] for group in _components(strength >= least)],
        "spectrum": _spectrum(matrix, axes.names, effective) if enough else None,
    }


def gradient_correlation(gradient: _Array) -> tuple[_Array, float]:
    """Correlate the entries of a series of gradients, free of trends and of single large steps.

    Parameters
    ----------
    gradient : (N, P) array
        Gradients in the order of the steps.

    Returns
    -------
    (P, P) array
        In [-1, 1], with a diagonal of 1; 0 where a gradient never changed.
    float
        Effective number of steps: the square of the sum of their squared lengths over the sum of
        the squares, N for lengths that are all the same. Of independent entries whose scale changes
        from step to step, its inverse is the variance of a correlation (times 1.5, for the
        differences).
    """
    steps = np.diff(gradient, axis=0)
    if not len(steps):
        return np.eye(gradient.shape[1]), 0.0
    standard = over(steps, np.sqrt(np.mean(steps**2, axis=0)))
    length = np.linalg.norm(standard, axis=1)
    cap = float(np.median(length)) * max(_CAP, math.sqrt(len(steps) * _LARGEST_SHARE))
    standard = standard * np.minimum(1.0, over(np.full_like(length, cap), length))[:, None]
    spread = np.sqrt(np.mean(standard**2, axis=0))
    matrix = over(over(standard.T @ standard / len(steps), spread[:, None]), spread[None])
    matrix = np.clip(matrix, -1, 1)
    np.fill_diagonal(matrix, 1.0)
    square = np.sum(standard**2, axis=1)
    return matrix, float(over(np.sum(square) ** 2, np.sum(square**2)))


class _Axes:
    """Physical coordinates of theta: the first described values that do not follow from others."""

    def __init__(self, names: list[str], jacobian: _Array, further: dict[str, _Array]) -> None:
        self.names, self.jacobian, self.further = names, jacobian, further

    @classmethod
    def of(
        cls,
        theta: Sequence[Tensor],
        describe: Callable[[], Mapping[str, float]],
        described: Mapping[str, float],
    ) -> "_Axes":
        slopes = _slopes(theta, describe, list(described))
        count = next(iter(slopes.values())).size if slopes else _flat(theta).numel()
        rows: list[_Array] = []
        names: list[str] = []
        further: dict[str, _Array] = {}
        # What is not described stays in units of its own.
        own = {f"theta {i}": row for i, row in enumerate(np.eye(count))}
        for name, row in (slopes | own).items():
            length = float(np.linalg.norm(row))
            unit = row / (length or 1.0)
            if length and len(rows) < count and _independent([*rows, unit]):
                rows.append(unit)
                names.append(name)
            elif name not in own and length:
                further[name] = row
        return cls(names, np.array([(slopes | own)[name] for name in names]), further)

    def in_units(self, gradient: _Array) -> _Array:
        """(N, P) gradients with respect to the coordinates."""
        return np.asarray(np.linalg.solve(self.jacobian.T, gradient.T).T, dtype=np.float64)

    def places(self, theta: _Array) -> _Array:
        """(N, P) coordinates, to first order and up to a constant."""
        moved: _Array = theta @ self.jacobian.T
        return moved

    def follow(self, name: str, gradient: _Array, theta: _Array) -> dict[str, Any]:
        """Statistics of a value that follows from others, along its own gradient."""
        if name not in self.further:
            return {"of": []}
        row = self.further[name]
        towards = self.jacobian @ row / float(row @ row)
        (found,) = _statistics((gradient @ towards)[:, None], (theta @ row)[:, None])
        weights = np.abs(np.linalg.solve(self.jacobian.T, row)) * np.abs(self.jacobian).max(1)
        of = [n for n, w in zip(self.names, weights, strict=True) if w > 1e-3 * max(weights)]
        return {**found, "of": of}


def _slopes(
    theta: Sequence[Tensor], describe: Callable[[], Mapping[str, float]], names: Sequence[str]
) -> dict[str, _Array]:
    """Differentiate each described value by each entry of theta, by central differences."""
    columns = []
    with torch.no_grad():
        for parameter in theta:
            for index in np.ndindex(*parameter.shape):
                before, found = parameter[index].clone(), []
                for sign in (1, -1):
                    parameter[index] = before + sign * _NUDGE
                    found.append(describe())
                    parameter[index] = before
                columns.append([(found[0][n] - found[1][n]) / (2 * _NUDGE) for n in names])
    return dict(zip(names, np.array(columns, dtype=np.float64).T, strict=True))


def _independent(rows: Sequence[_Array]) -> bool:
    return bool(np.linalg.svd(np.array(rows), compute_uv=False)[-1] > 1e-3)


def _statistics(gradient: _Array, place: _Array) -> list[dict[str, Any]]:
    """Push, hold and rest of each column of (N, P) gradients and values."""
    half = len(gradient) // 2
    columns = zip(
        push(gradient), push(gradient[half:]), hold(gradient, place), place[half:].T, strict=True
    )
    return [
        {
            "push": float(all_of_it),
            "late_push": float(late),
            "hold": float(held),
            "settled": bool(abs(late) < SETTLED and not _has_trend(line)),
        }
        for all_of_it, late, held, line in columns
    ]


def _value(
    name: str, value: float, wander: Mapping[str, tuple[float | None, bool]]
) -> dict[str, Any]:
    spread, moving = wander.get(name, (None, False))
    return {
        "name": name,
        "value": value,
        "wander": spread,
        "moving": moving,
        "push": None,
        "late_push": None,
        "hold": None,
        "settled": None,
        "partners": [],
        "of": [],
        "verdict": "unknown",
    }


def _moved(row: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether the data pushed a value somewhere, or held it."""
    if row["push"] is None:
        return False
    return bool(abs(row["push"]) >= facts["pushed"] or row["hold"] >= facts["held"])


def _rests(row: Mapping[str, Any], facts: Mapping[str, Any], still: float) -> bool:
    """Whether a value that was moved came to rest."""
    if row["push"] is None:
        return False
    if row["hold"] >= facts["held"]:
        return bool(abs(row["late_push"]) < still)
    return bool(row["settled"] and not row["moving"])


def _verdict(
    row: Mapping[str, Any], moved: Container[str], rest: Container[str], least: float
) -> str:
    if row["push"] is None:
        return "unknown"
    close = [p["name"] for p in row["partners"] if abs(p["correlation"]) >= least]
    # Of what trades off, the data may have moved any one.
    if not any(name in moved for name in (row["name"], *close)):
        return "unmoved"
    if close:
        return "together"
    if row["name"] not in rest:
        return "pushed"
    return "partly" if row["partners"] else "determined"


def _wander(
    history: Sequence[Mapping[str, float]], names: Mapping[str, float]
) -> dict[str, tuple[float | None, bool]]:
    """Find the spread of each value over the last half of the log, and whether it has a trend."""
    rows = [row for row in history if any(f"theta/{name}" in row for name in names)]
    last = [row for row in rows if row["step"] > rows[-1]["step"] / 2]
    found: dict[str, tuple[float | None, bool]] = {}
    for name in names:
        line = np.array([row[f"theta/{name}"] for row in last if f"theta/{name}" in row])
        if len(line) < 4:
            found[name] = (None, False)
            continue
        found[name] = (float(line.std(ddof=1)), _has_trend(line))
    return found


def _has_trend(line: _Array) -> bool:
    """Whether the halves of a series differ by more than most of its spread."""
    if len(line) < 4:
        return False
    spread, half = float(line.std(ddof=1)), len(line) // 2
    went = abs(float(line[half:].mean() - line[:half].mean()))
    # 1.73 for a straight line, about 0 for noise.
    return went > _MOVING * spread > 0


def _complete(trace: Mapping[str, Tensor]) -> tuple[_Array, _Array, dict[str, int]]:
    """Gradients and places of the complete blocks, and how many steps they are."""
    if not trace:
        return np.zeros((0, 0)), np.zeros((0, 0)), {"steps": 0, "steps_a_block": 0, "blocks": 0}
    length, last = trace["steps"].tolist()
    count = len(trace["gradient"]) - (last < length)
    arrays = [trace[key][:count].cpu().numpy() for key in ("gradient", "theta")]
    steps = length * (len(trace["gradient"]) - 1) + last
    return arrays[0], arrays[1], {"steps": steps, "steps_a_block": length, "blocks": count}


def _components(linked: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Find groups of two and more that are linked, directly or through others."""
    from scipy.sparse.csgraph import connected_components

    count, label = connected_components(linked, directed=False)
    groups = [np.flatnonzero(label == i).tolist() for i in range(count)]
    return [group for group in groups if len(group) > 1]


def _spectrum(matrix: _Array, names: Sequence[str], steps: float) -> dict[str, Any]:
    """Directions of standardised theta; a flat one has less than a pair at the threshold leaves.

    Chance alone makes eigenvalues of P independent series of N numbers as small as
    (1 - sqrt(1.5 P / N))^2 (Marchenko and Pastur, 1967), which is allowed for.
    """
    eigenvalues, vectors = np.linalg.eigh(matrix)
    chance = max(0.0, 1 - math.sqrt(1.5 * len(names) / steps)) ** 2
    flat = [i for i, value in enumerate(eigenvalues) if value < (1 - THRESHOLD) * chance]
    described = [
        {
            "share": float(max(eigenvalues[i], 0) / len(names)),
            "members": [
                {"name": names[j], "weight": float(vectors[j, i])}
                for j in np.argsort(-np.abs(vectors[:, i]))[:_MEMBERS]
                if abs(vectors[j, i]) > 0.2
            ],
        }
        for i in flat
    ]
    return {
        "eigenvalues": [float(max(value, 0)) for value in eigenvalues[::-1]],
        "directions": len(names),
        "determined": len(names) - len(flat),
        "condition": float(eigenvalues[-1] / max(eigenvalues[0], 1e-12)),
        "flat": described,
    }


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1).double().cpu() for t in tensors])
