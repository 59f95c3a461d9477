r"""Segmentation losses, means over the batch.

Symbols: :math:`z` logits, :math:`p` their softmax over the :math:`K` classes, :math:`t` targets
(one-hot, or shares of a voxel), :math:`v` voxels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor

from ..errors import ConfigError, ShapeError

__all__ = [
    "build_loss",
    "cross_entropy_and_dice_loss",
    "cross_entropy_loss",
    "logit_mse_loss",
    "soft_dice_loss",
]

Loss = Callable[[Tensor, Tensor], Tensor]


def _check(logits: Tensor, target: Tensor) -> None:
    if logits.shape != target.shape:
        raise ShapeError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} must have one shape"
        )


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    r"""Cross-entropy with soft targets.

    .. math:: \ell = -\frac{1}{V} \sum_v \sum_k t_{kv} \log p_{kv}

    Parameters
    ----------
    logits, target : (B, K, *S) tensors

    Returns
    -------
    () tensor

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    _check(logits, target)
    return -(F.log_softmax(logits, 1) * target).sum(1).mean()


def soft_dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1e-5) -> Tensor:
    r"""One minus the mean soft Dice overlap.

    .. math:: \ell = 1 - \frac{1}{BK} \sum_{b,k}
        \frac{2 \sum_v p_{kv} t_{kv} + \epsilon}{\sum_v p_{kv} + \sum_v t_{kv} + \epsilon}

    Parameters
    ----------
    logits, target : (B, K, *S) tensors
    smooth : float, default=1e-5
        :math:`\epsilon`; keeps empty classes finite.

    Returns
    -------
    () tensor
        In [0, 1].

    Raises
    ------
    ShapeError
        If the shapes differ.

    References
    ----------
    Milletari et al., V-Net, 3DV 2016; here without the squares.
    """
    _check(logits, target)
    axes = tuple(range(2, logits.ndim))
    p = logits.softmax(1)
    overlap = 2 * (p * target).sum(axes) + smooth
    return 1 - (overlap / (p.sum(axes) + target.sum(axes) + smooth)).mean()


def cross_entropy_and_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of :func:`cross_entropy_loss` and :func:`soft_dice_loss` (Isensee et al., nnU-Net)."""
    return cross_entropy_loss(logits, target) + soft_dice_loss(logits, target)


def logit_mse_loss(logits: Tensor, target: Tensor, *, scale: float = 5.0) -> Tensor:
    r"""Mean squared difference of the logits from :math:`\pm` ``scale``.

    .. math:: \ell = \frac{1}{VK} \sum_{k,v} (z_{kv} - s\,(2 t_{kv} - 1))^2

    Parameters
    ----------
    logits, target : (B, K, *S) tensors
    scale : float, default=5
        :math:`s`, as in the scripts of Hu et al. (ICCV 2025).

    Raises
    ------
    ShapeError
        If the shapes differ.
    """
    _check(logits, target)
    return torch.mean((logits - scale * (2 * target - 1)) ** 2)


_LOSSES: dict[str, Loss] = {
    "ce": cross_entropy_loss,
    "dice": soft_dice_loss,
    "ce_dice": cross_entropy_and_dice_loss,
    "logit_mse": logit_mse_loss,
}


def build_loss(name: str) -> Loss:
    """Return the loss called ``name``: ``ce``, ``dice``, ``ce_dice`` or ``logit_mse``.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    try:
        return _LOSSES[name]
    except KeyError:
        raise ConfigError(f"unknown loss {name!r}; available: {', '.join(_LOSSES)}") from None
