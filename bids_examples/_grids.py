"""Sampling grids of the example data sets; frame scanner RAS+, lengths in mm."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Shape = tuple[int, int, int]


def oriented_affine(codes: str, spacing_mm: Sequence[float], shape: Shape) -> Floats:
    """Affine of a grid centred at the origin.

    Parameters
    ----------
    codes : str
        Where the voxel axes point to, such as ``"LAS"``.
    spacing_mm : sequence of 3 floats
        Voxel size along each axis.
    shape : (3,) ints
        Number of voxels along each axis.

    Returns
    -------
    (4, 4) array
        Voxel to scanner.

    Examples
    --------
    >>> oriented_affine("LAS", (2, 2, 3), (3, 3, 3))[0].tolist()
    [-2.0, 0.0, 0.0, 2.0]
    """
    affine = np.diag([0.0, 0, 0, 1])
    for axis, code in enumerate(codes):
        world = "LRPAIS".index(code)
        affine[world // 2, axis] = spacing_mm[axis] * (1 if world % 2 else -1)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


def rotation(degrees: Sequence[float]) -> Floats:
    """(3, 3) rotation about x, then y, then z.

    Examples
    --------
    >>> (rotation((0, 0, 90)) @ [1, 0, 0]).round(6).tolist()
    [0.0, 1.0, 0.0]
    """
    out = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        out = turn @ out
    return out


def grid_points(shape: Shape, affine: Floats, oversampling: Sequence[int] = (1, 1, 1)) -> Floats:
    """Scanner coordinates of the centres of (sub)voxels.

    Returns
    -------
    (X * oversampling, Y * oversampling, Z * oversampling, 3) array
    """
    axes = [(np.arange(n * k) + 0.5) / k - 0.5 for n, k in zip(shape, oversampling, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    return np.asarray(voxels @ affine[:3, :3].T + affine[:3, 3])


def pool(values: npt.NDArray[np.generic], oversampling: Sequence[int]) -> Floats:
    """Mean over the subvoxels of each voxel."""
    x, y, z = (n // k for n, k in zip(values.shape, oversampling, strict=True))
    a, b, c = oversampling
    return np.asarray(values.reshape(x, a, y, b, z, c).mean((1, 3, 5), dtype=np.float32))
