"""How good a segmenter is on the validation scans."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..segmentation import Segmenter, dice_scores, predict_posteriors
from ..targets import as_classes
from .batches import RealScan
from .processes import Processes

__all__ = ["halfway", "scores_of"]


def scores_of(
    segmenter: Segmenter,
    scans: Sequence[RealScan],
    *,
    device: torch.device,
    precision: str,
    processes: Processes,
) -> Any:
    """Dice of each scan and class on the working grid, whole volumes.

    Parameters
    ----------
    segmenter : Segmenter
        On ``device``.
    scans : sequence of RealScan
        Shared by the processes.
    device : torch.device
        Where to compute.
    precision : str
        ``bf16`` or ``fp32``.
    processes : Processes
        All get the scores of all.

    Returns
    -------
    (N, K - 1) array
        Without the background; NaN where a class does not occur.
    """
    scores = []
    for scan in processes.share(scans):
        posteriors = predict_posteriors(segmenter, scan.image, device=device, precision=precision)
        classes = posteriors.argmax(0)
        scores.append(dice_scores(classes, as_classes(scan.target), segmenter.n_classes).numpy())
    return np.array(processes.merged(scores))


@torch.no_grad()
def halfway(segmenter: Segmenter, weights: Mapping[str, Tensor]) -> Segmenter:
    """Return a segmenter half way from a given one to other weights."""
    middle = copy.deepcopy(segmenter)
    for name, value in middle.state_dict().items():
        value.lerp_(weights[name], 0.5)
    return middle
