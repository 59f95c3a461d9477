"""Overlap, surface distance and calibration of segmentations."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import ShapeError

__all__ = ["calibration_error", "dice_scores", "hausdorff_95"]

_PERCENTILE = 95


def dice_scores(predicted: Tensor, reference: Tensor, count: int) -> Tensor:
    r"""Dice overlap of each class but the background.

    .. math:: D_k = \frac{2 |P_k \cap R_k|}{|P_k| + |R_k|}

    Parameters
    ----------
    predicted, reference : integer tensors of one shape
        Channel of each voxel.
    count : int
        Number of classes, background included.

    Returns
    -------
    (count - 1,) float64 tensor
        NaN where the class occurs in neither.

    References
    ----------
    Dice, Ecology 1945.

    Examples
    --------
    >>> dice_scores(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), 4)[:2]
    tensor([0.6667, 0.6667], dtype=torch.float64)
    """
    p, r = predicted.reshape(-1).long(), reference.reshape(-1).long()
    both = torch.bincount(p[p == r], minlength=count).double()
    total = torch.bincount(p, minlength=count) + torch.bincount(r, minlength=count)
    return (2 * both / total.double())[1:]


def hausdorff_95(
    predicted: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    affine: npt.NDArray[np.float64],
) -> float:
    r"""Compute the 95th percentile of the symmetric surface distances, mm.

    .. math:: H_{95} = \operatorname{perc}_{95} \bigl(
        \{\min_{r \in \partial R} \|p - r\| : p \in \partial P\} \cup
        \{\min_{p \in \partial P} \|r - p\| : r \in \partial R\} \bigr)

    The distances of both directions are pooled before the percentile is taken (linear between
    ranks). The surface :math:`\partial` is made of the voxels of the structure that have a face
    neighbour outside it or lie at the edge of the image; distances are between voxel centres. In
    a single slice, neighbours are those in the slice.

    Parameters
    ----------
    predicted, reference : (X, Y, Z) bool arrays
        Voxels of the structure, :math:`P` and :math:`R`.
    affine : (4, 4) array
        Voxel indices to mm; voxels may be anisotropic, oblique and sheared.

    Returns
    -------
    float
        NaN if either is empty.

    Raises
    ------
    ShapeError
        If the shapes differ.

    References
    ----------
    Huttenlocher et al., Comparing images using the Hausdorff distance, PAMI 1993; on its
    conventions Maier-Hein, Reinke et al., Metrics reloaded, Nature Methods 2024.

    Examples
    --------
    >>> cube = np.zeros((8, 8, 8), dtype=bool)
    >>> cube[2:5, 2:5, 2:5] = True
    >>> hausdorff_95(cube, np.roll(cube, 1, axis=0), np.diag([2.0, 1, 1, 1]))
    2.0
    """
    from scipy.spatial import cKDTree

    if predicted.shape != reference.shape:
        raise ShapeError(f"masks of shapes {predicted.shape} and {reference.shape} do not compare")
    if not predicted.any() or not reference.any():
        return float("nan")
    linear = np.asarray(affine, dtype=np.float64)[:3, :3].T
    surfaces = [_surface(mask) @ linear for mask in (predicted, reference)]
    # Plain trees: twice as fast to build, and points on a grid are spread evenly anyway
    trees = [cKDTree(s, balanced_tree=False, compact_nodes=False) for s in surfaces]
    there, back = trees[1].query(surfaces[0])[0], trees[0].query(surfaces[1])[0]
    return float(np.percentile(np.concatenate([there, back]), _PERCENTILE))


def _surface(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(N, 3) indices of the surface voxels of a structure that is not empty."""
    from scipy import ndimage

    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    inside = mask[box]
    faces = ndimage.generate_binary_structure(mask.ndim, 1)
    for axis, n in enumerate(mask.shape):
        if n == 1:
            faces = np.take(faces, [1], axis=axis)
    surface = inside & ~ndimage.binary_erosion(inside, faces)
    indices: npt.NDArray[np.float64] = np.argwhere(surface) + [float(part.start) for part in box]
    return indices


def calibration_error(
    confidence: npt.NDArray[np.floating],
    correct: npt.NDArray[np.bool_],
    *,
    bins: int = 15,
) -> float:
    r"""Compute the expected calibration error.

    .. math:: \mathrm{ECE} = \sum_{b=1}^{B} \frac{n_b}{N}
        \bigl| \mathrm{acc}_b - \mathrm{conf}_b \bigr|

    over bins of equal width in [0, 1], with the share of correct voxels and the mean confidence of
    each. With the largest posterior of each voxel and whether that label is right, it is the error
    of Guo et al.; with the posterior of one label and whether the voxel has it, that of the label
    (Kull et al., and the static error of Nixon et al., before averaging over labels).

    Parameters
    ----------
    confidence : (N,) float array
        Probabilities.
    correct : (N,) bool array
        Whether what is claimed with that probability is so.
    bins : int, default=15
        :math:`B`; 15 as in Guo et al.

    Returns
    -------
    float
        In [0, 1]; NaN without voxels.

    Raises
    ------
    ShapeError
        If the lengths differ.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017, section 2; Kull et al.,
    Beyond temperature scaling, NeurIPS 2019; Nixon et al., Measuring calibration in deep
    learning, CVPR workshops 2019.

    Examples
    --------
    >>> round(calibration_error(np.array([0.9, 0.9, 0.9, 0.9]), np.array([True, True, True, False])), 6)
    0.15
    """
    if confidence.shape != correct.shape:
        raise ShapeError(
            f"{confidence.shape} confidences for {correct.shape} voxels do not compare"
        )
    if not confidence.size:
        return float("nan")
    values = confidence.astype(np.float64, copy=False).reshape(-1)
    place = np.clip((values * bins).astype(np.int64), 0, bins - 1)
    claimed = np.bincount(place, weights=values, minlength=bins)
    right = np.bincount(place, weights=correct.reshape(-1), minlength=bins)
    return float(np.abs(right - claimed).sum() / values.size)
