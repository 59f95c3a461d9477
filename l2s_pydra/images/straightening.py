"""Slabs that lie turned in a larger grid, as after resampling to another image: on a grid along them."""

import attrs
import numpy as np
import numpy.typing as npt

from .coverage import THIN_MM, THIN_SHARE, shown_level
from .interpolation import sample_grid
from .volume import Volume

__all__ = ["straightened"]

_SAMPLES = 2**20
"""Voxels whose places are looked at, about."""
_LEAST_DEGREES = 0.5
"""A slab that is turned by less lies along the grid."""
_AROUND = 2
"""Voxels around what is shown."""

Floats = npt.NDArray[np.float64]


def straightened(volume: Volume, *, thin_mm: float = THIN_MM) -> Volume | None:
    """Resample a slab that is turned in its grid, linearly, so that one axis leads across it.

    Parameters
    ----------
    volume : Volume
        An image with black around a slab of a head.
    thin_mm : float
        Greatest thickness of a slab.

    Returns
    -------
    Volume or None
        With voxels as large as those of the image; the axis that was nearest leads across the slab. None
        if what is shown is not thin in any direction (by its second moments), or not turned.
    """
    if 1 in volume.shape:
        return None
    places = _places(volume)
    if len(places) < len(volume.shape) + 1:
        return None
    center = places.mean(0)
    moments, directions = np.linalg.eigh(np.cov(places.T))
    # Of a plate of even thickness t, the second moment across it is t^2 / 12
    thickness, _, longest = np.sqrt(12 * moments.clip(0))
    if thickness > min(thin_mm, THIN_SHARE * longest):
        return None
    axes = volume.affine[:3, :3] / np.array(volume.spacing_mm)
    across = directions[:, 0]
    axis = int(np.abs(across @ axes).argmax())
    across = across * np.sign(across @ axes[:, axis])
    if across @ axes[:, axis] > np.cos(np.deg2rad(_LEAST_DEGREES)):
        return None
    frame = _frame(axes, axis, across) * np.array(volume.spacing_mm)
    local = np.linalg.solve(frame, (places - center).T)
    low = np.floor(local.min(1)) - _AROUND
    high = np.ceil(local.max(1)) + _AROUND
    affine = np.eye(4)
    affine[:3, :3] = frame
    affine[:3, 3] = center + frame @ low
    x, y, z = (int(n) for n in high - low + 1)
    darkest = volume.data.min()
    to_source = np.linalg.solve(volume.affine, affine)
    data = sample_grid(volume.data - darkest, to_source, (x, y, z)) + darkest
    return attrs.evolve(volume, data=data, affine=affine)


def _places(volume: Volume) -> Floats:
    """(N, 3) places of voxels that show something, RAS+ mm."""
    step = max(1, round((volume.data.size / _SAMPLES) ** (1 / 3)))
    steps = [min(step, max(1, n // 8)) for n in volume.shape]
    part = volume.data[:: steps[0], :: steps[1], :: steps[2]]
    index = np.argwhere(part > shown_level(volume.data)) * steps
    places: Floats = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return places


def _frame(axes: Floats, axis: int, across: Floats) -> Floats:
    """Right-angled axes, as columns: one given, the others as near to those of the image as can be."""
    first, second = (k for k in range(3) if k != axis)
    frame = np.empty((3, 3))
    frame[:, axis] = across
    one = axes[:, first] - (axes[:, first] @ across) * across
    frame[:, first] = one / np.linalg.norm(one)
    other = np.cross(across, frame[:, first])
    frame[:, second] = other * np.sign(other @ axes[:, second])
    return frame
