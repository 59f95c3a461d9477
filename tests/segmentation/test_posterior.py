"""A box of posteriors."""

import math

import pytest
import torch

from l2s_pydra.segmentation import Posterior


@pytest.fixture
def box():
    values = torch.rand(4, 3, 4, 5, generator=torch.Generator().manual_seed(0)).softmax(0)
    return Posterior(values=values, start=(2, 0, 1), shape=(7, 5, 6))


def test_beyond_the_box_there_is_background(box):
    whole = box.whole()
    assert whole.shape == (4, 7, 5, 6)
    assert torch.equal(whole[:, 2:5, :4, 1:], box.values)
    torch.testing.assert_close(whole.sum(0), torch.ones(7, 5, 6))
    assert float(whole[1:].sum()) == pytest.approx(float(box.values[1:].sum()))


def test_what_is_asked_of_the_box_is_that_of_the_whole(box):
    whole = box.whole()
    assert torch.equal(box.labels(), whole.argmax(0).short())
    torch.testing.assert_close(box.sums(), whole.double().sum((1, 2, 3)))
    expected = torch.special.entr(whole).sum(0)
    torch.testing.assert_close(box.entropy(), expected)
    assert 0 <= float(box.entropy().min()) <= float(box.entropy().max()) <= math.log(4)


def test_a_box_that_is_the_whole_is_not_copied():
    values = torch.rand(2, 3, 4, 5)
    assert Posterior(values=values, start=(0, 0, 0), shape=(3, 4, 5)).whole() is values


@pytest.mark.parametrize("first", [(0, 0, 0), (1, 1, 2), (3, 2, 0), (6, 4, 0)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 4)])
def test_a_part_of_the_grid(box, first, shape):
    inside = tuple(slice(f, min(f + n, s)) for f, n, s in zip(first, shape, box.shape, strict=True))
    shape = tuple(s.stop - s.start for s in inside)
    part = box.part(first, shape)
    assert part.shape == shape
    assert torch.equal(part.whole(), box.whole()[:, *inside])


def test_what_is_cleared_is_background(box):
    mask = torch.rand(box.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    expected = box.whole().clone()
    expected[:, mask] = 0
    expected[0, mask] = 1
    box.clear(mask)
    assert torch.equal(box.whole(), expected)
    assert not torch.equal(box.values[0], torch.ones_like(box.values[0]))
