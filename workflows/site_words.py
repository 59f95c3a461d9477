"""Words that are about the site where something runs, and that records for others leave out.

Accounts, projects, partitions, mail addresses and nodes say who computed where, not what was computed.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from .worker_names import WORKERS

__all__ = ["PLACEHOLDER", "without_accounts", "without_nodes", "without_site"]

PLACEHOLDER = "<site>"
"""Stands for what is left out."""
_TEXT = {
    name for known in WORKERS.values() for name, kind in known.items() if kind in (str, dict)
} - {"gpu_args", "parallel_environment", "memory_resource"}
_ACCOUNTS = ("--account", "--wckey", "--mail-user", "--reservation", "-A", "-P", "-M")
"""Of ``sbatch`` and ``qsub``: account, project, mail address."""
_NODES = re.compile(r"(\*{3} .*?\bON |\bslurmstepd-|\bsrun: error: )[^\s:]+(?=[ :])")
"""What a scheduler says of a job, up to the name of a computer."""


def without_site(command: Sequence[str]) -> tuple[str, ...]:
    """Leave text out that a command line hands on to a scheduler or a job.

    Parameters
    ----------
    command : sequence of str
        Command line of the application.

    Examples
    --------
    >>> without_site(["l2s-pydra", "--worker-args", "sbatch_args=-A lab -p long", "max_jobs=9"])
    ('l2s-pydra', '--worker-args', 'sbatch_args=<site>', 'max_jobs=9')
    """
    return tuple(_without_site(word) for word in command)


def _without_site(word: str) -> str:
    option, equals, rest = word.partition("=")
    if option == "--worker-args":
        return option + equals + _without_site(rest)
    if word.lstrip().startswith("{"):
        try:
            table: dict[str, Any] = json.loads(word)
        except ValueError:
            return word
        return json.dumps(
            {key: PLACEHOLDER if key in _TEXT else value for key, value in table.items()}
        )
    return f"{option}={PLACEHOLDER}" if equals and option.partition(".")[0] in _TEXT else word


def without_accounts(command: Sequence[str]) -> list[str]:
    """Leave accounts, projects and mail addresses out of a command of a scheduler.

    Parameters
    ----------
    command : sequence of str
        Its name and arguments.

    Examples
    --------
    >>> without_accounts(["sbatch", "--account=lab", "-A", "lab", "-Alab", "-p", "long", "job.sh"])
    ['sbatch', '--account=<site>', '-A', '<site>', '-A<site>', '-p', 'long', 'job.sh']
    """
    shown: list[str] = []
    for word in command:
        long, equals, _ = word.partition("=")
        if shown and shown[-1] in _ACCOUNTS:
            shown.append(PLACEHOLDER)
        elif equals and long in _ACCOUNTS:
            shown.append(f"{long}={PLACEHOLDER}")
        elif word[:2] in _ACCOUNTS and len(word) > 2:
            shown.append(word[:2] + PLACEHOLDER)
        else:
            shown.append(word)
    return shown


def without_nodes(line: str) -> str:
    """Leave the names of computers out of what a scheduler says in the log of a job.

    Parameters
    ----------
    line : str
        Of the log.

    Examples
    --------
    >>> without_nodes("slurmstepd: error: *** JOB 7 ON node017 CANCELLED DUE TO TIME LIMIT ***")
    'slurmstepd: error: *** JOB 7 ON <site> CANCELLED DUE TO TIME LIMIT ***'
    >>> without_nodes("srun: error: node[17-18]: tasks 0-1: Killed")
    'srun: error: <site>: tasks 0-1: Killed'
    """
    return _NODES.sub(rf"\1{PLACEHOLDER}", line)
