r"""Whether labels lie on what the image shows, whatever its contrast.

Labels explain intensities where they belong: voxels of one label are alike, those of different
labels are not. The share of the variance that is between labels (the correlation ratio, Roche et
al., MICCAI 1998) is computed for every displacement of the labels by whole voxels of a coarse grid,
as they are and mirrored along each axis, by Fourier transforms. With :math:`S_k(d)` the sum of the
intensities under label *k* displaced by *d*, and :math:`n_k` its voxels,

.. math:: \eta^2(d) = \frac{\sum_k S_k(d)^2 / n_k - S(d)^2 / n}{Q(d) - S(d)^2 / n},

once over all voxels, background being a label, and once over the labelled voxels alone. Labels that
fit much better in another place are suspicious.

What it cannot see: displacements below about a thirtieth of the field of view; brains that are
mirrored left to right about their own middle, as the sides look alike (about the middle of the
image it sees them where the head is off centre or not symmetric); exchanged names of the two sides;
labels of few voxels, or of one or two structures in a whole head, many of which fit elsewhere too.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

__all__ = ["Fit", "background_level", "fit_of_labels", "two_clusters"]

Array = npt.NDArray[Any]
_Candidate = tuple[int | None, Array, Array]
"""Axis along which labels are mirrored, and explained shares at all displacements."""

_SIDE = 32
"""Voxels of the coarse grid along the longest axis of the field of view."""
_FEW = 8
"""Coarse voxels that a structure needs to be looked at."""
_MANY = 200
"""Coarse voxels, of three or more structures, that fit in one place only."""
_BLACK = 0.02
"""Share of the range of intensities up to which a voxel is empty in any case."""
_MIRRORED = 0.15
"""How much better mirrored labels must fit to be believed."""
_FLOOR = 1e-3
"""Least variance, of intensities from 0 to 1, that is worth explaining."""


@attrs.frozen(kw_only=True)
class Fit:
    """How well labels fit an image where they are, and where they would fit best."""

    dark: float
    """Share of the labelled voxels that are as dark as the background."""
    dark_around: float
    """The same for what is around them."""
    empty: float
    """Share of the labelled voxels that hold the lowest intensity of the image."""
    whole: tuple[float, float]
    """Explained share of the variance of all voxels: here, and at best."""
    inside: tuple[float, float]
    """The same within the labels; both 0 if there is one label only."""
    telling: bool
    """Whether there are structures and voxels enough for ``inside`` to decide alone."""
    move_voxels: tuple[int, int, int]
    """How far to move the labels for the best fit, voxels along the axes of the array."""
    mirror: int | None
    """Axis along which they are mirrored in the best fit."""

    @property
    def on_background(self) -> bool:
        """Whether most of the labels, and of what is around them, is background."""
        return self.dark > 0.5 and self.dark_around > 0.5

    @property
    def elsewhere(self) -> bool:
        """Whether the labels fit much better in another place."""
        here, best = self.whole
        if best > 0.5 and best - here > 0.1:
            return True
        inside, inside_best = self.inside
        gain = inside_best - inside > 0.3 and inside < 0.6 * inside_best
        return gain and (self.telling or best - here > 0.05)


def fit_of_labels(
    image: Array, labels: Array, spacing_mm: Sequence[float], groups: Sequence[int]
) -> Fit | None:
    """Compare labels with an image in many places.

    Parameters
    ----------
    image : (X, Y, Z) array
        Finite intensities.
    labels : (X, Y, Z) array
        Channel of each voxel, 0 the background.
    spacing_mm : 3 floats
        Voxel size.
    groups : sequence of int
        Number of the group of each channel, 0 for the background only; labels of a group count as
        one (left and right).

    Returns
    -------
    Fit or None
        None if there are too few labelled voxels to tell.
    """
    steps = _steps(image.shape, spacing_mm)
    thin = tuple(slice(step // 2, None, step) for step in steps)
    masks = _masks(np.asarray(groups)[labels[thin]])
    if not masks:
        return None
    values = image[thin].astype(np.float64)
    low, high = np.percentile(values, (0.5, 99))
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    candidates: list[_Candidate] = [(None, *_explained(scaled, masks))]
    for axis in range(3):
        mirrored = _masks(np.asarray(groups)[np.flip(labels, axis)[thin]])
        if mirrored:
            candidates.append((axis, *_explained(scaled, mirrored)))
    here = (float(candidates[0][1].flat[0]), float(candidates[0][2].flat[0]))
    mirror, whole, inside = max(candidates, key=_merit)
    place = np.unravel_index(int((whole + inside).argmax()), whole.shape)
    around = np.any(masks, axis=0)
    x, y, z = (
        _signed(int(i), n) * step for i, n, step in zip(place, whole.shape, steps, strict=True)
    )
    return Fit(
        **_darkness(scaled, values, around),
        whole=(here[0], float(whole[place])),
        inside=(here[1], float(inside[place])),
        telling=len(masks) > 2 and int(np.count_nonzero(around)) >= _MANY,
        move_voxels=(x, y, z),
        mirror=mirror,
    )


def _steps(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    """Distance of the voxels that are looked at, along each axis."""
    extent = np.multiply(shape, spacing_mm)
    coarse_mm = extent.max() / _SIDE
    return [
        max(1, min(round(coarse_mm / size), n // 2))
        for size, n in zip(spacing_mm, shape, strict=True)
    ]


def _masks(classes: Array) -> list[Array]:
    """Where each structure is that has voxels enough."""
    masks = [classes == k for k in np.unique(classes[classes > 0])]
    return [mask for mask in masks if np.count_nonzero(mask) >= _FEW]


def _signed(shift: int, size: int) -> int:
    return shift - size if shift > size // 2 else shift


def _merit(candidate: _Candidate) -> float:
    """Best fit of a candidate; to be mirrored needs a reason, as brains are nearly symmetric."""
    mirror, whole, inside = candidate
    return float((whole + inside).max()) - (0 if mirror is None else _MIRRORED)


def _explained(image: Array, masks: Sequence[Array]) -> tuple[Array, Array]:
    """Explained shares at all displacements: of all voxels, and of the labelled ones."""
    from scipy import fft

    values = image - image.mean()
    transform = fft.rfftn(values)

    def under(mask: Array, of: Array) -> Array:
        moved: Array = fft.irfftn(of * np.conj(fft.rfftn(mask.astype(float))), s=image.shape)
        return moved

    labelled = np.any(masks, axis=0)
    size = np.count_nonzero(labelled)
    sums = [under(mask, transform) for mask in masks]
    total = np.sum(sums, axis=0)
    between = np.sum([s**2 / np.count_nonzero(m) for s, m in zip(sums, masks, strict=True)], axis=0)
    # The mean is 0: what is not under a label sums to the opposite.
    rest = total**2 / max(image.size - size, 1)
    whole = (between + rest) / max(float((values**2).sum()), image.size * _FLOOR)
    if len(masks) == 1:
        return whole, np.zeros_like(whole)
    squares = under(labelled, fft.rfftn(values**2))
    common = total**2 / size
    return whole, (between - common) / np.maximum(squares - common, size * _FLOOR)


def _darkness(scaled: Array, values: Array, labelled: Array) -> dict[str, float]:
    from scipy.ndimage import binary_dilation

    dark = scaled <= background_level(scaled)
    around = binary_dilation(labelled, iterations=3) & ~labelled
    return {
        "dark": float(dark[labelled].mean()),
        "dark_around": float(dark[around].mean()) if around.any() else 0.0,
        "empty": float((values[labelled] == values.min()).mean()),
    }


def background_level(image: Array) -> float:
    """Intensity below which a voxel of a normalised image counts as background.

    Air of whole heads is noise, not black: half the threshold between dark and bright.
    """
    return max(_BLACK, two_clusters(image)[0] / 2)


def two_clusters(values: Array) -> tuple[float, float]:
    """Threshold between two clusters of intensities, and the distance of their means.

    Maximises the variance between the clusters (Otsu, IEEE Trans. SMC 1979).

    Examples
    --------
    >>> values = np.r_[np.full(50, 0.2), np.full(150, 0.6)]
    >>> threshold, gap = two_clusters(values)
    >>> bool(0.2 < threshold < 0.6), round(gap, 2)
    (True, 0.4)
    """
    counts, edges = np.histogram(values, bins=128)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    moment = np.cumsum(counts * middle)
    low, high = (
        moment[:-1] / np.maximum(below, 1),
        (moment[-1] - moment[:-1]) / np.maximum(above, 1),
    )
    between = below * above * (high - low) ** 2
    # The maximum is flat where bins are empty: take its middle.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    cut = int(best[len(best) // 2])
    return float(edges[cut + 1]), float((high - low)[cut])
