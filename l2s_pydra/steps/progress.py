"""How far a training is: a bar on a terminal, log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..config import LearnConfig

__all__ = ["Progress"]

logger = logging.getLogger(__name__)

_SILENCE_S = 60.0
"""After this many seconds a step is logged although nothing was validated."""
_SHOWN = 4
"""Values of theta, the first, that are shown."""


class Progress:
    """A bar on a terminal, log lines elsewhere and where trainings with titles run together.

    Parameters
    ----------
    config : LearnConfig
        Settings of the training.
    enabled : bool
        Whether anything is shown.
    title : str, optional
        What log lines call the training.
    """

    def __init__(self, config: LearnConfig, *, enabled: bool, title: str | None = None) -> None:
        self.enabled, self.steps = enabled, config.training.steps
        self.learns_theta = config.training.mode.startswith("learn2synth")
        self.bar: Any = None
        self.terminal = enabled and title is None and sys.stderr.isatty()
        self.prefix = f"{title}: " if title else ""
        self.started = time.monotonic()
        self.first_step: float | None = None
        self.reported = float("-inf")

    def reading(self, what: str, done: int, total: int) -> None:
        """Tell that files were read."""
        if self.enabled and done % 5 == 0:
            logger.info("%s%s: %d of %d", self.prefix, what, done, total)

    def training(self, row: Mapping[str, Any]) -> None:
        """Tell of a step.

        Parameters
        ----------
        row : mapping
            What :meth:`l2s_pydra.bilevel.Trainer.run` reports of it.
        """
        if not self.enabled:
            return
        step = row["step"]
        if self.first_step is None:
            self.first_step, self.started = step - 1, time.monotonic()
        if self.terminal:
            self._draw(row)
            return
        now = time.monotonic()
        if "validation_dice" in row or now - self.reported > _SILENCE_S:
            self.reported = now
            logger.info(
                "%sstep %d of %d, loss %.3f%s%s%s",
                self.prefix,
                step,
                self.steps,
                row["synthetic_loss"],
                _best(row),
                self._theta(row),
                self._left(step, now),
            )

    def _left(self, step: int, now: float) -> str:
        """Time that is left, once there is a step to judge by."""
        done = step - (self.first_step or 0) - 1
        if done < 1:
            return ""
        return f", about {(now - self.started) / done * (self.steps - step) / 60:.0f} min left"

    def _draw(self, row: Mapping[str, Any]) -> None:
        from tqdm import tqdm

        if self.bar is None:
            self.bar = tqdm(total=self.steps, initial=int(row["step"]) - 1, unit="step")
        self.bar.set_postfix_str(
            f"loss {row['synthetic_loss']:.3f}{_best(row)}{self._theta(row)}",
            refresh=False,
        )
        self.bar.update()

    def _theta(self, row: Mapping[str, Any]) -> str:
        """First values of theta, but those of single groups; of a theta that is learned."""
        short = [(k, v) for k, v in row["theta"].items() if "/" not in k][:_SHOWN]
        if not self.learns_theta or not short:
            return ""
        return ", theta " + " ".join(f"{name} {value:.3f}" for name, value in short)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()


def _best(row: Mapping[str, Any]) -> str:
    """Return the Dice of the best validation, once there was one."""
    return f", best validation Dice {row['best_dice']:.3f}" if row["best_dice"] >= 0 else ""
