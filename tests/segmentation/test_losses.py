"""Losses against torch's own and closed forms."""

import math

import pytest
import torch
from torch.nn import functional

from l2s_pydra.errors import ConfigError, ShapeError
from l2s_pydra.segmentation.losses import (
    build_loss,
    cross_entropy_and_dice_loss,
    cross_entropy_loss,
    logit_mse_loss,
    soft_dice_loss,
)

SIZES = [(6, 8), (4, 6, 5)]
LOSSES = ("ce", "dice", "ce_dice", "logit_mse")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def case(generator, size, batch=3, classes=4):
    logits = torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    target = torch.rand(batch, classes, *size, generator=generator, dtype=torch.float64)
    return logits, target / target.sum(1, keepdim=True)


def hard(target):
    return torch.movedim(functional.one_hot(target.argmax(1), target.shape[1]), -1, 1).double()


@pytest.mark.parametrize("size", SIZES)
def test_cross_entropy_is_that_of_torch(size, generator):
    logits, target = case(generator, size)
    expected = functional.cross_entropy(logits, target)
    torch.testing.assert_close(cross_entropy_loss(logits, target), expected)
    expected = functional.cross_entropy(logits, target.argmax(1))
    torch.testing.assert_close(cross_entropy_loss(logits, hard(target)), expected)


def test_cross_entropy_of_ignorance_is_the_logarithm_of_the_classes(generator):
    _, target = case(generator, (5, 5), classes=7)
    assert float(cross_entropy_loss(torch.zeros_like(target), target)) == pytest.approx(math.log(7))


@pytest.mark.parametrize("size", SIZES)
def test_dice_class_by_class(size, generator):
    logits, target = case(generator, size)
    p = functional.softmax(logits, 1)
    scores = [
        2 * (p[b, k] * target[b, k]).sum() / (p[b, k].sum() + target[b, k].sum())
        for b in range(3)
        for k in range(4)
    ]
    expected = 1 - torch.stack(scores).mean()
    # The smoothing term is 1e-5 among sums of tens.
    torch.testing.assert_close(soft_dice_loss(logits, target), expected, atol=1e-6, rtol=0)


def test_dice_of_a_perfect_and_of_an_opposite_answer(generator):
    _, target = case(generator, (8, 8), classes=2)
    truth = hard(target)
    assert float(soft_dice_loss(100 * truth, truth)) == pytest.approx(0, abs=1e-6)
    assert float(soft_dice_loss(100 * truth.flip(1), truth)) == pytest.approx(1, abs=1e-6)


def test_dice_of_an_absent_class_is_perfect_if_none_is_found():
    truth = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    truth[:, 0] = 1
    logits = torch.zeros_like(truth)
    logits[:, 1:] = -1000
    assert float(soft_dice_loss(logits, truth)) == pytest.approx(0)
    assert soft_dice_loss(logits.requires_grad_(), truth).isfinite()


@pytest.mark.parametrize("size", SIZES)
def test_logit_mse_is_that_of_torch(size, generator):
    logits, target = case(generator, size)
    expected = functional.mse_loss(logits, torch.where(hard(target) > 0, 5.0, -5.0).double())
    torch.testing.assert_close(logit_mse_loss(logits, hard(target)), expected)


def test_the_sum_is_the_sum(generator):
    logits, target = case(generator, (6, 8))
    expected = cross_entropy_loss(logits, target) + soft_dice_loss(logits, target)
    torch.testing.assert_close(cross_entropy_and_dice_loss(logits, target), expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", SIZES)
def test_every_loss_is_a_mean_over_the_batch(name, size, generator):
    logits, target = case(generator, size)
    loss = build_loss(name)
    parts = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(loss(logits, target), torch.stack(parts).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_every_gradient_is_that_of_differences(name, generator):
    logits, target = case(generator, (3, 2), batch=2, classes=3)
    assert torch.autograd.gradcheck(
        lambda z: build_loss(name)(z, target), logits.requires_grad_(), fast_mode=True
    )
    assert torch.autograd.gradgradcheck(
        lambda z: build_loss(name)(z, target), logits, fast_mode=True
    )


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_must_agree(name):
    with pytest.raises(ShapeError, match=r"\(1, 2, 4, 4\) and target \(1, 1, 4, 4\)"):
        build_loss(name)(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))


def test_unknown_loss():
    with pytest.raises(ConfigError, match="unknown loss 'focal'; available: ce, dice, "):
        build_loss("focal")
