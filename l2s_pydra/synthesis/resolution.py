r"""Resolution of an acquisition: slice profile, sampling, and interpolation back to the grid.

Along an axis of :math:`n` working voxels, :math:`m` slices share the field of view equally: slice
:math:`i` is centred at :math:`c_i = (i + 1/2) n / m - 1/2`. The image of a slice is the average of
the voxels under its profile; the way back is linear interpolation between the slice centres.

The profile is a Gaussian, as in SynthSeg (Billot et al., Medical Image Analysis 2023), but of
another width. There the standard deviation is 0.75 times the smaller of spacing and thickness, a
full width at half maximum of 1.77 slices: what suppresses aliasing, more than what scanners do.
Here the full width at half maximum is the thickness, as slice thickness is defined for scanners. A
voxel of the working grid already has a width of one voxel, which counts, so that a slice of one
voxel is left as it is: variances add up, and those of Gaussians go with the square of the width,

.. math:: \sigma^2 = \frac{t^2 - 1}{8 \ln 2}

is what the averaging has to bring for a thickness of :math:`t` voxels. Its weights are those of the
linearly interpolated voxels under a narrower Gaussian, whose width is found so that mean and
variance of the weights are exactly :math:`c_i` and :math:`\sigma^2`, wherever a slice falls between
the voxels: no slice is shifted against the labels or sharper than its neighbours. (Interpolation
alone has a variance of up to 1/4, halfway between two voxels; below that the slice is as sharp as
it can be.)
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from .deformation import along_axis

__all__ = ["acquisition_matrices", "degrade", "restore"]

_HALVINGS = 24
"""Of the bracket of the Gaussian's variance, which is 1/4 wide."""


def acquisition_matrices(
    n: int, spacing: float, thickness: float, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Build the matrices that take one axis to the slices of an acquisition and back.

    Parameters
    ----------
    n : int
        Working voxels along the axis.
    spacing : float
        Distance of the slices in working voxels, at least 1; rounded so that the slices fill the
        field of view.
    thickness : float
        Full width at half maximum of the slice profile in working voxels, at least 1. Less than the
        spacing leaves gaps, more lets slices overlap.
    device : torch.device or str, optional
        CPU by default.

    Returns
    -------
    down : (m, n) tensor
        Average under the slice profile; rows sum to one. ``m`` is the rounded ``n / spacing``, at
        least 2.
    up : (n, m) tensor
        Linear interpolation; rows sum to one. Beyond the first and the last slice, their values.

    Raises
    ------
    ConfigError
        If spacing or thickness is below 1.

    Examples
    --------
    >>> down, up = acquisition_matrices(6, 2.0, 1.0)
    >>> down.shape, up[:3].tolist()
    (torch.Size([3, 6]), [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.25, 0.75, 0.0]])
    """
    slices = _slices(n, spacing)
    down, up = _down(n, slices, _checked(thickness, "thickness")), _up(n, slices)
    return down.to(device or "cpu", torch.float32), up.to(device or "cpu", torch.float32)


def degrade(x: Tensor, spacing: Sequence[float], thickness: Sequence[float]) -> Tensor:
    r"""Sample images at the resolution of an acquisition.

    Parameters
    ----------
    x : (C, \*S) tensor
        Images on the working grid.
    spacing, thickness : sequence of float
        For each axis; see :func:`acquisition_matrices`.

    Returns
    -------
    (C, \*M) tensor
        Differentiable in ``x``; ``x`` itself where spacing and thickness are all 1.

    Raises
    ------
    ConfigError
        If a spacing or a thickness is below 1.
    ShapeError
        If there is not one spacing and one thickness per axis.
    """
    ndim = x.ndim - 1
    if not len(spacing) == len(thickness) == ndim:
        raise ShapeError(
            f"{ndim} axes need as many spacings and thicknesses, not {len(spacing)} and "
            f"{len(thickness)}"
        )
    size = x.shape[1:]
    slices = [_slices(n, s) for n, s in zip(size, spacing, strict=True)]
    # The axis that loses most comes first: the rest has less to do.
    for axis in sorted(range(ndim), key=lambda a: slices[a] / size[a]):
        width = _checked(thickness[axis], "thickness")
        if slices[axis] < size[axis] or width > 1:
            x = _along(_down(size[axis], slices[axis], width), x, axis + 1)
    return x


def restore(low: Tensor, shape: Sequence[int]) -> Tensor:
    r"""Interpolate images at the resolution of an acquisition linearly to the working grid.

    Parameters
    ----------
    low : (C, \*M) tensor
        From :func:`degrade`.
    shape : sequence of int
        Size S of the working grid.

    Returns
    -------
    (C, \*S) tensor
        Differentiable in ``low``; ``low`` itself where it has this size already.

    Raises
    ------
    ShapeError
        If ``shape`` has another number of axes, or is smaller than ``low``.
    """
    size = low.shape[1:]
    if len(shape) != len(size) or any(m > n for m, n in zip(size, shape, strict=True)):
        raise ShapeError(f"an acquisition of {tuple(size)} does not fit in {tuple(shape)} voxels")
    # The axis that gains most comes last.
    for axis in sorted(range(len(shape)), key=lambda a: shape[a] / size[a]):
        if size[axis] < shape[axis]:
            low = _along(_up(shape[axis], size[axis]), low, axis + 1)
    return low


def _slices(n: int, spacing: float) -> int:
    return n if _checked(spacing, "spacing") == 1 else min(n, max(2, round(n / spacing)))


def _checked(value: float, name: str) -> float:
    if not 1 <= value < math.inf:
        raise ConfigError(f"{name} must be at least 1 voxel, not {value}")
    return float(value)


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    matrix = matrix.to(x)
    # Along the last axis one product does it; many products with single columns are far slower.
    return x @ matrix.T if axis == x.ndim - 1 else along_axis(matrix, x, axis)


def _centers(n: int, slices: int) -> Tensor:
    return (torch.arange(slices, dtype=torch.float64) + 0.5) * (n / slices) - 0.5


@lru_cache(maxsize=64)
def _up(n: int, slices: int) -> Tensor:
    position = (torch.arange(n, dtype=torch.float64) + 0.5) * (slices / n) - 0.5
    position = position.clamp(0, slices - 1)
    return (1 - (position[:, None] - torch.arange(slices)).abs()).clamp_min(0)


@lru_cache(maxsize=64)
def _down(n: int, slices: int, thickness: float) -> Tensor:
    centers = _centers(n, slices)
    variance = (thickness**2 - 1) / (8 * math.log(2))
    reach = math.ceil(6 * math.sqrt(variance)) + 2
    voxels = centers.floor()[:, None] + torch.arange(-reach, reach + 1)
    distance = voxels - centers[:, None]
    # The weights' own variance is between that of the Gaussian and that plus 1/4, and grows with it.
    low = torch.full_like(centers, max(variance - 0.25, 0.0))
    high = torch.full_like(centers, variance)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        wide = (_weights(distance, middle) * distance**2).sum(1) > variance
        low, high = torch.where(wide, low, middle), torch.where(wide, middle, high)
    weights = _weights(distance, low)
    inside = (voxels >= 0) & (voxels < n)
    matrix = torch.zeros(slices, n, dtype=torch.float64)
    matrix.scatter_add_(1, voxels.clamp(0, n - 1).long(), weights * inside)
    return matrix / matrix.sum(1, keepdim=True)


def _weights(distance: Tensor, variance: Tensor) -> Tensor:
    """Mean of the hat function of voxels at some distance from the centre of Gaussians: (m, K)."""
    # The hat is the second difference of the ramp, whose mean has a closed form.
    sigma = variance.clamp_min(1e-20).sqrt()[:, None]
    mean = _ramp(distance + 1, sigma) - 2 * _ramp(distance, sigma) + _ramp(distance - 1, sigma)
    return mean.clamp_min(0)


def _ramp(mean: Tensor, sigma: Tensor) -> Tensor:
    z = mean / sigma
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    below: Tensor = torch.special.ndtr(z)
    return mean * below + sigma * density
