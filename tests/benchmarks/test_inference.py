"""The benchmark of inference on a tiny head, without the peer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = ["whole", "tiled", "limited", "network", "segment"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    options = ["--quick", "--threads", "1", "--width", "4", "--depth", "2"]
    shape = ["--shape", "80", "36", "30"]
    done = subprocess.run(
        [
            *[sys.executable, ROOT / "benchmarks" / "inference.py", *options, *shape],
            *["--cases", *CASES, "--json", path],
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert all(case in done.stdout for case in CASES)
    return {(row["case"], row["metric"]): row for row in json.loads(path.read_text())}


def test_every_case_has_its_metrics(rows):
    for case in CASES:
        for metric in ("time", "cpu_time", "memory", "agreement"):
            assert rows[case, metric]["value"] > 0
    assert {case for case, metric in rows if metric == "predicted"} == {"whole", "tiled", "limited"}


def test_ratios_are_to_the_whole(rows):
    whole, tiled = rows["whole", "time"], rows["tiled", "time"]
    assert whole["ratio"] == 1
    assert tiled["ratio"] == pytest.approx(tiled["value"] / whole["value"])


def test_cases_agree(rows):
    # Rounding to 8 bits changes few labels; tiles' edges change some more.
    assert rows["whole", "agreement"]["value"] > 95
    assert rows["segment", "agreement"]["value"] > 95
    assert rows["tiled", "agreement"]["value"] > 85


def test_less_memory_is_predicted_for_tiles(rows):
    whole, tiled, limited = (rows[c, "predicted"]["value"] for c in ("whole", "tiled", "limited"))
    assert limited < whole
    assert tiled < whole
