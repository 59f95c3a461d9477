"""A training that is killed, terminated or out of disk space goes on as if nothing had happened."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from l2s_pydra.bilevel import TrainingState
from l2s_pydra.errors import TrainingError
from l2s_pydra.segmentation import Model
from l2s_pydra.steps import learn as module
from l2s_pydra.steps import staging
from l2s_pydra.steps.learn import learn
from l2s_pydra.steps.progress import Progress
from l2s_pydra.steps.staging import write_folder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

KILLS = {
    "learn2synth": [
        {"at": "time", "seconds": 1.5},
        {"at": "checkpoint", "number": 3, "share": 0.6},
        {"at": "rename", "number": 2},
        {"at": "model"},
    ],
    "finetuned-averaged": [
        {"at": "step", "number": 3},
        {"at": "checkpoint", "number": 2, "share": 0.0},
        {"at": "name"},
    ],
}


@pytest.mark.parametrize("mode", KILLS)
def test_sigkill_changes_nothing(mode, tmp_path, monkeypatch):
    """More kills, at random: ``benchmarks/kill_and_resume.py``."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    benchmark = importlib.import_module("kill_and_resume")
    expected, _ = benchmark.undisturbed(tmp_path / "whole", mode)
    assert len(expected["log"]) == benchmark.STEPS
    assert benchmark.trial(tmp_path / "killed", mode, expected, KILLS[mode]) == []


def test_kills_come_everywhere(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    benchmark = importlib.import_module("kill_and_resume")
    rng = benchmark.random.Random(0)
    drawn = [kill for _ in range(30) for kill in benchmark.kills(rng, 10.0, 5)]
    assert {kill["at"] for kill in drawn} == {
        "time", "checkpoint", "rename", "step", "model", "name"
    }  # fmt: skip
    assert {kill["at"] for kill in drawn[4::5]} == {"model", "name"}
    assert all(0 <= kill.get("seconds", 0) <= 10 for kill in drawn)


CODE = """
import json, sys
from pathlib import Path
from l2s_pydra.steps import parallel
from l2s_pydra.steps.learn import learn
from l2s_pydra.steps.progress import Progress

def told(self, row):
    print("step", int(row["step"]), flush=True)

Progress.training = told
given = parallel._read(Path(sys.argv[1]))
learn(**given)
"""


def test_sigterm_leaves_a_checkpoint(inputs, config, tmp_path):
    """Even where none was due."""
    state = tmp_path / "state"
    given = inputs(
        config=config(training__steps=5000, training__validate_every=5000),
        checkpoint_dir=state,
        checkpoint_every=5000,
    )
    file = module.write_specification(tmp_path, given)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            if line == "step 3\n":
                process.terminate()
                break
        last = [line for line in process.stdout if line.startswith("step")][-1:] or [line]
    assert process.returncode == -signal.SIGTERM
    assert TrainingState.load(state / "training.safetensors").step == int(last[0].split()[1])
    assert {path.name for path in state.iterdir()} == {"training.safetensors", "learn.json"}


def test_a_model_that_cannot_be_written_is_told_with_its_size(inputs, tmp_path, monkeypatch):
    given = inputs(checkpoint_dir=tmp_path / "state")
    out = given["out_dir"]

    def full(*args, **options):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_samples", full)
        with pytest.raises(TrainingError) as error:
            learn(**given)
    message = str(error.value)
    assert message.startswith(f"{out}: the model cannot be written there (No space left on device)")
    assert "it takes about" in message
    assert "goes on from its last checkpoint" in message
    assert list(out.iterdir()) == []
    # Nothing is trained again.
    monkeypatch.setattr(Progress, "training", lambda self, row: pytest.fail("trained"))
    assert Model.load(learn(**given))


def test_a_full_disk_leaves_what_was_there(tmp_path):
    folder = tmp_path / "models" / "model-a"

    def fill(path):
        (path / "weights").write_bytes(b"x" * 100)

    write_folder(folder, fill, needed=100)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def too_much(path):
        (path / "weights").write_bytes(b"y" * 50)
        raise OSError(28, os.strerror(28))

    with pytest.raises(TrainingError, match=r"takes about 3\.0 MB"):
        write_folder(folder, too_much, needed=3_000_000)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model-a"]


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_not(tmp_path):
    dead = tmp_path / ".partial-dead"
    dead.mkdir()
    (dead / "weights").touch()
    code = (
        "import sys, time; from pathlib import Path; from l2s_pydra.steps import staging\n"
        "with staging._hidden(Path(sys.argv[1])) as folder:\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with other:
        alive = Path(other.stdout.readline().strip())
        assert not dead.exists()
        write_folder(tmp_path / "model", lambda path: (path / "a").touch(), needed=1)
        assert alive.is_dir()
        other.kill()
    write_folder(tmp_path / "model", lambda path: (path / "b").touch(), needed=1)
    assert not alive.exists()
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["b"]


def test_files_of_a_model_can_be_read_by_those_who_read_the_others(tmp_path):
    def write(path):
        (path / "open").touch(0o644)
        (path / "closed").touch(0o600)

    write_folder(tmp_path / "model", write, needed=1)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "model").iterdir()}
    assert modes["closed"] == modes["open"]
    assert staging._PREFIX.startswith(".")


def test_processes_end_with_one_that_is_killed(inputs, config, tmp_path, wait_until, working_in):
    """SIGKILL of the process that started them, which cannot tell them."""
    settings = config(
        training__batch_size=2, training__real_batch_size=2, training__steps=100000,
        training__precision="fp32",
    )  # fmt: skip
    state = tmp_path / "state"
    file = module.write_specification(tmp_path, inputs(config=settings, checkpoint_dir=state))
    code = (
        "import json, sys; from pathlib import Path\n"
        "from l2s_pydra.steps.parallel import launch\n"
        "launch(json.loads(Path(sys.argv[1]).read_text()), 2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    wait_until(lambda: (state / "training.1.safetensors").exists())
    process.kill()
    process.wait()
    wait_until(lambda: not working_in(state))
    assert json.loads((state / "learn.json").read_text())["segmentation"] == "tissue"
    shutil.rmtree(state)
