"""How much a segmentation can be trusted, structure by structure, without a reference.

A posterior that is sure of itself agrees with the label map made of it. This agreement is turned
into a Dice by a line for each structure that was fitted to the validation images when the model was
learned (:mod:`l2s_pydra.steps.calibration`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

__all__ = ["SoftMeasures", "normalised_entropy", "predicted_dice", "soft_measures"]

Floats = npt.NDArray[np.floating[Any]]
_SLAB = 8
"""Planes that are worked on at a time, so that no copy of all posteriors is made."""


@attrs.frozen(kw_only=True, eq=False)
class SoftMeasures:
    """Sums over the posteriors of an image."""

    voxels: npt.NDArray[np.float64]
    """(K,) sum of each label's posterior, in voxels."""
    self_dice: npt.NDArray[np.float64]
    """(K,) agreement of each label's posterior with the label map; NaN where no voxel has it."""


def soft_measures(posterior: Any) -> SoftMeasures:
    r"""Sum posteriors, and compare them with the label map they make.

    .. math:: s_k = \frac{2 \sum_v p_{kv} [\arg\max_j p_{jv} = k]}
        {\sum_v p_{kv} + \sum_v [\arg\max_j p_{jv} = k]}

    Voxels that are certainly background need not be in the array: they change the background's
    values only.

    Parameters
    ----------
    posterior : (K, X, Y, Z) float array or tensor
        :math:`p`, on the working grid or a box of it.

    Returns
    -------
    SoftMeasures

    Examples
    --------
    >>> p = np.array([0.9, 0.2, 0.0]).reshape(1, 3, 1, 1)
    >>> found = soft_measures(np.concatenate([1 - p, p]))
    >>> found.voxels.round(3).tolist(), found.self_dice.round(3).tolist()
    ([1.9, 1.1], [0.923, 0.857])
    """
    values = np.asarray(posterior)
    count = len(values)
    sums, hits, sizes = np.zeros(count), np.zeros(count), np.zeros(count)
    for start in range(0, values.shape[1], _SLAB):
        slab = values[:, start : start + _SLAB].reshape(count, -1)
        winner = slab.argmax(axis=0)
        best = np.take_along_axis(slab, winner[None], axis=0)[0]
        sums += slab.sum(axis=1, dtype=np.float64)
        hits += np.bincount(winner, weights=best, minlength=count)
        sizes += np.bincount(winner, minlength=count)
    agreement = np.full(count, np.nan)
    there = sizes > 0
    agreement[there] = 2 * hits[there] / (sums[there] + sizes[there])
    return SoftMeasures(voxels=sums, self_dice=agreement)


def normalised_entropy(posterior: Any) -> npt.NDArray[np.float32]:
    r"""Entropy of the posterior in each voxel, as a share of the largest possible one.

    .. math:: h_v = -\frac{1}{\ln K} \sum_k p_{kv} \ln p_{kv}

    Parameters
    ----------
    posterior : (K, X, Y, Z) float array or tensor
        :math:`p`.

    Returns
    -------
    (X, Y, Z) float32 array
        0 where one label is certain, 1 where all are equally probable.

    Examples
    --------
    >>> normalised_entropy(np.array([[1.0, 0.5], [0.0, 0.5]]).reshape(2, 2, 1, 1)).ravel().tolist()
    [0.0, 1.0]
    """
    values = np.asarray(posterior)
    entropy = np.zeros(values.shape[1:], dtype=np.float32)
    for frame in values:
        entropy -= frame * np.log(np.maximum(frame, np.finfo(np.float32).tiny))
    share: npt.NDArray[np.float32] = np.clip(entropy / np.float32(np.log(len(values))), 0, 1)
    return share


def predicted_dice(
    quality: Mapping[str, Any] | None, names: Sequence[str], self_dice: Floats
) -> list[float | None]:
    """Dice that is to be expected of each structure.

    Parameters
    ----------
    quality : mapping or None
        What the model's ``config.json`` holds under ``quality``
        (:func:`l2s_pydra.steps.calibration.fit_quality`); None for a model without.
    names : (K,) sequence of str
        Names of the labels, background first.
    self_dice : (K,) array
        Agreement of each posterior with the label map.

    Returns
    -------
    list of float or None
        One a label; None where there is no line, or the structure was not found.

    Examples
    --------
    >>> quality = {"lines": {"stem": {"intercept": 0.1, "slope": 0.5}}}
    >>> predicted_dice(quality, ["background", "stem"], np.array([0.9, 0.8]))
    [None, 0.5]
    """
    lines = (quality or {}).get("lines", {})
    found: list[float | None] = []
    for name, score in zip(names, self_dice, strict=True):
        line = lines.get(name)
        if line is None or not np.isfinite(score):
            found.append(None)
            continue
        value = line["intercept"] + line["slope"] * float(score)
        found.append(min(1.0, max(0.0, round(value, 6))))
    return found
