"""The parts of a training run that its settings name."""

from ..augmentation import Augmentation, build_augmentation
from ..config import LearnConfig, TrainingConfig
from . import updates
from .batches import TrainingData

__all__ = ["build_rule", "start_augmentation"]


def build_rule(training: TrainingConfig) -> updates.UpdateRule:
    """Return the update rule of the segmenter."""
    if training.optimizer == "sgd":
        return updates.sgd(momentum=0.9, weight_decay=training.weight_decay)
    if training.optimizer == "adamw":
        return updates.adamw(weight_decay=training.weight_decay)
    return updates.adam(weight_decay=training.weight_decay)


def start_augmentation(config: LearnConfig, data: TrainingData) -> Augmentation:
    """Return the learned augmentation where it starts: at the statistics of the learning scans."""
    chosen = config.augmentation
    augmentation = build_augmentation(
        chosen.name,
        ndim=config.segmenter.ndim,
        group_names=data.synthesizer.labels.group_names,
        options=chosen.options,
    )
    augmentation.start(data.statistics)
    return augmentation
