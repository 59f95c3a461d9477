"""Manifests: what was published, file by file, and what each image's files were made from.

They lie in the derivative itself, so that what is done is known without a working directory, and a
finished tree can be checked years later. There is one for each participant, one for each run's
records and one for the rest, so that a participant's costs the same among ten or ten thousand.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..errors import DatasetError
from .derivatives import write_json

__all__ = ["FileEntry", "ImageEntry", "Manifest", "manifest_of", "manifests"]

_log = logging.getLogger(__name__)
_FORMAT = 1
_DATASET = "logs/manifest.json"
_RUN = re.compile(r"logs/([^/]+)/.")
_PARTICIPANT = re.compile(r"(sub-[^/.]+)(/|\.html$)")
_PROVENANCE = re.compile(r"prov/prov-sub([a-zA-Z0-9]+)_")
_text = attrs.validators.instance_of(str)


@attrs.frozen(kw_only=True)
class FileEntry:
    """A published file."""

    sha256: str = attrs.field(validator=_text)
    """Checksum of its bytes."""
    size: int = attrs.field(validator=attrs.validators.instance_of(int))
    """Number of them."""
    run: str = attrs.field(validator=_text)
    """Run that wrote it."""


@attrs.frozen(kw_only=True)
class ImageEntry:
    """An image that was segmented."""

    source: str = attrs.field(validator=_text)
    """Path of the image below the root of its data set, with ``/``."""
    segmentation: str = attrs.field(validator=_text)
    """``seg`` entity of the outputs; an image may have several."""
    run: str = attrs.field(validator=_text)
    """Run that made them."""
    made_from: Mapping[str, Any] = attrs.field(validator=attrs.validators.instance_of(dict))
    """All that decides the result: checksums of image and model, options, version of the software."""
    outputs: tuple[str, ...] = attrs.field(
        converter=tuple[str, ...], validator=attrs.validators.deep_iterable(_text)
    )
    """Files that belong to it, below the root of the derivative."""

    @property
    def name(self) -> tuple[str, str]:
        """What distinguishes it from other entries."""
        return self.source, self.segmentation


@attrs.define(kw_only=True)
class Manifest:
    """Contents of a manifest."""

    files: dict[str, FileEntry] = attrs.field(factory=dict)
    """Published files by their paths below the root of the derivative, with ``/``."""
    images: dict[tuple[str, str], ImageEntry] = attrs.field(factory=dict)
    """Segmented images by :attr:`ImageEntry.name`."""

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        """Read a manifest; one that is not there is empty.

        Raises
        ------
        DatasetError
            If it cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: cannot be read ({error}); check permissions") from error
        try:
            values = json.loads(text)
            if values["format"] != _FORMAT:
                raise ValueError(f"format {values['format']!r} is not known")
            images = [ImageEntry(**entry) for entry in values["images"]]
            return cls(
                files={name: FileEntry(**entry) for name, entry in values["files"].items()},
                images={image.name: image for image in images},
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DatasetError(
                f"{path}: is no manifest ({error!r}); delete it, and the images are segmented again"
            ) from error

    @classmethod
    def read_or_begin(cls, path: str | Path) -> "Manifest":
        """Read a manifest; of a damaged one a warning tells, and it begins anew."""
        try:
            return cls.read(path)
        except DatasetError as error:
            _log.warning("%s", error)
            return cls()

    @classmethod
    def read_to_change(cls, path: str | Path) -> "Manifest":
        """Read a manifest that will be written anew; only a damaged one begins anew.

        Raises
        ------
        DatasetError
            If it cannot be read just now: what it holds would be lost.
        """
        try:
            return cls.read(path)
        except DatasetError as error:
            if isinstance(error.__cause__, OSError):
                raise
            _log.warning("%s", error)
            return cls()

    def write(self, path: str | Path) -> None:
        """Write it, durably and at once."""
        values = {
            "format": _FORMAT,
            "files": {name: attrs.asdict(entry) for name, entry in sorted(self.files.items())},
            "images": [attrs.asdict(image) for _, image in sorted(self.images.items())],
        }
        write_json(path, values, durable=True)

    def forget(self, names: Iterable[str]) -> None:
        """Take files out that are no more."""
        for name in names:
            self.files.pop(name, None)


def manifest_of(path: str) -> str:
    """Manifest that a file of a derivative belongs to.

    Parameters
    ----------
    path : str
        Path of the file below the root of the derivative, with ``/``.

    Returns
    -------
    str
        That of the manifest.

    Examples
    --------
    >>> manifest_of("sub-01/anat/sub-01_dseg.json"), manifest_of("sub-01.html")
    ('sub-01/log/manifest.json', 'sub-01/log/manifest.json')
    >>> manifest_of("logs/r1/l2s_pydra.toml"), manifest_of("README.md")
    ('logs/r1/manifest.json', 'logs/manifest.json')
    """
    participant = _PARTICIPANT.match(path)
    if participant:
        return f"{participant[1]}/log/manifest.json"
    provenance = _PROVENANCE.match(path)
    if provenance:
        return f"sub-{provenance[1]}/log/manifest.json"
    run = _RUN.match(path)
    return f"logs/{run[1]}/manifest.json" if run else _DATASET


def manifests(root: str | Path) -> Iterator[str]:
    """Manifests of a derivative, by their paths below its root."""
    root = Path(root)
    for pattern in ("logs/manifest.json", "logs/*/manifest.json", "sub-*/log/manifest.json"):
        yield from sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))
