"""What a task needs of CPUs, memory and GPUs."""

import math
import os
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.tasks import Resources

__all__ = ["GB_PER_PROCESS", "Demand", "demand_of", "fitted", "memory_needed_gb", "visible_gpus"]

GB_PER_PROCESS = 4
"""Memory set aside for a process that segments a head at 1 mm."""
_GB_BY_KIND = {"Learn": 16}
"""Memory set aside for tasks that take more."""
_VARIABLE = "CUDA_VISIBLE_DEVICES"


@attrs.frozen(kw_only=True)
class Demand:
    """What a task takes while it runs."""

    cpus: int = 1
    """CPU cores."""
    memory_gb: float = 0.0
    """Memory, GB; 0 where nothing is known."""
    gpus: int = 0
    """GPUs, each a different one."""
    gpu: int | None = None
    """A particular GPU, by its place among those that there are."""


def demand_of(task: Any, *, auto_gpus: int = 0) -> Demand:
    """Say what a task takes while it runs.

    Parameters
    ----------
    task : pydra task
        A task of ours says it by its input ``resources``; a foreign one counts as one CPU.
    auto_gpus : int
        GPUs of each process whose device is ``auto``: 1 where there are GPUs, 0 elsewhere.

    Examples
    --------
    >>> demand_of(object())
    Demand(cpus=1, memory_gb=0.0, gpus=0, gpu=None)
    """
    resources = getattr(task, "resources", None)
    if not isinstance(resources, Resources):
        return Demand()
    kind, _, number = resources.device.partition(":")
    each = {"cuda": 1, "auto": auto_gpus}.get(kind, 0)
    return Demand(
        cpus=max(resources.threads or 1, resources.processes),
        memory_gb=resources.memory_gb
        or memory_needed_gb(
            resources.max_memory_mb, least=_GB_BY_KIND.get(type(task).__name__, GB_PER_PROCESS)
        ),
        gpus=each * resources.processes,
        gpu=int(number) if number else None,
    )


def memory_needed_gb(max_memory_mb: float | None = None, *, least: float = GB_PER_PROCESS) -> float:
    """Memory to set aside for a task, GB.

    Parameters
    ----------
    max_memory_mb : float, optional
        Memory that its network may take, MB; 1 GB is set aside for all else.
    least : float
        Never less than this.
    """
    return max(least, math.ceil((max_memory_mb or 0) / 1000) + 1)


def fitted(job: Any, demand: Demand, *, exactly: bool = False) -> Any:
    """Return a job that takes no more than what was set aside for it.

    Parameters
    ----------
    job : pydra job
        Stays as it is.
    demand : Demand
        What was set aside; a GPU is the only one that the process of the job sees.
    exactly : bool
        Let it take all of it, and no GPU that nobody set aside.
    """
    import copy

    resources = getattr(job.task, "resources", None)
    if not isinstance(resources, Resources):
        return job
    new = resources
    if exactly or (resources.threads or math.inf) > demand.cpus:
        new = attrs.evolve(new, threads=demand.cpus)
    if demand.gpus and resources.device.startswith("cuda:"):
        new = attrs.evolve(new, device="cuda")
    if exactly and not demand.gpus and resources.device == "auto":
        new = attrs.evolve(new, device="cpu")
    if new == resources:
        return job
    task = attrs.evolve(job.task, resources=new)
    # Pydra compares them at the end; where a task runs is no part of them.
    task._hashes = job.task._hashes or job.task._compute_hashes()[1]
    job = copy.copy(job)
    job.task = task
    return job


def visible_gpus(devices: Path = Path("/dev")) -> list[str]:
    """List the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Parameters
    ----------
    devices : Path
        Where the driver has its files.
    """
    given = os.environ.get(_VARIABLE)
    if given is None:
        present = [path for path in devices.glob("nvidia*") if path.name[6:].isdecimal()]
        return [str(number) for number in range(len(present))]
    names = [name.strip() for name in given.split(",")]
    # CUDA ignores what comes after a name that it does not know, such as -1.
    unknown = next((n for n, name in enumerate(names) if name in ("", "-1")), len(names))
    return names[:unknown]
