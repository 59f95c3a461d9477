"""What the workers for batch schedulers have in common: a task is a job, and is watched until it ends.

Pydra's own workers ask the scheduler once for every job, take silence for an end, submit cancelled
jobs again for ever, and lose sight of jobs whose parent was killed. Here one question serves all jobs;
only what the scheduler says and what lies in the cache decides; a job that outlived its parent is
watched on by the next run; and a failure tells state and log.
"""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import cloudpickle

from l2s_pydra.errors import JobError
from l2s_pydra.tasks import Resources

from .demand import Demand, demand_of, fitted
from .worker import Notify, NotStartedError, Prepare, log_of

__all__ = ["BatchJobs", "Fate", "log_tail", "merged"]

_log = logging.getLogger(__name__)
_LOG = "task.log"
_TAIL = 15
"""Lines of a log that an error quotes."""
_SUBMISSIONS = 5
"""Attempts to submit a job to a scheduler that is busy."""
_PAUSE = 5.0
"""Seconds before one that did not answer is asked again."""


@attrs.frozen(kw_only=True)
class Fate:
    """How a job ended."""

    state: str
    """The scheduler's word for it."""
    what: str
    """The same in a clause, after "the job"."""
    lost: bool = False
    """Whether the cluster is to blame, and another attempt makes sense."""


@attrs.define(slots=False, kw_only=True)
class BatchJobs:
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
    setup: str = ""
    python: str = attrs.field(factory=lambda: shlex.quote(sys.executable))
    stop_on_first_error: bool = False
    log_dir: Path | None = None
    prepare: Prepare | None = attrs.field(default=None, eq=False, repr=False)
    notify: Notify | None = attrs.field(default=None, eq=False, repr=False)
    _mine: dict[str, Path] = attrs.field(factory=dict, init=False, eq=False, repr=False)
    _adopted: dict[str, str] | None = attrs.field(default=None, init=False, eq=False, repr=False)
    _places: asyncio.Semaphore | None = attrs.field(default=None, init=False, eq=False, repr=False)
    _asking: asyncio.Lock | None = attrs.field(default=None, init=False, eq=False, repr=False)
    _seen: tuple[float, frozenset[str]] = attrs.field(
        default=(-1.0, frozenset()), init=False, eq=False, repr=False
    )
    _failed: bool = attrs.field(default=False, init=False, eq=False, repr=False)

    SCHEDULER = "batch"
    PATIENCE = 1800.0
    """Seconds without an answer of the scheduler after which a task fails."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what lives in the parent; a job submits no job."""
        gone: dict[str, Any] = {
            "_mine": {},
            "_adopted": None,
            "_places": None,
            "_asking": None,
            "notify": None,
        }
        state: Any = super().__getstate__()
        return {**state, **gone, "prepare": None}

    # What a scheduler has to say -----------------------------------------------------------------

    def submission(self, demand: Demand, kind: str, name: str, folder: Path) -> list[str]:
        """Command that submits the script that is its last argument."""
        raise NotImplementedError

    def job_id(self, said: str) -> str | None:
        """Read the number of a job in what that command said."""
        raise NotImplementedError

    def listing(self) -> list[str]:
        """Command that lists the jobs of this user."""
        raise NotImplementedError

    def living(self, said: str) -> frozenset[str]:
        """Jobs in what that command said that are waiting or running."""
        raise NotImplementedError

    async def fate(self, job_id: str, demand: Demand) -> Fate | None:
        """How a job ended that is no longer listed; None if nothing is known, or not yet."""
        raise NotImplementedError

    def cancelling(self, job_ids: Sequence[str]) -> list[str]:
        """Command that ends jobs."""
        raise NotImplementedError

    # One task ------------------------------------------------------------------------------------

    async def run(self, job: Any, rerun: bool = False) -> None:
        """Run a task as a job, and wait for its end.

        Raises
        ------
        JobError
            If the task left no result, or the scheduler refused the job.
        """
        if self._places is None:
            self._places, self._asking = asyncio.Semaphore(self.max_jobs), asyncio.Lock()
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
            raise NotStartedError("not started, because an earlier job failed")
        demand = self.demand(job.task)
        job_id = (self._adopted or {}).pop(job.checksum, None)
        for attempt in range(self.retries + 1):
            folder = self._folder(job)
            if job_id is None:
                job_id = await self._submit(job, demand, rerun, folder)
            else:
                folder = Path(_read(self._record(job)).get("folder", folder))
                _log.info("%s job %s of an earlier run goes on", self.SCHEDULER, job_id)
            self._mine[job_id] = self._record(job)
            fate = await self._watch(job_id, demand)
            self._forget(job_id)
            self._keep_log(job, folder)
            if await self._has_result(job, wait=fate is None or fate.state == "COMPLETED"):
                return
            # What a process that is gone could not take away.
            job.lockfile.unlink(missing_ok=True)
            (Path(job.cache_root) / f"{job.uid}_info.json").unlink(missing_ok=True)
            if not (fate and fate.lost and attempt < self.retries):
                raise JobError(self._why(job_id, fate, folder))
            _log.warning("%s job %s %s; submitting it again", self.SCHEDULER, job_id, fate.what)
            job_id = None

    def _keep_log(self, job: Any, folder: Path) -> None:
        """Put what was said during a task where the caller looks for it."""
        if self.log_dir is not None:
            with contextlib.suppress(OSError):
                shutil.copyfile(folder / _LOG, log_of(self.log_dir, job.task))

    def demand(self, task: Any) -> Demand:
        """CPUs, memory and GPUs that are asked for."""
        demand = demand_of(task, auto_gpus=self.gpus)
        resources = getattr(task, "resources", None)
        if isinstance(resources, Resources) and resources.threads is None:
            demand = attrs.evolve(demand, cpus=max(self.cpus, demand.cpus))
        return demand

    def _folder(self, job: Any) -> Path:
        return Path(job.cache_root) / f"{type(self)._plugin_name}_scripts" / job.uid  # type: ignore[attr-defined]

    def _record(self, job: Any) -> Path:
        return self._records(job.cache_root) / f"{job.checksum}.json"

    def _records(self, cache: Path) -> Path:
        return Path(cache) / f"{type(self)._plugin_name}_jobs"  # type: ignore[attr-defined]

    async def _submit(self, job: Any, demand: Demand, rerun: bool, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        script = self._write(job, demand, rerun, folder)
        kind = type(job.task).__name__
        whose = Path(getattr(job.task, "source", None) or job.name).name.partition(".")[0]
        command = [*self.submission(demand, kind, f"{kind}.{whose}", folder), str(script)]
        for attempt in range(_SUBMISSIONS):
            code, said, error = await self.ask(command)
            job_id = self.job_id(said) if code == 0 else None
            if job_id is not None:
                break
            if code == 127 or not _busy(error) or attempt + 1 == _SUBMISSIONS:
                reason = " ".join((error or said).split()) or "no word of why"
                raise JobError(
                    f"{self.SCHEDULER} refused the job: {reason} ({shlex.join(command)})"
                )
            await asyncio.sleep(_PAUSE * 2.0**attempt)
        record = self._record(job)
        record.parent.mkdir(exist_ok=True)
        new = record.with_suffix(".new")
        new.write_text(json.dumps({"job": job_id, "folder": str(folder)}), encoding="utf-8")
        new.replace(record)
        return str(job_id)

    def _write(self, job: Any, demand: Demand, rerun: bool, folder: Path) -> Path:
        """Write the script of a job, and what it is to run."""
        content = {
            "path": [str(Path(entry).absolute()) for entry in sys.path if entry],
            "prepare": cloudpickle.dumps(self.prepare),
            "job": cloudpickle.dumps(fitted(job, demand, exactly=True)),
            "rerun": rerun,
            "log": str(folder / _LOG),
        }
        (folder / "job.pkl").write_bytes(cloudpickle.dumps(content))
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        variables = {"NO_ET": "1", "NIPYPE_NO_ET": "1", **dict.fromkeys(threads, str(demand.cpus))}
        if "PYDRA_HASH_CACHE" in os.environ:
            variables["PYDRA_HASH_CACHE"] = os.environ["PYDRA_HASH_CACHE"]
        lines = [
            "#!/bin/sh",
            *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
            *([self.setup] if self.setup else []),
            # In place of the shell, so that the scheduler sees how it ends.
            f"exec {self.python} -P -m l2s_pydra.workflows.batch_job "
            f"{shlex.quote(str(folder / 'job.pkl'))}",
        ]
        script = folder / "job.sh"
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return script

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
                    asked, living = self._seen = now, self.living(said)
                    break
                if code == 127 or now - since > self.PATIENCE:
                    raise JobError(
                        f"{self.SCHEDULER} does not answer ({' '.join(error.split())}); its jobs may "
                        "go on: the same command, later, waits for them"
                    )
                _log.warning("%s does not answer: %s", self.SCHEDULER, " ".join(error.split()))
                await asyncio.sleep(_PAUSE)
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

    def _why(self, job_id: str, fate: Fate | None, folder: Path) -> str:
        """Say why a job left no result: state and log in a line, then the end of the log."""
        log = folder / f"{job_id}.err"
        if fate is None:
            what = "is gone, and nothing tells how it ended"
        elif fate.state == "COMPLETED":
            what = (
                "ended well, but its result is not there: the working directory has to be on a file "
                "system that all nodes share"
            )
        else:
            what = fate.what
        tail = log_tail(log) or log_tail(folder / f"{job_id}.out")
        quoted = "".join(f"\n    | {line}" for line in tail)
        return f"{self.SCHEDULER} job {job_id} {what}; log: {log}{quoted}"

    def _report(self, job: Any, started: float, error: Exception | None) -> None:
        if error is not None and self.stop_on_first_error and not self._failed:
            self._failed = True
            self._cancel()
        self._failed = self._failed or error is not None
        if self.notify is not None:
            self.notify(job.task, time.monotonic() - started, error)

    # All of them ---------------------------------------------------------------------------------

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
        """
        records = {path: _read(path) for path in self._records(cache).glob("*.json")}
        self._adopted = {}
        if records:
            code, said, _ = _ask(self.listing())
            living = self.living(said) if code == 0 else frozenset()
            for path, record in records.items():
                if record.get("job") in living:
                    self._adopted[path.stem] = record["job"]
                elif code == 0:
                    path.unlink(missing_ok=True)
        return frozenset(self._adopted)

    def _forget(self, job_id: str) -> None:
        record = self._mine.pop(job_id, None)
        if record is not None:
            record.unlink(missing_ok=True)

    def _cancel(self) -> list[str]:
        """End all jobs that this run waits for."""
        job_ids = list(self._mine)
        for start in range(0, len(job_ids), 100):
            _ask(self.cancelling(job_ids[start : start + 100]))
        return job_ids

    def close(self) -> None:
        """End all jobs that this run still waits for, and see them gone."""
        job_ids = self._cancel()
        for job_id in job_ids:
            self._forget(job_id)
        until = time.monotonic() + (20 if job_ids else 0)
        while time.monotonic() < until:
            code, said, _ = _ask(self.listing())
            if code or not self.living(said).intersection(job_ids):
                break
            time.sleep(0.5)
        self._places = self._asking = self._adopted = None

    async def ask(self, command: Sequence[str]) -> tuple[int, str, str]:
        """Run a command of the scheduler; its code (127 if it is not there) and what it said."""
        return await asyncio.get_running_loop().run_in_executor(None, _ask, command)


def _ask(command: Sequence[str]) -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for us; the command is to finish.
            start_new_session=True,
        )
    except FileNotFoundError:
        return 127, "", f"{command[0]}: no such command"
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", f"{command[0]}: timed out ({error})"
    return done.returncode, done.stdout, done.stderr


def _busy(error: str) -> bool:
    """Whether a scheduler may accept a job a little later."""
    words = ("timed out", "try again", "unable to contact", "temporarily", "connection refused")
    return any(word in error.lower() for word in words)


def _read(path: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def log_tail(path: Path, lines: int = _TAIL) -> list[str]:
    """Last lines of a log; none if it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def merged(derived: Sequence[tuple[tuple[str, ...], list[str]]], given: str) -> list[str]:
    """Arguments that follow from a task, less those that the user gives, then the latter.

    Examples
    --------
    >>> merged([(("--mem", "--mem-per-cpu"), ["--mem=4000M"])], "--mem-per-cpu=2G -p long")
    ['--mem-per-cpu=2G', '-p', 'long']
    """
    words = shlex.split(given)
    mine: list[str] = []
    for names, arguments in derived:
        if not any(_is_option(word, name) for word in words for name in names):
            mine += arguments
    return [*mine, *words]


def _is_option(word: str, name: str) -> bool:
    if name.startswith("--"):
        return word.partition("=")[0] == name
    return word.startswith(name) and not word.startswith("--")
