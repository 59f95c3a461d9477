"""Update rules against torch.optim, and their derivatives against finite differences."""

import pytest
import torch

from l2s_pydra.bilevel.updates import adam, adamw, sgd

RULES = {
    "sgd": (sgd(), lambda p, lr: torch.optim.SGD(p, lr=lr)),
    "sgd_momentum_decay": (
        sgd(momentum=0.9, weight_decay=0.03),
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.03),
    ),
    "sgd_nesterov": (
        sgd(momentum=0.8, nesterov=True, weight_decay=0.02),
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, nesterov=True, weight_decay=0.02),
    ),
    "sgd_nesterov_plain": (
        sgd(momentum=0.9, nesterov=True),
        lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    ),
    "adam": (adam(), lambda p, lr: torch.optim.Adam(p, lr=lr)),
    "adam_decay": (
        adam(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05),
        lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.05),
    ),
    "adamw": (adamw(), lambda p, lr: torch.optim.AdamW(p, lr=lr)),
    "adamw_strong": (
        adamw(betas=(0.5, 0.9), weight_decay=0.3),
        lambda p, lr: torch.optim.AdamW(p, lr=lr, betas=(0.5, 0.9), weight_decay=0.3),
    ),
}
LR = 0.02
SHAPES = ((3, 4), (5,), (2, 1, 3))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(4)


def _random(generator, dtype=torch.float64):
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def _after(rule, generator, steps=3):
    """Parameters and state after a few steps, and the next gradient."""
    params = _random(generator)
    state = rule.init(params)
    for _ in range(steps):
        params, state = rule.update(_random(generator), state, params, learning_rate=LR)
    return params, state, _random(generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_update_equals_torch_step_for_step(name, dtype, generator):
    rule, reference = RULES[name]
    params = _random(generator, dtype)
    theirs = [torch.nn.Parameter(param.clone()) for param in params]
    optimizer = reference(theirs, LR)
    state = rule.init(params)
    # A few roundings in a step; none is amplified.
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    for step in range(12):
        lr = LR / (1 + step)
        optimizer.param_groups[0]["lr"] = lr
        grads = _random(generator, dtype)
        for param, grad in zip(theirs, grads, strict=True):
            param.grad = grad.clone()
        optimizer.step()
        params, state = rule.update(grads, state, params, learning_rate=lr)
        for mine, other in zip(params, theirs, strict=True):
            torch.testing.assert_close(mine, other.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", RULES)
def test_update_is_pure_and_without_graph(name, generator):
    rule, _ = RULES[name]
    params, state, grads = _after(rule, generator)
    params = [param.requires_grad_() for param in params]
    grads = [grad.requires_grad_() for grad in grads]
    before = {key: [t.clone() for t in value] for key, value in state.items() if key != "step"}
    copies = [param.clone() for param in params], [grad.clone() for grad in grads]
    new, new_state = rule.update(grads, state, params, learning_rate=LR)
    rule.derivative(new, grads, params, new_state, learning_rate=LR)
    assert all(torch.equal(a, b) for a, b in zip(params, copies[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(grads, copies[1], strict=True))
    for key, value in before.items():
        assert all(torch.equal(a, b) for a, b in zip(state[key], value, strict=True))
    assert new_state["step"] == state["step"] + 1
    assert not any(tensor.requires_grad for tensor in new)


@pytest.mark.parametrize("name", RULES)
def test_donated_state_gives_the_same_step(name, generator):
    rule, _ = RULES[name]
    params, state, grads = _after(rule, generator)
    new, kept = rule.update(grads, state, params, learning_rate=LR)
    again, donated = rule.update(grads, state, params, learning_rate=LR, donate=True)
    assert all(torch.equal(a, b) for a, b in zip(new, again, strict=True))
    for key in set(kept) - {"step"}:
        assert all(torch.equal(a, b) for a, b in zip(kept[key], donated[key], strict=True))
        assert all(a is b for a, b in zip(state[key], donated[key], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_revert_undoes_each_of_several_steps(name, dtype, generator):
    rule, _ = RULES[name]
    params = _random(generator, dtype)
    state = rule.init(params)
    for step in range(8):
        lr = LR / (1 + step)
        grads = _random(generator, dtype)
        new, state = rule.update(grads, state, params, learning_rate=lr)
        given = [[t.clone() for t in ts] for ts in (new, grads, state.get("m", []))]
        back = rule.revert(new, grads, state, learning_rate=lr)
        # A few roundings of numbers as large as the parameters.
        tolerance = 8 * torch.finfo(dtype).eps
        for mine, before in zip(back, params, strict=True):
            torch.testing.assert_close(mine, before, rtol=tolerance, atol=tolerance)
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                [*new, *grads, *state.get("m", [])], [t for ts in given for t in ts], strict=True
            )
        )
        params = new


@pytest.mark.parametrize("name", RULES)
def test_revert_is_exact_where_nothing_moved(name):
    """Dead weights, of zero gradient and moments, come back to the bit but for the decay."""
    rule, _ = RULES[name]
    params, grads = [torch.zeros(3)], [torch.zeros(3)]
    new, state = rule.update(grads, rule.init(params), params, learning_rate=LR)
    assert torch.equal(rule.revert(new, grads, state, learning_rate=LR)[0], params[0])


@pytest.mark.parametrize("name", RULES)
def test_penalised_tells_whether_the_derivative_needs_the_parameters(name, generator):
    rule, _ = RULES[name]
    params, state, grads = _after(rule, generator)
    _, state = rule.update(grads, state, params, learning_rate=LR)
    vector = _random(generator)
    u = rule.derivative(vector, grads, params, state, learning_rate=LR)
    other = rule.derivative(vector, grads, _random(generator), state, learning_rate=LR)
    assert rule.penalised == any(not torch.equal(a, b) for a, b in zip(u, other, strict=True))


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", RULES)
def test_derivative_equals_central_differences(name, steps, generator):
    rule, _ = RULES[name]
    params, state, grads = _after(rule, generator, steps)
    vector = _random(generator)
    _, new_state = rule.update(grads, state, params, learning_rate=LR)
    u = rule.derivative(vector, grads, params, new_state, learning_rate=LR)
    h = 1e-5
    # The Jacobian is diagonal: all entries can be displaced together.
    above, _ = rule.update([g + h for g in grads], state, params, learning_rate=LR)
    below, _ = rule.update([g - h for g in grads], state, params, learning_rate=LR)
    for i, value in enumerate(u):
        expected = (above[i] - below[i]) / (2 * h) * vector[i]
        # At step 1 Adam's derivative is eps / (|g| + eps)^2, about 0: hence the absolute part,
        # which is the rounding of the difference.
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [adam(), adamw(), adam(betas=(0.0, 0.9))])
def test_derivative_is_exactly_zero_at_zero_second_moment(rule, dtype):
    params = [torch.ones(4, dtype=dtype)]
    grads = [torch.tensor([0.0, 1.0, 0.0, -1e-3], dtype=dtype)]
    _, state = rule.update(grads, rule.init(params), params, learning_rate=LR)
    (u,) = rule.derivative(
        [torch.full_like(params[0], 7.0)], grads, params, state, learning_rate=LR
    )
    assert torch.isfinite(u).all()
    assert u[0] == 0
    assert u[2] == 0


def test_derivative_stays_finite_for_tiny_gradients():
    """1/(sqrt(v) d^2) alone would overflow float32 here."""
    rule, params = adam(), [torch.ones(3)]
    grads = [torch.tensor([1e-18, 1e-20, 1e-30])]
    _, state = rule.update(grads, rule.init(params), params, learning_rate=LR)
    (u,) = rule.derivative([torch.ones(3)], grads, params, state, learning_rate=LR)
    assert torch.isfinite(u).all()
