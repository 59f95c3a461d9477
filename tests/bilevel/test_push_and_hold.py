"""How often chance, and a drift without an end, are taken for data that determine a value."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from l2s_pydra.bilevel.identifiability import identifiability
from l2s_pydra.bilevel.push_and_hold import held_from, hold, push, pushed_from
from l2s_pydra.bilevel.updates import adam


def noise(count, values, rho=0.0, seed=0):
    """AR(1) noise after its start; white if rho is 0."""
    drawn = np.random.default_rng(seed).standard_normal((count + 100, values))
    return lfilter([1], [1, -rho], drawn, axis=0)[100:]


def walk(gradient_at, count, values, rate=0.03):
    """Gradients, and the places where Adam walks with them."""
    theta, rule = [torch.zeros(values, dtype=torch.float64)], adam()
    state, gradients, places = rule.init(theta), [], []
    for step in range(count):
        places.append(theta[0].numpy().copy())
        gradients.append(gradient_at(step, places[-1]))
        theta, state = rule.update([torch.tensor(gradients[-1])], state, theta, learning_rate=rate)
    return np.array(gradients), np.array(places)


def verdicts(gradient, place, together):
    """Judge the columns in sets of so many values."""
    found = []
    for first in range(0, gradient.shape[1], together):
        columns = slice(first, first + together)
        raw = torch.zeros(gradient[:, columns].shape[1], dtype=torch.float64)
        trace = {
            "gradient": torch.tensor(gradient[:, columns]),
            "theta": torch.tensor(place[:, columns]),
            "steps": torch.ones(2, dtype=torch.int64),
        }
        facts = identifiability(
            trace,
            theta=[raw],
            describe=lambda raw=raw: {f"value {i}": float(x) for i, x in enumerate(raw)},
        )
        found += [value["verdict"] for value in facts["values"]]
    return found


@pytest.mark.parametrize("together", [1, 6])
@pytest.mark.parametrize(
    ("count", "rho"),
    [(30, 0), (60, 0), (100, 0), (200, 0), (400, 0.5), (400, 0.8), (400, 0.9)],
)
def test_noise_without_a_mean_moves_no_value(count, rho, together):
    """1 % of single values are expected, and 0.3 % of those in sets of 6."""
    drawn = noise(count, 300, rho)
    found = verdicts(*walk(lambda step, _: drawn[step], count, 300), together)
    assert len(found) == 300
    assert sum(verdict != "unmoved" for verdict in found) <= (9 if together == 1 else 5)
    assert sum(verdict in ("determined", "partly") for verdict in found) <= 6


@pytest.mark.parametrize(("count", "rho"), [(60, 0), (400, 0), (400, 0.5)])
@pytest.mark.parametrize("drift", [0.2, 1.0, 3.0])
def test_a_constant_drift_determines_nothing(count, rho, drift):
    drawn = noise(count, 120, rho) + drift
    found = verdicts(*walk(lambda step, _: drawn[step], count, 120), 1)
    assert sum(verdict in ("determined", "partly") for verdict in found) <= 3
    if drift == 3:
        assert set(found) == {"pushed"}


def test_a_drift_that_shrinks_is_still_a_push():
    """It grows weaker along the way, as a gradient does that nears its zero."""
    drawn = (noise(400, 60) + 1) * np.exp(-4 * np.arange(400) / 400)[:, None]
    gradient, place = walk(lambda step, _: drawn[step], 400, 60)
    assert np.median(hold(gradient, place)) > held_from(400, 1)
    assert set(verdicts(gradient, place, 1)) == {"pushed"}


def test_values_that_reach_their_optimum_are_determined():
    """Quadratic error with its minimum one unit away, and noise as large as its gradient."""
    drawn = noise(300, 60)
    found = verdicts(*walk(lambda step, x: 2 * (x - 1) + drawn[step], 300, 60), 6)
    assert sum(verdict == "determined" for verdict in found) >= 57


def test_push_of_white_noise_has_unit_variance_and_scale_does_not_matter():
    drawn = noise(400, 2000)
    found = push(drawn)
    # Student's t of 7.6 degrees of freedom has a variance of 1.36; von Neumann's estimate is close.
    assert np.var(found) == pytest.approx(1.36, abs=0.25)
    np.testing.assert_allclose(push(1e-6 * drawn), found)
    np.testing.assert_allclose(push(-drawn), -found)
    shrinking = push((drawn + 1) * np.exp(-4 * np.arange(400) / 400)[:, None])
    assert np.median(shrinking) > 10


def test_statistics_of_nothing_are_zero():
    flat = np.ones((50, 2))
    np.testing.assert_array_equal(push(flat), [0, 0])
    np.testing.assert_array_equal(hold(flat, flat), [0, 0])
    for count in range(4):
        np.testing.assert_array_equal(push(noise(count, 2)), [0, 0])
        np.testing.assert_array_equal(hold(noise(count, 2), noise(count, 2)), [0, 0])


def test_thresholds_rise_with_values_and_fall_with_steps():
    for threshold in (pushed_from, held_from):
        assert threshold(400, 1) < threshold(400, 6) < threshold(400, 60)
        assert threshold(30, 6) >= threshold(400, 6) > threshold(1024, 6)
