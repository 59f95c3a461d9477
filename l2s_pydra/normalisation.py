"""Intensity normalisation shared by synthetic images, real images and inference."""

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["normalise"]

_MOST_VOXELS = 2**17
_GOLDEN = (5**0.5 - 1) / 2


def normalise(x: Tensor) -> Tensor:
    """Rescale each image robustly to about [0, 1].

    The low end is the 0.5th percentile of all voxels, the high end the 99th percentile of the
    voxels brighter than the mean, so that the size of the background matters little. Percentiles
    are taken from at most 2**17 voxels, spread evenly over the image; the result is clipped to
    [0, 2]. A constant image becomes 0. The gradient follows the percentiles, each of which is the
    value of one voxel: noise widens the range of an image and so lowers its contrast, which a
    learned noise level has to be told.

    Parameters
    ----------
    x : (B, 1, *S) tensor

    Returns
    -------
    (B, 1, *S) tensor

    Examples
    --------
    >>> x = torch.linspace(-3, 7, 1001).view(1, 1, -1)
    >>> y, z = normalise(x), normalise(5 * x + 2)
    >>> bool(torch.allclose(y, z, atol=1e-5)), bool(0.99 < y.max() < 1.01)
    (True, True)
    """
    low, high = zip(*(_range(image) for image in x), strict=True)
    view = (-1,) + (1,) * (x.ndim - 1)
    lo, hi = torch.stack(low).view(view), torch.stack(high).view(view)
    scale = 1 / (hi - lo).clamp_min(1e-6)
    if x.requires_grad:
        return ((x - lo) * scale).clamp(0, 2)
    return (x - lo).mul_(scale).clamp_(0, 2)


def _range(image: Tensor) -> tuple[Tensor, Tensor]:
    values = image.reshape(-1)
    if values.numel() > _MOST_VOXELS:
        values = values[_spread(values.numel(), str(values.device))]
    bright = values[values > values.mean()]
    high = _quantile(bright, 0.99) if bright.numel() else values.max()
    return _quantile(values, 0.005), high


@lru_cache(maxsize=16)
def _spread(count: int, device: str) -> Tensor:
    """Choose indices that avoid the period of any axis: multiples of the golden ratio, mod 1."""
    steps = torch.arange(_MOST_VOXELS, dtype=torch.float64, device=device)
    return ((steps * _GOLDEN) % 1 * count).long()


def _quantile(values: Tensor, q: float) -> Tensor:
    return values.kthvalue(1 + int(q * (values.numel() - 1))).values
