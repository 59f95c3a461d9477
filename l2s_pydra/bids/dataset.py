"""What a BIDS data set offers: images, their label maps, and who learns, validates and tests."""

import csv
import itertools
import logging
from collections.abc import Iterable
from pathlib import Path

import attrs

from ..errors import DatasetError
from .entities import ImageRecord
from .images import Filters, find_images, read_filters
from .layout import dataset_root
from .reference import find_label_maps, find_labels, label_table, shared_table

__all__ = [
    "Filters",
    "ImageRecord",
    "TrainingSet",
    "build_synthetic_set",
    "build_training_set",
    "find_images",
    "find_label_maps",
    "find_labels",
    "label_table",
    "read_filters",
    "read_splits",
    "shared_table",
]

_log = logging.getLogger(__name__)
_ROLES = {
    "train": "learn",
    "training": "learn",
    "learn": "learn",
    "val": "validate",
    "valid": "validate",
    "validation": "validate",
    "validate": "validate",
    "test": "test",
}
_USES = {"learn": "to learn from", "validate": "to validate on", "test": "to test on"}
_REMEDY = (
    "give --learn-participants and --validation-participants, "
    "or a column split (train, val, test) in participants.tsv"
)


@attrs.frozen(kw_only=True)
class TrainingSet:
    """The files one training run uses; no participant is in two roles.

    Roles are of participants, so that all sessions and images of one are together.
    """

    learn: tuple[tuple[ImageRecord, Path], ...]
    """Images that theta learns from, each with its label map."""
    validate: tuple[tuple[ImageRecord, Path], ...]
    """Images that choose the model, each with its label map."""
    test: tuple[tuple[ImageRecord, Path], ...] = ()
    """Images that the finished model is judged by, each with its label map; a training never reads
    them."""
    test_participants: tuple[str, ...] = ()
    """Whom the finished model is judged on; ``test`` holds what they have of these contrasts."""
    label_maps: tuple[ImageRecord, ...]
    """Label maps to synthesise from, beside those of ``learn``."""
    real_table: Path
    """Table of the values in the label maps of ``learn``, ``validate`` and ``test``; without images,
    of the labels that the model is to write."""
    all_maps: tuple[ImageRecord, ...] = ()
    """``label_maps`` and those of validation and test participants, for other roles of them."""
    maps_table: Path | None
    """Table of the values in ``label_maps``; None if there are no ``label_maps``, or if it is
    ``real_table``."""
    validation_maps: tuple[ImageRecord, ...] = ()
    """Without images: label maps whose synthetic images choose the model."""


def read_splits(bids_dir: str | Path) -> dict[str, str]:
    """Read who is to learn from whom.

    Returns
    -------
    dict
        Role by participant (``sub-01``) from the column ``split`` of ``participants.tsv``:
        ``learn`` (written train, training or learn), ``validate`` (val, valid, validation or
        validate), ``test``, or the word itself. Empty if there is no file or no such column.

    Raises
    ------
    DatasetError
        If the file cannot be read.
    """
    table = Path(bids_dir) / "participants.tsv"
    if not table.is_file():
        return {}
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{table}: cannot be read ({error}); give a tab-separated file"
        ) from error
    splits = {}
    for row in rows:
        participant = (row.get("participant_id") or "").strip().removeprefix("sub-")
        word = (row.get("split") or "").strip().lower()
        if participant and word not in ("", "n/a"):
            splits[f"sub-{participant}"] = _ROLES.get(word, word)
    return splits


def build_training_set(
    bids_dir: str | Path,
    real_labels: str | Path,
    label_maps: str | Path | None = None,
    *,
    labels_desc: str | None = None,
    label_maps_desc: str | None = None,
    learn_participants: Iterable[str] | None = None,
    validation_participants: Iterable[str] | None = None,
    test_participants: Iterable[str] | None = None,
    test_without_labels: bool = False,
    any_maps: bool = False,
    sessions: Iterable[str] | None = None,
    suffixes: Iterable[str] = ("T1w",),
    filters: Filters | None = None,
    database_dir: str | Path | None = None,
) -> TrainingSet:
    """Collect the images and label maps of a training run.

    Roles come from the arguments, else from :func:`read_splits`. If only the validation
    participants are given, everyone else who is not held out by a split or by
    ``test_participants`` learns. Test participants of the table count as far as they have label
    maps; there may be none. Label maps of validation and test participants are never synthesised
    from.

    Parameters
    ----------
    bids_dir : path
        Root of the raw data set.
    real_labels : path
        Root of the derivative with the label maps of its images.
    label_maps : path, optional
        Root of a derivative with more label maps, of anyone.
    labels_desc, label_maps_desc : str, optional
        Which label maps to take where there are several.
    learn_participants, validation_participants, test_participants : iterable of str, optional
        Labels, with or without ``sub-``.
    test_without_labels : bool, default=False
        Accept test participants without a labelled image, who may have some of other contrasts.
    any_maps : bool, default=False
        Accept that all label maps are of validation and test participants, who will have other
        roles.
    sessions, suffixes, filters, database_dir
        As for :func:`~l2s_pydra.bids.images.find_images`.

    Raises
    ------
    DatasetError
        If roles are missing or overlap, if a role has no labelled image, or if label maps or
        their tables are missing or ambiguous.
    NoImageError
        If no image matches.
    """
    root = dataset_root(bids_dir)
    splits = read_splits(root)
    present = {who: role for who, role in splits.items() if (root / who).is_dir()}
    asked = {
        "learn": _participants(learn_participants),
        "validate": _participants(validation_participants),
        "test": _participants(test_participants),
    }
    learn, validate, test = _roles(root, present, asked)
    images = find_images(
        root,
        participants=learn | validate | test if learn is not None else None,
        sessions=sessions,
        suffixes=suffixes,
        filters=filters,
        database_dir=database_dir,
    )
    labels = find_labels(real_labels, images, desc=labels_desc)
    if not labels:
        raise DatasetError(_unlabelled(real_labels, images, labels_desc))
    held_out = validate | test | {who for who, role in splits.items() if role == "test"}
    if learn is None:
        held_out |= {who for who, role in splits.items() if role != "learn"}
        learn = {image.participant for image in images} - held_out
    elif asked["learn"] is not None:
        held_out -= learn
    all_maps = tuple(find_label_maps(label_maps, desc=label_maps_desc)) if label_maps else ()
    maps = _maps_to_synthesise(label_maps, all_maps, held_out, any_maps)
    asked_test = asked["test"] is not None and not test_without_labels
    return TrainingSet(
        learn=_labelled(images, labels, learn, "learn", real_labels),
        validate=_labelled(images, labels, validate, "validation", real_labels),
        test=_labelled(images, labels, test, "test", real_labels)
        if asked_test
        else _pairs(images, labels, test),
        test_participants=tuple(sorted(test)),
        label_maps=maps,
        all_maps=all_maps,
        real_table=shared_table(real_labels, labels.values()),
        maps_table=shared_table(label_maps, (m.path for m in (all_maps if any_maps else maps)))
        if label_maps
        else None,
    )


def _roles(
    root: Path, splits: dict[str, str], asked: dict[str, set[str] | None]
) -> tuple[set[str] | None, set[str], set[str]]:
    """Participants to learn from (None: everyone else), to validate on and to test on."""
    _check_apart(asked)
    named = {who for group in asked.values() if group for who in group}
    table: dict[str, set[str]] = {role: set() for role in asked}
    for who, role in splits.items():
        if role in table and who not in named:
            table[role].add(who)
    learn, validate, test = (
        table[role] if group is None else group for role, group in asked.items()
    )
    if not validate:
        raise DatasetError(f"{root}: no participant to validate on; {_REMEDY}")
    if asked["learn"] is None and asked["validate"] and "learn" not in splits.values():
        return None, validate, test
    if not learn:
        raise DatasetError(f"{root}: no participant to learn from; {_REMEDY}")
    return learn, validate, test


def _check_apart(asked: dict[str, set[str] | None]) -> None:
    """Check that nobody is asked for in two roles."""
    overlaps = [
        f"{', '.join(sorted(both))} {'is' if len(both) == 1 else 'are'} asked for both "
        f"{_USES[one]} and {_USES[other]}"
        for one, other in itertools.combinations(asked, 2)
        if (both := (asked[one] or set()) & (asked[other] or set()))
    ]
    if overlaps:
        raise DatasetError(f"{'; '.join(overlaps)}; choose one role for each participant")


def build_synthetic_set(
    label_maps: str | Path,
    *,
    label_maps_desc: str | None = None,
    target_labels: str | Path | None = None,
    learn_participants: Iterable[str] | None = None,
    validation_participants: Iterable[str] | None = None,
) -> TrainingSet:
    """Collect the label maps of a training that sees no image.

    Parameters
    ----------
    label_maps : path
        Root of a derivative with label maps.
    label_maps_desc : str, optional
        Which of them, where a head has several.
    target_labels : path, optional
        Table of the labels that the model is to write; that of the label maps by default.
    learn_participants : iterable of str, optional
        Whose label maps are synthesised from; by default, those of everybody else.
    validation_participants : iterable of str, optional
        Whose label maps are held out: synthetic images of them choose the model. By default, those
        of the last tenth of the participants, at least one.

    Raises
    ------
    DatasetError
        If label maps or their table are missing, if nobody is left to synthesise from, or if
        somebody is asked for both.
    """
    asked = {
        "learn": _participants(learn_participants),
        "validate": _participants(validation_participants),
        "test": None,
    }
    _check_apart(asked)
    maps = tuple(find_label_maps(label_maps, desc=label_maps_desc))
    known = sorted({record.participant for record in maps})
    for who in sorted((asked["learn"] or set()) | (asked["validate"] or set())):
        if who not in known:
            raise DatasetError(f"{label_maps}: has no label map of {who}; choose among those there")
    left = [who for who in known if who not in (asked["learn"] or ())]
    held_out = asked["validate"] or set(left[-max(1, len(known) // 10) :])
    learn = asked["learn"] or set(known) - held_out
    if not learn or not held_out:
        raise DatasetError(
            f"{label_maps}: has label maps of {len(known)} participant(s); at least two are needed, "
            "one of them to validate on"
        )
    table = shared_table(label_maps, (record.path for record in maps))
    return TrainingSet(
        learn=(),
        validate=(),
        label_maps=tuple(record for record in maps if record.participant in learn),
        validation_maps=tuple(record for record in maps if record.participant in held_out),
        real_table=Path(target_labels) if target_labels else table,
        maps_table=table if target_labels else None,
    )


def _participants(values: Iterable[str] | None) -> set[str] | None:
    if values is None:
        return None
    values = [values] if isinstance(values, str) else values
    return {f"sub-{str(value).removeprefix('sub-')}" for value in values}


def _labelled(
    images: list[ImageRecord],
    labels: dict[str, Path],
    participants: set[str],
    role: str,
    real_labels: str | Path,
) -> tuple[tuple[ImageRecord, Path], ...]:
    mine = [image for image in images if image.participant in participants]
    for image in mine:
        if image.name not in labels:
            _log.warning("%s: left out, it has no label map in %s", image.path, real_labels)
    for who in sorted(participants - {image.participant for image in mine}):
        _log.warning("%s: left out, there is no such image of this %s participant", who, role)
    pairs = _pairs(images, labels, participants)
    if not pairs:
        raise DatasetError(
            f"{real_labels}: has no label map of the {role} participants "
            f"({', '.join(sorted(participants)) or 'none'}); add one, or choose other participants"
        )
    return pairs


def _pairs(
    images: list[ImageRecord], labels: dict[str, Path], participants: set[str]
) -> tuple[tuple[ImageRecord, Path], ...]:
    return tuple(
        (image, labels[image.name])
        for image in images
        if image.participant in participants and image.name in labels
    )


def _unlabelled(real_labels: str | Path, images: list[ImageRecord], desc: str | None) -> str:
    wanted = desc or "manual"
    entities = images[0].relative_path.rpartition("_")[0]
    return (
        f"{real_labels}: has no label map{f' with desc {desc}' if desc else ''} of any of the "
        f"{len(images)} images; files such as {entities}_desc-{wanted}_dseg.nii.gz are expected"
    )


def _maps_to_synthesise(
    folder: str | Path | None, found: tuple[ImageRecord, ...], held_out: set[str], any_maps: bool
) -> tuple[ImageRecord, ...]:
    maps = tuple(record for record in found if record.participant not in held_out)
    if any_maps:
        return maps
    if len(maps) < len(found):
        _log.warning(
            "%s: %d label map(s) of validation or test participants left out",
            folder,
            len(found) - len(maps),
        )
    if folder is not None and not maps:
        raise DatasetError(
            f"{folder}: all label maps are of validation or test participants; give others"
        )
    return maps
