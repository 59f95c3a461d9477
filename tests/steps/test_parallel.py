"""Several processes train what one trains."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from l2s_pydra.errors import ConfigError, TrainingError
from l2s_pydra.steps import parallel
from l2s_pydra.steps.learn import learn

SHARED = {
    "training__batch_size": 2,
    "training__real_batch_size": 2,
    "training__precision": "fp32",
    "training__hypergradient_every": 1,
}


def test_two_processes_learn_what_one_learns(inputs, config, tmp_path):
    """Gloo on the CPU, started as torchrun does; the same global batch."""
    settings = config(**SHARED)
    alone = learn(**inputs(config=settings, out_dir=tmp_path / "one"))
    together = learn(
        **inputs(config=settings, out_dir=tmp_path / "two", checkpoint_dir=tmp_path / "state"),
        processes=2,
    )
    one, two = (load_file(folder / "weights.safetensors") for folder in (alone, together))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
    thetas = [json.loads((f / "theta.json").read_text()) for f in (alone, together)]
    assert thetas[0]["start"] != thetas[0]["final"]
    assert thetas[1]["final"] == pytest.approx(thetas[0]["final"], rel=1e-3, abs=1e-4)
    records = [json.loads((f / "config.json").read_text()) for f in (alone, together)]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["best_dice"] == pytest.approx(records[1]["best_dice"], abs=0.02)

    # Started once more by one process, the finished run is only written.
    again = learn(
        **inputs(config=settings, out_dir=tmp_path / "three", checkpoint_dir=tmp_path / "state")
    )
    assert again.name == together.name


def test_a_batch_must_be_shared_evenly(inputs, config):
    with pytest.raises(ConfigError, match="batch of 1 cannot be shared by 2 processes; set"):
        learn(**inputs(config=config()), processes=2)


def test_the_reason_comes_back_from_the_processes(inputs, config, tmp_path):
    broken = tmp_path / "sub-01_T1w.nii.gz"
    broken.write_bytes(b"no image")
    arguments = inputs(config=config(**SHARED))
    arguments["images"] = [broken, *arguments["images"][1:]]
    with pytest.raises(TrainingError, match=r"2 processes failed: .*sub-01_T1w.nii.gz"):
        learn(**arguments, processes=2)


def test_a_specification_is_kept_beside_the_checkpoint(inputs, config, tmp_path):
    arguments = inputs(config=config(), checkpoint_dir=tmp_path / "state")
    model = learn(**arguments)
    kept = tmp_path / "state" / "learn.json"
    assert json.loads(kept.read_text())["images"] == [str(i) for i in arguments["images"]]
    # What srun or torchrun start, for one process.
    assert parallel.main([str(kept)]) == 0
    assert json.loads(kept.with_suffix(".result").read_text()) == {"model": str(model)}


def test_bad_use(tmp_path, capsys):
    assert parallel.main([]) == 2
    assert "usage: torchrun" in capsys.readouterr().err
    missing = tmp_path / "learn.json"
    assert parallel.main([str(missing)]) == 1
    assert "give the learn.json" in missing.with_suffix(".result").read_text()


def test_processes_end_with_the_one_that_started_them(
    inputs, config, tmp_path, wait_until, working_in
):
    """A run that is terminated takes its processes along."""
    settings = config(**SHARED, training__steps=100000)
    specification = parallel.write_specification(
        tmp_path, inputs(config=settings, checkpoint_dir=tmp_path)
    )
    code = (
        "import json, signal, sys; from pathlib import Path\n"
        "from l2s_pydra.steps.parallel import launch\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "launch({**json.loads(Path(sys.argv[1]).read_text()), 'checkpoint_dir': sys.argv[2]}, 2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(specification), str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_until(lambda: len(working_in(tmp_path / "run")) >= 3)
    process.terminate()
    # Its handler has run: it ended itself, and was not killed.
    assert process.wait(60) == 3
    wait_until(lambda: not working_in(tmp_path / "run"))
    assert working_in(tmp_path / "run") == []
