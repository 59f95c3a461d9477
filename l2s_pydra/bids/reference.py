"""Label maps of a BIDS derivative, and the tables that name their values."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ..errors import DatasetError
from .entities import ImageRecord, parse_name
from .layout import IMAGE_EXTENSIONS, existing_folder, get_paths, open_layout, to_records

__all__ = ["find_label_maps", "find_labels", "label_table", "shared_table"]

_NOT_SOURCE = {"desc", "segmentation", "atlas", "scale", "suffix"}
"""Entities that a segmentation adds to those of its image."""


def find_labels(
    derivative_dir: str | Path,
    images: Iterable[ImageRecord],
    *,
    desc: str | None = None,
    option: str = "--labels-desc",
) -> dict[str, Path]:
    """Pair images with the label maps drawn on them.

    A label map belongs to the image with the same entities, leaving out ``desc``, ``seg``,
    ``atlas`` and ``scale``; one with ``space`` or ``res`` lies on another grid than an image
    without. If there is none, a map with fewer entities counts as long as it fits one image only.

    Parameters
    ----------
    derivative_dir : path
        Root of the derivative that holds the ``dseg`` files.
    images : iterable of ImageRecord
        Images as found by :func:`~l2s_pydra.bids.images.find_images`.
    desc : str, optional
        ``desc`` (or ``seg``) of the label maps. Without it, a map whose ``desc`` is the suffix of
        the image is preferred to others.
    option : str
        Command-line option that sets ``desc``, for the message.

    Returns
    -------
    dict
        Path of the label map by image name; images without one are left out.

    Raises
    ------
    DatasetError
        If the folder does not exist, holds no label map of the images' participants, or holds
        several of one image.
    """
    images = list(images)
    root = existing_folder(derivative_dir)
    maps = _label_records(root, desc, {image.entities["subject"] for image in images})
    if not maps:
        raise DatasetError(_no_map(root, desc, option))
    maps_of, images_of = _by_scan(maps), _by_scan(images)
    pairs = {}
    for image in images:
        near, rivals = maps_of[_scan(image)], images_of[_scan(image)]
        matches = [record for record in near if _source(record) == _source(image)]
        matches = matches or [record for record in near if _fits_only(record, image, rivals)]
        matches = _preferred(matches, image)
        if len(matches) > 1:
            raise DatasetError(_several(root, image.name, matches, option))
        if matches:
            pairs[image.name] = matches[0].path
    return pairs


def find_label_maps(
    derivative_dir: str | Path, *, desc: str | None = None, option: str = "--label-maps-desc"
) -> list[ImageRecord]:
    """Find every label map of a derivative.

    Parameters
    ----------
    derivative_dir, desc, option
        As for :func:`find_labels`.

    Returns
    -------
    list of ImageRecord
        Sorted by path; not empty.

    Raises
    ------
    DatasetError
        If the folder does not exist, holds no label map, or holds several of one image.
    """
    root = existing_folder(derivative_dir)
    maps = _label_records(root, desc)
    if not maps:
        raise DatasetError(_no_map(root, desc, option))
    groups: dict[frozenset[tuple[str, str]], list[ImageRecord]] = defaultdict(list)
    for record in maps:
        groups[_source(record)].append(record)
    for group in groups.values():
        if len(group) > 1:
            raise DatasetError(_several(root, group[0].participant, group, option))
    return maps


def label_table(derivative_dir: str | Path, labels: ImageRecord | str | Path) -> Path:
    """Find the table that names the values of a label map.

    By the inheritance principle (BIDS, "Common principles") it is the ``*_dseg.tsv`` in the folder
    of the label map or above it, up to the root of the derivative, whose entities are all in the
    label map's name; the nearest folder counts, and in it the table with most entities.

    Raises
    ------
    DatasetError
        If there is none, or two in one folder apply equally.
    """
    root = existing_folder(derivative_dir)
    path = labels.path if isinstance(labels, ImageRecord) else Path(labels).resolve()
    entities = set(parse_name(path.name).items())
    inside = [folder for folder in path.parents if folder.is_relative_to(root)]
    for folder in inside:
        tables = [
            (len(own), table)
            for table in sorted(folder.glob("*dseg.tsv"))
            if (own := set(parse_name(table.name).items())) <= entities
        ]
        if tables:
            most = max(count for count, _ in tables)
            best = [table for count, table in tables if count == most]
            if len(best) > 1:
                raise DatasetError(
                    f"{best[0]}: applies to {path.name} as much as {best[1].name}; remove one"
                )
            return best[0]
    desc = parse_name(path.name).get("desc")
    name = f"desc-{desc}_dseg.tsv" if desc else "dseg.tsv"
    raise DatasetError(
        f"{path}: has no label table; add {root / name} with the columns index and name"
    )


def shared_table(derivative_dir: str | Path, labels: Iterable[str | Path]) -> Path:
    """Find the one table that names the values of several label maps.

    Raises
    ------
    DatasetError
        If a label map has none, or two of them say different things.
    """
    tables = sorted({label_table(derivative_dir, path) for path in labels})
    first = tables[0]
    for table in tables[1:]:
        if table.read_bytes() != first.read_bytes():
            raise DatasetError(
                f"{table}: differs from {first}; all label maps need the same table, "
                "choose those of one desc"
            )
    return first


def _label_records(
    root: Path, desc: str | None, participants: set[str] | None = None
) -> list[ImageRecord]:
    only = None if participants is None else sorted(participants)
    with open_layout(root, participants=only) as layout:
        query = {"suffix": "dseg", "extension": IMAGE_EXTENSIONS}
        records = to_records(get_paths(layout, query), root)
    if desc is not None:
        wanted = re.sub("^(desc|seg)-", "", desc)
        by_desc = [r for r in records if r.entities.get("desc") == wanted]
        records = by_desc or [r for r in records if r.entities.get("segmentation") == wanted]
    return sorted(records, key=lambda record: record.relative_path)


def _source(record: ImageRecord) -> frozenset[tuple[str, str]]:
    return frozenset(item for item in record.entities.items() if item[0] not in _NOT_SOURCE)


def _scan(record: ImageRecord) -> tuple[str | None, str | None]:
    """Participant and session, which a label map always shares with its image."""
    return record.entities.get("subject"), record.entities.get("session")


def _by_scan(
    records: list[ImageRecord],
) -> dict[tuple[str | None, str | None], list[ImageRecord]]:
    groups = defaultdict(list)
    for record in records:
        groups[_scan(record)].append(record)
    return groups


def _fits_only(labels: ImageRecord, image: ImageRecord, rivals: list[ImageRecord]) -> bool:
    """Whether all entities of a label map are those of ``image`` and of no other image."""
    fitting = [record for record in rivals if _source(labels) < _source(record)]
    return fitting == [image]


def _preferred(matches: list[ImageRecord], image: ImageRecord) -> list[ImageRecord]:
    named = [record for record in matches if record.entities.get("desc") == image.suffix]
    return named if len(matches) > 1 and len(named) == 1 else matches


def _several(root: Path, what: str, matches: list[ImageRecord], option: str) -> str:
    descs = sorted({record.entities.get("desc", "(none)") for record in matches})
    if len(descs) == len(matches):
        return f"{root}: {what} has label maps with desc {', '.join(descs)}; choose by {option}"
    names = ", ".join(record.path.name for record in matches)
    return f"{root}: {what} has several label maps ({names}); keep one, or choose by {option}"


def _no_map(root: Path, desc: str | None, option: str) -> str:
    if desc is None:
        return (
            f"{root}: holds no label map of these participants; "
            "files such as sub-01/anat/sub-01_desc-manual_dseg.nii.gz are expected"
        )
    found = sorted({r.entities.get("desc", "(none)") for r in _label_records(root, None)})
    return (
        f"{root}: holds no label map with desc {desc} of these participants; "
        f"descs available: {', '.join(found) or 'none'}; choose by {option}"
    )
