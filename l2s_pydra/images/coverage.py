"""Scans that show only a slab of the head: which slices, and the same scan with its faces drawn out.

A network that was trained on heads finds nothing in a slab of a centimetre with nothing around it:
what surrounds a voxel tells it more than the voxel. Where a scan is cut off, its outermost slice is
the best guess of what comes next, as far as a centimetre or two.
"""

from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..config import REPEAT_SHARE
from .conform import Conform
from .interpolation import Floats
from .volume import Volume

__all__ = [
    "DIM",
    "DIM_BESIDE",
    "EMPTY",
    "FADING_MM",
    "FULL",
    "NEAR_MM",
    "SHOWN",
    "THIN_MM",
    "THIN_SHARE",
    "Coverage",
    "shown_level",
]

THIN_MM, THIN_SHARE = 80.0, 0.5
"""Scans that show no more than this along an axis, and no more than this share of what they show along
another one, are slabs where they end abruptly."""
SHOWN = 0.1
"""Share of the range of intensities above which a voxel shows something: noise is below."""
FULL, EMPTY = 0.3, 0.05
"""Least share of the fullest slice's voxels that a shown slice has; most that one beyond a cut has."""
DIM, DIM_BESIDE, NEAR_MM, FADING_MM = 0.6, 0.92, 2.0, 8.0
"""Where a face was blurred by resampling, its slices are not repeated: those dimmer than a share of the
median of all, or, where slices are near to one another, than a share of the next one; no deeper than this
from the face, or one. The first that is neither is repeated in their place, too."""
_SAMPLES = 2**21
"""Voxels that intensities are measured in, about."""

Affine = npt.NDArray[np.float64]
Counts = npt.NDArray[np.float64]


@attrs.frozen(kw_only=True)
class Coverage:
    """Slices of an image that show something, where they are few and cut off.

    Examples
    --------
    A slab of 4 slices of 5 mm in an image of 9 slices is drawn out by 4 slices on either side.

    >>> data = np.zeros((18, 20, 9), dtype=np.float32)
    >>> data[2:16, 3:18, 3:7] = np.arange(10, 14)
    >>> volume = Volume(data=data, affine=np.diag([10.0, 10, 5, 1]), header=None, path="x.nii")
    >>> slab = Coverage.of(volume, repeat_mm=16.0)
    >>> slab.axis, slab.first, slab.last, slab.thickness_mm
    (2, 3, 6, 20.0)
    >>> slab.extended(volume).data[3, 3].tolist()
    [10.0, 10.0, 10.0, 10.0, 10.0, 11.0, 12.0, 13.0, 13.0, 13.0, 13.0, 13.0]
    """

    axis: int
    """Axis of the image across which it is cut."""
    first: int
    """First slice that shows something."""
    last: int
    """Last slice that shows something."""
    before: int
    """Copies of a slice to put before the first one; 0 where the scan is not cut off there."""
    after: int
    """Copies of a slice to put after the last one."""
    fading_before: int = 0
    """Slices from the first one on that are replaced by copies of the next one, too."""
    fading_after: int = 0
    """The same at the other end."""
    affine: Affine = attrs.field(repr=False, eq=False)
    """(4, 4), voxels of the image to RAS+ mm."""
    turned: bool = False
    """Whether the image is one that was resampled along the slab."""

    @classmethod
    def of(cls, volume: Volume, *, repeat_mm: float, thin_mm: float = THIN_MM) -> "Coverage | None":
        """Find the slab that an image shows.

        Parameters
        ----------
        volume : Volume
            The image.
        repeat_mm : float
            How far outermost slices are to be repeated; in small heads it is a share of the longest
            side of what is shown (:data:`~l2s_pydra.config.REPEAT_SHARE`).
        thin_mm : float
            Greatest thickness of a slab.

        Returns
        -------
        Coverage or None
            None if the image is a single slice, is not thin along any axis, or ends gently where it
            is thin, as the whole of something flat does; or if nothing is to be repeated.
        """
        if 1 in volume.shape or not repeat_mm:
            return None
        areas, sums = _profiles(volume.data)
        full = [np.flatnonzero(area >= max(1, FULL * area.max())) for area in areas]
        if not len(full[0]):
            return None
        spans = [(f[-1] - f[0] + 1) * s for f, s in zip(full, volume.spacing_mm, strict=True)]
        axis, longest = int(np.argmin(spans)), max(spans)
        if spans[axis] > min(thin_mm, THIN_SHARE * longest):
            return None
        spacing, area, slices = volume.spacing_mm[axis], areas[axis], full[axis]
        first, last, empty = int(slices[0]), int(slices[-1]), EMPTY * area.max()
        repeats = int(np.ceil(min(repeat_mm, REPEAT_SHARE * longest) / spacing - 1e-6))
        before = repeats if first == 0 or area[first - 1] <= empty else 0
        after = repeats if last == len(area) - 1 or area[last + 1] <= empty else 0
        if not before and not after:
            return None
        brightness = sums[axis][slices] / area[slices]
        return cls(
            axis=axis,
            first=first,
            last=last,
            before=before,
            after=after,
            fading_before=_fading(brightness, spacing) if before else 0,
            fading_after=_fading(brightness[::-1], spacing) if after else 0,
            affine=volume.affine,
        )

    @property
    def thickness_mm(self) -> float:
        """Thickness of the slab."""
        return (self.last - self.first + 1) * self._spacing_mm

    @property
    def _spacing_mm(self) -> float:
        return float(np.linalg.norm(self.affine[:3, self.axis]))

    def extended(self, volume: Volume) -> Volume:
        """Return the image with the outermost slices of the slab repeated, in its own space.

        What the image holds beyond a face where it is cut off is left out.
        """
        stop = volume.shape[self.axis]
        kept = slice(
            self.first + self.fading_before if self.before else 0,
            self.last + 1 - self.fading_after if self.after else stop,
        )
        part = volume.data[(slice(None),) * self.axis + (kept,)]
        width = [(0, 0)] * 3
        width[self.axis] = (self.before + self.fading_before, self.after + self.fading_after)
        affine = volume.affine.copy()
        affine[:3, 3] += (kept.start - width[self.axis][0]) * affine[:3, self.axis]
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

    def share(self, affine: Affine, shape: Any, *, margin_mm: float = 0.0) -> Floats:
        r"""How much of each voxel of a grid lies on the inner side of the faces where a scan is cut off.

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
        (\*shape) float32 array
            From 0 to 1; in between where a voxel lies across a face, as if its sides were parallel to
            the face.
        """
        return np.stack(list(self._planes(affine, shape, margin_mm)))

    def clear(self, values: npt.NDArray[Any], affine: Affine, outside: float) -> None:
        r"""Set what lies beyond the faces where the scan is cut off, in place.

        Parameters
        ----------
        values : (X, Y, Z) array
            On a grid; voxels of which more than a half lies beyond are set.
        affine : (4, 4) array
            Voxels of the grid to RAS+ mm.
        outside : number
            What to set.
        """
        for plane, inside in zip(values, self._planes(affine, values.shape, 0.0), strict=True):
            plane[inside < 0.499] = outside

    def _planes(self, affine: Affine, shape: Any, margin_mm: float) -> Iterator[Floats]:
        """Share of the voxels inside, one plane across the first axis after the other."""
        row = np.linalg.solve(self.affine, np.asarray(affine, dtype=np.float64))[self.axis]
        width = float(np.abs(row[:3]).max())
        reach = 0.5 + margin_mm / self._spacing_mm
        y, z = np.ogrid[: shape[1], : shape[2]]
        flat = row[3] + row[1] * y + row[2] * z
        for x in range(shape[0]):
            place = flat + row[0] * x
            inside = np.ones_like(place)
            if self.before:
                inside = ((place - self.first + reach) / width + 0.5).clip(0, 1)
            if self.after:
                inside *= ((self.last + reach - place) / width + 0.5).clip(0, 1)
            yield inside.astype(np.float32)


def _fading(brightness: Counts, spacing_mm: float) -> int:
    """Slices from the face on that were dimmed; 0 if they reach too deep for that."""
    dim = brightness < DIM * np.median(brightness)
    if spacing_mm <= NEAR_MM:
        dim[:-1] |= brightness[:-1] < DIM_BESIDE * brightness[1:]
    length = int(np.argmin(dim))  # the brightest slice is not dim
    return length if length <= max(1, int(FADING_MM / spacing_mm)) else 0


def _profiles(data: npt.NDArray[Any]) -> tuple[list[Counts], list[Counts]]:
    """Voxels that show something in each slice across each axis, and the sum of their intensities."""
    low, level = _range(data)
    areas = [np.zeros(n) for n in data.shape]
    sums = [np.zeros(n) for n in data.shape]
    for x, plane in enumerate(data):  # one by one: masks of a whole image would be large
        shown = plane > level
        light = np.where(shown, plane - low, 0)
        for kept, values in ((areas, shown), (sums, light)):
            rows = values.sum(1, dtype=np.float64)
            kept[0][x] = rows.sum()
            kept[1] += rows
            kept[2] += values.sum(0, dtype=np.float64)
    return areas, sums


def shown_level(data: npt.NDArray[Any]) -> float:
    """Intensity above which a voxel shows something; infinite where all are alike."""
    return _range(data)[1]


def _range(data: npt.NDArray[Any]) -> tuple[float, float]:
    """Low end of the range of intensities, and the level above which a voxel shows something."""
    step = max(1, round((data.size / _SAMPLES) ** (1 / 3)))
    sample = data[::step, ::step, ::step]
    bright = sample[sample > sample.mean()]
    low = float(np.percentile(sample, 0.5))  # not the least value, which may be a single one
    high = float(np.percentile(bright, 99)) if len(bright) else low
    return low, low + SHOWN * (high - low) if high > low else np.inf
