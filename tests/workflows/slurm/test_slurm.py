"""The application on a real Slurm: the same results, and what happens when jobs are killed."""

import contextlib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from l2s_pydra.tasks import Resources
from l2s_pydra.workflows.engine import claim, outcome_of, run
from l2s_pydra.workflows.slurm import L2SSlurmWorker

pytestmark = pytest.mark.slurm

SLURM = ("--worker", "slurm", "--worker-args", "poll_delay=1", "result_delay=20", "--mem", "2GB")

TASKS = """
    import os, time
    from pathlib import Path
    from pydra.compose import python, workflow
    from l2s_pydra.tasks import Resources

    @python.define(outputs=["seen"])
    def Work(value: str, resources: Resources = Resources()) -> str:
        if value == "hungry":
            bytearray(900 << 20)
        if value.startswith("slow"):
            Path(value.partition(":")[2]).touch()
            time.sleep(3)
        seen = (os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"))
        return " ".join(map(str, (*seen, resources.device, resources.threads)))

    @python.define(outputs=["seen"])
    def Foreign(value: str) -> str:
        return os.environ["SLURM_JOB_NAME"]

    @workflow.define(outputs=["seen", "foreign"])
    def Many(values: list[str], resources: list[Resources]) -> tuple[list[str], str]:
        both = Work().split(("value", "resources"), value=values, resources=resources)
        seen = workflow.add(both.combine(["value", "resources"])).seen
        return seen, workflow.add(Foreign(value="")).seen
"""


@pytest.fixture
def tasks(tmp_path, monkeypatch, slurm):
    """Module of tasks that the jobs can import too."""
    (tmp_path / "slurm_tasks.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    monkeypatch.setenv("NO_ET", "1")
    sys.modules.pop("slurm_tasks", None)
    yield importlib.import_module("slurm_tasks")
    del sys.modules["slurm_tasks"]


def ask(environment, *command):
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def jobs(environment, *fields):
    """Fields of all jobs so far, by number."""
    said = ask(environment, "sacct", "-nXP", "-S", "now-1hours", "-o", ",".join(("JobID", *fields)))
    rows = [line.split("|") for line in said.splitlines()]
    return {int(row[0]): row[1:] for row in rows}


def last_job(environment):
    return max(jobs(environment, "State"), default=0)


def when_running(environment, name, act, seconds=60):
    """Do something to a job as soon as it runs; its number."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        said = ask(environment, "squeue", "-h", "--states=RUNNING", "-o", "%A|%j")
        for line in said.splitlines():
            number, _, job = line.partition("|")
            if job == name:
                act(number)
                return int(number)
        time.sleep(0.2)
    raise AssertionError(f"{name} never ran")


def kill(number, seconds=30):
    """Kill the task of a job, as the system does that runs out of memory."""
    wanted = f"SLURM_JOB_ID={number}".encode()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    folder.name.isdecimal()
                    and b"l2s_pydra.workflows.batch_job" in (folder / "cmdline").read_bytes()
                    and wanted in (folder / "environ").read_bytes().split(b"\0")
                ):
                    return os.kill(int(folder.name), signal.SIGKILL)
        time.sleep(0.1)
    raise AssertionError(f"job {number} has no process")


def published(output):
    """Contents of all published files but those that tell of one run: records, logs and pages."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and not OF_A_RUN.search(path.relative_to(output).as_posix())
    }


OF_A_RUN = re.compile(r"(^|/)(log|logs|prov)/|\.html$|^page_data|_page\.json$")


@pytest.mark.slow
def test_a_study_of_eight_survives_its_jobs(eight, model, slurm, start_in, tmp_path):
    """Killed jobs fail their images only, with log; the rerun does these, and all is as it is here."""
    options = ("participant", "--model", str(model), "--skip-bids-validation")
    before = last_job(slurm)
    output, work = tmp_path / "cluster" / "l2s_pydra", tmp_path / "work"
    running = start_in(slurm, eight, output, work, *options, *SLURM)
    cancelled = when_running(
        slurm, "Segment.sub-03_T1w", lambda number: ask(slurm, "scancel", number)
    )
    killed = when_running(slurm, "Segment.sub-06_T1w", kill)
    _, said = running.communicate(timeout=200)
    assert running.returncode == 1, said
    assert f"Slurm job {cancelled} was cancelled (CANCELLED)" in said
    assert f"Slurm job {killed} was ended by signal 9 (FAILED)" in said
    assert len(list(output.rglob("*_dseg.nii.gz"))) == 6
    (crash,) = (output / "sub-06" / "log").rglob("crash-*.txt")
    assert "<work_dir>/pydra/l2s-slurm_scripts/" in crash.read_text()
    assert not (output / "sub-06" / "anat").exists()

    first = last_job(slurm)
    # Meanwhile, the same on this computer.
    local = tmp_path / "here" / "l2s_pydra"
    here = start_in(slurm, eight, local, tmp_path / "work_here", *options)
    again = start_in(slurm, eight, output, work, *options, *SLURM)
    _, said = again.communicate(timeout=200)
    assert again.returncode == 0, said
    found = jobs(slurm, "JobName", "State", "ReqTRES")
    assert sorted(found[number][0] for number in found if number > first) == [
        "Segment.sub-03_T1w",
        "Segment.sub-06_T1w",
    ]
    ours = [found[number] for number in found if number > before]
    assert len(ours) == 10
    assert all("gres" not in wanted for *_, wanted in ours)
    assert all("cpu=1,mem=2000M" in wanted for *_, wanted in ours)

    _, said = here.communicate(timeout=200)
    assert here.returncode == 0, said
    mine, theirs = published(local), published(output)
    assert sum(name.endswith("_dseg.nii.gz") for name in mine) == 8
    assert set(mine) == set(theirs)
    assert [name for name in mine if mine[name] != theirs[name]] == []


def test_each_task_asks_for_what_it_needs(tasks, slurm, limits_memory, tmp_path):
    before = last_job(slurm)
    resources = {
        "gpu": Resources(device="cuda:1", memory_gb=1),
        "auto": Resources(memory_gb=1, threads=2),
        "hungry": Resources(device="cpu", memory_gb=0.3),
        "late": Resources(device="cpu", memory_gb=0.5),
    }
    workflow = tasks.Many(values=list(resources), resources=list(resources.values()))
    parts = [tasks.Work(value=value, resources=one) for value, one in resources.items()]
    worker = L2SSlurmWorker(
        sbatch_args="--partition=main --comment='two words'",
        task_args={"Foreign": "--mem=123M --job-name=another"},
        cpus=3,
        poll_delay=1,
        result_delay=10,
    )
    with claim(tmp_path / "work") as cache:
        run(workflow, parts, cache, worker)
        outcomes = {part.value: outcome_of([part, workflow], cache) for part in parts}
    found = {n: row for n, row in jobs(slurm, "JobName", "ReqTRES").items() if n > before}
    wanted = sorted(tres for _, tres in found.values())
    assert wanted == sorted(
        [
            "billing=3,cpu=3,gres/gpu=1,mem=1000M,node=1",
            "billing=2,cpu=2,mem=1000M,node=1",
            "billing=3,cpu=3,mem=300M,node=1",
            "billing=3,cpu=3,mem=500M,node=1",
            "billing=1,cpu=1,mem=123M,node=1",
        ]
    )
    assert "another" in [name for name, _ in found.values()]
    assert outcomes["gpu"].outputs.seen == "0 3 cuda 3"
    assert outcomes["auto"].outputs.seen == "None 2 cpu 2"
    if limits_memory:
        assert "took more than its memory, 0.3 GB" in outcomes["hungry"].traceback
        assert "(OUT_OF_MEMORY)" in outcomes["hungry"].traceback
        assert "    | " in outcomes["hungry"].traceback  # the end of its log
    else:
        assert outcomes["hungry"].outputs


RUN = """
    import sys
    from pathlib import Path
    from l2s_pydra.tasks import Resources
    from l2s_pydra.workflows.engine import claim, outcome_of, run
    from l2s_pydra.workflows.slurm import L2SSlurmWorker
    from slurm_tasks import Work

    if __name__ == "__main__":
        task = Work(value=sys.argv[1], resources=Resources(device="cpu", threads=1, memory_gb=0.3))
        with claim(Path("work")) as cache:
            run(task, [], cache, L2SSlurmWorker(poll_delay=1))
            print("done", outcome_of([task], cache).outputs.seen)
"""


SBATCH = """\
#!/bin/sh
{real} "$@"
kill -KILL $PPID
"""


@pytest.mark.parametrize("how", ["interrupted", "killed", "killed while it submits"])
def test_jobs_of_a_parent_that_ends(tasks, slurm, tmp_path, how):
    """Interrupted, it takes its jobs along; killed, they go on, and the next run waits for them."""
    (tmp_path / "parent.py").write_text(textwrap.dedent(RUN))
    started = tmp_path / "started"
    command = [sys.executable, "parent.py", f"slow:{started}"]
    before = last_job(slurm)

    def start(**variables):
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**slurm, "NO_ET": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    if how == "killed while it submits":
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "sbatch").write_text(SBATCH.format(real=shutil.which("sbatch")))
        (tmp_path / "bin" / "sbatch").chmod(0o755)
        parent = start(PATH=f"{tmp_path}/bin:{os.environ['PATH']}")
        assert parent.wait(60) == -signal.SIGKILL
    else:
        parent = start()
        until = time.monotonic() + 60
        while not started.exists():
            assert time.monotonic() < until
            time.sleep(0.1)
        parent.send_signal(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
    parent.communicate(timeout=60)
    alive = ask(slurm, "squeue", "-h", "-o", "%A")
    assert bool(alive) == (how != "interrupted")
    said, error = start().communicate(timeout=100)
    assert said.startswith("done"), error
    states = [row[0] for n, row in jobs(slurm, "State").items() if n > before]
    if how == "interrupted":
        assert states == ["CANCELLED by 0", "COMPLETED"]
    else:
        assert states == ["COMPLETED"]  # one job in all
