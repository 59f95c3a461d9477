"""The files of a batch job, and what runs in it: one task, whose result goes to Pydra's cache.

Pydra's ``load_and_run`` fails while it reports a failure, which hides the failure.
"""

import os
import pickle
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .demand import Demand

__all__ = ["LOG", "main", "write_job"]

LOG = "task.log"
"""File in the folder of a job for what is said during its task."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def write_job(
    job: Any,
    demand: "Demand",
    folder: Path,
    *,
    python: str,
    setup: str = "",
    prepare: Callable[[], None] | None = None,
    rerun: bool = False,
) -> Path:
    """Write the script of a job, and what it is to run.

    Parameters
    ----------
    job : pydra job
        A task and where its result goes.
    demand : Demand
        What the scheduler is asked for.
    folder : Path
        Of this job alone; made if need be.
    python : str
        Command that starts Python.
    setup : str
        Lines of shell before it.
    prepare : callable, optional
        Called before the task; an importable function.
    rerun : bool
        Whether to run it although the cache has a result.

    Returns
    -------
    Path
        The script.
    """
    import cloudpickle

    from .demand import fitted

    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "path": [str(Path(entry).absolute()) for entry in sys.path if entry],
        "prepare": cloudpickle.dumps(prepare),
        "job": cloudpickle.dumps(fitted(job, demand, exactly=True)),
        "rerun": rerun,
        "log": str(folder / LOG),
    }
    (folder / "job.pkl").write_bytes(cloudpickle.dumps(content))
    variables = {"NO_ET": "1", "NIPYPE_NO_ET": "1", **dict.fromkeys(_THREADS, str(demand.cpus))}
    if "PYDRA_HASH_CACHE" in os.environ:
        variables["PYDRA_HASH_CACHE"] = os.environ["PYDRA_HASH_CACHE"]
    lines = [
        "#!/bin/sh",
        *(f"export {name}={shlex.quote(value)}" for name, value in variables.items()),
        *([setup] if setup else []),
        # In place of the shell, so that the scheduler sees how it ends.
        f"exec {python} -P -m l2s_pydra.workflows.batch_job {shlex.quote(str(folder / 'job.pkl'))}",
    ]
    script = folder / "job.sh"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return script


def main(file: Path) -> None:
    """Run the task in a file that :func:`write_job` wrote.

    Parameters
    ----------
    file : Path
        The pickled job.
    """
    content = pickle.loads(file.read_bytes())
    # Modules that the parent could import, a script's neighbours for instance.
    sys.path += [entry for entry in content["path"] if entry not in sys.path]
    import cloudpickle

    from .worker import run_pickled

    prepare = cloudpickle.loads(content["prepare"])
    if prepare is not None:
        prepare()
    run_pickled(content["job"], content["rerun"], Path(content["log"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
