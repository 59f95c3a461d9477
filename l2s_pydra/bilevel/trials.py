"""Which estimator of the hypergradient a training run uses, found by trial during the run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from ..config import TrainingConfig
from ..targets import is_class_map
from . import hypergradient as hg
from . import self_check
from .batches import Batches
from .passes import Predict
from .processes import Processes
from .updates import UpdateRule

__all__ = ["Trials"]

_CHECKS = 4
"""How often the estimator is chosen: when theta first moves, and at each quarter of what is left."""
_TRIALS = 2
"""Draws that the estimators are compared on."""
_SIDE = {2: 128, 3: 48}
"""Largest side of the images they are compared on, voxels."""
_STREAM = 2 * 10**9
"""Steps whose batches are for comparisons only start here."""


@attrs.frozen(kw_only=True)
class Trials:
    """Compares the estimators on small crops, with the network, loss and precision of the run."""

    config: TrainingConfig
    """``estimator``, ``epsilon`` and ``estimator_tolerance`` say what is allowed."""
    batches: Batches
    """Real and synthetic images."""
    rule: UpdateRule
    """The optimiser of the segmenter."""
    augment: Callable[[Any], Tensor]
    """Sample to images (B, 1, *S), with their graph to theta."""
    loss: Callable[[Predict, Tensor, Tensor], Tensor]
    """Of a prediction, images and targets."""
    neutral: bool
    """Whether the augmentation brings the appearance of images."""
    processes: Processes
    """The first of them decides."""

    def estimator(
        self,
        step: int,
        checks: list[dict[str, Any]],
        segmenter: nn.Module,
        state: dict[str, Any],
        theta: Sequence[Tensor],
        learning_rate: float,
    ) -> hg.Hypergradient:
        """Return how a step's hypergradient is computed: as asked for, or as the last check chose.

        Parameters
        ----------
        step : int
            Which step.
        checks : list of dict
            What was chosen so far; a check that is due is appended.
        segmenter, state, theta, learning_rate
            The run, which is left as it is.
        """
        t, recompute = self.config, self.config.checkpoint_activations
        if t.estimator == "exact":
            return hg.Exact(recompute=recompute)
        if t.estimator != "auto" and t.epsilon is not None:
            return self_check.estimator_from({"estimator": t.estimator, "epsilon": t.epsilon})
        done = (step - t.theta_warmup_steps) / max(1, t.steps - t.theta_warmup_steps)
        due = math.floor(_CHECKS * done) + 1
        if len(checks) < due:
            choice = self._check(step, segmenter, state, theta, learning_rate)
            # A check counts for all that were due before it.
            checks += [{"step": step, **self.processes.same(choice.to_dict())}] * (
                due - len(checks)
            )
        return self_check.estimator_from(checks[-1])

    def _check(
        self,
        step: int,
        segmenter: nn.Module,
        state: dict[str, Any],
        theta: Sequence[Tensor],
        learning_rate: float,
    ) -> self_check.Choice:
        t = self.config
        only = {} if t.estimator == "auto" else {"names": (t.estimator,)}
        groups = self_check.candidates(
            mixed_precision=t.precision != "fp32",
            epsilons=self_check.EPSILONS if t.epsilon is None else (t.epsilon,),
            recompute=t.checkpoint_activations,
            **only,
        )
        multiple = int(segmenter.multiple)  # type: ignore[arg-type]
        first = _STREAM + _TRIALS * step
        attempts = [
            self._attempt(first + i, theta, learning_rate, multiple) for i in range(_TRIALS)
        ]
        return self_check.choose_estimator(
            attempts, segmenter, state, groups, largest_error=t.estimator_tolerance
        )

    def _attempt(
        self, step: int, theta: Sequence[Tensor], learning_rate: float, multiple: int
    ) -> self_check.Attempt:
        sample = self.batches.sample(step, appearance=not self.neutral, count=1)
        x_real, y_real = (b[:1] for b in self.batches.real(step, 1, augmented=False))
        middle = _middle(x_real.shape[2:], _SIDE[x_real.ndim - 2], multiple)

        def attempt(
            estimator: hg.Hypergradient, segmenter: nn.Module, state: dict[str, Any]
        ) -> hg.BilevelStep:
            return estimator(
                segmenter,
                self.rule,
                state,
                augment=lambda: self.augment(sample)[middle],
                synthetic_loss=lambda predict, x, part: self.loss(
                    predict, x, _cut(sample.target, middle)[part]
                ),
                real_loss=lambda predict: self.loss(predict, x_real[middle], _cut(y_real, middle)),
                theta=theta,
                learning_rate=learning_rate,
            )

        return attempt


def _middle(size: Sequence[int], most: int, multiple: int) -> tuple[slice, ...]:
    """Index of the middle of images (B, C, *S), at most that large.

    >>> _middle((64, 40), 48, 16)
    (slice(None, None, None), slice(None, None, None), slice(8, 56, None), slice(4, 36, None))
    """
    sides = [max(multiple, min(n, most) // multiple * multiple) for n in size]
    starts = [(n - side) // 2 for n, side in zip(size, sides, strict=True)]
    inner = [slice(start, start + side) for start, side in zip(starts, sides, strict=True)]
    return (slice(None), slice(None), *inner)


def _cut(target: Tensor, index: tuple[slice, ...]) -> Tensor:
    """Part of a batch of targets, which may lack the axis of classes."""
    return target[index[:1] + index[2:]] if is_class_map(target) else target[index]
