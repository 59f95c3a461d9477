"""Images that a training has seen, kept with the model for its page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bilevel.training import Trainer, TrainingData

__all__ = ["samples_size", "write_samples"]

_SAMPLES = 4


def samples_size(data: "TrainingData") -> int:
    """Bytes of the samples before they are compressed, and of the small files."""
    voxels = 1
    for side in data.synthesizer.image_shape:
        voxels *= side
    return 3 * _SAMPLES * 2 * voxels + 10**6


def write_samples(folder: Path, trainer: "Trainer", data: "TrainingData") -> None:
    """Write learned and wide synthetic images and real ones, with labels, for the report.

    Without real images there are wide ones only.
    """
    import numpy as np
    import torch

    from ..normalisation import normalise
    from ..targets import as_classes

    folder.mkdir()
    learned_matters = trainer.augmentation.replaces_intensities
    kinds: dict[str, list[tuple[Any, Any]]] = {"wide": []}
    if data.learn:
        kinds = {"learned": [], "wide": [], "real": []}
    with torch.no_grad():
        for i in range(_SAMPLES):
            for kind in kinds.keys() - {"real"}:
                learned = kind == "learned"
                sample = trainer.batches.sample(
                    10**9 + i, appearance=not (learned and learned_matters)
                )
                image = trainer.augmentation(sample) if learned else sample.image
                kinds[kind].append((image[0, 0].cpu(), as_classes(sample.target[0]).cpu()))
    step = max(1, len(data.learn) // _SAMPLES)
    for scan in data.learn[::step][:_SAMPLES]:
        kinds["real"].append((normalise(scan.image[None, None])[0, 0], as_classes(scan.target)))
    for kind, pairs in kinds.items():
        np.savez_compressed(
            folder / f"{kind}.npz",
            images=np.stack([(image * 100).round().clamp(0, 255).byte() for image, _ in pairs]),
            labels=np.stack([labels.byte() for _, labels in pairs]),
        )
