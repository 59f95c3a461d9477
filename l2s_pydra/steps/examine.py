"""Read a scan with its labels, or a label map, and find all that is wrong or odd about it."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from ..errors import L2SError
from ..images.volume import check_same_grid, load_image, load_labels
from .alignment import Fit, fit_of_labels
from .conformed import Conformed, content_of
from .remarks import explained, misplaced, remarks_on
from .schemes import Schemes
from .sources import (
    Facts,
    Loaded,
    Source,
    content_digests,
    is_stripped,
    structures_box,
    tables_of,
    voxel_mm,
)

__all__ = ["Examiner", "Problem"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
_T = TypeVar("_T")

_EMPTY = 0.95
"""Share of labelled voxels that hold the lowest intensity, from which labels lie on nothing."""
_NO_STRUCTURE = (
    "holds none of the structures to segment",
    "check the label table and the mapping",
)


@attrs.frozen(kw_only=True)
class Problem:
    """Something that is wrong with a file, or odd."""

    severity: str
    """``error``, or ``warning``."""
    file: Path
    """The file."""
    what: str
    """What is wrong."""
    remedy: str
    """What to do about it."""
    cause: L2SError | None = attrs.field(default=None, eq=False, repr=False)
    """The error, if it was raised."""
    logged: bool = attrs.field(default=False, eq=False, repr=False)
    """Whether it was logged when the file was read."""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; {self.remedy}"

    @property
    def is_error(self) -> bool:
        """Whether the file cannot be used."""
        return self.severity == "error"

    @classmethod
    def error(cls, file: Path, what: str, remedy: str) -> "Problem":
        """Make an error."""
        return cls(severity="error", file=Path(file), what=what, remedy=remedy)

    def as_warning(self) -> "Problem":
        """Return the same as a warning, where the file is not needed."""
        return attrs.evolve(self, severity="warning")

    @classmethod
    def of(cls, error: L2SError, file: Path) -> "Problem":
        """Take apart the message of an error: file, what is wrong, and the remedy."""
        message = str(error).removeprefix(f"{file}: ")
        what, _, remedy = message.rpartition("; ")
        return cls(
            severity="error",
            file=Path(file),
            what=what or message,
            remedy=remedy if what else "",
            cause=error,
        )


class _UnusableError(Exception):
    """Carries all errors of one source."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)


def _tables(self: "Examiner") -> str:
    return sha256(json.dumps(tables_of(self.schemes)).encode()).hexdigest()


@attrs.frozen(kw_only=True, eq=False)
class Examiner:
    """Examines the files of a training; what it finds out is kept in a store."""

    schemes: Schemes
    """The label schemes."""
    store: Conformed = attrs.field(factory=Conformed)
    """Where facts about files are kept."""
    tables: str = attrs.field(init=False, default=attrs.Factory(_tables, takes_self=True))
    """Digest of the label tables."""

    def scan(self, image: Path, labels: Path) -> tuple[Source | None, list[Problem]]:
        """Examine a scan and its labels.

        Returns
        -------
        source : Source or None
            None if a file cannot be used.
        problems : list of Problem
            All of them.
        """
        return self._examine({"image": Path(image), "labels": Path(labels)}, self._load_scan)

    def label_map(self, path: Path) -> tuple[Source | None, list[Problem]]:
        """Examine a label map; as :meth:`scan`."""
        return self._examine({"labels": Path(path)}, self._load_map)

    def _examine(
        self, files: Mapping[str, Path], load: Callable[..., Loaded]
    ) -> tuple[Source | None, list[Problem]]:
        content = self._content(files)
        store = self.store if content else Conformed()
        fresh: list[Loaded] = []

        def make() -> tuple[dict[str, Any], Any]:
            fresh.append(load(**files))
            return {}, self._facts(fresh[0], files).to_record()

        try:
            _, record = store.get("facts", {"files": content, "tables": self.tables}, make)
        except _UnusableError as error:
            return None, error.problems
        source = Source(
            labels=files["labels"],
            image=files.get("image"),
            facts=Facts.from_record(record),
            content=content,
            load=lambda: load(**files),
            loaded_now=fresh[0] if fresh else None,
        )
        return source, _warnings(source, files, fresh)

    def _content(self, files: Mapping[str, Path]) -> tuple[str, ...] | None:
        if self.store.folder is None:
            return None
        found = [content_of(path) for path in files.values()]
        known = [f"{role} {digest}" for role, digest in zip(files, found, strict=True) if digest]
        return tuple(known) if len(known) == len(found) else None

    def _load_scan(self, image: Path, labels: Path) -> Loaded:
        problems: list[Problem] = []
        volume = _attempt(lambda: load_image(image), image, problems)
        truth = _attempt(lambda: load_labels(labels), labels, problems)
        if volume is not None and truth is not None:
            try:
                check_same_grid(volume, truth)
            except L2SError as error:
                problems.append(Problem.of(explained(error, volume, truth), labels))
        if truth is not None:
            real, to_target = self.schemes.real, self.schemes.real_to_target
            channels = _attempt(
                lambda: to_target[real.to_channels(truth.data, source=labels)], labels, problems
            )
            if channels is not None and not channels.any():
                problems.append(Problem.error(labels, *_NO_STRUCTURE))
        if problems:
            raise _UnusableError(problems)
        assert truth is not None
        assert channels is not None
        return Loaded(labels=attrs.evolve(truth, data=_small(channels)), image=volume)

    def _load_map(self, labels: Path) -> Loaded:
        problems: list[Problem] = []
        volume = _attempt(lambda: load_labels(labels), labels, problems)
        channels = None
        if volume is not None:
            channels = _attempt(
                lambda: self.schemes.maps.to_channels(volume.data, source=labels), labels, problems
            )
        if channels is not None and not self.schemes.maps_to_target[channels].any():
            problems.append(Problem.error(labels, *_NO_STRUCTURE))
        if problems:
            raise _UnusableError(problems)
        assert volume is not None
        assert channels is not None
        return Loaded(labels=attrs.evolve(volume, data=_small(channels)))

    def _facts(self, loaded: Loaded, files: Mapping[str, Path]) -> Facts:
        labels, image = loaded.labels, loaded.image
        targets = labels.data
        if image is None:
            targets = _small(self.schemes.maps_to_target)[labels.data]
        structures = targets > 0
        box = structures_box(structures, labels.affine)
        assert box is not None
        low, high = box
        remarks = remarks_on(labels, "labels")
        if image is not None:
            fit = fit_of_labels(
                image.data, labels.data, image.spacing_mm, self.schemes.target_groups()
            )
            if fit is not None and fit.empty > _EMPTY and fit.on_background:
                raise _UnusableError([_on_nothing(files, fit)])
            remarks = [*remarks_on(image, "image"), *remarks, *misplaced(fit, labels)]
        return Facts(
            low_mm=tuple(map(float, low)),
            high_mm=tuple(map(float, high)),
            voxel_mm=voxel_mm(labels.affine if image is None else image.affine),
            stripped=None if image is None else is_stripped(image, structures),
            image_content=() if image is None else content_digests(image.data, image.affine),
            labels_content=content_digests(targets, labels.affine),
            remarks=tuple(remarks),
        )


def _attempt(load: Callable[[], _T], file: Path, problems: list[Problem]) -> _T | None:
    """Run a function; note its error, if it is one of ours."""
    try:
        return load()
    except L2SError as error:
        problems.append(Problem.of(error, file))
        return None


def _small(channels: Array) -> Array:
    """Store channels in as few bytes as they need; few are shown, many are kept."""
    return channels.astype(np.uint8 if channels.max() < 256 else np.int16)


def _warnings(source: Source, files: Mapping[str, Path], fresh: Sequence[Loaded]) -> list[Problem]:
    logged = set()
    if fresh:
        volumes = {"labels": fresh[0].labels, "image": fresh[0].image}
        logged = {(role, w) for role, v in volumes.items() if v is not None for w in v.warnings}
    return [
        Problem(
            severity="warning",
            file=files[role],
            what=what,
            remedy=remedy,
            logged=(role, what) in logged,
        )
        for role, what, remedy in source.facts.remarks
    ]


def _on_nothing(files: Mapping[str, Path], fit: Fit) -> Problem:
    return Problem.error(
        files["labels"],
        f"{100 * fit.empty:.0f} % of the labelled voxels lie where {files['image']} is empty",
        "give the labels of this image",
    )
