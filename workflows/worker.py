"""A Pydra worker that gives each task its CPUs, memory and GPU, and keeps its trouble from others.

Pydra's own ``cf`` worker counts processes only, and forks them: a parent that has used OpenMP
threads makes its children hang, one child that is killed (out of memory, say) breaks the pool for
every other job, and a parent that is killed leaves the children behind. Here a task starts when
what it needs is free, in a process of its own that a fork server starts, that is replaced when it
dies, and that is gone when the parent is.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import attrs
import cloudpickle

# Pydra's modules import one another: the submitter has to come before the worker.
from pydra.engine.submitter import Submitter
from pydra.workers.base import Worker

from l2s_pydra.errors import JobError

from .demand import demand_of, fitted, visible_gpus
from .ledger import Ledger

__all__ = ["L2SWorker", "NotStartedError", "Submitter", "log_of", "run_pickled"]

_GRACE_S = 60.0
"""How long a process without a parent may take to write a checkpoint."""
Prepare = Callable[[], None]
Notify = Callable[[Any, float, Exception | None], None]


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus(given: int | Sequence[str] | None) -> tuple[str, ...]:
    if given is None or isinstance(given, int):
        there = visible_gpus()
        return tuple(there if given is None else there[:given])
    return tuple(str(name) for name in given)


class NotStartedError(JobError):
    """A job was not started, because an earlier one failed."""


@attrs.define
class _Process:
    """A process that runs one job at a time."""

    pool: ProcessPoolExecutor
    gpus: tuple[str, ...]
    process: Any = None

    def end(self) -> None:
        # Without this, a shutdown waits for the job that is running, an hour of training perhaps.
        for process in list((self.pool._processes or {}).values()):
            process.terminate()
        self.pool.shutdown(wait=True, cancel_futures=True)


@attrs.define(kw_only=True)
class L2SWorker(Worker):  # type: ignore[misc]
    """Runs tasks on this computer, within its CPUs, memory and GPUs.

    A task of ours says what it needs by its input ``resources``; any other one counts as one CPU.
    One that needs more than there is gets all there is.

    Parameters
    ----------
    n_procs : int
        CPUs in all; by default those that this process may use.
    memory_gb : float, optional
        Memory in all, GB; no limit by default.
    gpus : int or sequence of str, optional
        How many GPUs, or which, as ``CUDA_VISIBLE_DEVICES`` names them; by default those that this
        process may use. A task with a GPU sees that one only.
    tasks_per_gpu : int
        Tasks that may share a GPU.
    max_tasks : int, optional
        Tasks that run at a time, whatever they need; no limit by default.
    stop_on_first_error : bool
        Start no task after one has failed.
    log_dir : Path, optional
        Folder for what is said during each task, in files named by :func:`log_of`.
    prepare : callable, optional
        Called once in each new process; an importable function.
    notify : callable, optional
        Called here after each task with the task, its seconds and its error or ``None``.

    Examples
    --------
    >>> with Submitter(worker=L2SWorker(n_procs=8, memory_gb=32, gpus=0)) as submitter:
    ...     submitter.worker.n_procs
    8
    """

    _plugin_name = "l2s"

    n_procs: int = attrs.field(factory=_cpus)
    memory_gb: float | None = None
    gpus: tuple[str, ...] = attrs.field(default=None, converter=_gpus)
    tasks_per_gpu: int = 1
    max_tasks: int | None = None
    stop_on_first_error: bool = False
    log_dir: Path | None = None
    prepare: Prepare | None = attrs.field(default=None, eq=False, repr=False)
    notify: Notify | None = attrs.field(default=None, eq=False, repr=False)
    _ledger: Ledger | None = attrs.field(default=None, init=False, eq=False, repr=False)
    _idle: list[_Process] = attrs.field(factory=list, init=False, eq=False, repr=False)
    _busy: list[_Process] = attrs.field(factory=list, init=False, eq=False, repr=False)
    _failed: bool = attrs.field(default=False, init=False, eq=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what lives in the parent; a child submits no job."""
        kept: dict[str, Any] = {"_ledger": None, "_idle": [], "_busy": [], "notify": None}
        return {**super().__getstate__(), **kept}

    async def run(self, job: Any, rerun: bool = False) -> None:
        """Run a job as soon as what it needs is free.

        Raises
        ------
        JobError
            If the process died, or an earlier job failed and ``stop_on_first_error`` is set.
        """
        if self._ledger is None:
            self._ledger = Ledger(
                self.n_procs, self.memory_gb, self.gpus, self.tasks_per_gpu, self.max_tasks
            )
        demand = self._ledger.capped(demand_of(job.task, auto_gpus=bool(self.gpus)))
        gpus = await self._ledger.take(demand)
        started = time.monotonic()
        try:
            await self._run_in_process(fitted(job, demand), rerun, gpus)
        except Exception as error:
            self._report(job, started, error)
            raise
        finally:
            if self._ledger is not None:
                self._ledger.give(demand, gpus)
        self._report(job, started, None)

    async def _run_in_process(self, job: Any, rerun: bool, gpus: tuple[str, ...]) -> None:
        if self._failed and self.stop_on_first_error:
            raise NotStartedError("not started, because an earlier job failed")
        process = self._take(gpus)
        try:
            log = self.log_dir and log_of(self.log_dir, job.task)
            future = process.pool.submit(run_pickled, cloudpickle.dumps(job), rerun, log)
            process.process = next(iter((process.pool._processes or {}).values()), None)
            await asyncio.wrap_future(future, loop=self.loop)
        except BrokenProcessPool:
            self._busy.remove(process)
            process.end()
            raise JobError(_how_it_died(process.process)) from None
        except BaseException as error:
            self._busy.remove(process)
            if isinstance(error, Exception):
                self._idle.append(process)
            else:
                process.end()
            raise
        self._busy.remove(process)
        self._idle.append(process)

    def _take(self, gpus: tuple[str, ...]) -> _Process:
        """Take an idle process that sees these GPUs, or start one; CUDA cannot change its view."""
        process = next((one for one in self._idle if one.gpus == gpus), None)
        if process is not None:
            self._idle.remove(process)
        else:
            if self._idle and len(self._idle) + len(self._busy) >= self.n_procs:
                self._idle.pop(0).end()
            process = self._start(gpus)
        self._busy.append(process)
        return process

    def _start(self, gpus: tuple[str, ...]) -> _Process:
        pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("forkserver"),
            initializer=_start,
            initargs=(self.prepare, gpus, os.environ.get("PYDRA_HASH_CACHE")),
        )
        return _Process(pool, gpus)

    def _report(self, job: Any, started: float, error: Exception | None) -> None:
        self._failed = self._failed or error is not None
        if self.notify is not None:
            self.notify(job.task, time.monotonic() - started, error)

    def close(self) -> None:
        """End all processes, also those that still work."""
        for process in (*self._idle, *self._busy):
            process.end()
        self._idle.clear()
        self._ledger = None


def _how_it_died(process: Any) -> str:
    """Say how a process ended that was not to end."""
    code = None
    if process is not None:
        process.join(5)
        code = process.exitcode
    advice = "run fewer tasks at a time (--nprocs) or give more memory"
    if code == -signal.SIGKILL:
        return f"the process was killed (SIGKILL), most likely because memory ran out; {advice}"
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"the process was ended by {name}; if memory was short, {advice}"
    return f"the process ended by itself (exit code {code}); if memory was short, {advice}"


def log_of(log_dir: Path, task: Any) -> Path:
    """File of what is said while a task runs."""
    return log_dir / f"{task._checksum}.log"


def run_pickled(pickled: bytes, rerun: bool, log: Path | None) -> None:
    """Run a job in this process; its result is in the cache, where Pydra looks for it.

    Parameters
    ----------
    pickled : bytes
        The job.
    rerun : bool
        Whether to run it although the cache has a result.
    log : Path, optional
        File for what is said meanwhile.
    """
    with contextlib.ExitStack() as stack:
        if log is not None:
            handler = logging.FileHandler(log, mode="w", encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
            stack.callback(handler.close)
            stack.callback(logging.getLogger().removeHandler, handler)
            logging.getLogger().addHandler(handler)
        cloudpickle.loads(pickled).run(rerun=rerun)


def _start(prepare: Prepare | None, gpus: Sequence[str], hash_cache: str | None) -> None:
    """Set up a new process."""
    if hash_cache is not None:  # a fork server keeps the environment that it was started in
        os.environ["PYDRA_HASH_CACHE"] = hash_cache
    # The parent handles Ctrl-C: an interrupted child would store an empty result as a good one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    if prepare is not None:
        prepare()


def _follow_parent() -> None:
    """End this process when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        # A training writes a checkpoint first; everything else ends at once.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_S)
        logging.shutdown()
        os._exit(1)
