"""Choose the hypergradient estimator by trying it, not by a constant.

How well a difference of gradients approximates the mixed derivative depends on activation,
normalisation, loss and precision; and so does the best displacement. A few steps on a small crop,
on copies of the segmenter, tell.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from .hypergradient import BilevelStep, Exact, Hypergradient, OneSidedDifference

__all__ = ["Agreement", "Attempt", "choose_estimator", "compare"]

_LOG = logging.getLogger(__name__)

Attempt = Callable[[Hypergradient, nn.Module, dict[str, Any], bool], BilevelStep]
"""``attempt(estimator, segmenter, state, precise)`` runs one step of the two levels, always with the
same images; in fp32 if ``precise``, else in the precision of training."""


@attrs.frozen(kw_only=True)
class Agreement:
    """How a hypergradient compares with the exact one of the same step."""

    cosine: float
    """Cosine of the angle between them."""
    error: float
    """Norm of the difference over the norm of the exact one."""


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


def choose_estimator(
    attempt: Attempt,
    segmenter: nn.Module,
    state: dict[str, Any],
    *,
    epsilons: Sequence[float] = (1e-3, 1e-2, 1e-1),
    largest_error: float = 0.1,
) -> tuple[Hypergradient, Agreement]:
    """Return the cheapest estimator that is right on the images at hand, and say so in the log.

    Parameters
    ----------
    attempt : callable
        Runs one step; see :data:`Attempt`.
    segmenter : Module
        Left as it is; the steps run on copies.
    state : dict
        State of the update rule, left as it is.
    epsilons : sequence of float
        Displacements of :class:`OneSidedDifference` to try.
    largest_error : float, default=0.1
        Relative error above which :class:`Exact` is chosen.

    Returns
    -------
    estimator : Hypergradient
        The one-sided difference of the smallest error, or :class:`Exact`.
    agreement : Agreement
        Of that difference with the exact hypergradient, also where it was rejected.
    """

    def gradient(estimator: Hypergradient, *, precise: bool) -> list[Tensor]:
        trial = copy.deepcopy(segmenter), copy.deepcopy(state)
        return attempt(estimator, *trial, precise).theta_gradient

    exact = gradient(Exact(), precise=True)
    agreements = {
        epsilon: compare(gradient(OneSidedDifference(epsilon), precise=False), exact)
        for epsilon in epsilons
    }
    epsilon, best = min(agreements.items(), key=lambda item: _rank(item[1].error))
    chosen = OneSidedDifference(epsilon) if best.error <= largest_error else Exact()
    _LOG.info(
        "hypergradient: %s; the one-sided difference with epsilon %g has relative error %.2g and "
        "cosine %.4f to the exact one",
        chosen,
        epsilon,
        best.error,
        best.cosine,
    )
    return chosen, best


def _rank(error: float) -> float:
    """Put errors that are not a number last."""
    return error if error == error else float("inf")
