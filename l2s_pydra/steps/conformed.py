"""What was made of files once, kept in a folder: arrays on the working grid, and facts about files.

An entry is one safetensors file. Its name is a hash of everything that decides what is in it: the
content of the files it was made of, the grid, what was done, and the code that did it. It is
written beside its place and renamed, so that several processes can share a folder; two that need
the same entry at once both make it, and either is kept. Arrays are read back memory-mapped: they
take memory as they are used, and processes of one machine share it. Entries are never removed;
delete the folder to make room.
"""

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Conformed", "code_digest", "content_of"]

logger = logging.getLogger(__name__)

_CODE = (
    "labels.py",
    "normalisation.py",
    "images/boxes.py",
    "images/conform.py",
    "images/headers.py",
    "images/interpolation.py",
    "images/reading.py",
    "images/volume.py",
    "steps/alignment.py",
    "steps/examine.py",
    "steps/grid.py",
    "steps/remarks.py",
    "steps/schemes.py",
    "steps/sources.py",
    "synthesis/intensity.py",
    "synthesis/subclusters.py",
)
"""Sources that decide what is in an entry."""

Made = tuple[Mapping[str, "Tensor"], Any]
"""Arrays by name, and a record that goes into JSON."""


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of the code that makes the entries, and of the libraries below it."""
    import nibabel
    import numpy
    import scipy
    import torch

    versions = [library.__version__ for library in (nibabel, numpy, scipy, torch)]
    digest = hashlib.sha256(json.dumps(versions).encode())
    root = Path(__file__).parents[1]
    for name in _CODE:
        digest.update(name.encode() + (root / name).read_bytes())
    return digest.hexdigest()


def content_of(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


@attrs.frozen
class Conformed:
    """A folder of entries, or none: then everything is made when it is asked for.

    Examples
    --------
    >>> nothing_is_kept = Conformed()
    >>> nothing_is_kept.get("fact", {}, lambda: ({}, 3))
    ({}, 3)
    """

    folder: Path | None = None
    """Where entries are kept; made if need be."""

    def get(self, kind: str, key: Mapping[str, Any], make: Callable[[], Made]) -> Made:
        """Return an entry; make it and keep it if it is not there, or damaged.

        Parameters
        ----------
        kind : str
            What it is, in a word; begins the name of the file.
        key : mapping
            Everything that decides what is in it, beside the code; goes into JSON.
        make : callable
            Makes the arrays and the record.

        Returns
        -------
        arrays : mapping of str to Tensor
            On the CPU. Kept ones are private copies of the file's pages: writing to them changes
            no file.
        record : Any
            Plain values.
        """
        from safetensors import SafetensorError

        if self.folder is None:
            return make()
        whole = json.dumps({"kind": kind, "code": code_digest(), **key}, sort_keys=True)
        name = f"{kind}-{hashlib.sha256(whole.encode()).hexdigest()[:32]}.safetensors"
        path = Path(self.folder) / name
        kept = _read(path, whole)
        if kept is not None:
            return kept
        made = make()
        try:
            _write(path, whole, *made)
        except (OSError, SafetensorError) as error:
            logger.warning("%s: cannot be written (%s); nothing is kept there", path, error)
            return made
        return _read(path, whole) or made


def _read(path: Path, key: str) -> Made | None:
    """Read an entry; None if it is missing or not what was written."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            about = file.metadata() or {}
            # Mapped privately (copy on write), without a copy.
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if about.get("key") == key and about.get("checksum") == _checksum(arrays, about["record"]):
            return arrays, json.loads(about["record"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        logger.debug("%s: %s", path, error)
    logger.warning("%s: is damaged and is made anew", path)
    return None


def _write(path: Path, key: str, arrays: Mapping[str, "Tensor"], record: Any) -> None:
    from safetensors.torch import save_file

    arrays = {name: array.contiguous() for name, array in arrays.items()}
    text = json.dumps(record)
    about = {"key": key, "record": text, "checksum": _checksum(arrays, text)}
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "rb") as file:
            save_file(arrays, temporary, about)
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _checksum(arrays: Mapping[str, "Tensor"], record: str) -> str:
    """CRC-32 of arrays and record: against accidents, at the speed of memory."""
    value = zlib.crc32(record.encode())
    for name in sorted(arrays):
        value = zlib.crc32(name.encode(), value)
        if arrays[name].numel():
            value = zlib.crc32(arrays[name].reshape(-1).numpy().data.cast("B"), value)
    return f"{value:08x}"
