"""Spatial deformation of label maps and images: affine plus a cubic B-spline free-form field.

Coordinates are voxels of the fine grid, in array axis order. A field maps each output voxel to the
input voxel it takes its value from.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor

__all__ = [
    "affine_matrix",
    "along_axis",
    "bspline_matrix",
    "control_shape",
    "dense_field",
    "gather_labels",
    "sample_image",
    "upsample",
]

FOLDING_BOUND = 0.4
"""A cubic B-spline field whose coefficients stay below this share of the node distance is
invertible (Choi and Lee, Graphical Models 2000: 1/2.48 in 3-D)."""


def control_shape(shape: Sequence[int], spacing: float) -> tuple[int, ...]:
    """Count control points per axis: ``spacing`` voxels apart, one beyond either end.

    Examples
    --------
    >>> control_shape((101, 51), 25.0)
    (7, 5)
    """
    return tuple(max(1, math.ceil((n - 1) / spacing)) + 3 for n in shape)


@lru_cache(maxsize=256)
def _bspline_matrix(n: int, nodes: int) -> Tensor:
    # Node i sits at voxel (i - 1) * h; voxel x has the local coordinate x / h + 1.
    h = max(n - 1, 1) / (nodes - 3)
    t = torch.arange(n, dtype=torch.float64)[:, None] / h + 1 - torch.arange(nodes)
    a = t.abs()
    near, far = 2 / 3 - a**2 + a**3 / 2, (2 - a).clamp_min(0) ** 3 / 6
    return torch.where(a < 1, near, far).float()


def bspline_matrix(n: int, nodes: int, device: torch.device | None = None) -> Tensor:
    """Cubic B-spline basis: coefficients at ``nodes`` control points to values at ``n`` voxels.

    Returns
    -------
    (n, nodes) tensor
        Rows sum to one; linear functions of the node position are reproduced exactly.

    References
    ----------
    Rueckert et al., IEEE TMI 1999, equation 2.
    """
    return _bspline_matrix(n, nodes).to(device or "cpu")


def node_positions(n: int, nodes: int) -> Tensor:
    """Voxel coordinate of each control point: ``(nodes,)``."""
    h = max(n - 1, 1) / (nodes - 3)
    return (torch.arange(nodes, dtype=torch.float32) - 1) * h


def upsample(control: Tensor, shape: Sequence[int]) -> Tensor:
    """Evaluate a tensor-product cubic B-spline by one small matrix product per axis.

    Parameters
    ----------
    control : (C, *nodes) tensor
        Coefficients.
    shape : tuple of int
        Output size.

    Returns
    -------
    (C, *shape) tensor
    """
    x = control
    for axis, n in reversed(list(enumerate(shape))):
        basis = bspline_matrix(n, control.shape[axis + 1], control.device)
        x = along_axis(basis, x, axis + 1)
    return x


def along_axis(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply a (m, n) matrix onto axis ``axis`` (of n voxels) of ``x``; contiguous."""
    size = list(x.shape)
    before, after = math.prod(size[:axis]), math.prod(size[axis + 1 :])
    size[axis] = matrix.shape[0]
    return (matrix @ x.reshape(before, -1, after)).reshape(size)


def affine_matrix(
    rotation: Sequence[float], scaling: Sequence[float], shearing: Sequence[float]
) -> Tensor:
    """Linear part of an affine transform: rotation times scaling times shear.

    Parameters
    ----------
    rotation : 1 (2-D) or 3 (3-D) angles, radians
        About the axis 2 (2-D), or axes 0, 1, 2.
    scaling : ndim factors
        Along each axis.
    shearing : ndim (ndim - 1) / 2 numbers
        Upper triangle of the shear matrix, row by row.

    Returns
    -------
    (ndim, ndim) tensor
    """
    ndim = len(scaling)
    matrix = torch.eye(ndim)
    planes = [(0, 1)] if ndim == 2 else [(1, 2), (0, 2), (0, 1)]
    for angle, (i, j) in zip(rotation, planes, strict=True):
        r = torch.eye(ndim)
        r[i, i] = r[j, j] = math.cos(angle)
        r[i, j], r[j, i] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ r
    shear = torch.eye(ndim)
    shear[torch.triu_indices(ndim, ndim, 1).unbind()] = torch.as_tensor(
        shearing, dtype=torch.float32
    )
    return matrix @ torch.diag(torch.as_tensor(scaling, dtype=torch.float32)) @ shear


def dense_field(
    matrix: Tensor, translation: Tensor, displacement: Tensor, shape: Sequence[int]
) -> Tensor:
    """Source coordinate of each voxel: B-spline displacement, then affine about the centre.

    The affine is folded into the coefficients, so that one upsampling does for both. In this order
    the field is invertible, whatever the affine, if the displacement alone is.

    Parameters
    ----------
    matrix : (ndim, ndim) tensor
    translation : (ndim,) tensor
        Voxels.
    displacement : (ndim, *nodes) tensor
        B-spline coefficients, voxels.
    shape : tuple of int
        Size of the grid.

    Returns
    -------
    (ndim, *shape) tensor
        Voxel coordinates in the source.
    """
    nodes = displacement.shape[1:]
    axes = [node_positions(n, k) for n, k in zip(shape, nodes, strict=True)]
    center = torch.tensor([(n - 1) / 2 for n in shape])
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) - center
    displaced = grid + torch.movedim(displacement, 0, -1)
    moved = displaced @ matrix.T.to(displaced) + center + translation.to(displaced)
    return upsample(torch.movedim(moved, -1, 0).contiguous(), shape)


def gather_labels(labels: Tensor, field: Tensor) -> Tensor:
    """Nearest-neighbour warp; outside the map the label is 0.

    Parameters
    ----------
    labels : (*S,) integer tensor
    field : (ndim, *T) tensor
        Voxel coordinates in ``labels``.

    Returns
    -------
    (*T,) tensor of the labels' type
    """
    index: Tensor | None = None
    inside: Tensor | None = None
    for axis, n in enumerate(labels.shape):
        c = field[axis].round().to(torch.int32)
        ok = (c >= 0) & (c < n)
        inside = ok if inside is None else inside.logical_and_(ok)
        c = c.clamp_(0, n - 1)
        index = c if index is None else index.mul_(n).add_(c)
    assert index is not None
    assert inside is not None
    values = labels.reshape(-1).index_select(0, index.reshape(-1)).view(index.shape)
    return values.mul_(inside)


def sample_image(image: Tensor, field: Tensor) -> Tensor:
    """Linear warp of an image; outside it is 0.

    Parameters
    ----------
    image : (*S,) tensor
    field : (ndim, *T) tensor
        Voxel coordinates in ``image``.

    Returns
    -------
    (*T,) tensor
    """
    size = torch.tensor(image.shape, dtype=field.dtype, device=field.device)
    view = (-1,) + (1,) * (field.ndim - 1)
    normalised = field * (2 / (size - 1).clamp_min(1)).view(view) - 1
    grid = torch.movedim(normalised, 0, -1).flip(-1)[None]
    return F.grid_sample(image[None, None], grid, align_corners=True)[0, 0]
