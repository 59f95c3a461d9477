"""Summary of repeated trainings: means, spread over seeds, and paired differences."""

import math
from collections.abc import Iterable, Mapping, Sequence

import attrs
import numpy as np
import numpy.typing as npt

__all__ = [
    "PARTICIPANT_COLUMNS",
    "SUMMARY_COLUMNS",
    "Value",
    "by_participant",
    "crossed_interval",
    "summarise",
]

SUMMARY_COLUMNS = (
    "contrast",
    "structure",
    "metric",
    "mode",
    "mean",
    "sd_seeds",
    "n_seeds",
    "n_participants",
    "n_values",
    "n_undefined",
    "n_false",
    "baseline",
    "difference",
    "ci_low",
    "ci_high",
)
"""Columns of the summary."""
PARTICIPANT_COLUMNS = ("contrast", "metric", "mode", "seed", "participant_id", "value")
"""Columns of :func:`by_participant`."""

_NONE = "n/a"
_NAN = float("nan")
_MEAN = "mean"
"""Name of the mean over structures in the column ``structure``."""
_Array = npt.NDArray[np.float64]
_Place = tuple[str, str, str]
"""Participant, image, structure."""


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
    expected: bool = True
    """Whether the reference has the structure; what it lacks is in no mean and no difference."""
    false_positive: bool = False
    """Whether the structure was segmented where the reference delineates it but has none."""
    metrics: Mapping[str, float]
    """Values by name; NaN where one is not defined."""


def summarise(
    values: Sequence[Value], *, modes: Sequence[str], baseline: str
) -> list[dict[str, str]]:
    r"""Summarise the values of each mode and compare it with the baseline.

    Everything is over the same images and structures: those that the reference has and for which
    every training (mode and seed, with all of its folds) has a defined value. Of these,
    :math:`x_{ksp}` is the value of mode :math:`k`, seed :math:`s` and participant :math:`p`: the
    mean over structures (and folds, where several tested the same image), then over images. The
    mean of a mode is that of :math:`x` over participants and seeds, its spread the standard
    deviation of the seeds' means, and its difference from the baseline the difference of the means,
    with the interval of :func:`crossed_interval`.

    Parameters
    ----------
    values : sequence of Value
        One for each training, image and structure; with folds, those of one seed are one training.
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
    for contrast, of_contrast in _contrasts(values):
        for structure, members in _groups(of_contrast):
            for metric in _metrics(members):
                rows += [
                    {"contrast": contrast, "structure": structure, "metric": metric, **row}
                    for row in _rows(members, metric, modes, baseline)
                ]
    return rows


def by_participant(values: Sequence[Value]) -> list[dict[str, str]]:
    """List what :func:`summarise` averages, before the mean over participants and seeds.

    Parameters
    ----------
    values : sequence of Value
        As there.

    Returns
    -------
    list of dict
        Rows with the columns :data:`PARTICIPANT_COLUMNS` as text: for each contrast, metric, mode
        and seed the mean over structures, the union not among them, of each participant.
    """
    rows = []
    for contrast, of_contrast in _contrasts(values):
        parts = [value for value in of_contrast if not value.whole]
        for metric in _metrics(parts):
            found = _Balanced.of(parts, metric)
            rows += [
                dict(
                    zip(
                        PARTICIPANT_COLUMNS,
                        (contrast, metric, mode, seed, who, f"{number:.8g}"),
                        strict=True,
                    )
                )
                for mode, table in found.tables.items()
                for seed, numbers in zip(found.seeds[mode], table, strict=True)
                for who, number in zip(found.participants, numbers, strict=True)
            ]
    return rows


def crossed_interval(mode: npt.ArrayLike, baseline: npt.ArrayLike) -> tuple[float, float, float]:
    r"""Difference of two means over seeds and participants, and the ends of its 95 % interval.

    Every training is tested on every participant, so that a training which turned out well moves
    all participants at once: more of them do not average it out. The squared standard error is
    therefore the sum of a part of the participants and one of the trainings of each mode,

    .. math:: s^2 = \frac{s_d^2}{n} + \frac{s_m^2}{K_m} + \frac{s_b^2}{K_b},

    with :math:`s_d` the standard deviation over the :math:`n` participants of their differences
    (each a mean over seeds) and :math:`s_m, s_b` those over the seeds of the modes' means over
    participants. The interval is :math:`\bar d \pm t_{0.975, \nu} s` with Satterthwaite's
    degrees of freedom :math:`\nu = s^4 / (s_d^4 / (n^2 (n - 1)) + \ldots)`. What is peculiar to a
    participant *and* a training is in both parts, so that the interval is rather too wide than
    too narrow.

    With folds, the participants of a fold share its models. A seed is then the whole
    cross-validation, all of whose participants are in its mean; the interval does not count the
    folds as trainings of their own.

    Parameters
    ----------
    mode, baseline : (K, n) array-like
        A row a seed, a column a participant; the participants are the same, the number of seeds may
        differ.

    Returns
    -------
    (float, float, float)
        NaN where they are not defined: all without values, the ends with one participant or with
        one seed of either.

    References
    ----------
    Satterthwaite, An approximate distribution of estimates of variance components, Biometrics
    Bulletin 2, 1946.

    Examples
    --------
    >>> [round(x, 3) for x in crossed_interval([[3, 4], [4, 5]], [[1, 3], [2, 2]])]
    [2.0, -4.353, 8.353]
    """
    from scipy.special import stdtrit

    first, second = (np.asarray(x, dtype=np.float64) for x in (mode, baseline))
    if not first.size or not second.size:
        return _NAN, _NAN, _NAN
    paired = first.mean(0) - second.mean(0)
    difference = float(paired.mean())
    samples = (paired, first.mean(1), second.mean(1))
    if min(map(len, samples)) < 2:
        return difference, _NAN, _NAN
    parts = np.array([sample.var(ddof=1) / len(sample) for sample in samples])
    total = parts.sum()
    if not total:
        return difference, difference, difference
    freedom = total**2 / sum(
        part**2 / (len(sample) - 1) for part, sample in zip(parts, samples, strict=True)
    )
    half = float(stdtrit(freedom, 0.975) * math.sqrt(total))
    return difference, difference - half, difference + half


def _contrasts(values: Sequence[Value]) -> list[tuple[str, list[Value]]]:
    names = _unique(value.contrast for value in values)
    return [(name, [value for value in values if value.contrast == name]) for name in names]


def _metrics(values: Sequence[Value]) -> list[str]:
    return _unique(name for value in values for name in value.metrics)


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


@attrs.frozen(kw_only=True)
class _Balanced:
    """Values of one metric, over what all trainings have."""

    participants: list[str]
    seeds: dict[str, list[str]]
    """Mode: its seeds."""
    tables: dict[str, _Array]
    """Mode: (seeds, participants) array."""

    @classmethod
    def of(cls, values: Sequence[Value], metric: str) -> "_Balanced":
        trainings: dict[tuple[str, str], dict[_Place, list[float]]] = {}
        for value in values:
            if value.expected:
                places = trainings.setdefault((value.mode, value.seed), {})
                place = (value.participant, value.image, value.structure)
                places.setdefault(place, []).append(value.metrics.get(metric, _NAN))
        means = {
            training: {place: float(np.mean(numbers)) for place, numbers in places.items()}
            for training, places in trainings.items()
        }
        defined = [{p for p, x in places.items() if x == x} for places in means.values()]
        common = sorted(set.intersection(*defined)) if defined else []
        modes = _unique(mode for mode, _ in means)
        return cls(
            participants=_unique(participant for participant, _, _ in common),
            seeds={mode: [s for m, s in means if m == mode] for mode in modes},
            tables={
                mode: np.array([_averaged(means[m, s], common) for m, s in means if m == mode])
                for mode in modes
            },
        )


def _averaged(values: Mapping[_Place, float], places: Sequence[_Place]) -> list[float]:
    """Mean over the images of each participant of the mean over structures."""
    people: dict[str, dict[str, list[float]]] = {}
    for place in places:
        participant, image, _ = place
        people.setdefault(participant, {}).setdefault(image, []).append(values[place])
    return [
        float(np.mean([np.mean(numbers) for numbers in images.values()]))
        for images in people.values()
    ]


def _rows(
    values: Sequence[Value], metric: str, modes: Sequence[str], baseline: str
) -> list[dict[str, str]]:
    found = _Balanced.of(values, metric)
    nothing: _Array = np.empty((0, 0))
    base = found.tables.get(baseline, nothing)
    rows = []
    for mode in modes:
        table = found.tables.get(mode, nothing)
        means = table.mean(1) if table.size else np.empty(0)
        difference = crossed_interval(table, nothing if mode == baseline else base)
        rows.append(
            {
                "mode": mode,
                "mean": _cell(float(means.mean()) if means.size else _NAN),
                "sd_seeds": _cell(float(means.std(ddof=1)) if means.size > 1 else _NAN),
                "n_seeds": str(means.size),
                "n_participants": str(len(found.participants) if means.size else 0),
                **_counts([value for value in values if value.mode == mode], metric),
                "baseline": baseline,
                **dict(
                    zip(("difference", "ci_low", "ci_high"), map(_cell, difference), strict=True)
                ),
            }
        )
    return rows


def _counts(values: Sequence[Value], metric: str) -> dict[str, str]:
    """How much of a mode there was, was not defined, and should not have been there."""
    expected = [value.metrics.get(metric, _NAN) for value in values if value.expected]
    return {
        "n_values": str(len(expected)),
        "n_undefined": str(sum(map(math.isnan, expected))),
        "n_false": str(sum(value.false_positive for value in values)),
    }


def _cell(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.6g}"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
