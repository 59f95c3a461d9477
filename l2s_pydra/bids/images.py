"""Images of a BIDS data set."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DatasetError, NoImageError
from ..jsonfiles import read_json
from .entities import ImageRecord
from .layout import IMAGE_EXTENSIONS, dataset_root, get_paths, open_layout, to_records

__all__ = ["Filters", "find_images", "read_filters"]

Filters = Mapping[str, Mapping[str, Any]]
"""Contents of a ``--bids-filter-file``: query name -> entity -> value."""

_log = logging.getLogger(__name__)


def find_images(
    bids_dir: str | Path,
    *,
    participants: Iterable[str] | None = None,
    sessions: Iterable[str] | None = None,
    suffixes: Iterable[str] = ("T1w",),
    filters: Filters | None = None,
    database_dir: str | Path | None = None,
) -> list[ImageRecord]:
    """Find the anatomical images of a BIDS data set.

    Parameters
    ----------
    bids_dir : path
        Root of the data set.
    participants, sessions : iterable of str, optional
        Labels, with or without ``sub-`` and ``ses-``; all by default.
    suffixes : iterable of str
        Contrasts wanted.
    filters : mapping, optional
        Contents of a filter file (:func:`read_filters`). The section ``anat`` applies to every
        suffix; the section named like a suffix in lower case (``t1w``) to that one, and has the
        last word. Magnitude images are taken unless a section sets ``part``.
    database_dir : path, optional
        Folder that keeps the index from call to call; made if it is missing. Delete it when the
        data set changes. It lists images only, so it is of no use to other software.

    Returns
    -------
    list of ImageRecord
        Sorted by path.

    Raises
    ------
    DatasetError
        If ``bids_dir`` is no BIDS data set, a participant is not in it, a filter names an entity
        that does not exist, or two images differ in nothing but the extension.
    NoImageError
        If no image matches.
    """
    root = dataset_root(bids_dir)
    participants = _labels(participants, "sub-")
    present = _check_participants(root, participants)
    suffixes = list(suffixes)
    asked = {"subject": participants, "session": _labels(sessions, "ses-")}
    wanted = {entity: labels for entity, labels in asked.items() if labels is not None}
    with open_layout(root, participants=participants, database_dir=database_dir) as layout:
        queries = [_query(suffix, filters or {}) | wanted for suffix in suffixes]
        paths = {path for query in queries for path in get_paths(layout, query)}
        if not paths:
            found = get_paths(layout, {"datatype": "anat", "extension": IMAGE_EXTENSIONS})
            raise NoImageError(_nothing_found(root, suffixes, wanted, bool(filters), found))
    records = sorted(to_records(paths, root), key=lambda record: record.relative_path)
    _check_unique(records)
    _check_present(records, database_dir)
    _warn_missing(records, participants or present, suffixes)
    return records


def read_filters(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a filter file as fMRIPrep defines it.

    The file is JSON, ``{query: {entity: value}}``. A value is a label, a list of labels, ``null``
    (the entity must be absent) or ``"*"`` (the entity must be there, whatever its value).

    Raises
    ------
    DatasetError
        If the file cannot be read or has another form.
    """
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: cannot be used as a filter file ({error}); "
            'give JSON such as {"t1w": {"acquisition": null}}'
        ) from error
    sections = values.values() if isinstance(values, dict) else [None]
    if not all(isinstance(section, dict) for section in sections):
        raise DatasetError(
            f"{path}: a filter file maps queries to entities to values; "
            'give JSON such as {"t1w": {"acquisition": null}}'
        )
    return {str(name): dict(section) for name, section in values.items()}


def _query(suffix: str, filters: Filters) -> dict[str, Any]:
    from bids.layout import Query

    special = {None: Query.NONE, "*": Query.ANY}

    def translate(value: Any) -> Any:
        if isinstance(value, list):
            return [translate(item) for item in value]
        return special.get(value, value)

    query: dict[str, Any] = {
        "datatype": "anat",
        "suffix": suffix,
        "extension": IMAGE_EXTENSIONS,
        "part": ["mag", None],
    }
    query |= filters.get("anat", {})
    query |= filters.get(suffix.lower(), {})
    return {entity: translate(value) for entity, value in query.items()}


def _labels(values: Iterable[str] | None, key: str) -> list[str] | None:
    if values is None:
        return None
    values = [values] if isinstance(values, str) else values
    return sorted({str(value).removeprefix(key) for value in values})


def _check_participants(root: Path, participants: list[str] | None) -> list[str]:
    """Check that participants are there, and list everyone who is."""
    present = sorted(path.name.removeprefix("sub-") for path in root.glob("sub-*") if path.is_dir())
    if not present:
        raise DatasetError(f"{root}: has no sub-<label> folder; give the root of a BIDS data set")
    missing = sorted(set(participants or ()) - set(present))
    if missing:
        raise DatasetError(
            f"{root}: has no participant {_listed(missing)}; available: {_listed(present)}"
        )
    return present


def _check_unique(records: list[ImageRecord]) -> None:
    by_name: dict[str, ImageRecord] = {}
    for record in records:
        other = by_name.setdefault(record.name, record)
        if other is not record:
            raise DatasetError(
                f"{other.path}: has the same entities as {record.path}; "
                "remove one, or filter on its extension"
            )


def _check_present(records: list[ImageRecord], database_dir: str | Path | None) -> None:
    if database_dir is None:
        return
    for record in records:
        if not (record.path.exists() or record.path.is_symlink()):
            raise DatasetError(
                f"{record.path}: is in the index {database_dir} but not in the data set; "
                "delete that folder to index again"
            )


def _warn_missing(records: list[ImageRecord], participants: list[str], suffixes: list[str]) -> None:
    missing = sorted(set(participants) - {record.entities["subject"] for record in records})
    if missing:
        _log.warning("no %s image matches for participant %s", "/".join(suffixes), _listed(missing))


def _nothing_found(
    root: Path, suffixes: list[str], wanted: dict[str, list[str]], filtered: bool, found: list[Path]
) -> str:
    asked = "".join(f" of {entity} {_listed(labels)}" for entity, labels in wanted.items())
    by_suffix = Counter(record.suffix for record in to_records(found, root))
    there = ", ".join(f"{count} {suffix}" for suffix, count in sorted(by_suffix.items()))
    remedy = "choose another contrast or session" + (", or relax the filters" if filtered else "")
    return (
        f"{root}: no {' or '.join(suffixes)} image{asked}"
        f"{' matches the filters' if filtered else ''}; "
        f"its anat folders hold {there or 'no NIfTI image'}; {remedy}"
    )


def _listed(values: list[str], limit: int = 10) -> str:
    return ", ".join(values[:limit]) + (
        f" ... ({len(values)} in all)" if len(values) > limit else ""
    )
