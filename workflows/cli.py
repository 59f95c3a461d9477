"""The command line ``l2s-pydra``.

Nothing that takes long to import is imported here; ``--help`` and ``--version`` are instant.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from l2s_pydra import __version__
from l2s_pydra.config import MODES, PRESETS, LearnConfig, preset
from l2s_pydra.errors import ConfigError, L2SError

from .options import LEVELS, Options

__all__ = ["demo_arguments", "main", "parse"]

EX_OK, EX_UNKNOWN_LEVEL, EX_USAGE, EX_NO_INPUT = 0, 17, 64, 66
"""Exit codes of the BIDS execution specification."""

_DESCRIPTION = """\
Learn to segment brain images from a few labelled ones (Learn2Synth), segment, and compare.

Levels, in one call or in several:
  learn        train a model on synthetic images whose appearance is learned from real ones
  participant  segment every image
  group        tables of volumes and, with references, of overlap
"""
_EPILOG = """\
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program; those of the process by default.

    Returns
    -------
    int
        Exit code of the BIDS execution specification.
    """
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
    except SystemExit as done:  # --help, --version
        return int(done.code or EX_OK)
    except L2SError as error:
        sys.stderr.write(f"l2s-pydra: {error}\n")
        return getattr(error, "code", EX_USAGE)
    from .bids_app import run

    return run(options)


def demo_arguments(output_dir: str | Path) -> list[str]:
    """Arguments that learn, segment and compare on a data set that ships with the software.

    Parameters
    ----------
    output_dir : path
        Where the derivative goes.

    Returns
    -------
    list of str
        To be continued with further options, which win.
    """
    from l2s_pydra.bids_examples import path

    data = path("icbm")
    derivatives = data / "derivatives"
    arguments = [str(data), str(output_dir), *LEVELS, "--preset", "quick"]
    # A coarser grid and fewer steps than the preset: minutes, for a first look.
    arguments += ["--spacing-mm", "3", "--steps", "900", "--set", "training.validate_every=150"]
    arguments += ["--real-labels", str(derivatives / "reference")]
    arguments += ["--label-maps", str(derivatives / "labelmaps")]
    return arguments


def parse(argv: Sequence[str]) -> Options:
    """Understand the command line.

    Parameters
    ----------
    argv : sequence of str
        Arguments without the program.

    Raises
    ------
    UsageError
        If an argument is unknown, missing or out of place; its ``code`` is the exit code.
    ConfigError
        If a setting of the training is unknown or out of range.
    SystemExit
        After ``--help`` and ``--version``.
    """
    argv = list(argv)
    demo, rest = _demo_parser().parse_known_args(argv)
    if demo.demo is not None:
        argv = demo_arguments(demo.demo) + rest
    if not argv:
        raise UsageError("nothing to do; see l2s-pydra --help, or try l2s-pydra --demo OUTPUT_DIR")
    arguments = _parser().parse_args(argv)
    _check_places(arguments)
    return Options(
        bids_dir=arguments.bids_dir,
        output_dir=arguments.output_dir,
        work_dir=arguments.work_dir,
        levels=_levels(arguments),
        config=_learn_config(arguments),
        real_labels=arguments.real_labels,
        labels_desc=arguments.labels_desc,
        label_maps=arguments.label_maps,
        label_maps_desc=arguments.label_maps_desc,
        label_mapping=arguments.label_mapping,
        learn_participants=arguments.learn_participants,
        validation_participants=arguments.validation_participants,
        preview=arguments.preview,
        segmentation=arguments.segmentation,
        model=arguments.model,
        probseg=arguments.probseg,
        references=arguments.references,
        participants=arguments.participant_label,
        sessions=arguments.session_label,
        suffixes=arguments.modality,
        filter_file=arguments.bids_filter_file,
        database_dir=arguments.bids_database_dir,
        skip_validation=arguments.skip_bids_validation,
        device=arguments.device,
        n_procs=arguments.nprocs,
        threads=arguments.omp_nthreads,
        learn_processes=arguments.learn_processes,
        stop_on_first_crash=arguments.stop_on_first_crash,
        verbosity=arguments.verbose,
        command=("l2s-pydra", *argv),
    )


def _demo_parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--demo", type=Path)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="l2s-pydra",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=_path, help="root of the raw BIDS data set")
    parser.add_argument("output_dir", type=_path, help="root of the derivative that is written")
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
    for add in (_add_selection, _add_learning, _add_segmenting, _add_resources):
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
        "--bids-database-dir", type=_path, metavar="DIR", help="keep pybids' index here"
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
    group.add_argument(
        "--learn-participants",
        nargs="+",
        type=_without("sub-"),
        action=_Tuple,
        metavar="LABEL",
        help="whose labels the synthesis is learned from (default: participants.tsv, column split)",
    )
    group.add_argument(
        "--validation-participants",
        nargs="+",
        type=_without("sub-"),
        action=_Tuple,
        metavar="LABEL",
        help="whose labels choose the model (default: participants.tsv, column split)",
    )
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
        "--learn-processes",
        type=_positive,
        default=1,
        metavar="N",
        help="processes that share every batch of a training, one for each GPU (default: 1)",
    )
    group.add_argument(
        "-w",
        "--work-dir",
        type=_path,
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


def _path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _file(text: str) -> Path:
    path = _path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path}: no such file")
    return path


def _folder(text: str) -> Path:
    path = _path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: no such folder")
    return path


def _without(prefix: str) -> Any:
    return lambda text: text.removeprefix(prefix)


def _alphanumeric(text: str) -> str:
    if not re.fullmatch(r"[a-zA-Z0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: a BIDS label has letters and digits only")
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


def _levels(arguments: argparse.Namespace) -> tuple[str, ...]:
    for level in arguments.level:
        if level not in LEVELS:
            raise UsageError(
                f"unknown level {level!r}; available: {', '.join(LEVELS)}", EX_UNKNOWN_LEVEL
            )
    if "learn" in arguments.level and arguments.real_labels is None:
        raise UsageError("learning needs manual labels; give their folder by --real-labels")
    if arguments.preview and "learn" not in arguments.level:
        raise UsageError("--preview shows what the level learn would train on; add that level")
    return tuple(level for level in LEVELS if level in arguments.level)


def _check_places(arguments: argparse.Namespace) -> None:
    bids_dir, output_dir, work_dir = (
        arguments.bids_dir,
        arguments.output_dir,
        arguments.work_dir,
    )
    if not bids_dir.is_dir():
        raise UsageError(f"{bids_dir}: no such folder; give the raw data set", EX_NO_INPUT)
    if not (bids_dir / "dataset_description.json").is_file():
        raise UsageError(
            f"{bids_dir}: has no dataset_description.json; give the root of a BIDS data set",
            EX_NO_INPUT,
        )
    if output_dir == bids_dir:
        raise UsageError(
            "the output folder is the raw data set; try "
            f"{bids_dir / 'derivatives' / 'l2s_pydra'} instead"
        )
    if work_dir.is_relative_to(bids_dir):
        raise UsageError(
            f"the working directory {work_dir} is inside the raw data set; "
            "give another by --work-dir"
        )
    if output_dir.is_relative_to(work_dir):
        raise UsageError(
            f"the output folder {output_dir} is inside the working directory, "
            "which may be deleted at any time; give another by --work-dir"
        )


def _learn_config(arguments: argparse.Namespace) -> LearnConfig:
    """Read the training settings: file or preset, then the options, then ``--set``."""
    if arguments.config is not None:
        config = LearnConfig.read(arguments.config)
        config = config.evolve(segmenter__ndim=arguments.ndim) if arguments.ndim else config
    else:
        config = preset(arguments.preset, ndim=arguments.ndim)
    options = {
        "spacing_mm": arguments.spacing_mm,
        "training__mode": arguments.mode,
        "training__steps": arguments.steps,
        "training__seed": arguments.random_seed,
    }
    changes = {name: value for name, value in options.items() if value is not None}
    if arguments.augmentation not in (None, config.augmentation.name):
        changes["augmentation"] = {"name": arguments.augmentation}
    config = config.evolve(**changes)
    return config.evolve(**dict(_setting(text, config) for text in arguments.set))


def _setting(text: str, config: LearnConfig) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    section, _, field = name.rpartition(".")
    everything = config.to_dict()
    known: Any = everything.get(section) if section else everything
    if not equals or not isinstance(known, dict) or field not in known:
        sections = sorted(k for k, v in everything.items() if isinstance(v, dict))
        available = sorted(known) if isinstance(known, dict) else sections
        raise UsageError(
            f"--set {text}: expected SECTION.NAME=VALUE; "
            f"available{f' in {section}' if isinstance(known, dict) and section else ''}: "
            f"{', '.join(available)}"
        )
    key = f"{section}__{field}" if section else field
    if value.startswith("@"):
        return key, _json_of(_path(value[1:]), text)
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return key, parsed


def _json_of(path: Path, text: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--set {text}: {path} cannot be read as JSON ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
