"""Summary of repeated trainings: means, spread over seeds, and differences paired by participant."""

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs
import numpy as np

__all__ = ["SUMMARY_COLUMNS", "Value", "summarise", "t_interval"]

SUMMARY_COLUMNS = (
    "contrast",
    "structure",
    "metric",
    "mode",
    "mean",
    "sd_seeds",
    "n_seeds",
    "n_participants",
    "n_undefined",
    "baseline",
    "difference",
    "ci_low",
    "ci_high",
)
"""Columns of the summary."""

_NONE = "n/a"
_NAN = float("nan")
_MEAN = "mean"
"""Name of the mean over structures in the column ``structure``."""


@attrs.frozen(kw_only=True)
class Value:
    """What one training makes of one structure of one image."""

    mode: str
    """What was trained."""
    seed: str
    """Its seed."""
    contrast: str
    """Contrast of the image."""
    participant: str
    """Whose image."""
    image: str
    """Name of the image."""
    structure: str
    """Name of the structure."""
    whole: bool = False
    """Whether that is the union of all structures, which is in no mean over them."""
    metrics: Mapping[str, float]
    """Values by name; NaN where one is not defined."""


def summarise(
    values: Sequence[Value], *, modes: Sequence[str], baseline: str
) -> list[dict[str, str]]:
    r"""Summarise the values of each mode and compare it with the baseline.

    The mean is that over images and then over seeds; its standard deviation is that of the seeds'
    means. The difference of a participant :math:`i` is the mean, over the images and structures
    that are defined in both modes, of the difference of the means over seeds (and folds). With
    :math:`n` participants, the interval is

    .. math:: \bar d \pm t_{0.975, n-1} \, s_d / \sqrt n .

    Parameters
    ----------
    values : sequence of Value
        One for each training, image and structure; several of one seed (of folds) are averaged.
    modes : sequence of str
        In the order of the rows.
    baseline : str
        Mode that the others are compared with.

    Returns
    -------
    list of dict
        Rows with the columns :data:`SUMMARY_COLUMNS` as text: for each contrast the mean over
        structures, each structure and the union of all; of each the metrics; of each the modes.

    Examples
    --------
    >>> common = {"contrast": "T1w", "image": "a", "structure": "x", "seed": "0"}
    >>> values = [
    ...     Value(mode=mode, participant=who, metrics={"dice": dice}, **common)
    ...     for mode, who, dice in (("m", "1", 0.7), ("m", "2", 0.9), ("b", "1", 0.6), ("b", "2", 0.7))
    ... ]
    >>> row = summarise(values, modes=["m", "b"], baseline="b")[0]
    >>> row["mode"], row["mean"], row["difference"]
    ('m', '0.8', '0.15')
    """
    rows = []
    for contrast in _unique(value.contrast for value in values):
        of_contrast = [value for value in values if value.contrast == contrast]
        for structure, members in _groups(of_contrast):
            for metric in _unique(name for value in members for name in value.metrics):
                found = {mode: _Sample.of(members, mode, metric) for mode in modes}
                rows += [
                    {"contrast": contrast, "structure": structure, "metric": metric, **row}
                    for row in _rows(found, baseline)
                ]
    return rows


def t_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of a sample and the ends of its 95 % t interval.

    Returns
    -------
    (float, float, float)
        NaN where they are not defined: all without values, the ends with one.

    Examples
    --------
    >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy.special import stdtrit

    sample = np.asarray(differences, dtype=np.float64)
    if not sample.size:
        return _NAN, _NAN, _NAN
    mean = float(sample.mean())
    if sample.size == 1:
        return mean, _NAN, _NAN
    half = float(stdtrit(sample.size - 1, 0.975) * sample.std(ddof=1) / math.sqrt(sample.size))
    return mean, mean - half, mean + half


def _groups(values: Sequence[Value]) -> list[tuple[str, list[Value]]]:
    """Values of all structures together, of each, and of their union."""
    parts = [value for value in values if not value.whole]
    groups = [(_MEAN, parts)]
    groups += [
        (name, [value for value in parts if value.structure == name])
        for name in _unique(value.structure for value in parts)
    ]
    whole = [value for value in values if value.whole]
    groups += [(whole[0].structure, whole)] if whole else []
    return groups


@attrs.frozen
class _Sample:
    """Values of one metric in one mode."""

    by_seed: dict[str, dict[str, list[float]]]
    """Seed, image: defined values."""
    by_place: dict[tuple[str, str, str], list[float]]
    """Participant, image, structure: defined values."""
    undefined: int

    @classmethod
    def of(cls, values: Sequence[Value], mode: str, metric: str) -> "_Sample":
        by_seed: dict[str, dict[str, list[float]]] = {}
        by_place: dict[tuple[str, str, str], list[float]] = {}
        undefined = 0
        for value in values:
            if value.mode != mode:
                continue
            number = value.metrics.get(metric, _NAN)
            if math.isnan(number):
                undefined += 1
                continue
            by_seed.setdefault(value.seed, {}).setdefault(value.image, []).append(number)
            place = (value.participant, value.image, value.structure)
            by_place.setdefault(place, []).append(number)
        return cls(by_seed, by_place, undefined)

    @property
    def seed_means(self) -> list[float]:
        """Mean over images (of the mean over structures and folds) for each seed."""
        return [
            float(np.mean([np.mean(numbers) for numbers in images.values()]))
            for images in self.by_seed.values()
        ]

    @property
    def participants(self) -> set[str]:
        return {participant for participant, _, _ in self.by_place}

    def minus(self, other: "_Sample") -> list[float]:
        """Difference of each participant that has values in both."""
        images: dict[tuple[str, str], list[float]] = {}
        for place in self.by_place.keys() & other.by_place.keys():
            difference = np.mean(self.by_place[place]) - np.mean(other.by_place[place])
            images.setdefault(place[:2], []).append(float(difference))
        participants: dict[str, list[float]] = {}
        for (participant, _), differences in sorted(images.items()):
            participants.setdefault(participant, []).append(float(np.mean(differences)))
        return [float(np.mean(differences)) for differences in participants.values()]


def _rows(samples: Mapping[str, _Sample], baseline: str) -> list[dict[str, str]]:
    rows = []
    for mode, sample in samples.items():
        means = sample.seed_means
        paired = [] if mode == baseline else sample.minus(samples[baseline])
        difference = t_interval(paired)
        count = len(paired) if paired else len(sample.participants)
        rows.append(
            {
                "mode": mode,
                "mean": _cell(float(np.mean(means)) if means else _NAN),
                "sd_seeds": _cell(float(np.std(means, ddof=1)) if len(means) > 1 else _NAN),
                "n_seeds": str(len(means)),
                "n_participants": str(count),
                "n_undefined": str(sample.undefined),
                "baseline": baseline,
                **dict(
                    zip(("difference", "ci_low", "ci_high"), map(_cell, difference), strict=True)
                ),
            }
        )
    return rows


def _cell(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.6g}"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
