"""The bookkeeping of a step: pieces, clipping, buffers, batch norm, precision."""

import copy

import pytest
import torch
from torch import nn

from l2s_pydra.bilevel import passes
from l2s_pydra.bilevel.hypergradient import CentralDifference, Exact
from l2s_pydra.bilevel.plain import plain_step
from l2s_pydra.bilevel.updates import adam, sgd

# Adam's eps is large, so that the differences over theta stay where its step is nearly linear.
ADAM, DESCENT = adam(eps=1e-4), sgd(momentum=0.9, weight_decay=0.01)


def values(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("fraction", [1.0, 0.75, 0.5])
@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("loss", ["ce_dice", "logit_mse"])
def test_pieces_give_what_the_whole_batch_gives(
    estimator, loss, micro_batch, fraction, problem, error
):
    """Two real losses and small synthetic pieces; only the order of the sums differs."""
    whole, pieces = problem(loss=loss), problem(loss=loss)
    state, pieces_state = whole.warm_state(ADAM), pieces.warm_state(ADAM)
    options = {"synthetic_fraction": fraction, "max_gradient_norm": 0.05}
    expected = whole.run(estimator, ADAM, state, **options)
    found = pieces.run(
        estimator, ADAM, pieces_state, micro_batch=micro_batch,
        real_loss=[pieces.real_part(0, 1), pieces.real_part(1, 4)], **options,
    )  # fmt: skip
    assert error(found.theta_gradient, expected.theta_gradient) < 1e-11
    assert error(pieces.phi, whole.phi) < 1e-13
    assert error([found.synthetic_loss, found.real_loss, found.gradient_norm],
                 [expected.synthetic_loss, expected.real_loss, expected.gradient_norm]) < 1e-13  # fmt: skip


def test_no_pass_is_larger_than_asked_for(estimator, problem):
    two_levels, seen = problem(), []
    two_levels.segmenter.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    two_levels.run(
        estimator, DESCENT, DESCENT.init(two_levels.phi), micro_batch=2, synthetic_fraction=0.75,
        real_loss=[two_levels.real_part(i, i + 1) for i in range(4)],
    )  # fmt: skip
    mixed = 2 if isinstance(estimator, CentralDifference) else 1
    assert seen == [2, 2, *[1] * 4, *[2, 1] * mixed]


def plain(two_levels, state, loss, **options):
    return plain_step(
        two_levels.segmenter, ADAM, state, loss=loss, learning_rate=two_levels.learning_rate,
        **options,
    )  # fmt: skip


def test_a_plain_step_sums_its_losses(problem):
    whole, pieces = problem(), problem()
    state, pieces_state = ADAM.init(whole.phi), ADAM.init(pieces.phi)
    expected = plain(whole, state, whole.real_loss, max_gradient_norm=0.1)
    losses = [pieces.real_part(0, 3), pieces.real_part(3, 4)]
    found = plain(pieces, pieces_state, losses, max_gradient_norm=0.1)
    torch.testing.assert_close(found.loss, expected.loss)
    for a, b in zip(whole.phi, pieces.phi, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", [DESCENT, ADAM, adam(eps=1e-4, weight_decay=0.1)])
def test_parameters_may_be_gone_through_in_parts(estimator, rule, problem, monkeypatch, error):
    """As large ones are, some of which do not lie in memory as their gradients do."""
    whole, parts = problem(dtype=torch.float64), problem(dtype=torch.float64)
    parts.segmenter.to(memory_format=torch.channels_last)
    options = {"max_gradient_norm": 0.05}
    expected = whole.run(estimator, rule, whole.warm_state(rule), **options)
    monkeypatch.setattr("l2s_pydra.bilevel.pieces._ENTRIES", 7)
    found = parts.run(estimator, rule, parts.warm_state(rule), **options)
    assert error(found.theta_gradient, expected.theta_gradient) < 1e-11
    assert error(parts.phi, whole.phi) < 1e-13


@pytest.mark.parametrize("share", [0.3, 10.0])
@pytest.mark.parametrize("rule", [DESCENT, ADAM], ids=["sgd", "adam"])
def test_clipping_is_part_of_the_step(estimator, rule, share, problem, error, accurate, tolerance):
    two_levels = problem()
    state = two_levels.warm_state(rule)
    norm = float(copy.deepcopy(two_levels).run_plain(rule, copy.deepcopy(state)).gradient_norm)
    expected = two_levels.numerical(rule, state, clip=share * norm)
    unclipped = two_levels.numerical(rule, state)
    step = two_levels.run(accurate(estimator), rule, state, max_gradient_norm=share * norm)
    assert error(step.theta_gradient, expected) < tolerance(estimator)
    # The norm is told before clipping, and clipping is no rescaling of the hypergradient.
    assert float(step.gradient_norm) == pytest.approx(norm, rel=1e-12)
    assert (error(expected, unclipped) > 0.05) == (share < 1)


def test_derivative_of_clipping_equals_autograd():
    generator = torch.Generator().manual_seed(0)
    g, v = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(2))
    g.requires_grad_()
    (expected,) = torch.autograd.grad(0.5 * g / g.norm() @ v, g)
    norm = passes.norm_of([g])
    factor = passes.clip_factor(norm, 0.5)
    clipped, u = [g.detach()[:3] * factor, g.detach()[3:] * factor], [v[:3].clone(), v[3:].clone()]
    passes.differentiate_clip(u, clipped, norm, factor)
    torch.testing.assert_close(torch.cat(u), expected, rtol=1e-14, atol=1e-15)


def test_short_gradients_are_not_clipped():
    assert passes.clip_factor(torch.tensor(1.0), 2.0) is None
    assert passes.clip_factor(torch.tensor(1.0), None) is None


def test_batch_norm_in_training_mode(estimator, problem, error, normalised, accurate, tolerance):
    """Each pass normalises by its own batch; the running statistics see the synthetic one."""
    two_levels, usual = problem(segmenter=normalised()), problem(segmenter=normalised())
    state, usual_state = two_levels.warm_state(ADAM), usual.warm_state(ADAM)
    expected = two_levels.numerical(ADAM, state)
    step = two_levels.run(accurate(estimator), ADAM, state)
    assert error(step.theta_gradient, expected) < tolerance(estimator)
    usual.run_plain(ADAM, usual_state)
    assert same(two_levels.segmenter.buffers(), usual.segmenter.buffers())
    assert two_levels.segmenter[3].calls == 4


def test_batch_norm_in_evaluation_mode(estimator, problem, error, normalised, accurate, tolerance):
    """Running statistics are constants."""
    two_levels = problem(segmenter=normalised())
    state = two_levels.warm_state(ADAM)
    two_levels.segmenter.eval()
    two_levels.segmenter[3] = nn.Identity()
    before = values(two_levels.segmenter.buffers())
    expected = two_levels.numerical(ADAM, state)
    step = two_levels.run(accurate(estimator), ADAM, state)
    assert error(step.theta_gradient, expected) < tolerance(estimator)
    assert same(two_levels.segmenter.buffers(), before)


def half(loss):
    def evaluate(*args):
        with torch.autocast("cpu", torch.bfloat16):
            return loss(*args)

    return evaluate


def test_full_precision_mends_normalisation_under_autocast(problem, error):
    def make():
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.GELU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.GELU(),
            nn.Conv2d(8, 4, 1),
        )  # fmt: skip
        return problem(segmenter=net, dtype=torch.float32)

    def under_autocast(estimator):
        trial = make()
        found = trial.run(
            estimator, DESCENT, DESCENT.init(trial.phi),
            synthetic_loss=half(trial.synthetic_loss), real_loss=half(trial.real_loss),
        ).theta_gradient  # fmt: skip
        return error(found, expected)

    exact = make()
    expected = exact.run(Exact(), DESCENT, DESCENT.init(exact.phi)).theta_gradient
    # u still comes from a real pass in bf16, which keeps 8 bits.
    assert under_autocast(CentralDifference(1e-2, full_precision=True)) < 0.03
    assert under_autocast(CentralDifference(1e-2)) > 0.3
    # Without autocast nothing is left of bf16.
    assert under_autocast(Exact(full_precision=True)) < 1e-5


def test_autocast_around_the_step_keeps_no_stale_weights(estimator, problem):
    """It casts weights once; those of phi must not be taken for those of phi'."""
    inside, around = problem(dtype=torch.float32), problem(dtype=torch.float32)
    options = {"learning_rate": 1.0}
    expected = inside.run(
        estimator, DESCENT, DESCENT.init(inside.phi), **options,
        synthetic_loss=half(inside.synthetic_loss), real_loss=half(inside.real_loss),
    )  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        found = around.run(estimator, DESCENT, DESCENT.init(around.phi), **options)
    assert torch.equal(found.real_loss, expected.real_loss)
    for a, b in zip(found.theta_gradient, expected.theta_gradient, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=0)


def test_buffers_come_back_also_where_they_are_replaced(counting):
    module = nn.Sequential(nn.BatchNorm1d(2), counting())
    kept = [module[0].running_mean, module[1].calls]
    with passes.kept_buffers(module):
        module(torch.randn(4, 2))
        assert module[1].calls == 1
    assert module[0].num_batches_tracked == 0
    assert module[0].running_mean is kept[0]
    assert module[1].calls is kept[1]
    assert same(kept, [torch.zeros(2), torch.zeros(())])
