"""Index of the images in a BIDS data set, made by pybids."""

import logging
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..jsonfiles import read_json
from .entities import ENTITIES, ImageRecord

__all__ = [
    "IMAGE_EXTENSIONS",
    "dataset_root",
    "existing_folder",
    "get_paths",
    "open_layout",
    "to_records",
]

_log = logging.getLogger(__name__)
IMAGE_EXTENSIONS = [".nii", ".nii.gz"]
_DATABASE = "layout_index.sqlite"  # the name pybids gives it


def dataset_root(bids_dir: str | Path) -> Path:
    """Resolve the root of a BIDS data set.

    Raises
    ------
    DatasetError
        If it is no folder or has no readable ``dataset_description.json``.
    """
    root = existing_folder(bids_dir)
    description = root / "dataset_description.json"
    if not description.is_file():
        raise DatasetError(
            f"{description}: missing; give the root of a BIDS data set, "
            'or add the file ({"Name": ..., "BIDSVersion": "1.11.1"})'
        )
    try:
        read_json(description)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{description}: cannot be read ({error}); correct the JSON") from error
    return root


def existing_folder(folder: str | Path) -> Path:
    """Resolve a folder; DatasetError if it does not exist."""
    path = Path(folder).resolve()
    if not path.is_dir():
        raise DatasetError(f"{path}: no such folder; give the root of a BIDS data set")
    return path


@contextmanager
def open_layout(
    root: Path,
    *,
    participants: list[str] | None = None,
    database_dir: str | Path | None = None,
) -> Iterator[Any]:
    """Index the images in ``root``, of some participants only if there is no database.

    A database is complete whoever asks first, so that the next call finds everyone.
    """
    ignore = _ignored(participants if database_dir is None else None)
    if database_dir is not None:
        _make_database(root, ignore, Path(database_dir))
    layout = _index(root, ignore, database_dir)
    try:
        if Path(layout.root).resolve() != root:
            raise DatasetError(
                f"{database_dir}: is the index of {layout.root}, not of {root}; "
                "give another folder, or delete this one"
            )
        yield layout
    finally:
        _close(layout)


def _make_database(root: Path, ignore: list[re.Pattern[str]], folder: Path) -> None:
    """Keep an index in ``folder`` unless there is one; it appears when it is complete."""
    if (folder / _DATABASE).exists():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".index-") as temporary:
            _close(_index(root, ignore, temporary))
            (Path(temporary) / _DATABASE).replace(folder / _DATABASE)
    except OSError as error:
        raise DatasetError(
            f"{folder}: cannot keep the index of {root} ({error.strerror or error}); "
            "give a folder that can be written"
        ) from error


def _index(root: Path, ignore: list[re.Pattern[str]], database: str | Path | None) -> Any:
    from bids.layout import BIDSLayout, BIDSLayoutIndexer
    from sqlalchemy.exc import SQLAlchemyError

    indexer = BIDSLayoutIndexer(  # type: ignore[no-untyped-call]
        validate=False, index_metadata=False, ignore=ignore
    )
    try:
        with warnings.catch_warnings():
            # About an old key of dataset_description.json, which is not looked at here.
            warnings.filterwarnings("ignore", "The PipelineDescription field", UserWarning)
            return BIDSLayout(  # type: ignore[no-untyped-call]
                root, validate=False, config=[_CONFIG], indexer=indexer, database_path=database
            )
    except (OSError, ValueError, SQLAlchemyError) as error:
        place = f"{root} (index in {database})" if database else str(root)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(
            f"{place}: pybids cannot index the data set ({reason}); "
            f"{'delete the index' if database else 'check that it can be read'}"
        ) from error


def _close(layout: Any) -> None:
    layout.session.close()
    layout.connection_manager.engine.dispose()


def get_paths(layout: Any, query: Mapping[str, Any]) -> list[Path]:
    """Paths of the files that match a query, below the resolved root.

    Raises
    ------
    DatasetError
        If the query names an entity that does not exist.
    """
    try:
        paths = layout.get(return_type="filename", **query)
    except ValueError as error:  # the message suggests the entity that was meant
        raise DatasetError(f"filters: {str(error).split(' If you')[0]}") from error
    root = Path(layout.root).resolve()
    return [root / Path(path).relative_to(layout.root) for path in paths]


def to_records(paths: Iterable[Path], root: Path) -> list[ImageRecord]:
    """Parse the names of files; those without a participant are left out with a warning."""
    records = []
    for path in paths:
        record = ImageRecord.from_path(path, root)
        if "subject" in record.entities:
            records.append(record)
        else:
            _log.warning("%s: left out, its name does not start with sub-<label>", path)
    return records


def _pybids_config() -> dict[str, Any]:
    """Entity patterns that look at the file name alone.

    Those that come with pybids search the absolute path, so a data set below a folder such as
    ``ses-1`` or ``sub-x`` gets the entities of that folder.
    """
    label = r"[_/\\]{}-({})[^/\\]*$"
    entities: list[dict[str, str]] = [
        {"name": name, "pattern": label.format(key, "[a-zA-Z0-9+]+")}
        for name, key in ENTITIES.items()
        if name != "run"
    ]
    # An integer, as in pybids, so that the filter {"run": 1} finds run-01.
    entities.append({"name": "run", "pattern": label.format("run", r"\d+"), "dtype": "int"})
    entities.append({"name": "suffix", "pattern": r"[_/\\]([a-zA-Z0-9+]+)\.[^/\\]+$"})
    entities.append({"name": "extension", "pattern": r"[^./\\](\.[^/\\]+)$"})
    entities.append({"name": "datatype", "pattern": r"[/\\]([a-z]+)[/\\][^/\\]+$"})
    return {"name": "bids", "entities": entities}


_CONFIG = _pybids_config()


def _ignored(participants: list[str] | None) -> list[re.Pattern[str]]:
    """Patterns of the files and folders (as ``/below/root``) that are not worth indexing."""
    chosen = "" if participants is None else rf"(?:{'|'.join(map(re.escape, participants))})(?:/|$)"
    return [
        re.compile(rf"^/(?!sub-{chosen})"),
        re.compile(r"^/sub-[^/]+(?:/ses-[^/]+)?/(?!ses-[^/]+(?:/|$)|anat(?:/|$))"),
        re.compile(r"/[^/.]+\.(?!nii(?:\.gz)?$)[^/]*$"),
    ]
