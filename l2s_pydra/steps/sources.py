"""Scans with their labels, and label maps: what is in the files, before any grid."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..images.volume import Volume
from .schemes import Schemes

__all__ = [
    "Facts",
    "Loaded",
    "Source",
    "content_digests",
    "is_stripped",
    "structures_box",
    "tables_of",
    "voxel_mm",
]

Array = npt.NDArray[Any]

_BLACK = 0.02
"""Share of the range of intensities below which a voxel counts as empty."""
_MIXERS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)
"""Odd numbers that spread the bits of a value (as in SplitMix and its kin)."""


@attrs.frozen(kw_only=True)
class Facts:
    """What is remembered of a source when its voxels are gone."""

    low_mm: tuple[float, ...]
    """Lowest corner of the structures, RAS+ mm."""
    high_mm: tuple[float, ...]
    """Highest corner of the structures, RAS+ mm."""
    voxel_mm: tuple[float, ...]
    """Voxel size along the axes of the world."""
    stripped: bool | None
    """Whether the image is black away from the structures; None for label maps."""
    image_content: tuple[str, ...]
    """Digests of the image's voxels; none for label maps."""
    labels_content: tuple[str, ...]
    """Digests of the labels' voxels, as channels of the target."""
    remarks: tuple[tuple[str, str, str], ...]
    """What is odd: which file (``image`` or ``labels``), what, and the remedy."""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Facts":
        """Build from what JSON makes of :meth:`to_record`."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in record.items()
        }
        plain["remarks"] = tuple(tuple(remark) for remark in plain["remarks"])
        return cls(**plain)

    def to_record(self) -> dict[str, Any]:
        """Plain values."""
        return attrs.asdict(self)

    @property
    def center_mm(self) -> tuple[float, float, float]:
        """Middle of the structures."""
        x, y, z = (float(v) for v in (np.array(self.low_mm) + np.array(self.high_mm)) / 2)
        return x, y, z

    @property
    def extent_mm(self) -> Array:
        """(3,) size of the structures."""
        return np.subtract(self.high_mm, self.low_mm)


@attrs.frozen(kw_only=True, eq=False)
class Loaded:
    """The voxels of a source."""

    labels: Volume
    """(X, Y, Z) channels: of the target for scans, of the maps' scheme for label maps."""
    image: Volume | None = None
    """(X, Y, Z) intensities of a scan, on the same grid."""


@attrs.define(kw_only=True, eq=False)
class Source:
    """A scan with its labels, or a label map: facts that are at hand, and voxels on demand."""

    labels: Path
    """File of the labels."""
    image: Path | None
    """File of the image; None for label maps."""
    facts: Facts
    """What is known without its voxels."""
    content: tuple[str, ...] | None
    """Digests of the bytes of its files; None if nothing is kept."""
    load: Callable[[], Loaded] = attrs.field(repr=False)
    """Reads the files."""
    loaded_now: Loaded | None = attrs.field(default=None, repr=False)
    """Its voxels, if they are in memory."""

    @property
    def loaded(self) -> Loaded:
        """Its voxels, read when they are needed first."""
        if self.loaded_now is None:
            self.loaded_now = self.load()
        return self.loaded_now

    def release(self) -> None:
        """Let go of the voxels."""
        self.loaded_now = None


def structures_box(structures: Array, affine: Array) -> tuple[Array, Array] | None:
    """Lowest and highest corner of a mask, RAS+ mm; None if it is empty."""
    ends = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        where = np.flatnonzero(structures.any(axis=others))
        if len(where) == 0:
            return None
        ends.append((where[0], where[-1]))
    corners = np.array(np.meshgrid(*ends)).reshape(3, -1)
    world = affine[:3, :3] @ corners + affine[:3, 3:]
    return world.min(1), world.max(1)


def voxel_mm(affine: Array) -> tuple[float, ...]:
    """Voxel size along the axes of the world: that of the image axis nearest to each.

    >>> voxel_mm(np.array([[0, 0, 5.0, 0], [-1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]]))
    (5.0, 1.0, 2.0)
    """
    columns = np.asarray(affine)[:3, :3]
    sizes = np.linalg.norm(columns, axis=0)
    return tuple(float(sizes[i]) for i in np.abs(columns / sizes).argmax(1))


def is_stripped(image: Volume, structures: Array) -> bool:
    """Whether an image is black away from the labelled structures."""
    from scipy.ndimage import binary_dilation

    data = image.data
    low, high = data.min(), np.percentile(data[structures], 99)
    step = tuple(max(1, round(4 / s)) for s in image.spacing_mm)
    thin = tuple(slice(None, None, s) for s in step)
    near = binary_dilation(structures[thin], iterations=4)
    away = (data[thin][~near] - low) / max(high - low, 1e-6)
    return bool(away.size == 0 or np.mean(away > _BLACK) < 0.02)


def content_digests(data: Array, affine: Array) -> tuple[str, ...]:
    """Digests of voxel values: in the order they are stored in, and in that of the world's axes.

    Each value is mixed to 64 bits, and the sums of these over all planes across each axis are
    hashed. Copies of an image agree in the one if they differ in their headers only, in the other if
    they were reoriented; cropped, resampled or rescaled copies agree in none.

    Parameters
    ----------
    data : (X, Y, Z) float32 or integer array
        What type the values are stored in does not matter to whole numbers, nor among float32.
    affine : (4, 4) array
        Voxels to RAS+ mm.

    Examples
    --------
    >>> data, turn = np.arange(24.0).reshape(2, 3, 4), np.eye(4)[[1, 2, 0, 3]] * [1, 1, -1, 1]
    >>> one = content_digests(data, np.eye(4))
    >>> other = content_digests(data.transpose(2, 0, 1)[:, :, ::-1], turn)
    >>> one[1] == other[1], one[0] == other[0]
    (True, False)
    """
    sums = _plane_sums(data)
    columns = np.asarray(affine)[:3, :3]
    order = np.abs(columns / np.linalg.norm(columns, axis=0)).argmax(0)
    turned = [
        sums[axis][:: 1 if columns[world, axis] > 0 else -1]
        for axis, world in sorted(enumerate(order), key=lambda pair: int(pair[1]))
    ]
    return tuple(
        hashlib.sha256(repr([side.tolist() for side in sides]).encode()).hexdigest()
        for sides in (sums, turned)
    )


def _plane_sums(data: Array) -> list[Array]:
    """Add up the mixed values of all planes across each axis, modulo 2**64."""
    sums = [np.zeros(n, dtype=np.uint64) for n in data.shape]
    first, second = (np.uint64(mixer) for mixer in _MIXERS)
    for x, plane in enumerate(data):
        if data.dtype.kind in "iub":
            bits = plane.astype(np.int64).view(np.uint64)
        else:
            # Adding zero makes one of the two zeros of floating point.
            bits = (plane.astype(np.float32) + np.float32(0)).view(np.uint32).astype(np.uint64)
        mixed = bits * first
        mixed = (mixed ^ (mixed >> np.uint64(32))) * second
        rows = mixed.sum(1, dtype=np.uint64)
        sums[0][x] = rows.sum(dtype=np.uint64)
        sums[1] += rows
        sums[2] += mixed.sum(0, dtype=np.uint64)
    return sums


def tables_of(schemes: Schemes) -> dict[str, Any]:
    """Plain values of the schemes, for the name of what is kept."""
    return {
        **{
            name: [attrs.astuple(label) for label in getattr(schemes, name).labels]
            for name in ("target", "real", "maps")
        },
        "real_to_target": np.asarray(schemes.real_to_target).tolist(),
        "maps_to_target": np.asarray(schemes.maps_to_target).tolist(),
    }
