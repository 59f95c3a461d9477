"""Hypergradients against float64 central differences of the whole two-level step."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from l2s_pydra.bilevel.hypergradient import Exact, OneSidedDifference, plain_step
from l2s_pydra.bilevel.updates import adam, adamw, sgd

CLASSES = 4
LR = 0.01
RULES = {
    "sgd_momentum": sgd(momentum=0.9, weight_decay=0.01),
    "sgd_nesterov": sgd(momentum=0.9, nesterov=True),
    # A large eps, so that the difference over theta does not leave the range in which Adam's
    # step is nearly linear in the gradient.
    "adam": adam(eps=1e-4),
    "adamw": adamw(eps=1e-4),
}


class Problem:
    """A small two-level problem: theta = (log sigma, gains), batch of four images."""

    def __init__(self, ndim, *, dead_unit=False, dtype=torch.float64):
        generator = torch.Generator().manual_seed(ndim)
        size = (12, 12) if ndim == 2 else (6, 6, 6)

        def random(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.segmenter = nn.Sequential(
            conv(1, 6, 3, padding=1), nn.ELU(), conv(6, 6, 3, padding=1), nn.ELU(),
            conv(6, CLASSES, 1),
        ).to(dtype)  # fmt: skip
        with torch.no_grad():
            for param in self.segmenter.parameters():
                param.copy_(0.3 * random(*param.shape))
            if dead_unit:
                # Neither read nor driven: its gradient is exactly 0 on both sides.
                self.segmenter[2].weight[:, 0] = 0
                self.segmenter[0].weight[0] = 0
                self.segmenter[0].bias[0] = 0
        self.x, self.noise, self.real = (random(4, 1, *size) for _ in range(3))
        # The last class never occurs.
        self.y, self.y_real = (
            torch.randint(CLASSES - 1, (4, *size), generator=generator) for _ in range(2)
        )
        log_sigma = torch.tensor(-1.0, dtype=dtype, requires_grad=True)
        gains = torch.tensor([0.2, -0.1, 0.4, 0.1], dtype=dtype, requires_grad=True)
        self.theta = [log_sigma, gains]

    def augment(self):
        log_sigma, gains = self.theta
        gains = gains.view(-1, *[1] * (self.x.ndim - 1))
        return self.x * gains.exp() + log_sigma.exp() * self.noise

    def synthetic_loss(self, predict, x, part):
        return functional.cross_entropy(predict(x), self.y[part])

    def real_loss(self, predict):
        return functional.cross_entropy(predict(self.real), self.y_real)

    def arguments(self):
        return {
            "augment": self.augment,
            "synthetic_loss": self.synthetic_loss,
            "real_loss": self.real_loss,
            "theta": self.theta,
            "learning_rate": LR,
        }

    def warm_state(self, rule, steps=3):
        """Train a little, so that the moments are not those of the first step."""
        state = rule.init(list(self.segmenter.parameters()))
        for _ in range(steps):
            state = plain_step(
                self.segmenter, rule, state, learning_rate=LR,
                loss=lambda predict: self.synthetic_loss(predict, self.augment(), slice(None)),
            ).state  # fmt: skip
        return state

    def outer(self, rule, state):
        """Real loss after one step, all of it anew."""
        segmenter = copy.deepcopy(self.segmenter)
        params = list(segmenter.parameters())
        loss = self.synthetic_loss(segmenter, self.augment(), slice(None))
        grads = torch.autograd.grad(loss, params)
        new, _ = rule.update(grads, copy.deepcopy(state), params, learning_rate=LR)
        with torch.no_grad():
            for param, value in zip(params, new, strict=True):
                param.copy_(value)
            return self.real_loss(segmenter)

    def numerical(self, rule, state, h=1e-4):
        """Central differences over each entry of theta."""

        def displaced(tensor, i, by):
            with torch.no_grad():
                tensor.view(-1)[i] += by
            value = self.outer(rule, state)
            with torch.no_grad():
                tensor.view(-1)[i] -= by
            return value

        return [
            torch.stack(
                [
                    (displaced(tensor, i, h) - displaced(tensor, i, -h)) / (2 * h)
                    for i in range(tensor.numel())
                ]
            ).view_as(tensor)
            for tensor in self.theta
        ]


def relative_error(found, expected):
    found, expected = (torch.cat([t.flatten() for t in ts]).double() for ts in (found, expected))
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("dead_unit", [False, True])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    # Exact: the error is that of the difference it is compared with, O(h^2) = 1e-8 times a third
    # derivative. One-sided: its own, O(epsilon).
    ("estimator", "tolerance"),
    [(Exact(), 1e-5), (OneSidedDifference(epsilon=1e-4), 1e-3)],
)
def test_equals_differences_of_the_whole_step(estimator, tolerance, ndim, name, dead_unit):
    problem, rule = Problem(ndim, dead_unit=dead_unit), RULES[name]
    state = problem.warm_state(rule)
    expected = problem.numerical(rule, state)
    step = estimator(problem.segmenter, rule, state, **problem.arguments())
    assert all(torch.isfinite(g).all() for g in step.theta_gradient)
    assert relative_error(step.theta_gradient, expected) < tolerance
    if dead_unit and "v" in step.state:
        assert any((v == 0).any() for v in step.state["v"])


@pytest.mark.parametrize("fraction", [0.25, 0.5])
@pytest.mark.parametrize("estimator", [Exact(), OneSidedDifference(epsilon=1e-4)])
def test_fraction_scales_as_the_mean_over_the_part(estimator, fraction):
    """With q < 1, v and the Jacobian are those of the whole batch, the loss that of the part."""
    rule, problem = sgd(), Problem(2)
    part = slice(0, round(4 * fraction))
    step = estimator(
        problem.segmenter, rule, rule.init([]), **problem.arguments(), synthetic_fraction=fraction
    )
    # Independent: <v, grad_phi of the part's loss> * (-lr), differentiated over theta.
    again = Problem(2)
    params = list(again.segmenter.parameters())
    v = torch.autograd.grad(
        again.real_loss(problem.segmenter), list(problem.segmenter.parameters())
    )
    loss = again.synthetic_loss(again.segmenter, again.augment()[part], part)
    grads = torch.autograd.grad(loss, params, create_graph=True)
    expected = torch.autograd.grad(grads, again.theta, [-LR * t for t in v])
    assert relative_error(step.theta_gradient, expected) < (
        1e-12 if isinstance(estimator, Exact) else 1e-3
    )
    # The images left out have no say.
    assert torch.equal(
        step.theta_gradient[1][part.stop :], torch.zeros(4 - part.stop, dtype=torch.float64)
    )


def test_fraction_is_unbiased_over_equal_parts():
    """One image repeated: a quarter of the batch gives what the whole batch gives."""
    rule, gradients = sgd(), []
    for fraction in (1.0, 0.25):
        problem = Problem(2)
        problem.x = problem.x[:1].expand_as(problem.x)
        problem.noise = problem.noise[:1].expand_as(problem.noise)
        problem.y = problem.y[:1].expand_as(problem.y)
        with torch.no_grad():
            problem.theta[1].fill_(0.1)
        step = Exact()(
            problem.segmenter, rule, rule.init([]), **problem.arguments(),
            synthetic_fraction=fraction,
        )  # fmt: skip
        gradients.append(step.theta_gradient[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("estimator", [Exact(), OneSidedDifference()])
def test_segmenter_ends_at_exactly_the_updated_parameters(estimator, name, fraction):
    rule = RULES[name]
    problem, plain = Problem(2, dtype=torch.float32), Problem(2, dtype=torch.float32)
    state, plain_state = problem.warm_state(rule), plain.warm_state(rule)
    kept = list(problem.segmenter.parameters())
    step = estimator(
        problem.segmenter, rule, state, **problem.arguments(), synthetic_fraction=fraction
    )
    expected = plain_step(
        plain.segmenter, rule, plain_state, learning_rate=LR,
        loss=lambda predict: plain.synthetic_loss(predict, plain.augment(), slice(None)),
    )  # fmt: skip
    for mine, other, same in zip(
        problem.segmenter.parameters(), plain.segmenter.parameters(), kept, strict=True
    ):
        assert mine is same
        assert mine.requires_grad
        assert mine.grad is None
        assert torch.equal(mine, other)
    assert step.state["step"] == expected.state["step"]
    torch.testing.assert_close(step.synthetic_loss, expected.loss)
    torch.testing.assert_close(step.gradient_norm, expected.gradient_norm)
    torch.testing.assert_close(step.real_loss, problem.real_loss(problem.segmenter).detach())
    assert not step.real_loss.requires_grad
    assert not any(g.requires_grad for g in step.theta_gradient)


def test_first_adam_step_with_dead_unit_is_finite():
    """At step 1 every weight with a zero gradient has a zero second moment."""
    rule = adam()
    for estimator in (Exact(), OneSidedDifference()):
        problem = Problem(2, dead_unit=True)
        state = rule.init(list(problem.segmenter.parameters()))
        step = estimator(problem.segmenter, rule, state, **problem.arguments())
        assert all(torch.isfinite(g).all() for g in step.theta_gradient)
        assert all(torch.isfinite(p).all() for p in problem.segmenter.parameters())


@pytest.mark.parametrize("estimator", [Exact(), OneSidedDifference()])
def test_unused_theta_and_frozen_parameters(estimator):
    problem, rule = Problem(2), sgd(momentum=0.9)
    problem.segmenter[0].weight.requires_grad_(False)
    frozen = problem.segmenter[0].weight.clone()
    unused = torch.ones(3, dtype=torch.float64, requires_grad=True)
    arguments = {**problem.arguments(), "theta": [*problem.theta, unused]}
    state = rule.init([p for p in problem.segmenter.parameters() if p.requires_grad])
    step = estimator(problem.segmenter, rule, state, **arguments)
    assert torch.equal(step.theta_gradient[2], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(problem.segmenter[0].weight, frozen)


@pytest.mark.parametrize("estimator", [Exact(), OneSidedDifference()])
def test_zero_real_gradient_gives_zero_hypergradient(estimator):
    problem, rule = Problem(2), adam()
    state = rule.init(list(problem.segmenter.parameters()))
    arguments = {**problem.arguments(), "real_loss": lambda predict: 0 * problem.real_loss(predict)}
    step = estimator(problem.segmenter, rule, state, **arguments)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in step.theta_gradient)


@pytest.mark.parametrize("estimator", [Exact(), OneSidedDifference()])
def test_an_image_without_graph_to_theta_is_refused(estimator):
    problem, rule = Problem(2), sgd()
    with pytest.raises(ValueError, match="no graph to theta"):
        estimator(
            problem.segmenter, rule, rule.init([]),
            **{**problem.arguments(), "augment": lambda: problem.x},
        )  # fmt: skip


def test_one_sided_in_float32_and_bf16_autocast():
    rule = RULES["adam"]
    gradients = {}
    for precision in (torch.float32, torch.bfloat16):
        problem = Problem(2, dtype=torch.float32)
        state = problem.warm_state(rule)
        exact = Problem(2, dtype=torch.float32)
        expected = Exact()(exact.segmenter, rule, exact.warm_state(rule), **exact.arguments())

        def loss(predict, x, y, precision=precision):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                logits = predict(x)
            return functional.cross_entropy(logits.float(), y)

        arguments = problem.arguments()
        arguments["synthetic_loss"] = lambda predict, x, part, p=problem: loss(
            predict, x, p.y[part]
        )
        arguments["real_loss"] = lambda predict, p=problem: loss(predict, p.real, p.y_real)
        epsilon = 1e-2 if precision == torch.float32 else 1e-1
        step = OneSidedDifference(epsilon)(problem.segmenter, rule, state, **arguments)
        gradients[precision] = relative_error(step.theta_gradient, expected.theta_gradient)
        assert all(p.dtype == torch.float32 for p in problem.segmenter.parameters())
    assert gradients[torch.float32] < 2e-2
    # bf16 keeps 8 bits: the difference of two gradients keeps less.
    assert gradients[torch.bfloat16] < 0.3


def _differentiable_adam(grads, state, params, *, eps):
    """Adam's step as a graph, moments and all."""
    step = state["step"] + 1
    new = []
    for grad, m, v, param in zip(grads, state["m"], state["v"], params, strict=True):
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * grad**2
        d = (v / (1 - 0.999**step)).sqrt() + eps
        new.append(param - LR / (1 - 0.9**step) * m / d)
    return new


def test_exact_equals_double_backward_through_the_step():
    problem, rule = Problem(2), RULES["adam"]
    state = problem.warm_state(rule)
    params = dict(problem.segmenter.named_parameters())
    loss = problem.synthetic_loss(problem.segmenter, problem.augment(), slice(None))
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    new = _differentiable_adam(grads, state, list(params.values()), eps=1e-4)
    outer = problem.real_loss(
        lambda x: functional_call(problem.segmenter, dict(zip(params, new, strict=True)), (x,))
    )
    expected = torch.autograd.grad(outer, problem.theta)
    step = Exact()(problem.segmenter, rule, state, **problem.arguments())
    # Both are exact: what is left is float64 rounding.
    assert relative_error(step.theta_gradient, expected) < 1e-12
