"""From the agreement of posteriors with their label map to a Dice: fitted where the truth is known."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .quality import predicted_dice, soft_measures

if TYPE_CHECKING:
    from ..bilevel.batches import RealScan
    from ..segmentation import Model

__all__ = ["calibrate_quality", "fit_quality"]

Array = npt.NDArray[np.float64]
_SLOPE_PRIOR = 0.01
"""Weight of the slope 1, as a sum of squares: that of 25 values that spread by 0.02."""
_OFFSET_PRIOR = 2.0
"""Weight of the offset that all structures share, in images."""
_STEEPEST = 3.0


def calibrate_quality(
    model: "Model", scans: "Sequence[RealScan]", *, device: Any = "cpu"
) -> dict[str, Any]:
    """Segment the validation scans on the working grid, and fit the score to their Dice.

    That grid is centred on the labels, with some room around them: mistakes in neck and background
    farther away, which the image of a user may hold, do not count.

    Parameters
    ----------
    model : Model
        The finished model.
    scans : sequence of RealScan
        Validation scans on the working grid.
    device : torch.device or str
        Where to compute.

    Returns
    -------
    dict
        See :func:`fit_quality`.
    """
    from ..segmentation import dice_scores
    from ..targets import as_classes

    scores, dice = [], []
    for scan in scans:
        posterior = model.posteriors(scan.image, device=device)
        truth = as_classes(scan.target)
        scores.append(soft_measures(posterior).self_dice[1:])
        dice.append(dice_scores(posterior.argmax(0), truth, len(model.scheme)).numpy())
    return fit_quality(np.array(scores), np.array(dice), model.scheme.names[1:])


def fit_quality(scores: Array, dice: Array, names: Sequence[str]) -> dict[str, Any]:
    r"""Fit a line from self-Dice to Dice for each structure, with few images.

    With the self-Dice :math:`s_{ik}` and the Dice :math:`d_{ik}` of image :math:`i` and structure
    :math:`k`, their means :math:`\bar s_k, \bar d_k` over :math:`n_k` images, the line is

    .. math:: \hat d_k(s) = \bar s_k + c + o_k + b (s - \bar s_k), \qquad
        o_k = \frac{n_k}{n_k + 2} (\bar d_k - \bar s_k - c)

    with the mean difference :math:`c` of all values. All structures share the slope

    .. math:: b = \frac{\sum_{ik} (s_{ik} - \bar s_k)(d_{ik} - \bar d_k) + \mu}
        {\sum_{ik} (s_{ik} - \bar s_k)^2 + \mu}, \qquad \mu = 0.01,

    kept in [0, 3]: what few images tell is drawn towards the slope 1 and the common offset. The
    result is monotone in the score.

    Parameters
    ----------
    scores, dice : (N, K - 1) arrays
        Self-Dice and Dice; NaN where a structure is not there.
    names : sequence of str
        Structures, without the background.

    Returns
    -------
    dict
        ``lines`` (name to ``intercept``, ``slope``, ``images``, ``validation_dice``), ``images``,
        and ``error``: root mean square error of predictions for images that were left out of the
        fit, None with fewer than two images. Empty without a value to fit to.
    """
    scores, dice = np.atleast_2d(scores).astype(float), np.atleast_2d(dice).astype(float)
    known = np.isfinite(scores) & np.isfinite(dice)
    if not known.any():
        return {}
    images = int(known.any(axis=1).sum())
    return {
        "score": "2 sum(p [argmax]) / (sum(p) + sum([argmax])), with left-right averaging",
        "images": images,
        "error": _left_out_error(scores, dice, known, names) if images > 1 else None,
        "lines": _lines(scores, dice, known, names),
    }


def _lines(
    scores: Array, dice: Array, known: npt.NDArray[np.bool_], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    counts = known.sum(axis=0)
    s, d = np.where(known, scores, 0.0), np.where(known, dice, 0.0)
    enough = np.maximum(counts, 1)
    middle = np.where(counts > 0, s.sum(axis=0) / enough, s.sum() / known.sum())
    truth = d.sum(axis=0) / enough
    across, up = np.where(known, s - middle, 0), np.where(known, d - truth, 0)
    slope = (np.sum(across * up) + _SLOPE_PRIOR) / (np.sum(across**2) + _SLOPE_PRIOR)
    slope = float(np.clip(slope, 0.0, _STEEPEST))
    common = float((d - s).sum() / known.sum())
    own = counts / (counts + _OFFSET_PRIOR) * (truth - middle - common)
    intercepts = middle * (1 - slope) + common + own
    return {
        name: {
            "intercept": round(float(intercepts[k]), 5),
            "slope": round(slope, 5),
            "images": int(counts[k]),
            "validation_dice": round(float(truth[k]), 5) if counts[k] else None,
        }
        for k, name in enumerate(names)
    }


def _left_out_error(
    scores: Array, dice: Array, known: npt.NDArray[np.bool_], names: Sequence[str]
) -> float | None:
    """Error of the lines that the other images give."""
    errors: list[float] = []
    for image in range(len(scores)):
        others = known.copy()
        others[image] = False
        if not (others.any() and known[image].any()):
            continue
        fitted: Mapping[str, Any] = {"lines": _lines(scores, dice, others, names)}
        guesses = predicted_dice(fitted, names, scores[image])
        errors += [
            guess - true
            for guess, true, there in zip(guesses, dice[image], known[image], strict=True)
            if there and guess is not None
        ]
    return round(float(np.sqrt(np.mean(np.square(errors)))), 5) if errors else None
