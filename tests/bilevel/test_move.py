"""The step of phi, there and back, against the update rule on whole tensors."""

import copy

import pytest
import torch
from torch import nn

from l2s_pydra.bilevel import pieces
from l2s_pydra.bilevel.move import Move
from l2s_pydra.bilevel.updates import adam, adamw, sgd

RULES = {
    "sgd": sgd(),
    "sgd_nesterov": sgd(momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam_l2": adam(weight_decay=0.1),
    "adamw": adamw(weight_decay=0.1),
}
LR = 0.01


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "_ENTRIES", 4)


def random(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2,), (7, 3), (4, 2, 3, 3))
    found = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    found[2] = found[2].to(memory_format=torch.channels_last)
    return found


def moved(rule, **options):
    """A step after two others, what it started from, and what the rule says on whole tensors."""
    params = [nn.Parameter(t) for t in random(0)]
    state = rule.init(params)
    for seed in (1, 2):
        _, state = rule.update(random(seed), state, params, learning_rate=LR)
    expected = rule.update(random(3), copy.deepcopy(state), params, learning_rate=LR)
    move = Move(rule, params, state, LR)
    before = [p.detach().clone() for p in params]
    move.take(random(3), **options)
    return move, before, expected


def close(found, expected):
    """Whether tensors agree: the same formula in float64, but for the order of vector instructions."""
    pairs = zip(found, expected, strict=True)
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in pairs)


def test_takes_the_step_of_the_rule(rule):
    move, _, (new, state) = moved(rule)
    assert close(move.params, new)
    assert move.state.keys() == state.keys()
    assert move.state["step"] == state["step"]
    for name in ("m", "v"):
        if name in state:
            assert close(move.state[name], state[name])


def test_waits_with_the_new_parameters_if_asked_to(rule):
    move, before, (new, _) = moved(rule, in_place=False)
    assert close(move.params, before)
    move.to_new()
    assert close(move.params, new)


@pytest.mark.parametrize("in_place", [True, False])
def test_pulls_back_as_the_rule_does(rule, in_place):
    move, before, (_, state) = moved(rule, in_place=in_place)
    u = random(4)
    move.pull_back(u, random(3))
    # An L2 penalty is read off parameters that were had back from the new ones.
    assert close(u, rule.derivative(random(4), random(3), before, state, learning_rate=LR))


def test_goes_back_and_returns_to_exactly_where_it_was(rule):
    move, before, _ = moved(rule)
    new = [p.detach().clone() for p in move.params]
    assert close(move.old(random(3)), before)
    grads, u = random(3), random(4)
    with move.displaced(u, grads, torch.tensor(0.5, dtype=torch.float64)):
        assert close(move.params, [p + 0.5 * d for p, d in zip(before, random(4), strict=True)])
        assert not any(p.requires_grad for p in move.params)
        assert grads == []
    assert all(torch.equal(a, b) for a, b in zip(move.params, new, strict=True))
    assert all(p.requires_grad for p in move.params)
    with move.at_old(random(3)):
        assert close(move.params, before)
    assert all(torch.equal(a, b) for a, b in zip(move.params, new, strict=True))


def test_returns_after_an_error(rule):
    move, _, _ = moved(rule)
    new = [p.detach().clone() for p in move.params]
    with pytest.raises(KeyError), move.displaced(random(4), random(3), torch.tensor(1.0)):
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(move.params, new, strict=True))
    assert all(p.requires_grad for p in move.params)
