"""Appearance: Gaussian mixture, pooling, shares of labels, gamma.

Every function is differentiable in its image and works on batches in 2-D and 3-D.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor

from .deformation import along_axis

__all__ = [
    "block_means",
    "dilate",
    "gamma",
    "mixture",
    "pool",
    "remap",
    "soft_labels",
]

_OFFSET = 1e-2
_PIECE = 2**16
"""Voxels that are worked on at a time on a CPU: what stays in its cache is faster."""


def mixture(groups: Tensor, means: Tensor, stds: Tensor, noise: Tensor) -> Tensor:
    """Gaussian mixture over label groups (Billot et al. 2023, equation 3).

    Parameters
    ----------
    groups : (*S,) integer tensor
        Group of each voxel; group 0 is outside and stays at its mean, normally 0.
    means, stds : (G,) tensors
    noise : (*S,) tensor
        Standard normal.

    Returns
    -------
    (*S,) tensor
    """
    if means.requires_grad or stds.requires_grad:
        flat = groups.reshape(-1).to(torch.int32)
        mean, std = means.index_select(0, flat), stds.index_select(0, flat)
        return torch.addcmul(mean, std, noise.reshape(-1)).view(groups.shape)
    result = torch.empty(groups.shape, dtype=means.dtype, device=groups.device)
    piece = max(1, groups.numel()) if groups.is_cuda else _PIECE
    flats = (torch.split(t.reshape(-1), piece) for t in (groups, noise, result))
    for group, normal, part in zip(*flats, strict=True):
        index = group.to(torch.int32)
        torch.index_select(means, 0, index, out=part)
        part.addcmul_(stds.index_select(0, index), normal)
    return result


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Grow a mask (*S,) by a cube of ``radius`` voxels to each side: one band matrix per axis."""
    if radius < 1:
        return mask
    grown = mask.float()
    for axis, n in enumerate(mask.shape):
        i = torch.arange(n, device=mask.device)
        band = ((i[:, None] - i).abs() <= radius).float()
        grown = along_axis(band, grown, axis).clamp_(max=1)
    return grown > 0


def pool(fine: Tensor, factor: int) -> Tensor:
    """Average blocks of ``factor`` voxels per axis: (B, C, *F) to (B, C, *F / factor)."""
    if factor == 1:
        return fine
    return F.avg_pool3d(fine, factor) if fine.ndim == 5 else F.avg_pool2d(fine, factor)


def block_means(fine: Tensor, factor: int) -> Tensor:
    """Mean of the block of ``factor`` voxels per axis that starts at each voxel.

    Value ``i`` along an axis belongs to the coordinate ``i + (factor - 1) / 2``; the size stays,
    the last blocks are cut.
    """
    if factor == 1:
        return fine
    ndim = fine.ndim - 2
    padded = F.pad(fine, [0, factor - 1] * ndim, mode="replicate")
    return F.avg_pool3d(padded, factor, 1) if ndim == 3 else F.avg_pool2d(padded, factor, 1)


def soft_labels(channels: Tensor, count: int, factor: int) -> Tensor:
    """Share of each class in every block of ``factor`` voxels per axis.

    Parameters
    ----------
    channels : (*F,) integer tensor
        Class of each fine voxel.
    count : int
        Number of classes ``K``.
    factor : int
        Voxels per block and axis.

    Returns
    -------
    (K, *F / factor) float tensor
        Sums to one over ``K``.
    """
    shape = [n // factor for n in channels.shape]
    split = [n for s in shape for n in (s, factor)]
    ndim = len(shape)
    order = [*range(1, 2 * ndim, 2), *range(0, 2 * ndim, 2)]
    blocks = channels.reshape(split).permute(order).reshape(factor**ndim, 1, -1).long()
    soft = torch.zeros(count, blocks.shape[-1], device=channels.device)
    share = torch.full(blocks[0].shape, 1 / factor**ndim, device=channels.device)
    for block in blocks:
        soft.scatter_add_(0, block, share)
    return soft.view(count, *shape)


def gamma(x: Tensor, exponents: Sequence[float]) -> Tensor:
    """Raise images of about [0, 1] to a power, one per image; 0 stays 0.

    A small offset keeps the slope at 0 finite.
    """
    if all(g == 1 for g in exponents):
        return x
    if not x.requires_grad:
        powers = (x.clamp_min(0)).add_(_OFFSET)
        for image, exponent in zip(powers, exponents, strict=True):
            image.pow_(exponent).sub_(_OFFSET**exponent)
        return powers
    g = torch.tensor(exponents, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 1))
    bent: Tensor = (x.clamp_min(0) + _OFFSET).pow(g) - _OFFSET**g
    return bent


def remap(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear map of intensities, not monotone in general.

    Parameters
    ----------
    x : (*S,) tensor
        Intensities from 0 on.
    knots : (N,) tensor
        Increasing; the first is 0.
    values : (N,) tensor
        Where they are mapped to. Beyond the last knot its value continues.

    Returns
    -------
    (*S,) tensor
    """
    knots, values = knots.to(x), values.to(x)
    above = torch.bucketize(x.contiguous(), knots, right=True).clamp_(1, len(knots) - 1)
    low, high = knots[above - 1], knots[above]
    share = ((x - low) / (high - low)).clamp_(0, 1)
    return torch.lerp(values[above - 1], values[above], share)
