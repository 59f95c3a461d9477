"""Why a job left no result: the word of the scheduler, and the end of the job's log."""

from pathlib import Path

from .scheduler import Fate
from .site_words import without_nodes

__all__ = ["log_tail", "told"]

_TAIL = 15
"""Lines of a log that an error quotes."""


def told(scheduler: str, job_id: str, fate: Fate | None, folder: Path) -> str:
    """Say why a job left no result: state and log in a line, then the end of the log.

    Parameters
    ----------
    scheduler : str
        Its name.
    job_id : str
        Number of the job.
    fate : Fate, optional
        How it ended, if that is known.
    folder : Path
        Where its logs are.
    """
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
    quoted = "".join(f"\n    | {without_nodes(line)}" for line in tail)
    return f"{scheduler} job {job_id} {what}; log: {log}{quoted}"


def log_tail(path: Path, lines: int = _TAIL) -> list[str]:
    """Last lines of a log; none if it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
