"""Options of ``l2s-pydra`` for training and for comparing ways to train.

The name of each option's value is that of the field of :class:`~l2s_pydra.workflows.options.Options`
that it sets; those in :data:`SETTINGS` make up its field ``config``.
"""

import argparse

from l2s_pydra.config import MODES, PRESETS

from .argument_types import Collect, Flatten, alphanumeric, existing_file, labels, positive

__all__ = ["SETTINGS", "add_comparing", "add_learning"]

SETTINGS = (
    *("preset", "config", "mode", "augmentation", "ndim", "spacing_mm", "steps", "max_time"),
    *("patience", "random_seed", "sloppy", "set"),
)
"""Names of the values that decide the settings of a training."""


def add_learning(parser: argparse.ArgumentParser) -> None:
    """Add the options of the level ``learn``."""
    group = parser.add_argument_group("learn")
    group.add_argument(
        "--real-labels",
        metavar="DIR_OR_NAME",
        help="BIDS derivative with manual labels (dseg) of images of the raw data set",
    )
    group.add_argument("--labels-desc", metavar="DESC", help="which of them, if several")
    group.add_argument(
        "--label-maps",
        metavar="DIR_OR_NAME",
        help="BIDS derivative with label maps (dseg) that synthetic images are made from; those of "
        "the learning participants are used in any case",
    )
    group.add_argument("--label-maps-desc", metavar="DESC", help="which of them, if several")
    group.add_argument(
        "--label-mapping",
        type=existing_file,
        metavar="TSV",
        help="table with the columns index and mapping: labels of the label maps to manual labels",
    )
    group.add_argument(
        "--target-labels",
        type=existing_file,
        metavar="TSV",
        help="without --real-labels: dseg.tsv of the labels that the model shall write",
    )
    group.add_argument(
        "--start-from",
        metavar="DIR_OR_NAME",
        help="model with the same labels and network whose weights the training starts from",
    )
    _add_participants(group, "--learn-participants", "whose labels the synthesis is learned from")
    _add_participants(group, "--validation-participants", "whose labels choose the model")
    _add_participants(group, "--test-participants", "whose labels judge the finished model")
    group.add_argument(
        "--segmentation",
        type=alphanumeric,
        metavar="NAME",
        help="seg- entity of the outputs (default: the desc of the manual labels)",
    )
    _add_settings(group)
    group.add_argument(
        "--preview",
        type=positive,
        metavar="N",
        help="train nothing: show N draws of the synthesis in OUTPUT_DIR/preview, and stop",
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preset", choices=PRESETS, help="settings to start from (default: default)"
    )
    group.add_argument(
        "--config",
        type=existing_file,
        metavar="FILE",
        help="JSON of all settings, in place of a preset",
    )
    group.add_argument(
        "--mode",
        choices=MODES,
        metavar="MODE",
        help=f"what is learned: {', '.join(MODES)} (default: learn2synth)",
    )
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
        type=positive,
        metavar="N",
        help="end it after N validations without a better one",
    )
    group.add_argument(
        "--random-seed",
        "--random_seed",
        type=int,
        metavar="N",
        help="seed of everything random (default: 0)",
    )
    group.add_argument(
        "--sloppy",
        action="store_true",
        help="train a tiny network for a moment: to try out whether everything works, not for use",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="any other setting, such as training.batch_size=2; VALUE @FILE reads JSON from a file; "
        "repeatable",
    )


def _add_participants(group: argparse._ArgumentGroup, option: str, whose: str) -> None:
    group.add_argument(
        option,
        nargs="+",
        type=labels("sub-"),
        action=Flatten,
        metavar="LABEL",
        help=f"{whose} (default: participants.tsv, column split)",
    )


def add_comparing(parser: argparse.ArgumentParser) -> None:
    """Add the options of comparisons."""
    group = parser.add_argument_group("learn, several times, and compare")
    group.add_argument(
        "--compare",
        nargs="+",
        choices=MODES,
        action=Collect,
        default=(),
        metavar="MODE",
        help="train each of these modes on the same data, with the same budget, and compare them on "
        f"the test participants, in OUTPUT_DIR/comparison; out of {', '.join(MODES)}",
    )
    group.add_argument(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="train each mode N times, with the seeds from --random-seed on (default: 1)",
    )
    group.add_argument(
        "--folds",
        type=positive,
        metavar="K",
        help="cross-validate: K times other participants to test on",
    )
    group.add_argument(
        "--compare-modality",
        dest="compare_suffixes",
        nargs="+",
        action=Collect,
        metavar="SUFFIX",
        help="contrasts to compare on (default: those of --modality)",
    )
