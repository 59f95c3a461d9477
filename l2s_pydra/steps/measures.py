"""Volumes and scores of the structures of one image."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..labels import LabelScheme
from .anatomy import is_extracranial, no_intracranial_reason
from .quality import SoftMeasures, predicted_dice

__all__ = ["COLUMNS", "INTRACRANIAL", "Intracranial", "intracranial", "structure_rows", "table"]

INTRACRANIAL = "intracranial"
"""Name of the row that sums up the inside of the skull; its index is ``n/a``."""
COLUMNS = ("index", "name", "volume-mm3", "soft-volume-mm3", "self-dice", "predicted-dice")
"""Columns of the table of volumes."""
_NONE = "n/a"


def structure_rows(
    scheme: LabelScheme,
    channels: npt.NDArray[np.int16],
    soft: SoftMeasures,
    *,
    voxel_mm3: float,
    working_voxel_mm3: float,
    quality: Mapping[str, Any] | None,
) -> list[dict[str, Any]]:
    """Volume and score of each structure.

    Parameters
    ----------
    scheme : LabelScheme
        The labels.
    channels : (X, Y, Z) int16 array
        Channel of each voxel of the image.
    soft : SoftMeasures
        Sums over the posteriors on the working grid.
    voxel_mm3, working_voxel_mm3 : float
        Volume of a voxel of the image and of the working grid.
    quality : mapping or None
        ``quality`` of the model's ``config.json``.

    Returns
    -------
    list of dict
        ``index``, ``name``, ``volume_mm3``, ``soft_volume_mm3``, ``self_dice`` and
        ``predicted_dice`` (None where they are not defined), without the background.
    """
    hard = np.bincount(channels.reshape(-1), minlength=len(scheme)) * voxel_mm3
    predicted = predicted_dice(quality, scheme.names, soft.self_dice)
    return [
        {
            "index": label.index,
            "name": label.name,
            "volume_mm3": round(float(hard[channel]), 3),
            "soft_volume_mm3": round(float(soft.voxels[channel]) * working_voxel_mm3, 3),
            "self_dice": _rounded(soft.self_dice[channel]),
            "predicted_dice": predicted[channel],
        }
        for channel, label in enumerate(scheme.labels)
        if channel
    ]


@attrs.frozen(kw_only=True)
class Intracranial:
    """The inside of the skull, as far as the labels cover it."""

    volume_mm3: float | None
    """Sum of volumes; None if the labels do not add up to it."""
    soft_volume_mm3: float | None
    """Sum of soft volumes."""
    structures: tuple[str, ...]
    """What is summed up."""
    reason: str
    """Why there is no volume; empty if there is."""

    @property
    def row(self) -> dict[str, Any]:
        """Plain values."""
        return attrs.asdict(self) | {"structures": list(self.structures)}


def intracranial(
    rows: Sequence[Mapping[str, Any]], scheme: LabelScheme, *, stripped: bool
) -> Intracranial:
    """Sum up what lies inside the skull.

    Parameters
    ----------
    rows : sequence of mappings
        Those of :func:`structure_rows`.
    scheme : LabelScheme
        The labels.
    stripped : bool
        Whether the images that the model learned from, or the image, are skull-stripped.

    Returns
    -------
    Intracranial
    """
    names = {label.name for label in scheme.labels[1:] if not is_extracranial(label)}
    reason = no_intracranial_reason(scheme, stripped=stripped)
    if reason:
        return Intracranial(volume_mm3=None, soft_volume_mm3=None, structures=(), reason=reason)
    inside = [row for row in rows if row["name"] in names]
    return Intracranial(
        volume_mm3=round(sum(row["volume_mm3"] for row in inside), 3),
        soft_volume_mm3=round(sum(row["soft_volume_mm3"] for row in inside), 3),
        structures=tuple(row["name"] for row in inside),
        reason="",
    )


def table(rows: Sequence[Mapping[str, Any]], inside: Intracranial) -> str:
    """Text of the table of volumes: a row a structure, and one for the inside of the skull."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        values = (row["volume_mm3"], row["soft_volume_mm3"], row["self_dice"])
        cells = map(_cell, (*values, row["predicted_dice"]))
        lines.append("\t".join((str(row["index"]), row["name"], *cells)))
    sums = map(_cell, (inside.volume_mm3, inside.soft_volume_mm3, None, None))
    lines.append("\t".join((_NONE, INTRACRANIAL, *sums)))
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return _NONE if value is None else str(value)


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
