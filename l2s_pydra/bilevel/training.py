"""The one training loop, for Learn2Synth and its baselines."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import LearnConfig
from ..errors import TrainingError
from ..segmentation import Segmenter, build_loss
from ..synthesis import Sample
from . import hypergradient as hg
from . import updates
from .batches import Ahead, Batches, RealScan, TrainingData, random_contrast
from .building import build_rule, split_loss, start_augmentation
from .checkpoints import Checkpoints
from .identity import identity
from .passes import Loss, Predict
from .processes import Processes, check_shares
from .relief import Recovery, Relief, lighter, too_little
from .schedule import FINETUNED, REMAPPED, Kinds, Schedule
from .state import TrainingState, copied
from .theta import move_theta
from .trials import Trials
from .validation import halfway, scores_of

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
    changes : sequence of mappings
        What was changed in the settings so that the run fits into memory; kept with its state.
    start : mapping, optional
        Weights of a segmenter of the same settings, to start from instead of random ones.

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
        changes: Sequence[Mapping[str, Any]] = (),
        start: Mapping[str, Tensor] | None = None,
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
        if start is not None:
            self.segmenter.load_state_dict(start)
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
        self.identity = identity(config, data, start)
        self.schedule = Schedule(self.training)
        self.kinds = Kinds(
            config=self.training,
            chance=self.batches.chance,
            replaces=self.augmentation.replaces_intensities,
            given=config.augmentation.theta is not None,
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
        self.state = self._resumed() or TrainingState.first(
            self.identity, self.segmenter, self.augmentation, (self.rule, self.theta_rule)
        )
        self.state.memory += [dict(change) for change in changes[len(self.state.memory) :]]
        self.relief = Relief(
            recovery=Recovery(segmenter=self.segmenter, augmentation=self.augmentation),
            ease=self._ease,
            device=self.device,
        )
        self._samples = Ahead(self._sample, 0)

    # ------------------------------------------------------------------ set-up

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
        if state.memory:
            self._spare(state.memory[-1])
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
            If too many steps in a row had a loss or a gradient that was not finite, or memory ran
            out although it is spared.
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
            values = self.relief(lambda: self._step(state.step), state)
            state.stop_if_lost(t, self.checkpoint)
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
                state.log(row, self.augmentation.describe())
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

    def _spare(self, change: Mapping[str, Any]) -> None:
        """Take less memory from now on."""
        names = ("checkpoint_activations", "micro_batch_size")
        spared = {f"training__{k}": change[k] for k in names if change.get(k)}
        self.config = self.config.evolve(**spared)
        self.training = self.config.training
        self.segmenter.unet.checkpointing = self.training.checkpoint_activations
        self.trials = attrs.evolve(self.trials, config=self.training)

    def _ease(self, reason: str) -> None:
        """Take less memory after a step that ran out of it, but only once, and alone."""
        step = self.state.step + 1
        if self.relief.eased or self.processes.size > 1:
            raise too_little(step, reason)
        change = lighter(self.training, step, reason)
        self._spare(change)
        self.state.memory.append(change)
        logger.warning("%s", change["why"])

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
                    x = self._learned(sample, step) if learned else sample.image
                values = self._plain(x, sample.target, lr)
            values["synthesis_seconds"] = waited
        self._average_phi(step)
        return {**values, "learning_rate": lr}

    def _learned(self, sample: Sample, step: int) -> Tensor:
        """Draw from A_theta, with a random contrast if the step is one of these."""
        images: Tensor = self.augmentation(sample)
        if not self.kinds.remapped(step):
            return images
        pairs = zip(images, sample.seeds, strict=True)
        return torch.stack([random_contrast(image[0], seed)[None] for image, seed in pairs])

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
            norm = move_theta(
                self.augmentation, result.theta_gradient, self.state, self.theta_rule, t
            )
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
        return split_loss(self._loss, x, y, self.training.micro_batch_size)

    # ------------------------------------------------------------------ validation

    def _validate(self) -> float:
        candidate = self._candidate()
        return self.state.judge(self.score(candidate), candidate.state_dict())

    def _candidate(self) -> Segmenter:
        """Return the segmenter that is validated and perhaps kept."""
        if self.training.mode != "finetuned-averaged" or not self.state.phi_tuned:
            return self.averaged
        return halfway(self.averaged, self.state.phi_tuned)

    def score(self, segmenter: Segmenter) -> Any:
        """Dice of each validation scan and class on the working grid: (N, K - 1) array."""
        return scores_of(
            segmenter,
            self.data.validate,
            device=self.device,
            precision=self.training.precision,
            processes=self.processes,
        )
