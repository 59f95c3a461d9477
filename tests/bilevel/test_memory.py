"""What is kept over the passes, and what is computed again."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from l2s_pydra.bilevel.updates import adam

ADAM = adam(eps=1e-4)


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
def test_activation_checkpoints(name, problem, error, estimators):
    """They run the segmenter in the backward pass, with what its parameters are then."""
    results = []
    for kept in (True, False):
        two_levels = problem(segmenter=Checkpointed(kept))
        step = two_levels.run(estimators[name], ADAM, two_levels.warm_state(ADAM))
        results.append([*step.theta_gradient, *two_levels.phi])
    assert error(*results) < 1e-12


class Box:
    """What stands for a tensor that a graph has kept."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_graphs_are_freed_between_passes(estimator, problem, estimators):
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
    name = next(name for name, how in estimators.items() if how == estimator)
    if name == "exact":
        # The graph of the synthetic gradient is what it keeps; nothing of the real passes.
        assert counts[0] == 0
        assert counts[1] == counts[2] > 0
    else:
        assert counts == [0] * (3 + mixed[name])
    assert not alive
