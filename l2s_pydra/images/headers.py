"""What the header of a file says about the place of its voxels, and what is odd about it."""

import itertools
import math
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from ..errors import ImageError

__all__ = ["by", "check_affine", "check_shape", "corners", "is_placed", "placed", "sizes"]

Array = npt.NDArray[Any]
Affine = npt.NDArray[np.float64]

_FIELD_OF_VIEW_MM = (2.0, 2000.0)
_VOXEL_MM = (1e-3, 40.0)
_FURTHEST_MM = 1e5
"""Distance from the origin at which affines of 32 bits still place voxels to a hundredth."""
_XFORM_GAP_VOXELS = 0.5
"""qform and sform differ if they place a corner further apart than this share of a voxel."""
_UNITS = {1: "metres", 3: "micrometres"}
"""Units of length of NIfTI other than millimetres, by code."""


def by(shape: tuple[int, ...]) -> str:
    """Write a shape for a message.

    >>> by((4, 5, 6))
    '4 x 5 x 6'
    """
    return " x ".join(map(str, shape))


def sizes(image: Any) -> tuple[int, ...]:
    """Voxels along each axis of a nibabel image, as numbers that do not overflow."""
    return tuple(int(n) for n in image.shape)


def corners(shape: tuple[int, ...]) -> Affine:
    """(4, 8) homogeneous indices of the corner voxels."""
    return np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in shape))]).T * 1.0


def check_shape(shape: tuple[int, ...], path: Path, allow_2d: bool) -> None:
    """Refuse what is not one volume (or, on request, one slice)."""
    if not shape or min(shape) < 1:
        raise ImageError(f"{path}: has an axis of length 0 ({by(shape)}); export it again")
    extra = math.prod(shape[3:])
    if extra > 1:
        raise ImageError(
            f"{path}: has {extra} volumes ({by(shape)}) where one is expected; extract one"
        )
    flat = 3 - len(shape[:3]) + sum(n == 1 for n in shape[:3])
    if flat > 1 or (flat == 1 and not allow_2d):
        raise ImageError(
            f"{path}: is not 3-D ({by(shape)}); give a volume"
            + ("" if flat > 1 else ", or use a 2-D model for single slices")
        )


def check_affine(affine: Affine | None, shape: tuple[int, ...], path: Path) -> Affine:
    """Refuse an affine that is not one, and fields of view and voxels that nobody images with."""
    if affine is None or not np.isfinite(affine).all():
        raise ImageError(f"{path}: its affine is not finite; correct the qform or sform")
    affine = np.asarray(affine, dtype=np.float64)
    linear = affine[:3, :3]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scale = np.linalg.norm(linear, axis=0)
        # Relative to its columns, so that small voxels are no fault
        volume = abs(np.linalg.det(linear / scale))
    if not scale.all() or volume < 1e-4:
        raise ImageError(f"{path}: its affine is singular; correct the qform or sform")
    extent = scale[: len(shape[:3])] * shape[:3]
    low, high = _FIELD_OF_VIEW_MM
    if extent.max() < low or extent.max() > high:
        raise ImageError(
            f"{path}: its field of view is {' x '.join(f'{e:.3g}' for e in extent)} mm; "
            "correct the voxel size, which is in mm"
        )
    finest, coarsest = _VOXEL_MM
    # How thick a single slice is does not matter
    thickest = max(s for s, n in zip(scale, shape, strict=False) if n > 1)
    if scale.min() < finest or thickest > coarsest:
        raise ImageError(
            f"{path}: its voxels are {' x '.join(f'{s:.3g}' for s in scale)} mm large; "
            "correct the voxel size, which is in mm"
        )
    away = float(np.abs(affine[:3, 3]).max())
    if away > _FURTHEST_MM:
        raise ImageError(
            f"{path}: its first voxel lies {away:.3g} mm from the origin; correct the qform or sform"
        )
    return affine


def is_placed(header: Any) -> bool:
    """Whether a header says where its voxels lie, by a qform or an sform; that of FreeSurfer does."""
    if not isinstance(header, nb.Nifti1Header):
        return True
    fields: Any = header
    return bool(fields["sform_code"] or fields["qform_code"])


def placed(image: Any) -> tuple[Affine | None, list[str]]:
    """Decide where the voxels of a file lie.

    The sform counts where it is set, else the qform. Where neither is, the axes are taken to point
    right, anterior and superior, as the NIfTI standard has it (method 1), about the middle of the
    image; nibabel would have the first point left.

    Parameters
    ----------
    image : nibabel image

    Returns
    -------
    affine : (4, 4) array or None
        Voxel indices to RAS+ mm.
    warnings : list of str
        What was assumed, and what contradicts itself.
    """
    if not isinstance(image.header, nb.Nifti1Header):
        return image.affine, []
    header = image.header
    warnings = []
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit is not None:
        warnings.append(f"its header gives lengths in {unit}; they were taken as mm")
    if header["sform_code"] and header["qform_code"]:
        return image.affine, warnings + _disagreement(image)
    if is_placed(header):
        return image.affine, warnings
    warnings.append(
        "neither qform nor sform is set; assumed that its axes point right, anterior and superior "
        "(RAS+): make sure that left and right are as they should be"
    )
    return _right_anterior_superior(image), warnings


def _right_anterior_superior(image: Any) -> Affine:
    shape = np.array((*sizes(image), 1, 1)[:3])
    zooms = np.abs(np.asarray(image.header["pixdim"][1:4], dtype=np.float64))
    affine = np.diag([*zooms, 1.0])
    affine[:3, 3] = -zooms * (shape - 1) / 2
    return affine


def _disagreement(image: Any) -> list[str]:
    no_rotation = ["its qform is no rotation; used the sform"]
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            qform = image.header.get_qform()
    except (ValueError, nb.spatialimages.HeaderDataError):
        return no_rotation
    sform = image.affine
    with np.errstate(invalid="ignore", over="ignore"):
        moved = np.linalg.norm((qform - sform)[:3] @ corners((*sizes(image), 1, 1)[:3]), axis=0)
        gap = float(moved.max())
        smallest = float(np.linalg.norm(sform[:3, :3], axis=0).min())
        mirrored = np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0
    if not np.isfinite(gap):
        return no_rotation
    if gap <= _XFORM_GAP_VOXELS * smallest:
        return []
    told = f"qform and sform place voxels up to {gap:.3g} mm apart; used the sform"
    return [told + (", which is mirrored to the qform: check left and right" if mirrored else "")]
