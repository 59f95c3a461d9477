"""Of the last checkpoints one can always be read, whatever happened to the newest."""

import os
import subprocess
import sys

import pytest
import torch

from l2s_pydra.bilevel import checkpoints as module
from l2s_pydra.bilevel import state as state_module
from l2s_pydra.bilevel.checkpoints import Checkpoints
from l2s_pydra.bilevel.state import TrainingState
from l2s_pydra.bilevel.training import Trainer
from l2s_pydra.errors import TrainingError

SIZE = 2000


def state(step):
    values = {"w": torch.full((SIZE,), float(step))}
    moments = {"step": step, "m": [torch.full((SIZE,), step / 7)]}
    return TrainingState(
        step=step,
        phi=values,
        phi_average=values,
        phi_best=values,
        phi_moments=moments,
        theta={"t": torch.tensor(float(step))},
        theta_average={},
        theta_moments={"step": step},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training.safetensors"


def written(path, *steps, keep=2):
    kept = Checkpoints(path, keep)
    for step in steps:
        assert kept.save(state(step))
    return kept


def steps_in(folder):
    return {file.name: TrainingState.load(file).step for file in folder.iterdir()}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_ones_are_kept(path, keep):
    assert Checkpoints(path, keep).load() is None
    written(path, 1, 2, 3, 4, 5, keep=keep)
    expected = {"training.safetensors": 5, "training.1.safetensors": 4, "training.2.safetensors": 3}
    assert steps_in(path.parent) == dict(list(expected.items())[:keep])
    found = Checkpoints(path, keep)
    assert found.load().step == 5
    assert found.saved_step == 5


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "a block of zeros": lambda content: content[:-400] + bytes(400),
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_gives_way_to_the_one_before(path, damage, caplog):
    written(path, 1, 2, 3)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    kept = Checkpoints(path)
    found = kept.load()
    assert found.step == 2
    assert torch.equal(found.phi["w"], state(2).phi["w"])
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert str(path) in warning.getMessage()
    assert "of step 2" in warning.getMessage()
    # Killed here, the next one finds the same; the damaged file never replaces the whole one.
    assert Checkpoints(path).load().step == 2
    kept.save(state(3))
    assert steps_in(path.parent) == {"training.safetensors": 3, "training.1.safetensors": 2}
    kept.save(state(4))
    assert steps_in(path.parent) == {"training.safetensors": 4, "training.1.safetensors": 3}


def test_all_damaged_is_an_error_that_names_the_newest(path):
    written(path, 1, 2)
    for file in path.parent.iterdir():
        file.write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="delete it to start over") as error:
        Checkpoints(path).load()
    assert str(error.value).startswith(f"{path}: ")


def test_a_gap_between_renames_is_no_harm(path):
    """Killed after the old one moved and before the new one came."""
    written(path, 1, 2)
    path.unlink()
    assert Checkpoints(path).load().step == 1


def test_litter_of_killed_writers_is_removed(path):
    kept = written(path, 1)
    folder = path.with_name(f".{path.name}.new.partial")
    folder.mkdir()
    (folder / ".tmpXyz").touch()
    path.with_name(f".{path.name}.new").touch()
    path.with_name("learn.json").touch()
    kept.tidy()
    assert {p.name for p in path.parent.iterdir()} == {path.name, "learn.json"}


def test_a_full_disk_is_a_warning(path, monkeypatch, caplog):
    kept = written(path, 1, 2)

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(state_module, "save_file", full)
        assert not kept.save(state(3))
    assert steps_in(path.parent) == {"training.safetensors": 2, "training.1.safetensors": 1}
    (warning,) = caplog.records
    assert warning.getMessage() == (
        f"{path}: the checkpoint of step 3 cannot be written (No space left on device; about 0.0 MB "
        "are needed); that of step 2 is kept, and the training goes on"
    )
    assert kept.save(state(4))
    assert steps_in(path.parent) == {"training.safetensors": 4, "training.1.safetensors": 2}


def test_space_is_looked_for_before_it_is_used(path, monkeypatch, caplog):
    kept = Checkpoints(path)
    usage = module.shutil.disk_usage(path.parent)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    assert not kept.save(state(1))
    assert "there is none" in caplog.text
    assert list(path.parent.iterdir()) == []


def test_files_limited_by_the_system(path):
    """The kernel refuses in the middle of the write, as it does where a quota ends."""
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; import test_checkpoints as t\n"
        "kept = t.written(Path(sys.argv[1]), 1)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "limits = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (t.SIZE, limits[1]))\n"
        "assert not kept.save(t.state(2))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, limits)\n"
        "assert kept.save(t.state(3))\n"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120
    run = subprocess.run(
        [sys.executable, "-c", code, str(path), here], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "File too large" in run.stderr
    assert steps_in(path.parent) == {"training.safetensors": 3, "training.1.safetensors": 1}


def test_how_often_they_are_written_decides_nothing(config, data_of, same, tmp_path):
    """Nor does it tell one run from another."""

    def stop(row):
        if row["step"] == 6:
            raise KeyboardInterrupt

    whole = Trainer(config(), data_of(), n_classes=4).run()
    path = tmp_path / "training.safetensors"
    first = Trainer(
        config(training__checkpoint_every=7), data_of(), n_classes=4, checkpoint=path,
        checkpoint_every=2, keep_checkpoints=3,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    assert steps_in(tmp_path) == {"training.safetensors": 4, "training.1.safetensors": 2}
    changed = config(training__checkpoint_every=3, training__checkpoint_activations=True)
    second = Trainer(changed, data_of(), n_classes=4, checkpoint=path)
    assert second.state.step == 4
    found = second.run()
    assert same(found.phi, whole.phi)
    logs = [
        [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in state.history]
        for state in (found, whole)
    ]
    assert same(*logs)
