"""The command line ``l2s-pydra``.

Nothing that takes long to import is imported here; ``--help`` and ``--version`` are instant.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from l2s_pydra.config import LearnConfig, preset
from l2s_pydra.errors import L2SError

from .arguments import EX_USAGE, UsageError, absolute, build_demo_parser, build_parser
from .options import LEVELS, Options

__all__ = ["UsageError", "demo_arguments", "main", "parse"]

EX_OK, EX_UNKNOWN_LEVEL, EX_NO_INPUT = 0, 17, 66
"""Exit codes of the BIDS execution specification."""


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
    demo, rest = build_demo_parser().parse_known_args(argv)
    if demo.demo is not None:
        argv = demo_arguments(demo.demo) + rest
    if not argv:
        raise UsageError("nothing to do; see l2s-pydra --help, or try l2s-pydra --demo OUTPUT_DIR")
    arguments = build_parser().parse_args(argv)
    _check_places(arguments)
    _check_comparison(arguments)
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
        test_participants=arguments.test_participants,
        preview=arguments.preview,
        compare=tuple(dict.fromkeys(arguments.compare or ())),
        seeds=arguments.seeds or 1,
        folds=arguments.folds,
        compare_suffixes=arguments.compare_modality,
        segmentation=arguments.segmentation,
        model=arguments.model,
        probseg=arguments.probseg,
        entropy=arguments.entropy,
        res=arguments.res,
        keep_largest=arguments.keep_largest,
        flip=arguments.flip,
        test_time_draws=arguments.test_time_draws,
        max_memory_mb=arguments.max_memory_mb,
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


def _check_comparison(arguments: argparse.Namespace) -> None:
    given = {
        option: value
        for option, value in (
            ("--seeds", arguments.seeds),
            ("--folds", arguments.folds),
            ("--compare-modality", arguments.compare_modality),
        )
        if value is not None
    }
    if arguments.compare is None:
        if given:
            raise UsageError(f"{next(iter(given))} is for comparing modes; give them by --compare")
        return
    if len(set(arguments.compare)) < 2:
        raise UsageError("--compare needs two modes at least; without a comparison, use --mode")
    if arguments.mode or arguments.preview:
        other = "--mode" if arguments.mode else "--preview"
        raise UsageError(f"--compare and {other} exclude each other; give one of them")
    if "learn" not in arguments.level:
        raise UsageError("--compare trains models; add the level learn")
    if set(arguments.level) - {"learn"} and arguments.model is None:
        raise UsageError(
            "--compare trains several models; compare first, then segment with the one that you "
            "choose: --model NAME"
        )
    if arguments.folds == 1:
        raise UsageError("--folds 1: a cross-validation needs two folds at least")


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
        "training__max_minutes": arguments.max_time,
        "training__patience": arguments.patience,
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
        return key, _json_of(absolute(value[1:]), text)
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
