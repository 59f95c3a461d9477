"""What Pydra's workers do, and what ours do instead.

If one of the tests of Pydra fails after an upgrade, the workaround named beside it may go.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
from pydra.compose import python, workflow
from pydra.engine.job import Job, load_and_run
from pydra.engine.result import Result, load_result, save
from pydra.engine.submitter import Submitter
from pydra.engine.workflow import Workflow
from pydra.workers.base import Worker
from pydra.workers.cf import ConcurrentFuturesWorker
from pydra.workers.sge import SgeWorker
from pydra.workers.slurm import SlurmWorker

from l2s_pydra.errors import JobError
from l2s_pydra.tasks import Resources
from l2s_pydra.workflows import batch_job
from l2s_pydra.workflows.engine import outcome_of
from l2s_pydra.workflows.engine import run as run_around
from l2s_pydra.workflows.slurm import L2SSlurmWorker
from l2s_pydra.workflows.worker import L2SWorker

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_ET", "1")
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))
    Workflow.clear_cache()


@python.define(outputs=["value"])
def FailOnTwo(value: int) -> int:
    if value == 2:
        raise ValueError("two")
    return value


@python.define(outputs=["value"])
def Note(value: int, folder: str) -> int:
    (Path(folder) / str(value)).touch()
    return value


@python.define(outputs=["value"])
def Threaded(value: int, resources: Resources) -> int:
    return value


@workflow.define(outputs=["values"])
def InARow(values: list[int], folder: str) -> list[int]:
    first = workflow.add(FailOnTwo().split(value=values))
    return workflow.add(Note(value=first.value, folder=folder).combine("FailOnTwo.value")).value


@workflow.define(outputs=["value"])
def One(value: int, folder: str) -> int:
    return workflow.add(Note(value=workflow.add(FailOnTwo(value=value)).value, folder=folder)).value


@workflow.define(outputs=["values"])
def EachForItself(values: list[int], folder: str) -> list[int]:
    return workflow.add(One(folder=folder).split(value=values).combine("value"), name="one").value


@workflow.define(outputs=["value"])
def Simple(value: int, folder: str) -> int:
    return workflow.add(Note(value=value, folder=folder)).value


class Inline(Worker):
    """Asynchronous, as all workers but ``debug``, and yet in this process."""

    _plugin_name = "inline"

    async def run(self, job, rerun=False):
        await asyncio.sleep(0)
        return job.run(rerun=rerun)


def submit(task, cache, worker, **options):
    with Submitter(cache_root=cache, worker=worker) as submitter:
        return submitter(task, **options)


def test_failures_are_raised_by_the_debug_worker_only(tmp_path):
    """Therefore the engine says raise_errors=False and asks what became of each part."""
    with pytest.raises(ValueError, match="two"):
        submit(FailOnTwo(value=2), tmp_path / "debug", "debug")
    result = submit(FailOnTwo(value=2), tmp_path / "other", Inline)
    assert result.errored
    assert result.outputs is None
    task = FailOnTwo(value=2)
    run_around(task, [], tmp_path / "ours", Inline())
    assert outcome_of([task], tmp_path / "ours").reason == "ValueError: two"


def test_an_error_may_have_no_message(tmp_path):
    """Therefore the engine asks whether there is one."""
    task = FailOnTwo(value=2)
    entry = tmp_path / task._checksum
    entry.mkdir()
    save(entry, result=Result(outputs=None, runtime=None, errored=True, cache_dir=entry, task=task))
    assert load_result(task._checksum, [tmp_path]).errors is None
    assert "not run" in outcome_of([task], tmp_path).reason


def test_one_failure_in_a_split_stops_what_follows_for_all(tmp_path):
    """Therefore each image has a workflow of its own."""
    for name, task in (("row", InARow), ("each", EachForItself)):
        (tmp_path / name).mkdir()
        submit(
            task(values=[1, 2, 3], folder=str(tmp_path / name)),
            tmp_path / f"{name}-cache",
            Inline,
            raise_errors=False,
        )
    assert not list((tmp_path / "row").iterdir())
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == ["1", "3"]


class InOrder(Inline):
    """Starts the task of one value late, and notes the order."""

    _plugin_name = "in-order"
    order: ClassVar[list[str]] = []

    async def run(self, job, rerun=False):
        await asyncio.sleep(0.5 if (type(job.task), job.task.value) == (FailOnTwo, 3) else 0)
        self.order.append(f"{type(job.task).__name__} {job.task.value}")
        return job.run(rerun=rerun)


def test_pydra_takes_results_of_before_for_those_of_a_rerun(tmp_path):
    """Therefore nothing here asks for rerun; entries are removed instead."""
    task = InARow(values=[1, 3], folder=str(tmp_path))
    orders = []
    for rerun in (False, True):
        InOrder.order.clear()
        submit(task, tmp_path / "cache", InOrder, raise_errors=False, rerun=rerun)
        orders.append(list(InOrder.order))
    first, again = orders
    assert first.index("FailOnTwo 3") < min(first.index("Note 1"), first.index("Note 3"))
    # What follows runs on the old result, which is deleted under it when the task is run.
    assert again.index("FailOnTwo 3") > again.index("Note 1")
    sources = [*(ROOT / "workflows").glob("*.py")]
    assert not [path.name for path in sources if "rerun=True" in path.read_text(encoding="utf-8")]


@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info >= (3, 14), reason="other start methods elsewhere"
)
def test_cf_forks_and_ours_does_not():
    """Therefore there is a worker of ours: a parent that used OpenMP would make children hang."""
    worker = ConcurrentFuturesWorker(n_procs=1)
    assert worker.pool._mp_context.get_start_method() == "fork"
    worker.close()
    process = L2SWorker(n_procs=1, gpus=0)._start(())
    assert process.pool._mp_context.get_start_method() == "forkserver"
    process.end()


def test_workers_cannot_be_imported_first():
    """Therefore ours import the submitter before."""
    module = "pydra.workers.base"
    code = {name: f"import {name}" for name in (module, "l2s_pydra.workflows.slurm")}
    done = {
        name: subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, check=False
        )
        for name, text in code.items()
    }
    assert "ImportError" in done[module].stderr
    assert done["l2s_pydra.workflows.slurm"].returncode == 0


def test_pydra_asks_for_newer_versions_unless_told_not_to(tmp_path, monkeypatch, a_job):
    """Therefore the application and the jobs set NO_ET."""
    asked = []
    monkeypatch.setattr(Job, "_etelemetry_checked", False)
    monkeypatch.setattr("pydra.engine.job.check_latest_version", lambda: asked.append(1))
    with Submitter(cache_root=tmp_path / "cache", worker="debug"):
        pass
    assert asked
    worker = L2SSlurmWorker()
    job, _ = a_job(worker)
    script = batch_job.write_job(job, worker.demand(job.task), tmp_path, python="python")
    assert "export NO_ET=1" in script.read_text()


PARENT = """
    import os, sys, time
    from pathlib import Path
    from pydra.compose import python, workflow
    from pydra.engine.submitter import Submitter
    from l2s_pydra.workflows.worker import L2SWorker

    @python.define(outputs=["pid"])
    def Wait(folder: str) -> int:
        (Path(folder) / "new").write_text(str(os.getpid()))
        (Path(folder) / "new").rename(Path(folder) / "pid")
        time.sleep(60)
        return 0

    @workflow.define(outputs=["pid"])
    def Outer(folder: str) -> int:
        return workflow.add(Wait(folder=folder)).pid

    if __name__ == "__main__":
        worker = "cf" if sys.argv[1] == "cf" else L2SWorker(n_procs=1)
        with Submitter(cache_root=Path(sys.argv[2]) / "cache", worker=worker) as submitter:
            submitter(Outer(folder=sys.argv[2]))
"""


@pytest.mark.parametrize(("kind", "stays"), [("cf", True), ("ours", False)])
def test_children_of_a_killed_parent(tmp_path, kind, stays):
    """Therefore processes of our worker watch their parent."""
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    with (tmp_path / "said").open("w") as said:
        parent = subprocess.Popen(
            [sys.executable, "parent.py", kind, str(tmp_path)],
            cwd=tmp_path,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < until, (tmp_path / "said").read_text()
        time.sleep(0.1)
    child = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    until = time.monotonic() + (2 if stays else 20)
    while alive(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert alive(child) == stays
    if stays:  # this one, and what else the pool has started
        os.killpg(parent.pid, signal.SIGKILL)


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Batch schedulers --------------------------------------------------------------------------------


@pytest.fixture
def a_job(tmp_path):
    """Make a job and a way to run it by a worker."""

    def a_job(worker, value=1, task=None):
        submitter = stack.enter_context(Submitter(cache_root=tmp_path / "cache", worker=worker))
        job = Job(task or FailOnTwo(value=value), submitter=submitter, name="job")

        def run():
            return submitter.loop.run_until_complete(asyncio.wait_for(worker.run(job), 20))

        return job, run

    with contextlib.ExitStack() as stack:
        yield a_job


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Write stand-ins for a scheduler's commands, which note how they are called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def commands(**scripts):
        for name, script in scripts.items():
            path = folder / name
            path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/called\n{script}\n')
            path.chmod(0o755)
        return lambda: (tmp_path / "called").read_text().splitlines()

    return commands


GONE = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


def test_pydra_takes_silence_for_an_end(tmp_path, commands, a_job):
    """Therefore our worker asks again until it is answered."""
    commands(sbatch="echo Submitted batch job 7", squeue=GONE, sacct="echo '7 COMPLETED 0:0'")
    _, run = a_job(SlurmWorker(poll_delay=0))
    assert run()


def test_pydras_workers_know_no_resources(commands, a_job):
    """Therefore ours read them from the task."""
    counted = {field.name for field in attrs.fields(ConcurrentFuturesWorker)}
    assert counted == {"loop", "n_procs", "pool"}
    asked = {}
    for worker in (SlurmWorker(poll_delay=0), L2SSlurmWorker(poll_delay=0, result_delay=0)):
        called = commands(
            sbatch="echo Submitted batch job 7; echo 7",
            squeue="",
            sacct="case $* in *Reason*) echo 'FAILED|1:0|None';; *) echo '7 COMPLETED 0:0';; esac",
        )
        for threads in (1, 6):
            task = Threaded(value=1, resources=Resources(threads=threads, device="cpu"))
            _, run = a_job(worker, task=task)
            with contextlib.suppress(JobError):
                run()
        submissions = [line for line in called() if line.startswith("sbatch")][-2:]
        asked[type(worker)] = [re.findall(r"--cpus-per-task=\d+", line) for line in submissions]
    assert asked[SlurmWorker] == [[], []]
    assert asked[L2SSlurmWorker] == [["--cpus-per-task=1"], ["--cpus-per-task=6"]]


def test_pydra_submits_cancelled_jobs_again(tmp_path, commands, a_job):
    """Therefore our worker passes --no-requeue and says that the job was cancelled."""
    called = commands(
        sbatch="echo Submitted batch job 7",
        squeue="",
        sacct=f"grep -q requeue {tmp_path}/called && echo '7 COMPLETED 0:0' || echo '7 CANCELLED 0:0'",
        scontrol="",
    )
    _, run = a_job(SlurmWorker(poll_delay=0))
    assert run()
    assert "scontrol requeue 7" in called()


def test_pydra_does_not_say_why_a_job_failed(tmp_path, commands, a_job):
    """Therefore our worker quotes state and log."""
    scripts = tmp_path / "cache" / "slurm_scripts"
    commands(
        sbatch=f"for d in {scripts}/*; do echo Killed > $d/slurm-7.err; done; echo job 7",
        squeue="",
        sacct="echo '7 OUT_OF_ME+ 0:125'",
    )
    _, run = a_job(SlurmWorker(poll_delay=0))
    with pytest.raises(Exception, match="unknown reason - TODO"):
        run()


def test_pydra_fails_while_it_reports_a_failure(tmp_path, a_job):
    """Therefore jobs of ours run the task themselves."""
    with pytest.raises(AttributeError, match="parent"):
        load_and_run(str(tmp_path / "nowhere.pklz"))
    with pytest.raises(TypeError, match="output"):
        Result(output=None, runtime=None, errored=True, task=None)
    worker = L2SSlurmWorker()
    job, _ = a_job(worker, value=2)
    batch_job.write_job(job, worker.demand(job.task), tmp_path, python="python")
    with pytest.raises(ValueError, match="two"):
        batch_job.main(tmp_path / "job.pkl")
    with pytest.raises(FileNotFoundError):
        batch_job.main(tmp_path / "nowhere.pkl")


def test_pydras_sge_worker_cannot_count(tmp_path, commands, a_job):
    """Therefore only its name and its arguments are left in ours."""
    commands(qsub="echo 7")
    _, run = a_job(SgeWorker(poll_delay=0, collect_jobs_delay=0))
    with pytest.raises(TypeError, match="unsupported operand"):
        run()
