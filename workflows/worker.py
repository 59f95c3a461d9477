"""A Pydra worker that keeps one job's trouble from the others.

Pydra's own ``cf`` worker forks a pool: a parent that has used OpenMP threads makes its children hang,
one child that is killed (out of memory, say) breaks the pool for every other job, and a parent that
is killed leaves the children behind. Here each slot is a process of its own, started by a fork
server, replaced when it dies, and gone when the parent is.
"""

import asyncio
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import attrs
import cloudpickle

# Pydra's modules import one another: the submitter has to come before the worker.
from pydra.engine.submitter import Submitter
from pydra.workers.base import Worker

__all__ = ["IsolatingWorker", "Submitter"]

Prepare = Callable[[], None]
Notify = Callable[[Any, float, Exception | None], None]


@attrs.define(kw_only=True)
class IsolatingWorker(Worker):  # type: ignore[misc]
    """Runs each job in one of ``n_procs`` processes that do not depend on one another."""

    _plugin_name = "l2s"

    n_procs: int = 1
    """Number of jobs that run at a time."""
    stop_on_first_error: bool = False
    """Start no job after one has failed."""
    prepare: Prepare | None = attrs.field(default=None, eq=False, repr=False)
    """Called once in each new process; an importable function."""
    notify: Notify | None = attrs.field(default=None, eq=False, repr=False)
    """Called in the parent after each job with its task, its seconds and its error or ``None``."""
    _slots: "asyncio.Queue[ProcessPoolExecutor | None] | None" = attrs.field(
        default=None, init=False, eq=False, repr=False
    )
    _pools: list[ProcessPoolExecutor] = attrs.field(factory=list, init=False, eq=False, repr=False)
    _failed: bool = attrs.field(default=False, init=False, eq=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what lives in the parent; a child submits no job."""
        return {**super().__getstate__(), "_slots": None, "_pools": [], "notify": None}

    async def run(self, job: Any, rerun: bool = False) -> None:
        """Run a job in the next free process.

        Raises
        ------
        RuntimeError
            If the process died, or an earlier job failed and ``stop_on_first_error`` is set.
        """
        if self._slots is None:
            self._slots = asyncio.Queue()
            for _ in range(self.n_procs):
                self._slots.put_nowait(None)
        pool = await self._slots.get()
        started = time.monotonic()
        try:
            if self._failed and self.stop_on_first_error:
                raise RuntimeError("not started, because an earlier job failed")
            pool = pool or self._open()
            await self.loop.run_in_executor(pool, _run, cloudpickle.dumps(job), rerun)
        except BrokenProcessPool:
            self._close(pool)
            pool = None
            error = RuntimeError(
                "the process was killed, most likely because memory ran out; "
                "run fewer at a time (--nprocs) or give more memory"
            )
            self._report(job, started, error)
            raise error from None
        except Exception as error:
            self._report(job, started, error)
            raise
        finally:
            self._slots.put_nowait(pool)
        self._report(job, started, None)

    def _report(self, job: Any, started: float, error: Exception | None) -> None:
        self._failed = self._failed or error is not None
        if self.notify is not None:
            self.notify(job.task, time.monotonic() - started, error)

    def _open(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("forkserver"),
            initializer=_start,
            initargs=(self.prepare,),
        )
        self._pools.append(pool)
        return pool

    def _close(self, pool: ProcessPoolExecutor | None) -> None:
        if pool is None:
            return
        # Without this, a shutdown waits for the job that is running, an hour of training perhaps.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        self._pools.remove(pool)

    def close(self) -> None:
        """End all processes, also those that still work."""
        for pool in list(self._pools):
            self._close(pool)


def _run(pickled: bytes, rerun: bool) -> None:
    """Run a job in this process; its result is in the cache, where Pydra looks for it."""
    cloudpickle.loads(pickled).run(rerun=rerun)


def _start(prepare: Prepare | None) -> None:
    """Set up a new process."""
    # The parent handles Ctrl-C: an interrupted child would store an empty result as a good one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    if prepare is not None:
        prepare()


def _follow_parent() -> None:
    """End this process when its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        logging.shutdown()
        os._exit(1)
