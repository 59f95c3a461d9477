"""What about a segmentation a person should look at, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..labels import LabelScheme
from .anatomy import is_extracranial
from .components import Removed

__all__ = [
    "ASYMMETRY",
    "Flag",
    "asymmetry_flags",
    "field_of_view_flags",
    "removal_flags",
    "score_flags",
]

ASYMMETRY = 1.5
"""Ratio of both sides' volumes from which a pair is told of."""
_ASYMMETRY_VENTRICLES = 3.0
"""The same for ventricles, which differ between sides in many healthy people."""
_LOW_DICE = 0.5
_BELOW_VALIDATION = 0.1
"""Least distance below the Dice of the validation images that is told of."""
_LOW_AGREEMENT = 0.6
_LARGE_PIECE = 0.1
_FEWEST_FACES = 4
_ENDS = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


@attrs.frozen(kw_only=True)
class Flag:
    """One remark."""

    kind: str
    """``field of view``, ``score``, ``asymmetry`` or ``pieces``."""
    structures: tuple[str, ...]
    """Names of the structures it is about."""
    text: str
    """The remark."""

    @property
    def row(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, "structures": list(self.structures), "text": self.text}


def field_of_view_flags(
    channels: npt.NDArray[np.int16], affine: npt.NDArray[np.float64], scheme: LabelScheme
) -> list[Flag]:
    """Find structures that the image ends in.

    Structures outside the skull's inside, which images hardly ever hold whole, are left out.

    Parameters
    ----------
    channels : (X, Y, Z) int16 array
        Channel of each voxel of the image.
    affine : (4, 4) array
        Voxel indices to mm, RAS+.
    scheme : LabelScheme
        The labels.

    Returns
    -------
    list of Flag
        One for each end of the image that structures touch, with its coordinate: that of the outer
        faces of the voxels, in the middle of the part that is touched.
    """
    inside = np.array([bool(c) and not is_extracranial(x) for c, x in enumerate(scheme.labels)])
    flags = []
    for axis, size in enumerate(channels.shape):
        for last in (False, True):
            if size == 1:
                continue
            plane = np.take(channels, size - 1 if last else 0, axis=axis)
            counts = np.bincount(plane.reshape(-1), minlength=len(scheme)) * inside
            cut = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c] >= _FEWEST_FACES]
            if cut:
                edge = size - 0.5 if last else -0.5
                touched = np.argwhere(np.isin(plane, cut)).mean(axis=0)
                flags.append(_cut(cut, np.insert(touched, axis, edge), axis, last, affine, scheme))
    return flags


def _cut(
    cut: Sequence[int],
    voxel: npt.NDArray[np.float64],
    axis: int,
    last: bool,
    affine: npt.NDArray[np.float64],
    scheme: LabelScheme,
) -> Flag:
    direction = affine[:3, axis] if last else -affine[:3, axis]
    world = int(np.abs(direction).argmax())
    place = float((affine[:3, :3] @ voxel + affine[:3, 3])[world])
    end = _ENDS[world][int(direction[world] > 0)]
    names = tuple(scheme.names[c] for c in cut)
    text = (
        f"{_listed(names)}: the field of view ends at {'xyz'[world]} = {place:.0f} mm ({end}); "
        "what lies beyond is missing from the volumes"
    )
    return Flag(kind="field of view", structures=names, text=text.replace("= -0 mm", "= 0 mm"))


def score_flags(rows: Sequence[Mapping[str, Any]], quality: Mapping[str, Any] | None) -> list[Flag]:
    """Find structures whose score is low.

    With a calibrated score, below 0.5, or below the structure's Dice on the validation images by
    more than 0.1 and twice the error of the score; without, an agreement below 0.6.

    Parameters
    ----------
    rows : sequence of mappings
        ``name``, ``self_dice`` and ``predicted_dice`` of each structure.
    quality : mapping or None
        ``quality`` of the model's ``config.json``.

    Returns
    -------
    list of Flag
    """
    lines = (quality or {}).get("lines", {})
    margin = max(_BELOW_VALIDATION, 2 * ((quality or {}).get("error") or 0.0))
    low, lower, unsure = [], [], []
    for row in rows:
        predicted, name = row["predicted_dice"], row["name"]
        usual = lines.get(name, {}).get("validation_dice")
        if predicted is not None and round(predicted, 2) < _LOW_DICE:
            low.append((name, f"{name} {predicted:.2f}"))
        elif predicted is not None and usual is not None and predicted < usual - margin:
            lower.append((name, f"{name} {predicted:.2f} ({usual:.2f})"))
        elif predicted is None and (row["self_dice"] or 1.0) < _LOW_AGREEMENT:
            unsure.append((name, f"{name} {row['self_dice']:.2f}"))
    remarks = (
        (low, f"predicted Dice below {_LOW_DICE}: "),
        (lower, "predicted Dice well below that of the validation images (in brackets): "),
        (unsure, f"the model is unsure (agreement of its posteriors below {_LOW_AGREEMENT}): "),
    )
    return [
        Flag(
            kind="score",
            structures=tuple(name for name, _ in found),
            text=words + ", ".join(text for _, text in found),
        )
        for found, words in remarks
        if found
    ]


def removal_flags(
    channels: npt.NDArray[np.int16], removed: Sequence[Removed], scheme: LabelScheme
) -> list[Flag]:
    """Find structures that lost more than a tenth when their largest piece was kept.

    These may be two structures under one label, such as a left and a right one.

    Parameters
    ----------
    channels : (X, Y, Z) int16 array
        Channel of each voxel, largest pieces only.
    removed : sequence of Removed
        What was taken away.
    scheme : LabelScheme
        The labels.

    Returns
    -------
    list of Flag
    """
    flags = []
    for item in removed:
        share = item.voxels / (item.voxels + np.count_nonzero(channels == item.channel))
        if share > _LARGE_PIECE:
            name = scheme.names[item.channel]
            text = (
                f"{name}: {100 * share:.0f} % of it was taken away as it is not connected to the "
                "largest piece; if the label stands for several structures, do not ask for that"
            )
            flags.append(Flag(kind="pieces", structures=(name,), text=text))
    return flags


def asymmetry_flags(rows: Sequence[Mapping[str, Any]], scheme: LabelScheme) -> list[Flag]:
    """Find pairs of structures of which one is much larger than the other.

    Told from a ratio of 1.5 on, for ventricles from 3 on. Pairs of which one is missing are told
    of elsewhere.

    Parameters
    ----------
    rows : sequence of mappings
        ``name`` and ``volume_mm3`` of each structure, in the order of the scheme.
    scheme : LabelScheme
        The labels.

    Returns
    -------
    list of Flag
    """
    volumes = {row["name"]: row["volume_mm3"] for row in rows}
    flags = []
    for channel, other in enumerate(scheme.opposite):
        label = scheme.labels[channel]
        if other == channel or label.side_or_guess != "left":
            continue
        left, right = volumes.get(label.name, 0.0), volumes.get(scheme.names[other], 0.0)
        ventricle = "vent" in label.name.lower() and "ventral" not in label.name.lower()
        most = _ASYMMETRY_VENTRICLES if ventricle else ASYMMETRY
        if min(left, right) <= 0 or max(left, right) < most * min(left, right):
            continue
        names = (label.name, scheme.names[other])
        text = (
            f"{names[0]} {left / 1000:.2f} ml, {names[1]} {right / 1000:.2f} ml: one side is "
            f"{max(left, right) / min(left, right):.1f} times as large as the other"
        )
        flags.append(Flag(kind="asymmetry", structures=names, text=text))
    return flags


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
