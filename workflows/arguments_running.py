"""Options of ``l2s-pydra`` for segmenting, for resources, and for what a run does.

The name of each option's value is that of the field of :class:`~l2s_pydra.workflows.options.Options`
that it sets.
"""

import argparse
import os
import sys
from typing import Any

from .argument_types import Collect, device, existing_file, memory_mb, positive, resolution

__all__ = ["add_resources", "add_running", "add_segmenting"]


def add_segmenting(parser: argparse.ArgumentParser) -> None:
    """Add the options of the levels ``participant`` and ``group``."""
    group = parser.add_argument_group("participant and group")
    group.add_argument(
        "--model",
        metavar="DIR_OR_NAME",
        help="model to segment with (default: the one just learned, or the only one in "
        "OUTPUT_DIR/models)",
    )
    group.add_argument(
        "--probseg", action="store_true", help="write the posterior of every label too"
    )
    group.add_argument(
        "--entropy", action="store_true", help="write a map of the posteriors' entropy too"
    )
    group.add_argument(
        "--seg-only",
        "--seg_only",
        action="store_true",
        help="write label maps only: no mask, volumes, figures and pages",
    )
    group.add_argument(
        "--res",
        type=resolution,
        metavar="1mm",
        help="write outputs on the grid of the network too, whose voxel size this is",
    )
    group.add_argument(
        "--keep-largest",
        nargs="*",
        action=Collect,
        metavar="STRUCTURE",
        help="keep only the largest piece of these structures, or of 'all'; without a name, of all "
        "that do not rightly come in parts",
    )
    group.add_argument(
        "--no-flip",
        dest="flip",
        action="store_false",
        help="do not average with the prediction on the mirror image",
    )
    group.add_argument(
        "--test-time-draws",
        type=positive,
        default=1,
        metavar="N",
        help="average over N draws of small changes of the image (default: 1, the image itself)",
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="segment and compare also what is done and has not changed",
    )
    group.add_argument(
        "--references",
        metavar="DIR_OR_NAME",
        help="BIDS derivative with labels to compare with (default: the manual labels)",
    )


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Add the options of resources."""
    group = parser.add_argument_group("resources")
    group.add_argument(
        "--device", type=device, default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    group.add_argument(
        "--nprocs",
        "--nthreads",
        "--n-cpus",
        "--n_cpus",
        dest="n_procs",
        type=positive,
        default=_cpus(),
        metavar="N",
        help="CPUs to use in all (default: all that there are)",
    )
    group.add_argument(
        "--omp-nthreads",
        dest="threads",
        type=positive,
        metavar="N",
        help="CPUs to use in one process",
    )
    group.add_argument(
        "--mem",
        "--mem-mb",
        "--mem_mb",
        dest="mem_mb",
        type=memory_mb("MB"),
        metavar="SIZE",
        help="memory to use in all, such as 16GB; in MB without a unit",
    )
    group.add_argument(
        "--mem-gb",
        "--mem_gb",
        dest="mem_mb",
        type=memory_mb("GB"),
        metavar="SIZE",
        help="the same; in GB without a unit",
    )
    group.add_argument(
        "--max-memory-mb",
        type=positive,
        metavar="MB",
        help="memory that the network may take to segment an image",
    )
    group.add_argument(
        "--low-mem",
        action="store_true",
        help="take little memory, and longer: small tiles, activations computed twice",
    )
    group.add_argument(
        "--learn-processes",
        type=positive,
        default=1,
        metavar="N",
        help="processes that share every batch of a training, one for each GPU (default: 1)",
    )
    group.add_argument(
        "--stop-on-first-crash", action="store_true", help="start nothing more after a failure"
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a run does, and what it says."""
    group = parser.add_argument_group("in place of a run")
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be trained, segmented, reused and written, and write nothing",
    )
    group.add_argument(
        "--reports-only",
        action="store_true",
        help="write the pages of these levels anew from what is in OUTPUT_DIR",
    )
    group.add_argument(
        "--boilerplate-only",
        action="store_true",
        help="write the methods text of what is in OUTPUT_DIR, and print it",
    )
    group = parser.add_argument_group("general")
    group.add_argument(
        "--config-file",
        type=existing_file,
        metavar="FILE",
        help="TOML of options, or the l2s_pydra.toml of an earlier run, to repeat it; options of "
        "the command line win",
    )
    group.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="count",
        default=0,
        help="say more; twice for everything",
    )
    group.add_argument(
        "--debug", action="store_true", help="say everything, with the tracebacks of failures"
    )
    group.add_argument(
        "--notrack", action="store_true", help="accepted for habit's sake: nothing is ever tracked"
    )
    group.add_argument(
        "--bids-exec-spec",
        nargs=0,
        action=_Describe,
        default=argparse.SUPPRESS,
        help="print the Boutiques descriptor of this command line, and exit",
    )


class _Describe(argparse.Action):
    """Print the descriptor of the command line, and end."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        from .boutiques import to_json

        sys.stdout.write(to_json(parser))
        parser.exit()


def _cpus() -> int:
    """CPUs this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
