"""What the workers for batch schedulers have to know about a scheduler, and how it is asked."""

import asyncio
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import attrs

from .demand import Demand

__all__ = ["Fate", "Scheduler", "ask", "is_busy", "merged"]


@attrs.frozen(kw_only=True)
class Fate:
    """How a job ended."""

    state: str
    """The scheduler's word for it."""
    what: str
    """The same in a clause, after "the job"."""
    lost: bool = False
    """Whether the cluster is to blame, and another attempt makes sense."""


class Scheduler:
    """Words and commands of a scheduler; a class for each says what they are."""

    SCHEDULER = "batch"
    """Its name in messages."""

    def submission(self, demand: Demand, kind: str, name: str, folder: Path) -> list[str]:
        """Command that submits the script that is its last argument."""
        raise NotImplementedError

    def job_id(self, said: str) -> str | None:
        """Read the number of a job in what that command said."""
        raise NotImplementedError

    def listing(self) -> list[str]:
        """Command that lists the jobs of this user."""
        raise NotImplementedError

    def living(self, said: str) -> dict[str, str]:
        """Jobs in what that command said that are waiting or running, with their folders.

        A folder is empty where the scheduler does not list it.
        """
        raise NotImplementedError

    async def fate(self, job_id: str, demand: Demand) -> Fate | None:
        """How a job ended that is no longer listed; None if nothing is known, or not yet."""
        raise NotImplementedError

    def cancelling(self, job_ids: Sequence[str]) -> list[str]:
        """Command that ends jobs."""
        raise NotImplementedError

    async def ask(self, command: Sequence[str]) -> tuple[int, str, str]:
        """Run a command of the scheduler; its code (127 if it is not there) and what it said."""
        return await asyncio.get_running_loop().run_in_executor(None, ask, command)


def ask(command: Sequence[str]) -> tuple[int, str, str]:
    """Run a command of a scheduler, whatever becomes of this process meanwhile.

    Parameters
    ----------
    command : sequence of str
        Its name and arguments.

    Returns
    -------
    code : int
        127 if there is no such command.
    said, error : str
        What it wrote.
    """
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


def is_busy(error: str) -> bool:
    """Whether a scheduler may accept a job a little later."""
    words = ("timed out", "try again", "unable to contact", "temporarily", "connection refused")
    return any(word in error.lower() for word in words)


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
