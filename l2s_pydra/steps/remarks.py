"""What is odd about images and labels, in words; none of it stops a training."""

from typing import Any

import nibabel as nb
import numpy as np
import numpy.typing as npt

from ..errors import L2SError
from ..images.headers import is_placed
from ..images.volume import Volume, by
from .alignment import Fit

__all__ = ["Remark", "explained", "misplaced", "remarks_on"]

Array = npt.NDArray[Any]
Remark = tuple[str, str, str]
"""Which file (``image`` or ``labels``), what is odd about it, and the remedy."""

_SMALL_MM = 40.0
"""Side of a field of view that shows no whole brain, not even a newborn's."""
_VOXEL_MM = (0.05, 12.0)
"""Voxel sizes between which nobody wonders."""
_ZOOM_TOLERANCE = 0.01
_EXPORT = "export the image again, or correct its header"
_REMEDIES = {
    "neither qform nor sform": "set qform or sform, left and right may be exchanged",
    "orientation is not set": "set its orientation, left and right may be exchanged",
    "qform and sform": "find out which is right and correct the other",
    "is no rotation": "correct the qform, or copy the sform to it",
}
"""What to do where a warning of a volume has these words."""


def explained(error: L2SError, image: Volume, labels: Volume) -> L2SError:
    """Say more about two grids that differ: which axes they have, and whether the header says so."""
    if image.shape != labels.shape:
        return error
    ours, theirs = ("".join(_axes(v.affine)) for v in (labels, image))
    if not is_placed(labels.header):
        why = f"it has no orientation of its own (taken as {ours}, the image is {theirs})"
        remedy = "copy the image's qform and sform to it if the voxels correspond"
    elif ours != theirs:
        why = f"its axes are {ours}, those of the image {theirs}"
        remedy = (
            "resample the labels onto the image's grid by nearest neighbour, or correct the "
            "orientation of the wrong one"
        )
    else:
        return error
    what = str(error).rpartition("; ")[0]
    return type(error)(f"{what}: {why}; {remedy}")


def _axes(affine: Array) -> tuple[str, ...]:
    codes: tuple[str, ...] = nb.orientations.aff2axcodes(affine)  # type: ignore[no-untyped-call]
    return codes


def remarks_on(volume: Volume, role: str) -> list[Remark]:
    """Say what is odd about a file, as far as its header tells.

    Parameters
    ----------
    volume : Volume
        As it was loaded.
    role : str
        ``image`` or ``labels``; begins each remark.
    """
    found = [(warning, _remedy_of(warning)) for warning in volume.warnings]
    extent = np.multiply(volume.shape, volume.spacing_mm)
    if extent.min() < _SMALL_MM:
        found.append(
            (
                f"its field of view is only {by(tuple(round(e) for e in extent))} mm",
                "check the voxel size, and that no other image was meant",
            )
        )
    low, high = _VOXEL_MM
    if min(volume.spacing_mm) < low or max(volume.spacing_mm) > high:
        sizes = " x ".join(f"{size:.3g}" for size in volume.spacing_mm)
        found.append((f"its voxels are {sizes} mm", "check the voxel size, which is in mm"))
    if isinstance(volume.header, nb.Nifti1Header):
        found += _remarks_on_header(volume.header, volume)
    return [(role, what, remedy) for what, remedy in found]


def _remedy_of(warning: str) -> str:
    return next((remedy for word, remedy in _REMEDIES.items() if word in warning), _EXPORT)


def _remarks_on_header(header: Any, volume: Volume) -> list[tuple[str, str]]:
    """Say what is odd about a NIfTI header: two voxel sizes."""
    found = []
    zooms = np.array((*header.get_zooms(), 1.0, 1.0, 1.0)[: len(header.get_zooms())][:3])
    sizes = np.array(volume.spacing_mm)[: len(zooms)]
    if is_placed(header) and np.any(np.abs(zooms / sizes - 1) > _ZOOM_TOLERANCE):
        pair = ["x".join(f"{size:.3g}" for size in both) for both in (zooms, sizes)]
        found.append(
            (f"its header gives voxels of {pair[0]} mm, its affine of {pair[1]} mm", _EXPORT)
        )
    return found


def misplaced(fit: Fit | None, labels: Volume) -> list[Remark]:
    """Say what is odd about the place of labels."""
    found: list[Remark] = []
    look = "look at image and labels together"
    if fit is not None and fit.on_background:
        what = f"{100 * fit.dark:.0f} % of the labelled voxels lie on the image's dark background"
        found.append(("labels", what, look))
    if fit is not None and fit.elsewhere:
        moves = []
        if fit.mirror is not None:
            axis = int(np.abs(labels.affine[:3, fit.mirror]).argmax())
            ends = ("left and right", "front and back", "top and bottom")[axis]
            moves.append(f"mirrored ({ends} exchanged)")
        if any(fit.move_voxels):
            move = labels.affine[:3, :3] @ fit.move_voxels
            words = zip(("right", "anterior", "superior"), move, strict=True)
            far = ", ".join(f"{mm:+.0f} mm {word}" for word, mm in words if abs(mm) >= 0.5)
            moves.append(f"moved by {far}")
        what = f"the labels fit their image better when they are {' and '.join(moves)}"
        found.append(("labels", what, f"{look}; they may be shifted, flipped or of another image"))
    return found
