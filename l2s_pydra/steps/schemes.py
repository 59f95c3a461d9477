"""Which labels there are: those of the real images, those of the label maps, and what they become."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import LabelError
from ..labels import Label, LabelScheme, read_mapping

__all__ = ["UNLABELLED", "Schemes", "read_schemes"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
UNLABELLED = "unlabelled"
"""Group of the tissue of learning participants that nobody labelled."""


def _darker(group: str) -> str:
    return f"{group} (darker)"


@attrs.frozen(kw_only=True)
class Schemes:
    """The label schemes of a run and how they relate."""

    target: LabelScheme
    """What the model will write."""
    real: LabelScheme
    """What the real images' labels say."""
    maps: LabelScheme
    """What the label maps say."""
    real_to_target: Array
    """Channel of ``target`` of each channel of ``real``."""
    maps_to_target: Array
    """Channel of ``target`` of each channel of ``maps``."""

    def further_groups(self, subclusters: int = 1) -> list[list[str]]:
        """Name the groups of further tissues in a label of the learning participants."""
        target = self._target_groups()[1:]
        if subclusters == 1:
            return [[UNLABELLED, *map(_darker, target)]]
        return [
            [f"{name} ({number})" for name in (UNLABELLED, *target)]
            for number in range(2, subclusters + 1)
        ]

    def target_groups(self) -> list[int]:
        """Return the number of each channel's group in ``target``; that of the background is 0."""
        names = ["", *self._target_groups()[1:]]
        return [names.index(name) for name in names]

    def _target_groups(self) -> list[str]:
        return [label.group_or_guess for label in self.target.labels]

    def _maps_groups(self) -> list[str]:
        """Group of each label of the maps: that of its target, or, for background, its own."""
        target = self._target_groups()
        groups = []
        for label, channel in zip(self.maps.labels, self.maps_to_target, strict=True):
            own = label.group or (target[channel] if channel else label.group_or_guess)
            groups.append("outside" if label.index == 0 else own)
        return groups

    def _maps_opposite(self) -> list[int]:
        """Counterpart of each label of the maps on the other side.

        A label whose name has none there, as a lesion of one side, gives way to one of the
        counterpart of its structure.
        """
        structures = self.maps_to_target.tolist()
        wanted = [self.target.opposite[channel] for channel in structures]
        return [
            other
            if structures[other] == channel or channel not in structures
            else structures.index(channel)
            for other, channel in zip(self.maps.opposite, wanted, strict=True)
        ]

    def generation_tables(self, subclusters: int = 1) -> dict[str, Any]:
        """Group, channel and opposite of each generation label, and the names of the groups.

        Generation labels are the channels of ``maps``, then those of ``target`` for the learning
        participants' own labels (channel 0 stands for tissue that nobody labelled), then those of
        ``target`` again for the darker part of labels that hold two tissues; or, with
        ``subclusters``, for the second, third and so on cluster of intensity in a label. Groups
        share an intensity distribution; the first is ``outside``.
        """
        first, count = len(self.maps), len(self.target)
        layers = [[UNLABELLED, *self._target_groups()[1:]], *self.further_groups(subclusters)]
        groups = [*self._maps_groups(), *(group for layer in layers for group in layer)]
        names = tuple(dict.fromkeys(["outside", *self._target_groups()[1:], *groups]))
        opposite = np.array(self.target.opposite)
        starts = [first + count * number for number in range(len(layers))]
        return {
            "group": [names.index(group) for group in groups],
            "channel": [*map(int, self.maps_to_target), *list(range(count)) * len(layers)],
            "swap": [*self._maps_opposite(), *(int(s + o) for s in starts for o in opposite)],
            "group_names": names,
            "n_channels": len(self.target),
        }


def read_schemes(real_table: Path, maps_table: Path | None, label_mapping: Path | None) -> Schemes:
    """Read the label tables and bring both sides to one label set.

    The real images' scheme is the target. If its table maps every label (column ``mapping``), the
    values mapped to are the target instead, so that two fine schemes can meet in a common one.

    Raises
    ------
    LabelError
        If a table is broken or a label of the maps has no counterpart.
    """
    real = LabelScheme.read(real_table)
    maps = LabelScheme.read(maps_table) if maps_table else real
    mapping = read_mapping(label_mapping) if label_mapping else None
    target = _merged(real, real_table)
    try:
        # Background has no row in many tables, and nothing to map to but background.
        real_to_target = (
            real.mapped_to(target, {0: 0}) if target is not real else np.arange(len(real))
        )
        maps_to_target = (
            real_to_target if maps is real and not mapping else maps.mapped_to(target, mapping)
        )
    except LabelError as error:
        raise LabelError(f"{maps_table or real_table}: {error}") from error
    return Schemes(
        target=target,
        real=real,
        maps=maps,
        real_to_target=np.asarray(real_to_target),
        maps_to_target=np.asarray(maps_to_target),
    )


def _merged(scheme: LabelScheme, path: Path) -> LabelScheme:
    """Scheme of the values that ``scheme`` maps to; ``scheme`` itself if it maps nothing.

    A merged label keeps the name and the side that its parts share; two labels of either side that
    are merged from the same structures form a group.
    """
    mapped = [label for label in scheme.labels if label.index and label.mapping is not None]
    if not mapped:
        return scheme
    missing = [label for label in scheme.labels if label.index and label.mapping is None]
    if missing:
        raise LabelError(
            f"{path}: label {missing[0].index} ({missing[0].name}) has no value in the column "
            "mapping, others have; fill the column, or remove it"
        )
    parts: dict[int, list[Label]] = {}
    for label in mapped:
        parts.setdefault(int(label.mapping or 0), []).append(label)
    parts.pop(0, None)
    logger.info("%d labels of %s merged into %d by its mapping", len(mapped), path, len(parts))
    try:
        labels = {index: _merged_label(index, of) for index, of in parts.items()}
        return LabelScheme(_paired(labels, parts))
    except LabelError as error:
        raise LabelError(f"{path}: by its column mapping, the {error}") from error


def _merged_label(index: int, parts: Sequence[Label]) -> Label:
    """One label for several: named after them if they share a name, numbered otherwise."""
    sides = {label.side_or_guess for label in parts}
    side = sides.pop() if len(sides) == 1 else "midline"
    groups = {label.group_or_guess for label in parts}
    same = next(iter(groups)) if len(groups) == 1 else None
    if len(parts) == 1:
        name = parts[0].name
    elif same is None:
        name = f"label{index}"
    else:
        name = same if side == "midline" else f"{side}-{same}"
    return Label(index=index, name=name, side=None if side == "midline" else side, group=same)


def _paired(labels: Mapping[int, Label], parts: Mapping[int, Sequence[Label]]) -> list[Label]:
    """Put sided labels that are merged from the same structures into one group."""
    alike: dict[frozenset[str], list[int]] = {}
    for index, label in labels.items():
        if label.side and not label.group:
            structures = frozenset(part.group_or_guess for part in parts[index])
            alike.setdefault(structures, []).append(index)
    names = {i: f"label{min(indices)}" for indices in alike.values() for i in indices}
    return [
        attrs.evolve(label, group=names.get(index, label.group)) for index, label in labels.items()
    ]
