"""Steps that are skipped, and steps in which something fails."""

import pytest
import torch

from l2s_pydra.bilevel.plain import plain_step
from l2s_pydra.bilevel.updates import adam

ESTIMATORS = ("exact", "recompute", "central", "one_sided")
ADAM = adam(eps=1e-4)


def values(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


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


@pytest.mark.parametrize("spoil", [spoil_image, spoil_loss, spoil_gradient])
def test_a_step_that_is_not_finite_changes_nothing(estimator, spoil, problem, normalised):
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
def test_a_plain_step_that_is_not_finite_changes_nothing(spoil, problem, normalised):
    two_levels = problem(segmenter=normalised())
    state = two_levels.warm_state(ADAM)
    before = values([*two_levels.phi, *two_levels.segmenter.buffers(), *state["m"], *state["v"]])
    wrong = spoil(two_levels).get("synthetic_loss", two_levels.synthetic_loss)
    step = plain_step(
        two_levels.segmenter, ADAM, state, learning_rate=two_levels.learning_rate,
        loss=lambda p: wrong(p, two_levels.augment(), slice(None)),
    )  # fmt: skip
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
def test_a_failure_leaves_phi_or_the_new_phi(
    name, which, call, left, backward, problem, estimators, normalised
):
    two_levels, usual = problem(segmenter=normalised()), problem(segmenter=normalised())
    state, usual_state = two_levels.warm_state(ADAM), usual.warm_state(ADAM)
    phi = values(two_levels.phi)
    usual.run_plain(ADAM, usual_state)
    broken = failing(getattr(two_levels, f"{which}_loss"), call, backward)
    with pytest.raises(RuntimeError, match="a device has failed"):
        two_levels.run(estimators[name], ADAM, state, **{f"{which}_loss": broken})
    params = list(two_levels.segmenter.parameters())
    assert same(params, phi if left == "phi" else usual.phi)
    assert all(param.requires_grad and param.grad is None for param in params)
    if (which, call) != ("synthetic", 1):
        assert same(two_levels.segmenter.buffers(), usual.segmenter.buffers())
    again = two_levels.run(estimators[name], ADAM, ADAM.init(two_levels.phi))
    assert all(torch.isfinite(g).all() for g in again.theta_gradient)
