"""Scores against sums written out, and calibration against lines that are known."""

import numpy as np
import pytest

from l2s_pydra.steps.calibration import fit_quality
from l2s_pydra.steps.quality import normalised_entropy, predicted_dice, soft_measures


def posteriors(seed=0, count=4, shape=(11, 6, 5)):
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.full(count, 0.4), size=shape)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0)).astype(np.float32)


def test_soft_measures_are_their_formula():
    p = posteriors()
    found = soft_measures(p)
    winner = p.argmax(0)
    for channel, frame in enumerate(p.astype(float)):
        hard = winner == channel
        expected = 2 * frame[hard].sum() / (frame.sum() + hard.sum())
        assert found.self_dice[channel] == pytest.approx(expected, rel=1e-5)
        assert found.voxels[channel] == pytest.approx(frame.sum(), rel=1e-6)


def test_certain_posteriors_agree_with_themselves_and_missing_ones_have_no_score():
    p = np.zeros((3, 2, 2, 2), dtype=np.float32)
    p[0, 0], p[1, 1] = 1, 1
    found = soft_measures(p).self_dice
    assert found[:2].tolist() == [1, 1]
    assert np.isnan(found[2])


def test_entropy_is_its_formula():
    p = posteriors(1)
    expected = -(p.astype(float) * np.log(np.maximum(p, 1e-30))).sum(0) / np.log(4)
    np.testing.assert_allclose(normalised_entropy(p), expected, atol=1e-5)


NAMES = ("a", "b", "c")


def values(seed, images, slope=0.8):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.7, 0.98, (images, 3))
    return scores, np.array([0.1, 0.0, -0.1]) + slope * scores


def test_many_images_give_the_line_of_each_structure():
    scores, dice = values(0, 200)
    fitted = fit_quality(scores, dice, NAMES)
    assert fitted["images"] == 200
    assert fitted["error"] < 0.005
    guesses = predicted_dice(fitted, ("background", *NAMES), np.array([1, 0.8, 0.8, 0.8]))
    assert guesses[0] is None
    assert guesses[1:] == pytest.approx([0.74, 0.64, 0.54], abs=0.01)


def test_one_image_shifts_the_score_and_keeps_its_slope():
    scores, dice = values(1, 1)
    fitted = fit_quality(scores, dice, NAMES)
    assert fitted["error"] is None
    assert {line["slope"] for line in fitted["lines"].values()} == {1.0}
    # One image counts for a third against the offset that all share
    common = (dice - scores).mean()
    expected = scores[0] + common + (dice - scores - common)[0] / 3
    guesses = predicted_dice(fitted, NAMES, scores[0])
    assert guesses == pytest.approx(expected.tolist(), abs=1e-4)


def test_scores_that_go_the_wrong_way_are_not_believed():
    scores = np.linspace(0.5, 0.95, 20)[:, None] * np.ones(3)
    fitted = fit_quality(scores, 1 - scores, NAMES)
    assert all(line["slope"] == 0 for line in fitted["lines"].values())


def test_structures_and_images_without_a_value():
    scores, dice = values(2, 5)
    scores[:, 1], dice[2, 0] = np.nan, np.nan
    fitted = fit_quality(scores, dice, NAMES)
    assert [fitted["lines"][name]["images"] for name in NAMES] == [4, 0, 5]
    assert fitted["lines"]["b"]["validation_dice"] is None
    guess = predicted_dice(fitted, NAMES, np.array([np.nan, 0.9, 2.0]))
    assert guess[0] is None
    assert 0 <= guess[1] <= 1
    assert guess[2] == 1.0
    assert fit_quality(np.full((2, 3), np.nan), dice[:2], NAMES) == {}


def test_the_error_is_that_of_images_left_out():
    rng = np.random.default_rng(3)
    scores, dice = values(3, 30)
    noisy = dice + rng.normal(0, 0.05, dice.shape)
    assert fit_quality(scores, noisy, NAMES)["error"] == pytest.approx(0.05, rel=0.25)


def test_a_model_without_calibration_predicts_nothing():
    assert predicted_dice(None, NAMES, np.ones(3)) == [None] * 3
