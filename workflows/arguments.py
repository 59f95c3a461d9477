"""The arguments of ``l2s-pydra``.

Nothing that takes long to import is imported here.
"""

import argparse
import difflib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from l2s_pydra import __version__

from .argument_types import UsageError, absolute
from .arguments_data import add_places, add_selection
from .arguments_learning import add_comparing, add_learning
from .arguments_running import add_resources, add_running, add_segmenting
from .arguments_workers import add_workers
from .exit_codes import in_words
from .options import LEVELS

__all__ = [
    "EPILOG",
    "build_demo_parser",
    "build_parser",
    "build_verify_parser",
    "option_strings",
    "typed",
]

_USAGE = """\
l2s-pydra BIDS_DIR OUTPUT_DIR LEVEL [LEVEL ...] [options]
       l2s-pydra --demo OUTPUT_DIR [options]
       l2s-pydra --verify [BIDS_DIR] OUTPUT_DIR"""
_DESCRIPTION = """\
Learn to segment brain images from a few labelled ones (Learn2Synth), segment,
and compare.

Levels, in one call or in several:
  learn        train a model on synthetic images whose appearance is learned
               from real ones
  participant  segment every image
  group        tables of volumes and, with references, of overlap
"""
EPILOG = f"""\
{in_words()}

example: l2s-pydra --demo demo_output
"""
_ELSEWHERE = {
    "--batch-size": "images are segmented one by one; of a training, it is "
    "--set training.batch_size=N",
    "--threads": "the CPUs of one process are --omp-nthreads, those of all --nprocs",
    "--gpu": "the device is --device, such as cuda or cuda:1",
    "--gpus": "the device is --device, such as cuda or cuda:1",
    "--fs-license-file": "no FreeSurfer licence is needed",
    "--output-spaces": "outputs are on the grid of each image, and with --res on that of the network",
    "--vox-size": "outputs on the grid of the network are written by --res",
}
"""Options of similar software that have another name here, or none."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Lines of 80 columns at most, options once with their value, other spellings left out."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(80, shutil.get_terminal_size().columns) - 2)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        short = [name for name in action.option_strings if not name.startswith("--")]
        first = [name for name in action.option_strings if name.startswith("--")][:1]
        names = ", ".join([*short, *first])
        if action.nargs == 0:
            return names
        value = self._metavar_formatter(action, action.dest.upper())(1)[0]
        several = {"+": f"{value} ...", "*": f"[{value} ...]"}
        return f"{names} {several.get(str(action.nargs), value)}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise where argparse would exit with a code that BIDS reserves for nothing."""
        if "required" in message:
            message += "; put them before options that take several values"
        raise UsageError(f"{message}; see l2s-pydra --help")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Say first which options are unknown, and what may have been meant."""
        known = option_strings(self)
        for word in args or ():
            name = word.partition("=")[0]
            if word == "--":
                break
            if name.startswith("--") and name not in known and len(known) > 1:
                raise UsageError(_unknown(name, known))
        return super().parse_known_args(args, namespace)


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in _ELSEWHERE:
        return f"unknown option {name}; {_ELSEWHERE[name]}"
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.6)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"unknown option {name}{meant}; see l2s-pydra --help"


def build_demo_parser() -> argparse.ArgumentParser:
    """Build the parser that finds out whether the demonstration is asked for."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--demo", type=Path)
    return parser


def build_verify_parser() -> argparse.ArgumentParser:
    """Build the parser of ``--verify``."""
    parser = _Parser(
        prog="l2s-pydra",
        usage="l2s-pydra --verify [BIDS_DIR] OUTPUT_DIR",
        description="Compare a finished OUTPUT_DIR with the checksums it records, and the images of "
        "BIDS_DIR, if it is given, with those that were segmented. Nothing is written.",
        allow_abbrev=False,
    )
    parser.add_argument("--verify", action="store_true", required=True, help="do so")
    parser.add_argument(
        "places", nargs="+", type=absolute, metavar="DIR", help="[BIDS_DIR] OUTPUT_DIR"
    )
    return parser


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of everything else."""
    parser = _Parser(
        prog="l2s-pydra",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "bids_dir", type=absolute, metavar="BIDS_DIR", help="root of the raw BIDS data set"
    )
    parser.add_argument(
        "output_dir",
        type=absolute,
        metavar="OUTPUT_DIR",
        help="root of the derivative that is written",
    )
    parser.add_argument(
        "level", nargs="+", metavar="LEVEL", help=f"what to do: {', '.join(LEVELS)}"
    )
    parser.add_argument("--version", action="version", version=f"l2s_pydra {__version__}")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run nothing: compare the files of OUTPUT_DIR with their recorded checksums, and those of "
        "BIDS_DIR, which may be left out; the level may be left out, too",
    )
    parser.add_argument(
        "--demo",
        metavar="OUTPUT_DIR",
        help="in place of the above: all levels on a small data set that ships with the software",
    )
    for add in (
        add_selection,
        add_learning,
        add_comparing,
        add_segmenting,
        add_places,
        add_resources,
        add_workers,
        add_running,
    ):
        add(parser)
    return parser


def typed(argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse a command line.

    Parameters
    ----------
    argv : sequence of str
        Arguments without the program.

    Returns
    -------
    given : dict
        What was typed, by the name of the value.
    defaults : dict
        The value of everything else.
    """
    parser = build_parser()
    defaults = {}
    for action in parser._actions:
        if action.default is not argparse.SUPPRESS and action.option_strings:
            defaults[action.dest] = action.default
            action.default = argparse.SUPPRESS
    given = vars(parser.parse_args(argv))
    return given, {name: value for name, value in defaults.items() if name not in given}


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """Return the names of all options."""
    return [name for action in parser._actions for name in action.option_strings]
