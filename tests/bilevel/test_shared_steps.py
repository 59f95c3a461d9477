"""Several processes take the step that one takes."""

import threading

import pytest
import torch

from l2s_pydra.bilevel.hypergradient import OneSidedDifference
from l2s_pydra.bilevel.updates import adam, sgd

ADAM, DESCENT = adam(eps=1e-4), sgd(momentum=0.9, weight_decay=0.01)


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
    phi, reduce_of, skipped = (
        [param.detach().clone() for param in halves[0].phi],
        averaging(2),
        [None, None],
    )

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
    assert all(map(torch.equal, halves[0].phi, phi))
