"""Options of ``l2s-pydra`` that choose images, and that say which files and folders to work with.

The name of each option's value is that of the field of :class:`~l2s_pydra.workflows.options.Options`
that it sets.
"""

import argparse
from pathlib import Path

from .argument_types import (
    Collect,
    Flatten,
    NameData,
    absolute,
    existing_file,
    labels,
    named_folder,
)

__all__ = ["add_places", "add_selection"]


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose images."""
    group = parser.add_argument_group(
        "which images",
        "LABEL: one or several, between commas or blanks, or a text file of them",
    )
    group.add_argument(
        "--participant-label",
        "--participant_label",
        dest="participants",
        nargs="+",
        type=labels("sub-"),
        action=Flatten,
        metavar="LABEL",
        help="only these participants",
    )
    group.add_argument(
        "--session-label",
        "--session_label",
        "--session-id",
        "--session_id",
        dest="sessions",
        nargs="+",
        type=labels("ses-"),
        action=Flatten,
        metavar="LABEL",
        help="only these sessions",
    )
    group.add_argument(
        "--modality",
        dest="suffixes",
        nargs="+",
        action=Collect,
        default=("T1w",),
        metavar="SUFFIX",
        help="contrasts, such as T1w T2w FLAIR (default: T1w)",
    )
    group.add_argument(
        "--bids-filter-file",
        "--bids_filter_file",
        dest="filter_file",
        type=existing_file,
        metavar="FILE",
        help="JSON filters, as in fMRIPrep",
    )
    group.add_argument(
        "--bids-database-dir",
        "--bids_database_dir",
        dest="database_dir",
        type=absolute,
        metavar="DIR",
        help="keep pybids' index here",
    )
    group.add_argument(
        "--skip-bids-validation",
        "--skip_bids_validation",
        "--skip-bids-validator",
        "--skip_bids_validator",
        dest="skip_validation",
        action="store_true",
        help="do not run the BIDS validator",
    )
    group.add_argument(
        "-d",
        "--derivatives",
        nargs="+",
        type=named_folder,
        action=NameData,
        metavar="[NAME=]DIR",
        help="BIDS derivatives, to be called by NAME (default: the folder's) in --real-labels, "
        "--label-maps and --references, and in DatasetLinks of the outputs",
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the options about files and folders of a run."""
    group = parser.add_argument_group("files and folders of a run")
    group.add_argument(
        "-w",
        "--work-dir",
        "--work_dir",
        type=absolute,
        default=Path("work").resolve(),
        metavar="DIR",
        help="caches and checkpoints, needed to go on after an interruption (default: ./work)",
    )
    group.add_argument(
        "--clean-workdir",
        action="store_true",
        help="empty it first: everything is computed anew",
    )
    group.add_argument(
        "--output-layout",
        choices=("bids", "legacy"),
        default="bids",
        help="bids: OUTPUT_DIR is the derivative; legacy: OUTPUT_DIR/l2s_pydra is (default: bids)",
    )
