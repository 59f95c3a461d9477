r"""Whether a series of gradients pushes a value, and whether the data hold it.

Both statistics must stand noise that is autocorrelated, as momentum, averages and a segmenter that
changes slowly make it. Differences of successive steps would understate such noise.

* **Push** is the mean gradient over its standard error from batch means (Schmeiser, Operations
  Research 1982): the series is cut into 12 batches (more from 400 steps on: 0.6 sqrt(N)), and half
  the mean square of differences of *their* means is the variance (von Neumann, 1941), so that a mean
  that changes slowly is no noise. Gradients are divided by their local scale first, since they
  shrink in the course of a training. It is compared with Student's t, of the degrees of freedom of
  von Neumann's estimate, 2 (B - 1)^2 / (3 B - 4).
* **Hold** is t of the slope of the gradient over the value. Its standard error is the larger of
  White's, times sqrt((1 + r) / (1 - r)) for residuals with autocorrelation r > 0, and that of Newey
  and West (Econometrica 1987). A value without data would be a random walk, so that t has the
  distribution of Dickey and Fuller (JASA 1979), whose tail is 1.1 beyond the normal one; for
  short series it is widened as Student's t of N / 8 degrees of freedom is (both by simulation).

Thresholds are for all values together (Bonferroni), 1 % each for push and hold.
"""

import math

import numpy as np
import numpy.typing as npt

__all__ = ["held_from", "hold", "over", "push", "pushed_from"]

_LEVEL = 0.01
_BATCHES = 12
_BATCHES_OF_ROOT = 0.6
_DICKEY_FULLER = 1.1
_STEPS_A_FREEDOM = 8
_WINDOW = 4
_LAGS_OF_ROOT = 1.3

_Array = npt.NDArray[np.float64]


def push(gradient: _Array) -> _Array:
    """Mean gradient over its standard error, in the presence of autocorrelation.

    Parameters
    ----------
    gradient : (N, P) array
        In the order of the steps.

    Returns
    -------
    (P,) array
        0 where a gradient never changed, and of fewer than 4 steps.
    """
    count = len(gradient)
    if count < 4:
        return np.zeros(gradient.shape[1])
    batches = _batches(count)
    length = count // batches
    scaled = over(gradient, _local_scale(gradient))
    # The first steps, which fill no batch, are left out: the last ones tell more.
    means = scaled[count - batches * length :].reshape(batches, length, -1).mean(1)
    noise = np.sqrt(np.mean(np.diff(means, axis=0) ** 2, axis=0) / 2)
    return over(means.mean(0) * math.sqrt(batches), noise)


def pushed_from(count: int, values: int) -> float:
    """Push from which one of so many values is told to be pushed by ``count`` gradients."""
    from scipy.stats import t

    batches = _batches(max(count, 4))
    freedom = 2 * (batches - 1) ** 2 / (3 * batches - 4)
    return float(t.isf(_LEVEL / (2 * max(values, 1)), freedom))


def hold(gradient: _Array, place: _Array) -> _Array:
    """Student's t of the slope of the gradient over the value.

    Parameters
    ----------
    gradient, place : (N, P) array
        Gradients, and the values where they were computed.

    Returns
    -------
    (P,) array
        Above 0 where the gradient grows with the value, so that descent brings it back; 0 of fewer
        than 4 steps.
    """
    count = len(gradient)
    if count < 4:
        return np.zeros(gradient.shape[1])
    x, y = place - place.mean(0), gradient - gradient.mean(0)
    square = np.sum(x**2, axis=0)
    slope = over(np.sum(x * y, axis=0), square)
    residual = y - slope * x
    score = x * residual
    white = np.sum(score**2, axis=0)
    near = over(np.sum(residual[1:] * residual[:-1], axis=0), np.sum(residual**2, axis=0))
    near = np.clip(near, 0, 0.99)
    long = np.maximum(white * (1 + near) / (1 - near), _newey_west(score))
    return over(slope * square, np.sqrt(long))


def held_from(count: int, values: int) -> float:
    """Hold from which one of so many values is told to be held by ``count`` gradients."""
    from scipy.stats import t

    freedom = max(count, 1) / _STEPS_A_FREEDOM
    return _DICKEY_FULLER + float(t.isf(_LEVEL / max(values, 1), freedom))


def over(numerator: _Array, denominator: _Array) -> _Array:
    """Quotient, 0 where the denominator is."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)


def _batches(count: int) -> int:
    return min(count, max(_BATCHES, round(_BATCHES_OF_ROOT * math.sqrt(count))))


def _local_scale(gradient: _Array) -> _Array:
    """Root mean square of the differences in the quarter of the series around each step."""
    count = len(gradient)
    square = np.diff(gradient, axis=0, prepend=gradient[:1]) ** 2
    square[0] = square[1]
    total = np.vstack([np.zeros(gradient.shape[1]), np.cumsum(square, axis=0)])
    half = max(2, count // (2 * _WINDOW))
    first = np.maximum(np.arange(count) - half, 0)
    last = np.minimum(np.arange(count) + half + 1, count)
    mean = (total[last] - total[first]) / (last - first)[:, None]
    scale: _Array = np.sqrt(np.maximum(mean, 0))
    return scale


def _newey_west(score: _Array) -> _Array:
    """Variance of the sum of a series, with weights that fall to 0 over 1.3 sqrt(N) lags."""
    lags = min(len(score) - 1, int(_LAGS_OF_ROOT * math.sqrt(len(score))))
    total = np.sum(score**2, axis=0)
    for lag in range(1, lags + 1):
        weight = 2 * (1 - lag / (lags + 1))
        total = total + weight * np.sum(score[lag:] * score[:-lag], axis=0)
    floor: _Array = np.maximum(total, 0)
    return floor
