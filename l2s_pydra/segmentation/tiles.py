"""Overlapping tiles of a volume, and how much each counts where."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

__all__ = [
    "OVERLAP",
    "Span",
    "Tiling",
    "fitting_tiling",
    "side_tiling",
    "smallest_tiling",
    "tiling",
]

OVERLAP = 16
"""Voxels that neighbouring tiles share, at least."""
_MOST_TILES = 512

Span = tuple[int, int]
"""First voxel and number of voxels along an axis."""


@attrs.frozen(kw_only=True)
class Tiling:
    """A volume's tiles: all combinations of the spans of its axes."""

    shape: tuple[int, ...]
    """Voxels of the volume."""
    multiple: int
    """Sides of tiles are multiples of this."""
    spans: tuple[tuple[Span, ...], ...]
    """Of each axis; their lengths are multiples of the network's, so that the last may stick out."""

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.spans)

    def __iter__(self) -> Iterator[tuple[Span, ...]]:
        return itertools.product(*self.spans)

    @property
    def largest(self) -> tuple[int, ...]:
        """Sides of the largest tile."""
        return tuple(max(n for _, n in axis) for axis in self.spans)

    @property
    def voxels(self) -> int:
        """Voxels that pass the network in all tiles together."""
        return math.prod(sum(n for _, n in axis) for axis in self.spans)

    def windows(self, tile: Sequence[Span]) -> list[Tensor]:
        """Weight of a tile at each of its positions along each axis.

        Gaussians with a standard deviation of a quarter of the tile, divided by their sum over the
        tiles: over all tiles, the products of the three add up to one in each voxel.
        """
        return [
            _gaussian(span) / sum(_gaussian(other, span) for other in axis)
            for span, axis in zip(tile, self.spans, strict=True)
        ]


def tiling(shape: Sequence[int], multiple: int, counts: Sequence[int]) -> Tiling:
    """Divide a volume into tiles that differ by at most one multiple.

    Parameters
    ----------
    shape : ints
        Voxels of the volume.
    multiple : int
        Sides of tiles are multiples of this.
    counts : ints
        Tiles along each axis; 1 is the whole axis.

    Examples
    --------
    >>> tiling((160, 100), 16, (2, 1)).spans
    (((0, 96), (80, 80)), ((0, 112),))
    """
    spans = tuple(_spans(n, multiple, count) for n, count in zip(shape, counts, strict=True))
    return Tiling(shape=tuple(shape), multiple=multiple, spans=spans)


def fitting_tiling(
    shape: Sequence[int], multiple: int, fits: Callable[[tuple[int, ...]], bool]
) -> Tiling | None:
    """Find the tiles that fit and have least to compute.

    Parameters
    ----------
    shape, multiple
        See :func:`tiling`.
    fits : callable
        Whether a tile of certain sides will do.

    Returns
    -------
    Tiling or None
        None if the smallest tiles do not fit.
    """
    choices = [range(1, _most_tiles(n, multiple) + 1) for n in shape]
    found = [
        tiling(shape, multiple, counts)
        for counts in itertools.product(*choices)
        if math.prod(counts) <= _MOST_TILES
    ]
    found.sort(key=lambda t: (t.voxels, len(t), t.spans))
    return next((t for t in found if fits(t.largest)), None)


def smallest_tiling(shape: Sequence[int], multiple: int) -> Tiling:
    """Divide a volume into the smallest tiles there are."""
    return tiling(shape, multiple, [_most_tiles(n, multiple) for n in shape])


def side_tiling(shape: Sequence[int], multiple: int, side: int) -> Tiling:
    """Divide a volume into the fewest tiles whose sides are at most ``side``, where there are such.

    >>> side_tiling((160, 192, 100), 16, 128).largest
    (96, 112, 112)
    """
    counts = []
    for n in shape:
        options = range(1, _most_tiles(n, multiple) + 1)
        fits = [c for c in options if max(s for _, s in _spans(n, multiple, c)) <= side]
        counts.append(fits[0] if fits else options[-1])
    return tiling(shape, multiple, counts)


def _units(n: int, multiple: int) -> tuple[int, int]:
    """Multiples that cover an axis, and those that tiles share."""
    return max(1, math.ceil(n / multiple)), math.ceil(OVERLAP / multiple)


def _most_tiles(n: int, multiple: int) -> int:
    """Most tiles along an axis such that each is at least twice as long as what tiles share."""
    units, shared = _units(n, multiple)
    return max(1, (units - shared) // shared)


def _spans(n: int, multiple: int, count: int) -> tuple[Span, ...]:
    units, shared = _units(n, multiple)
    side, longer = divmod(units + (count - 1) * shared, count)
    spans, start = [], 0
    for i in range(count):
        length = side + (i < longer)
        spans.append((start * multiple, length * multiple))
        start += length - shared
    return tuple(spans)


def _gaussian(span: Span, over: Span | None = None) -> Tensor:
    """Gaussian of a span at the positions of another one; 0 beyond its own."""
    start, n = span
    first, length = over or span
    x = torch.arange(first, first + length, dtype=torch.float32)
    inside = (x >= start) & (x < start + n)
    return torch.exp(-0.5 * ((x - start - (n - 1) / 2) / (n / 4)) ** 2) * inside
