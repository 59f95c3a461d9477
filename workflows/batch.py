"""What the workers for batch schedulers have in common: a task is a job, and is watched until it ends.

Pydra's own workers ask the scheduler once for every job, take silence for an end, submit cancelled
jobs again for ever, and lose sight of jobs whose parent was killed. Here one question serves all jobs;
only what the scheduler says and what lies in the cache decides; a job that outlived its parent is
watched on by the next run; and a failure tells state and log.
"""

import asyncio
import contextlib
import logging
import shlex
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.errors import JobError
from l2s_pydra.tasks import Resources

from .batch_fate import told
from .batch_job import LOG, write_job
from .batch_records import JobRecords
from .demand import Demand, demand_of
from .scheduler import Fate, Scheduler, ask, is_busy
from .site_words import without_accounts
from .worker import Notify, NotStartedError, Prepare, log_of

__all__ = ["BatchJobs"]

_log = logging.getLogger(__name__)
_SUBMISSIONS = 5
"""Attempts to submit a job to a scheduler that is busy."""
_STOPPED = "not started, because an earlier job failed"


@attrs.define(slots=False, kw_only=True)
class BatchJobs(Scheduler):
    """Runs each task as a job of its own; a class for a scheduler says how.

    Parameters
    ----------
    task_args : dict of str
        Further arguments for tasks of a kind, such as ``{"Learn": "--time=24:00:00"}``; they win.
    gpu_args : str
        Arguments for tasks on a GPU; ``{gpus}`` is how many.
    gpus : int
        GPUs for each process of a task whose device is ``auto``.
    cpus : int
        CPUs for a task of ours that does not say how many.
    max_jobs : int
        Jobs that are queued or running at a time.
    retries : int
        How often a job is submitted again whose node failed or was taken away.
    result_delay : float
        Seconds that a shared file system may take to show the result of a job that has ended.
    busy_delay : float
        Seconds before a scheduler is asked again that did not answer; twice as many each time that it
        takes no job.
    setup : str
        Lines of shell before Python is started, such as ``module load cuda``.
    python : str
        Command that starts Python in a job, such as ``apptainer exec l2s_pydra.sif python``; by
        default this interpreter.
    stop_on_first_error : bool
        Submit no task after one has failed.
    log_dir : Path, optional
        Folder for what is said during each task, in files named by
        :func:`l2s_pydra.workflows.worker.log_of`.
    prepare : callable, optional
        Called in each job before its task; an importable function.
    notify : callable, optional
        Called here after each task with the task, its seconds and its error or ``None``.
    """

    task_args: dict[str, str] = attrs.field(factory=dict)
    gpu_args: str = ""
    gpus: int = 0
    cpus: int = 4
    max_jobs: int = 200
    retries: int = 1
    result_delay: float = 60.0
    busy_delay: float = 5.0
    setup: str = ""
    python: str = attrs.field(factory=lambda: shlex.quote(sys.executable))
    stop_on_first_error: bool = False
    log_dir: Path | None = None
    prepare: Prepare | None = attrs.field(default=None, eq=False, repr=False)
    notify: Notify | None = attrs.field(default=None, eq=False, repr=False)
    _mine: dict[str, tuple[JobRecords, str]] = attrs.field(
        factory=dict, init=False, eq=False, repr=False
    )
    _submitting: set[Path] = attrs.field(factory=set, init=False, eq=False, repr=False)
    _ended: threading.Event = attrs.field(factory=threading.Event, init=False, eq=False, repr=False)
    _adopted: dict[str, str] | None = attrs.field(default=None, init=False, eq=False, repr=False)
    _places: asyncio.Semaphore | None = attrs.field(default=None, init=False, eq=False, repr=False)
    _asking: asyncio.Lock | None = attrs.field(default=None, init=False, eq=False, repr=False)
    _seen: tuple[float, frozenset[str]] = attrs.field(
        default=(-1.0, frozenset()), init=False, eq=False, repr=False
    )
    _failed: bool = attrs.field(default=False, init=False, eq=False, repr=False)

    PATIENCE = 1800.0
    """Seconds without an answer of the scheduler after which a task fails."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what lives in the parent; a job submits no job."""
        gone: dict[str, Any] = {
            "_mine": {},
            "_submitting": set(),
            "_ended": None,
            "_adopted": None,
            "_places": None,
            "_asking": None,
            "notify": None,
        }
        state: Any = super().__getstate__()
        return {**state, **gone, "prepare": None}

    async def run(self, job: Any, rerun: bool = False) -> None:
        """Run a task as a job, and wait for its end.

        Raises
        ------
        JobError
            If the task left no result, or the scheduler refused the job.
        """
        if self._places is None:
            self._places, self._asking = asyncio.Semaphore(self.max_jobs), asyncio.Lock()
            self._ended.clear()
        if self._adopted is None:
            self.under_way(job.cache_root)
        async with self._places:
            started = time.monotonic()
            try:
                await self._run(job, rerun)
            except Exception as error:
                self._report(job, started, error)
                raise
        self._report(job, started, None)

    async def _run(self, job: Any, rerun: bool) -> None:
        if self._failed and self.stop_on_first_error:
            raise NotStartedError(_STOPPED)
        demand = self.demand(job.task)
        job_id = (self._adopted or {}).pop(job.checksum, None)
        for attempt in range(self.retries + 1):
            folder = self._folder(job)
            if job_id is None:
                job_id = await self._submit(job, demand, rerun, folder)
            else:
                records = self._records(job.cache_root)
                folder = records.place(job.checksum, otherwise=folder)
                self._mine[job_id] = records, job.checksum
                _log.info("%s job %s of an earlier run goes on", self.SCHEDULER, job_id)
            if self._failed and self.stop_on_first_error:
                # It was on its way when another one failed.
                await self.ask(self.cancelling([job_id]))
                self._forget(job_id)
                raise NotStartedError(_STOPPED)
            fate = await self._watch(job_id, demand)
            self._forget(job_id)
            self._keep_log(job, folder)
            if await self._has_result(job, wait=fate is None or fate.state == "COMPLETED"):
                return
            # What a process that is gone could not take away.
            job.lockfile.unlink(missing_ok=True)
            (Path(job.cache_root) / f"{job.uid}_info.json").unlink(missing_ok=True)
            if not (fate and fate.lost and attempt < self.retries):
                raise JobError(told(self.SCHEDULER, job_id, fate, folder))
            _log.warning("%s job %s %s; submitting it again", self.SCHEDULER, job_id, fate.what)
            job_id = None

    def _keep_log(self, job: Any, folder: Path) -> None:
        """Put what was said during a task where the caller looks for it."""
        if self.log_dir is not None:
            with contextlib.suppress(OSError):
                shutil.copyfile(folder / LOG, log_of(self.log_dir, job.task))

    def demand(self, task: Any) -> Demand:
        """CPUs, memory and GPUs that are asked for."""
        demand = demand_of(task, auto_gpus=self.gpus)
        resources = getattr(task, "resources", None)
        if isinstance(resources, Resources) and resources.threads is None:
            demand = attrs.evolve(demand, cpus=max(self.cpus, demand.cpus))
        return demand

    def _folder(self, job: Any) -> Path:
        return Path(job.cache_root) / f"{type(self)._plugin_name}_scripts" / job.uid  # type: ignore[attr-defined]

    def _records(self, cache: Path) -> JobRecords:
        return JobRecords(Path(cache) / f"{type(self)._plugin_name}_jobs")  # type: ignore[attr-defined]

    async def _submit(self, job: Any, demand: Demand, rerun: bool, folder: Path) -> str:
        script = write_job(
            job,
            demand,
            folder,
            python=self.python,
            setup=self.setup,
            prepare=self.prepare,
            rerun=rerun,
        )
        kind = type(job.task).__name__
        whose = Path(getattr(job.task, "source", None) or job.name).name.partition(".")[0]
        command = [*self.submission(demand, kind, f"{kind}.{whose}", folder), str(script)]
        loop = asyncio.get_running_loop()
        for attempt in range(_SUBMISSIONS):
            job_id, code, said = await loop.run_in_executor(
                None, self._submit_once, command, job, folder, attempt > 0
            )
            if job_id:
                return job_id
            if code == 127 or not is_busy(said) or attempt + 1 == _SUBMISSIONS:
                break
            await asyncio.sleep(self.busy_delay * 2.0**attempt)
        reason = " ".join(said.split()) or "no word of why"
        shown = shlex.join(without_accounts(command))
        raise JobError(f"{self.SCHEDULER} refused the job: {reason}\n    | {shown}")

    def _submit_once(
        self, command: list[str], job: Any, folder: Path, again: bool
    ) -> tuple[str, int, str]:
        """Submit a job and take note of it; in a thread, which Ctrl-C does not interrupt.

        Returns
        -------
        job_id : str
            Its number; empty if the scheduler did not take it.
        code : int
            Of the command.
        said : str
            Its complaint.
        """
        self._submitting.add(folder)
        try:
            if self._ended.is_set():
                raise NotStartedError("not started, because the run was stopped")
            records = self._records(job.cache_root)
            # Before the job is: should this process be killed now, the next run finds the job.
            records.write(job.checksum, folder)
            job_id: str | None = None
            if again:
                # A command that timed out may have submitted it all the same.
                code, said, error = ask(self.listing())
                if code:  # nor is it submitted once more while that cannot be told
                    return "", code, error or said
                job_id = self._job_in(folder, said)
            if job_id is None:
                code, said, error = ask(command)
                job_id = self.job_id(said) if code == 0 else None
            if job_id is not None:
                self._mine[job_id] = records, job.checksum
                records.write(job.checksum, folder, job_id)
            elif code and not is_busy(error or said):
                records.forget(job.checksum)
            return job_id or "", code, error or said
        finally:
            self._submitting.discard(folder)

    def _job_in(self, folder: Path, said: str) -> str | None:
        """Job in a list that is waiting or running in a folder."""
        living = self.living(said)
        return next((job_id for job_id, place in living.items() if place == str(folder)), None)

    async def _watch(self, job_id: str, demand: Demand) -> Fate | None:
        """Wait until a job is no longer waiting or running; how it ended, if that can be told."""
        submitted = time.monotonic()
        unknown_since = None
        while True:
            await asyncio.sleep(self.poll_delay)  # type: ignore[attr-defined]
            if job_id in await self._living(submitted):
                unknown_since = None
                continue
            fate = await self.fate(job_id, demand)
            if fate is not None:
                return fate
            # The accounting is behind, or there is none.
            unknown_since = unknown_since or time.monotonic()
            if time.monotonic() - unknown_since > min(self.result_delay, 30):
                return None

    async def _living(self, newer_than: float) -> frozenset[str]:
        """Jobs that are waiting or running; one question serves all who ask."""
        assert self._asking is not None
        async with self._asking:
            asked, living = self._seen
            since = time.monotonic()
            while max(newer_than, time.monotonic() - self.poll_delay) > asked:  # type: ignore[attr-defined]
                now = time.monotonic()
                code, said, error = await self.ask(self.listing())
                if code == 0:
                    asked, living = self._seen = now, frozenset(self.living(said))
                    break
                if code == 127 or now - since > self.PATIENCE:
                    raise JobError(
                        f"{self.SCHEDULER} does not answer ({' '.join(error.split())}); its jobs may "
                        "go on: the same command, later, waits for them"
                    )
                _log.warning("%s does not answer: %s", self.SCHEDULER, " ".join(error.split()))
                await asyncio.sleep(self.busy_delay)
            return living

    async def _has_result(self, job: Any, *, wait: bool) -> bool:
        """Whether a task left a good result; that of one that failed is an error.

        Raises
        ------
        JobError
            If the task itself failed.
        """
        from pydra.engine.result import load_result

        until = time.monotonic() + (self.result_delay if wait else 0)
        while True:
            result = load_result(job.checksum, [Path(job.cache_root)])
            if result is not None and result.errored:
                lines = "".join((result.errors or {}).get("error message", [])).split("\n")
                message = next((line for line in reversed(lines) if line.strip()), "no word of why")
                raise JobError(f"the task failed: {message}")
            if result is not None and result.outputs is not None:
                return True
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.5)

    def _report(self, job: Any, started: float, error: Exception | None) -> None:
        if error is not None and self.stop_on_first_error and not self._failed:
            self._failed = True
            self._cancel()
        self._failed = self._failed or error is not None
        if self.notify is not None:
            self.notify(job.task, time.monotonic() - started, error)

    def under_way(self, cache: Path) -> frozenset[str]:
        """Find jobs of an earlier run that are still waiting or running; they are watched on.

        Parameters
        ----------
        cache : Path
            Pydra's cache.

        Returns
        -------
        frozenset of str
            Checksums of their tasks, whose entries in the cache must be left alone.

        Raises
        ------
        JobError
            If there may be such jobs, and the scheduler does not answer.
        """
        records = self._records(cache)
        self._adopted = dict(records.matched(self._listed())) if records.there() else {}
        return frozenset(self._adopted)

    def _listed(self) -> dict[str, str]:
        """Jobs that are waiting or running; a scheduler that is busy is asked again."""
        for attempt in range(_SUBMISSIONS):
            code, said, error = ask(self.listing())
            if code == 0:
                return self.living(said)
            if code == 127 or attempt + 1 == _SUBMISSIONS:
                break
            time.sleep(self.busy_delay * 2.0**attempt)
        raise JobError(
            f"{self.SCHEDULER} does not answer ({' '.join(error.split())}); jobs of an earlier run "
            "may be under way, and are not to be submitted again: run the same command later"
        )

    def _forget(self, job_id: str) -> None:
        if job_id in self._mine:
            records, checksum = self._mine.pop(job_id)
            records.forget(checksum)

    def _cancel(self) -> set[str]:
        """End all jobs that this run waits for; those of which the scheduler did not take note."""
        job_ids = list(self._mine)
        unheard: set[str] = set()
        for start in range(0, len(job_ids), 100):
            some = job_ids[start : start + 100]
            code, _, _ = ask(self.cancelling(some))
            unheard |= set(some) if code else set()
        return unheard

    def close(self) -> None:
        """End all jobs that this run still waits for, and see them gone.

        Those that go on, as the scheduler does not answer, are left for the next run to find.
        """
        self._ended.set()
        until = time.monotonic() + 20
        while self._submitting and time.monotonic() < until:
            time.sleep(0.1)
        going_on = self._cancel()
        job_ids = set(self._mine)
        until = time.monotonic() + (20 if job_ids else 0)
        while time.monotonic() < until:
            code, said, _ = ask(self.listing())
            if code:
                break
            living = self.living(said).keys()
            going_on &= living
            if not living & job_ids:
                break
            time.sleep(0.5)
        for job_id in job_ids - going_on:
            self._forget(job_id)
        self._mine.clear()
        self._places = self._asking = self._adopted = None
