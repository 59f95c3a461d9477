"""An augmentation in a file of the user's, from the command line to a segmented image."""

import json
import subprocess
import sys
import tomllib

import pytest

from l2s_pydra.plugins import plugin_code

CHOSEN = ("--augmentation", "fog:build", "--set", 'augmentation.options={"haze": 0.3}')


@pytest.fixture
def run(command_line, environment, phantom, tmp_path):
    """Run the application with folders of its own on the path."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*arguments, path=""):
        line = command_line(phantom, tmp_path / "l2s_pydra", tmp_path / "work", *arguments)
        return subprocess.run(
            [sys.executable, "-m", "l2s_pydra.workflows.cli", *line],
            cwd=elsewhere,
            env={**environment, "PYTHONPATH": str(path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run


@pytest.mark.slow
def test_it_is_trained_recorded_and_no_longer_needed(run, own_augmentation, monkeypatch, tmp_path):
    done = run("learn", *CHOSEN, path=own_augmentation)
    assert done.returncode == 0, done.stderr
    (model,) = (tmp_path / "l2s_pydra" / "models").glob("model-*")

    theta = json.loads((model / "theta.json").read_text())
    assert theta["start"]["haze"] == pytest.approx(0.3)
    assert theta["final"]["haze"] != pytest.approx(0.3, abs=1e-6)
    assert "fog:build" in (model / "report.html").read_text()

    monkeypatch.syspath_prepend(own_augmentation)
    settings = json.loads((model / "config.json").read_text())["learn"]["augmentation"]
    assert settings["code"] == plugin_code("fog:build")
    records = [
        tomllib.loads(path.read_text()) for path in (tmp_path / "l2s_pydra").rglob("l2s_pydra.toml")
    ]
    assert any(plugin_code("fog:build") in json.dumps(record) for record in records)

    done = run("participant", "--participant-label", "04", "--model", str(model))
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "l2s_pydra" / "sub-04").rglob("*_dseg.nii.gz"))


def test_what_cannot_be_imported_stops_before_the_training(run, tmp_path):
    done = run("learn", *CHOSEN)
    assert done.returncode == 64
    assert "augmentation 'fog:build' cannot be imported (No module named 'fog')" in done.stderr
    assert "add its folder to PYTHONPATH" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "l2s_pydra" / "models").exists()
