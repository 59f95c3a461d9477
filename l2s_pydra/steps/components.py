"""Pieces of structures: the largest one is kept, what is cut off goes to its surroundings."""

from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

__all__ = ["Removed", "keep_largest"]

Channels = npt.NDArray[np.int16]
_Box = tuple[slice, ...]


@attrs.frozen(kw_only=True)
class Removed:
    """What was taken from a structure."""

    channel: int
    """The structure."""
    pieces: int
    """Pieces beside the largest one."""
    voxels: int
    """Their voxels."""


def keep_largest(
    channels: Channels, structures: Sequence[int]
) -> tuple[Channels, tuple[Removed, ...]]:
    """Keep the largest piece of some structures.

    Voxels that share a face, an edge or a corner are of one piece, so that thick slices do not
    tear a structure. A piece that is taken away goes to the label that most faces at its border
    belong to, with pieces that are kept and the background standing for election; thereby it
    makes no new piece of another structure.

    Parameters
    ----------
    channels : (X, Y, Z) int16 array
        Channel of each voxel, 0 is background.
    structures : sequence of int
        Channels to treat.

    Returns
    -------
    channels : (X, Y, Z) int16 array
        Copy with what was taken away relabelled.
    removed : tuple of Removed
        One for each structure that lost something.

    Examples
    --------
    >>> row = np.array([1, 1, 1, 0, 1, 2, 2, 0], dtype=np.int16).reshape(8, 1, 1)
    >>> kept, removed = keep_largest(row, [1])
    >>> kept.ravel().tolist(), removed[0].voxels
    ([1, 1, 1, 0, 0, 2, 2, 0], 1)
    """
    pieces: list[tuple[_Box, npt.NDArray[np.bool_]]] = []
    removed = []
    for channel in structures:
        loose = _loose_pieces(channels, channel)
        if loose:
            voxels = sum(int(np.count_nonzero(mask)) for _, mask in loose)
            removed.append(Removed(channel=channel, pieces=len(loose), voxels=voxels))
            pieces += loose
    return _given_away(channels, pieces), tuple(removed)


def _loose_pieces(channels: Channels, channel: int) -> list[tuple[_Box, npt.NDArray[np.bool_]]]:
    """Box and voxels of each piece of a structure but its largest one (the first of equals)."""
    from scipy import ndimage

    mask = channels == channel
    found = ndimage.find_objects(mask.view(np.uint8))
    if not found or found[0] is None:
        return []
    outer: _Box = found[0]
    numbers, count = ndimage.label(mask[outer], np.ones((3, 3, 3), dtype=bool))
    if count < 2:
        return []
    largest = int(np.bincount(numbers.reshape(-1))[1:].argmax()) + 1
    pieces = []
    for number, inner in enumerate(ndimage.find_objects(numbers), start=1):
        if number != largest:
            box = tuple(
                slice(a.start + b.start, a.start + b.stop)
                for a, b in zip(outer, inner, strict=True)
            )
            pieces.append((box, numbers[inner] == number))
    return pieces


def _given_away(
    channels: Channels, pieces: Sequence[tuple[_Box, npt.NDArray[np.bool_]]]
) -> Channels:
    """Relabel pieces, those at the border of what is kept first."""
    result = channels.copy()
    for box, mask in pieces:
        result[box][mask] = -1
    waiting = list(pieces)
    while waiting:
        left = []
        for box, mask in waiting:
            around = _border(result, box, mask)
            if around.size:
                result[box][mask] = np.bincount(around).argmax()
            else:
                left.append((box, mask))
        if len(left) == len(waiting):  # nothing but loose pieces in the image
            for box, mask in left:
                result[box][mask] = 0
            break
        waiting = left
    return result


def _border(result: Channels, box: _Box, mask: npt.NDArray[np.bool_]) -> Channels:
    """Labels beyond the faces of a piece, one for each face; those not decided are left out."""
    wide = tuple(
        slice(max(0, part.start - 1), min(n, part.stop + 1))
        for part, n in zip(box, result.shape, strict=True)
    )
    pads = [
        (part.start - outer.start, outer.stop - part.stop)
        for part, outer in zip(box, wide, strict=True)
    ]
    inside, values = np.pad(mask, pads), result[wide]
    faces = []
    for axis in range(mask.ndim):
        for one, other in ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))):
            here = (*(slice(None),) * axis, one)
            there = (*(slice(None),) * axis, other)
            faces.append(values[there][inside[here] & ~inside[there]])
    found = np.concatenate(faces)
    return found[found >= 0]
