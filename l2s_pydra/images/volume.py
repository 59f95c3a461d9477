"""Volumes: load, check, compare.

World coordinates are RAS+ millimetres throughout, as in nibabel.
"""

import logging
import math
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import GridMismatchError, ImageError, LabelError
from .headers import by, check_affine, check_shape, corners, placed, sizes
from .reading import open_image, read_voxels

__all__ = [
    "Volume",
    "by",
    "check_same_grid",
    "load_image",
    "load_labels",
    "voxel_volume_mm3",
]

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]

_log = logging.getLogger(__name__)
_SMALLEST_SPAN = 1e-3
_SAME_GRID_MM = 1e-3
_LARGEST = 1e18
"""Intensities beyond are damage; squares of those below are still numbers of 32 bits."""


def _is_affine(_: object, field: Any, value: Array) -> None:
    if value.shape != (4, 4):
        raise ValueError(f"{field.name} must be a 4 x 4 matrix, not of shape {value.shape}")


@attrs.frozen(kw_only=True, eq=False)
class Volume:
    """A 3-D array and its place in the world."""

    data: Array
    """(X, Y, Z), float32 for images, int32 for labels, in the file's own axis order."""
    affine: npt.NDArray[np.float64] = attrs.field(validator=_is_affine)
    """(4, 4), voxel indices to RAS+ mm."""
    header: Any = attrs.field(repr=False)
    """nibabel header of the file."""
    path: Path = attrs.field(converter=Path)
    """The file."""
    warnings: tuple[str, ...] = ()
    """What is odd about the file and was mended or assumed; logged as well."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along each axis, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def voxel_volume_mm3(affine: Array) -> float:
    """Volume of one voxel, mm3: the determinant of the affine.

    >>> voxel_volume_mm3(np.diag([-1.0, 2.0, 3.0, 1.0]))
    6.0
    """
    return float(round(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])), 9))


def load_image(path: str | Path, *, allow_2d: bool = False) -> Volume:
    """Load and check an intensity image.

    The header's intensity scaling is applied, trailing axes of length one are dropped, and single
    voxels that are not finite become 0, with a warning. Intensities that span less than a
    thousandth (diffusivities in m2/s) are multiplied by a power of two, until they span one or more.

    Parameters
    ----------
    path : str or Path
        NIfTI-1 or -2 (``.nii``, ``.nii.gz``) or FreeSurfer (``.mgz``, ``.mgh``).
    allow_2d : bool, default=False
        Whether a single slice, which becomes (X, Y, 1), will do.

    Returns
    -------
    Volume
        float32.

    Raises
    ------
    ImageError
        If the file is missing, empty, truncated, no image, not 3-D, of one value only, without a
        finite value, or without a usable affine.
    """
    path = Path(path)
    image, affine, warnings = _open(path, allow_2d)
    data = _mended(read_voxels(image, path, np.float32, warnings), path, warnings)
    if data.min() == data.max():
        raise ImageError(
            f"{path}: every voxel is {data.flat[0]:g}; give an image that shows something"
        )
    return _volume(_enlarged(data), affine, image, path, warnings)


def load_labels(
    path: str | Path, *, allow_2d: bool = False, allow_constant: bool = False
) -> Volume:
    """Load and check a label map.

    Parameters
    ----------
    path : str or Path
        As for :func:`load_image`. Whole numbers stored as floating point will do; negative values
        are kept.
    allow_2d : bool, default=False
        Whether a single slice, which becomes (X, Y, 1), will do.
    allow_constant : bool, default=False
        Whether a map of one single value will do.

    Returns
    -------
    Volume
        int32.

    Raises
    ------
    ImageError
        As for :func:`load_image`.
    LabelError
        If a value is not a whole number of 32 bits.
    """
    path = Path(path)
    image, affine, warnings = _open(path, allow_2d)
    labels = _whole_numbers(read_voxels(image, path, None, warnings), path)
    if not allow_constant and labels.min() == labels.max():
        raise ImageError(
            f"{path}: every voxel is {labels.flat[0]}; give a label map with structures in it"
        )
    return _volume(labels, affine, image, path, warnings)


def check_same_grid(image: Volume, labels: Volume) -> None:
    """Check that two volumes have the same voxels in the same places.

    Raises
    ------
    GridMismatchError
        If the shapes differ, or a corner lies more than a micrometre from its counterpart.
    """
    remedy = "resample the labels onto the image's grid by nearest neighbour"
    if image.shape != labels.shape:
        raise GridMismatchError(
            f"{labels.path}: shape {by(labels.shape)} differs from {by(image.shape)} of "
            f"{image.path}; {remedy}"
        )
    apart = (image.affine - labels.affine)[:3] @ corners(image.shape)
    gaps = np.linalg.norm(apart, axis=0)
    if gaps.max() > _SAME_GRID_MM:
        raise GridMismatchError(
            f"{labels.path}: voxels lie up to {gaps.max():.3g} mm from those of {image.path}; "
            f"{remedy}, or correct the affine of the wrong one"
        )


def _open(path: str | Path, allow_2d: bool) -> tuple[Any, Affine, list[str]]:
    """Open a file without reading its voxels; check all that the header tells."""
    path = Path(path)
    image, warnings = open_image(path)
    shape = sizes(image)
    check_shape(shape, path, allow_2d)
    affine, assumed = placed(image)
    return image, check_affine(affine, shape, path), warnings + assumed


def _mended(data: Array, path: Path, warnings: list[str]) -> Array:
    """Put 0 where an image holds no number, or one that nothing is measured in; say so."""
    # Some of the values that are no numbers let comparisons warn
    with np.errstate(invalid="ignore"):
        if max(abs(float(data.min())), abs(float(data.max()))) <= _LARGEST:
            return data
        finite = np.isfinite(data)
        usable = np.abs(data) <= _LARGEST
    bad = int(data.size - np.count_nonzero(finite))
    if bad == data.size:
        raise ImageError(f"{path}: no voxel holds a finite number; export the image again")
    if bad:
        warnings.append(f"{bad} voxels are not finite numbers and were set to 0")
    beyond = int(data.size - np.count_nonzero(usable)) - bad
    if beyond:
        warnings.append(f"{beyond} voxels are beyond {_LARGEST:g} and were set to 0")
    return np.where(usable, data, np.float32(0))


def _enlarged(data: Array) -> Array:
    """Make room for arithmetic of 32 bits; a power of two keeps the values exact."""
    span = float(data.max()) - float(data.min())
    if span >= _SMALLEST_SPAN:
        return data
    return np.ldexp(data, -math.floor(math.log2(span)))


def _whole_numbers(stored: Array, path: Path) -> npt.NDArray[np.int32]:
    wrong = LabelError(f"{path}: holds values that are no whole numbers; give a label map")
    if stored.dtype.kind == "f":
        if not np.isfinite(stored).all():
            raise wrong
        whole = np.rint(stored)
        # A slope such as 1/255 leaves whole numbers inexact
        if np.abs(stored - whole).max() > 1e-3:
            raise wrong
        stored = whole
    limits = np.iinfo(np.int32)
    if stored.min() < limits.min or stored.max() > limits.max:
        raise LabelError(f"{path}: holds labels beyond 32 bits; renumber them")
    return stored.astype(np.int32)


def _volume(data: Array, affine: Affine, image: Any, path: Path, warnings: list[str]) -> Volume:
    for warning in warnings:
        _log.warning("%s: %s", path, warning)
    return Volume(
        data=data,
        affine=affine,
        header=image.header,
        path=path,
        warnings=tuple(warnings),
    )
