"""Scans that show only a slab of the head: which slices, and the same scan with its faces drawn out.

A network that was trained on heads finds nothing in a slab of a centimetre with nothing around it:
what surrounds a voxel tells it more than the voxel. Where a scan is cut off, its outermost slice is
the best guess of what comes next, as far as a centimetre or two.
"""

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from .conform import Conform
from .volume import Volume

__all__ = [
    "BLACK",
    "EMPTY",
    "FULL",
    "REPEAT_MM",
    "REPEAT_SHARE",
    "THIN_MM",
    "THIN_SHARE",
    "Coverage",
]

THIN_MM, THIN_SHARE = 80.0, 0.5
"""Scans that show no more than this along an axis, and no more than this share of what they show along
another one, are slabs where they end abruptly."""
REPEAT_MM, REPEAT_SHARE = 16.0, 0.12
"""The outermost slice of a slab is repeated this far beyond it, or over this share of the longest side
of what is shown if that is less, as in heads of small animals."""
BLACK = 0.02
"""Share of the range of intensities up to which a voxel shows nothing."""
FULL, EMPTY = 0.3, 0.05
"""Least share of the fullest slice's voxels that a shown slice has; most that one beyond a cut has."""
_SAMPLES = 2**21
"""Voxels that intensities are measured in, about."""

Affine = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@attrs.frozen(kw_only=True)
class Coverage:
    """Slices of an image that show something, where they are few and cut off.

    Examples
    --------
    A slab of 4 slices of 5 mm in an image of 9 slices is drawn out by 4 slices on either side.

    >>> data = np.zeros((18, 20, 9), dtype=np.float32)
    >>> data[2:16, 3:18, 3:7] = np.arange(1, 5)
    >>> volume = Volume(data=data, affine=np.diag([10.0, 10, 5, 1]), header=None, path="x.nii")
    >>> slab = Coverage.of(volume)
    >>> slab.axis, slab.first, slab.last, slab.thickness_mm
    (2, 3, 6, 20.0)
    >>> slab.extended(volume).data[3, 3].tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    """

    axis: int
    """Axis of the image across which it is cut."""
    first: int
    """First slice that shows something."""
    last: int
    """Last slice that shows something."""
    before: int
    """Copies of the first slice to put before it; 0 where the scan is not cut off there."""
    after: int
    """Copies of the last slice to put after it."""
    affine: Affine = attrs.field(repr=False, eq=False)
    """(4, 4), voxels of the image to RAS+ mm."""

    @classmethod
    def of(cls, volume: Volume) -> "Coverage | None":
        """Find the slab that an image shows.

        Parameters
        ----------
        volume : Volume
            The image.

        Returns
        -------
        Coverage or None
            None if the image is a single slice, is not thin along any axis, or ends gently where it
            is thin, as the whole of something flat does.
        """
        if 1 in volume.shape:
            return None
        areas = _areas(volume.data)
        full = [np.flatnonzero(area >= max(1, FULL * area.max())) for area in areas]
        if not len(full[0]):
            return None
        spans = [(f[-1] - f[0] + 1) * s for f, s in zip(full, volume.spacing_mm, strict=True)]
        axis, longest = int(np.argmin(spans)), max(spans)
        if spans[axis] > min(THIN_MM, THIN_SHARE * longest):
            return None
        spacing, area = volume.spacing_mm[axis], areas[axis]
        first, last, empty = int(full[axis][0]), int(full[axis][-1]), EMPTY * area.max()
        repeats = int(np.ceil(min(REPEAT_MM, REPEAT_SHARE * longest) / spacing - 1e-6))
        before = repeats if first == 0 or area[first - 1] <= empty else 0
        after = repeats if last == len(area) - 1 or area[last + 1] <= empty else 0
        if not before and not after:
            return None
        return cls(
            axis=axis, first=first, last=last, before=before, after=after, affine=volume.affine
        )

    @property
    def thickness_mm(self) -> float:
        """Thickness of the slab."""
        return (self.last - self.first + 1) * float(np.linalg.norm(self.affine[:3, self.axis]))

    def extended(self, volume: Volume) -> Volume:
        """Return the image with the outermost slices of the slab repeated, in its own space.

        What the image holds beyond a face where it is cut off is left out.
        """
        stop = volume.shape[self.axis]
        kept = slice(self.first if self.before else 0, self.last + 1 if self.after else stop)
        part = volume.data[(slice(None),) * self.axis + (kept,)]
        width = [(0, 0)] * 3
        width[self.axis] = (self.before, self.after)
        affine = volume.affine.copy()
        affine[:3, 3] += (kept.start - self.before) * affine[:3, self.axis]
        return attrs.evolve(volume, data=np.pad(part, width, mode="edge"), affine=affine)

    def grid(self, conform: Conform, extended: Volume) -> tuple[Conform, tuple[int, int, int]]:
        """Lay a grid over the extended image whose voxels are those of the working grid, and more.

        Returns
        -------
        Conform
            Between the extended image and that grid.
        tuple of int
            Voxel of that grid, or beyond it, that is the first one of the working grid.
        """
        ends = np.array([(-0.5, n - 0.5) for n in extended.shape])
        corners = np.stack([*np.meshgrid(*ends, indexing="ij"), np.ones((2, 2, 2))]).reshape(4, 8)
        reached = (np.linalg.solve(conform.affine, extended.affine) @ corners)[:3]
        start = np.floor(reached.min(1) + 0.5 + 1e-3).astype(int)
        stop = np.ceil(reached.max(1) + 0.5 - 1e-3).astype(int)
        affine = conform.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
        laid = attrs.evolve(
            conform,
            affine=affine,
            shape=tuple(int(n) for n in stop - start),
            source_affine=extended.affine,
            source_shape=extended.shape,
        )
        x, y, z = (-int(n) for n in start)
        return laid, (x, y, z)

    def beyond(self, affine: Affine, shape: Any, *, margin_mm: float = 0.0) -> Mask:
        """Voxels of a grid that lie beyond a face where the scan is cut off.

        Parameters
        ----------
        affine : (4, 4) array
            Voxels of the grid to RAS+ mm.
        shape : 3 ints
            Its size.
        margin_mm : float, default=0
            How far beyond the slab's outermost slices voxels still count as inside.

        Returns
        -------
        (*shape) bool array
        """
        row = np.linalg.solve(self.affine, np.asarray(affine, dtype=np.float64))[self.axis]
        place = row[3] + sum(
            r * index for r, index in zip(row[:3], np.ogrid[tuple(map(slice, shape))], strict=True)
        )
        reach = 0.5 + margin_mm / float(np.linalg.norm(self.affine[:3, self.axis]))
        outside: Mask = np.zeros(shape, dtype=bool)
        if self.before:
            outside |= place < self.first - reach
        if self.after:
            outside |= place > self.last + reach
        return outside


def _areas(data: npt.NDArray[Any]) -> list[npt.NDArray[np.int64]]:
    """Voxels that show something in each slice across each axis."""
    low = data.min()
    step = max(1, round((data.size / _SAMPLES) ** (1 / 3)))
    sample = data[::step, ::step, ::step] - low
    bright = sample[sample > sample.mean()]
    level = low + BLACK * float(np.percentile(bright, 99)) if len(bright) else np.inf
    areas = [np.zeros(n, dtype=np.int64) for n in data.shape]
    for x, plane in enumerate(data):  # one by one: masks of a whole image would be large
        shown = plane > level
        areas[0][x] = np.count_nonzero(shown)
        areas[1] += shown.sum(1)
        areas[2] += shown.sum(0)
    return areas
