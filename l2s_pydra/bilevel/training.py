"""The one training loop, for Learn2Synth and its baselines."""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import LearnConfig
from ..errors import TrainingError
from ..segmentation import Segmenter, build_loss, dice_scores, predict_posteriors
from ..synthesis import Sample
from ..targets import as_classes
from . import hypergradient as hg
from . import updates
from .batches import Ahead, Batches, RealScan, TrainingData
from .building import build_rule, start_augmentation
from .checkpoints import Checkpoints
from .identifiability import record
from .identity import identity
from .passes import Loss, Predict
from .processes import Processes, check_shares
from .schedule import FINETUNED, REMAPPED, Kinds, Schedule
from .state import TrainingState, copied
from .trials import Trials

__all__ = ["RealScan", "Trainer", "TrainingData"]

logger = logging.getLogger(__name__)

Progress = Callable[[Mapping[str, Any]], None]

_AHEAD = 2
"""Batches that are rendered ahead of a GPU."""


class Trainer:
    """One training run that can be interrupted and resumed at any checkpoint.

    Parameters
    ----------
    config : LearnConfig
        All settings; ``config.training.mode`` is the mode.
    data : TrainingData
        Label maps and scans, on the CPU.
    n_classes : int
        Segmentation classes, background included.
    device : torch.device or str
        Where the networks live.
    checkpoint : Path, optional
        File to resume from, if it exists, and to write to; the one before is kept beside it.
    checkpoint_every : int, optional
        Steps between two checkpoints; ``config.training.checkpoint_every`` by default.
    keep_checkpoints : int, default=2
        How many checkpoints are kept.
    processes : Processes, optional
        The processes that share the batches; see :func:`~l2s_pydra.bilevel.processes.joined`.

    Raises
    ------
    ConfigError
        If the processes cannot share a batch evenly.
    TrainingError
        If the checkpoint is of another run, or damaged.

    References
    ----------
    Hu et al., Learn2Synth, ICCV 2025, algorithm 1.
    """

    def __init__(
        self,
        config: LearnConfig,
        data: TrainingData,
        *,
        n_classes: int,
        device: torch.device | str = "cpu",
        checkpoint: Path | None = None,
        checkpoint_every: int | None = None,
        keep_checkpoints: int = 2,
        processes: Processes | None = None,
    ) -> None:
        self.config, self.data = config, data
        self.training = config.training
        self.device = torch.device(device)
        self.processes = processes or Processes()
        check_shares(self.training.batch_size, self.processes.size)
        if self.device.type == "cuda" and self.training.precision == "fp32":
            # TF32 would drown the difference of two gradients.
            torch.backends.cudnn.allow_tf32 = False
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every or self.training.checkpoint_every
        self.checkpoints = Checkpoints(checkpoint, keep_checkpoints) if checkpoint else None
        self.n_classes = n_classes
        self.batches = Batches(
            config=self.training, data=data, device=self.device, processes=self.processes
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            self.segmenter = Segmenter(config.segmenter, n_classes).to(self.device)
            self.averaged = Segmenter(config.segmenter, n_classes).to(self.device)
            self.augmentation = start_augmentation(config, data).to(self.device)
        self.segmenter.to(memory_format=self.segmenter.layout)  # type: ignore[call-overload]
        self.segmenter.unet.checkpointing = self.training.checkpoint_activations
        self.averaged.load_state_dict(self.segmenter.state_dict())
        # Compiled or not, the parameters are the same.
        self._first_order: nn.Module = self.segmenter
        if self.training.compile:
            self._first_order = torch.compile(self.segmenter, dynamic=False)  # type: ignore[assignment]
        self.theta_start = self.augmentation.describe()
        self.loss = build_loss(self.training.loss)
        self.rule = build_rule(self.training)
        self.theta_rule = updates.adam()
        self.identity = identity(config, data)
        self.schedule = Schedule(self.training)
        self.kinds = Kinds(
            config=self.training,
            chance=self.batches.chance,
            replaces=self.augmentation.replaces_intensities,
        )
        self.trials = Trials(
            config=self.training,
            batches=self.batches,
            rule=self.rule,
            augment=self._augment,
            loss=lambda predict, x, y: self._loss(predict, x, y),
            neutral=self.kinds.replaces,
            processes=self.processes,
        )
        self.state = self._start()
        self._samples = Ahead(self._sample, 0)

    # ------------------------------------------------------------------ set-up

    def _start(self) -> TrainingState:
        state = self._resumed()
        if state is not None:
            return state
        phi, theta = self.segmenter.state_dict(), self.augmentation.state_dict()
        return TrainingState(
            identity=self.identity,
            phi=copied(phi),
            phi_average=copied(phi),
            phi_best=copied(phi),
            phi_moments=self.rule.init(list(self.segmenter.parameters())),
            theta=copied(theta),
            theta_average=copied(theta),
            theta_moments=self.theta_rule.init(list(self.augmentation.parameters())),
        )

    def _resumed(self) -> TrainingState | None:
        """Return the state of the last checkpoint, and set the networks to it; None without one."""
        if self.checkpoints is None:
            return None
        if self.processes.first:
            self.checkpoints.tidy()
        state = self.checkpoints.load(self.device)
        if state is None:
            return None
        if state.identity != self.identity:
            raise TrainingError(
                f"{self.checkpoint}: is of a run with other settings or data; "
                "give another folder, or delete the file to start over"
            )
        self.segmenter.load_state_dict(state.phi)
        self.averaged.load_state_dict(state.phi_average)
        self.augmentation.load_state_dict(state.theta)
        state.lay_out(list(self.segmenter.parameters()))
        logger.info("resuming at step %d from %s", state.step, self.checkpoint)
        return state

    # ------------------------------------------------------------------ the loop

    def run(self, progress: Progress | None = None) -> TrainingState:
        """Train to the last step.

        Parameters
        ----------
        progress : callable, optional
            Called after every step with the current row of the log and the total ``steps``.

        Returns
        -------
        TrainingState
            Its ``phi_best`` is the model; :attr:`averaged` is left at the last average,
            :attr:`augmentation` at the last iterate.

        Raises
        ------
        TrainingError
            If too many steps in a row had a loss or a gradient that was not finite.
        """
        state = self.state
        clock = time.monotonic() - state.seconds
        self._samples = Ahead(
            self._sample,
            _AHEAD if self._waits_for_cpu else 0,
            wanted=lambda step: not self._is_real(step),
        )
        try:
            self._loop(clock, progress)
        finally:
            self._samples.close()
        return state

    def _loop(self, clock: float, progress: Progress | None) -> None:
        t, state = self.training, self.state
        every = max(1, min(t.validate_every, t.steps // 400))
        while not self._ended():
            values = self._step(state.step)
            self._stop_if_lost()
            state.recent.append({k: v for k, v in values.items() if math.isfinite(v)})
            state.step += 1
            state.seconds = time.monotonic() - clock
            if t.max_minutes is not None:
                # The processes must agree on when to stop.
                state.seconds = self.processes.same(state.seconds)
            last = self._done(state.step) >= 1
            validates = last or state.step % t.validate_every == 0
            saves = last or state.step % self.checkpoint_every == 0
            row = {
                "step": float(state.step),
                "seconds": state.seconds,
                **values,
                "skipped_steps": float(state.skipped + state.theta_skipped),
            }
            if validates:
                row["validation_dice"] = self._validate()
                saves = saves or self._ended()
            if validates or state.step % every == 0:
                self._log(row)
            if progress is not None:
                progress(
                    {
                        **row,
                        "steps": t.steps,
                        "best_dice": state.best_dice,
                        "theta": self.augmentation.describe(),
                    }
                )
            if saves:
                self.save()

    def _log(self, row: Mapping[str, float]) -> None:
        """Add a row to the log, with the means since the last one."""
        state = self.state
        keys = {key: None for values in state.recent for key in values}
        means = {k: float(np.mean([v[k] for v in state.recent if k in v])) for k in keys}
        theta = {f"theta/{k}": v for k, v in self.augmentation.describe().items()}
        known = {key: value for key, value in row.items() if math.isfinite(value)}
        state.history.append({**known, **means, **theta})
        state.recent.clear()

    def _ended(self) -> bool:
        """Whether the budget is used up, or nothing gets better any more."""
        t, state = self.training, self.state
        stale = t.patience is not None and state.stale >= t.patience
        waits = t.mode in FINETUNED and not state.phi_tuned
        return self._done(state.step) >= 1 or (stale and not waits)

    def save(self) -> None:
        """Write a checkpoint, if there is a file for it; a full disk does not end the run."""
        state = self.state
        state.phi, state.theta = self.segmenter.state_dict(), self.augmentation.state_dict()
        state.phi_average = self.averaged.state_dict()
        if self.checkpoints is not None and self.processes.first:
            self.checkpoints.save(state)

    def _stop_if_lost(self) -> None:
        """Give up where nothing but skipping is left."""
        state, most = self.state, self.training.stop_after_skipped
        streak = max(state.skipped_in_a_row, state.theta_skipped_in_a_row)
        last = state.step + 1 == self.training.steps
        if streak < most and not (last and 2 * state.skipped > self.training.steps):
            return
        what = "loss" if state.skipped_in_a_row == streak else "hypergradient"
        kept = "no checkpoint was written yet"
        if self.checkpoint is not None and self.checkpoint.exists():
            kept = f"{self.checkpoint} holds the last checkpoint before"
        raise TrainingError(
            f"the {what} was not finite {streak} times in a row, up to step {state.step + 1}; lower "
            f"training.learning_rate, set training.gradient_clip or train in fp32 ({kept})"
        )

    def _step(self, step: int) -> dict[str, float]:
        t = self.training
        if self._tunes(step) and not self.state.phi_tuned:
            self._begin_tuning()
        lr = self.schedule.rate(self._done(step), tuning=bool(self.state.phi_tuned))
        if self._is_real(step):
            remapped = t.remap_share if t.mode in REMAPPED else 0.0
            x, y = self.batches.real(step, t.batch_size, augmented=True, remapped=remapped)
            values = self._plain(x, y, lr)
        else:
            learned = self.kinds.learned(step)
            started = time.monotonic()
            sample = self._samples(step, t.steps)
            waited = time.monotonic() - started
            if learned and self.kinds.moves_theta(step):
                values = self._hypergradient(step, sample, lr)
            else:
                with torch.no_grad():
                    x = self.augmentation(sample) if learned else sample.image
                values = self._plain(x, sample.target, lr)
            values["synthesis_seconds"] = waited
        self._average_phi(step)
        return {**values, "learning_rate": lr}

    def _is_real(self, step: int) -> bool:
        return self.kinds.real(step, tuning=self._tunes(step))

    def _done(self, step: int) -> float:
        return self.schedule.done(step, self.state.seconds)

    def _tunes(self, step: int) -> bool:
        return bool(self.state.phi_tuned) or self.schedule.tunes(self._done(step))

    def _begin_tuning(self) -> None:
        """Keep the weights, and train on from their average with fresh moments."""
        state = self.state
        state.phi_tuned = copied(self.averaged.state_dict())
        self.segmenter.load_state_dict(state.phi_tuned)
        state.phi_moments = self.rule.init(list(self.segmenter.parameters()))
        # What was best before was best without the real images; the mode is judged by what follows.
        state.best_dice, state.stale = -1.0, 0

    def _sample(self, step: int) -> Sample:
        """Render the synthetic batch of a step."""
        neutral = self.kinds.learned(step) and self.kinds.replaces
        return self.batches.sample(step, appearance=not neutral)

    @property
    def _waits_for_cpu(self) -> bool:
        return self.device.type != "cpu" and self.training.synthesis_device == "cpu"

    def _plain(self, x: Tensor, y: Tensor, lr: float) -> dict[str, float]:
        step = hg.plain_step(
            self._first_order,
            self.rule,
            self.state.phi_moments,
            loss=self._losses(x, y),
            learning_rate=lr,
            max_gradient_norm=self.training.gradient_clip,
            reduce=self.processes.mean,
        )
        self.state.phi_moments = step.state
        self._count_skipped(step.skipped)
        return {"synthetic_loss": float(step.loss), "gradient_norm": float(step.gradient_norm)}

    def _hypergradient(self, step: int, sample: Sample, lr: float) -> dict[str, float]:
        t = self.training
        count = max(1, round(t.real_fraction * t.real_batch_size))
        x_real, y_real = self.batches.real(
            step, count, augmented=False, remapped=t.outer_remap_share
        )
        theta = list(self.augmentation.parameters())
        estimator = self.trials.estimator(
            step, self.state.checks, self.segmenter, self.state.phi_moments, theta, lr
        )
        result = estimator(
            self._first_order if estimator.first_order else self.segmenter,
            self.rule,
            self.state.phi_moments,
            augment=lambda: self._augment(sample),
            synthetic_loss=lambda predict, x, part: self._loss(predict, x, sample.target[part]),
            real_loss=self._losses(x_real, y_real),
            theta=theta,
            learning_rate=lr,
            synthetic_fraction=t.synthetic_fraction,
            micro_batch=t.micro_batch_size,
            max_gradient_norm=t.gradient_clip,
            reduce=self.processes.mean,
        )
        self.state.phi_moments = result.state
        self._count_skipped(result.skipped)
        norm = math.nan
        if not result.skipped:
            norm = self._update_theta(theta, result.theta_gradient)
        return {
            "synthetic_loss": float(result.synthetic_loss),
            "real_loss": float(result.real_loss),
            "gradient_norm": float(result.gradient_norm),
            "theta_gradient_norm": norm,
        }

    def _augment(self, sample: Sample) -> Tensor:
        if self.training.checkpoint_activations:
            made: Tensor = checkpoint(self.augmentation, sample, use_reentrant=False)
            return made
        image: Tensor = self.augmentation(sample)
        return image

    def _count_skipped(self, skipped: bool) -> None:
        state = self.state
        state.skipped += skipped
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if skipped else 0
        if skipped:
            logger.warning("step %d skipped: its loss or gradient is not finite", state.step + 1)

    @torch.no_grad()
    def _update_theta(self, theta: Sequence[nn.Parameter], gradient: Sequence[Tensor]) -> float:
        """Move theta; return the norm of its gradient."""
        t, state = self.training, self.state
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradient))
        finite = math.isfinite(norm)
        state.theta_skipped += not finite
        state.theta_skipped_in_a_row = 0 if finite else state.theta_skipped_in_a_row + 1
        if not finite:
            logger.warning("theta stays at step %d: its gradient is not finite", state.step + 1)
            return norm
        state.theta_trace = record(state.theta_trace, gradient, theta)
        if t.theta_gradient_clip is not None and norm > t.theta_gradient_clip:
            gradient = [g * (t.theta_gradient_clip / norm) for g in gradient]
        new, state.theta_moments = self.theta_rule.update(
            gradient, state.theta_moments, theta, learning_rate=t.theta_learning_rate
        )
        share = _trusted(theta, new, t.theta_trust)
        for parameter, value in zip(theta, new, strict=True):
            parameter.copy_(value if share == 1 else parameter.lerp(value, share))
        state.theta_steps += 1
        decay = min(t.theta_average, state.theta_steps / (state.theta_steps + 1))
        for key, value in self.augmentation.state_dict().items():
            state.theta_average[key].lerp_(value, 1 - decay)
        return norm

    @torch.no_grad()
    def _average_phi(self, step: int) -> None:
        decay = min(self.training.phi_average, (1 + step) / (10 + step))
        average: list[Tensor] = list(self.averaged.parameters())
        now: list[Tensor] = list(self.segmenter.parameters())
        torch._foreach_lerp_(average, now, 1 - decay)

    def _loss(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.training.precision == "bf16"
        ):
            logits = predict(x)
        return self.loss(logits.float(), y)

    def _losses(self, x: Tensor, y: Tensor) -> list[Loss]:
        """Losses of micro-batches, whose sum is the mean loss of the batch."""
        size = min(self.training.micro_batch_size or len(x), len(x))
        pieces = [slice(start, start + size) for start in range(0, len(x), size)]
        if len(pieces) == 1:
            return [lambda predict: self._loss(predict, x, y)]
        return [
            lambda predict, part=part: (  # type: ignore[misc]
                self._loss(predict, x[part], y[part]) * (len(x[part]) / len(x))
            )
            for part in pieces
        ]

    # ------------------------------------------------------------------ validation

    def _validate(self) -> float:
        candidate = self._candidate()
        return self.state.judge(self.score(candidate), candidate.state_dict())

    def _candidate(self) -> Segmenter:
        """Return the segmenter that is validated and perhaps kept."""
        if self.training.mode != "finetuned-averaged" or not self.state.phi_tuned:
            return self.averaged
        middle = copy.deepcopy(self.averaged)
        with torch.no_grad():
            for name, value in middle.state_dict().items():
                value.lerp_(self.state.phi_tuned[name], 0.5)
        return middle

    def score(self, segmenter: Segmenter) -> Any:
        """Dice of each validation scan and class on the working grid: (N, K - 1) array."""
        scores = []
        for scan in self.processes.share(self.data.validate):
            posteriors = predict_posteriors(
                segmenter, scan.image, device=self.device, precision=self.training.precision
            )
            scores.append(
                dice_scores(posteriors.argmax(0), as_classes(scan.target), self.n_classes).numpy()
            )
        return np.array(self.processes.merged(scores))


def _trusted(old: Sequence[Tensor], new: Sequence[Tensor], most: float | None) -> float:
    """Share of the step that keeps the change of every entry within ``most``."""
    if most is None:
        return 1.0
    longest = max(float((b - a).abs().max()) for a, b in zip(old, new, strict=True))
    return 1.0 if longest <= most else most / longest
