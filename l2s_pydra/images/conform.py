"""To the working grid and back, in one object.

Where the axes of source and working grid are parallel (after permutation and flips), resampling is
done axis by axis: by three matrix products on the way to the working grid. Oblique sources go
through trilinear sampling point by point. On the way back the source is visited in blocks that fit
the cache, and only labels that can win somewhere in a block are looked at there, so that time and
memory hardly grow with the number of labels.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import ImageError, ShapeError
from .boxes import Box
from .interpolation import (
    Array,
    Floats,
    Shape,
    along_axes,
    between,
    box,
    gaussian_matrix,
    linear_matrix,
    nearest,
    parallel_axes,
    sample,
    sample_grid,
    touched,
    voxel_coordinates,
    within,
)
from .volume import Volume

__all__ = ["Conform"]

_BLOCK = 48
_MAX_VOXELS = 2**30


def _shape(value: Any) -> Shape:
    x, y, z = (int(n) for n in value)
    return x, y, z


@attrs.frozen(kw_only=True, eq=False)
class Conform:
    """Resampling between the grid of a source volume and a working grid.

    The working grid is isotropic, its axes point right, anterior and superior. Where the source is
    a single slice, the working grid lies in the plane of that slice, the slice axis comes last,
    and the in-plane axes are in the order and direction nearest to RAS.

    Examples
    --------
    >>> from l2s_pydra.images.volume import Volume
    >>> data = np.zeros((4, 6, 8), dtype=np.float32)
    >>> volume = Volume(data=data, affine=np.diag([-1.0, 1, 1, 1]), header=None, path="x.nii")
    >>> conform = Conform.to_grid(volume, 2.0)
    >>> conform.shape, conform.affine[:3, 3].tolist()
    ((2, 3, 4), [-2.5, 0.5, 0.5])
    """

    affine: npt.NDArray[np.float64]
    """(4, 4), voxels of the working grid to RAS+ mm."""
    shape: Shape = attrs.field(converter=_shape)
    """Voxels of the working grid."""
    source_affine: npt.NDArray[np.float64]
    """(4, 4), voxels of the source to RAS+ mm."""
    source_shape: Shape = attrs.field(converter=_shape)
    """Voxels of the source."""
    oversampling: int = 1
    """Voxels of the fine grid per voxel of the working grid and axis."""

    @classmethod
    def to_grid(
        cls,
        volume: Volume,
        spacing_mm: float,
        *,
        oversampling: int = 1,
        shape: tuple[int, int, int] | None = None,
        center_mm: tuple[float, float, float] | None = None,
    ) -> "Conform":
        """Lay the working grid over a volume.

        Parameters
        ----------
        volume : Volume
            The source.
        spacing_mm : float
            Voxel size of the working grid.
        oversampling : int, default=1
            Label maps are brought to a grid this many times finer, whose voxels tile those of the
            working grid. A single slice is not divided across.
        shape : 3 ints, optional
            Voxels of the working grid; by default as many as cover the source's field of view.
        center_mm : 3 floats, optional
            Centre of the working grid, RAS+ mm; by default that of the source's field of view.

        Raises
        ------
        ImageError
            If the grid would be larger than memory allows for.
        """
        frame = _frame(volume)
        extent = np.abs(np.linalg.solve(frame, volume.affine[:3, :3])) @ np.array(volume.shape)
        spacing = np.full(3, float(spacing_mm))
        flat = 1 in volume.shape
        if flat:
            spacing[2] = extent[2]
        if shape is None:
            # An extent of a whole number of voxels must not round up
            shape = _shape(np.maximum(np.ceil(extent / spacing - 1e-3), 1))
        elif flat:
            shape = (shape[0], shape[1], 1)
        if np.prod(np.array(shape) * oversampling, dtype=np.float64) > _MAX_VOXELS:
            raise ImageError(
                f"{volume.path}: a grid of {spacing_mm:g} mm over its field of view has "
                f"{' x '.join(map(str, shape))} voxels; crop the image or check its voxel size"
            )
        center = _center(volume) if center_mm is None else np.array(center_mm, dtype=np.float64)
        affine = np.eye(4)
        affine[:3, :3] = frame * spacing
        affine[:3, 3] = center - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return cls(
            affine=affine,
            shape=shape,
            source_affine=volume.affine,
            source_shape=volume.shape,
            oversampling=oversampling,
        )

    @property
    def fine_shape(self) -> Shape:
        """Voxels of the fine grid."""
        return _shape(np.array(self.shape) * self._divisions)

    @property
    def fine_affine(self) -> npt.NDArray[np.float64]:
        """(4, 4), voxels of the fine grid to RAS+ mm."""
        to_working = np.diag([*(1 / self._divisions), 1.0])
        to_working[:3, 3] = (1 / self._divisions - 1) / 2
        fine: npt.NDArray[np.float64] = self.affine @ to_working
        return fine

    @property
    def _divisions(self) -> npt.NDArray[np.float64]:
        across = 1 if 1 in self.source_shape else self.oversampling
        return np.array([self.oversampling, self.oversampling, across], dtype=np.float64)

    def image(self, volume: Volume | Array) -> Floats:
        r"""Bring an image to the working grid, by linear interpolation.

        Along axes that become coarser a Gaussian comes first, whose width makes up for the
        difference of the voxels' point spread.

        Parameters
        ----------
        volume : Volume or (\*source_shape) array

        Returns
        -------
        (\*shape) float32 array
            0 outside the source's field of view.

        References
        ----------
        Cardoso et al., Scale factor point spread function matching: beyond aliasing in image
        resampling, MICCAI 2015.
        """
        data = self._checked(volume, self.source_shape, "source").astype(np.float32, copy=False)
        to_source = np.linalg.solve(self.source_affine, self.affine)
        ratio = np.linalg.norm(self.affine[:3, 0]) / np.linalg.norm(
            self.source_affine[:3, :3], axis=0
        )
        smooth = [gaussian_matrix(n, r) for n, r in zip(self.source_shape, ratio, strict=True)]
        parallel = parallel_axes(to_source, self.shape)
        if parallel is None:
            return sample_grid(along_axes(data, smooth), to_source, self.shape)
        axes, coordinates = parallel
        matrices = [
            linear_matrix(coordinates[work], self.source_shape[axis]) @ smooth[axis]
            for work, axis in enumerate(axes)
        ]
        image: Floats = np.ascontiguousarray(along_axes(data.transpose(axes), matrices))
        return image

    def labels(self, labels: Volume | Array) -> Array:
        r"""Bring a label map to the fine grid (the working grid, unless oversampled).

        Parameters
        ----------
        labels : Volume or (\*source_shape) integer array

        Returns
        -------
        (\*fine_shape) array of the same type
            Value of the nearest source voxel; 0 outside the source's field of view.
        """
        data = self._checked(labels, self.source_shape, "source")
        return nearest(data, np.linalg.solve(self.source_affine, self.fine_affine), self.fine_shape)

    def posterior_to_source(
        self, posterior: Any, start: Sequence[int] | None = None
    ) -> npt.NDArray[np.int16]:
        r"""Bring label posteriors back to the source grid and take the most probable label.

        Each label's posterior is interpolated linearly, and the labels compete for each source
        voxel; no more than one block of the source is ever held per label.

        Parameters
        ----------
        posterior : (K, x, y, z) float array or tensor
            Not negative. It covers the working grid, or a box of it, outside which channel 0
            is 1 and the others are 0.
        start : 3 ints, optional
            First voxel of the box; without, the array must cover the working grid.

        Returns
        -------
        (\*source_shape) int16 array
            Winning label, the first of equals; 0 outside the working grid.

        Raises
        ------
        ShapeError
            If the array does not lie on the working grid.
        """
        background = np.zeros(len(posterior), dtype=np.float32)
        background[:1] = 1
        stack = self._stack(posterior, start, background)
        winners = np.zeros(self.source_shape, dtype=np.int16)
        for block in self._blocks():
            if not stack.touches(block.spans):
                continue
            part = stack.part(block.spans)
            contenders = _contenders(part)
            if len(contenders) == 1:
                winners[block.region] = np.where(block.inside(), contenders[0], 0)
                continue
            frames = block.interpolate(part, contenders)
            best = next(frames)
            winner = np.full(best.shape, contenders[0], dtype=np.int16)
            for label, frame in zip(contenders[1:], frames, strict=True):
                winner[frame > best] = label
                np.maximum(best, frame, out=best)
            winners[block.region] = np.where(block.inside(), winner, 0)
        return winners

    def float_to_source(
        self, array: Any, start: Sequence[int] | None = None, outside: float = 0.0
    ) -> Floats:
        r"""Bring an image from the working grid back to the source grid, linearly.

        Parameters
        ----------
        array : (x, y, z) float array or tensor
            It covers the working grid or a box of it.
        start : 3 ints, optional
            First voxel of the box; without, the array must cover the working grid.
        outside : float, default=0
            Value outside the box and outside the working grid.

        Returns
        -------
        (\*source_shape) float32 array

        Raises
        ------
        ShapeError
            If the array does not lie on the working grid.
        """
        stack = self._stack(array[None], start, np.array([outside], dtype=np.float32))
        image = np.full(self.source_shape, outside, dtype=np.float32)
        for block in self._blocks():
            if stack.touches(block.spans):
                (frame,) = block.interpolate(stack.part(block.spans), [0])
                image[block.region] = np.where(block.inside(), frame, np.float32(outside))
        return image

    def _checked(self, volume: Volume | Array, shape: Shape, name: str) -> Array:
        data = volume.data if isinstance(volume, Volume) else np.asarray(volume)
        if data.shape != shape:
            raise ShapeError(f"array of shape {data.shape} is not on the {name} grid {shape}")
        return data

    def _stack(self, array: Any, start: Sequence[int] | None, outside: Floats) -> Box:
        sizes = tuple(array.shape[1:])
        if start is None and sizes != self.shape:
            raise ShapeError(f"array of shape {sizes} is not on the working grid {self.shape}")
        return Box.on(array, (0, 0, 0) if start is None else start, self.shape, outside)

    def _blocks(self) -> Iterator["_ParallelBlock | _ObliqueBlock"]:
        to_work = np.linalg.solve(self.affine, self.source_affine)
        parallel = parallel_axes(to_work, self.source_shape)
        steps = (range(0, n, _BLOCK) for n in self.source_shape)
        for starts in itertools.product(*steps):
            ranges = [
                (start, min(start + _BLOCK, n))
                for start, n in zip(starts, self.source_shape, strict=True)
            ]
            if parallel is None:
                yield _ObliqueBlock(ranges, to_work, self.shape)
            else:
                yield _ParallelBlock(ranges, *parallel, self.shape)


class _ParallelBlock:
    """A block of the source whose axes are parallel to those of the working grid."""

    def __init__(
        self, ranges: list[tuple[int, int]], axes: list[int], coordinates: list[Array], shape: Shape
    ) -> None:
        self.region = tuple(slice(*r) for r in ranges)
        self._axes = axes
        points = [c[region] for c, region in zip(coordinates, self.region, strict=True)]
        sizes = [shape[axis] for axis in axes]
        self._inside = [within(p, n) for p, n in zip(points, sizes, strict=True)]
        spans = [touched(p, n) for p, n in zip(points, sizes, strict=True)]
        self._points = [
            np.clip(p, 0, n - 1) - span.start
            for p, n, span in zip(points, sizes, spans, strict=True)
        ]
        crop = [slice(None)] * 3
        for axis, span in zip(axes, spans, strict=True):
            crop[axis] = span
        x, y, z = crop
        self.spans = (x, y, z)

    def inside(self) -> Array:
        """Which voxels of the block lie in the working grid."""
        return box(*self._inside)

    def interpolate(self, part: Floats, labels: list[int]) -> Iterator[Floats]:
        """Give some labels' values at the voxels of the block, one label at a time."""
        for label in labels:
            frame = part[label].transpose(self._axes)
            # The last axis first, while the others are short: gathering along it is slowest
            for axis in (2, 1, 0):
                frame = between(frame, self._points[axis], axis)
            yield frame


class _ObliqueBlock:
    """A block of the source at any angle to the working grid."""

    def __init__(self, ranges: list[tuple[int, int]], to_work: Array, shape: Shape) -> None:
        self.region = tuple(slice(*r) for r in ranges)
        self._ranges = ranges
        self._to_work = to_work
        self._shape = shape
        corners = np.array(list(itertools.product(*((a, b - 1) for a, b in ranges)))).T
        points = to_work[:3, :3] @ corners + to_work[:3, 3:]
        spans = [touched(p, n) for p, n in zip(points, shape, strict=True)]
        x, y, z = spans
        self.spans = (x, y, z)
        self._cropped_to_work = to_work.copy()
        self._cropped_to_work[:3, 3] -= [span.start for span in spans]

    def inside(self) -> Array:
        """Which voxels of the block lie in the working grid."""
        points = voxel_coordinates(self._to_work, self._ranges)
        inside = [within(p, n) for p, n in zip(points, self._shape, strict=True)]
        return inside[0] & inside[1] & inside[2]

    def interpolate(self, part: Floats, labels: list[int]) -> Iterator[Floats]:
        """Give some labels' values at the voxels of the block, one label at a time."""
        part = np.ascontiguousarray(part[labels])
        yield from sample(part, self._cropped_to_work, self._ranges, beyond="edge")


def _frame(volume: Volume) -> npt.NDArray[np.float64]:
    """(3, 3) directions of the working grid's axes, one per column."""
    if 1 not in volume.shape:
        return np.eye(3)
    directions = volume.affine[:3, :3] / volume.spacing_mm
    across = volume.shape.index(1)
    plane = [axis for axis in range(3) if axis != across]
    # In-plane axes in the order and direction nearest to RAS; the slice axis last
    first, second = (np.abs(directions[:, axis]) for axis in plane)
    if np.argmax(second) < np.argmax(first):
        plane.reverse()
    frame: npt.NDArray[np.float64] = directions[:, [*plane, across]]
    nearest = np.abs(frame).argmax(axis=0)
    frame = frame * np.sign(frame[nearest, range(3)])
    return frame


def _center(volume: Volume) -> npt.NDArray[np.float64]:
    middle = (np.array(volume.shape) - 1) / 2
    center: npt.NDArray[np.float64] = volume.affine[:3, :3] @ middle + volume.affine[:3, 3]
    return center


def _contenders(part: Floats) -> list[int]:
    """Labels that can win somewhere between the given (K, X, Y, Z) posteriors.

    Interpolation is an average, so a label never exceeds its peak, while the winner never falls
    short of one K-th of the sum over labels.
    """
    peaks = part.max(axis=(1, 2, 3))
    floor = part.sum(axis=0).min() / len(part)
    # A little below, for rounding
    labels = [int(label) for label in np.flatnonzero(peaks >= floor * (1 - 1e-5))]
    return labels if floor > 0 else list(range(len(part)))
