"""A Pydra worker for SGE, as that for Slurm; tested with stand-ins for SGE's commands only."""

import getpass
import re
from collections.abc import Sequence
from pathlib import Path

import attrs

# Pydra's modules import one another: the submitter has to come before the worker.
from pydra.engine.submitter import Submitter
from pydra.workers.sge import SgeWorker

from .batch import BatchJobs
from .demand import Demand
from .scheduler import Fate, merged

__all__ = ["L2SSgeWorker", "Submitter"]

_FAILED = {
    "37": ("TIMEOUT", "took longer, or more memory, than its limits"),
    "100": ("KILLED", "was ended by a signal"),
}
"""SGE's codes of failure that jobs cause themselves; any other one is the cluster's."""


@attrs.define(slots=False, kw_only=True)
class L2SSgeWorker(BatchJobs, SgeWorker):  # type: ignore[misc]
    """Runs each task as an SGE job that asks for the CPUs, the memory and the GPUs of this task.

    The other parameters are those of :class:`l2s_pydra.workflows.batch.BatchJobs`.

    Parameters
    ----------
    qsub_args : str
        Arguments of ``qsub`` for all jobs, such as ``-q long.q -P lab``; they win over what follows
        from the task.
    parallel_environment : str
        Where a job has several CPUs on one node.
    memory_resource : str
        What limits memory, for each CPU; empty asks for none.
    poll_delay : int
        Seconds between two questions to SGE, each for all jobs.
    """

    _plugin_name = "l2s-sge"
    SCHEDULER = "SGE"

    poll_delay: int = 5
    gpu_args: str = "-l gpu={gpus}"
    parallel_environment: str = "smp"
    memory_resource: str = "h_vmem"

    def submission(self, demand: Demand, kind: str, name: str, folder: Path) -> list[str]:
        """Command that submits a job."""
        given = f"{self.qsub_args} {self.task_args.get(kind, '')}"
        derived: list[tuple[tuple[str, ...], list[str]]] = [(("-N",), ["-N", name])]
        if demand.cpus > 1:
            derived.append((("-pe",), ["-pe", self.parallel_environment, str(demand.cpus)]))
        if demand.memory_gb and self.memory_resource and f"{self.memory_resource}=" not in given:
            each = f"{self.memory_resource}={round(demand.memory_gb * 1000 / demand.cpus)}M"
            derived.append(((), ["-l", each]))
        if demand.gpus and "gpu" not in given:
            derived.append(((), self.gpu_args.format(gpus=demand.gpus).split()))
        return [
            *("qsub", "-terse", "-b", "n", "-S", "/bin/sh", "-V", "-r", "n"),
            *merged(derived, given),
            *("-wd", str(folder)),
            # $JOB_ID is SGE's word for it, not the shell's.
            *("-o", f"{folder}/$JOB_ID.out", "-e", f"{folder}/$JOB_ID.err"),
        ]

    def job_id(self, said: str) -> str | None:
        """Read the number of a job."""
        found = re.findall(r"^(\d+)(?:\..*)?$", said.strip(), re.M)
        return str(found[-1]) if found else None

    def listing(self) -> list[str]:
        """Command that lists the jobs of this user."""
        return ["qstat", "-u", getpass.getuser()]

    def living(self, said: str) -> dict[str, str]:
        """Jobs that are waiting or running; one in the state of error does neither.

        ``qstat`` does not list their folders.
        """
        rows = (line.split() for line in said.splitlines())
        jobs = ((row[0], row[4]) for row in rows if len(row) > 4 and row[0].isdecimal())
        return {job: "" for job, state in jobs if not state.startswith("E")}

    async def fate(self, job_id: str, demand: Demand) -> Fate | None:
        """Ask the accounting, which may take some seconds to know."""
        code, said, _ = await self.ask(["qacct", "-j", job_id])
        found = dict(re.findall(r"^(failed|exit_status)\s+(\d+)", said, re.M))
        if code == 0 and "exit_status" in found:
            return _fate(found.get("failed", "0"), found["exit_status"], said)
        code, said, _ = await self.ask(["qstat", "-j", job_id])
        reason = re.search(r"^error reason.*?:\s+(.*)$", said, re.M)
        if code == 0 and reason:
            await self.ask(["qdel", job_id])
            return Fate(state="Eqw", what=f"could not start ({reason[1].strip()})")
        return None

    def cancelling(self, job_ids: Sequence[str]) -> list[str]:
        """Command that ends jobs."""
        return ["qdel", *job_ids]


def _fate(failed: str, status: str, said: str) -> Fate:
    """Put SGE's accounting into words."""
    used = re.search(r"^maxvmem\s+(\S+)", said, re.M)
    memory = f", having used {used[1]} of memory" if used else ""
    if failed in _FAILED:
        state, what = _FAILED[failed]
        signal = f" {int(status) - 128}" if state == "KILLED" and int(status) > 128 else ""
        return Fate(state=state, what=f"{what}{signal}{memory} (failed {failed})")
    if failed != "0":
        return Fate(state="LOST", what=f"was lost by the cluster (failed {failed})", lost=True)
    if status == "0":
        return Fate(state="COMPLETED", what="ended well")
    return Fate(state="FAILED", what=f"failed with exit code {status}{memory}")
