"""The benchmark of the engines runs on two images."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_figure_is_there(tmp_path):
    paths = ["loop", "pydra debug"]
    options = ["--quick", "--images", "2", "--paths", *paths, "--json", tmp_path / "rows.json"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "engines.py", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["path"] for row in rows] == paths
    assert all(row["cpu_seconds"] > 0 and row["wall_seconds"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1
    loop, debug = rows
    assert debug["overhead_ms"] == 1000 * (debug["cpu_seconds"] - loop["cpu_seconds"]) / 2
    assert len(done.stdout.splitlines()) == 4
