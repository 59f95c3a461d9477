"""Options of ``l2s-pydra`` for what runs the tasks."""

import argparse
import logging
from collections.abc import Mapping
from typing import Any

from .argument_types import Collect, UsageError, existing_file
from .worker_names import WORKERS, check, read_arguments, read_plugin_file

__all__ = ["add_workers", "chosen_worker"]

_log = logging.getLogger(__name__)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a worker."""
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--worker",
        default="l2s",
        metavar="NAME",
        help=f"what runs the tasks: {', '.join(WORKERS)} (default: l2s, this computer)",
    )
    group.add_argument(
        "--worker-args",
        nargs="+",
        action=Collect,
        default=(),
        metavar="KEY=VALUE",
        help="its arguments, such as sbatch_args=--partition=main; or a JSON object",
    )
    group.add_argument(
        "--use-plugin",
        type=existing_file,
        metavar="FILE",
        help="YAML, TOML or JSON with worker and worker_args, or Nipype's plugin and plugin_args",
    )


def chosen_worker(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Name of the worker and its arguments, from options and the plugin file.

    Parameters
    ----------
    values : mapping
        Of all options.
    given : mapping
        Of those that were typed, which win over the file.

    Raises
    ------
    UsageError
        If a name or an argument is unknown.
    """
    name, arguments = values["worker"], dict[str, Any]()
    if values["use_plugin"] is not None:
        from_file, arguments, hints = read_plugin_file(values["use_plugin"])
        for hint in hints:
            _log.warning("%s", hint)
        if given.get("worker", from_file) != from_file:
            arguments = {}  # of another worker
        else:
            name = from_file
    arguments |= read_arguments(values["worker_args"])
    if values["stop_on_first_crash"] and name == "cf":
        raise UsageError("--stop-on-first-crash: Pydra's worker cf goes on; use the worker l2s")
    return {"worker": name, "worker_args": check(name, arguments)}
