r"""Segmentation losses, means over the batch.

Symbols: :math:`z` logits, :math:`p` their softmax over the :math:`K` classes, :math:`t` targets
(one-hot, or shares of a voxel; see :mod:`l2s_pydra.targets`), :math:`v` voxels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..targets import is_class_map

__all__ = [
    "build_loss",
    "cross_entropy_and_dice_loss",
    "cross_entropy_loss",
    "logit_mse_loss",
    "soft_dice_loss",
]

Loss = Callable[[Tensor, Tensor], Tensor]


def _check(logits: Tensor, target: Tensor) -> None:
    expected = logits.shape
    if is_class_map(target):
        expected = torch.Size((expected[0], *expected[2:]))
    if target.shape != expected:
        raise ShapeError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit: shares of "
            f"classes have the shape of the logits, class maps {tuple(expected)}"
        )


def _at_class(values: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Values of each voxel's own class, and these classes: (B, V), (B, V)."""
    classes = target.flatten(1).long()
    return values.flatten(2).gather(1, classes[:, None])[:, 0], classes


def _cross_entropy(log_p: Tensor, target: Tensor) -> Tensor:
    if is_class_map(target):
        return -_at_class(log_p, target)[0].mean()
    return -(log_p * target).sum(1).mean()


def _soft_dice(p: Tensor, target: Tensor, smooth: float) -> Tensor:
    axes = tuple(range(2, p.ndim))
    if is_class_map(target):
        own, classes = _at_class(p, target)
        none = p.new_zeros(p.shape[:2])
        hits = none.scatter_add(1, classes, own)
        size = none.scatter_add(1, classes, torch.ones_like(own))
    else:
        hits, size = (p * target).sum(axes), target.sum(axes)
    return 1 - ((2 * hits + smooth) / (p.sum(axes) + size + smooth)).mean()


def _dense(logits: Tensor) -> Tensor:
    """On CPUs, sums and softmax over classes are slow in the layout of the network's output."""
    return logits.contiguous() if logits.device.type == "cpu" else logits


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(_dense(logits), 1)


def cross_entropy_loss(logits: Tensor, target: Tensor) -> Tensor:
    r"""Cross-entropy, also with shares of classes.

    .. math:: \ell = -\frac{1}{V} \sum_v \sum_k t_{kv} \log p_{kv}

    Parameters
    ----------
    logits : (B, K, *S) tensor
    target : (B, *S) integer or (B, K, *S) float tensor
        Classes, or their shares.

    Returns
    -------
    () tensor

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    """
    _check(logits, target)
    return _cross_entropy(_log_softmax(logits), target)


def soft_dice_loss(logits: Tensor, target: Tensor, *, smooth: float = 1e-5) -> Tensor:
    r"""One minus the mean soft Dice overlap.

    .. math:: \ell = 1 - \frac{1}{BK} \sum_{b,k}
        \frac{2 \sum_v p_{kv} t_{kv} + \epsilon}{\sum_v p_{kv} + \sum_v t_{kv} + \epsilon}

    Parameters
    ----------
    logits : (B, K, *S) tensor
    target : (B, *S) integer or (B, K, *S) float tensor
        Classes, or their shares.
    smooth : float, default=1e-5
        :math:`\epsilon`; keeps empty classes finite.

    Returns
    -------
    () tensor
        In [0, 1].

    Raises
    ------
    ShapeError
        If the shapes do not fit.

    References
    ----------
    Milletari et al., V-Net, 3DV 2016; here without the squares.
    """
    _check(logits, target)
    return _soft_dice(_dense(logits).softmax(1), target, smooth)


def cross_entropy_and_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of :func:`cross_entropy_loss` and :func:`soft_dice_loss` (Isensee et al., nnU-Net)."""
    _check(logits, target)
    log_p = _log_softmax(logits)
    return _cross_entropy(log_p, target) + _soft_dice(log_p.exp(), target, 1e-5)


def logit_mse_loss(logits: Tensor, target: Tensor, *, scale: float = 5.0) -> Tensor:
    r"""Mean squared difference of the logits from :math:`\pm` ``scale``.

    .. math:: \ell = \frac{1}{VK} \sum_{k,v} (z_{kv} - s\,(2 t_{kv} - 1))^2

    Parameters
    ----------
    logits : (B, K, *S) tensor
    target : (B, *S) integer or (B, K, *S) float tensor
        Classes, or their shares.
    scale : float, default=5
        :math:`s`, as in the scripts of Hu et al. (ICCV 2025).

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    """
    _check(logits, target)
    if is_class_map(target):
        # (z - s)^2 at a voxel's class and (z + s)^2 elsewhere differ by 4 s z.
        own, _ = _at_class(logits, target)
        return (logits + scale).square().mean() - 4 * scale * own.mean() / logits.shape[1]
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
