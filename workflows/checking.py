"""Checks of a command line as a whole, before anything heavy is imported."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .argument_types import UsageError, absolute
from .exit_codes import ExitCode
from .options import LEVELS

__all__ = [
    "check_comparison",
    "check_labels",
    "check_places",
    "check_what_is_done",
    "levels",
    "output_dir",
    "resolve_data",
]

_NAMED = {
    "real_labels": "--real-labels",
    "label_maps": "--label-maps",
    "references": "--references",
}


def levels(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Levels in the order in which they run.

    Raises
    ------
    UsageError
        If one is unknown, or lacks what it needs.
    """
    for level in values["level"]:
        if level not in LEVELS:
            raise UsageError(
                f"unknown level {level!r}; available: {', '.join(LEVELS)}", ExitCode.UNKNOWN_LEVEL
            )
    if values["preview"] and "learn" not in values["level"]:
        raise UsageError("--preview shows what the level learn would train on; add that level")
    if values["seg_only"] and "group" in values["level"]:
        raise UsageError(
            "--seg-only writes no volumes, which the level group gathers; leave one out"
        )
    return tuple(level for level in LEVELS if level in values["level"])


def check_labels(values: Mapping[str, Any], mode: str) -> None:
    """Check that there is something to learn from.

    Parameters
    ----------
    values : mapping
        Of all options.
    mode : str
        What is trained; only ``synthseg`` can do without images.

    Raises
    ------
    UsageError
        If there is not, or if an option has no meaning with what there is.
    """
    rewrites = values["reports_only"] or values["boilerplate_only"]
    if "learn" not in values["level"] or rewrites:
        return
    if values["real_labels"] is not None:
        if values["target_labels"] is not None:
            raise UsageError(
                "--target-labels: with --real-labels, their table says what is written"
            )
        return
    if mode != "synthseg" or values["compare"] or values["label_maps"] is None:
        raise UsageError(
            "learning needs manual labels; give their folder by --real-labels, or train from label "
            "maps alone: --mode synthseg --label-maps DIR"
        )
    if values["test_participants"]:
        raise UsageError("--test-participants are for images with labels; give --real-labels")


def check_what_is_done(values: Mapping[str, Any]) -> None:
    """Check that at most one thing is to be done in place of a run.

    Raises
    ------
    UsageError
        If there are two.
    """
    options = ("dry_run", "reports_only", "boilerplate_only", "preview", "compare", "clean_workdir")
    asked = [f"--{name.replace('_', '-')}" for name in options if values[name]]
    alone = {"--reports-only", "--boilerplate-only"} & set(asked)
    alone |= (
        {"--dry-run", "--clean-workdir"} if values["dry_run"] and values["clean_workdir"] else set()
    )
    if alone and len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]} exclude each other; give one of them")


def resolve_data(values: Mapping[str, Any]) -> dict[str, Path | None]:
    """Find the derivatives that options name: by a name of ``--derivatives``, or as folders.

    Raises
    ------
    UsageError
        If there is no such name and no such folder.
    """
    known: Mapping[str, Path] = values["derivatives"]
    found: dict[str, Path | None] = {}
    for field, option in _NAMED.items():
        wanted = values[field]
        folder = None if wanted is None else known.get(wanted) or absolute(wanted)
        if folder is not None and not folder.is_dir():
            names = f", and no such name among those of --derivatives: {', '.join(known)}"
            raise UsageError(f"argument {option}: {folder}: no such folder{names if known else ''}")
        found[field] = folder
    return found


def check_comparison(values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check the options of a comparison of modes.

    Parameters
    ----------
    values : mapping
        Of all options.
    given : mapping
        Of those that were typed.
    """
    options = {"seeds": "--seeds", "folds": "--folds", "compare_suffixes": "--compare-modality"}
    if not values["compare"]:
        alone = next((option for name, option in options.items() if name in given), None)
        if alone:
            raise UsageError(f"{alone} is for comparing modes; give them by --compare")
        return
    if len(set(values["compare"])) < 2:
        raise UsageError("--compare needs two modes at least; without a comparison, use --mode")
    for name, value in (
        ("--mode", given.get("mode")),
        ("--preview", values["preview"]),
        ("--start-from", values["start_from"]),
    ):
        if value:
            raise UsageError(f"--compare and {name} exclude each other; give one of them")
    if "learn" not in values["level"]:
        raise UsageError("--compare trains models; add the level learn")
    if set(values["level"]) - {"learn"} and values["model"] is None:
        raise UsageError(
            "--compare trains several models; compare first, then segment with the one that you "
            "choose: --model NAME"
        )
    if values["folds"] == 1:
        raise UsageError("--folds 1: a cross-validation needs two folds at least")


def output_dir(values: Mapping[str, Any]) -> Path:
    """Root of the derivative: the output folder, or in the legacy layout a folder in it."""
    folder: Path = values["output_dir"]
    return folder / "l2s_pydra" if values["output_layout"] == "legacy" else folder


def check_places(bids_dir: Path, output_dir: Path, work_dir: Path) -> None:
    """Check that input, output and working directory are apart.

    Raises
    ------
    UsageError
        If they are not, or there is no input.
    """
    better = bids_dir / "derivatives" / "l2s_pydra"
    if not bids_dir.is_dir():
        raise UsageError(f"{bids_dir}: no such folder; give the raw data set", ExitCode.NO_INPUT)
    if not (bids_dir / "dataset_description.json").is_file():
        raise UsageError(
            f"{bids_dir}: has no dataset_description.json; give the root of a BIDS data set",
            ExitCode.NO_INPUT,
        )
    if output_dir == bids_dir:
        raise UsageError(f"the output folder is the raw data set; try {better} instead")
    inside = output_dir.relative_to(bids_dir).parts if output_dir.is_relative_to(bids_dir) else ()
    if inside and inside[0] != "derivatives":
        raise UsageError(
            f"the output folder {output_dir} is inside the raw data set, which would no longer be "
            f"valid; try {better} instead"
        )
    # BIDS foresees the source of a derivative in its folder sourcedata.
    if bids_dir.is_relative_to(output_dir) and not bids_dir.is_relative_to(
        output_dir / "sourcedata"
    ):
        raise UsageError(
            f"the raw data set {bids_dir} is inside the output folder; try {better} instead"
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
