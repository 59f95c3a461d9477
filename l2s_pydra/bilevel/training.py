"""The one training loop, for Learn2Synth and its baselines."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from ..augmentation import Augmentation, build_augmentation
from ..config import LearnConfig
from ..errors import ConfigError, TrainingError
from ..normalisation import normalise
from ..segmentation import Segmenter, build_loss, dice_scores, predict_posteriors
from ..synthesis import Sample, SynthesisDraw, Synthesizer
from . import hypergradient as hg
from . import updates
from .passes import Predict
from .state import TrainingState

__all__ = ["RealScan", "Trainer", "TrainingData"]

logger = logging.getLogger(__name__)

Progress = Callable[[Mapping[str, Any]], None]
_STREAMS = {"synthetic": 1, "choice": 2, "real": 3, "spatial": 4}


@attrs.frozen(kw_only=True, eq=False)
class RealScan:
    """A labelled real image on the working and on the fine grid, RAS orientation."""

    name: str
    """Participant and image."""
    image: Tensor
    """(*S,) float32 on the working grid, any intensity unit."""
    target: Tensor
    """(K, *S) share of each class in each voxel."""
    fine_image: Tensor
    """(*F,) float32."""
    fine_channels: Tensor
    """(*F,) uint8 or int16 class of each voxel."""


@attrs.frozen(kw_only=True, eq=False)
class TrainingData:
    """What a run trains on; learning and validation scans are of different participants."""

    synthesizer: Synthesizer
    """Draws from all label maps."""
    own: Sequence[int]
    """Which label maps are those of the learning participants."""
    learn: Sequence[RealScan]
    """Scans of the outer level (2-D: slices); the training images of ``supervised``."""
    validate: Sequence[RealScan]
    """Scans for selection, always whole volumes."""
    statistics: Mapping[str, tuple[float, float]]
    """Mean and standard deviation of each intensity group in the learning scans, in [0, 1]."""
    opposite: Sequence[int]
    """Channel on the other side of the body."""


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
        File to resume from, if it exists, and to write to.

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
    ) -> None:
        self.config, self.data = config, data
        self.training = config.training
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.training.precision == "fp32":
            # TF32 would drown the difference of two gradients.
            torch.backends.cudnn.allow_tf32 = False
        self.checkpoint = checkpoint
        self.n_classes = n_classes
        self._own = sorted(set(data.own))
        self._others = sorted(set(range(len(data.synthesizer.label_maps))) - set(self._own))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            self.segmenter = Segmenter(config.segmenter, n_classes).to(self.device)
            self.averaged = Segmenter(config.segmenter, n_classes).to(self.device)
            self.augmentation = self._build_augmentation()
        self.segmenter.to(memory_format=self.segmenter.layout)  # type: ignore[call-overload]
        self.averaged.load_state_dict(self.segmenter.state_dict())
        self.theta_start = self.augmentation.describe()
        self.loss = build_loss(self.training.loss)
        self.rule = _rule(config)
        self.theta_rule = updates.adam()
        self.estimator = _estimator(config)
        self.identity = _identity(config, data)
        self.state = self._start()

    # ------------------------------------------------------------------ set-up

    def _build_augmentation(self) -> Augmentation:
        chosen = self.config.augmentation
        augmentation = build_augmentation(
            chosen.name,
            ndim=self.config.segmenter.ndim,
            group_names=self.data.synthesizer.labels.group_names,
            options=chosen.options,
        )
        augmentation.start(self.data.statistics)
        return augmentation.to(self.device)

    def _start(self) -> TrainingState:
        if self.checkpoint is not None and self.checkpoint.exists():
            state = TrainingState.load(self.checkpoint, self.device)
            if state.identity != self.identity:
                raise TrainingError(
                    f"{self.checkpoint}: is of a run with other settings or data; "
                    "give another folder, or delete the file to start over"
                )
            self.segmenter.load_state_dict(state.phi)
            self.averaged.load_state_dict(state.phi_average)
            self.augmentation.load_state_dict(state.theta)
            state.phi_moments = _laid_out_as(self.segmenter, state.phi_moments)
            logger.info("resuming at step %d from %s", state.step, self.checkpoint)
            return state
        phi, theta = self.segmenter.state_dict(), self.augmentation.state_dict()
        return TrainingState(
            identity=self.identity,
            phi=_copy(phi),
            phi_average=_copy(phi),
            phi_best=_copy(phi),
            phi_moments=self.rule.init(list(self.segmenter.parameters())),
            theta=_copy(theta),
            theta_average=_copy(theta),
            theta_moments=self.theta_rule.init(list(self.augmentation.parameters())),
        )

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
            If the loss is not finite.
        """
        t, state = self.training, self.state
        clock = time.monotonic() - state.seconds
        sums: dict[str, list[float]] = {}
        every = max(1, min(t.validate_every, t.steps // 400))
        while state.step < t.steps:
            values = self._step(state.step)
            if not math.isfinite(values["synthetic_loss"]):
                raise TrainingError(
                    f"the loss is not finite at step {state.step + 1}; "
                    "lower the learning rate or train in fp32"
                )
            for key, value in values.items():
                sums.setdefault(key, []).append(value)
            state.step += 1
            state.seconds = time.monotonic() - clock
            last = state.step == t.steps
            validates = last or state.step % t.validate_every == 0
            saves = last or state.step % t.checkpoint_every == 0
            row = {"step": float(state.step), "seconds": state.seconds, **values}
            if validates:
                row["validation_dice"] = self._validate()
            # A window of the log ends at a checkpoint: what follows may be run by another session.
            if validates or saves or state.step % every == 0:
                means = {key: float(np.mean(v)) for key, v in sums.items()}
                theta = {f"theta/{k}": v for k, v in self.augmentation.describe().items()}
                state.history.append({**row, **means, **theta})
                sums.clear()
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
        return state

    def save(self) -> None:
        """Write the checkpoint, if there is a file for it."""
        state = self.state
        state.phi, state.theta = self.segmenter.state_dict(), self.augmentation.state_dict()
        state.phi_average = self.averaged.state_dict()
        if self.checkpoint is not None:
            state.save(self.checkpoint)

    def _step(self, step: int) -> dict[str, float]:
        t = self.training
        lr = _learning_rate(t.learning_rate, step, t.steps, t.schedule)
        if t.mode == "supervised":
            x, y = self.real_batch(step, t.batch_size, augmented=True)
            values = self._plain(x, y, lr)
        else:
            learned = self._is_learned(step)
            sample = self.sample(step, appearance=not (learned and self._replaces))
            if learned and self._moves_theta(step):
                values = self._hypergradient(step, sample, lr)
            else:
                with torch.no_grad():
                    x = self.augmentation(sample) if learned else sample.image
                values = self._plain(x, sample.target, lr)
        self._average_phi(step)
        return {**values, "learning_rate": lr}

    @property
    def _replaces(self) -> bool:
        return self.augmentation.replaces_intensities

    def _is_learned(self, step: int) -> bool:
        """Whether A_theta makes this step's images; an augmentation of images always does."""
        if not self._replaces:
            return True
        if self.training.mode == "synthseg":
            return False
        return bool(self._rng("choice", step).random() >= self.training.wide_share)

    def _moves_theta(self, step: int) -> bool:
        t = self.training
        return (
            t.mode == "learn2synth"
            and step >= t.theta_warmup_steps
            and step % t.hypergradient_every == 0
        )

    def _plain(self, x: Tensor, y: Tensor, lr: float) -> dict[str, float]:
        step = hg.plain_step(
            self.segmenter,
            self.rule,
            self.state.phi_moments,
            loss=lambda predict: self._loss(predict, x, y),
            learning_rate=lr,
        )
        self.state.phi_moments = step.state
        return {"synthetic_loss": float(step.loss), "gradient_norm": float(step.gradient_norm)}

    def _hypergradient(self, step: int, sample: Sample, lr: float) -> dict[str, float]:
        t = self.training
        count = max(1, round(t.real_fraction * t.real_batch_size))
        x_real, y_real = self.real_batch(step, count, augmented=False)
        theta = list(self.augmentation.parameters())
        result = self.estimator(
            self.segmenter,
            self.rule,
            self.state.phi_moments,
            augment=lambda: self.augmentation(sample),
            synthetic_loss=lambda predict, x, part: self._loss(predict, x, sample.target[part]),
            real_loss=lambda predict: self._loss(predict, x_real, y_real),
            theta=theta,
            learning_rate=lr,
            synthetic_fraction=t.synthetic_fraction,
        )
        self.state.phi_moments = result.state
        self._update_theta(theta, result.theta_gradient)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in result.theta_gradient))
        return {
            "synthetic_loss": float(result.synthetic_loss),
            "real_loss": float(result.real_loss),
            "gradient_norm": float(result.gradient_norm),
            "theta_gradient_norm": norm,
        }

    @torch.no_grad()
    def _update_theta(self, theta: Sequence[nn.Parameter], gradient: Sequence[Tensor]) -> None:
        if not all(bool(torch.isfinite(g).all()) for g in gradient):
            logger.warning("hypergradient is not finite at step %d; skipped", self.state.step)
            return
        t, state = self.training, self.state
        new, state.theta_moments = self.theta_rule.update(
            gradient, state.theta_moments, theta, learning_rate=t.theta_learning_rate
        )
        for parameter, value in zip(theta, new, strict=True):
            parameter.copy_(value)
        state.theta_steps += 1
        decay = min(t.theta_average, state.theta_steps / (state.theta_steps + 1))
        for key, value in self.augmentation.state_dict().items():
            state.theta_average[key].lerp_(value, 1 - decay)

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

    # ------------------------------------------------------------------ data

    def _rng(self, stream: str, step: int) -> np.random.Generator:
        return np.random.default_rng([self.training.seed, _STREAMS[stream], step])

    def draws(self, step: int, *, appearance: bool = True) -> list[SynthesisDraw]:
        """Draw what the synthetic batch of a step is made from."""
        rng, own, others = self._rng("synthetic", step), self._own, self._others
        draws = []
        for _ in range(self.training.batch_size):
            pick_own = rng.random() < self.training.own_label_share
            pool = (own if pick_own else others) or own or others
            draws.append(
                self.data.synthesizer.draw(
                    int(rng.integers(2**53)),
                    label_map=int(rng.choice(pool)),
                    appearance=appearance,
                )
            )
        return draws

    def sample(self, step: int, *, appearance: bool = True) -> Sample:
        """Render the synthetic batch of a step."""
        return self.data.synthesizer.render(self.draws(step, appearance=appearance), self.device)

    def real_batch(self, step: int, count: int, *, augmented: bool) -> tuple[Tensor, Tensor]:
        """Draw real images and their targets: (B, 1, *S), (B, K, *S).

        ``augmented`` deforms them and changes their appearance as the generator would (for
        supervised training); otherwise they are only mirrored at random.
        """
        rng, scans = self._rng("real", step), self.data.learn
        images, targets = [], []
        order = rng.permutation(len(scans))
        for i in range(count):
            scan = scans[int(order[i % len(scans)])]
            if augmented:
                draw = self.data.synthesizer.draw(int(rng.integers(2**53)))
                image, target = self.data.synthesizer.augment(
                    scan.fine_image, scan.fine_channels, draw, opposite=self.data.opposite
                )
            else:
                image, target = normalise(scan.image[None, None])[0, 0], scan.target
                if rng.random() < self.data.synthesizer.config.flip:
                    image, target = image.flip(0), target.flip(1)[list(self.data.opposite)]
            images.append(image)
            targets.append(target)
        return torch.stack(images)[:, None].to(self.device), torch.stack(targets).to(self.device)

    # ------------------------------------------------------------------ validation

    def _validate(self) -> float:
        scores = self.score(self.averaged)
        state = self.state
        value = _mean(scores)
        value = value if math.isfinite(value) else 0.0
        if value > state.best_dice:
            state.best_dice, state.best_step = value, state.step
            state.best_per_class = [_mean(column) for column in scores.T]
            state.phi_best = _copy(self.averaged.state_dict())
        return value

    def score(self, segmenter: Segmenter) -> Any:
        """Dice of each validation scan and class on the working grid: (N, K - 1) array."""
        scores = []
        for scan in self.data.validate:
            posteriors = predict_posteriors(
                segmenter, scan.image, device=self.device, precision=self.training.precision
            )
            scores.append(
                dice_scores(posteriors.argmax(0), scan.target.argmax(0), self.n_classes).numpy()
            )
        return np.array(scores)


def _mean(scores: Any) -> float:
    """Mean of the scores of classes that occur; NaN if none does."""
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if known.size else math.nan


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in tensors.items()}


def _laid_out_as(module: nn.Module, moments: Mapping[str, Any]) -> dict[str, Any]:
    """Moments in the memory format of the parameters, on which the order of sums depends."""
    parameters = list(module.parameters())
    return {
        key: [torch.empty_like(p).copy_(m) for p, m in zip(parameters, value, strict=True)]
        if isinstance(value, list)
        else value
        for key, value in moments.items()
    }


def _identity(config: LearnConfig, data: TrainingData) -> str:
    """Checksum of everything that decides what a run computes."""
    digest = hashlib.sha256(config.to_json().encode())
    for scan in (*data.learn, *data.validate):
        digest.update(scan.name.encode() + scan.image.numpy().tobytes())
        digest.update(scan.fine_channels.numpy().tobytes())
    for labels in data.synthesizer.label_maps:
        digest.update(labels.numpy().tobytes())
    tables = data.synthesizer.labels
    for table in (tables.group, tables.channel, tables.swap):
        digest.update(table.numpy().tobytes())
    digest.update(repr((tables.group_names, tuple(data.opposite))).encode())
    return digest.hexdigest()


def _rule(config: LearnConfig) -> updates.UpdateRule:
    t = config.training
    if t.optimizer == "sgd":
        return updates.sgd(momentum=0.9, weight_decay=t.weight_decay)
    if t.optimizer == "adamw":
        return updates.adamw(weight_decay=t.weight_decay)
    return updates.adam(weight_decay=t.weight_decay)


def _estimator(config: LearnConfig) -> hg.Hypergradient:
    t = config.training
    if t.estimator == "exact":
        return hg.Exact()
    if t.estimator == "one_sided_difference":
        return hg.OneSidedDifference(epsilon=t.epsilon)
    raise ConfigError(f"unknown estimator {t.estimator!r}; available: exact, one_sided_difference")


def _learning_rate(peak: float, step: int, steps: int, schedule: str) -> float:
    """Cosine decay to 1 % of the peak after a short linear warm-up, or constant.

    >>> [round(_learning_rate(1.0, s, 1000, "cosine"), 2) for s in (0, 30, 500, 999)]
    [0.03, 1.0, 0.51, 0.01]
    """
    if schedule == "constant":
        return peak
    warmup = max(1, min(steps // 33, 500))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
