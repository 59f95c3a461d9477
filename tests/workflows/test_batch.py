"""Workers for batch schedulers, with stand-ins for the schedulers' commands."""

import _thread
import importlib
import json
import os
import signal
import sys
import textwrap
import threading
import time

import pytest

from l2s_pydra.errors import JobError
from l2s_pydra.tasks import Resources
from l2s_pydra.workflows.batch_fate import log_tail
from l2s_pydra.workflows.demand import Demand
from l2s_pydra.workflows.engine import claim, outcome_of, run
from l2s_pydra.workflows.sge import L2SSgeWorker
from l2s_pydra.workflows.slurm import L2SSlurmWorker

TASKS = """
    import logging, os, signal
    from pydra.compose import python
    from l2s_pydra.tasks import Resources

    @python.define(outputs=["value"])
    def Work(value: str, resources: Resources = Resources()) -> str:
        logging.getLogger("work").warning("at work on %s", value)
        if value == "wrong":
            raise ValueError("it is wrong")
        if value == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{value} {resources.threads} {resources.device}"
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Make a task that jobs can import."""
    (tmp_path / "batch_tasks.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("NO_ET", "1")
    sys.modules.pop("batch_tasks", None)
    yield importlib.import_module("batch_tasks").Work
    del sys.modules["batch_tasks"]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Write stand-ins for a scheduler's commands, and tell how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def commands(**scripts):
        for name, script in scripts.items():
            path = folder / name
            lines = ("#!/bin/sh", f"cd {tmp_path}", f'echo "{name} $*" >> called', script)
            path.write_text("\n".join(lines) + "\n")
            path.chmod(0o755)
        return lambda: (tmp_path / "called").read_text().splitlines()

    return commands


@pytest.fixture
def outcome(work, tmp_path):
    """Run a task by a worker; what became of it."""

    def outcome(worker, value="good", **resources):
        task = work(
            value=value, resources=Resources(**{"device": "cpu", "threads": 1, **resources})
        )
        with claim(tmp_path / "work") as cache:
            stopped_by = run(task, [], cache, worker)
            return outcome_of([task], cache, stopped_by)

    return outcome


def slurm(**options):
    return L2SSlurmWorker(**{"poll_delay": 0, "result_delay": 0, "busy_delay": 0.01, **options})


# A job that the stand-in runs before it says its number.
RUNS = """
for word; do script=$word; case $word in --error=*) log=${word#--error=};; esac; done
sh "$script" > /dev/null 2> "$(echo "$log" | sed s/%j/7/)"
echo $? > code
echo 7
"""
NEVER_RUNS = "echo 7"
# Several may be submitted at a time: a folder can be made once.
NUMBERED = "n=1; until mkdir job$n 2> /dev/null; do n=$((n + 1)); done; echo $n"
ENDED = 'echo "JobId=7 JobState=$([ $(cat code) = 0 ] && echo COMPLETED || echo FAILED) ExitCode=0:$(( $(cat code) % 128 ))"'
DISABLED = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


def test_without_accounting_the_controller_is_asked(commands, outcome):
    commands(sbatch=RUNS, squeue="", sacct=DISABLED, scontrol=ENDED)
    assert outcome(slurm()).outputs.value == "good 1 cpu"
    assert outcome(slurm(), "wrong").reason == "ValueError: it is wrong"
    killed = outcome(slurm(), "killed").reason
    assert killed.startswith("Slurm job 7 was ended by signal 9 (FAILED); log: ")


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ("TIMEOUT", "0:0", "took longer than its time limit"),
        ("OUT_OF_MEMORY", "0:125", "took more than its memory, 3 GB"),
        ("CANCELLED by 1000", "0:15", "was cancelled (CANCELLED)"),
        ("FAILED", "3:0", "failed with exit code 3"),
        ("DEADLINE", "0:0", "deadline"),
        ("SPECIAL_EXIT", "0:0", "ended (SPECIAL_EXIT)"),
        ("COMPLETED", "0:0", "file system that all nodes share"),
    ],
)
def test_what_the_accounting_says_is_told(commands, outcome, state, code, said):
    called = commands(sbatch=NEVER_RUNS, squeue="", sacct=f"echo '{state}|{code}|None'")
    found = outcome(slurm(), memory_gb=3.0)
    assert found.kind is JobError
    assert said in found.reason
    assert sum(line.startswith("sbatch") for line in called()) == 1


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_jobs_that_the_cluster_lost_are_submitted_again(commands, outcome, state, tmp_path):
    called = commands(
        sbatch=f"[ -e once ] && {{ {RUNS} }} || {{ touch once; echo 7; }}",
        squeue="",
        sacct=f"[ -e code ] && echo 'COMPLETED|0:0|None' || echo '{state}|0:0|None'",
    )
    assert outcome(slurm()).outputs.value == "good 1 cpu"
    assert sum(line.startswith("sbatch") for line in called()) == 2
    (tmp_path / "once").unlink()
    (tmp_path / "code").unlink()
    assert f"({state})" in outcome(slurm(retries=0), "other").reason


def test_nobody_knows_what_became_of_a_job(commands, outcome):
    commands(sbatch=NEVER_RUNS, squeue="", sacct="", scontrol="echo Invalid job id >&2; exit 1")
    assert "is gone, and nothing tells how it ended" in outcome(slurm()).reason


def test_a_refusal_is_told(commands, outcome):
    commands(sbatch="echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1")
    found = outcome(slurm(sbatch_args="-p nowhere -A secret --mail-user=secret@a.b"))
    assert (
        found.reason == "Slurm refused the job: sbatch: error: invalid partition specified: nowhere"
    )
    assert "    | sbatch --parsable" in found.traceback
    assert "-p nowhere -A '<site>' '--mail-user=<site>'" in found.traceback
    assert "secret" not in found.traceback


def test_no_slurm_at_all(outcome, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch: no such command" in outcome(slurm()).reason


def test_a_scheduler_that_is_busy_is_asked_again(commands, outcome):
    busy = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
    called = commands(
        sbatch=f"[ -e s ] && {{ {RUNS} }} || {{ touch s; {busy}; }}",
        squeue=f"[ -e q ] || {{ touch q; {busy}; }}",
        sacct="echo 'COMPLETED|0:0|None'",
    )
    assert outcome(slurm()).outputs
    # While it does not say whether there is a job, none is submitted.
    assert sum(line.startswith("squeue") for line in called()) == 3
    assert sum(line.startswith("sbatch") for line in called()) == 2


SILENT = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


@pytest.mark.parametrize("state", ["STOPPED", "SIGNALING", "STAGE_OUT", "REQUEUE_HOLD"])
def test_a_job_in_a_rare_state_is_waited_for(commands, outcome, state):
    called = commands(
        sbatch=RUNS,
        squeue=f"mkdir one 2> /dev/null && echo '7|{state}|/'; true",
        sacct="",
        scontrol="echo 'JobId=7 JobState=COMPLETED ExitCode=0:0'",
    )
    assert outcome(slurm()).outputs
    asked = [line for line in called() if line.startswith("squeue")]
    assert len(asked) == 2
    assert all("--all" in line for line in asked)


def test_an_error_names_no_node(commands, outcome):
    commands(
        sbatch="for word; do case $word in --error=*) log=${word#--error=};; esac; done;"
        "echo 'slurmstepd: error: *** JOB 7 ON node017 CANCELLED DUE TO TIME LIMIT ***'"
        ' > "$(echo "$log" | sed s/%j/7/)"; echo 7',
        squeue="",
        sacct="echo 'TIMEOUT|0:0|None'",
    )
    found = outcome(slurm()).traceback
    assert "DUE TO TIME LIMIT" in found
    assert "node017" not in found


def test_one_question_serves_all_jobs(commands, work, tmp_path):
    called = commands(
        sbatch=NUMBERED,
        squeue='[ -e p ] && exit; touch p; for n in 1 2 3 4; do echo "$n|RUNNING|/"; done',
        sacct="echo 'CANCELLED|0:0|None'",
    )
    values = ["a", "b", "c", "d"]
    task = work(resources=Resources(device="cpu")).split(value=values).combine("value")
    with claim(tmp_path / "work") as cache:
        run(task, [], cache, slurm(poll_delay=1))
    asked = [line for line in called() if line.startswith("squeue")]
    assert len(asked) <= 4
    assert all("--user=" in line for line in asked)


def test_stop_on_first_error_cancels_what_is_waiting(commands, work, tmp_path):
    called = commands(
        sbatch=NUMBERED,
        squeue='[ -e gone ] || for n in 2 3; do echo "$n|PENDING|/"; done',
        sacct="echo 'FAILED|1:0|None'",
        scancel="touch gone",
    )
    seen = []
    worker = slurm(
        max_jobs=3, stop_on_first_error=True, notify=lambda task, s, error: seen.append(str(error))
    )
    values = ["a", "b", "c", "d"]
    task = work(resources=Resources(device="cpu")).split(value=values).combine("value")
    with claim(tmp_path / "work") as cache:
        run(task, [], cache, worker)
    submitted = {path.name.removeprefix("job") for path in tmp_path.glob("job?")}
    cancelled = " ".join(line for line in called() if line.startswith("scancel")).split()
    assert submitted <= {"1", "2", "3"}
    assert submitted - {"1"} <= set(cancelled)
    assert "not started, because an earlier job failed" in seen


@pytest.fixture
def interruptible():
    """Heed SIGINT, which a process that was started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("failed_first", [True, False])
def test_a_job_on_its_way_when_another_fails_is_cancelled(
    commands, work, outcome, tmp_path, failed_first, interruptible
):
    """Its number is not known yet when the others are cancelled."""
    called = commands(
        sbatch="touch began; until [ -e go ]; do sleep 0.1; done; echo 7",
        squeue="echo '7|RUNNING|/'",
        sacct="",
        scancel="",
    )
    worker = slurm(stop_on_first_error=failed_first, result_delay=0)

    def fail():
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        if failed_first:
            worker._failed = True
        else:
            _thread.interrupt_main()
        time.sleep(0.3)
        (tmp_path / "go").touch()
        if not failed_first:
            (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\n")

    thread = threading.Thread(target=fail)
    thread.start()
    if failed_first:
        assert outcome(worker).reason == "not started, because an earlier job failed"
    else:
        with pytest.raises(KeyboardInterrupt):
            outcome(worker)
    thread.join()
    assert "scancel 7" in called()
    assert not list((tmp_path / "work" / "pydra" / "l2s-slurm_jobs").iterdir())


def test_a_job_that_was_submitted_unheard_is_not_submitted_twice(commands, outcome):
    called = commands(
        sbatch="for word; do case $word in --chdir=*) echo ${word#--chdir=} > where;; esac; done;"
        f"{RUNS} sleep 0; echo 'sbatch: error: Socket timed out' >&2; exit 1",
        squeue='[ -e asked ] || { touch asked; echo "7|RUNNING|$(cat where)"; }',
        sacct="echo 'COMPLETED|0:0|None'",
    )
    assert outcome(slurm()).outputs.value == "good 1 cpu"
    assert sum(line.startswith("sbatch") for line in called()) == 1


@pytest.mark.parametrize(
    ("options", "demand", "inside", "outside"),
    [
        ({}, Demand(cpus=2, memory_gb=4), "--cpus-per-task=2 --mem=4000M", "--gres"),
        ({}, Demand(gpus=2), "--gres=gpu:2", "--mem"),
        ({"gpu_args": "--gpus={gpus} -C a100"}, Demand(gpus=1), "--gpus=1 -C a100", "--gres"),
        ({"sbatch_args": "--mem-per-cpu=2G"}, Demand(memory_gb=4), "--mem-per-cpu=2G", "--mem="),
        ({"sbatch_args": "-G 1"}, Demand(gpus=1), "-G 1", "--gres"),
        ({"sbatch_args": "-c8"}, Demand(cpus=2), "-c8", "--cpus-per-task"),
        ({"task_args": {"Learn": "-t 9"}}, Demand(), "-t 9", "--mem"),
        ({"task_args": {"Segment": "-t 9"}}, Demand(), "--job-name=name", "-t 9"),
    ],
)
def test_arguments_of_sbatch(tmp_path, options, demand, inside, outside):
    command = " ".join(L2SSlurmWorker(**options).submission(demand, "Learn", "name", tmp_path))
    assert f" {inside} " in command
    assert f" {outside}" not in command
    assert " --no-requeue " in command


def test_cpus_and_gpus_of_arguments_are_those_of_the_task(work):
    worker = L2SSlurmWorker(cpus=3, sbatch_args="-c 8", task_args={"Work": "--gres=gpu:a100:1"})
    assert worker.demand(work(value="")) == Demand(cpus=8, memory_gb=4, gpus=1)
    cpu = work(value="", resources=Resources(device="cpu", threads=2))
    assert L2SSlurmWorker(cpus=3, gpus=1).demand(cpu) == Demand(cpus=2, memory_gb=4)
    assert L2SSlurmWorker(cpus=3, gpus=1).demand(work(value="")) == Demand(
        cpus=3, memory_gb=4, gpus=1
    )
    assert L2SSlurmWorker(cpus=3).demand(object()) == Demand()


@pytest.mark.parametrize("number", ["7", ""])
def test_a_job_of_an_earlier_run_is_waited_for(commands, work, outcome, tmp_path, number):
    """And its entry in the cache is left alone meanwhile.

    That run may have been killed after it had submitted the job, and before it knew its number.
    """
    called = commands(
        sbatch="exit 1",
        squeue=f"[ -e asked ] || {{ touch asked; echo '5|RUNNING|/'; echo '7|RUNNING|{tmp_path}'; }}",
        sacct="echo 'CANCELLED|0:0|None'",
    )
    task = work(value="good", resources=Resources(device="cpu"))
    with claim(tmp_path / "work") as cache:
        (cache / task._checksum).mkdir()
        records = cache / "l2s-slurm_jobs"
        records.mkdir()
        for name, job, folder in (
            (task._checksum, number, str(tmp_path)),
            ("python-other", "6", "/other"),
            ("python-third", "", "/third"),
        ):
            text = json.dumps({"job": job, "folder": folder})
            (records / f"{name}.json").write_text(text)
        assert slurm().under_way(cache) == {task._checksum}
        assert [path.stem for path in records.iterdir()] == [task._checksum]
    (tmp_path / "asked").unlink()
    (tmp_path / "7.err").write_text("the last word\n")
    found = outcome(slurm())
    assert "Slurm job 7 was cancelled" in found.reason
    assert "    | the last word" in found.traceback
    assert not any(line.startswith("sbatch") for line in called())
    assert (tmp_path / "work" / "pydra" / task._checksum).exists()


def test_no_job_is_submitted_while_those_of_an_earlier_run_are_not_known(
    commands, work, outcome, tmp_path
):
    called = commands(
        sbatch="echo 8", squeue=f"[ -e heard ] || {{ {SILENT}; }}; echo '7|RUNNING|/'", sacct=""
    )
    task = work(value="good", resources=Resources(device="cpu", threads=1))
    with claim(tmp_path / "work") as cache:
        (cache / "l2s-slurm_jobs").mkdir()
        record = cache / "l2s-slurm_jobs" / f"{task._checksum}.json"
        record.write_text('{"job": "7", "folder": "/"}')
    with pytest.raises(JobError, match=r"Slurm does not answer .*; jobs of an earlier run"):
        outcome(slurm())
    assert not any(line.startswith("sbatch") for line in called())
    (tmp_path / "heard").touch()
    assert slurm().under_way(tmp_path / "work" / "pydra") == {task._checksum}


def test_jobs_of_a_scheduler_that_fell_silent_are_found_later(
    commands, outcome, tmp_path, monkeypatch
):
    """They could not be cancelled either."""
    commands(
        sbatch=NEVER_RUNS,
        squeue=f"[ -e heard ] || {{ {SILENT}; }}; echo '7|RUNNING|/'",
        scancel=SILENT,
    )
    monkeypatch.setattr(L2SSlurmWorker, "PATIENCE", 0.1)
    assert "the same command, later, waits for them" in outcome(slurm()).reason
    (tmp_path / "heard").touch()
    assert len(slurm().under_way(tmp_path / "work" / "pydra")) == 1


def test_a_job_that_may_have_been_submitted_is_found_later(commands, outcome, tmp_path):
    """All that was ever heard is that the scheduler took too long."""
    commands(
        sbatch="for word; do case $word in --chdir=*) echo ${word#--chdir=} > where;; esac; done;"
        "echo 'sbatch: error: Socket timed out' >&2; exit 1",
        squeue=f'[ -e heard ] || {{ {SILENT}; }}; echo "7|RUNNING|$(cat where)"',
    )
    assert "refused the job" in outcome(slurm()).reason
    (tmp_path / "heard").touch()
    assert len(slurm().under_way(tmp_path / "work" / "pydra")) == 1


def test_what_is_said_during_a_task_is_kept(commands, work, outcome, tmp_path):
    commands(sbatch=RUNS, squeue="", sacct="echo 'COMPLETED|0:0|None'")
    logs = tmp_path / "logs"
    logs.mkdir()
    assert outcome(slurm(log_dir=logs)).outputs
    (log,) = logs.iterdir()
    assert log.read_text().endswith("WARNING: at work on good\n")


# A stand-in for SGE that runs jobs at once.
QSUB = """
for word; do
    case $before in -e) log=$(echo "$word" | sed 's/\\$JOB_ID/7/');; esac
    before=$word; script=$word
done
sh "$script" > /dev/null 2> "$log"
echo $? > code
echo 7
"""
QACCT = """
code=$(cat code)
echo "jobnumber    7"
echo "failed       $([ $code -gt 128 ] && echo '100 : assumedly after job' || echo 0)"
echo "exit_status  $code"
echo "maxvmem      1.250G"
"""


def test_the_same_on_sge(commands, outcome):
    called = commands(qsub=QSUB, qstat="", qacct=QACCT)
    options = {"poll_delay": 0, "result_delay": 0, "qsub_args": "-q long.q"}
    assert outcome(L2SSgeWorker(**options), threads=2).outputs.value == "good 2 cpu"
    (submitted,) = (line for line in called() if line.startswith("qsub"))
    assert "-pe smp 2 -l h_vmem=2000M -q long.q" in submitted
    assert outcome(L2SSgeWorker(**options), "wrong").reason == "ValueError: it is wrong"
    killed = outcome(L2SSgeWorker(**options), "killed").reason
    assert "SGE job 7 was ended by a signal 9, having used 1.250G of memory" in killed


def test_a_job_that_sge_cannot_start(commands, outcome):
    header = "echo 'job-ID  prior   name  user  state submit/start at'; echo ------"
    called = commands(
        qsub="echo 7",
        qstat=f"[ $1 = -j ] && echo 'error reason  1:  can not chdir' || {{ {header}; "
        "echo '7 0.5 Work root Eqw 11/30/2026 04:00:00 1'; }",
        qacct="exit 1",
        qdel="",
    )
    found = outcome(L2SSgeWorker(poll_delay=0, result_delay=0))
    assert "could not start (can not chdir) " not in found.reason
    assert "SGE job 7 could not start (can not chdir)" in found.reason
    assert "qdel 7" in called()


def test_the_end_of_a_log(tmp_path):
    (tmp_path / "log").write_text("\n".join(map(str, range(9000))) + "\n\n")
    assert log_tail(tmp_path / "log", 2) == ["8998", "8999"]
    assert log_tail(tmp_path / "nowhere") == []
