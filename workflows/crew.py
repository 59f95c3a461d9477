"""How many trainings run at a time, with how many threads, and on which GPU each."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import attrs

from l2s_pydra.steps.room import free_host_bytes
from l2s_pydra.tasks import Resources

from .demand import visible_gpus
from .learning import conformed_dir
from .session import Session
from .worker import Notify

__all__ = ["Crew", "claim_gpus"]

_log = logging.getLogger(__name__)
_held: list[IO[str]] = []
"""Locks of this process; the kernel lets go of them when it ends, however that ends."""


@attrs.frozen(kw_only=True)
class Crew:
    """Processes that train at a time."""

    n_procs: int
    """How many trainings."""
    threads: int
    """CPU threads of each."""
    device: str
    """``auto``, ``cpu``, ``cuda`` or ``cuda:n``."""
    processes: int = 1
    """Processes that share a training."""
    gpus: tuple[str, ...] = ()
    """To be divided among the trainings, one each; none if there is nothing to divide."""
    memory_gb: float | None = None
    """Memory that a worker sets aside for each; None leaves it to the worker."""
    memory_bytes: int | None = None
    """Part of each training in what was free before any of them; None where none is shared."""

    @classmethod
    def of(cls, session: Session, jobs: int) -> "Crew":
        """Divide what there is: one training for each CPU thread or, where there are, each GPU.

        Parameters
        ----------
        session : Session
            The run.
        jobs : int
            Number of trainings there are, those that were done before included: what each gets,
            and so how far it comes in a given time, must not depend on what is left to do.
        """
        options = session.options
        if session.on_cluster:
            threads = session.threads * options.learn_processes
            return cls(
                n_procs=jobs,
                threads=threads,
                device=options.device,
                processes=options.learn_processes,
                memory_gb=session.memory_gb(),
            )
        gpus = visible_gpus() if options.device in ("auto", "cuda") else []
        if gpus or options.device.startswith("cuda"):
            gpus = gpus if options.learn_processes == 1 else []
            n_procs = max(1, min(jobs, len(gpus)))
            threads = options.threads or max(1, options.n_procs // n_procs)
        else:
            n_procs, threads = session.share(jobs * options.learn_processes)
            n_procs, threads = (
                max(1, n_procs // options.learn_processes),
                threads * options.learn_processes,
            )
        return cls(
            n_procs=n_procs,
            threads=threads,
            device=options.device,
            processes=options.learn_processes,
            gpus=tuple(gpus),
            memory_bytes=_part(n_procs * options.learn_processes, session.host_bytes)
            if not gpus and (n_procs > 1 or session.host_bytes)
            else None,
        )

    @property
    def compute(self) -> str:
        """What decides how far a training comes in a given time.

        >>> Crew(n_procs=2, threads=4, device="cpu").compute
        'cpu, 1 process(es), 4 thread(s)'
        """
        device = ("cuda" if visible_gpus() else "cpu") if self.device == "auto" else self.device
        return f"{device}, {self.processes} process(es), {self.threads} thread(s)"

    def resources(self, session: Session, checkpoints: Path, title: str) -> Resources:
        """Where one of the trainings runs, and what the log calls it."""
        return Resources(
            device=self.device,
            threads=self.threads,
            memory_gb=self.memory_gb,
            processes=self.processes,
            checkpoint_dir=str(checkpoints),
            checkpoint_every=session.options.config.training.checkpoint_every,
            cache_dir=str(conformed_dir(session)),
            memory_bytes=self.memory_bytes,
            title=title,
        )

    def worker(self, session: Session, notify: Notify) -> Any:
        """Worker that gives each training a GPU that no other run has, if there are any."""
        locks = session.options.work_dir / "gpus"
        gpus = claim_gpus(locks, self.gpus, self.n_procs) if self.gpus else None
        return session.worker(self.n_procs, notify, gpus=gpus, tasks_per_gpu=1)


def _part(count: int, most: int | None) -> int | None:
    free = [amount for amount in (free_host_bytes(), most) if amount is not None]
    return min(free) // count if free else None


def claim_gpus(folder: Path, gpus: Sequence[str], count: int) -> tuple[str, ...]:
    """Choose GPUs that no other process has chosen here, until this one ends.

    Parameters
    ----------
    folder : Path
        Where the locks are.
    gpus : sequence of str
        As :func:`l2s_pydra.workflows.demand.visible_gpus` gives them.
    count : int
        How many at most.

    Returns
    -------
    tuple of str
        The GPUs that were free; all of them if none was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claimed: list[str] = []
    for number, gpu in enumerate(gpus):
        if len(claimed) == count:
            break
        handle = (folder / f"gpu-{number}.lock").open("w")
        if _lock(handle):
            _held.append(handle)
            claimed.append(gpu)
        else:
            handle.close()
    if not claimed:
        _log.warning("every GPU is taken by another run; sharing them")
    return tuple(claimed or gpus)


def _lock(handle: IO[str]) -> bool:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; taken; or a file system without locks
        return False
    return True
