"""The parts of a training run that its settings name."""

from collections.abc import Callable

from torch import Tensor

from ..augmentation import Augmentation, build_augmentation
from ..config import LearnConfig, TrainingConfig
from . import updates
from .batches import TrainingData
from .passes import Loss, Predict

__all__ = ["build_rule", "split_loss", "start_augmentation"]


def build_rule(training: TrainingConfig) -> updates.UpdateRule:
    """Return the update rule of the segmenter."""
    if training.optimizer == "sgd":
        return updates.sgd(momentum=0.9, weight_decay=training.weight_decay)
    adam = updates.adamw if training.optimizer == "adamw" else updates.adam
    return adam(betas=(0.9, training.beta2), weight_decay=training.weight_decay)


def start_augmentation(config: LearnConfig, data: TrainingData) -> Augmentation:
    """Return the augmentation where it starts: at the statistics of the learning scans, or as given.

    Without scans, and if nothing is given, it starts wide.

    Raises
    ------
    ConfigError
        If it cannot be built, or is not what it was when the settings were made.
    """
    chosen = config.augmentation
    chosen.check_code()
    augmentation = build_augmentation(
        chosen.name,
        ndim=config.segmenter.ndim,
        group_names=data.synthesizer.labels.group_names,
        options=chosen.options,
    )
    if data.statistics:
        augmentation.start(data.statistics)
    if chosen.theta is not None:
        augmentation.restore(chosen.theta)
    return augmentation


def split_loss(
    loss: Callable[[Predict, Tensor, Tensor], Tensor], x: Tensor, y: Tensor, size: int | None
) -> list[Loss]:
    """Return losses of micro-batches, whose sum is the mean loss of a batch.

    Parameters
    ----------
    loss : callable
        ``loss(predict, x, y)``, a mean over images.
    x, y : tensors
        Images and targets of the batch.
    size : int or None
        Most images in one pass; all if None.
    """
    most = min(size or len(x), len(x))
    pieces = [slice(start, start + most) for start in range(0, len(x), most)]
    if len(pieces) == 1:
        return [lambda predict: loss(predict, x, y)]
    return [
        lambda predict, part=part: (  # type: ignore[misc]
            loss(predict, x[part], y[part]) * (len(x[part]) / len(x))
        )
        for part in pieces
    ]
