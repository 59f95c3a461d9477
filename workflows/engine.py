"""Running Pydra workflows, around its rough edges.

Pydra 1.0a goes on reporting the error of a node that failed once, keeps the empty result of an
interrupted workflow as a good one, says only that *something* failed when one image of many does,
and leaves locks behind that a killed container can no longer be asked about.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from traceback import format_exception
from typing import Any

import attrs

from l2s_pydra import errors
from l2s_pydra.errors import InUseError, L2SError

from .batch import BatchJobs
from .worker import Submitter

__all__ = ["NOT_RUN", "Outcome", "claim", "empty_cache", "forget", "is_done", "outcome_of", "run"]

_log = logging.getLogger(__name__)
_FORCED = "forced"
_OURS = ("pydra", _FORCED, "hashes", "checkpoints", "conformed", "gpus", "stage")
"""Folders of a working directory that may be deleted."""
NOT_RUN = "not run, because the run was stopped"
"""Why there is no outcome."""


@attrs.frozen
class Outcome:
    """What became of a task."""

    outputs: Any = None
    """Its outputs, if it succeeded."""
    traceback: str = ""
    """Its error in full, if it failed."""

    @property
    def reason(self) -> str:
        """The error in one line, without the name of its class if the error is one of ours."""
        return _message(self.traceback)[1]

    @property
    def kind(self) -> type[L2SError] | None:
        """Class of the error, if it is one of ours."""
        return getattr(errors, _message(self.traceback)[0], None)


@contextlib.contextmanager
def claim(work_dir: Path, *, clean: bool = False) -> Iterator[Path]:
    """Prepare the working directory for a run, and yield the folder of Pydra's cache.

    Locks that a killed run left behind are removed, unless another run is using the directory: a
    lock names a process, and that number may belong to a different one in the next container.

    Pydra remembers the hash of a file by its path and ``mtime``, and would go on using it for a file
    that was replaced by one of the same ``mtime``. Its memory therefore lasts for one run.

    Parameters
    ----------
    work_dir : Path
        The working directory; made if need be.
    clean : bool, default=False
        Delete what earlier runs left in it.

    Raises
    ------
    InUseError
        If it is to be cleaned, and another run is using it.
    """
    cache = work_dir / "pydra"
    hashes = work_dir / "hashes"
    work_dir.mkdir(parents=True, exist_ok=True)
    mine = hashes / uuid.uuid4().hex
    with (work_dir / ".in_use").open("w") as handle:
        alone = _lock(handle, exclusive=True)
        if clean:
            _clean(work_dir, alone)
        if alone:
            for folder in (hashes, work_dir / _FORCED):
                shutil.rmtree(folder, ignore_errors=True)
            for lock in cache.glob("*.lock"):
                lock.unlink(missing_ok=True)
        # The kernel lets go before it locks anew: another run may come in between, and clean.
        _lock(handle, exclusive=False, wait=True)
        cache.mkdir(parents=True, exist_ok=True)
        mine.mkdir(parents=True, exist_ok=True)
        os.environ["PYDRA_HASH_CACHE"] = str(mine)
        try:
            yield cache
        finally:
            shutil.rmtree(mine, ignore_errors=True)


@contextlib.contextmanager
def empty_cache(cache: Path, run: str) -> Iterator[Path]:
    """Give a cache of its own to a run that takes nothing from earlier ones (``--force``).

    To empty the one of all runs would take away what another run is just making.

    Parameters
    ----------
    cache : Path
        The cache of all runs (:func:`claim`).
    run : str
        Identifier of the run.
    """
    mine = cache.parent / _FORCED / run
    mine.mkdir(parents=True)
    try:
        yield mine
    finally:
        shutil.rmtree(mine, ignore_errors=True)


def _clean(work_dir: Path, alone: bool) -> None:
    if not alone:
        raise InUseError(
            f"{work_dir}: another run is using it, so that it cannot be emptied; wait for its end, "
            "leave --clean-workdir out, or give another by --work-dir"
        )
    for name in _OURS:
        if (work_dir / name).is_dir():
            shutil.rmtree(work_dir / name)


def _lock(handle: Any, *, exclusive: bool, wait: bool = False) -> bool:
    """Lock an open file; the kernel lets go when the process ends."""
    try:
        import fcntl

        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; or another run; or a file system without locks
        return False
    return True


def run(workflow: Any, parts: Sequence[Any], cache: Path, worker: Any) -> Exception | None:
    """Run a workflow or a task; read what became of its parts with :func:`outcome_of`.

    Parameters
    ----------
    workflow : pydra workflow or task
        What to run.
    parts : sequence of pydra tasks
        The tasks and workflows inside it, with the inputs they will have in there.
    cache : Path
        Pydra's cache, from :func:`claim`.
    worker : pydra Worker
        Runs the jobs; closed at the end.

    Returns
    -------
    Exception or None
        Why it failed as a whole; of a task whose process died, that is all there is to know.
    """
    from pydra.engine.workflow import Workflow

    # Of jobs that outlived an earlier run, a batch scheduler still writes the entries.
    busy = worker.under_way(cache) if isinstance(worker, BatchJobs) else ()
    for task in (workflow, *parts):
        if task._checksum not in busy:
            _forget_failure(task, cache)
    # Workflows built before are kept by the hash of their inputs, of which resources are no part.
    Workflow.clear_cache()
    with Submitter(cache_root=cache, worker=worker) as submitter:
        try:
            submitter(workflow, raise_errors=False)
        except Exception as error:
            # Pydra raises where the workflow itself could not store a result; the parts tell why.
            _log.debug("the workflow failed", exc_info=True)
            return error
        except KeyboardInterrupt:
            worker.close()
            _cancel(submitter.loop)
            raise
    return None


def _cancel(loop: asyncio.AbstractEventLoop) -> None:
    """End what still waits in an event loop, which complains otherwise when it is closed."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def is_done(task: Any, cache: Path) -> bool:
    """Whether the cache holds a good result of a task."""
    return _good(_result(task, cache))


def outcome_of(tasks: Sequence[Any], cache: Path, stopped_by: Exception | None = None) -> Outcome:
    """Return what became of a task.

    Parameters
    ----------
    tasks : sequence of pydra tasks
        The task and, in order, the workflows around it, which know more where the task could not
        even fail by itself.
    cache : Path
        Pydra's cache.
    stopped_by : Exception, optional
        What :func:`run` returned, for a task that left no result.
    """
    result = _result(tasks[0], cache)
    if _good(result):
        return Outcome(outputs=result.outputs)
    for task in tasks:
        result = _result(task, cache)
        if result is not None and result.errored and result.errors:
            return Outcome(traceback="".join(result.errors["error message"]))
    if stopped_by is not None:
        return Outcome(traceback="".join(format_exception(stopped_by)))
    return Outcome(traceback=f"RuntimeError: {NOT_RUN}\n")


def forget(tasks: Sequence[Any], cache: Path) -> None:
    """Remove what the cache holds of tasks, so that they run again."""
    for task in tasks:
        shutil.rmtree(cache / task._checksum, ignore_errors=True)


def _result(task: Any, cache: Path) -> Any:
    from pydra.engine.result import load_result

    return load_result(task._checksum, [cache])


def _good(result: Any) -> bool:
    """Whether a result can be used: an interrupted job has none, and yet no error."""
    return result is not None and not result.errored and result.outputs is not None


def _forget_failure(task: Any, cache: Path) -> None:
    """Remove a task's cache entry unless it is good.

    Entries of workflows are always removed: they hold nothing but links to those of tasks, and a
    link may point nowhere if someone tidied the cache.
    """
    from pydra.utils.general import is_workflow

    entry = cache / task._checksum
    if entry.is_dir() and (is_workflow(task) or not is_done(task, cache)):
        shutil.rmtree(entry, ignore_errors=True)


def _message(traceback: str) -> tuple[str, str]:
    r"""Class of the error at the end of a traceback, if it is one of ours, and its message.

    >>> _message('Traceback:\n  File "a.py", line 1, in f\n    g()\nValueError: no g\nsee h\n')
    ('', 'ValueError: no g')
    >>> _message("l2s_pydra.errors.ImageError: sub-01_T1w.nii.gz: is empty; fetch it again")
    ('ImageError', 'sub-01_T1w.nii.gz: is empty; fetch it again')
    >>> _message("l2s_pydra.workflows.worker.NotStartedError: not started, because a job failed")
    ('NotStartedError', 'not started, because a job failed')
    """
    lines = traceback.splitlines()
    frames = [n for n, line in enumerate(lines) if line.startswith('  File "')]
    after = lines[frames[-1] + 1 :] if frames else lines
    message = next((line for line in after if line and not line.startswith(" ")), "unknown error")
    name, _, text = message.partition(": ")
    ours = name.startswith("l2s_pydra.") and text
    return (name.rpartition(".")[2], text) if ours else ("", message)
