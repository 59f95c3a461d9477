"""Dice against counts by hand."""

import pytest
import torch

from l2s_pydra.segmentation.metrics import dice_scores


def test_counted_by_hand():
    predicted = torch.tensor([[0, 1, 1, 1], [2, 2, 0, 0], [3, 0, 0, 0]])
    reference = torch.tensor([[0, 1, 1, 0], [2, 2, 2, 2], [0, 0, 0, 0]])
    # Class 1: two of three and two. Class 2: two of two and four. Class 3: only predicted.
    # Class 4: in neither.
    scores = dice_scores(predicted, reference, 5)
    expected = torch.tensor([4 / 5, 4 / 6, 0, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(scores, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_sets_of_voxels(dtype):
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(0, 6, (7, 8, 9), generator=generator).to(dtype)
    reference = torch.randint(0, 6, (7, 8, 9), generator=generator).to(dtype)
    scores = dice_scores(predicted, reference, 6)
    for k in range(1, 6):
        p = {tuple(i) for i in (predicted == k).nonzero().tolist()}
        r = {tuple(i) for i in (reference == k).nonzero().tolist()}
        assert float(scores[k - 1]) == pytest.approx(2 * len(p & r) / (len(p) + len(r)))


def test_equal_maps_score_one():
    labels = torch.arange(12).view(3, 4) % 4
    assert dice_scores(labels, labels, 4).tolist() == [1, 1, 1]
