import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from l2s_pydra.bilevel.hypergradient import Exact, OneSidedDifference
from l2s_pydra.bilevel.self_check import choose_estimator, compare
from l2s_pydra.bilevel.updates import adam

RULE = adam()


def _attempt(estimator, segmenter, state, precise):
    generator = torch.Generator().manual_seed(0)
    x, noise, real = torch.randn(3, 2, 1, 12, 12, generator=generator)
    y, y_real = torch.randint(3, (2, 2, 12, 12), generator=generator)
    sigma = torch.tensor(0.3, requires_grad=True)

    def loss(predict, image, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            logits = predict(image)
        return functional.cross_entropy(logits.float(), labels)

    return estimator(
        segmenter, RULE, state, theta=[sigma], learning_rate=1e-3,
        augment=lambda: x + sigma * noise,
        synthetic_loss=lambda predict, image, part: loss(predict, image, y[part]),
        real_loss=lambda predict: loss(predict, real, y_real),
    )  # fmt: skip


def _attempt_in_fp32(estimator, segmenter, state, precise):
    return _attempt(estimator, segmenter, state, True)


def _network(activation, norm):
    torch.manual_seed(0)
    layers = []
    for channels in (1, 8):
        layers += [nn.Conv2d(channels, 8, 3, padding=1), norm(), activation()]
    return nn.Sequential(*layers, nn.Conv2d(8, 3, 1))


def test_smooth_network_gets_the_difference_and_stays_as_it_was(caplog):
    segmenter = _network(nn.ELU, nn.Identity)
    state = RULE.init(list(segmenter.parameters()))
    before = copy.deepcopy((segmenter.state_dict(), state))
    with caplog.at_level(logging.INFO):
        estimator, agreement = choose_estimator(_attempt_in_fp32, segmenter, state)
    assert isinstance(estimator, OneSidedDifference)
    assert agreement.cosine > 0.999
    assert agreement.error < 0.02
    assert "OneSidedDifference" in caplog.text
    for key, value in segmenter.state_dict().items():
        assert torch.equal(value, before[0][key])
    assert state["step"] == 0
    assert all(torch.equal(m, torch.zeros_like(m)) for m in state["m"])


def test_too_large_an_error_gets_the_exact_one():
    segmenter = _network(nn.ReLU, lambda: nn.InstanceNorm2d(8))
    state = RULE.init(list(segmenter.parameters()))
    estimator, agreement = choose_estimator(
        _attempt, segmenter, state, epsilons=(1.0,), largest_error=0.01
    )
    assert estimator == Exact()
    assert agreement.error > 0.01


def test_chosen_epsilon_is_the_best_of_those_tried():
    segmenter = _network(nn.ELU, nn.Identity)
    state = RULE.init(list(segmenter.parameters()))
    errors = {
        epsilon: choose_estimator(_attempt_in_fp32, segmenter, state, epsilons=(epsilon,))[1].error
        for epsilon in (1e-4, 1e-2, 3.0)
    }
    estimator, agreement = choose_estimator(
        _attempt_in_fp32, segmenter, state, epsilons=tuple(errors), largest_error=1e9
    )
    assert agreement.error == min(errors.values())
    assert estimator == OneSidedDifference(min(errors, key=errors.get))


def test_compare_of_opposite_and_of_zero():
    one, zero = [torch.ones(2), torch.ones(())], [torch.zeros(2), torch.zeros(())]
    opposite = compare([-t for t in one], one)
    assert opposite.cosine == pytest.approx(-1)
    assert opposite.error == pytest.approx(2)
    assert compare(zero, one).cosine == 0
    assert compare(zero, zero).error == 0
