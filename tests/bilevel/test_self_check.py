import copy
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from l2s_pydra.bilevel import self_check
from l2s_pydra.bilevel.hypergradient import CentralDifference, Exact, OneSidedDifference
from l2s_pydra.bilevel.self_check import (
    Agreement,
    candidates,
    choose_estimator,
    compare,
    describe,
    estimator_from,
)
from l2s_pydra.bilevel.updates import adam

RULE = adam()


def _attempt(seed, *, half=False, side=12):
    generator = torch.Generator().manual_seed(seed)
    x, noise, real = torch.randn(3, 2, 1, side, side, generator=generator)
    y, y_real = torch.randint(3, (2, 2, side, side), generator=generator)
    sigma = torch.tensor(0.3, requires_grad=True)

    def loss(predict, image, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = predict(image)
        return functional.cross_entropy(logits.float(), labels)

    def attempt(estimator, segmenter, state):
        return estimator(
            segmenter, RULE, state, theta=[sigma], learning_rate=1e-3,
            augment=lambda: x + sigma * noise,
            synthetic_loss=lambda predict, image, part: loss(predict, image, y[part]),
            real_loss=lambda predict: loss(predict, real, y_real),
        )  # fmt: skip

    return attempt


def _network(activation, norm):
    torch.manual_seed(0)
    layers = []
    for channels in (1, 8):
        layers += [nn.Conv2d(channels, 8, 3, padding=1), norm(), activation()]
    return nn.Sequential(*layers, nn.Conv2d(8, 3, 1))


def _choose(segmenter, groups=None, *, attempts=(0, 1), half=False, **options):
    state = RULE.init(list(segmenter.parameters()))
    return choose_estimator(
        [_attempt(seed, half=half) for seed in attempts],
        segmenter,
        state,
        groups or candidates(mixed_precision=half),
        **options,
    )


def test_smooth_network_gets_the_cheap_difference_and_stays_as_it_was(caplog):
    segmenter = _network(nn.ELU, nn.Identity)
    state = RULE.init(list(segmenter.parameters()))
    before = copy.deepcopy((segmenter.state_dict(), state))
    with caplog.at_level(logging.INFO):
        choice = choose_estimator(
            [_attempt(0)], segmenter, state, candidates(mixed_precision=False)
        )
    assert isinstance(choice.estimator, OneSidedDifference)
    assert choice.agreement.cosine > 0.999
    assert choice.agreement.error < 0.02
    # Nothing dearer was tried.
    assert {type(e) for e, _ in choice.tried} == {OneSidedDifference}
    assert "OneSidedDifference" in caplog.text
    for key, value in segmenter.state_dict().items():
        assert torch.equal(value, before[0][key])
    assert state["step"] == 0
    assert all(torch.equal(m, torch.zeros_like(m)) for m in state["m"])


def test_kinks_get_the_exact_one():
    choice = _choose(_network(nn.ReLU, lambda: nn.InstanceNorm2d(8)), largest_error=0.01)
    assert choice.estimator == Exact()
    assert choice.agreement.error < 1e-5
    assert "had an error of" in choice.reason
    assert all(a.error > 0.01 for e, a in choice.tried if not isinstance(e, Exact))


def test_half_precision_with_norm_ends_in_full_precision():
    choice = _choose(_network(nn.GELU, lambda: nn.GroupNorm(4, 8)), half=True, largest_error=0.03)
    assert choice.estimator.full_precision
    assert choice.agreement.error <= 0.03


def test_of_a_group_the_best_epsilon_is_taken():
    groups = [[OneSidedDifference(e) for e in (1e-7, 1e-3, 3.0)]]
    choice = _choose(_network(nn.ELU, nn.Identity), groups, largest_error=1e9)
    errors = {estimator: agreement.error for estimator, agreement in choice.tried}
    assert choice.estimator == min(errors, key=errors.get) == OneSidedDifference(1e-3)


def test_a_lucky_displacement_is_not_trusted(monkeypatch):
    """Right at one epsilon and far off at the next ones: kinks that were not crossed."""
    errors = {1e-3: 0.001, 3e-3: 20.0, 1e-2: 10.0}

    def compared(found, exact):
        error = errors.pop(next(iter(errors))) if errors else 0.0
        return Agreement(cosine=0.0, error=error)

    monkeypatch.setattr(self_check, "compare", compared)
    groups = [[OneSidedDifference(e) for e in errors], [Exact()]]
    assert _choose(_network(nn.ELU, nn.Identity), groups).estimator == Exact()


def test_the_last_group_is_taken_with_a_warning(caplog):
    groups = [[OneSidedDifference(3.0)]]
    choice = _choose(_network(nn.ELU, nn.Identity), groups, largest_error=1e-9)
    assert choice.estimator == OneSidedDifference(3.0)
    assert "nothing else was allowed" in choice.reason
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_several_draws_are_judged_together():
    segmenter, groups = _network(nn.ELU, nn.Identity), [[OneSidedDifference(0.1)]]
    errors = [
        _choose(segmenter, groups, attempts=attempts).agreement.error
        for attempts in ((0,), (1,), (0, 1))
    ]
    assert min(errors[:2]) < errors[2] < max(errors[:2])


@pytest.mark.parametrize(
    "estimator",
    [
        Exact(recompute=True),
        CentralDifference(0.03, full_precision=True),
        OneSidedDifference(0.1),
    ],
)
def test_estimators_as_plain_values_and_back(estimator):
    assert estimator_from({**describe(estimator), "step": 3}) == estimator


def test_a_choice_as_plain_values():
    choice = _choose(_network(nn.ELU, nn.Identity))
    values = choice.to_dict()
    assert estimator_from(values) == choice.estimator
    assert values["error"] == choice.agreement.error
    assert values["reason"] == choice.reason
    assert [row["epsilon"] for row in values["tried"]] == [e.epsilon for e, _ in choice.tried]


def test_compare_of_opposite_and_of_zero():
    one, zero = [torch.ones(2), torch.ones(())], [torch.zeros(2), torch.zeros(())]
    opposite = compare([-t for t in one], one)
    assert opposite.cosine == pytest.approx(-1)
    assert opposite.error == pytest.approx(2)
    assert compare(zero, one).cosine == 0
    assert compare(zero, zero).error == 0
