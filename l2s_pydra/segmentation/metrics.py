"""Overlap of label maps."""

import torch
from torch import Tensor

__all__ = ["dice_scores"]


def dice_scores(predicted: Tensor, reference: Tensor, count: int) -> Tensor:
    r"""Dice overlap of each class but the background.

    .. math:: D_k = \frac{2 |P_k \cap R_k|}{|P_k| + |R_k|}

    Parameters
    ----------
    predicted, reference : integer tensors of one shape
        Channel of each voxel.
    count : int
        Number of classes, background included.

    Returns
    -------
    (count - 1,) float64 tensor
        NaN where the class occurs in neither.

    References
    ----------
    Dice, Ecology 1945.

    Examples
    --------
    >>> dice_scores(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), 4)[:2]
    tensor([0.6667, 0.6667], dtype=torch.float64)
    """
    p, r = predicted.reshape(-1).long(), reference.reshape(-1).long()
    both = torch.bincount(p[p == r], minlength=count).double()
    total = torch.bincount(p, minlength=count) + torch.bincount(r, minlength=count)
    return (2 * both / total.double())[1:]
