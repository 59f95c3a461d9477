"""Dice against counts by hand; distances against the definition; calibration in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from l2s_pydra.errors import ShapeError
from l2s_pydra.segmentation.metrics import calibration_error, dice_scores, hausdorff_95


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


def brute_force(predicted, reference, affine):
    """Surface distances by comparing every voxel with every other, as the definition says."""

    def surface(mask):
        """Voxels with a face neighbour outside, in mm."""
        inside = {tuple(index) for index in np.argwhere(mask)}
        steps = [sign * step for step in np.eye(3, dtype=int) for sign in (1, -1)]
        edge = [i for i in inside if any(tuple(np.add(i, step)) not in inside for step in steps)]
        return np.array(sorted(edge)) @ affine[:3, :3].T

    p, r = surface(predicted), surface(reference)
    distances = np.linalg.norm(p[:, None] - r[None], axis=-1)
    return float(np.percentile([*distances.min(1), *distances.min(0)], 95))


ISOTROPIC = np.eye(4)
ANISOTROPIC = np.diag([-1.0, 0.5, 3.0, 1.0])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) * [1, 1, 4]
SHEARED = np.array([[1, 0.4, 0, 9], [0, 1, 0, 9], [0, 0, 2, 9], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [ISOTROPIC, ANISOTROPIC, OBLIQUE, SHEARED])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_surface_distance_of_blobs_is_that_of_the_definition(affine, seed):
    noise = np.random.default_rng(seed).normal(size=(2, 14, 15, 16))
    predicted, reference = ndimage.gaussian_filter(noise, (0, 2, 2, 2)) > 0.02
    expected = brute_force(predicted, reference, affine)
    assert hausdorff_95(predicted, reference, affine) == pytest.approx(expected, rel=1e-12)
    assert hausdorff_95(reference, predicted, affine) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("axis", "expected"), [(0, 3.0), (1, 1.5), (2, 9.0)])
def test_a_moved_sheet_is_as_far_as_it_was_moved(axis, expected):
    """Every surface voxel of a sheet of one voxel is as far from the other as they are apart."""
    sheet = np.zeros((20, 20, 20), dtype=bool)
    sheet[tuple(5 if a == axis else slice(None) for a in range(3))] = True
    moved = np.roll(sheet, 3, axis)
    assert hausdorff_95(sheet, moved, ANISOTROPIC) == pytest.approx(expected)


def test_the_percentile_leaves_a_stray_voxel_out():
    cube = np.zeros((30, 30, 30), dtype=bool)
    cube[5:15, 5:15, 5:15] = True
    stray = cube.copy()
    stray[29, 29, 29] = True
    assert hausdorff_95(cube, stray, ISOTROPIC) == 0
    single = np.zeros_like(cube)
    single[0, 0, 0] = True
    assert hausdorff_95(single, np.roll(single, (3, 4), (0, 1)), ISOTROPIC) == 5


def test_in_a_slice_neighbours_are_in_the_slice():
    square = np.zeros((12, 12, 1), dtype=bool)
    square[3:9, 3:9] = True
    hole = square.copy()
    hole[5, 5] = False
    # 20 voxels at the rim of each, and 4 around the hole, 1 and 2 voxels from the rim
    expected = np.percentile([0.0] * 40 + [1.0, 1.0, 2.0, 2.0], 95)
    assert expected == 1
    assert hausdorff_95(square, hole, ISOTROPIC) == pytest.approx(expected)
    assert hausdorff_95(square, square, ISOTROPIC) == 0


def test_there_is_no_distance_to_nothing():
    empty, full = np.zeros((4, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool)
    for pair in ((empty, full), (full, empty), (empty, empty)):
        assert math.isnan(hausdorff_95(*pair, ISOTROPIC))
    with pytest.raises(ShapeError, match="do not compare"):
        hausdorff_95(empty, full[:2], ISOTROPIC)


def test_calibrated_posteriors_have_next_to_no_error():
    generator = np.random.default_rng(0)
    confidence = generator.random(400_000)
    correct = generator.random(400_000) < confidence
    # Standard error of a bin of 27 000 voxels is below 0.003
    assert calibration_error(confidence, correct) < 0.003


@pytest.mark.parametrize("claimed", [0.95, 0.6, 1.0])
def test_overconfidence_is_the_difference_to_the_truth(claimed):
    """Constant confidence is in one bin: the error is how far it is from the share of hits."""
    correct = np.arange(1000) % 2 == 0
    assert calibration_error(np.full(1000, claimed), correct) == pytest.approx(claimed - 0.5)


def test_bins_are_added_by_their_sizes():
    confidence = np.array([0.1] * 30 + [0.9] * 10)
    correct = np.array([True] * 6 + [False] * 24 + [True] * 5 + [False] * 5)
    # Three quarters are off by 0.1 to one side, a quarter by 0.4 to the other.
    assert calibration_error(confidence, correct) == pytest.approx(0.75 * 0.1 + 0.25 * 0.4)
    assert calibration_error(confidence, correct, bins=1) == pytest.approx(abs(0.3 - 11 / 40))


def test_there_is_no_calibration_of_nothing():
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0, dtype=bool)))
    with pytest.raises(ShapeError, match="do not compare"):
        calibration_error(np.zeros(2), np.zeros(3, dtype=bool))
