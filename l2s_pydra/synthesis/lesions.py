r"""Lesions: smooth irregular blobs, and where they may be.

A blob is star-shaped: in the direction :math:`u` from its centre it reaches as far as

.. math:: R(u) = \rho \exp\left(\sum_k a_k Y_k(u)\right)

with :math:`Y_k` the harmonics of order 2 and 3 of the sphere (order 0 is size, order 1 is mostly
displacement), or of order 2, 3, ... of the circle, each of unit mean square; :math:`\rho` is such
that the blob has the volume of a ball of the radius that is asked for, however rough.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError

__all__ = ["blobs", "eligible_centers"]

_DIRECTIONS = {2: 512, 3: 2048}
_MOST_HARMONICS = 12
# Directions are about 0.08 apart in 3-D; between them a blob may reach a little further.
_MARGIN = 1.1


def blobs(
    shape: Sequence[int],
    centers: Tensor,
    radii: Tensor,
    roughness: Tensor,
    *,
    edge: float = 1.0,
) -> Tensor:
    r"""Render blobs, each in its bounding box only.

    Parameters
    ----------
    shape : sequence of 2 or 3 int
        Size S of the grid.
    centers : (N, ndim) tensor
        Voxels.
    radii : (N,) tensor
        Of the disks or balls of the same size, voxels; positive.
    roughness : (N, K) tensor
        Coefficients :math:`a`; K is at most 12 in 3-D. Values of about 0.2 give potatoes.
    edge : float, default=1
        Width of the border, in which the value falls evenly from 1 to 0, voxels. The default is
        about the share of each voxel that the blob fills.

    Returns
    -------
    (\*S) float32 tensor
        In [0, 1], on the device of ``centers``; where blobs overlap, the larger value.

    Raises
    ------
    ShapeError
        If numbers of blobs, axes or coefficients do not fit.
    ConfigError
        If a radius or the edge is not positive.
    """
    ndim, device = len(shape), centers.device
    _check(ndim, centers, radii, roughness)
    if not (edge > 0 and all(0 < r < math.inf for r in radii.tolist())):
        raise ConfigError("radii and edge of blobs must be positive numbers of voxels")
    image = torch.zeros(tuple(shape), device=device)
    columns = (centers.double().tolist(), radii.tolist(), roughness.tolist())
    for center, radius, coefficients in zip(*columns, strict=True):
        scale, low, high = _extent(ndim, radius, coefficients)
        starts, stops = [], []
        for n, c, lo, hi in zip(shape, center, low, high, strict=True):
            starts.append(max(0, math.ceil(c + _MARGIN * lo - edge)))
            stops.append(min(n, math.floor(c + _MARGIN * hi + edge) + 1))
        if any(stop <= start for start, stop in zip(starts, stops, strict=True)):
            continue
        offsets = torch.meshgrid(
            *(
                torch.arange(start, stop, device=device) - c
                for start, stop, c in zip(starts, stops, center, strict=True)
            ),
            indexing="ij",
        )
        box = image[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]
        torch.maximum(box, _blob(offsets, scale, coefficients, edge), out=box)
    return image


def eligible_centers(mask: Tensor, shares: Tensor) -> Tensor:
    r"""Choose voxels of a mask by the share of its voxels that come before them.

    The same shares choose places in any mask: they can be drawn before it is known.

    Parameters
    ----------
    mask : (\*S) bool tensor
        Where centres may be.
    shares : (N,) tensor
        In [0, 1).

    Returns
    -------
    (N, ndim) int64 tensor
        Voxel number ``floor(share * count)`` of the mask in scan order (last axis fastest), on the
        mask's device. (0, ndim) if the mask is empty.

    Raises
    ------
    ShapeError
        If the shares are not a list.
    ConfigError
        If a share is out of range.
    """
    if shares.ndim != 1:
        raise ShapeError(f"shares must be a list, not of shape {tuple(shares.shape)}")
    if not all(0 <= share < 1 for share in shares.tolist()):
        raise ConfigError("shares of a mask's voxels must be at least 0 and below 1")
    voxels = mask.reshape(-1).nonzero()[:, 0]
    count = len(voxels)
    if not count:
        return torch.zeros(0, mask.ndim, dtype=torch.int64, device=mask.device)
    number = (shares.double() * count).long().clamp_max(count - 1)
    chosen = voxels[number.to(mask.device)]
    return torch.stack(torch.unravel_index(chosen, mask.shape), 1)


def _check(ndim: int, centers: Tensor, radii: Tensor, roughness: Tensor) -> None:
    if ndim not in (2, 3):
        raise ShapeError(f"blobs have 2 or 3 axes, not {ndim}")
    if radii.ndim != 1 or centers.shape != (len(radii), ndim):
        raise ShapeError(
            f"blobs in {ndim}-D need (N,) radii and (N, {ndim}) centres, not "
            f"{tuple(radii.shape)} and {tuple(centers.shape)}"
        )
    if roughness.ndim != 2 or len(roughness) != len(radii):
        raise ShapeError(
            f"{len(radii)} blobs need (N, K) coefficients, not {tuple(roughness.shape)}"
        )
    if ndim == 3 and roughness.shape[1] > _MOST_HARMONICS:
        raise ShapeError(
            f"blobs in 3-D have at most {_MOST_HARMONICS} coefficients, not {roughness.shape[1]}"
        )


def _blob(
    offsets: Sequence[Tensor], scale: float, coefficients: Sequence[float], edge: float
) -> Tensor:
    distance = torch.stack(list(offsets)).square_().sum(0).sqrt_()
    radius = torch.full_like(distance, math.log(scale))
    inverse = 1 / distance.clamp_min(1e-6)
    direction = [offset * inverse for offset in offsets]
    for a, harmonic in zip(coefficients, _harmonics(direction, len(coefficients)), strict=True):
        radius.add_(harmonic, alpha=a)
    return radius.exp_().sub_(distance).div_(edge).add_(0.5).clamp_(0, 1)


def _extent(
    ndim: int, radius: float, coefficients: Sequence[float]
) -> tuple[float, list[float], list[float]]:
    """Scale that gives the volume, and how far the blob reaches along each axis, down and up."""
    directions = _directions(ndim)
    logarithm = torch.zeros(len(directions), dtype=torch.float64)
    harmonics = _harmonics(list(directions.unbind(1)), len(coefficients))
    for a, harmonic in zip(coefficients, harmonics, strict=True):
        logarithm.add_(harmonic, alpha=a)
    reach = logarithm.exp()
    scale = radius / float(reach.pow(ndim).mean()) ** (1 / ndim)
    points = scale * reach[:, None] * directions
    return scale, points.amin(0).tolist(), points.amax(0).tolist()


@lru_cache(maxsize=2)
def _directions(ndim: int) -> Tensor:
    """Evenly spread unit vectors, (D, ndim): a circle, or a Fibonacci lattice on the sphere."""
    count = _DIRECTIONS[ndim]
    index = torch.arange(count, dtype=torch.float64)
    if ndim == 2:
        angle = 2 * math.pi * index / count
        return torch.stack([angle.cos(), angle.sin()], 1)
    height = (2 * index + 1) / count - 1
    angle = math.pi * (3 - math.sqrt(5)) * index
    width = (1 - height.square()).sqrt()
    return torch.stack([width * angle.cos(), width * angle.sin(), height], 1)


def _harmonics(direction: Sequence[Tensor], count: int) -> list[Tensor]:
    """First harmonics from order 2, each of unit mean square over all directions."""
    if len(direction) == 3:
        return _of_sphere(direction, count)
    x, y = direction
    cosine, sine = x, y
    found: list[Tensor] = []
    while len(found) < count:
        cosine, sine = cosine * x - sine * y, sine * x + cosine * y
        found += [math.sqrt(2) * cosine, math.sqrt(2) * sine]
    return found[:count]


def _of_sphere(direction: Sequence[Tensor], count: int) -> list[Tensor]:
    (x, y, z), s = direction, math.sqrt
    found: list[Callable[[], Tensor]] = [
        lambda: s(15) * x * y,
        lambda: s(15) * y * z,
        lambda: s(15) * x * z,
        lambda: s(5) / 2 * (3 * z * z - 1),
        lambda: s(15) / 2 * (x * x - y * y),
        lambda: s(105) * x * y * z,
        lambda: s(7) / 2 * z * (5 * z * z - 3),
        lambda: s(21 / 8) * x * (5 * z * z - 1),
        lambda: s(21 / 8) * y * (5 * z * z - 1),
        lambda: s(105) / 2 * z * (x * x - y * y),
        lambda: s(35 / 8) * x * (x * x - 3 * y * y),
        lambda: s(35 / 8) * y * (3 * x * x - y * y),
    ]
    return [harmonic() for harmonic in found[:count]]
