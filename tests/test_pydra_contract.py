"""What Pydra 1.0a12 does and the code works around or relies on.

If one of these fails after an upgrade of Pydra, the workaround named beside it may go.
"""

import asyncio
import os
from pathlib import Path

import pytest
from fileformats.generic import File
from fileformats.medimage import NiftiGz
from pydra.compose import python, workflow
from pydra.engine.result import load_result
from pydra.engine.submitter import Submitter
from pydra.engine.workflow import Workflow
from pydra.utils.hash import hash_function
from pydra.workers.base import Worker

from l2s_pydra.tasks import Image, Resources

FACTOR = 2


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_ET", "1")
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))


@python.define(outputs=["name"])
def Name(file: File) -> str:
    return Path(file).name


@python.define(outputs=["value"])
def Times(value: int) -> int:
    return value * FACTOR


@python.define(outputs=["value"])
def FailOnTwo(value: int, missing: str) -> int:
    if value == 2 and not Path(missing).exists():
        raise ValueError("two")
    return value


@python.define(outputs=["value"])
def Interrupt(value: int) -> int:
    raise KeyboardInterrupt


@python.define(outputs=["device"])
def Device(resources: Resources) -> str:
    return resources.device


@workflow.define(outputs=["value"])
def One(value: int, missing: str) -> int:
    return workflow.add(FailOnTwo(value=value, missing=missing)).value


@workflow.define(outputs=["values"])
def Many(values: list[int], missing: str) -> list[int]:
    node = workflow.add(One(missing=missing).split(value=values).combine("value"), name="one")
    return node.value


@workflow.define(outputs=["device"])
def OnDevice(resources: Resources) -> str:
    return workflow.add(Device(resources=resources)).device


class Inline(Worker):
    """Asynchronous, as all workers but ``debug``, and yet in this process."""

    _plugin_name = "inline"

    async def run(self, job, rerun=False):
        await asyncio.sleep(0)
        return job.run(rerun=rerun)


def run(task, cache, worker="debug"):
    with Submitter(cache_root=cache, worker=worker) as submitter:
        return submitter(task, raise_errors=False)


def test_files_are_hashed_by_content_alone(tmp_path):
    """Therefore every task that names files takes entities or names."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("same")
    tasks = [Name(file=tmp_path / name) for name in ("a.txt", "b.txt")]
    assert tasks[0]._checksum == tasks[1]._checksum
    assert [run(task, tmp_path / "cache").outputs.name for task in tasks] == ["a.txt", "a.txt"]


def test_paths_are_hashed_by_name_alone(tmp_path):
    """Therefore inputs that are files have fileformats types."""
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = hash_function(path), hash_function(File(path))
    path.write_text("two, later")
    os.utime(path, (1, 1))
    after = hash_function(path), hash_function(File(path))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_code_behind_a_task_is_not_hashed(tmp_path, monkeypatch):
    """Therefore every task takes a code_version."""
    assert run(Times(value=3), tmp_path / "cache").outputs.value == 6
    monkeypatch.setitem(globals(), "FACTOR", 10)
    assert run(Times(value=3), tmp_path / "cache").outputs.value == 6


def test_resources_are_not_hashed():
    """Therefore another device does not compute anew."""
    tasks = [Device(resources=Resources(device=name)) for name in ("cpu", "cuda")]
    assert tasks[0]._checksum == tasks[1]._checksum


def test_constructed_workflows_outlive_their_resources(tmp_path):
    """Therefore the engine clears them before each run."""
    devices = []
    for device in ("cpu", "cuda"):
        task = OnDevice(resources=Resources(device=device))
        devices.append(run(task, tmp_path / device).outputs.device)
    assert devices == ["cpu", "cpu"]
    Workflow.clear_cache()
    task = OnDevice(resources=Resources(device="cuda"))
    assert run(task, tmp_path / "cleared").outputs.device == "cuda"


def test_parts_of_a_split_have_the_hash_of_the_same_task_alone(tmp_path):
    """Therefore the engine finds what became of each image."""
    assert not run(Many(values=[1, 3], missing="m"), tmp_path / "cache").errored
    for value in (1, 3):
        for part in (One(value=value, missing="m"), FailOnTwo(value=value, missing="m")):
            assert load_result(part._checksum, [tmp_path / "cache"]).outputs.value == value


def test_a_failed_node_stays_failed(tmp_path):
    """Therefore the engine removes it from the cache."""
    task = Many(values=[1, 2], missing=str(tmp_path / "missing"))
    assert run(task, tmp_path / "cache", worker=Inline).errored
    (tmp_path / "missing").touch()
    assert run(task, tmp_path / "cache", worker=Inline).errored
    assert run(task, tmp_path / "another_cache", worker=Inline).outputs.values == [1, 2]


def test_an_interrupted_task_leaves_an_empty_result(tmp_path):
    """Therefore the engine takes no result without outputs for good."""
    task = Interrupt(value=1)
    with pytest.raises(KeyboardInterrupt):
        run(task, tmp_path / "cache")
    result = load_result(task._checksum, [tmp_path / "cache"])
    assert not result.errored
    assert result.outputs is None


def test_a_broken_image_is_refused_before_anything_runs(tmp_path):
    """Therefore the type of an image ends with File."""
    path = tmp_path / "empty.nii.gz"
    path.write_bytes(b"")

    @python.define(outputs=["name"])
    def Strict(image: NiftiGz) -> str:
        return ""

    @python.define(outputs=["name"])
    def Lenient(image: Image) -> str:
        return ""

    with pytest.raises(TypeError, match="is not of type"):
        Strict(image=path)
    assert Path(Lenient(image=path).image) == path
