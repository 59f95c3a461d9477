"""Running workflows in processes that do not depend on one another."""

import fcntl
import importlib
import signal
import sys
import textwrap
import threading
import time

import pytest

from l2s_pydra.errors import InUseError
from l2s_pydra.workflows.engine import Outcome, claim, is_done, outcome_of, run
from l2s_pydra.workflows.worker import L2SWorker

TASKS = """
    import os, time
    from pathlib import Path
    from pydra.compose import python, workflow

    @python.define(outputs=["pid"])
    def Work(value: int, folder: str) -> int:
        (Path(folder) / f"{value}").touch()
        if value == 2 and not (Path(folder) / "repaired").exists():
            raise ValueError("two")
        if value == 3:
            os._exit(9)
        if value == 5:
            time.sleep(60)
        return os.getpid()

    @workflow.define(outputs=["pid"])
    def One(value: int, folder: str) -> int:
        return workflow.add(Work(value=value, folder=folder)).pid

    @workflow.define(outputs=["pids"])
    def Many(values: list[int], folder: str) -> list[int]:
        return workflow.add(One(folder=folder).split(value=values).combine("value"), name="one").pid
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Module of tasks that the processes can import too."""
    (tmp_path / "engine_tasks.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NO_ET", "1")
    monkeypatch.delenv("PYDRA_HASH_CACHE", raising=False)
    sys.modules.pop("engine_tasks", None)
    yield importlib.import_module("engine_tasks")
    del sys.modules["engine_tasks"]


@pytest.fixture
def work(tasks, tmp_path):
    """Run the tasks with some values; return what became of each."""
    folder = str(tmp_path)

    def work(values, *, n_procs=2, **options):
        both = {
            v: [kind(value=v, folder=folder) for kind in (tasks.Work, tasks.One)] for v in values
        }
        with claim(tmp_path / "work") as cache:
            worker = L2SWorker(n_procs=n_procs, **options)
            parts = [part for pair in both.values() for part in pair]
            run(tasks.Many(values=values, folder=folder), parts, cache, worker)
            return {value: outcome_of(pair, cache) for value, pair in both.items()}

    return work


def test_one_failure_and_one_death_stop_no_other(work):
    outcomes = work([1, 2, 3, 4])
    assert outcomes[1].outputs.pid
    assert outcomes[2].reason == "ValueError: two"
    assert 'raise ValueError("two")' in outcomes[2].traceback
    assert "memory" in outcomes[3].reason
    assert outcomes[4].outputs


def test_a_failure_is_run_again_and_a_success_is_not(work, tmp_path):
    before = work([1, 2])
    (tmp_path / "repaired").touch()
    (tmp_path / "1").unlink()
    after = work([1, 2])
    assert after[2].outputs
    assert after[1].outputs.pid == before[1].outputs.pid
    assert not (tmp_path / "1").exists()


def test_stop_on_first_error(work, tmp_path):
    seen = []

    def notify(task, seconds, error):
        seen.append(task.value)

    outcomes = work([2, 1, 4], n_procs=1, stop_on_first_error=True, notify=notify)
    assert outcomes[2].traceback
    assert sorted(seen) == [1, 2, 4]
    assert not (tmp_path / "4").exists()
    assert "earlier job failed" in outcomes[4].reason


def test_processes_end_with_the_worker(tasks, tmp_path):
    """Closing does not wait for what is still running."""
    with claim(tmp_path / "work") as cache:
        worker = L2SWorker(n_procs=1, notify=None)
        task = tasks.One(value=5, folder=str(tmp_path))

        def interrupt(*_):
            raise KeyboardInterrupt

        started = time.monotonic()
        old = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 3)
        try:
            with pytest.raises(KeyboardInterrupt):
                run(task, [], cache, worker)
        finally:
            signal.signal(signal.SIGALRM, old)
        assert time.monotonic() - started < 20
        assert not is_done(tasks.Work(value=5, folder=str(tmp_path)), cache)


def test_locks_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path):
    with claim(tmp_path) as cache:
        (cache / "a.lock").touch()
    with claim(tmp_path) as cache:
        assert not (cache / "a.lock").exists()
        (cache / "b.lock").touch()
        with claim(tmp_path):
            assert (cache / "b.lock").exists()


def test_reason_of_nothing():
    assert Outcome().reason == "unknown error"


def test_a_working_directory_is_emptied_of_what_is_ours(tmp_path):
    (tmp_path / "pydra" / "old").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.txt").touch()
    with claim(tmp_path, clean=True) as cache:
        assert list(cache.iterdir()) == []
        assert not (tmp_path / "checkpoints").exists()
        (cache / "new").mkdir()
        with pytest.raises(InUseError, match="--clean-workdir"), claim(tmp_path, clean=True):
            pass
        assert (cache / "new").is_dir()
    assert (tmp_path / "mine").is_dir()
    assert (tmp_path / "mine.txt").is_file()


def test_a_run_waits_while_another_one_cleans(tmp_path, monkeypatch):
    """Between the two locks of a run another one may come, and would clean under it later."""
    monkeypatch.setenv("PYDRA_HASH_CACHE", "")
    ready, leave = threading.Event(), threading.Event()

    def use():
        with claim(tmp_path):
            ready.set()
            leave.wait(60)

    run = threading.Thread(target=use)
    with (tmp_path / ".in_use").open("w") as cleaning:
        fcntl.flock(cleaning, fcntl.LOCK_EX)
        run.start()
        assert not ready.wait(0.5)
        fcntl.flock(cleaning, fcntl.LOCK_UN)
        assert ready.wait(60)
        with pytest.raises(BlockingIOError):
            fcntl.flock(cleaning, fcntl.LOCK_EX | fcntl.LOCK_NB)
        leave.set()
        run.join()
