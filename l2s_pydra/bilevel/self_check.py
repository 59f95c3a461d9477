"""Choose the hypergradient estimator by trying it, not by a constant.

How well a difference of gradients approximates the mixed derivative depends on activation,
normalisation, loss and precision; and so does the best displacement. A few steps on small images,
on copies of the segmenter, tell.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from .hypergradient import BilevelStep, CentralDifference, Exact, Hypergradient, OneSidedDifference

__all__ = [
    "EPSILONS",
    "Agreement",
    "Attempt",
    "Choice",
    "candidates",
    "choose_estimator",
    "compare",
    "describe",
    "estimator_from",
]

_LOG = logging.getLogger(__name__)

EPSILONS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Displacements of phi that are tried, as norms. With shorter ones a network with kinks may pass
for smooth, if on the small images of a check none of them happens to be crossed."""

_LEEWAY = 5.0
"""How much larger than allowed the error of the next displacement may be."""

Attempt = Callable[[Hypergradient, nn.Module, dict[str, Any]], BilevelStep]
"""``attempt(estimator, segmenter, state)`` runs one step of the two levels, always with the same
images, in the precision of training."""

_NAMES: dict[str, type[Hypergradient]] = {
    "exact": Exact,
    "central_difference": CentralDifference,
    "one_sided_difference": OneSidedDifference,
}


@attrs.frozen(kw_only=True)
class Agreement:
    """How a hypergradient compares with the exact one of the same step."""

    cosine: float
    """Cosine of the angle between them."""
    error: float
    """Norm of the difference over the norm of the exact one."""


@attrs.frozen(kw_only=True)
class Choice:
    """An estimator, and why it is the one to use."""

    estimator: Hypergradient
    """The first of the candidates that is right."""
    agreement: Agreement
    """Of this estimator with the exact hypergradient in full precision."""
    reason: str
    """One sentence."""
    tried: tuple[tuple[Hypergradient, Agreement], ...]
    """All that were tried, in order."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a log or a file; :func:`estimator_from` is the way back."""
        return {
            **describe(self.estimator),
            **attrs.asdict(self.agreement),
            "reason": self.reason,
            "tried": [
                {**describe(estimator), **attrs.asdict(agreement)}
                for estimator, agreement in self.tried
            ],
        }


def describe(estimator: Hypergradient) -> dict[str, Any]:
    """Name and settings of an estimator as plain values.

    Examples
    --------
    >>> describe(OneSidedDifference(0.01))
    {'estimator': 'one_sided_difference', 'epsilon': 0.01}
    """
    name = next(name for name, kind in _NAMES.items() if isinstance(estimator, kind))
    return {"estimator": name, **attrs.asdict(estimator)}  # type: ignore[arg-type]


def estimator_from(values: dict[str, Any]) -> Hypergradient:
    """Return the estimator that :func:`describe` described; other keys are ignored.

    Examples
    --------
    >>> estimator_from({"estimator": "exact", "recompute": True, "error": 0.0})
    Exact(recompute=True, full_precision=False)
    """
    kind = _NAMES[values["estimator"]]
    names = {field.name for field in attrs.fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in values.items() if key in names})


def compare(found: Sequence[Tensor], exact: Sequence[Tensor]) -> Agreement:
    """Compare two hypergradients, all entries of theta together.

    Parameters
    ----------
    found, exact : sequences of tensors
        Of the same shapes.

    Returns
    -------
    Agreement

    Examples
    --------
    >>> compare([torch.tensor([3.0, 4.0])], [torch.tensor([6.0, 8.0])])
    Agreement(cosine=1.0, error=0.5)
    """
    a, b = (torch.cat([t.detach().flatten().double() for t in ts]) for ts in (found, exact))
    tiny = torch.finfo(torch.float64).tiny
    norms = (a.norm() * b.norm()).clamp_min(tiny)
    error = (a - b).norm() / b.norm().clamp_min(tiny)
    return Agreement(cosine=float(a @ b / norms), error=float(error))


def candidates(
    *,
    mixed_precision: bool,
    epsilons: Sequence[float] = EPSILONS,
    recompute: bool = False,
    names: Sequence[str] = ("one_sided_difference", "central_difference", "exact"),
) -> list[list[Hypergradient]]:
    """Return what to try: groups from cheap to costly, that differ within a group by epsilon.

    Parameters
    ----------
    mixed_precision : bool
        Whether training runs under autocast; then estimators in full precision are tried too.
    epsilons : sequence of float
        Displacements of the differences.
    recompute : bool, default=False
        Of :class:`Exact`.
    names : sequence of str
        Kinds of estimators to try.

    Examples
    --------
    >>> [len(group) for group in candidates(mixed_precision=False, epsilons=(0.01, 0.1))]
    [2, 2, 1]
    """
    groups: dict[str, list[list[Hypergradient]]] = {
        "one_sided_difference": [[OneSidedDifference(e) for e in epsilons]],
        "central_difference": [[CentralDifference(e) for e in epsilons]],
        "exact": [[Exact(recompute=recompute)]],
    }
    if mixed_precision:
        groups["central_difference"].append(
            [CentralDifference(e, full_precision=True) for e in epsilons]
        )
        groups["exact"].append([Exact(recompute=recompute, full_precision=True)])
    return [group for name, several in groups.items() if name in names for group in several]


def choose_estimator(
    attempts: Sequence[Attempt],
    segmenter: nn.Module,
    state: dict[str, Any],
    groups: Sequence[Sequence[Hypergradient]],
    *,
    largest_error: float = 0.1,
) -> Choice:
    """Return the cheapest estimator that is right on the images at hand, and say so in the log.

    Parameters
    ----------
    attempts : sequence of callables
        Each runs one step, on images of its own; see :data:`Attempt`. The error is that of their
        hypergradients taken together.
    segmenter : Module
        Left as it is; the steps run on copies.
    state : dict
        State of the update rule, left as it is.
    groups : sequence of sequences of Hypergradient
        What to try, from cheap to costly; see :func:`candidates`. Of a group, the one of the
        smallest error counts, unless the next displacements are far off: a network with kinks may
        look smooth by luck. The last group is taken whatever its error.
    largest_error : float, default=0.1
        Relative error, against :class:`Exact` in full precision, up to which a group is taken.

    Returns
    -------
    Choice
    """
    reference: list[Tensor] = []

    def gradients(estimator: Hypergradient) -> list[Tensor]:
        found: list[Tensor] = []
        for attempt in attempts:
            trial = copy.deepcopy(segmenter), copy.deepcopy(state)
            found += attempt(estimator, *trial).theta_gradient
        return found

    recompute = any(isinstance(e, Exact) and e.recompute for group in groups for e in group)
    reference = gradients(Exact(recompute=recompute, full_precision=True))
    tried: list[tuple[Hypergradient, Agreement]] = []
    for rest, best in _best_of_groups(groups, gradients, reference, tried, largest_error):
        estimator, agreement = best
        right = agreement.error <= largest_error
        if right or not rest:
            break
    reason = _reason(agreement, tried, largest_error, right=right)
    choice = Choice(estimator=estimator, agreement=agreement, reason=reason, tried=tuple(tried))
    level = logging.INFO if right else logging.WARNING
    _LOG.log(level, "hypergradient: %s; %s", estimator, reason)
    return choice


def _best_of_groups(
    groups: Sequence[Sequence[Hypergradient]],
    gradients: Callable[[Hypergradient], list[Tensor]],
    reference: Sequence[Tensor],
    tried: list[tuple[Hypergradient, Agreement]],
    largest_error: float,
) -> Iterator[tuple[int, tuple[Hypergradient, Agreement]]]:
    for number, group in enumerate(groups, 1):
        results = [(e, compare(gradients(e), reference)) for e in group]
        tried += results
        stable = [results[i] for i in range(len(results)) if _stable(i, results, largest_error)]
        if not stable and number < len(groups):
            stable = [max(results, key=lambda item: _rank(item[1].error))]
        yield len(groups) - number, min(stable or results, key=lambda item: _rank(item[1].error))


def _stable(i: int, results: Sequence[tuple[Hypergradient, Agreement]], largest: float) -> bool:
    """Whether a neighbouring displacement is about right as well.

    If a network with kinks is displaced so little that, by luck, none is crossed on the images of
    the check, the next displacement is off by far.
    """
    errors = [results[k][1].error for k in (i - 1, i + 1) if 0 <= k < len(results)]
    return not errors or min(errors, key=_rank) <= _LEEWAY * largest


def _reason(
    agreement: Agreement,
    tried: Sequence[tuple[Hypergradient, Agreement]],
    largest_error: float,
    *,
    right: bool,
) -> str:
    found = f"relative error {agreement.error:.2g}, cosine {agreement.cosine:.4f} to the exact one"
    if not right:
        return f"{found}: above {largest_error:g}, and nothing else was allowed"
    rejected = {describe(e)["estimator"] for e, a in tried if a.error > largest_error or a != a}
    rejected -= {describe(tried[-1][0])["estimator"]}
    if not rejected:
        return f"{found}: the cheapest that was tried is right"
    best = min((a.error for e, a in tried if describe(e)["estimator"] in rejected), key=_rank)
    return f"{found}; {' and '.join(sorted(rejected))} had an error of {best:.2g} at best"


def _rank(error: float) -> float:
    """Put errors that are not a number last."""
    return error if error == error else float("inf")
