"""The bookkeeping of a step: pieces, clipping, buffers, processes, failures, and memory."""

import copy
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from l2s_pydra.bilevel import passes
from l2s_pydra.bilevel.hypergradient import (
    CentralDifference,
    Exact,
    OneSidedDifference,
    plain_step,
)
from l2s_pydra.bilevel.updates import adam, sgd

ESTIMATORS = {
    "exact": Exact(),
    "recompute": Exact(recompute=True),
    "central": CentralDifference(),
    "one_sided": OneSidedDifference(),
}
# Adam's eps is large, so that the differences over theta stay where its step is nearly linear.
ADAM, DESCENT = adam(eps=1e-4), sgd(momentum=0.9, weight_decay=0.01)


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return ESTIMATORS[request.param]


def accurate(estimator):
    """The same with so small a displacement that it can be held against differences over theta."""
    return estimator if isinstance(estimator, Exact) else type(estimator)(1e-4)


def tolerance(estimator):
    return 1e-3 if isinstance(estimator, OneSidedDifference) else 1e-5


def values(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Pieces


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


# Clipping


@pytest.mark.parametrize("share", [0.3, 10.0])
@pytest.mark.parametrize("rule", [DESCENT, ADAM], ids=["sgd", "adam"])
def test_clipping_is_part_of_the_step(estimator, rule, share, problem, error):
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


# Steps that are skipped


def spoil_image(two_levels):
    two_levels.x[1, 0, 3, 4] = torch.nan
    return {}


def spoil_loss(two_levels):
    return {
        "synthetic_loss": lambda predict, x, part: (
            two_levels.synthetic_loss(predict, x, part) + torch.inf
        )
    }


def spoil_gradient(two_levels):
    """A loss that is finite, of infinite slope."""
    return {
        "synthetic_loss": lambda predict, x, part: (
            two_levels.synthetic_loss(predict, x, part) + (0 * predict(x)).sum().sqrt()
        )
    }


class Counting(nn.Module):
    """Replaces its buffer instead of changing it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return x


def normalised():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), Counting(),
        nn.Conv2d(6, 4, 1),
    ).double()  # fmt: skip


@pytest.mark.parametrize("spoil", [spoil_image, spoil_loss, spoil_gradient])
def test_a_step_that_is_not_finite_changes_nothing(estimator, spoil, problem):
    two_levels = problem(segmenter=normalised())
    state = two_levels.warm_state(ADAM)
    before = values([*two_levels.phi, *two_levels.segmenter.buffers(), *state["m"], *state["v"]])
    step = two_levels.run(estimator, ADAM, state, **spoil(two_levels))
    assert step.skipped
    assert not bool(torch.isfinite(step.synthetic_loss + step.gradient_norm))
    assert torch.isnan(step.real_loss)
    assert same(step.theta_gradient, [torch.zeros_like(t) for t in two_levels.theta])
    after = [*two_levels.phi, *two_levels.segmenter.buffers(), *step.state["m"], *step.state["v"]]
    assert same(before, values(after))
    assert step.state["step"] == 3


@pytest.mark.parametrize("spoil", [spoil_image, spoil_loss, spoil_gradient])
def test_a_plain_step_that_is_not_finite_changes_nothing(spoil, problem):
    two_levels = problem(segmenter=normalised())
    state = two_levels.warm_state(ADAM)
    before = values([*two_levels.phi, *two_levels.segmenter.buffers(), *state["m"], *state["v"]])
    wrong = spoil(two_levels).get("synthetic_loss", two_levels.synthetic_loss)
    step = plain(two_levels, state, lambda p: wrong(p, two_levels.augment(), slice(None)))
    assert step.skipped
    after = [*two_levels.phi, *two_levels.segmenter.buffers(), *step.state["m"], *step.state["v"]]
    assert same(before, values(after))
    assert step.state["step"] == 3


def test_a_real_loss_that_is_not_finite_stops_theta_only(estimator, problem):
    two_levels, usual = problem(), problem()
    state, usual_state = two_levels.warm_state(ADAM), usual.warm_state(ADAM)
    two_levels.real[0, 0, 2, 2] = torch.nan
    step = two_levels.run(estimator, ADAM, state)
    usual.run_plain(ADAM, usual_state)
    assert not step.skipped
    assert torch.isnan(step.real_loss)
    assert not any(torch.isfinite(g).all() for g in step.theta_gradient)
    assert same(two_levels.phi, usual.phi)


# Failures


def failing(loss, call, backward):
    """The same loss, but its n-th call, or the backward pass of it, fails."""
    calls = []

    def fail(_):
        raise RuntimeError("a device has failed")

    def evaluate(predict, *args):
        calls.append(1)
        if len(calls) != call:
            return loss(predict, *args)

        def spoiled(x):
            logits = predict(x)
            if backward:
                logits.register_hook(fail)
            else:
                fail(logits)
            return logits

        return loss(spoiled, *args)

    return evaluate


FAILURES = [
    *[(name, "synthetic", 1, "phi") for name in ESTIMATORS],
    ("exact", "real", 1, "phi"),
    *[(name, "real", 1, "new") for name in ESTIMATORS if name != "exact"],
    *[(name, "synthetic", 2, "new") for name in ESTIMATORS if name != "exact"],
    ("central", "synthetic", 3, "new"),
]


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("name", "which", "call", "left"), FAILURES)
def test_a_failure_leaves_phi_or_the_new_phi(name, which, call, left, backward, problem):
    two_levels, usual = problem(segmenter=normalised()), problem(segmenter=normalised())
    state, usual_state = two_levels.warm_state(ADAM), usual.warm_state(ADAM)
    phi = values(two_levels.phi)
    usual.run_plain(ADAM, usual_state)
    broken = failing(getattr(two_levels, f"{which}_loss"), call, backward)
    with pytest.raises(RuntimeError, match="a device has failed"):
        two_levels.run(ESTIMATORS[name], ADAM, state, **{f"{which}_loss": broken})
    params = list(two_levels.segmenter.parameters())
    assert same(params, phi if left == "phi" else usual.phi)
    assert all(param.requires_grad and param.grad is None for param in params)
    if (which, call) != ("synthetic", 1):
        assert same(two_levels.segmenter.buffers(), usual.segmenter.buffers())
    again = two_levels.run(ESTIMATORS[name], ADAM, ADAM.init(two_levels.phi))
    assert all(torch.isfinite(g).all() for g in again.theta_gradient)


# Batch normalisation


def test_batch_norm_in_training_mode(estimator, problem, error):
    """Each pass normalises by its own batch; the running statistics see the synthetic one."""
    two_levels, usual = problem(segmenter=normalised()), problem(segmenter=normalised())
    state, usual_state = two_levels.warm_state(ADAM), usual.warm_state(ADAM)
    expected = two_levels.numerical(ADAM, state)
    step = two_levels.run(accurate(estimator), ADAM, state)
    assert error(step.theta_gradient, expected) < tolerance(estimator)
    usual.run_plain(ADAM, usual_state)
    assert same(two_levels.segmenter.buffers(), usual.segmenter.buffers())
    assert two_levels.segmenter[3].calls == 4


def test_batch_norm_in_evaluation_mode(estimator, problem, error):
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


# Precision


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


# Several processes


def averaging(count):
    """``reduce`` of as many threads, each of which stands for a process."""
    barrier = threading.Barrier(count, timeout=60)
    shared = {}

    def reduce_of(rank):
        def reduce(tensors):
            shared[rank] = [tensor.clone() for tensor in tensors]
            barrier.wait()
            means = [
                torch.stack(several).mean(0)
                for several in zip(*(shared[r] for r in range(count)), strict=True)
            ]
            barrier.wait()
            with torch.no_grad():
                for tensor, mean in zip(tensors, means, strict=True):
                    tensor.copy_(mean)

        return reduce

    return reduce_of


def half_of(two_levels, rank):
    """Turn a problem into what one of two processes sees of it."""
    part = slice(2 * rank, 2 * rank + 2)
    for name in ("x", "noise", "real", "y", "y_real"):
        setattr(two_levels, name, getattr(two_levels, name)[part])
    gains = two_levels.theta[1]
    two_levels.augment = lambda: (
        two_levels.x * gains[part].view(-1, 1, 1, 1).exp()
        + two_levels.theta[0].exp() * two_levels.noise
    )
    return two_levels


@pytest.mark.parametrize("rule", [DESCENT, ADAM], ids=["sgd", "adam"])
def test_two_processes_give_what_one_gives(estimator, rule, problem, error):
    whole, halves = problem(), [half_of(problem(), rank) for rank in range(2)]
    options = {"max_gradient_norm": 0.05}
    expected = whole.run(estimator, rule, rule.init(whole.phi), **options)
    reduce_of, steps = averaging(2), [None, None]

    def work(rank):
        mine = halves[rank]
        steps[rank] = mine.run(
            estimator, rule, rule.init(mine.phi), reduce=reduce_of(rank), **options
        )

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, step in zip(halves, steps, strict=True):
        assert error(step.theta_gradient, expected.theta_gradient) < 1e-11
        assert error(mine.phi, whole.phi) < 1e-13
        torch.testing.assert_close(step.synthetic_loss, expected.synthetic_loss)
        torch.testing.assert_close(step.real_loss, expected.real_loss)
        torch.testing.assert_close(step.gradient_norm, expected.gradient_norm)


def test_processes_skip_a_step_together(problem):
    halves = [half_of(problem(), rank) for rank in range(2)]
    halves[1].x[0, 0, 0, 0] = torch.nan
    phi, reduce_of, skipped = values(halves[0].phi), averaging(2), [None, None]

    def work(rank):
        state = ADAM.init(halves[rank].phi)
        step = halves[rank].run(OneSidedDifference(), ADAM, state, reduce=reduce_of(rank))
        plainly = halves[rank].run_plain(ADAM, state, reduce=reduce_of(rank))
        skipped[rank] = (step.skipped, plainly.skipped)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert skipped == [(True, True)] * 2
    assert same(halves[0].phi, phi)


# Memory


class Checkpointed(nn.Module):
    """Keeps the input of its middle only, and computes it again in the backward pass."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept
        self.first, self.last = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.middle = nn.Sequential(nn.GELU(), nn.Conv2d(6, 6, 3, padding=1), nn.GELU())

    def forward(self, x):
        x = self.first(x)
        x = self.middle(x) if self.kept else checkpoint(self.middle, x, use_reentrant=False)
        return self.last(x)


@pytest.mark.parametrize("name", ["recompute", "central", "one_sided"])
def test_activation_checkpoints(name, problem, error):
    """They run the segmenter in the backward pass, with what its parameters are then."""
    results = []
    for kept in (True, False):
        two_levels = problem(segmenter=Checkpointed(kept))
        step = two_levels.run(ESTIMATORS[name], ADAM, two_levels.warm_state(ADAM))
        results.append([*step.theta_gradient, *two_levels.phi])
    assert error(*results) < 1e-12


class Box:
    """What stands for a tensor that a graph has kept."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_graphs_are_freed_between_passes(estimator, problem):
    """Activations live from the forward to the backward pass, not over the next pass."""
    two_levels, alive, counts = problem(), weakref.WeakSet(), []

    def pack(tensor):
        box = Box(tensor)
        alive.add(box)
        return box

    def watched(loss):
        def evaluate(*args):
            counts.append(len(alive))
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
                value = loss(*args)
            assert alive
            return value

        return evaluate

    two_levels.run(
        estimator, ADAM, ADAM.init(two_levels.phi), micro_batch=4,
        synthetic_loss=watched(two_levels.synthetic_loss),
        real_loss=[watched(two_levels.real_part(0, 2)), watched(two_levels.real_part(2, 4))],
    )  # fmt: skip
    mixed = {"recompute": 1, "central": 2, "one_sided": 1}
    name = next(name for name, how in ESTIMATORS.items() if how == estimator)
    if name == "exact":
        # The graph of the synthetic gradient is what it keeps; nothing of the real passes.
        assert counts[0] == 0
        assert counts[1] == counts[2] > 0
    else:
        assert counts == [0] * (3 + mixed[name])
    assert not alive


# Buffers


def test_buffers_come_back_also_where_they_are_replaced():
    module = nn.Sequential(nn.BatchNorm1d(2), Counting())
    kept = [module[0].running_mean, module[1].calls]
    with passes.kept_buffers(module):
        module(torch.randn(4, 2))
        assert module[1].calls == 1
    assert module[0].num_batches_tracked == 0
    assert module[0].running_mean is kept[0]
    assert module[1].calls is kept[1]
    assert same(kept, [torch.zeros(2), torch.zeros(())])
