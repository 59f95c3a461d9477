"""How many trainings run at a time, with how many threads, and on which GPU each."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

import attrs

from l2s_pydra.steps.room import free_host_bytes
from l2s_pydra.tasks import Resources

from .learning import conformed_dir
from .logs import set_up_logging
from .session import Session
from .worker import IsolatingWorker, Notify

__all__ = ["Crew", "claim_gpu", "visible_gpus"]

_log = logging.getLogger(__name__)
_VARIABLE = "CUDA_VISIBLE_DEVICES"
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
            processes=self.processes,
            checkpoint_dir=str(checkpoints),
            checkpoint_every=session.options.config.training.checkpoint_every,
            cache_dir=str(conformed_dir(session)),
            memory_bytes=self.memory_bytes,
            title=title,
        )

    def worker(self, session: Session, notify: Notify) -> IsolatingWorker:
        """Worker whose processes see one GPU each, if there are any to divide."""
        worker = session.worker(self.n_procs, notify)
        locks = session.options.work_dir / "gpus"
        worker.prepare = partial(_prepare, session.options.verbosity, locks, self.gpus)
        return worker


def _part(count: int, most: int | None) -> int | None:
    free = [amount for amount in (free_host_bytes(), most) if amount is not None]
    return min(free) // count if free else None


def _prepare(verbosity: int, locks: Path, gpus: Sequence[str]) -> None:
    set_up_logging(verbosity)
    if gpus:
        claim_gpu(locks, gpus)


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


def claim_gpu(folder: Path, gpus: Sequence[str]) -> str | None:
    """Make this process see one GPU, which no other process that claims one here sees.

    Parameters
    ----------
    folder : Path
        Where the locks are.
    gpus : sequence of str
        As :func:`visible_gpus` gives them.

    Returns
    -------
    str or None
        The GPU; None if all are taken, and nothing was changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, gpu in enumerate(gpus):
        handle = (folder / f"gpu-{number}.lock").open("w")
        if _lock(handle):
            _held.append(handle)
            os.environ[_VARIABLE] = gpu
            return gpu
        handle.close()
    _log.warning("every GPU is taken by another training; sharing one")
    return None


def _lock(handle: IO[str]) -> bool:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; taken; or a file system without locks
        return False
    return True
