"""The step of theta: along a hypergradient, clipped, within what is trusted, and averaged."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import TrainingConfig
from .identifiability import record
from .state import TrainingState
from .updates import UpdateRule

__all__ = ["move_theta"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def move_theta(
    augmentation: nn.Module,
    gradient: Sequence[Tensor],
    state: TrainingState,
    rule: UpdateRule,
    config: TrainingConfig,
) -> float:
    """Move theta in place, and its moments, average and counters in the state.

    Parameters
    ----------
    augmentation : Module
        Its parameters are theta.
    gradient : sequence of Tensor
        The hypergradient, in their order.
    state : TrainingState
        Of the run.
    rule : UpdateRule
        The optimiser of theta.
    config : TrainingConfig
        ``theta_learning_rate``, ``theta_gradient_clip``, ``theta_trust`` and ``theta_average``.

    Returns
    -------
    float
        Norm of the hypergradient. If it is not finite, theta stays.
    """
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient))
    finite = math.isfinite(norm)
    state.theta_skipped += not finite
    state.theta_skipped_in_a_row = 0 if finite else state.theta_skipped_in_a_row + 1
    if not finite:
        logger.warning("theta stays at step %d: its gradient is not finite", state.step + 1)
        return norm
    theta = list(augmentation.parameters())
    state.theta_trace = record(state.theta_trace, gradient, theta)
    if config.theta_gradient_clip is not None and norm > config.theta_gradient_clip:
        gradient = [g * (config.theta_gradient_clip / norm) for g in gradient]
    new, state.theta_moments = rule.update(
        gradient, state.theta_moments, theta, learning_rate=config.theta_learning_rate
    )
    share = _trusted(theta, new, config.theta_trust)
    for parameter, value in zip(theta, new, strict=True):
        parameter.copy_(value if share == 1 else parameter.lerp(value, share))
    state.theta_steps += 1
    decay = min(config.theta_average, state.theta_steps / (state.theta_steps + 1))
    for key, value in augmentation.state_dict().items():
        state.theta_average[key].lerp_(value, 1 - decay)
    return norm


def _trusted(old: Sequence[Tensor], new: Sequence[Tensor], most: float | None) -> float:
    """Share of the step that keeps the change of every entry within ``most``."""
    if most is None:
        return 1.0
    longest = max(float((b - a).abs().max()) for a, b in zip(old, new, strict=True))
    return 1.0 if longest <= most else most / longest
