"""Spatial deformation of label maps and images: affine plus a cubic B-spline free-form field.

Coordinates are voxels of the fine grid, in array axis order. A field maps each output voxel to the
input voxel it takes its value from.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812  (the name torch users know)
from torch import Tensor

__all__ = [
    "affine_matrix",
    "along_axis",
    "bordered",
    "bspline_matrix",
    "control_shape",
    "dense_field",
    "gather_labels",
    "sample_image",
    "slabs",
    "source_control",
    "upsample",
    "warp_labels",
]

FOLDING_BOUND = 0.4
"""A cubic B-spline field whose coefficients stay below this share of the node distance is
invertible (Choi and Lee, Graphical Models 2000: 1/2.48 in 3-D)."""

_SLAB = 2**18
"""Voxels that are worked on at a time on a CPU: what stays in its cache is several times faster."""


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


def upsample(
    control: Tensor, shape: Sequence[int], window: Sequence[slice] | None = None
) -> Tensor:
    """Evaluate a tensor-product cubic B-spline by one small matrix product per axis.

    Parameters
    ----------
    control : (C, *nodes) tensor
        Coefficients.
    shape : tuple of int
        Size of the grid.
    window : sequence of slice, optional
        Part of the grid that is wanted; all of it by default.

    Returns
    -------
    (C, *shape) tensor, or of the size of the window
    """
    x = control
    for axis, n in reversed(list(enumerate(shape))):
        basis = bspline_matrix(n, control.shape[axis + 1], control.device)
        x = along_axis(basis if window is None else basis[window[axis]], x, axis + 1)
    return x


def slabs(
    control: Tensor,
    shape: Sequence[int],
    window: Sequence[slice] | None = None,
    *,
    flip: bool = False,
) -> Iterator[tuple[slice, Tensor]]:
    """Evaluate what :func:`upsample` does, a few rows of the first axis at a time.

    On a GPU all rows come at once.

    Parameters
    ----------
    control : (C, *nodes) tensor
        Coefficients.
    shape : tuple of int
        Size of the grid.
    window : sequence of slice, optional
        Part of the grid that is wanted; all of it by default.
    flip : bool, default=False
        Whether the first axis of the result is reversed.

    Yields
    ------
    rows : slice
        Of the first axis of the result.
    values : (C, rows, *shape[1:]) tensor
        May be changed in place.
    """
    x = control
    for axis, n in reversed(list(enumerate(shape))[1:]):
        basis = bspline_matrix(n, control.shape[axis + 1], control.device)
        x = along_axis(basis if window is None else basis[window[axis]], x, axis + 1)
    first = bspline_matrix(shape[0], control.shape[1], control.device)
    first = first if window is None else first[window[0]]
    first = first.flip(0) if flip else first
    row = max(1, math.prod(x.shape[2:]))
    count = len(first) if control.is_cuda else max(1, _SLAB // row)
    for start in range(0, len(first), count):
        rows = slice(start, min(start + count, len(first)))
        yield rows, along_axis(first[rows], x, 1)


def along_axis(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply a (m, n) matrix onto axis ``axis`` (of n voxels) of ``x``; contiguous."""
    if axis == x.ndim - 1:
        return x @ matrix.T
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
    matrix: Tensor,
    translation: Tensor,
    displacement: Tensor,
    shape: Sequence[int],
    *,
    window: Sequence[slice] | None = None,
    device: torch.device | str = "cpu",
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
    window : sequence of slice, optional
        Part of the grid that is wanted; all of it by default.
    device : torch.device or str, default="cpu"
        Of the result.

    Returns
    -------
    (ndim, *shape) tensor, or of the size of the window
        Voxel coordinates in the source.
    """
    control = source_control(matrix, translation, displacement, shape)
    return upsample(control.to(device), shape, window)


def source_control(
    matrix: Tensor, translation: Tensor, displacement: Tensor, shape: Sequence[int]
) -> Tensor:
    """B-spline coefficients of the coordinates that :func:`dense_field` gives: (ndim, *nodes)."""
    nodes = displacement.shape[1:]
    axes = [node_positions(n, k) for n, k in zip(shape, nodes, strict=True)]
    center = torch.tensor([(n - 1) / 2 for n in shape])
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) - center
    displaced = grid + torch.movedim(displacement, 0, -1)
    moved = displaced @ matrix.T.to(displaced) + center + translation.to(displaced)
    return torch.movedim(moved, -1, 0).contiguous()


def bordered(labels: Tensor) -> Tensor:
    """Surround a label map (*S,) with one voxel of 0 on every side, as :func:`warp_labels` wants."""
    return F.pad(labels, [1, 1] * labels.ndim)


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
    return warp_labels(bordered(labels), field.clone())


def warp_labels(labels: Tensor, field: Tensor) -> Tensor:
    """Do what :func:`gather_labels` does, with a prepared map and without a copy of the field.

    Parameters
    ----------
    labels : integer tensor
        Of shape S + 2, from :func:`bordered`.
    field : (ndim, *T) tensor
        Voxel coordinates in the map without its border. Overwritten.

    Returns
    -------
    (*T,) tensor of the labels' type
    """
    # Coordinates beyond the map fall onto its border. Indices are exact integers in float32 up to
    # 2**24 voxels only, so they are put together as int32.
    index: Tensor | None = None
    for coordinate, n in zip(field, labels.shape, strict=True):
        near = coordinate.add_(1).round_().clamp_(0, n - 1).to(torch.int32)
        index = near if index is None else index.mul_(n).add_(near)
    assert index is not None
    return labels.reshape(-1).index_select(0, index.view(-1)).view(index.shape)


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
