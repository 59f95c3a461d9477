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


@pytest.mark.parametrize(
    "first", [(0, 0, 0), (1, 1, 2), (3, 2, 0), (6, 4, 0), (-2, -1, 0), (0, -4, -9)]
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 4), (8, 9, 9), (15, 14, 16)])
def test_a_part_of_the_grid_or_of_one_around_it(box, first, shape):
    """Beyond the grid there is background as well."""
    around = torch.zeros(4, 40, 40, 40)
    around[0] = 1
    around[:, 15:22, 15:20, 15:21] = box.whole()
    inside = tuple(slice(15 + f, 15 + f + n) for f, n in zip(first, shape, strict=True))
    part = box.part(first, shape)
    assert part.shape == shape
    assert torch.equal(part.whole(), around[:, *inside])


def test_within_a_share_of_each_voxel(box):
    share = torch.rand(box.shape, generator=torch.Generator().manual_seed(1))
    share[share < 0.3] = 0
    whole, before = box.whole().clone(), box.values.clone()
    found = box.within(share)
    torch.testing.assert_close(found.whole()[1:], whole[1:] * share)
    torch.testing.assert_close(found.whole().sum(0), torch.ones(box.shape))
    assert torch.equal(box.values, before)
