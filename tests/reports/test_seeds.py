import numpy as np
import pytest

from l2s_pydra.reports.seeds import over_seeds


def thetas(columns):
    names = list(columns)
    return [
        {"average": dict(zip(names, row, strict=True)), "start": {"a": 0.5}}
        for row in zip(*columns.values(), strict=True)
    ]


def test_mean_and_spread_over_seeds():
    found = over_seeds(thetas({"a": [1.0, 2.0, 3.0], "b": [5.0, 5.0, 5.0]}))
    a, b = found["values"]
    assert (a["start"], a["mean"], a["sd"], a["low"], a["high"]) == (0.5, 2.0, 1.0, 1.0, 3.0)
    assert (b["start"], b["mean"], b["sd"]) == (None, 5.0, 0.0)
    assert found["n_seeds"] == 3
    assert (found["judged"], found["pairs"]) == (False, [])


def test_values_that_trade_off_between_seeds_are_found():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 6))
    columns = {"a": x, "b": 2 - 3 * x + 0.01 * y, "c": y, "constant": np.ones(6)}
    (pair,) = over_seeds(thetas(columns))["pairs"]
    assert pair["names"] == ["a", "b"]
    assert pair["correlation"] == pytest.approx(-1, abs=1e-3)


def test_independent_values_do_not_trade_off():
    """Of 200 sets of ten pairs, 5 % have one beyond the bound; here within three deviations."""
    rng = np.random.default_rng(1)
    sets = [thetas({n: rng.standard_normal(5) for n in "abcde"}) for _ in range(200)]
    flagged = sum(bool(over_seeds(one)["pairs"]) for one in sets)
    assert flagged <= 10 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_values_that_some_models_lack_are_left_out():
    found = over_seeds([{"average": {"a": 1.0, "b": 2.0}}, {"average": {"a": 2.0, "b": None}}, {}])
    assert [value["name"] for value in found["values"]] == ["a"]
    assert found["n_seeds"] == 2
    assert over_seeds([]) == {"n_seeds": 0, "values": [], "pairs": [], "judged": False}
