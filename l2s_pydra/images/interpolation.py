"""Interpolation between two grids, along axes and point by point.

A coordinate is in voxels of the grid that is read; a voxel reaches half a voxel beyond its centre.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "Floats",
    "Shape",
    "along_axes",
    "between",
    "box",
    "gaussian_matrix",
    "linear_matrix",
    "nearest",
    "parallel_axes",
    "sample",
    "sample_grid",
    "touched",
    "voxel_coordinates",
    "within",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Shape = tuple[int, int, int]

_SLAB_VOXELS = 2**20
_ALIGNED_VOXELS = 0.01
"""Axes are parallel if they part by less than this over the whole field of view."""
_SNAP_VOXELS = 1e-3
"""Coordinates this near a voxel centre are taken as the centre: affines are stored as float32."""
_EDGE_VOXELS = 0.5 + 1e-3
"""A voxel reaches half a voxel beyond its centre."""


def parallel_axes(to_other: Array, shape: Shape) -> tuple[list[int], list[Array]] | None:
    """Match the axes of a grid with those of another.

    Parameters
    ----------
    to_other : (4, 4) array
        Voxels of this grid to voxels of the other.
    shape : 3 ints
        Voxels of this grid.

    Returns
    -------
    (list of 3 ints, list of 3 arrays) or None
        The other grid's axis that runs along each axis of this grid, and the coordinate along it
        of each voxel; None if some axes are not parallel.
    """
    linear = to_other[:3, :3]
    axes = [int(axis) for axis in np.abs(linear).argmax(axis=0)]
    if sorted(axes) != [0, 1, 2]:
        return None
    rest = linear.copy()
    rest[axes, range(3)] = 0
    middle = (np.array(shape) - 1) / 2
    if (np.abs(rest) @ middle).max() > _ALIGNED_VOXELS:
        return None
    center = linear @ middle + to_other[:3, 3]
    coordinates = []
    for axis, other in enumerate(axes):
        points = center[other] + linear[other, axis] * (np.arange(shape[axis]) - middle[axis])
        coordinates.append(_snapped(points))
    return axes, coordinates


def _snapped(points: Array) -> Array:
    whole = np.rint(points)
    return np.where(np.abs(points - whole) < _SNAP_VOXELS, whole, points)


def within(points: Array, size: int) -> Array:
    """Whether each coordinate lies in a voxel of an axis of this size."""
    inside: Array = (points >= -_EDGE_VOXELS) & (points <= size - 1 + _EDGE_VOXELS)
    return inside


def box(x: Array, y: Array, z: Array) -> Array:
    """(X, Y, Z) truth of three (X,), (Y,) and (Z,) conditions at once."""
    box: Array = x[:, None, None] & y[None, :, None] & z[None, None, :]
    return box


def touched(points: Array, size: int) -> slice:
    """Voxels along an axis that interpolation at these coordinates touches."""
    low = int(np.clip(np.floor(points.min()), 0, size - 1))
    high = int(np.clip(np.floor(points.max()) + 1, 0, size - 1))
    return slice(low, high + 1)


def between(data: Floats, points: Array, axis: int) -> Floats:
    """Interpolate linearly along an axis, at coordinates within it; the result is a new array."""
    low = np.floor(points).astype(np.intp)
    share = (points - low).astype(np.float32)
    values: Floats = data.take(low, axis)
    if share.any():
        step = data.take(np.minimum(low + 1, data.shape[axis] - 1), axis)
        step -= values
        step *= share.reshape([-1 if a == axis else 1 for a in range(3)])
        values += step
    return values


def linear_matrix(points: Array, size: int) -> Floats:
    """Matrix of linear interpolation along an axis.

    Parameters
    ----------
    points : (N,) array
        Coordinates, voxels.
    size : int
        Voxels along the axis.

    Returns
    -------
    (N, size) float32 array
        Rows are 0 outside the axis' voxels; in the outer halves of its end voxels they pick these.
    """
    clamped = np.clip(points, 0, size - 1)
    low = np.minimum(np.floor(clamped).astype(np.intp), max(size - 2, 0))
    share = clamped - low
    rows = np.arange(len(points))
    matrix = np.zeros((len(points), size), dtype=np.float32)
    matrix[rows, low] = 1 - share
    if size > 1:
        matrix[rows, low + 1] = share
    matrix[~within(points, size)] = 0
    return matrix


def gaussian_matrix(size: int, ratio: float) -> Floats:
    """Matrix of the Gaussian that widens a voxel's point spread by ``ratio``.

    Both point spreads are taken as Gaussians whose full width at half maximum is the voxel
    size (Cardoso et al., MICCAI 2015); variances add. Rows sum to one at the ends of the axis, too.
    """
    if ratio <= 1 + 1e-3:
        return np.eye(size, dtype=np.float32)
    variance = (ratio**2 - 1) / (8 * np.log(2))
    squares = np.subtract.outer(np.arange(size), np.arange(size)) ** 2.0
    # Cut at four standard deviations: denormal numbers would slow the product
    kernel = np.where(squares <= 16 * variance, np.exp(-squares / (2 * variance)), 0)
    rows: Floats = (kernel / kernel.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows


def _is_identity(matrix: Array) -> bool:
    return matrix.shape[0] == matrix.shape[1] and bool(
        np.array_equal(matrix, np.eye(len(matrix), dtype=matrix.dtype))
    )


def along_axes(data: Floats, matrices: list[Floats]) -> Floats:
    """Multiply a (X, Y, Z) array by a matrix along each axis."""
    if data.flags.f_contiguous and not data.flags.c_contiguous:
        return along_axes(data.T, matrices[::-1]).T
    for matrix in matrices:
        # The first axis is multiplied and becomes the last; after three turns all are in place
        if _is_identity(matrix):
            data = np.moveaxis(data, 0, 2)
        else:
            flat = data.reshape(len(data), -1)
            data = (flat.T @ matrix.T).reshape(*data.shape[1:], len(matrix))
    return data


def voxel_coordinates(to_other: Array, ranges: list[tuple[int, int]]) -> list[Array]:
    """Coordinates in another grid of the voxels in these ranges, one (X, Y, Z) array per axis."""
    x, y, z = np.ogrid[tuple(slice(*r) for r in ranges)]
    return [row[0] * x + row[1] * y + row[2] * z + row[3] for row in to_other[:3]]


def sample_grid(data: Floats, to_source: Array, shape: Shape) -> Floats:
    """Sample a source at the voxels of an oblique grid of this shape, some slabs at a time."""
    image = np.empty(shape, dtype=np.float32)
    step = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        ranges = [(start, stop), (0, shape[1]), (0, shape[2])]
        image[start:stop] = sample(data[None], to_source, ranges)[0]
    return image


def nearest(data: Array, to_source: Array, shape: Shape) -> Array:
    """Value of the nearest voxel of (X, Y, Z) ``data`` at each voxel of a grid; 0 outside."""
    parallel = parallel_axes(to_source, shape)
    if parallel is not None:
        axes, coordinates = parallel
        sizes = [data.shape[axis] for axis in axes]
        index = [_nearest_index(c, n) for c, n in zip(coordinates, sizes, strict=True)]
        x, y, z = (within(c, n) for c, n in zip(coordinates, sizes, strict=True))
        values = np.ascontiguousarray(data.transpose(axes)[np.ix_(*index)])
        # np.ix_ would turn masks into indices
        return values * (x[:, None, None] & y[:, None] & z)
    out = np.zeros(shape, dtype=data.dtype)
    for start in range(shape[0]):
        points = voxel_coordinates(to_source, [(start, start + 1), (0, shape[1]), (0, shape[2])])
        i, j, k = (_nearest_index(p, n) for p, n in zip(points, data.shape, strict=True))
        x, y, z = (within(p, n) for p, n in zip(points, data.shape, strict=True))
        out[start] = (data[i, j, k] * (x & y & z))[0]
    return out


def _nearest_index(points: Array, size: int) -> Array:
    # Halves up, everywhere alike; the tolerance keeps float32 affines from deciding
    return np.clip(np.floor(points + 0.5 + 1e-4), 0, size - 1).astype(np.intp)


def sample(
    stack: Floats, to_other: Array, ranges: list[tuple[int, int]], beyond: str = "zero"
) -> Floats:
    """Trilinear interpolation of (K, X, Y, Z) at the voxels of another, oblique grid.

    ``beyond`` the grid of the stack are "zero" or the values of its "edge".
    """
    import torch
    from torch.nn.functional import grid_sample

    sizes = stack.shape[1:]
    points = voxel_coordinates(to_other, ranges)
    # grid_sample runs from -1 at the first voxel to 1 at the last, and lists x last
    scaled = [2 * p / max(n - 1, 1) - 1 for p, n in zip(points, sizes, strict=True)]
    grid = torch.from_numpy(np.stack(scaled[::-1], axis=-1).astype(np.float32))
    # The batch axis is what grid_sample shares among threads: one slab each
    parts = max(d for d in range(1, torch.get_num_threads() + 1) if len(grid) % d == 0)
    grid = grid.reshape(parts, -1, *grid.shape[1:])
    source = torch.from_numpy(stack)[None].expand(parts, -1, -1, -1, -1)
    sampled = grid_sample(source, grid, padding_mode="border", align_corners=True)
    values: Floats = sampled.transpose(0, 1).reshape(len(stack), *points[0].shape).numpy()
    if beyond == "zero":
        x, y, z = (within(p, n) for p, n in zip(points, sizes, strict=True))
        values *= x & y & z
    return values
