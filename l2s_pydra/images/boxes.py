"""Values on a part of the working grid, and what holds outside it."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from .interpolation import Floats, Shape

__all__ = ["Box"]

Spans = tuple[slice, slice, slice]


@attrs.frozen(eq=False)
class Box:
    """Channels of values on a box of a grid; each channel has one value everywhere else.

    Examples
    --------
    >>> box = Box(np.full((1, 2, 2, 2), 5, np.float32), (1, 1, 1), (4, 4, 4), np.float32([7]))
    >>> box.part((slice(0, 2), slice(1, 2), slice(1, 2))).ravel().tolist()
    [7.0, 5.0]
    """

    values: Floats
    """(K, X, Y, Z), from voxel ``start`` of the grid on."""
    start: Shape
    """First voxel of the box."""
    shape: Shape
    """Voxels of the whole grid."""
    outside: npt.NDArray[np.float32]
    """(K,) what holds outside the box."""

    @classmethod
    def on(
        cls, array: Any, start: Sequence[int], shape: Shape, outside: npt.NDArray[np.float32]
    ) -> "Box":
        """Lay an array or tensor on a grid.

        Raises
        ------
        ShapeError
            If it has no channel or reaches beyond the grid.
        """
        if hasattr(array, "detach"):
            array = array.detach().float().cpu().numpy()
        values: Floats = np.asarray(array, dtype=np.float32)
        x, y, z = (int(first) for first in start)
        room = np.subtract(shape, (x, y, z))
        fits = values.ndim == 4 and values.size and bool((values.shape[1:] <= room).all())
        if not fits or min(x, y, z) < 0:
            raise ShapeError(
                f"array of shape {values.shape[1:]} from voxel {(x, y, z)} on is not on the "
                f"working grid {shape}"
            )
        return cls(values, (x, y, z), shape, outside)

    def part(self, spans: Spans) -> Floats:
        r"""(K, \*spans) values of a region of the grid; a view if it lies in the box."""
        own, theirs = self._overlap(spans)
        inside = self.values[(slice(None), *own)]
        sizes = tuple(span.stop - span.start for span in spans)
        if inside.shape[1:] == sizes:
            return inside
        part = np.empty((len(self.values), *sizes), dtype=np.float32)
        part[:] = self.outside[:, None, None, None]
        part[(slice(None), *theirs)] = inside
        return part

    def touches(self, spans: Spans) -> bool:
        """Whether a region of the grid shares a voxel with the box."""
        own, _ = self._overlap(spans)
        return all(span.stop > span.start for span in own)

    def _overlap(self, spans: Spans) -> tuple[list[slice], list[slice]]:
        """Find the common voxels, counted from the corner of the box and from that of the region."""
        own, theirs = [], []
        for span, first, n in zip(spans, self.start, self.values.shape[1:], strict=True):
            low = max(span.start, first)
            high = max(min(span.stop, first + n), low)
            own.append(slice(low - first, high - first))
            theirs.append(slice(low - span.start, high - span.start))
        return own, theirs
