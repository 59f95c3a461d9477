"""The summary of repeated trainings against numbers worked out by hand, by numpy, by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from l2s_pydra.reports.tables import to_number
from l2s_pydra.steps.paired import (
    PARTICIPANT_COLUMNS,
    SUMMARY_COLUMNS,
    Value,
    by_participant,
    crossed_interval,
    summarise,
)

MODES = ("synthseg", "learn2synth")


def value(mode, seed, participant, structure, dice, image=None, **more):
    seen = {name: more.pop(name) for name in ("expected", "false_positive") if name in more}
    return Value(
        **seen,
        mode=mode,
        seed=seed,
        contrast=more.pop("contrast", "T1w"),
        participant=participant,
        image=image or participant,
        structure=structure,
        whole=structure == "whole",
        metrics={"dice": dice, **more},
    )


def row(rows, mode, structure="mean", metric="dice", contrast="T1w"):
    wanted = {"mode": mode, "structure": structure, "metric": metric, "contrast": contrast}
    (found,) = (r for r in rows if wanted.items() <= r.items())
    return {key: to_number(text) for key, text in found.items()}


def test_worked_out_by_hand():
    """Two participants, two seeds, two structures."""
    table = {
        ("synthseg", "0"): {"a": (0.6, 0.8), "b": (0.5, 0.7)},
        ("synthseg", "1"): {"a": (0.6, 0.6), "b": (0.5, 0.5)},
        ("learn2synth", "0"): {"a": (0.7, 0.9), "b": (0.7, 0.9)},
        ("learn2synth", "1"): {"a": (0.7, 0.7), "b": (0.7, 0.7)},
    }
    values = [
        value(mode, seed, who, structure, dice)
        for (mode, seed), people in table.items()
        for who, pair in people.items()
        for structure, dice in zip(("grey", "white"), pair, strict=True)
    ]
    rows = summarise(values, modes=MODES, baseline="synthseg")
    assert [r["structure"] for r in rows] == ["mean"] * 2 + ["grey"] * 2 + ["white"] * 2
    assert set(rows[0]) == set(SUMMARY_COLUMNS)
    base, mine = row(rows, "synthseg"), row(rows, "learn2synth")
    # Seeds: (0.7 + 0.6) / 2 and (0.6 + 0.5) / 2; 0.8 and 0.7
    assert base["mean"] == pytest.approx(0.6)
    assert base["sd_seeds"] == pytest.approx(0.1 / math.sqrt(2), rel=1e-5)
    assert mine["mean"] == pytest.approx(0.75)
    assert (mine["n_seeds"], mine["n_participants"], mine["n_undefined"]) == (2, 2, 0)
    # a: 0.75 - 0.65; b: 0.75 - 0.55
    assert mine["difference"] == pytest.approx(0.15)
    # Participants: 0.005 / 2; seeds of either mode: 0.005 / 2; each with one degree of freedom
    half = stats.t.ppf(0.975, 3) * math.sqrt(3 * 0.0025)
    assert mine["ci_low"] == pytest.approx(0.15 - half, rel=1e-5)
    assert mine["ci_high"] == pytest.approx(0.15 + half, rel=1e-5)
    assert math.isnan(base["difference"])
    assert row(rows, "learn2synth", "grey")["difference"] == pytest.approx(0.15)


def test_random_tables_against_arrays():
    """Four seeds, five participants with two images each, three structures."""
    dice = np.random.default_rng(0).random((2, 4, 5, 2, 3))
    values = [
        value(MODES[m], str(s), f"sub-{p}", f"k{k}", dice[m, s, p, i, k], image=f"sub-{p}_run-{i}")
        for m, s, p, i, k in np.ndindex(dice.shape)
    ]
    rows = summarise(values, modes=MODES, baseline="synthseg")
    for structure, mine in (("mean", dice.mean(-1)), ("k1", dice[..., 1])):
        found = row(rows, "learn2synth", structure)
        seeds = mine[1].mean((1, 2))
        assert found["mean"] == pytest.approx(seeds.mean(), rel=1e-5)
        assert found["sd_seeds"] == pytest.approx(seeds.std(ddof=1), rel=1e-5)
        tables = mine.mean(-1)
        difference = tables[1].mean() - tables[0].mean()
        assert found["difference"] == pytest.approx(difference, rel=1e-4)
        ends = crossed_interval(tables[1], tables[0])[1:]
        assert (found["ci_low"], found["ci_high"]) == pytest.approx(ends, rel=1e-4)
        assert found["n_participants"] == 5


def test_a_structure_that_one_mode_misses_is_in_no_mean_distance():
    """Otherwise to miss what is hard would shorten the mean distance."""
    values = [
        value("synthseg", "0", "a", "grey", 0.5, hd95_mm=4.0),
        value("synthseg", "0", "a", "white", 0.0, hd95_mm=math.nan),
        value("learn2synth", "0", "a", "grey", 0.6, hd95_mm=3.0),
        value("learn2synth", "0", "a", "white", 0.3, hd95_mm=20.0),
    ]
    rows = summarise(values, modes=MODES, baseline="synthseg")
    base, mine = (row(rows, mode, metric="hd95_mm") for mode in MODES)
    assert (base["mean"], base["n_values"], base["n_undefined"]) == (4, 2, 1)
    assert (mine["mean"], mine["n_values"], mine["n_undefined"]) == (3, 2, 0)
    assert mine["difference"] == -1
    assert math.isnan(row(rows, "learn2synth", "white", "hd95_mm")["mean"])
    assert row(rows, "learn2synth", "white", "hd95_mm")["n_participants"] == 0
    # The overlap is defined wherever the reference has the structure.
    assert (base["mean"], row(rows, "synthseg")["mean"]) == (4, 0.25)
    assert row(rows, "learn2synth")["difference"] == pytest.approx(0.2)


def test_what_the_reference_lacks_is_compared_in_no_mode():
    """One mode finds what is not there (Dice 0), the other does not (Dice undefined)."""
    lacks = {"expected": False}
    values = [
        value("synthseg", "0", "a", "grey", 0.5),
        value("synthseg", "0", "a", "lesion", math.nan, **lacks),
        value("learn2synth", "0", "a", "grey", 0.6),
        value("learn2synth", "0", "a", "lesion", 0.0, false_positive=True, **lacks),
    ]
    for rows in (
        summarise(values, modes=MODES, baseline="synthseg"),
        summarise(values[::-1], modes=MODES, baseline="synthseg"),
    ):
        base, mine = (row(rows, mode) for mode in MODES)
        assert (base["mean"], mine["mean"]) == (0.5, 0.6)
        assert mine["difference"] == pytest.approx(0.1)
        assert (base["n_values"], base["n_undefined"], base["n_false"]) == (1, 0, 0)
        assert (mine["n_values"], mine["n_undefined"], mine["n_false"]) == (1, 0, 1)


def test_participants_weigh_the_same_whatever_their_number_of_images():
    """Participant a has three sessions, b one; b has one of two structures."""
    table = {"synthseg": (0.5, 0.8, 0.1), "learn2synth": (0.6, 0.6, 0.9)}
    values = []
    for mode, (often, once, other) in table.items():
        for session in range(3):
            values.append(value(mode, "0", "a", "grey", often, image=f"a{session}"))
            values.append(value(mode, "0", "a", "white", other, image=f"a{session}"))
        values.append(value(mode, "0", "b", "grey", once))
    rows = summarise(values, modes=MODES, baseline="synthseg")
    # a: (0.5 + 0.1) / 2 = 0.3, b: 0.8; a: 0.75, b: 0.6
    assert row(rows, "synthseg")["mean"] == pytest.approx(0.55)
    assert row(rows, "learn2synth")["mean"] == pytest.approx(0.675)
    assert row(rows, "learn2synth")["difference"] == pytest.approx(0.125)
    assert row(rows, "learn2synth", "grey")["difference"] == pytest.approx(-0.05)


def test_seeds_are_compared_on_the_same_participants():
    """A fold of one seed failed, so that participant b is easy and in one seed only."""
    values = [
        value("synthseg", "0", "a", "grey", 0.5),
        value("synthseg", "0", "b", "grey", 0.9),
        value("synthseg", "1", "a", "grey", 0.5),
        value("learn2synth", "0", "a", "grey", 0.6),
        value("learn2synth", "0", "b", "grey", 1.0),
    ]
    rows = summarise(values, modes=MODES, baseline="synthseg")
    base, mine = (row(rows, mode) for mode in MODES)
    assert (base["mean"], base["sd_seeds"], base["n_seeds"]) == (0.5, 0, 2)
    assert (mine["mean"], mine["difference"]) == (0.6, pytest.approx(0.1))
    assert base["n_participants"] == mine["n_participants"] == 1
    assert (base["n_values"], mine["n_values"]) == (3, 2)


def test_rows_by_participant_are_what_is_averaged():
    values = [
        value(mode, seed, who, structure, dice + len(structure) / 100)
        for mode, seed, who, dice in (
            ("synthseg", "0", "a", 0.1),
            ("synthseg", "0", "b", 0.2),
            ("learn2synth", "0", "a", 0.3),
            ("learn2synth", "1", "a", 0.5),
        )
        for structure in ("grey", "whole", "blood")
    ]
    rows = by_participant(values)
    assert {tuple(r) for r in rows} == {PARTICIPANT_COLUMNS}
    found = {(r["mode"], r["seed"], r["participant_id"]): float(r["value"]) for r in rows}
    assert found == {
        ("synthseg", "0", "a"): pytest.approx(0.145),
        ("learn2synth", "0", "a"): pytest.approx(0.345),
        ("learn2synth", "1", "a"): pytest.approx(0.545),
    }
    mine = row(summarise(values, modes=MODES, baseline="synthseg"), "learn2synth")
    assert mine["mean"] == pytest.approx((0.345 + 0.545) / 2)


def test_a_mode_without_values_has_its_rows():
    rows = summarise([value("synthseg", "0", "a", "grey", 0.5)], modes=MODES, baseline="synthseg")
    mine = row(rows, "learn2synth")
    assert mine["n_seeds"] == mine["n_participants"] == 0
    assert math.isnan(mine["mean"])
    assert math.isnan(mine["difference"])


def test_the_union_is_in_no_mean_and_contrasts_are_apart():
    values = [
        value("synthseg", "0", "a", "whole", 0.9),
        value("synthseg", "0", "a", "grey", 0.5),
        value("synthseg", "0", "a", "grey", 0.1, contrast="T2w", image="other"),
    ]
    rows = summarise(values, modes=["synthseg"], baseline="synthseg")
    assert [r["structure"] for r in rows] == ["mean", "grey", "whole", "mean", "grey"]
    assert row(rows, "synthseg")["mean"] == 0.5
    assert row(rows, "synthseg", contrast="T2w")["mean"] == 0.1


def test_folds_of_one_seed_are_one_seed():
    """An image that several folds assess is averaged; others are in one fold each."""
    values = [
        value("synthseg", "0", "a", "grey", 0.4),
        value("synthseg", "0", "a", "grey", 0.6),
        value("synthseg", "0", "b", "grey", 0.7),
    ]
    found = row(summarise(values, modes=["synthseg"], baseline="synthseg"), "synthseg")
    assert (found["mean"], found["n_seeds"]) == (pytest.approx(0.6), 1)
    assert math.isnan(found["sd_seeds"])
    # Another seed, with its folds: 0.5 and 0.9, so that seeds are 0.6 and 0.7.
    values += [value("synthseg", "1", who, "grey", dice) for who, dice in (("a", 0.5), ("b", 0.9))]
    found = row(summarise(values, modes=["synthseg"], baseline="synthseg"), "synthseg")
    assert (found["mean"], found["n_seeds"]) == (pytest.approx(0.65), 2)
    assert found["sd_seeds"] == pytest.approx(0.1 / math.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("participants", [3, 8, 20])
@pytest.mark.parametrize("both", [0.002, 0.01])
@pytest.mark.parametrize("common", [0.0, 0.004, 0.01])
def test_identical_modes_are_rarely_told_apart(seeds, participants, both, common):
    """A training moves all participants by ``common`` and each by ``both``; modes are the same."""
    rng = np.random.default_rng(seeds)
    tables = rng.normal(0, common, (1000, 2, seeds, 1))
    tables = tables + rng.normal(0, both, (1000, 2, seeds, participants))
    ends = np.array([crossed_interval(*pair)[1:] for pair in tables])
    assert np.mean((ends[:, 0] > 0) | (ends[:, 1] < 0)) <= 0.08


def test_a_difference_is_found_as_often_as_it_can_be():
    """Twice the error of a known spread: 0.01 / sqrt(5) by seed in either mode, 40 participants."""
    rng = np.random.default_rng(0)
    tables = rng.normal(0, 0.01, (500, 2, 5, 1)) + rng.normal(0, 0.02, (500, 1, 1, 40))
    tables[:, 0] += 0.02
    low = np.array([crossed_interval(*pair)[1] for pair in tables])
    power = 1 - stats.nct.cdf(stats.t.ppf(0.975, 8), 8, 0.02 / (0.01 * math.sqrt(2 / 5)))
    assert np.mean(low > 0) == pytest.approx(power, abs=0.06)


@pytest.mark.parametrize("alone", [0, 1, 2])
def test_with_one_source_of_variance_the_interval_is_that_of_a_t_test(alone):
    """Participants alone: paired; seeds of either alone: Welch's and, of one, one sample."""
    people, first, second = np.array([0.1, 0.4, 0.3]), np.zeros(4), np.zeros(2)
    if alone == 0:
        expected = stats.t.interval(0.95, 2, people.mean(), stats.sem(people))
    elif alone == 1:
        first, people = np.array([0.1, 0.2, 0.4, 0.3]), np.zeros(3)
        expected = stats.t.interval(0.95, 3, first.mean(), stats.sem(first))
    else:
        first, second, people = np.array([0.1, 0.2, 0.4, 0.3]), np.array([0.2, 0.1]), np.zeros(3)
        expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = crossed_interval(first[:, None] + people, second[:, None] + np.zeros(3))
    assert found[1:] == pytest.approx(tuple(expected), rel=1e-9)


def test_intervals_of_too_few():
    assert all(map(math.isnan, crossed_interval([], [[1.0]])))
    for mode, baseline in (
        ([[0.3], [0.5]], [[0.1], [0.1]]),
        ([[0.3, 0.5]], [[0.1, 0.1], [0.1, 0.1]]),
        ([[0.3, 0.5], [0.3, 0.5]], [[0.1, 0.1]]),
    ):
        difference, low, high = crossed_interval(mode, baseline)
        assert (difference, math.isnan(low), math.isnan(high)) == (pytest.approx(0.3), True, True)
    assert crossed_interval([[0.5, 0.5]] * 2, [[0.25, 0.25]] * 2) == (0.25, 0.25, 0.25)
