"""One slice of a volume as a picture: orientation, extent, intensities, labels.

Pictures have their first row on top. The left of the body is at the left of axial and coronal
pictures, the back at the left of sagittal ones; up is anterior (axial) or superior.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from .colors import RGB

__all__ = [
    "PLANES",
    "Box",
    "Plane",
    "Volume",
    "display_slice",
    "paint",
    "region",
    "to_rgb",
    "window",
]

Array: TypeAlias = npt.NDArray[Any]
"""Numbers of any kind."""
Picture: TypeAlias = npt.NDArray[np.floating[Any]]
"""(rows, columns) or (rows, columns, 3) floats."""
Box: TypeAlias = tuple[tuple[int, int], ...]
"""First voxel and the one after the last, along each axis of a RAS volume."""


@attrs.frozen
class Plane:
    """A plane of section, in terms of the axes of a RAS volume."""

    name: str
    """``axial``, ``coronal`` or ``sagittal``."""
    normal: int
    """Axis that runs through the slices."""
    right: int
    """Axis that runs to the right of the picture."""
    up: int
    """Axis that runs up."""
    letters: str
    """Directions of the body at the left, right, bottom and top edge."""


PLANES = {
    "axial": Plane("axial", 2, 0, 1, "LRPA"),
    "coronal": Plane("coronal", 1, 0, 2, "LRIS"),
    "sagittal": Plane("sagittal", 0, 1, 2, "PAIS"),
}
"""The three planes by name."""


@attrs.frozen
class Volume:
    """A volume whose axes point, as nearly as they can, right, anterior and superior."""

    data: Array
    """(X, Y, Z)."""
    affine: npt.NDArray[np.float64]
    """(4, 4), voxel indices to mm, RAS+."""

    @classmethod
    def reoriented(cls, data: Array, affine: npt.ArrayLike) -> "Volume":
        """Permute and flip the axes of a volume; nothing is interpolated."""
        source = np.asarray(affine, dtype=np.float64)
        # nibabel's orientation functions bear no types.
        orientation = io_orientation(source)  # type: ignore[no-untyped-call]
        to_source = inv_ornt_aff(orientation, data.shape)  # type: ignore[no-untyped-call]
        return cls(apply_orientation(data, orientation), source @ to_source)  # type: ignore[no-untyped-call]

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance of neighbouring voxels along each axis."""
        return tuple(np.linalg.norm(self.affine[:3, :3], axis=0).tolist())

    def slice(self, plane: Plane, index: int, box: Box | None = None) -> Array:
        """Slice number ``index`` (within ``box``), first row on top."""
        (x, x_end), (y, y_end), (z, z_end) = box or tuple((0, size) for size in self.data.shape)
        section = np.take(self.data[x:x_end, y:y_end, z:z_end], index, axis=plane.normal)
        upright: Array = (section.T if plane.right < plane.up else section)[::-1]
        return upright

    def position_mm(self, plane: Plane, index: int, box: Box) -> float:
        """World coordinate, across the plane, of the middle of a slice of ``box``."""
        voxel = np.array([(start + stop - 1) / 2 for start, stop in box])
        voxel[plane.normal] = box[plane.normal][0] + index
        return float((self.affine[:3, :3] @ voxel + self.affine[:3, 3])[plane.normal])


def display_slice(data: Array, affine: npt.ArrayLike, plane: str, index: int) -> Array:
    """One slice of a volume as it is shown.

    Parameters
    ----------
    data : (X, Y, Z) array
        A volume in any axis order.
    affine : (4, 4) array
        Voxel indices to mm, RAS+. Oblique volumes are shown along their own axes.
    plane : str
        A name in :data:`PLANES`.
    index : int
        Number of the slice, counted from inferior, posterior or left.

    Returns
    -------
    2-D array
        A view where possible.
    """
    return Volume.reoriented(data, affine).slice(PLANES[plane], index)


def region(image: Array, labels: Array) -> Box:
    """Bounding box, with a margin of 4 %, of the labels, else of the image's bright part.

    Parameters
    ----------
    image, labels : (X, Y, Z) arrays
        Intensities, and labels with 0 as background.

    Returns
    -------
    Box
    """
    inside = labels != 0
    if not inside.any():
        finite = np.nan_to_num(image)
        inside = finite > finite.mean()
    if not inside.any():
        inside = np.ones(image.shape, dtype=bool)
    box = []
    for axis, size in enumerate(inside.shape):
        hits = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        start, stop = int(hits[0]), int(hits[-1]) + 1
        margin = int(np.ceil(0.04 * (stop - start)))
        box.append((max(0, start - margin), min(size, stop + margin)))
    return tuple(box)


def window(image: Array, labels: Array) -> tuple[float, float]:
    """Intensities to show black and white: the range of the labelled part without its tails.

    Parameters
    ----------
    image, labels : (X, Y, Z) arrays
        Intensities, and labels with 0 as background.

    Returns
    -------
    (float, float)
        Low and high, low < high.
    """
    values = image[labels != 0]
    values = values[np.isfinite(values)]
    if values.size == 0 or values.min() == values.max():
        values = image[np.isfinite(image)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return low - 0.05 * (high - low), high + 1e-6 * abs(high) + 1e-12


def to_rgb(section: Array, limits: tuple[float, float], shape: tuple[int, int]) -> Picture:
    """Slice as a grey picture of ``shape``, linearly interpolated.

    Parameters
    ----------
    section : (rows, columns) array
        Intensities; NaN is black.
    limits : (float, float)
        Intensities that are black and white.
    shape : (int, int)
        Rows and columns of the picture.

    Returns
    -------
    (rows, columns, 3) array
        In [0, 1].
    """
    low, high = limits
    grey = np.clip((np.nan_to_num(section, nan=low) - low) / (high - low), 0, 1)
    return np.repeat(_interpolate(grey, shape)[..., None], 3, axis=-1)


def paint(grey: Picture, section: Array, colors: Mapping[int, RGB], alpha: float) -> Picture:
    """Fill the labels of a slice with their colour and outline them.

    Parameters
    ----------
    grey : (rows, columns, 3) array
        Picture of :func:`to_rgb`.
    section : 2-D integer array
        Labels of the slice; enlarged to the picture without interpolation.
    colors : mapping of int to RGB
        Colour by label; 0 and labels that are not in it stay as they are.
    alpha : float
        Opacity of the fill in [0, 1]; the outline is opaque.

    Returns
    -------
    (rows, columns, 3) array
    """
    marks = _enlarge(section, (grey.shape[0], grey.shape[1]))
    painted, edge = grey.copy(), _edges(marks)
    for index in np.unique(marks):
        if index == 0 or int(index) not in colors:
            continue
        color, inside = np.array(colors[int(index)]), marks == index
        painted[inside] = (1 - alpha) * painted[inside] + alpha * color
        painted[inside & edge] = color
    return painted


def spaced(start: int, stop: int, count: int) -> list[int]:
    """At most ``count`` indices, evenly spaced between 10 and 90 % of [start, stop).

    >>> spaced(0, 10, 2), spaced(3, 4, 5)
    ([3, 7], [3])
    """
    steps = 0.1 + 0.8 * (np.arange(count) + 0.5) / count
    return sorted({int(start + step * (stop - start)) for step in steps})


def _edges(marks: Array) -> npt.NDArray[np.bool_]:
    """Pixels with another label above, below or beside them."""
    edge = np.zeros(marks.shape, dtype=bool)
    down, across = marks[1:] != marks[:-1], marks[:, 1:] != marks[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


def _enlarge(section: Array, shape: tuple[int, int]) -> Array:
    """Nearest neighbour."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(shape, section.shape, strict=True)
    )
    return section[np.ix_(rows, columns)]


def _interpolate(section: Picture, shape: tuple[int, int]) -> Picture:
    """Linear, one axis at a time."""
    for axis, new in enumerate(shape):
        old = section.shape[axis]
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(position).astype(int)
        weight = np.expand_dims(position - low, 1 - axis)
        high = np.minimum(low + 1, old - 1)
        section = (1 - weight) * section.take(low, axis) + weight * section.take(high, axis)
    return section
