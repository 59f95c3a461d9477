"""The arguments of ``l2s-pydra``, by group.

Nothing that takes long to import is imported here.
"""

import argparse
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from l2s_pydra import __version__
from l2s_pydra.config import MODES, PRESETS
from l2s_pydra.errors import ConfigError

from .options import LEVELS

__all__ = ["EPILOG", "EX_USAGE", "UsageError", "absolute", "build_demo_parser", "build_parser"]

EX_USAGE = 64
"""Exit code of wrong usage in the BIDS execution specification."""

_DESCRIPTION = """\
Learn to segment brain images from a few labelled ones (Learn2Synth), segment, and compare.

Levels, in one call or in several:
  learn        train a model on synthetic images whose appearance is learned from real ones
  participant  segment every image
  group        tables of volumes and, with references, of overlap
"""
EPILOG = """\
exit codes: 0 success; 1 an image or the training failed (see the log); 16 the data set is not valid
BIDS; 17 unknown level; 18 the filters select no image; 64 wrong usage; 65 wrong input data;
66 no input data

example: l2s-pydra --demo demo_output
"""


class UsageError(ConfigError):
    """The command line cannot be understood."""

    def __init__(self, message: str, code: int = EX_USAGE) -> None:
        super().__init__(message)
        self.code = code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise where argparse would exit with a code that BIDS reserves for nothing."""
        raise UsageError(f"{message}; see l2s-pydra --help")


def build_demo_parser() -> argparse.ArgumentParser:
    """Build the parser that finds out whether the demonstration is asked for."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--demo", type=Path)
    return parser


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of everything else."""
    parser = _Parser(
        prog="l2s-pydra",
        description=_DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=absolute, help="root of the raw BIDS data set")
    parser.add_argument("output_dir", type=absolute, help="root of the derivative that is written")
    parser.add_argument(
        "level", nargs="+", metavar="LEVEL", help=f"what to do: {', '.join(LEVELS)}"
    )
    parser.add_argument("--version", action="version", version=f"l2s_pydra {__version__}")
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="say more; twice for everything"
    )
    parser.add_argument(
        "--demo",
        metavar="OUTPUT_DIR",
        help="in place of the above: all levels on a small data set that ships with the software",
    )
    for add in (
        _add_selection,
        _add_learning,
        _add_comparing,
        _add_segmenting,
        _add_resources,
    ):
        add(parser)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which images")
    group.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        type=_without("sub-"),
        action=_Tuple,
        metavar="LABEL",
        help="only these participants",
    )
    group.add_argument(
        "--session-label",
        "--session_label",
        nargs="+",
        type=_without("ses-"),
        action=_Tuple,
        metavar="LABEL",
        help="only these sessions",
    )
    group.add_argument(
        "--modality",
        nargs="+",
        action=_Tuple,
        default=("T1w",),
        metavar="SUFFIX",
        help="contrasts, such as T1w T2w FLAIR (default: T1w)",
    )
    group.add_argument(
        "--bids-filter-file", type=_file, metavar="FILE", help="JSON filters, as in fMRIPrep"
    )
    group.add_argument(
        "--bids-database-dir", type=absolute, metavar="DIR", help="keep pybids' index here"
    )
    group.add_argument(
        "--skip-bids-validation",
        "--skip_bids_validation",
        "--skip-bids-validator",
        "--skip_bids_validator",
        action="store_true",
        help="do not run the BIDS validator",
    )


def _add_learning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learn")
    group.add_argument(
        "--real-labels",
        type=_folder,
        metavar="DIR",
        help="BIDS derivative with manual labels (dseg) of images of the raw data set",
    )
    group.add_argument("--labels-desc", metavar="DESC", help="which of them, if several")
    group.add_argument(
        "--label-maps",
        type=_folder,
        metavar="DIR",
        help="BIDS derivative with label maps (dseg) that synthetic images are made from; those of "
        "the learning participants are used in any case",
    )
    group.add_argument("--label-maps-desc", metavar="DESC", help="which of them, if several")
    group.add_argument(
        "--label-mapping",
        type=_file,
        metavar="TSV",
        help="table with the columns index and mapping: labels of the label maps to manual labels",
    )
    _add_participants(group, "--learn-participants", "whose labels the synthesis is learned from")
    _add_participants(group, "--validation-participants", "whose labels choose the model")
    _add_participants(group, "--test-participants", "whose labels judge the finished model")
    group.add_argument(
        "--segmentation",
        type=_alphanumeric,
        metavar="NAME",
        help="seg- entity of the outputs (default: the desc of the manual labels)",
    )
    group.add_argument(
        "--preset", choices=PRESETS, default="default", help="settings to start from"
    )
    group.add_argument(
        "--config", type=_file, metavar="FILE", help="JSON of all settings, in place of a preset"
    )
    group.add_argument("--mode", choices=MODES, help="what is learned (default: learn2synth)")
    group.add_argument("--augmentation", metavar="NAME", help="learned augmentation")
    group.add_argument(
        "--ndim", type=int, choices=(2, 3), help="slices or volumes (default: that of the preset)"
    )
    group.add_argument("--spacing-mm", type=float, metavar="MM", help="voxel size to work at")
    group.add_argument("--steps", type=int, metavar="N", help="number of training steps")
    group.add_argument(
        "--max-time", type=float, metavar="MINUTES", help="end the training after so many minutes"
    )
    group.add_argument(
        "--patience",
        type=_positive,
        metavar="N",
        help="end it after N validations without a better one",
    )
    group.add_argument("--random-seed", type=int, metavar="N", help="seed of everything random")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="any other setting, such as training.batch_size=2; VALUE @FILE reads JSON from a file; "
        "repeatable",
    )
    group.add_argument(
        "--preview",
        type=_positive,
        metavar="N",
        help="train nothing: show N draws of the synthesis in OUTPUT_DIR/preview, and stop",
    )


def _add_participants(group: argparse._ArgumentGroup, option: str, whose: str) -> None:
    group.add_argument(
        option,
        nargs="+",
        type=_without("sub-"),
        action=_Tuple,
        metavar="LABEL",
        help=f"{whose} (default: participants.tsv, column split)",
    )


def _add_comparing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("learn, several times, and compare")
    group.add_argument(
        "--compare",
        nargs="+",
        choices=MODES,
        action=_Tuple,
        metavar="MODE",
        help="train each of these modes on the same data, with the same budget, and compare them on "
        f"the test participants, in OUTPUT_DIR/comparison; out of {', '.join(MODES)}",
    )
    group.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="train each mode N times, with the seeds from --random-seed on (default: 1)",
    )
    group.add_argument(
        "--folds",
        type=_positive,
        metavar="K",
        help="cross-validate: K times other participants to test on",
    )
    group.add_argument(
        "--compare-modality",
        nargs="+",
        action=_Tuple,
        metavar="SUFFIX",
        help="contrasts to compare on (default: those of --modality)",
    )


def _add_segmenting(parser: argparse.ArgumentParser) -> None:
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
        "--res",
        type=_resolution,
        metavar="1mm",
        help="write outputs on the grid of the network too, whose voxel size this is",
    )
    group.add_argument(
        "--keep-largest",
        nargs="*",
        action=_Tuple,
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
        type=_positive,
        default=1,
        metavar="N",
        help="average over N draws of small changes of the image (default: 1, the image itself)",
    )
    group.add_argument(
        "--references",
        type=_folder,
        metavar="DIR",
        help="BIDS derivative with labels to compare with (default: the manual labels)",
    )


def _add_resources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("resources")
    group.add_argument(
        "--device", type=_device, default="auto", help="auto, cpu, cuda or cuda:N (default: auto)"
    )
    group.add_argument(
        "--nprocs",
        "--nthreads",
        "--n-cpus",
        "--n_cpus",
        type=_positive,
        default=_cpus(),
        metavar="N",
        help="CPUs to use in all (default: all, %(default)s here)",
    )
    group.add_argument(
        "--omp-nthreads", type=_positive, metavar="N", help="CPUs to use in one process"
    )
    group.add_argument(
        "--max-memory-mb",
        type=_positive,
        metavar="MB",
        help="memory that the network may take to segment an image",
    )
    group.add_argument(
        "--learn-processes",
        type=_positive,
        default=1,
        metavar="N",
        help="processes that share every batch of a training, one for each GPU (default: 1)",
    )
    group.add_argument(
        "-w",
        "--work-dir",
        type=absolute,
        default=Path("work").resolve(),
        metavar="DIR",
        help="caches and checkpoints, needed to go on after an interruption (default: ./work)",
    )
    group.add_argument(
        "--stop-on-first-crash", action="store_true", help="start nothing more after a failure"
    )


class _Tuple(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, tuple(values))


def absolute(text: str) -> Path:
    """Path of a file or folder as it is given on the command line."""
    return Path(text).expanduser().resolve()


def _file(text: str) -> Path:
    path = absolute(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path}: no such file")
    return path


def _folder(text: str) -> Path:
    path = absolute(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: no such folder")
    return path


def _without(prefix: str) -> Any:
    return lambda text: text.removeprefix(prefix)


def _alphanumeric(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: a BIDS label has letters and digits only")
    return text


def _resolution(text: str) -> str:
    if not re.fullmatch(r"\d+([.p]\d+)?mm", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a voxel size such as 1mm or 1.5mm")
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected auto, cpu, cuda or cuda:N")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _cpus() -> int:
    """CPUs this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
