"""What tells one training run from another, so that none goes on from a foreign checkpoint."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import LearnConfig, TrainingConfig
from .batches import TrainingData

__all__ = ["identity"]

_INDIFFERENT = ("checkpoint_every", "checkpoint_activations", "fit_memory", "micro_batch_size")
"""Settings of the training that decide how often it is written and how much memory it takes: the
result is the same, to rounding."""


def identity(
    config: LearnConfig, data: TrainingData, start: Mapping[str, Tensor] | None = None
) -> str:
    """Return a checksum of everything that decides what a run computes.

    It does not depend on how many threads or processes have prepared the data. ``start`` holds the
    weights that the segmenter starts from, if it does not start afresh.
    """
    defaults = {f"training__{name}": getattr(TrainingConfig(), name) for name in _INDIFFERENT}
    digest = hashlib.sha256(config.evolve(**defaults).to_json().encode())
    for scan in (*data.learn, *data.validate):
        digest.update(f"{scan.name} {_gist(scan.image)}".encode())
        digest.update(scan.fine_channels.numpy().tobytes())
    for labels in data.synthesizer.label_maps:
        digest.update(labels.numpy().tobytes())
    tables = data.synthesizer.labels
    for table in (tables.group, tables.channel, tables.swap):
        digest.update(table.numpy().tobytes())
    digest.update(repr((tables.group_names, tuple(data.opposite))).encode())
    for name, weights in sorted((start or {}).items()):
        digest.update(name.encode() + weights.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _gist(image: Tensor) -> str:
    """Describe an image so that others differ, and the rounding of other threads does not."""
    values = image.double()
    rough = torch.stack([values.diff(dim=axis).abs().mean() for axis in range(values.ndim)]).mean()
    return f"{tuple(image.shape)} {values.mean():.3e} {values.std():.3e} {rough:.3e}"
