"""How far a training run is, the learning rate that goes with it, and what each step does."""

import math
from collections.abc import Callable

import attrs

from ..config import TrainingConfig

__all__ = ["FINETUNED", "REMAPPED", "Kinds", "Schedule", "learning_rate"]

FINETUNED = ("finetuned", "finetuned-averaged")
"""Modes whose last steps are on real images only, with a schedule of their own."""
REMAPPED = ("mixed-randomised", "learn2synth-mixed")
"""Modes whose real images partly get a random contrast."""
_MIXED = ("mixed", *REMAPPED)
_LEARNING = ("learn2synth", "learn2synth-mixed")


@attrs.frozen
class Schedule:
    """Budget and learning rate of a run, in steps or in time, whichever ends first."""

    config: TrainingConfig

    def done(self, step: int, seconds: float) -> float:
        """Share of the budget that is used up, 1 or more at the end."""
        t = self.config
        if t.max_minutes is None:
            return step / t.steps
        return max(step / t.steps, seconds / (60 * t.max_minutes))

    def tunes(self, done: float) -> bool:
        """Whether the share of the budget for fine-tuning has begun."""
        return self.config.mode in FINETUNED and done >= 1 - self.config.finetune_share

    def rate(self, done: float, *, tuning: bool) -> float:
        """Learning rate of the segmenter; fine-tuning has a schedule of its own."""
        t = self.config
        if t.mode not in FINETUNED:
            return learning_rate(t.learning_rate, done, t.steps, t.schedule)
        before = 1 - t.finetune_share
        if not tuning:
            steps = round(before * t.steps)
            return learning_rate(t.learning_rate, done / before, steps, t.schedule)
        steps = round(t.finetune_share * t.steps)
        peak = t.finetune_rate * t.learning_rate
        return learning_rate(peak, (done - before) / t.finetune_share, steps, t.schedule)


@attrs.frozen(kw_only=True)
class Kinds:
    """What a step trains on, which the mode and the number of the step decide."""

    config: TrainingConfig
    chance: Callable[..., float]
    """``chance(step, stream)``: a number in [0, 1) that depends on the two only."""
    replaces: bool
    """Whether the augmentation replaces the generator's intensities."""
    given: bool = False
    """Whether the values of theta are given."""

    def real(self, step: int, *, tuning: bool) -> bool:
        """Whether the segmenter is trained on real images."""
        t = self.config
        if t.mode in _MIXED:
            return self.chance(step, "kind") < t.real_share
        return t.mode == "supervised" or tuning

    def learned(self, step: int) -> bool:
        """Whether A_theta makes the images; an augmentation of images always does."""
        if not self.replaces:
            return True
        if self.config.mode not in _LEARNING and not self.given:
            return False
        return self.chance(step, "choice") >= self.config.wide_share

    def remapped(self, step: int) -> bool:
        """Whether a learned draw gets a random contrast."""
        share = self.config.learned_remap_share if self.config.mode in _LEARNING else 0.0
        return self.chance(step, "remap") < share

    def moves_theta(self, step: int) -> bool:
        """Whether a learned draw comes with a hypergradient."""
        t = self.config
        return (
            t.mode in _LEARNING
            and not self.remapped(step)
            and step >= t.theta_warmup_steps
            and step % t.hypergradient_every == 0
        )


def learning_rate(peak: float, done: float, steps: int, schedule: str) -> float:
    """Cosine decay to 1 % of the peak after a short linear warm-up, or constant.

    Parameters
    ----------
    peak : float
        Largest value.
    done : float
        Share of the budget that is used up.
    steps : int
        The whole budget.
    schedule : str
        ``cosine`` or ``constant``.

    Examples
    --------
    >>> [round(learning_rate(1.0, s / 1000, 1000, "cosine"), 2) for s in (0, 30, 500, 999)]
    [0.03, 1.0, 0.51, 0.01]
    """
    if schedule == "constant":
        return peak
    warmup = max(1, min(steps // 33, 500)) / steps
    if done < warmup:
        return peak * (done + 1 / steps) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
