import numpy as np
import pytest

from l2s_pydra.reports.verdicts import correlation_map, learned_verdicts


def value(name, verdict, **changes):
    row = {
        "name": name, "value": 0.5, "wander": 0.01, "moving": False, "push": -6.25, "hold": 4.5,
        "partners": [], "of": [], "verdict": verdict,
    }  # fmt: skip
    return {**row, **changes}


def facts(values, **changes):
    names = [row["name"] for row in values]
    found = {
        "steps": 400, "threshold": 0.7, "least_correlation": 0.7, "pushed": 4.0, "held": 4.0,
        "values": values, "groups": [],
        "correlation": {"names": names, "matrix": np.eye(len(names)).tolist()},
        "spectrum": {"directions": 3, "determined": 2, "condition": 12.0, "flat": []},
    }  # fmt: skip
    return {**found, **changes}


def partners(*correlations):
    return [{"name": f"exponent_{i}", "correlation": r} for i, r in enumerate(correlations)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (value("a", "determined"), "determined"),
        (value("a", "determined", moving=True), "determined; still moving when training ended"),
        (value("a", "determined", of=["b_c", "d"]), "determined (follows from b c, d)"),
        (value("a", "unmoved", moving=True), "hardly moved by the data"),
        (
            value("a", "pushed", moving=True),
            "pushed by the data, not settled when training ended",
        ),
        (
            value("a", "pushed", partners=partners(0.6)),
            "pushed by the data, not settled when training ended; trades off with "
            "exponent 0 (+0.60)",
        ),
        (value("a", "unknown", push=None, hold=None), "too few steps to tell"),
        (
            value("a", "together", partners=partners(-0.9, 0.8)),
            "only together with exponent 0 (−0.90), exponent 1 (+0.80)",
        ),
        (
            value("a", "partly", partners=partners(0.6)),
            "determined in part: trades off with exponent 0 (+0.60)",
        ),
        (
            value("a", "together", partners=partners(*[0.9] * 5)),
            "only together with exponent 0 (+0.90), exponent 1 (+0.90), exponent 2 (+0.90) "
            "and 2 more",
        ),
    ],
)
def test_verdicts_in_words(row, words):
    (found,) = learned_verdicts(facts([row]))["rows"]
    assert found["verdict"] == words


def test_summary_counts():
    kinds = ["determined", "determined", "together", "pushed", "unmoved"]
    found = learned_verdicts(facts([value(str(i), kind) for i, kind in enumerate(kinds)]))
    assert found["summary"] == (
        "Judged from 400 gradients: 2 of 5 values are determined by the data, 1 only together with "
        "others, 1 pushed, not settled when training ended, 1 hardly moved."
    )
    assert found["directions"] == (
        "The gradients tell 2 of 3 combinations of the values apart; the best holds 12 times "
        "the information of the worst."
    )
    assert found["rows"][0]["push"] == "−6.2"


def test_flat_directions_are_named():
    members = [{"name": "exponent_2", "weight": 0.7}, {"name": "exponent_4", "weight": -0.7}]
    flat = [{"share": 0.0, "members": members}] * 5
    spectrum = {"directions": 9, "determined": 4, "condition": 1e9, "flat": flat}
    text = learned_verdicts(facts([value("a", "determined")], spectrum=spectrum))["directions"]
    assert "more than 10\u202f000 times" in text
    assert "Not told apart: exponent 2 (+0.70), exponent 4 (−0.70);" in text
    assert text.endswith("and 2 more.")


def test_without_a_trace_nothing_is_claimed():
    bare = {"steps": 0, "threshold": 0.7, "pushed": 4.0, "held": 4.0, "groups": []}
    bare["values"] = [value("residual_std", "unknown", push=None, hold=None)]
    found = learned_verdicts(bare)
    assert "cannot be told" in found["summary"]
    assert found["directions"] == ""


@pytest.mark.parametrize("count", [2, 14, 15, 60])
def test_map_of_correlations(tmp_path, count):
    rng = np.random.default_rng(0)
    names = [f"mean/{'group' * (i % 4)}_{i}" for i in range(count)]
    matrix = np.corrcoef(rng.standard_normal((count, 50)))
    known = {"names": names, "matrix": matrix.tolist()}
    path = correlation_map(
        {"correlation": known, "groups": [[names[0], names[-1]]]}, tmp_path / "map.png"
    )
    assert path is not None
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_no_map_of_one_value(tmp_path):
    assert (
        correlation_map({"correlation": {"names": ["a"], "matrix": [[1]]}}, tmp_path / "a") is None
    )
    assert correlation_map({"steps": 0}, tmp_path / "a") is None
    assert list(tmp_path.iterdir()) == []
