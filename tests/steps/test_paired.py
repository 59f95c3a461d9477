"""The summary of repeated trainings against numbers worked out by hand and by numpy."""

import math

import numpy as np
import pytest
from scipy import stats

from l2s_pydra.reports.tables import to_number
from l2s_pydra.steps.paired import SUMMARY_COLUMNS, Value, summarise, t_interval

MODES = ("synthseg", "learn2synth")


def value(mode, seed, participant, structure, dice, image=None, **more):
    return Value(
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
    half = 12.706205 * np.std([0.1, 0.2], ddof=1) / math.sqrt(2)
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
        paired = (mine[1] - mine[0]).mean((0, 2))
        interval = stats.t.interval(0.95, 4, paired.mean(), stats.sem(paired))
        assert found["difference"] == pytest.approx(paired.mean(), rel=1e-4)
        assert (found["ci_low"], found["ci_high"]) == pytest.approx(interval, rel=1e-4)
        assert found["n_participants"] == 5


def test_values_that_are_not_defined_are_left_out_in_pairs():
    values = [
        value("synthseg", "0", "a", "grey", 0.5, hd95_mm=4.0),
        value("synthseg", "0", "a", "white", 0.0, hd95_mm=math.nan),
        value("learn2synth", "0", "a", "grey", 0.6, hd95_mm=3.0),
        value("learn2synth", "0", "a", "white", 0.3, hd95_mm=20.0),
    ]
    rows = summarise(values, modes=MODES, baseline="synthseg")
    base, mine = (row(rows, mode, metric="hd95_mm") for mode in MODES)
    assert (base["mean"], base["n_undefined"]) == (4, 1)
    assert (mine["mean"], mine["n_undefined"]) == (11.5, 0)
    # White matter is in one only: it is not in the difference.
    assert mine["difference"] == -1
    assert math.isnan(mine["ci_low"])
    assert row(rows, "learn2synth", "white", "hd95_mm")["n_participants"] == 1
    assert math.isnan(row(rows, "learn2synth", "white", "hd95_mm")["difference"])
    assert row(rows, "learn2synth")["difference"] == pytest.approx(0.2)


def test_participants_of_one_mode_only_are_in_no_difference():
    values = [value("synthseg", "0", "a", "grey", 0.5), value("synthseg", "0", "b", "grey", 0.9)]
    values += [value("learn2synth", "0", "a", "grey", 0.6)]
    rows = summarise(values, modes=MODES, baseline="synthseg")
    mine = row(rows, "learn2synth")
    assert (mine["difference"], mine["n_participants"]) == (pytest.approx(0.1), 1)
    assert row(rows, "synthseg")["n_participants"] == 2


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


@pytest.mark.parametrize("sample", [[0.1, 0.2, 0.4], [1.0, -1.0], list(range(30))])
def test_intervals_are_those_of_the_t_distribution(sample):
    mean, low, high = t_interval(sample)
    assert mean == pytest.approx(np.mean(sample))
    expected = stats.t.interval(0.95, len(sample) - 1, np.mean(sample), stats.sem(sample))
    assert (low, high) == pytest.approx(expected, rel=1e-12)


def test_intervals_of_too_few():
    assert all(map(math.isnan, t_interval([])))
    mean, low, high = t_interval([0.3])
    assert (mean, math.isnan(low), math.isnan(high)) == (0.3, True, True)
    assert t_interval([0.2, 0.2]) == (0.2, 0.2, 0.2)
