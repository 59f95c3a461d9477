"""The benchmark of many participants, with three."""

import json

import pytest


@pytest.mark.slow
def test_three_participants_and_one_more(load, tmp_path):
    benchmark = load("scale")
    made = benchmark.run(tmp_path, 3, 1, "cpu")
    assert json.dumps(made)
    found = {(row["case"], row["metric"]): row for row in made}
    images = {"run": 3, "nothing to do": 0, "one participant more": 1}
    for case, count in images.items():
        values = {metric: row["value"] for (name, metric), row in found.items() if name == case}
        assert values["images"] == count
        phases = values["until_first"] + values["segmenting"] + values["after_last"]
        assert phases == pytest.approx(values["time"])
        assert 0 < values["parent_cpu"] < values["time"] + 1
        assert 50 < values["parent_memory"] < 1000
    for case in benchmark.INDEXING:
        assert found[case, "cpu_time"]["value"] > 0
        assert found[case, "cpu_time"]["ratio_to"] == "index, plain pybids"
