"""Hypergradients against central differences of the whole step, double backward, and TorchOpt."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from l2s_pydra.bilevel.hypergradient import (
    CentralDifference,
    Exact,
    OneSidedDifference,
)
from l2s_pydra.bilevel.updates import adam, adamw, sgd
from l2s_pydra.config import SegmenterConfig
from l2s_pydra.segmentation.losses import build_loss
from l2s_pydra.segmentation.segmenter import Segmenter

LOSSES = ("ce", "dice", "ce_dice", "logit_mse")
# Adam's eps is large, so that the differences over theta stay where its step is nearly linear.
RULES = {
    "sgd": sgd(),
    "sgd_decay": sgd(weight_decay=0.05),
    "sgd_momentum": sgd(momentum=0.9, weight_decay=0.01),
    "sgd_nesterov": sgd(momentum=0.9, nesterov=True),
    "sgd_nesterov_decay": sgd(momentum=0.9, nesterov=True, weight_decay=0.05),
    "adam": adam(eps=1e-4),
    "adam_l2": adam(eps=1e-4, weight_decay=0.05),
    "adamw": adamw(eps=1e-4, weight_decay=0.05),
}
# Exact: what is left is the error of the differences it is compared with, O(h^2) = 1e-8 times a
# third derivative; so it is with the central difference. One-sided: its own error, O(epsilon).
ESTIMATORS = {
    "exact": (Exact(), 1e-5),
    "recompute": (Exact(recompute=True), 1e-5),
    "central": (CentralDifference(1e-4), 1e-5),
    "one_sided": (OneSidedDifference(1e-4), 1e-3),
}
SETTINGS = (Exact(), Exact(recompute=True), CentralDifference(), OneSidedDifference())


def sample_pairs():
    """Pairs of all: estimator and rule, and each estimator with each loss in 2-D and in 3-D."""
    cases = []
    for j, estimator in enumerate(ESTIMATORS):
        for i, rule in enumerate(RULES):
            ndim, dead_unit = 2 + (i // 4 + j) % 2, bool((i // 2 + j) % 2)
            cases.append((estimator, rule, LOSSES[(i + j) % 4], ndim, dead_unit))
    return cases


CASES = sample_pairs()


@pytest.mark.parametrize(("estimator", "name", "loss", "ndim", "dead_unit"), CASES)
def test_equals_differences_of_the_whole_step(
    estimator, name, loss, ndim, dead_unit, problem, error
):
    two_levels, rule = problem(ndim, loss=loss, dead_unit=dead_unit), RULES[name]
    how, tolerance = ESTIMATORS[estimator]
    state = two_levels.warm_state(rule)
    expected = two_levels.numerical(rule, state)
    step = two_levels.run(how, rule, state)
    assert all(torch.isfinite(g).all() for g in step.theta_gradient)
    assert error(step.theta_gradient, expected) < tolerance
    if dead_unit and "v" in step.state and "l2" not in name:
        assert any((v == 0).any() for v in step.state["v"])


def test_the_sample_holds_every_pair():
    assert {(e, r) for e, r, *_ in CASES} == {(e, r) for e in ESTIMATORS for r in RULES}
    assert {(e, loss, ndim) for e, _, loss, ndim, _ in CASES} == {
        (e, loss, ndim) for e in ESTIMATORS for loss in LOSSES for ndim in (2, 3)
    }
    assert {(r, dead) for _, r, _, _, dead in CASES} == {
        (r, dead) for r in RULES for dead in (False, True)
    }


@pytest.mark.parametrize("fraction", [0.25, 0.5])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fraction_scales_as_the_mean_over_the_part(estimator, fraction, problem, error):
    """With q < 1, v and the Jacobian are those of the whole batch, the loss that of the part."""
    rule, two_levels = sgd(), problem()
    how, tolerance = ESTIMATORS[estimator]
    part = slice(0, round(4 * fraction))
    step = two_levels.run(how, rule, rule.init([]), synthetic_fraction=fraction)
    # Independent: <v, grad_phi of the part's loss> * (-lr), differentiated over theta.
    again = problem()
    v = torch.autograd.grad(again.real_loss(two_levels.segmenter), two_levels.phi)
    loss = again.synthetic_loss(again.segmenter, again.augment()[part], part)
    grads = torch.autograd.grad(loss, again.phi, create_graph=True)
    expected = torch.autograd.grad(grads, again.theta, [-again.learning_rate * t for t in v])
    # No differences over theta here: the exact ones agree to rounding.
    assert error(step.theta_gradient, expected) < (
        1e-12 if estimator in ("exact", "recompute") else tolerance
    )
    # The images left out have no say.
    assert torch.equal(
        step.theta_gradient[1][part.stop :], torch.zeros(4 - part.stop, dtype=torch.float64)
    )


def test_fraction_is_unbiased_over_equal_parts(problem):
    """One image repeated: a quarter of the batch gives what the whole batch gives."""
    rule, gradients = sgd(), []
    for fraction in (1.0, 0.25):
        repeated = problem()
        repeated.x = repeated.x[:1].expand_as(repeated.x)
        repeated.noise = repeated.noise[:1].expand_as(repeated.noise)
        repeated.y = repeated.y[:1].expand_as(repeated.y)
        with torch.no_grad():
            repeated.theta[1].fill_(0.1)
        step = repeated.run(Exact(), rule, rule.init([]), synthetic_fraction=fraction)
        gradients.append(step.theta_gradient[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("name", ["sgd_momentum", "sgd_nesterov", "adam_l2", "adamw"])
@pytest.mark.parametrize("estimator", SETTINGS, ids=ESTIMATORS)
def test_segmenter_ends_at_exactly_the_updated_parameters(estimator, name, fraction, problem):
    rule = RULES[name]
    mine, plain = problem(dtype=torch.float32), problem(dtype=torch.float32)
    state, plain_state = mine.warm_state(rule), plain.warm_state(rule)
    kept = list(mine.segmenter.parameters())
    step = mine.run(estimator, rule, state, synthetic_fraction=fraction)
    expected = plain.run_plain(rule, plain_state)
    for param, other, same in zip(
        mine.segmenter.parameters(), plain.segmenter.parameters(), kept, strict=True
    ):
        assert param is same
        assert param.requires_grad
        assert param.grad is None
        assert torch.equal(param, other)
    assert step.state.keys() == expected.state.keys()
    for key in set(step.state) - {"step"}:
        assert all(
            torch.equal(a, b) for a, b in zip(step.state[key], expected.state[key], strict=True)
        )
    assert step.state["step"] == expected.state["step"]
    assert not step.skipped
    torch.testing.assert_close(step.synthetic_loss, expected.loss)
    torch.testing.assert_close(step.gradient_norm, expected.gradient_norm)
    torch.testing.assert_close(step.real_loss, mine.real_loss(mine.segmenter).detach())
    assert not step.real_loss.requires_grad
    assert not any(g.requires_grad for g in step.theta_gradient)
    assert all(tensor.grad is None for tensor in mine.theta)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("estimator", SETTINGS, ids=ESTIMATORS)
def test_first_adam_step_with_dead_unit_is_finite(estimator, loss, problem):
    """At step 1 every weight with a zero gradient has a zero second moment."""
    rule, two_levels = adam(), problem(dead_unit=True, loss=loss, dtype=torch.float32)
    step = two_levels.run(estimator, rule, rule.init(two_levels.phi))
    assert any((v == 0).any() for v in step.state["v"])
    assert all(torch.isfinite(g).all() for g in step.theta_gradient)
    assert all(torch.isfinite(p).all() for p in two_levels.segmenter.parameters())


class Odd(nn.Module):
    """Shares one layer's weights between two places, and has a parameter that nothing reads."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.again = self.shared
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = nn.functional.gelu(self.shared(nn.functional.gelu(self.first(x))))
        return self.again(x)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_shared_and_unused_parameters(estimator, problem, error):
    how, tolerance = ESTIMATORS[estimator]
    two_levels, rule = problem(segmenter=Odd()), RULES["adam"]
    state = two_levels.warm_state(rule)
    expected = two_levels.numerical(rule, state)
    unused = two_levels.segmenter.unused.detach().clone()
    step = two_levels.run(how, rule, state)
    assert error(step.theta_gradient, expected) < tolerance
    assert torch.equal(two_levels.segmenter.unused, unused)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_frozen_parameters_and_theta_without_effect(estimator, problem, error):
    how, tolerance = ESTIMATORS[estimator]
    two_levels, rule = problem(), RULES["sgd_momentum"]
    two_levels.segmenter[0].weight.requires_grad_(False)
    frozen = two_levels.segmenter[0].weight.clone()
    idle = torch.ones(3, dtype=torch.float64, requires_grad=True)
    state = two_levels.warm_state(rule)
    expected = two_levels.numerical(rule, state)
    step = two_levels.run(how, rule, state, theta=[*two_levels.theta, idle])
    assert error(step.theta_gradient[:2], expected) < tolerance
    assert torch.equal(step.theta_gradient[2], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(two_levels.segmenter[0].weight, frozen)
    assert not two_levels.segmenter[0].weight.requires_grad


@pytest.mark.parametrize("estimator", SETTINGS, ids=ESTIMATORS)
def test_zero_real_gradient_gives_zero_hypergradient(estimator, problem):
    two_levels, rule = problem(), adam()
    step = two_levels.run(
        estimator, rule, rule.init(two_levels.phi),
        real_loss=lambda predict: 0 * two_levels.real_loss(predict),
    )  # fmt: skip
    assert all(torch.equal(g, torch.zeros_like(g)) for g in step.theta_gradient)


@pytest.mark.parametrize("estimator", SETTINGS, ids=ESTIMATORS)
def test_an_image_without_graph_to_theta_is_refused(estimator, problem):
    two_levels, rule = problem(), sgd()
    with pytest.raises(ValueError, match="no graph to theta"):
        two_levels.run(estimator, rule, rule.init([]), augment=lambda: two_levels.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthetic_fraction": 0.0}, r"synthetic_fraction must lie in \(0, 1\]"),
        ({"synthetic_fraction": 1.5}, r"synthetic_fraction must lie in \(0, 1\]"),
        ({"micro_batch": 0}, "micro_batch must be a whole number above 0"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be above 0"),
        ({"real_loss": []}, "there is no loss"),
    ],
)
def test_options_out_of_range_are_refused(options, message, problem):
    two_levels, rule = problem(), sgd()
    with pytest.raises(ValueError, match=message):
        two_levels.run(OneSidedDifference(), rule, rule.init([]), **options)


@pytest.mark.parametrize("kind", [CentralDifference, OneSidedDifference])
def test_epsilon_must_be_positive(kind):
    with pytest.raises(ValueError, match="epsilon"):
        kind(0.0)


# Precision


EPSILONS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def best_error(kind, run, expected, error):
    """Error of the difference with the best of a few displacements, as a trial would find it."""
    return min(error(run(kind(epsilon)), expected) for epsilon in EPSILONS)


def goal(kind, loss, activation):
    """Largest error in fp32; see docs/hypergradient.md."""
    if kind is OneSidedDifference:
        return 2e-2
    # ELU has a kink in its second derivative, and soft Dice changes on the shortest scale.
    return 5e-3 if (activation, "dice" in loss) == ("elu", True) else 1e-3


@pytest.mark.parametrize("activation", ["elu", "gelu"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", [CentralDifference, OneSidedDifference])
def test_differences_in_float32_with_the_best_of_a_few_epsilons(
    kind, loss, activation, problem, error
):
    rule = RULES["adam"]
    layer = {"elu": nn.ELU, "gelu": nn.GELU}[activation]
    single = problem(loss=loss, activation=layer, dtype=torch.float32)
    state = single.warm_state(rule)
    double = copy.deepcopy(single)
    double.segmenter.double()
    for name in ("x", "noise", "real", "y", "y_real"):
        setattr(double, name, getattr(double, name).double())
    double.theta = [t.detach().double().requires_grad_() for t in double.theta]
    moments = {k: [t.double() for t in v] for k, v in state.items() if k != "step"}
    expected = double.run(Exact(), rule, {**state, **moments}).theta_gradient

    def run(estimator):
        trial = copy.deepcopy(single)
        return trial.run(estimator, rule, copy.deepcopy(state)).theta_gradient

    assert best_error(kind, run, expected, error) < goal(kind, loss, activation)


@pytest.mark.parametrize("activation", ["elu", "gelu"])
@pytest.mark.parametrize("name", LOSSES)
def test_differences_in_float32_with_the_real_segmenter(name, activation, error):
    """After twenty steps of Adam, theta the noise level; see docs/hypergradient.md."""
    config = SegmenterConfig(ndim=2, width=8, depth=3, activation=activation)
    torch.manual_seed(0)
    trained, loss = Segmenter(config, 4), build_loss(name)
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(0, 3.99, 32).long()
    labels = torch.stack([(ramp[:, None] + ramp[None] + i) % 4 for i in range(4)])
    y = nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    x, noise = labels[:, None] / 3, torch.randn(4, 1, 32, 32, generator=generator)
    real = x + 0.1 * torch.randn(4, 1, 32, 32, generator=generator)
    rule = adam()

    def run(estimator, segmenter, state, dtype):
        log_sigma = torch.tensor(-1.6, dtype=dtype, requires_grad=True)
        segmenter = copy.deepcopy(segmenter).to(dtype)
        state = {
            k: [t.to(dtype, copy=True) for t in v] if isinstance(v, list) else v
            for k, v in state.items()
        }
        return estimator(
            segmenter, rule, state,
            augment=lambda: x.to(dtype) + log_sigma.exp() * noise.to(dtype),
            synthetic_loss=lambda predict, image, part: loss(predict(image), y.to(dtype)[part]),
            real_loss=lambda predict: loss(predict(real.to(dtype)), y.to(dtype)),
            theta=[log_sigma], learning_rate=1e-3,
        ), segmenter  # fmt: skip

    state = rule.init(list(trained.parameters()))
    for _ in range(20):
        step, trained = run(Exact(), trained, state, torch.float32)
        state = step.state
    expected, _ = run(Exact(), trained, state, torch.float64)
    for kind in (CentralDifference, OneSidedDifference):
        best = best_error(
            kind,
            lambda how: run(how, trained, state, torch.float32)[0].theta_gradient,
            expected.theta_gradient,
            error,
        )
        assert best < goal(kind, name, activation), kind


def test_one_sided_under_bf16_autocast(problem, error):
    rule = RULES["adam"]
    two_levels = problem(dtype=torch.float32)
    state = two_levels.warm_state(rule)
    trial = copy.deepcopy(two_levels)
    expected = trial.run(Exact(), rule, copy.deepcopy(state)).theta_gradient

    def half(loss):
        def evaluate(*args):
            with torch.autocast("cpu", torch.bfloat16):
                return loss(*args)

        return evaluate

    step = two_levels.run(
        OneSidedDifference(1e-1), rule, state,
        synthetic_loss=half(two_levels.synthetic_loss), real_loss=half(two_levels.real_loss),
    )  # fmt: skip
    # bf16 keeps 8 bits: the difference of two gradients keeps less.
    assert error(step.theta_gradient, expected) < 0.3
    assert all(p.dtype == torch.float32 for p in two_levels.segmenter.parameters())


# Double backward, and TorchOpt


def differentiable_adam(grads, state, params, *, learning_rate, eps):
    """Adam's step as a graph, moments and all."""
    step = state["step"] + 1
    new = []
    for grad, m, v, param in zip(grads, state["m"], state["v"], params, strict=True):
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * grad**2
        d = (v / (1 - 0.999**step)).sqrt() + eps
        new.append(param - learning_rate / (1 - 0.9**step) * m / d)
    return new


def double_backward(two_levels, state, eps):
    params = dict(two_levels.segmenter.named_parameters())
    loss = two_levels.synthetic_loss(two_levels.segmenter, two_levels.augment(), slice(None))
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    new = differentiable_adam(
        grads, state, list(params.values()), learning_rate=two_levels.learning_rate, eps=eps
    )
    replaced = dict(zip(params, new, strict=True))
    outer = two_levels.real_loss(lambda x: functional_call(two_levels.segmenter, replaced, (x,)))
    return torch.autograd.grad(outer, two_levels.theta)


@pytest.mark.parametrize("estimator", [Exact(), Exact(recompute=True)], ids=["graph", "recompute"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("ndim", [2, 3])
def test_exact_equals_double_backward_with_the_real_segmenter(
    ndim, loss, estimator, problem, error
):
    config = SegmenterConfig(ndim=ndim, width=4, depth=2)
    two_levels = problem(ndim, loss=loss, segmenter=Segmenter(config, 4))
    rule = adam()
    state = two_levels.warm_state(rule)
    expected = double_backward(two_levels, state, eps=1e-8)
    step = two_levels.run(estimator, rule, state)
    # Both are exact: what is left is float64 rounding.
    assert error(step.theta_gradient, expected) < 1e-12


META = {
    "sgd": ("MetaSGD", {}, sgd()),
    "sgd_momentum": (
        "MetaSGD",
        {"momentum": 0.9, "weight_decay": 0.05},
        sgd(momentum=0.9, weight_decay=0.05),
    ),
    "sgd_nesterov": (
        "MetaSGD",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
        sgd(momentum=0.9, nesterov=True, weight_decay=0.05),
    ),
    "adam": ("MetaAdam", {}, adam()),
    "adam_l2": ("MetaAdam", {"weight_decay": 0.05}, adam(weight_decay=0.05)),
    "adamw": ("MetaAdamW", {"weight_decay": 0.05}, adamw(weight_decay=0.05)),
}


@pytest.fixture
def double_by_default():
    """TorchOpt's bias corrections are of the default dtype, whatever that of the parameters."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("name", META)
def test_exact_equals_torchopt_step_for_step(name, problem, error):
    import torchopt

    kind, options, rule = META[name]
    mine, theirs = problem(loss="ce_dice"), problem(loss="ce_dice")
    lr = mine.learning_rate
    optimizer = getattr(torchopt, kind)(theirs.segmenter, lr=lr, **options)
    state = rule.init(mine.phi)
    for _ in range(5):
        loss = theirs.synthetic_loss(theirs.segmenter, theirs.augment(), slice(None))
        optimizer.step(loss)
        expected = torch.autograd.grad(theirs.real_loss(theirs.segmenter), theirs.theta)
        # One step ahead, no further: what came before counts as constant.
        torchopt.stop_gradient(theirs.segmenter)
        torchopt.stop_gradient(optimizer)
        step = mine.run(Exact(), rule, state)
        state = step.state
        # Adam's first step hardly depends on the gradient's size: its derivative is what eps
        # leaves of two terms that cancel.
        assert error(step.theta_gradient, expected) < (1e-10 if state["step"] == 1 else 1e-12)
        # TorchOpt replaces the module's parameters by tensors that are not Parameters.
        names = [name for name, _ in mine.segmenter.named_parameters()]
        for name_, param in zip(names, mine.phi, strict=True):
            owner, _, last = name_.rpartition(".")
            other = getattr(theirs.segmenter.get_submodule(owner), last)
            torch.testing.assert_close(param, other, rtol=1e-12, atol=1e-12, check_stride=False)
        with torch.no_grad():
            for tensors, gradient in zip(
                zip(mine.theta, theirs.theta, strict=True), expected, strict=True
            ):
                for tensor in tensors:
                    tensor -= 0.5 * gradient
