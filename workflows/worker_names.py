"""Which workers there are, and what arguments they take.

Nothing that takes long to import is imported here: the command line checks names and arguments before
anything starts.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .argument_types import UsageError

__all__ = ["BATCH", "LOCAL", "WORKERS", "check", "read_arguments", "read_plugin_file"]

_JOBS = {
    "task_args": dict,
    "gpu_args": str,
    "gpus": int,
    "cpus": int,
    "max_jobs": int,
    "retries": int,
    "result_delay": float,
    "setup": str,
    "python": str,
    "poll_delay": int,
}
WORKERS: dict[str, dict[str, type]] = {
    "l2s": {"n_procs": int, "memory_gb": float, "gpus": int, "tasks_per_gpu": int},
    "cf": {"n_procs": int},
    "debug": {},
    "slurm": {"sbatch_args": str, **_JOBS},
    "sge": {"qsub_args": str, "parallel_environment": str, "memory_resource": str, **_JOBS},
}
"""Arguments of each worker, with their types."""
BATCH = ("slurm", "sge")
LOCAL = ("l2s", "cf", "debug")

_NIPYPE = {
    "multiproc": "l2s",
    "legacymultiproc": "l2s",
    "linear": "debug",
    "debug": "debug",
    "slurm": "slurm",
    "slurmgraph": "slurm",
    "sge": "sge",
    "sgegraph": "sge",
}
"""Workers that do what plugins of Nipype do."""
_NIPYPE_ARGS = {"n_gpu_procs": "gpus"}


def check(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check the name of a worker and its arguments, and give these their types.

    Raises
    ------
    UsageError
        If one is unknown, or of another type.

    Examples
    --------
    >>> check("slurm", {"sbatch_args": "--partition=main", "max_jobs": 50})
    {'sbatch_args': '--partition=main', 'max_jobs': 50}
    """
    if name not in WORKERS:
        raise UsageError(f"--worker: {name!r} is unknown; available: {', '.join(WORKERS)}")
    known = WORKERS[name]
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            there = ", ".join(known) or "none"
            raise UsageError(
                f"--worker-args: {key!r} is unknown to the worker {name}{meant}; it takes: {there}"
            )
    return {key: _typed(key, known[key], value) for key, value in arguments.items()}


def _typed(key: str, kind: type, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is str and isinstance(value, int | float):
        value = str(value)
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if kind is dict and fits:
        fits = all(isinstance(one, str) for one in value.values())
    if not fits:
        wanted = {int: "a whole number", float: "a number", str: "text"}.get(
            kind, f"text for kinds of tasks, such as {key}.Segment=--time=10"
        )
        raise UsageError(f"--worker-args: {key} takes {wanted}, not {value!r}")
    if isinstance(value, int | float) and value < 0:
        raise UsageError(f"--worker-args: {key} cannot be negative, and is {value}")
    return value


def read_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` words, or a JSON object.

    Parameters
    ----------
    words : sequence of str
        A value is JSON, or text if it is not; a dot in a key leads into a table.

    Raises
    ------
    UsageError
        If a word is neither.

    Examples
    --------
    >>> read_arguments(["max_jobs=50", "task_args.Learn=--time=24:00:00 --mem=32G"])
    {'max_jobs': 50, 'task_args': {'Learn': '--time=24:00:00 --mem=32G'}}
    """
    found: dict[str, Any] = {}
    for word in words:
        if word.lstrip().startswith("{"):
            table = _json(word)
            if not isinstance(table, dict):
                raise UsageError(f"--worker-args: {word}: is not a JSON object")
            found |= table
            continue
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--worker-args: {word!r}: expected KEY=VALUE or a JSON object")
        outer, _, inner = key.partition(".")
        if inner:
            table = found.setdefault(outer, {})
            if not isinstance(table, dict):
                raise UsageError(f"--worker-args: {outer} is given both as a table and as a value")
            table[inner] = value
        else:
            parsed = _json(value)
            found[key] = value if parsed is None else parsed
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def read_plugin_file(path: Path) -> tuple[str, dict[str, Any], list[str]]:
    """Read a file that names a worker and its arguments, of ours or of Nipype.

    Parameters
    ----------
    path : Path
        YAML, TOML or JSON, with ``worker`` and ``worker_args``, or ``plugin`` and ``plugin_args``.

    Returns
    -------
    worker : str
        Its name here.
    arguments : dict
        Not checked yet.
    hints : list of str
        What was understood otherwise than it was written.

    Raises
    ------
    UsageError
        If the file cannot be read, or names nothing that there is here.
    """
    table = _table(path)
    unknown = set(table) - {"worker", "worker_args", "plugin", "plugin_args"}
    if unknown:
        raise UsageError(
            f"{path}: {sorted(unknown)[0]!r} is unknown; available: worker, worker_args (or Nipype's "
            "plugin, plugin_args)"
        )
    name = str(table.get("worker") or table.get("plugin") or "l2s")
    arguments = table.get("worker_args") or table.get("plugin_args") or {}
    if not isinstance(arguments, dict):
        raise UsageError(f"{path}: worker_args must be a table of names and values")
    if name in WORKERS and "worker" in table:
        return name, arguments, []
    worker = _NIPYPE.get(name.lower())
    if worker is None and name not in WORKERS:
        raise UsageError(
            f"{path}: {name!r} is unknown; available: {', '.join(WORKERS)}; of Nipype's plugins, "
            "MultiProc, Linear, SLURM and SGE stand for l2s, debug, slurm and sge"
        )
    worker = worker or name
    hints = [] if worker == name else [f"{path}: Nipype's plugin {name} is the worker {worker}"]
    kept: dict[str, Any] = {}
    for key, value in arguments.items():
        ours = _NIPYPE_ARGS.get(key, key)
        if ours in WORKERS[worker]:
            kept[ours] = value
        else:
            hints.append(f"{path}: {key} has no counterpart in the worker {worker}; left out")
    return worker, kept, hints


def _table(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        # JSON is YAML.
        table = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: cannot be read as YAML, TOML or JSON: {reason}") from error
    if not isinstance(table, dict):
        raise UsageError(f"{path}: expected a table with worker and worker_args")
    return table
