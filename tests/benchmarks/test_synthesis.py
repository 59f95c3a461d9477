"""The benchmark of the generator on tiny images, without the generators of other projects."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, *options):
    """Run a benchmark on this tree's package; its output."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, "--engines", "l2s_pydra", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    output = run(
        "synthesis.py", "--quick", "--shape", *["16", "20", "16"], "--images", "2", "--json", path
    )
    rows = json.loads(path.read_text())
    return output, {(row["case"], row["metric"]): row for row in rows}


def test_every_case_has_its_times_memory_and_traffic(measured):
    output, rows = measured
    for case in ("l2s_pydra", "l2s_pydra, every artefact"):
        for metric in ("cpu_time", "time", "traffic", "operations", "least_traffic"):
            assert rows[case, metric]["value"] > 0
        assert {(case, "memory"), (case, "held")} <= set(rows)
        assert case in output


def test_ratios_are_to_the_plain_case(measured):
    _, rows = measured
    plain, full = rows["l2s_pydra", "traffic"], rows["l2s_pydra, every artefact", "traffic"]
    assert plain["ratio"] == 1
    assert full["ratio"] == pytest.approx(full["value"] / plain["value"])
    # Transforms of the image come on top of everything else.
    assert full["ratio"] > 1


def test_the_least_traffic_reads_labels_and_writes_results(measured):
    _, rows = measured
    # Labels, classes and groups of one byte a voxel, an image of four.
    assert rows["l2s_pydra", "least_traffic"]["value"] == pytest.approx(16 * 20 * 16 * 7 / 1e6)


def test_statistics_of_a_few_images(tmp_path):
    figure, table = tmp_path / "figure.png", tmp_path / "medians.json"
    run("synthesis_statistics.py", "--images", "2", "--figure", figure, "--json", table)
    medians = json.loads(table.read_text())["l2s_pydra"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    # The field is invertible, and the normalised image fills about [0, 1].
    assert medians["folded"] == 0
    assert 0 < medians["jacobian 1 %"] < medians["jacobian 99 %"]
    assert 0 < medians["white matter spread"] < 1
