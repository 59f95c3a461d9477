"""A Pydra worker for Slurm that asks for what each task needs, and says why a job failed."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

# Pydra's modules import one another: the submitter has to come before the worker.
from pydra.engine.submitter import Submitter
from pydra.workers.slurm import SlurmWorker

from .batch import BatchJobs
from .demand import Demand
from .scheduler import Fate, merged

__all__ = ["L2SSlurmWorker", "Submitter"]

_GOING_ON = (
    *("PENDING", "CONFIGURING", "RUNNING", "RESIZING", "SIGNALING", "SUSPENDED", "STOPPED"),
    *("COMPLETING", "STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"),
)
_LOST = {
    "NODE_FAIL": "lost its node",
    "BOOT_FAIL": "lost its node before it started",
    "PREEMPTED": "had to make room for another one",
}
_GPU_OPTIONS = ("--gres", "--gpus", "-G", "--gpus-per-task", "--gpus-per-node", "--gpus-per-socket")
_MEMORY_OPTIONS = ("--mem", "--mem-per-cpu", "--mem-per-gpu")


@attrs.define(slots=False, kw_only=True)
class L2SSlurmWorker(BatchJobs, SlurmWorker):  # type: ignore[misc]
    """Runs each task as a Slurm job that asks for the CPUs, the memory and the GPUs of this task.

    The other parameters are those of :class:`l2s_pydra.workflows.batch.BatchJobs`.

    Parameters
    ----------
    sbatch_args : str
        Arguments of ``sbatch`` for all jobs, such as ``--partition=main --account=lab``; they win
        over what follows from the task.
    poll_delay : int
        Seconds between two questions to Slurm, each for all jobs.

    Examples
    --------
    >>> worker = L2SSlurmWorker(
    ...     sbatch_args="--partition=main", task_args={"Learn": "--time=24:00:00 --mem=32G"}
    ... )
    """

    _plugin_name = "l2s-slurm"
    SCHEDULER = "Slurm"

    poll_delay: int = 5
    gpu_args: str = "--gres=gpu:{gpus}"

    def demand(self, task: Any) -> Demand:
        """CPUs, memory and GPUs that are asked for, those of arguments included."""
        demand = super().demand(task)
        given = self._given(type(task).__name__)
        cpus = re.findall(r"(?:^|\s)(?:--cpus-per-task[= ]|-c ?)(\d+)", given)
        if cpus:
            demand = attrs.evolve(demand, cpus=int(cpus[-1]))
        on_gpu = re.search(r"(?:^|\s)(?:--gres[= ]\S*gpu|--gpus|-G)", given)
        if on_gpu and getattr(getattr(task, "resources", None), "device", "cpu") != "cpu":
            demand = attrs.evolve(demand, gpus=max(1, demand.gpus))
        return demand

    def _given(self, kind: str) -> str:
        return f"{self.sbatch_args} {self.task_args.get(kind, '')}"

    def submission(self, demand: Demand, kind: str, name: str, folder: Path) -> list[str]:
        """Command that submits a job."""
        derived: list[tuple[tuple[str, ...], list[str]]] = [
            (("--job-name", "-J"), [f"--job-name={name}"]),
            (("--cpus-per-task", "-c"), [f"--cpus-per-task={demand.cpus}"]),
        ]
        if demand.memory_gb:
            derived.append((_MEMORY_OPTIONS, [f"--mem={round(demand.memory_gb * 1000)}M"]))
        if demand.gpus:
            derived.append((_GPU_OPTIONS, self.gpu_args.format(gpus=demand.gpus).split()))
        return [
            *("sbatch", "--parsable"),
            *merged(derived, self._given(kind)),
            # Who submits a job again is this worker, which looks into the cache before.
            "--no-requeue",
            f"--chdir={folder}",
            f"--output={folder / '%j.out'}",
            f"--error={folder / '%j.err'}",
        ]

    def job_id(self, said: str) -> str | None:
        """Read the number of a job."""
        found = re.findall(r"^(\d+)(?:;.*)?$", said, re.M)
        return str(found[-1]) if found else None

    def listing(self) -> list[str]:
        """Command that lists the jobs of this user."""
        # Without --all, those in hidden partitions are left out.
        return ["squeue", "--all", "--noheader", f"--user={os.getuid()}", "--format=%A|%T|%Z"]

    def living(self, said: str) -> dict[str, str]:
        """Jobs that are waiting or running, with their folders."""
        rows = (line.strip().split("|", 2) for line in said.splitlines() if line.count("|") >= 2)
        return {job_id: folder for job_id, state, folder in rows if state in _GOING_ON}

    async def fate(self, job_id: str, demand: Demand) -> Fate | None:
        """Ask the accounting, or else the controller, which knows jobs for some minutes."""
        fields = ("--format=State,ExitCode,Reason", "--noheader", "--parsable2", "--allocations")
        code, said, _ = await self.ask(["sacct", f"--jobs={job_id}", *fields])
        row = next((line.split("|") for line in said.splitlines() if line.count("|") >= 2), None)
        if code == 0 and row is not None and row[0].split()[0] not in _GOING_ON:
            return _fate(row[0].split()[0], row[1], demand)
        code, said, _ = await self.ask(["scontrol", "show", "job", "--oneliner", job_id])
        found = dict(re.findall(r"(JobState|ExitCode)=(\S+)", said)) if code == 0 else {}
        if found.get("JobState", "RUNNING") in _GOING_ON:
            return None
        return _fate(found["JobState"], found.get("ExitCode", "0:0"), demand)

    def cancelling(self, job_ids: Sequence[str]) -> list[str]:
        """Command that ends jobs."""
        return ["scancel", *job_ids]


def _fate(state: str, exit_code: str, demand: Demand) -> Fate:
    """Put Slurm's state and ``code:signal`` into words."""
    code, _, number = exit_code.partition(":")
    signal = int(number) if number.isdecimal() else 0
    ended = f"was ended by signal {signal}" if 0 < signal < 65 else f"failed with exit code {code}"
    words = {
        "OUT_OF_MEMORY": f"took more than its memory, {demand.memory_gb:g} GB unless arguments gave "
        "another; give it more (task_args, --mem), or the network less (--max-memory-mb)",
        "TIMEOUT": "took longer than its time limit; give it more (task_args, --time)",
        "DEADLINE": "did not end before its deadline",
        "CANCELLED": "was cancelled",
        "FAILED": ended,
        "COMPLETED": "ended well",
        **_LOST,
    }
    what = words.get(state, "ended")
    return Fate(state=state, what=f"{what} ({state})", lost=state in _LOST)
