"""Two forms of a segmentation target: a class for each voxel, or shares of the classes in it.

A class map, (*S,) of an integer type, is exact where a voxel has one class, and a fraction of the
size of shares, (K, *S) of a floating type. Batches have a first axis more. What can be done with
either is here; the type tells them apart.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["as_classes", "foreground", "is_class_map", "mirror_target"]


def is_class_map(target: Tensor) -> bool:
    """Whether a target holds classes, and not shares."""
    return not target.is_floating_point()


def as_classes(target: Tensor) -> Tensor:
    """Most frequent class of each voxel: (*S,) integer tensor.

    Examples
    --------
    >>> as_classes(torch.tensor([[0.2, 0.5], [0.8, 0.5]])).tolist()
    [1, 0]
    """
    return target if is_class_map(target) else target.argmax(0)


def foreground(target: Tensor) -> Tensor:
    """Share of each voxel that is not background: (*S,) float tensor."""
    return (target > 0).float() if is_class_map(target) else 1 - target[0]


def mirror_target(target: Tensor, opposite: Sequence[int]) -> Tensor:
    """Mirror along the first spatial axis.

    Parameters
    ----------
    target : (*S,) or (K, *S) tensor
    opposite : sequence of int
        Class on the other side of the body.
    """
    if not is_class_map(target):
        return target.flip(1)[list(opposite)]
    table = torch.tensor(opposite, dtype=target.dtype, device=target.device)
    flipped = target.flip(0)
    return table.index_select(0, flipped.reshape(-1).to(torch.int32)).view(flipped.shape)
