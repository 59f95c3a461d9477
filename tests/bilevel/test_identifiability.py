"""What the gradients of theta tell of theta, on series whose truth is known."""

import json
import math

import attrs
import numpy as np
import pytest
import torch
from torch.nn import functional

from l2s_pydra.augmentation.noise_bias import NoiseBias
from l2s_pydra.augmentation.noise_range import NoiseRange
from l2s_pydra.bilevel import identifiability as module
from l2s_pydra.bilevel.hypergradient import OneSidedDifference, plain_step
from l2s_pydra.bilevel.identifiability import gradient_correlation, identifiability, record
from l2s_pydra.bilevel.updates import adam
from l2s_pydra.networks import UNet
from l2s_pydra.normalisation import normalise


def traced(gradient, theta=None):
    """Record rows of gradients, at theta or where Adam would walk with them."""
    places = walk(gradient) if theta is None else theta
    trace = {}
    for g, place in zip(gradient, places, strict=True):
        trace = record(trace, [torch.tensor(g)], [torch.tensor(place)])
    return trace


def walk(gradient, rate=0.03):
    """Places that theta passes."""
    theta = [torch.zeros(gradient.shape[1], dtype=torch.float64)]
    rule, places = adam(), []
    state = rule.init(theta)
    for row in gradient:
        places.append(theta[0].numpy().copy())
        theta, state = rule.update([torch.tensor(row)], state, theta, learning_rate=rate)
    return np.array(places)


def judged(gradient, theta=None, history=()):
    """Judge parameters a, b, c, ... that are twice their unconstrained ones."""
    raw = torch.zeros(gradient.shape[1], dtype=torch.float64)

    def describe():
        return {name: 2 * float(x) for name, x in zip("abcdefghij", raw, strict=False)}

    trace = traced(gradient, theta)
    return identifiability(trace, theta=[raw], describe=describe, history=history)


def verdicts(facts):
    return {value["name"]: value["verdict"] for value in facts["values"]}


def residuals(count, size, seed=0):
    return np.random.default_rng(seed).standard_normal((count, size))


def test_collinear_columns_of_a_jacobian_are_one_direction():
    """g = J^T r: where a column is a multiple of another, only their combination is determined."""
    jacobian = np.random.default_rng(1).standard_normal((40, 4))
    jacobian[:, 3] = -2.5 * jacobian[:, 1]
    gradient = (0.4 * jacobian[:, 0] + residuals(400, 40)) @ jacobian
    facts = judged(gradient)
    assert facts["groups"] == [["b", "d"]]
    matrix = np.array(facts["correlation"]["matrix"])
    assert matrix[1, 3] == pytest.approx(-1, abs=1e-9)
    columns = jacobian / np.linalg.norm(jacobian, axis=0)
    # Four standard errors.
    np.testing.assert_allclose(matrix, columns.T @ columns, atol=4 * math.sqrt(1.5 / 200))
    spectrum = facts["spectrum"]
    assert (spectrum["directions"], spectrum["determined"]) == (4, 3)
    assert spectrum["condition"] > 1e9
    (flat,) = spectrum["flat"]
    members = {member["name"]: member["weight"] for member in flat["members"]}
    assert members.keys() == {"b", "d"}
    # d = -2.5 b in raw units, alike when standardised: what is not seen is b and d together.
    assert members["b"] == pytest.approx(members["d"], abs=1e-6)
    assert flat["share"] == pytest.approx(0, abs=1e-9)
    b = facts["values"][1]
    assert [partner["name"] for partner in b["partners"]] == ["d"]
    assert b["partners"][0]["correlation"] == pytest.approx(-1)


@pytest.mark.parametrize("scale", ["constant", "shrinking", "heavy"])
def test_independent_parameters_are_not_flagged(scale):
    """Over 40 series of 6 parameters none is told to trade off, and few to be moved."""
    flagged = moved = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gradient = rng.standard_normal((150, 6))
        if scale == "shrinking":
            gradient *= np.exp(-4 * np.arange(150) / 150)[:, None]
        if scale == "heavy":
            gradient *= np.exp(rng.standard_normal((150, 1)))
        facts = judged(gradient)
        flagged += len(facts["groups"])
        moved += sum(value["verdict"] != "unmoved" for value in facts["values"])
    # 1 in 100 matrices at most, and 1 in 100 parameters.
    assert flagged <= 1
    assert moved <= 3


def test_gradients_that_shrink_together_do_not_trade_off():
    rng = np.random.default_rng(0)
    trend = np.exp(-np.arange(600) / 100)[:, None] * [5.0, -4.0, 3.0]
    gradient = trend + 0.2 * rng.standard_normal((600, 3))
    assert abs(np.corrcoef(gradient.T)[0, 1]) > 0.9
    facts = judged(gradient)
    assert facts["groups"] == []
    assert set(verdicts(facts).values()) == {"determined"}


def test_a_single_large_step_does_not_decide():
    gradient = residuals(200, 3)
    gradient[150] = 1e4
    matrix, effective = gradient_correlation(gradient)
    assert abs(matrix[np.triu_indices(3, 1)]).max() < 0.4
    assert effective > 50


def test_the_effective_number_of_steps_is_that_of_equal_lengths():
    signs = np.where(residuals(101, 2) > 0, 0.5, -0.5).cumsum(axis=0)
    _, effective = gradient_correlation(signs)
    assert effective == pytest.approx(100)


def test_a_value_is_held_where_the_gradient_brings_it_back():
    """At the optimum from the start, the mean gradient is zero; a push alone would not tell."""
    rng = np.random.default_rng(3)
    place, places, gradient = np.zeros(2), [], []
    for _ in range(800):
        g = np.array([2.0, 0.0]) * place + rng.standard_normal(2)
        places.append(place)
        gradient.append(g)
        place = place - 0.05 * g
    held, free = judged(np.array(gradient), np.array(places))["values"]
    assert abs(held["push"]) < module.PUSHED < held["hold"]
    assert held["verdict"] == "determined"
    assert free["verdict"] == "unmoved"


def test_a_parameter_without_a_gradient_is_unmoved():
    gradient = residuals(100, 3) + np.array([1.0, 0, 1.0])
    gradient[:, 1] = 0
    facts = judged(gradient)
    assert verdicts(facts) == {"a": "pushed", "b": "unmoved", "c": "pushed"}
    assert facts["correlation"]["matrix"][1] == [0, 1, 0]


@pytest.mark.parametrize(("count", "known"), [(0, False), (1, False), (10, False), (60, True)])
def test_few_steps_tell_nothing(count, known):
    facts = judged(residuals(count, 2) + 3)
    assert (set(verdicts(facts).values()) == {"unknown"}) != known
    assert facts["steps"] == count
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_wander_and_trend_come_from_the_last_half_of_the_log():
    rng = np.random.default_rng(0)
    rows = [
        {"step": float(i), "theta/a": 9.0 if i < 50 else rng.normal(1, 0.1), "theta/b": i / 10}
        for i in range(101)
    ]
    a, b = judged(residuals(60, 2), history=rows)["values"]
    assert a["wander"] == pytest.approx(0.1, abs=4 * 0.1 / math.sqrt(100))
    assert (a["moving"], b["moving"]) == (False, True)
    assert judged(residuals(60, 2), history=rows[:2])["values"][0]["wander"] is None


def test_values_in_other_units_have_the_same_verdicts():
    """The highest and the lowest noise: the second is a share of the first."""
    augmentation = NoiseRange(0.05, 0.2)
    theta = list(augmentation.parameters())
    before = [t.clone() for t in theta]
    high = augmentation.max_raw.detach().requires_grad_()
    low = augmentation.min_raw.detach().requires_grad_()
    maximum = torch.sigmoid(high)
    minimum = maximum * torch.sigmoid(low)
    # Gradients with respect to the noise levels, independent of one another.
    wanted = residuals(300, 2) + np.array([0.0, 1.0])
    rows = []
    for row in wanted:
        loss = row[0] * minimum + row[1] * maximum
        found = torch.autograd.grad(loss, [high, low], retain_graph=True)
        rows.append([float(g) for g in found])
    facts = identifiability(traced(np.array(rows)), theta=theta, describe=augmentation.describe)
    assert facts["correlation"]["names"] == ["sigma_min", "sigma_max"]
    assert facts["groups"] == []
    assert verdicts(facts) == {"sigma_min": "unmoved", "sigma_max": "pushed"}
    assert all(torch.equal(a, b) for a, b in zip(theta, before, strict=True))


def test_the_trace_is_bounded_and_keeps_the_sum(monkeypatch):
    monkeypatch.setattr(module, "_MOST_BLOCKS", 8)
    gradient, theta = residuals(45, 3), residuals(45, 3, seed=1)
    trace = traced(gradient, theta)
    # 8, merged to 4 of 2, filled to 8, merged to 4 of 4, filled to 8, merged to 4 of 8: 32, and 13 more.
    assert trace["steps"].tolist() == [8, 5]
    assert len(trace["gradient"]) == len(trace["theta"]) == 6
    whole = trace["gradient"][:5].numpy()
    np.testing.assert_allclose(whole, gradient[:40].reshape(5, 8, 3).mean(1))
    np.testing.assert_allclose(trace["gradient"][5], gradient[40:].mean(0))
    np.testing.assert_array_equal(trace["theta"], theta[::8])
    assert judged(gradient, theta)["steps"] == 45


def test_networks_keep_no_trace():
    many = [torch.zeros(20, 10), torch.zeros(1)]
    assert record({}, many, many) == {}
    assert record({}, [], []) == {}
    facts = identifiability({}, theta=many, describe=lambda: {"residual_std": 0.1})
    assert verdicts(facts) == {"residual_std": "unknown"}
    assert facts["groups"] == []


# ---------------------------------------------------------------- a problem with a segmenter

SIDE = 32
MEANS = torch.tensor([0.1, 0.85, 0.6, 0.35])


@attrs.frozen
class Batch:
    image: torch.Tensor
    seeds: tuple[int, ...]

    def noise(self):
        drawn = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        return torch.stack([torch.randn(1, SIDE, SIDE, generator=g) for g in drawn])

    def normalise(self, image):
        return normalise(image)


def blocks(count, generator):
    """Label maps of random blocks, and their noiseless images."""
    labels = torch.randint(4, (count, SIDE // 4, SIDE // 4), generator=generator)
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    jitter = 0.16 * torch.rand(count, 4, generator=generator) - 0.08
    means = (MEANS + jitter).gather(1, labels.flatten(1))
    return labels, means.view(count, 1, SIDE, SIDE)


def learn_noise_and_bias(seed, warmup=100, moves=60, size=4):
    """Learn from images with noise and, of the three bias fields, the coarsest alone."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    real_labels, real = blocks(64, generator)
    with torch.no_grad():
        real = NoiseBias(0.1, (0.9, 0.05, 0.05))(Batch(real, tuple(range(10**6, 10**6 + 64))))
    segmenter = UNet(2, 1, 4, width=4, depth=2)
    augmentation = NoiseBias(0.2, (0.5, 0.5, 0.5))
    theta = list(augmentation.parameters())
    rule, theta_rule, trace = adam(), adam(betas=(0.9, 0.99)), {}
    state, theta_state = rule.init(list(segmenter.parameters())), theta_rule.init(theta)
    for step in range(warmup + moves):
        labels, image = blocks(size if step >= warmup else 16, generator)
        batch = Batch(image, tuple(range(100 * step, 100 * step + len(image))))

        def loss(predict, x, part=slice(None), labels=labels):
            return functional.cross_entropy(predict(x), labels[part])

        if step < warmup:
            with torch.no_grad():
                x = augmentation(batch)
            state = plain_step(
                segmenter, rule, state, learning_rate=4e-3,
                loss=lambda predict, x=x, f=loss: f(predict, x),
            ).state  # fmt: skip
            continue
        some = torch.randint(len(real), (size,), generator=generator)
        result = OneSidedDifference()(
            segmenter, rule, state, learning_rate=2e-3, theta=theta,
            augment=lambda batch=batch: augmentation(batch),
            synthetic_loss=loss,
            real_loss=lambda predict, i=some: functional.cross_entropy(
                predict(real[i]), real_labels[i]
            ),
        )  # fmt: skip
        state = result.state
        trace = record(trace, result.theta_gradient, theta)
        new, theta_state = theta_rule.update(
            result.theta_gradient, theta_state, theta, learning_rate=0.03
        )
        with torch.no_grad():
            for parameter, value in zip(theta, new, strict=True):
                parameter.copy_(value)
    return identifiability(trace, theta=theta, describe=augmentation.describe)


def test_exponents_of_bias_fields_trade_off():
    """Noise may join them: a stronger field widens the range of an image, which dims its noise."""
    facts = learn_noise_and_bias(seed=3)
    names = {"exponent_2", "exponent_4", "exponent_8"}
    assert len(facts["groups"]) == 1
    assert names <= set(facts["groups"][0])
    _, *exponents, strength = facts["values"]
    for exponent in exponents:
        others = names - {exponent["name"]}
        partners = [p for p in exponent["partners"] if p["name"] in others]
        assert partners
        assert all(partner["correlation"] > 0.5 for partner in partners)
    assert set(strength["of"]) == names
    assert facts["spectrum"]["eigenvalues"][0] > 2
