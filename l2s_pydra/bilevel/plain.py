"""A step of the segmenter on one loss, without a hypergradient."""

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from .move import Move, Rule
from .passes import (
    Losses,
    Predict,
    Reduce,
    apply_clip,
    clip_factor,
    copied_buffers,
    forget_casts,
    gradients,
    norm_of,
    trainable,
)
from .pieces import owned

__all__ = ["PlainStep", "accumulate", "are_finite", "average", "plain_step"]


@attrs.frozen(kw_only=True)
class PlainStep:
    """What one step of the segmenter leaves behind, beside the updated segmenter."""

    loss: Tensor
    """() tensor, before the step."""
    state: dict[str, Any]
    """State of the update rule after the step."""
    gradient_norm: Tensor
    """() tensor, Euclidean norm of the gradient, before clipping."""
    skipped: bool
    """True if the loss or its gradient was not finite: nothing was changed."""


def plain_step(
    segmenter: nn.Module,
    rule: Rule,
    state: dict[str, Any],
    *,
    loss: Losses,
    learning_rate: float,
    max_gradient_norm: float | None = None,
    reduce: Reduce | None = None,
) -> PlainStep:
    """Update the segmenter on one loss, without a hypergradient.

    Parameters
    ----------
    segmenter : Module
        Its trainable parameters are updated in place.
    rule : UpdateRule
        The optimiser.
    state : dict
        State of ``rule``. It is consumed: go on with the returned one.
    loss : callable or sequence of callables
        ``loss(predict)``, a () tensor; of several, the *sum* is minimised, and each has a pass of
        its own.
    learning_rate : float
        Of this step.
    max_gradient_norm : float, optional
        Longer gradients are scaled to this Euclidean norm.
    reduce : callable, optional
        As in :meth:`l2s_pydra.bilevel.Hypergradient.__call__`.

    Returns
    -------
    PlainStep
    """
    params = list(trainable(segmenter).values())
    restore_buffers = copied_buffers(segmenter)
    value, grads = accumulate(loss, segmenter, params)
    average(reduce, [value, *grads])
    norm = norm_of(grads)
    if not are_finite(value, norm):
        restore_buffers()
        return PlainStep(loss=value, state=state, gradient_norm=norm, skipped=True)
    apply_clip(grads, clip_factor(norm, max_gradient_norm))
    move = Move(rule, params, state, learning_rate)
    move.take(grads)
    return PlainStep(loss=value, state=move.state, gradient_norm=norm, skipped=False)


def accumulate(
    losses: Losses, predict: Predict, leaves: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Sum of the losses and its gradient, one pass after the other."""
    several = [losses] if callable(losses) else list(losses)
    total: Tensor | None = None
    grads: list[Tensor] = []
    for loss in several:
        forget_casts()
        value = loss(predict)
        found = owned(gradients(value, leaves), leaves)
        if total is None:
            total, grads = value.detach(), found
        else:
            total = total + value.detach()
            torch._foreach_add_(grads, found)
    if total is None:
        raise ValueError("there is no loss to differentiate")
    return total, grads


def average(reduce: Reduce | None, tensors: list[Tensor]) -> None:
    """Replace the tensors by their means over the processes, if there are several."""
    if reduce is not None:
        reduce(tensors)


def are_finite(*values: Tensor) -> bool:
    """Whether all of some () tensors are finite, told by one transfer from the device."""
    return bool(torch.isfinite(torch.stack([v.detach().float() for v in values])).all())
