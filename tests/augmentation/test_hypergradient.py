"""Each augmentation inside the two-level step: its hypergradient against central differences."""

import copy

import pytest
import torch
from torch.nn import functional

from l2s_pydra.augmentation import available, build_augmentation
from l2s_pydra.bilevel.hypergradient import Exact, OneSidedDifference
from l2s_pydra.bilevel.updates import adam
from l2s_pydra.networks import UNet

# Steps so small that no maximum of the pooling layers changes place (the kinks of the whole step).
RULE, LR, STEP = adam(eps=1e-3), 1e-2, 1e-6


@pytest.mark.parametrize("estimator", [Exact(), OneSidedDifference(1e-6)])
@pytest.mark.parametrize("name", available())
def test_equals_differences_of_the_whole_step(name, estimator, sample, group_names):
    torch.manual_seed(0)
    ndim = sample.image.ndim - 2
    augmentation = build_augmentation(name, ndim=ndim, group_names=group_names).double()
    segmenter = UNet(ndim, 1, len(group_names), width=4, depth=2).double()
    first = slice(None, None, 2)
    labels = sample.groups[(slice(None), *[first] * ndim)].long()
    real = sample.image + 0.1 * torch.randn_like(sample.image)

    def synthetic_loss(predict, x, part):
        return functional.cross_entropy(predict(x), labels[part])

    def real_loss(predict):
        return functional.cross_entropy(predict(real), labels)

    def step(how, theta):
        trained = copy.deepcopy(segmenter)
        result = how(
            trained, RULE, RULE.init(list(trained.parameters())), theta=theta, learning_rate=LR,
            augment=lambda: augmentation(sample), synthetic_loss=synthetic_loss,
            real_loss=real_loss,
        )  # fmt: skip
        return result, trained

    theta = list(augmentation.parameters())
    result, _ = step(estimator, theta)
    direction = [torch.randn_like(tensor) for tensor in theta]
    outer = []
    for sign in (1, -2):
        with torch.no_grad():
            torch._foreach_add_(theta, direction, alpha=sign * STEP)
        _, trained = step(estimator, theta)
        outer.append(float(real_loss(trained).detach()))
    expected = (outer[0] - outer[1]) / (2 * STEP)
    found = sum(float((g * d).sum()) for g, d in zip(result.theta_gradient, direction, strict=True))
    # What is left is mostly the rounding of the differences, 1e-16 over the steps.
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)
