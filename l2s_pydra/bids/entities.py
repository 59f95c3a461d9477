"""BIDS entities: the key-value pairs of a file name, in the order the standard prescribes."""

import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from ..errors import DatasetError

__all__ = ["ENTITIES", "ImageRecord", "file_stem", "parse_name"]

ENTITIES: dict[str, str] = {
    "subject": "sub",
    "template": "tpl",
    "session": "ses",
    "cohort": "cohort",
    "sample": "sample",
    "task": "task",
    "tracksys": "tracksys",
    "acquisition": "acq",
    "nucleus": "nuc",
    "volume": "voi",
    "ceagent": "ce",
    "tracer": "trc",
    "staining": "stain",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "modality": "mod",
    "echo": "echo",
    "flip": "flip",
    "inv": "inv",
    "mt": "mt",
    "part": "part",
    "proc": "proc",
    "hemi": "hemi",
    "space": "space",
    "split": "split",
    "recording": "recording",
    "chunk": "chunk",
    "atlas": "atlas",
    "segmentation": "seg",
    "scale": "scale",
    "res": "res",
    "den": "den",
    "label": "label",
    "desc": "desc",
}
"""Name of each entity (as in pybids, so that filter files written for other BIDS Apps work) and its
key in a file name, in the order of the BIDS schema (``rules/entities.yaml``)."""

_NAMES = {key: name for name, key in ENTITIES.items()}
_RANK = {name: rank for rank, name in enumerate(ENTITIES)}
_LABEL = re.compile(r"[a-zA-Z0-9+]+")
_KEY = re.compile(r"[a-zA-Z0-9_]+")


@attrs.frozen(kw_only=True)
class ImageRecord:
    """An image of a BIDS data set, its entities parsed once."""

    path: Path
    """Absolute path of the file."""
    entities: dict[str, str] = attrs.field(hash=False)
    """Entities of the file name by the names of :data:`ENTITIES`, and ``suffix``."""
    relative_path: str
    """Path below the root of the data set, with ``/``."""

    @property
    def name(self) -> str:
        """File name without its extension; unique among the images of one query."""
        return file_stem(self.path)

    @property
    def participant(self) -> str:
        """Participant with its key, ``sub-01``."""
        return f"sub-{self.entities['subject']}"

    @property
    def suffix(self) -> str:
        """Contrast, such as ``T1w``."""
        return self.entities["suffix"]

    @classmethod
    def from_path(cls, path: str | Path, root: str | Path) -> "ImageRecord":
        """Parse the name of a file below ``root``."""
        path = Path(path)
        relative = path.relative_to(root).as_posix()
        return cls(path=path, entities=parse_name(path.name), relative_path=relative)


def file_stem(path: str | Path) -> str:
    """File name without folder and extensions.

    >>> file_stem("anat/sub-01_T1w.nii.gz")
    'sub-01_T1w'
    """
    return Path(path).name.split(".", 1)[0]


def parse_name(name: str) -> dict[str, str]:
    """Entities and suffix of a file name.

    Entities that the standard does not know keep their key as name.

    Examples
    --------
    >>> parse_name("sub-01_ses-pre_run-02_T1w.nii.gz")
    {'subject': '01', 'session': 'pre', 'run': '02', 'suffix': 'T1w'}
    """
    *pairs, suffix = file_stem(name).split("_")
    split = (pair.partition("-") for pair in pairs)
    entities = {_NAMES.get(key, key): value for key, dash, value in split if dash}
    return {**entities, "suffix": suffix}


def join_entities(entities: Mapping[str, str]) -> str:
    """Key-value pairs in the order of the standard, joined by underscores, without suffix.

    Entities the standard does not know come before ``desc``, which is always last.

    Raises
    ------
    DatasetError
        If a key or a value is not alphanumeric.

    Examples
    --------
    >>> join_entities({"desc": "T1w", "run": "1", "subject": "01"})
    'sub-01_run-1_desc-T1w'
    """
    last = len(_RANK) - 1
    names = sorted(entities, key=lambda name: (_RANK.get(name, last - 0.5), name))
    for name in names:
        if not _KEY.fullmatch(name):
            raise DatasetError(f"{name[:60]!r} cannot be an entity; BIDS keys are made of letters")
        if not _LABEL.fullmatch(entities[name]):
            raise DatasetError(
                f"{entities[name]!r} cannot be the {name} of a file name; "
                "BIDS labels are made of letters and digits only"
            )
    return "_".join(f"{ENTITIES.get(name, name)}-{entities[name]}" for name in names)
