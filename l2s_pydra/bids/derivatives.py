"""Derivative data sets: where each file goes, and how a file is written."""

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from .entities import join_entities

__all__ = [
    "dataset_path",
    "derivative_path",
    "desc_label",
    "sync_folder",
    "write_json",
    "write_text",
]


class ImageRow(Protocol):
    """A row of :data:`l2s_pydra.steps.outputs.IMAGE_OUTPUTS`."""

    @property
    def suffix(self) -> str: ...
    @property
    def extension(self) -> str: ...
    @property
    def folder(self) -> str: ...
    @property
    def segmented(self) -> bool: ...
    @property
    def desc(self) -> str: ...
    @property
    def entities(self) -> Mapping[str, str]: ...


class DatasetRow(Protocol):
    """A row of :data:`l2s_pydra.steps.outputs.DATASET_OUTPUTS`."""

    @property
    def path(self) -> str: ...


def desc_label(entities: Mapping[str, str]) -> str:
    """Return the ``desc`` of the outputs of an image: its suffix, after its own ``desc`` if any.

    >>> desc_label({"subject": "01", "suffix": "T1w"})
    'T1w'
    """
    return entities.get("desc", "") + entities["suffix"]


def derivative_path(
    entities: Mapping[str, str], row: ImageRow, *, segmentation: str
) -> PurePosixPath:
    """Path of an output of an image, below the root of the derivative.

    The entities of the image are kept whole; its suffix becomes ``desc``, so that outputs of
    several contrasts of one session do not collide (BIDS Derivatives, "Common data types").

    Parameters
    ----------
    entities : mapping
        Entities and ``suffix`` of the image (:attr:`ImageRecord.entities`).
    row : ImageOutput
        Row of the table of outputs.
    segmentation : str
        ``seg`` entity, which names the set of labels.

    Raises
    ------
    DatasetError
        If a value is not alphanumeric.

    Examples
    --------
    >>> from l2s_pydra.steps.outputs import IMAGE_OUTPUTS
    >>> image = {"subject": "01", "session": "a", "run": "2", "suffix": "T1w"}
    >>> str(derivative_path(image, IMAGE_OUTPUTS["dseg"], segmentation="common"))
    'sub-01/ses-a/anat/sub-01_ses-a_run-2_seg-common_desc-T1w_dseg.nii.gz'
    """
    source = {name: value for name, value in entities.items() if name != "suffix"}
    named = {**source, "desc": desc_label(entities) + row.desc, **row.entities}
    if row.segmented:
        named["segmentation"] = segmentation
    place = {"subject": source["subject"]}
    if row.folder == "anat" and "session" in source:
        place["session"] = source["session"]
    folder = PurePosixPath(*join_entities(place).split("_"), row.folder)
    return folder / f"{join_entities(named)}_{row.suffix}{row.extension}"


def dataset_path(row: DatasetRow, **fields: str) -> PurePosixPath:
    """Path of an output that belongs to no single image, below the root of the derivative.

    Parameters
    ----------
    row : DatasetOutput
        Row of the table of outputs.
    **fields : str
        Values of the fields in the row's path.

    Examples
    --------
    >>> from l2s_pydra.steps.outputs import DATASET_OUTPUTS
    >>> str(dataset_path(DATASET_OUTPUTS["participant_page"], participant="sub-01"))
    'sub-01.html'
    """
    return PurePosixPath(row.path.format(**fields))


def write_text(path: str | Path, text: str, *, durable: bool = False) -> Path:
    """Write a UTF-8 file atomically, with its folders; a reader sees the old or the new one.

    Parameters
    ----------
    path : path
        The file.
    text : str
        Its contents.
    durable : bool, default=False
        Return when it is on the disk, so that it outlives a loss of power.
    """
    path = Path(path)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())

    _replace(path, write)
    if durable:
        sync_folder(path.parent)
    return path


def sync_folder(folder: str | Path) -> None:
    """Make the names of files in a folder outlive a loss of power, where the system can do that."""
    with contextlib.suppress(
        OSError
    ):  # Windows opens no folder, some network file systems sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | Path, values: Mapping[str, Any], *, durable: bool = False) -> Path:
    """Write JSON atomically, keys in the order given; ``durable`` as in :func:`write_text`."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    return write_text(path, text, durable=durable)


def _replace(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` make a hidden file beside ``path``, then give it that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
