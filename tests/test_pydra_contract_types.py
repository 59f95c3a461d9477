"""What Pydra 1.0a12 does with types, hashes and outputs, and that ours keep clear of it.

As in ``test_pydra_contract.py``: if one fails after an upgrade of Pydra, what is said beside it may go.
"""

import asyncio
import importlib
import inspect
import os
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from fileformats.core import FileSet
from fileformats.generic import Directory, File
from fileformats.text import TextFile
from pydra.compose import python, workflow
from pydra.compose.base import Task
from pydra.engine.submitter import Submitter
from pydra.utils.general import get_fields
from pydra.utils.hash import hash_function
from pydra.utils.messenger import AuditFlag
from pydra.workers.base import Worker

from l2s_pydra.config import LearnConfig
from l2s_pydra.tasks import Resources

MODULES = (
    "l2s_pydra.tasks",
    *(
        f"l2s_pydra.workflows.{name}"
        for name in ("learn", "segment", "evaluate", "study", "compare")
    ),
)
PLAIN = (str, int, float, bool, type(None), Any, Resources)


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_ET", "1")
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))


def ours():
    """All our tasks and workflows, by name."""
    found = {}
    for name in MODULES:
        values = vars(importlib.import_module(name)).values()
        found |= {v.__name__: v for v in values if inspect.isclass(v) and issubclass(v, Task)}
    assert {"Segment", "LearnSynthesis", "StudyWorkflow", "SegmentDataset"} <= set(found)
    return found.values()


def leaves(kind):
    """Types that a type is made of."""
    inner = typing.get_args(kind)
    if not inner:
        return [kind]
    outer = [] if isinstance(kind, types.UnionType) else [typing.get_origin(kind)]
    return [*outer, *(leaf for part in inner for leaf in leaves(part))]


@python.define(outputs=["out"])
def Write(folder: str, text: str) -> str:
    path = Path(folder) / "sink.txt"
    path.write_text(text)
    return str(path)


@python.define(outputs=["out"])
def Same(text: str) -> File:
    path = Path("same.txt").absolute()
    path.write_text(text)
    return path


@python.define(outputs=["count"])
def Count(files: list[File]) -> int:
    return len(files)


@python.define(outputs=["folder"])
def Where() -> str:
    return os.getcwd()  # noqa: PTH109  (as Pydra changes it)


@workflow.define(outputs=["one", "two"])
def Clash() -> tuple[File, File]:
    one = workflow.add(Same(text="1"), name="a")
    two = workflow.add(Same(text="2"), name="b")
    return one.out, two.out


def test_tensors_are_all_alike_to_the_hash():
    """Therefore no input of ours is a tensor."""
    assert hash_function(torch.zeros(3)) == hash_function(torch.ones(7, 2))


def test_shapes_of_arrays_are_not_hashed():
    """Therefore no input of ours is an array."""
    assert hash_function(np.zeros((2, 3))) == hash_function(np.zeros((3, 2)))


def test_inputs_of_ours_are_files_and_plain_values():
    for task in ours():
        for field in get_fields(task):
            if field.name in ("function", "constructor"):
                continue
            for leaf in leaves(field.type):
                is_file = inspect.isclass(leaf) and issubclass(leaf, FileSet)
                assert is_file or leaf in (*PLAIN, list, dict, tuple), (task, field.name, leaf)


def test_what_is_inside_a_folder_is_not_hashed(tmp_path):
    """Therefore no input of ours is a folder; a data set is read into lists of files first."""
    inner = tmp_path / "data" / "sub-01"
    inner.mkdir(parents=True)
    (inner / "a.txt").write_text("one")
    before = hash_function(Directory(tmp_path / "data"))
    (inner / "a.txt").write_text("two, later")
    (inner / "b.txt").write_text("new")
    assert hash_function(Directory(tmp_path / "data")) == before
    for task in ours():
        for field in get_fields(task):
            kinds = [leaf for leaf in leaves(field.type) if inspect.isclass(leaf)]
            assert not any(issubclass(kind, Directory) for kind in kinds), (task, field.name)


def test_another_content_with_the_time_of_the_old_is_not_seen(tmp_path):
    """Therefore each working directory has its own cache of hashes."""
    path = tmp_path / "a.txt"
    hashes = []
    for number, text in enumerate(("one", "two", "two")):
        path.write_text(text)
        os.utime(path, (10**9, 10**9))
        folder = tmp_path / f"hashes{number // 2}"
        hashes.append(hash_function(File(path), persistent_cache=folder))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_sink_that_is_cached_writes_nothing(tmp_path):
    """Therefore trees are staged, and published outside the graph."""
    task = Write(folder=str(tmp_path), text="x")
    path = Path(task(cache_root=tmp_path / "cache").out)
    path.unlink()
    task(cache_root=tmp_path / "cache")
    assert not path.exists()


def test_files_that_a_workflow_returns_are_copied_under_new_names(tmp_path):
    """Therefore workflows of ours return paths as strings."""
    outputs = Clash()(cache_root=tmp_path)
    assert {Path(outputs.one).name, Path(outputs.two).name} == {"same.txt", "same (1).txt"}
    for task in ours():
        if task.__module__.startswith("l2s_pydra.workflows"):
            for field in get_fields(task.Outputs):
                kinds = [leaf for leaf in leaves(field.type) if inspect.isclass(leaf)]
                assert not any(issubclass(kind, FileSet) for kind in kinds), (task, field.name)


def test_literal_types_break_the_definition():
    """Therefore allowed values are checked by validators."""
    with pytest.raises(TypeError):

        @python.define(outputs=["out"])
        def Chooses(mode: Literal["a", "b"]) -> str:
            return mode


def test_one_file_is_no_list_of_files(tmp_path):
    path = tmp_path / "a.txt"
    path.touch()
    with pytest.raises(TypeError, match="is not of type"):
        Count(files=path)


def test_a_list_of_results_to_come_is_no_list_of_files(tmp_path):
    """Therefore one image is compared in a workflow, and ``Together`` joins lists."""

    @workflow.define(outputs=["count"])
    def Lists() -> int:
        made = workflow.add(Same(text="1"))
        return workflow.add(Count(files=[made.out])).count

    with pytest.raises(TypeError, match="is not of type"):
        Lists()(cache_root=tmp_path)


def test_a_result_to_come_is_true(tmp_path):
    """Therefore our workflows ask nothing of results; images without a reference have their own node."""
    seen = []

    @workflow.define(outputs=["out"])
    def Asks() -> str:
        made = workflow.add(Write(folder=str(tmp_path), text=""))
        seen.append(bool(made.out))
        return made.out

    Asks()(cache_root=tmp_path / "cache")
    assert set(seen) == {True}


def test_text_files_have_their_own_extension(tmp_path):
    """Therefore tables are ``Tsv``."""
    path = tmp_path / "labels.tsv"
    path.write_text("index\tname\n")
    with pytest.raises(Exception, match=r"labels\.tsv|extension"):
        TextFile(path)


def test_keys_of_several_types_cannot_be_hashed():
    """Therefore settings are dicts of plain values with names; what is given and what is the default is one."""
    with pytest.raises(TypeError, match="not supported between"):
        hash_function({1: "a", "b": 2})
    given = LearnConfig().evolve(spacing_mm=1.0, training__seed=0)
    assert hash_function(given.to_dict()) == hash_function(LearnConfig().to_dict())
    other = LearnConfig().evolve(training__seed=1)
    assert hash_function(other.to_dict()) != hash_function(LearnConfig().to_dict())


def test_a_task_runs_in_its_own_folder(tmp_path, monkeypatch):
    """Therefore the application resolves paths before anything runs."""
    monkeypatch.chdir(tmp_path)
    folder = Where()(cache_root=tmp_path / "cache").folder
    assert Path(folder).is_relative_to(tmp_path / "cache")
    assert Path.cwd() == tmp_path


def test_environments_are_not_for_python_tasks(tmp_path):
    """Therefore a container holds everything; a task of ours is never sent into one."""
    from pydra.environments import docker

    nowhere = docker.Environment("nowhere/nothing", tag="none")
    with Submitter(cache_root=tmp_path, worker="debug", environment=nowhere) as submitter:
        result = submitter(Where(), raise_errors=False)
    assert not result.errored


def test_pydra_has_no_engine_until_it_is_imported():
    """Therefore Nipype's interfaces get into Pydra by a task of four lines, not by pydra-nipype1."""
    code = "import pydra; print(hasattr(pydra, 'engine'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@python.define(outputs=["out"])
def NotTwo(value: int) -> int:
    if value == 2:
        raise ValueError("two")
    return value


@python.define(outputs=["out"])
def Mark(value: int, folder: str) -> int:
    (Path(folder) / str(value)).touch()
    return value


@workflow.define(outputs=["out"])
def Chain(value: int, folder: str) -> int:
    first = workflow.add(NotTwo(value=value))
    return workflow.add(Mark(value=first.out, folder=folder)).out


@workflow.define(outputs=["out"])
def TwoNodes(values: list[int], folder: str) -> list[int]:
    first = workflow.add(NotTwo().split(value=values))
    return workflow.add(Mark(value=first.out, folder=folder)).out


@workflow.define(outputs=["out"])
def ChainEach(values: list[int], folder: str) -> list[int]:
    return workflow.add(Chain(folder=folder).split(value=values).combine("value"), name="c").out


class Inline(Worker):
    """Asynchronous, and yet in this process."""

    _plugin_name = "inline"

    async def run(self, job, rerun=False):
        await asyncio.sleep(0)
        return job.run(rerun=rerun)


@pytest.mark.parametrize(("kind", "done"), [(TwoNodes, set()), (ChainEach, {"1", "3"})])
def test_one_failure_blocks_the_next_node_for_all(tmp_path, kind, done):
    """Therefore each image has a workflow of its own, comparison included."""
    marks = tmp_path / "marks"
    marks.mkdir()
    with Submitter(cache_root=tmp_path / "cache", worker=Inline) as submitter:
        result = submitter(kind(values=[1, 2, 3], folder=str(marks)), raise_errors=False)
    assert result.errored
    assert {path.name for path in marks.iterdir()} == done


def test_auditing_breaks_workflows(tmp_path):
    """Therefore provenance is ours, and Pydra's audit is left off."""
    task = ChainEach(values=[1], folder=str(tmp_path))
    with (
        pytest.raises(Exception, match="Cannot pickle files"),
        Submitter(
            cache_root=tmp_path / "cache", worker=Inline, audit_flags=AuditFlag.ALL
        ) as audited,
    ):
        audited(task, raise_errors=True)
