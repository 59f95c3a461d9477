"""Intensities of each label group in each labelled scan."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

__all__ = ["Moments", "measure_moments", "pooled"]

_PURE, _MOSTLY = 0.9, 0.5
"""Shares of a working voxel that a group fills, for the voxel to count as that group's."""
_FEW_VOXELS = 50


@attrs.frozen(kw_only=True)
class Moments:
    """Intensities of one group in one scan, on the normalised scale."""

    scan: str
    """Name of the scan."""
    count: int
    """Working voxels."""
    mean: float
    """Their mean."""
    std: float
    """Their standard deviation."""
    grain: float
    """Its part that is not shared by neighbouring voxels: root mean square of their differences,
    over the root of 2."""


def measure_moments(
    scans: Sequence[Any], own: Sequence[Any], tables: Mapping[str, Any], factor: int
) -> dict[str, list[Moments]]:
    """Measure each group in each scan.

    Voxels that a group fills to nine tenths count (to half, where there are too few).

    Parameters
    ----------
    scans : sequence of RealScan
        On the working and the fine grid.
    own : sequence of (*F,) integer arrays
        Generation labels of each scan.
    tables : mapping
        ``group``, the group of each generation label, and ``group_names``.
    factor : int
        Fine voxels per working voxel and axis.

    Returns
    -------
    dict
        Group name to one entry for each scan in which the group occurs; the outside is left out.
    """
    import torch

    from ..normalisation import normalise
    from ..synthesis import intensity

    names: Sequence[str] = tables["group_names"]
    group = torch.tensor(tables["group"])
    found: dict[str, list[Moments]] = {}
    for scan, labels in zip(scans, own, strict=True):
        shares = intensity.soft_labels(group[torch.from_numpy(labels).long()], len(names), factor)
        image = normalise(scan.image[None, None])[0, 0]
        for name, share in zip(names[1:], shares[1:], strict=True):
            pure = share > _PURE
            pure = pure if int(pure.sum()) >= _FEW_VOXELS else share > _MOSTLY
            values = image[pure].numpy().astype(np.float64)
            if values.size:
                measured = Moments(
                    scan=scan.name,
                    count=values.size,
                    mean=float(values.mean()),
                    std=float(values.std()),
                    grain=_grain(image, pure, float(values.std())),
                )
                found.setdefault(name, []).append(measured)
    return found


def _grain(image: Any, inside: Any, otherwise: float) -> float:
    """Noise of voxels (*S) inside a mask, from differences of neighbours that both are inside."""
    total, count = 0.0, 0
    for axis, n in enumerate(image.shape):
        one, two = (image.narrow(axis, start, n - 1) for start in (0, 1))
        both = inside.narrow(axis, 0, n - 1) & inside.narrow(axis, 1, n - 1)
        total += float((one - two)[both].double().square().sum())
        count += int(both.sum())
    return math.sqrt(total / count / 2) if count >= _FEW_VOXELS else otherwise


def pooled(moments: Sequence[Moments]) -> tuple[float, float, float]:
    """Mean, standard deviation and grain of the voxels of all scans together.

    Examples
    --------
    >>> one, two = (Moments(scan="", count=2, mean=m, std=1.0, grain=0.5) for m in (1.0, 3.0))
    >>> mean, std, grain = pooled([one, two])
    >>> mean, round(std**2, 6), grain
    (2.0, 2.0, 0.5)
    """
    total = sum(m.count for m in moments)
    mean = sum(m.count * m.mean for m in moments) / total
    square = sum(m.count * (m.std**2 + m.mean**2) for m in moments) / total
    grain = sum(m.count * m.grain**2 for m in moments) / total
    return mean, math.sqrt(max(0.0, square - mean**2)), math.sqrt(grain)
