"""Mixtures against an optimiser, closed forms and what they were drawn from."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from l2s_pydra.errors import ConfigError, ShapeError
from l2s_pydra.synthesis.subclusters import Mixture, fit_gaussians, split_by_intensity


def drawn(weights, means, stds, count, seed=0):
    rng = np.random.default_rng(seed)
    component = rng.choice(len(weights), count, p=weights)
    return torch.tensor(rng.normal(np.array(means)[component], np.array(stds)[component]))


def mean_log_likelihood(values, weights, means, stds):
    return np.log(stats.norm.pdf(values[:, None], means, stds) @ weights).mean()


def test_one_component_has_the_moments_of_the_values():
    values = drawn([1], [3.0], [0.4], 1000)
    mixture = fit_gaussians(values, 1)
    assert float(mixture.means[0]) == pytest.approx(float(values.mean()))
    assert float(mixture.stds[0]) == pytest.approx(float(values.std(correction=0)))
    assert mixture.weights.tolist() == [1]


@pytest.mark.parametrize(
    ("weights", "means", "stds"),
    [
        ([0.3, 0.7], [0.2, 0.6], [0.05, 0.1]),
        ([0.2, 0.5, 0.3], [10.0, 60.0, 100.0], [3.0, 8.0, 5.0]),
        ([0.2, 0.25, 0.25, 0.3], [-4.0, -1.0, 2.0, 5.0], [0.3, 0.4, 0.3, 0.4]),
    ],
)
def test_mixtures_come_back(weights, means, stds):
    mixture = fit_gaussians(drawn(weights, means, stds, 20_000), len(weights))
    # Standard errors are about std / sqrt(2000) for the smallest component.
    np.testing.assert_allclose(mixture.weights, weights, atol=0.015)
    assert (np.abs(mixture.means.numpy() - means) < 0.1 * np.array(stds)).all()
    np.testing.assert_allclose(mixture.stds, stds, rtol=0.08)


def test_overlapping_mixtures_are_as_likely_as_an_optimiser_makes_them():
    values = drawn([0.6, 0.4], [0.0, 2.0], [1.0, 0.7], 3000)
    mixture = fit_gaussians(values, 2, iterations=2000, tolerance=1e-9)
    x = values.numpy()

    def loss(p):
        share = 1 / (1 + math.exp(-p[0]))
        return -mean_log_likelihood(
            x, np.array([1 - share, share]), np.array([p[1], p[2]]), np.exp(p[3:])
        )

    best = optimize.minimize(loss, [0, 0.1, 1.8, 0.0, -0.3], method="BFGS")
    found = mean_log_likelihood(x, *(p.numpy() for p in _parts(mixture)))
    assert found == pytest.approx(-best.fun, abs=1e-6)
    np.testing.assert_allclose(mixture.means, best.x[1:3], atol=0.02)


def _parts(mixture):
    return mixture.weights, mixture.means, mixture.stds


def test_iterations_never_make_it_less_likely():
    values = drawn([0.5, 0.3, 0.2], [0.0, 1.5, 4.0], [1.0, 1.0, 0.5], 2000)
    likelihoods = [
        mean_log_likelihood(
            values.numpy(),
            *(p.numpy() for p in _parts(fit_gaussians(values, 3, iterations=i, tolerance=0))),
        )
        for i in range(1, 40, 3)
    ]
    assert (np.diff(likelihoods) > -1e-12).all()
    assert likelihoods[-1] - likelihoods[0] > 0.01


def test_follows_units():
    values = drawn([0.3, 0.7], [0.2, 0.6], [0.05, 0.1], 5000)
    plain, other = fit_gaussians(values, 2), fit_gaussians(1000 * values - 300, 2)
    torch.testing.assert_close(other.means, 1000 * plain.means - 300)
    torch.testing.assert_close(other.stds, 1000 * plain.stds)
    torch.testing.assert_close(other.weights, plain.weights)
    turned = fit_gaussians(-values, 2)
    torch.testing.assert_close(turned.means, -plain.means.flip(0))


@pytest.mark.parametrize("value", [0.0, 0.7, -1e6])
@pytest.mark.parametrize("count", [1, 3])
def test_constant_values(value, count):
    mixture = fit_gaussians(torch.full((50,), value), count)
    torch.testing.assert_close(mixture.means, torch.full((count,), value).double())
    assert (mixture.stds > 0).all()
    assert torch.isfinite(mixture.weights).all()
    assert float(mixture.weights.sum()) == pytest.approx(1)
    assert len(mixture.assign(torch.full((4,), value)).unique()) == 1


def test_spikes_get_the_least_width():
    values = torch.cat([torch.zeros(3000), torch.linspace(1, 2, 1000)]).double()
    mixture = fit_gaussians(values, 2, iterations=200)
    assert float(mixture.means[0]) == pytest.approx(0, abs=1e-6)
    assert float(mixture.stds[0]) == pytest.approx(0.01 * float(values.std(correction=0)))
    assert float(mixture.weights[0]) == pytest.approx(0.75)
    # Even though three parts of the sorted values out of four are the same.
    four = fit_gaussians(values, 4, iterations=200)
    assert torch.isfinite(four.means).all()


def test_fewer_values_than_components():
    mixture = fit_gaussians(torch.tensor([1.0, 2.0]), 4)
    assert mixture.means.shape == (4,)
    assert (mixture.means.diff() >= 0).all()
    assert mixture.assign(torch.tensor([1.0])) < mixture.assign(torch.tensor([2.0]))


def test_many_values_are_spread_evenly():
    """Every 16th value of a million: the same as if these were all."""
    values = drawn([0.4, 0.6], [0.0, 3.0], [1.0, 0.5], 2**20)
    all_of_them, some = fit_gaussians(values, 2), fit_gaussians(values[::16].clone(), 2)
    for one, other in zip(_parts(all_of_them), _parts(some), strict=True):
        assert torch.equal(one, other)


def test_values_are_unchanged_and_need_no_order():
    values = drawn([0.4, 0.6], [0.0, 3.0], [1.0, 0.5], 1000)
    before = values.clone()
    first = fit_gaussians(values, 2)
    assert torch.equal(values, before)
    again = fit_gaussians(values.flip(0), 2)
    torch.testing.assert_close(first.means, again.means)


def test_assignment_is_by_posterior():
    mixture = Mixture(
        weights=torch.tensor([0.9, 0.1], dtype=torch.float64),
        means=torch.tensor([0.0, 1.0], dtype=torch.float64),
        stds=torch.tensor([0.2, 0.2], dtype=torch.float64),
    )
    # Equal posteriors at 1/2 + s^2 log 9.
    edge = 0.5 + 0.04 * math.log(9)
    values = torch.tensor([-5.0, edge - 0.001, edge + 0.001, 9.0], dtype=torch.float64)
    assert mixture.assign(values).tolist() == [0, 0, 1, 1]
    density = mixture.log_densities(values).exp()
    expected = [w * stats.norm.pdf(values, m, 0.2) for w, m in [(0.9, 0.0), (0.1, 1.0)]]
    np.testing.assert_allclose(density, expected, rtol=1e-9)


@pytest.mark.parametrize("shape", [(40, 50), (12, 20, 15)])
def test_labels_are_split_where_their_tissues_are(shape):
    rng = np.random.default_rng(0)
    tissue = torch.tensor(rng.integers(0, 5, shape))
    # Label 0: one tissue; 7: three tissues, of which label 1002 looks like the first.
    labels = torch.tensor([0, 7, 7, 7, 1002])[tissue].to(torch.int32)
    means = torch.tensor([0.0, 0.9, 0.3, 0.6, 0.9])
    image = means[tissue] + 0.02 * torch.tensor(rng.standard_normal(shape)).float()
    clusters, origin = split_by_intensity(labels, image, {7: 3, 55: 2})
    assert origin == ((0, 0), (7, 0), (7, 1), (7, 2), (1002, 0))
    assert clusters.dtype == torch.int16
    # Sub-clusters are in the order of their means: 0.3, 0.6, 0.9.
    assert torch.equal(clusters.long(), torch.tensor([0, 3, 1, 2, 4])[tissue])
    back = torch.tensor([label for label, _ in origin])[clusters.long()]
    assert torch.equal(back, labels.long())


def test_labels_that_are_not_listed_stay_whole():
    labels = torch.tensor([[-3, 5], [5, 200]])
    clusters, origin = split_by_intensity(labels, torch.rand(2, 2), {})
    assert origin == ((-3, 0), (5, 0), (200, 0))
    assert clusters.tolist() == [[0, 1], [1, 2]]


def test_very_many_labels_need_larger_numbers():
    labels = torch.arange(2**15).view(2**7, 2**8)
    clusters, origin = split_by_intensity(labels, torch.zeros(labels.shape), {})
    assert clusters.dtype == torch.int32
    assert torch.equal(clusters, labels.int())
    assert len(origin) == 2**15


def test_bad_arguments_are_refused():
    values = torch.rand(10)
    with pytest.raises(ShapeError, match="must be a list"):
        fit_gaussians(values.view(2, 5), 2)
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        fit_gaussians(values, 0)
    for bad in (values[:0], torch.tensor([0.0, math.nan]), torch.tensor([0.0, math.inf])):
        with pytest.raises(ConfigError, match="needs values, all of them finite"):
            fit_gaussians(bad, 2)
    labels = torch.ones(3, 3, dtype=torch.uint8)
    with pytest.raises(ShapeError, match=r"\(3, 3\) and image \(3, 4\) differ"):
        split_by_intensity(labels, torch.zeros(3, 4), {})
    with pytest.raises(ConfigError, match="label 1 needs at least 1 sub-cluster, not 0"):
        split_by_intensity(labels, torch.zeros(3, 3), {1: 0})
