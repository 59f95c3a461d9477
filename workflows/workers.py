"""The worker that the command line asked for."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .logs import set_up_logging
from .options import Options
from .worker import L2SWorker, Notify

__all__ = ["build_worker"]


def build_worker(
    options: Options,
    *,
    at_once: int,
    notify: Notify | None = None,
    gpus: Sequence[str] | None = None,
    tasks_per_gpu: int = 1,
    log_dir: Path | None = None,
) -> Any:
    """Make the worker that runs the tasks of a level.

    Parameters
    ----------
    options : Options
        What the command line decided.
    at_once : int
        Tasks that this computer runs at a time; a cluster decides that itself.
    notify : callable, optional
        Called after each task; Pydra's own workers tell nothing.
    gpus : sequence of str, optional
        GPUs of this computer, all by default.
    tasks_per_gpu : int
        Tasks that share one of them.
    log_dir : Path, optional
        Folder for what is said during each task.

    Returns
    -------
    pydra Worker
    """
    arguments = dict(options.worker_args)
    if options.worker == "debug":
        from pydra.workers.debug import DebugWorker

        return DebugWorker()
    if options.worker == "cf":
        from pydra.workers.cf import ConcurrentFuturesWorker

        return ConcurrentFuturesWorker(n_procs=arguments.get("n_procs", at_once))
    common: dict[str, Any] = {
        "stop_on_first_error": options.stop_on_first_crash,
        "prepare": partial(set_up_logging, options.verbosity),
        "notify": notify,
        "log_dir": log_dir,
    }
    if options.worker == "slurm":
        from .slurm import L2SSlurmWorker

        return L2SSlurmWorker(**arguments, **common)
    if options.worker == "sge":
        from .sge import L2SSgeWorker

        return L2SSgeWorker(**arguments, **common)
    if options.device == "cpu":
        gpus = ()
    local: dict[str, Any] = {
        "n_procs": options.n_procs,
        "gpus": gpus,
        "tasks_per_gpu": tasks_per_gpu,
        "max_tasks": None if "n_procs" in arguments else at_once,
    }
    return L2SWorker(**{**local, **arguments}, **common)
