"""Each augmentation inside the two-level step: its hypergradient against central differences.

Augmentations are found by name, so that a new one is held to the same.
"""

import copy

import pytest
import torch
from torch.nn import functional

from l2s_pydra.augmentation import available, build_augmentation
from l2s_pydra.bilevel.hypergradient import CentralDifference, Exact, OneSidedDifference
from l2s_pydra.bilevel.updates import adam, adamw, sgd
from l2s_pydra.networks import UNet
from l2s_pydra.segmentation.losses import build_loss

# Steps so small that no maximum of the pooling layers changes place (the kinks of the whole step).
LR, STEP = 1e-2, 1e-6
ESTIMATORS = (Exact(), Exact(recompute=True), CentralDifference(1e-6), OneSidedDifference(1e-6))
LOSSES = ("ce", "dice", "ce_dice", "logit_mse")
RULES = (sgd(momentum=0.9, nesterov=True), adam(eps=1e-3), adam(eps=1e-3, weight_decay=0.1),
         adamw(eps=1e-3))  # fmt: skip


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("name", available())
def test_equals_differences_of_the_whole_step(name, turn, sample, group_names):
    ndim = sample.image.ndim - 2
    # Over four turns, an augmentation meets each estimator, each loss and each rule.
    shift = available().index(name) + ndim
    estimator, loss = ESTIMATORS[turn], build_loss(LOSSES[(turn + shift) % 4])
    rule = RULES[(2 * turn + turn // 2 + shift) % 4]
    torch.manual_seed(turn)
    augmentation = build_augmentation(name, ndim=ndim, group_names=group_names).double()
    with torch.no_grad():
        # Away from where it starts: some parameters have no effect there.
        for param in augmentation.parameters():
            param.add_(0.1 * torch.randn_like(param))
    segmenter = UNet(ndim, 1, len(group_names), width=4, depth=2).double()
    first = slice(None, None, 2)
    labels = sample.groups[(slice(None), *[first] * ndim)].long()
    target = functional.one_hot(labels, len(group_names)).movedim(-1, 1).double()
    real = sample.image + 0.1 * torch.randn_like(sample.image)

    def synthetic_loss(predict, x, part):
        return loss(predict(x), target[part])

    def real_loss(predict):
        return loss(predict(real), target)

    def step(how, theta):
        trained = copy.deepcopy(segmenter)
        result = how(
            trained, rule, rule.init(list(trained.parameters())), theta=theta, learning_rate=LR,
            augment=lambda: augmentation(sample), synthetic_loss=synthetic_loss,
            real_loss=real_loss,
        )  # fmt: skip
        return result, trained

    theta = list(augmentation.parameters())
    result, _ = step(estimator, theta)
    # Along the hypergradient, so that what is compared is not small by chance.
    size = torch.cat([g.flatten() for g in result.theta_gradient]).norm()
    assert torch.isfinite(size)
    assert size > 0
    direction = [
        g / size + 0.1 * torch.randn_like(g) / g.numel() ** 0.5 for g in result.theta_gradient
    ]
    outer = []
    for sign in (1, -2):
        with torch.no_grad():
            torch._foreach_add_(theta, direction, alpha=sign * STEP)
        _, trained = step(estimator, theta)
        outer.append(float(real_loss(trained).detach()))
    expected = (outer[0] - outer[1]) / (2 * STEP)
    found = sum(float((g * d).sum()) for g, d in zip(result.theta_gradient, direction, strict=True))
    # What is left is mostly the rounding of the differences, 1e-16 over the steps.
    rounding = 1e-9
    assert abs(expected) > 100 * rounding
    assert found == pytest.approx(expected, rel=1e-4, abs=rounding)
