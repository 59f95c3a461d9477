"""Smooth random fields: cubic B-splines over a coarse grid of control points."""

import functools
import math
import string
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["smooth_field", "spline_gain"]


@functools.lru_cache(maxsize=256)
def _spline_matrix(size: int, points: int) -> Tensor:
    r"""Cubic B-spline weights of ``points`` control points at ``size`` voxels of one axis.

    Control points lie on the first and last voxel and evenly between; beyond the ends they are
    repeated. The weights are positive and sum to one, so the field stays within the range of its
    control points (Unser, Splines: a perfect fit for signal and image processing, 1999).

    Returns
    -------
    (size, points) float64 tensor

    Examples
    --------
    >>> weights = _spline_matrix(9, 4)
    >>> bool((weights >= 0).all()), bool(torch.allclose(weights.sum(1), torch.ones(9).double()))
    (True, True)
    """
    position = torch.linspace(0, points - 1, size, dtype=torch.float64)
    knots = torch.arange(-1, points + 1)
    distance = (position[:, None] - knots).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp_min(0) ** 3 / 6
    weights = torch.where(distance < 1, near, far)
    folded = torch.zeros(size, points, dtype=torch.float64)
    return folded.index_add_(1, knots.clamp(0, points - 1), weights)


def smooth_field(points: Tensor, size: Sequence[int]) -> Tensor:
    r"""Evaluate a cubic B-spline on a grid of voxels, one small matrix product per axis.

    Parameters
    ----------
    points : (B, \*K) tensor
        Control points.
    size : sequence of int
        Voxels per axis, as many axes as K has.

    Returns
    -------
    (B, 1, \*size) tensor
    """
    field = points
    for axis, (n, k) in enumerate(zip(size, points.shape[1:], strict=True)):
        letters = string.ascii_lowercase[: field.ndim]
        target = letters.replace(letters[axis + 1], "z")
        matrix = _spline_matrix(n, k).to(points)
        field = torch.einsum(f"z{letters[axis + 1]},{letters}->{target}", matrix, field)
    return field[:, None]


def spline_gain(size: Sequence[int], points: int) -> float:
    """Root mean square, over the voxels, of the field of independent unit normal control points."""
    variances = (_spline_matrix(n, points).square().sum(1).mean() for n in size)
    return math.prod(float(variance) for variance in variances) ** 0.5
