"""Label schemes: which integer in an image means which structure.

A scheme is a BIDS ``dseg.tsv`` (Derivatives, "Common image-derived labels"): columns ``index`` and
``name``, optionally ``abbreviation``, ``color`` and ``mapping``, and two of ours, ``side``
(``left``, ``right`` or ``midline``) and ``group`` (labels of one group share their intensity
distribution in synthesis).
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from .errors import LabelError

__all__ = ["Label", "LabelScheme", "read_mapping"]

_SIDE = re.compile(
    r"(?i)(?:^|[-_ .])(left|right|lh|rh)(?=$|[-_ .])|^(l|r)(?=[-_ .])|(?<=[-_ .])(l|r)$"
)
_SIDES = {"left": "left", "lh": "left", "l": "left", "right": "right", "rh": "right", "r": "right"}
_EMPTY = {"", "n/a"}
_MOST_VALUES = 2**20
_LONGEST_NAME = 200
_MOST_BYTES = 16 * 2**20


def _split_side(name: str) -> tuple[str | None, str]:
    """Side named in ``name``, and the name without it.

    >>> _split_side("Left-Cerebral-Cortex")
    ('left', 'Cerebral-Cortex')
    >>> _split_side("Putamen_R")
    ('right', 'Putamen')
    >>> _split_side("brainstem")
    (None, 'brainstem')
    """
    match = _SIDE.search(name)
    if match is None:
        return None, name
    rest = (name[: match.start()] + name[match.end() :]).strip("-_ .")
    side = next(found for found in match.groups() if found)
    return _SIDES[side.lower()], rest or name


def _printable(_: Any, field: Any, value: Any) -> None:
    """Names appear in tables, file names of figures, pages and on terminals."""
    if value is not None and (len(value) > _LONGEST_NAME or not value.isprintable()):
        raise LabelError(
            f"{field.name} {value[:40]!r} of a label has control characters or more than "
            f"{_LONGEST_NAME} characters; rename it"
        )


@attrs.frozen(kw_only=True)
class Label:
    """One row of a ``dseg.tsv``."""

    index: int = attrs.field(converter=int)
    """Value in the image."""
    name: str = attrs.field(validator=_printable)
    """Name of the structure."""
    abbreviation: str | None = attrs.field(default=None, validator=_printable)
    """Short name, unique in the table."""
    color: str | None = None
    """``#rrggbb``."""
    mapping: int | None = None
    """Index of the corresponding label in another scheme."""
    side: str | None = None
    """``left``, ``right`` or ``midline``."""
    group: str | None = attrs.field(default=None, validator=_printable)
    """Labels of one group share their intensity distribution in synthesis."""

    @property
    def side_or_guess(self) -> str:
        """``side`` if the table gives it, else what the name says, else ``midline``."""
        return self.side or _split_side(self.name)[0] or "midline"

    @property
    def group_or_guess(self) -> str:
        """``group`` if the table gives it, else the name without its side."""
        return self.group or _split_side(self.name)[1]


_OPTIONAL = ("abbreviation", "color", "mapping", "side", "group")


def _tuple(labels: Iterable[Label]) -> tuple[Label, ...]:
    return tuple(labels)


@attrs.frozen
class LabelScheme:
    """An ordered set of labels; the position of a label is its channel in the network.

    Background (index 0) is channel 0; it is added if the table does not list it.

    Parameters
    ----------
    labels : iterable of Label
        Sorted by index on construction.

    Raises
    ------
    LabelError
        If an index or a name occurs twice, an index needs more than 32 bits, or there is no label
        beside the background.

    Examples
    --------
    >>> scheme = LabelScheme([Label(index=41, name="right"), Label(index=2, name="left")])
    >>> scheme.indices
    (0, 2, 41)
    >>> scheme.to_channels(np.array([[0, 41], [2, 2]]), source="example")
    array([[0, 2],
           [1, 1]], dtype=int16)
    """

    labels: tuple[Label, ...] = attrs.field(converter=_tuple)

    def __attrs_post_init__(self) -> None:
        labels = self.labels
        if all(label.index != 0 for label in labels):
            labels = (Label(index=0, name="background"), *labels)
        labels = tuple(sorted(labels, key=lambda label: (label.index != 0, label.index)))
        for what in ("index", "name"):
            values = [getattr(label, what) for label in labels]
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise LabelError(
                    f"label table lists the {what} {twice[0]!r} twice; keep one row of it"
                )
        beyond = [label.index for label in labels if not -(2**31) <= label.index < 2**31]
        if beyond:
            raise LabelError(
                f"label index {beyond[0]} needs more than 32 bits; renumber the labels"
            )
        if len(labels) < 2:
            raise LabelError("label table has no label beside the background; add the structures")
        object.__setattr__(self, "labels", labels)

    @classmethod
    def from_indices(cls, indices: Iterable[int]) -> "LabelScheme":
        """Scheme whose names are made of the indices, for a data set without a table."""
        return cls(
            [
                Label(index=index, name=f"label{index}" if index else "background")
                for index in sorted({int(index) for index in indices})
            ]
        )

    @classmethod
    def read(cls, path: str | Path) -> "LabelScheme":
        """Read a BIDS ``dseg.tsv``.

        Raises
        ------
        LabelError
            If the file is missing, lacks ``index`` or ``name``, or holds a value that is no integer.
        """
        rows = _read_rows(path, ("index", "name"))
        try:
            return cls([_label(row, path) for row in rows])
        except LabelError as error:
            raise error if str(path) in str(error) else LabelError(f"{path}: {error}") from error

    def write(self, path: str | Path) -> None:
        """Write a BIDS ``dseg.tsv``; optional columns appear where any label has them."""
        columns = ["index", "name"]
        columns += [
            c for c in _OPTIONAL if any(getattr(label, c) is not None for label in self.labels)
        ]
        lines = ["\t".join(columns)]
        for label in self.labels:
            values = (getattr(label, column) for column in columns)
            lines.append("\t".join("n/a" if value is None else str(value) for value in values))
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def indices(self) -> tuple[int, ...]:
        """Image value of each channel."""
        return tuple(label.index for label in self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each channel."""
        return tuple(label.name for label in self.labels)

    @property
    def opposite(self) -> tuple[int, ...]:
        """Channel of the same structure on the other side of the body; itself if it has no sides.

        Structures are the same if their names differ in the side only, or if they are the only
        ones of their group on either side.

        >>> LabelScheme([Label(index=1, name="Left-Putamen"), Label(index=2, name="Stem"),
        ...     Label(index=9, name="Right-Putamen")]).opposite
        (0, 3, 2, 1)
        """
        by_name = self._pairs([_split_side(label.name)[1] for label in self.labels])
        by_group = self._pairs([label.group for label in self.labels])
        return tuple(by_name.get(c, by_group.get(c, c)) for c in range(len(self)))

    @property
    def mirrors(self) -> bool:
        """Whether every label of one side has its counterpart on the other."""
        return all(
            label.side_or_guess == "midline" or other != channel
            for channel, (label, other) in enumerate(zip(self.labels, self.opposite, strict=True))
        )

    def _pairs(self, structures: Sequence[str | None]) -> dict[int, int]:
        """Pair the channels that are the only ones of their structure on either side."""
        sides: dict[str, dict[str, list[int]]] = {}
        for channel, (label, structure) in enumerate(zip(self.labels, structures, strict=True)):
            if structure is not None:
                sides.setdefault(structure, {}).setdefault(label.side_or_guess, []).append(channel)
        pairs: dict[int, int] = {}
        for found in sides.values():
            left, right = found.get("left", []), found.get("right", [])
            if len(left) == len(right) == 1:
                pairs |= {left[0]: right[0], right[0]: left[0]}
        return pairs

    def channel(self, index: int) -> int:
        """Return the channel of an image value.

        Raises
        ------
        LabelError
            If the value is not in the scheme.
        """
        try:
            return self.indices.index(index)
        except ValueError:
            raise LabelError(
                f"label {index} is not in the scheme; available: {', '.join(map(str, self.indices))}"
            ) from None

    def to_channels(
        self, values: npt.NDArray[np.generic], *, source: str | Path
    ) -> npt.NDArray[np.int16]:
        """Translate image values to channels.

        Parameters
        ----------
        values : integer or integral float array, any shape
            Labels as stored in the image.
        source : str or Path
            File the values come from, for the message.

        Returns
        -------
        int16 array of the same shape

        Raises
        ------
        LabelError
            If a value is not an integer or not in the scheme.
        """
        present, inverse = _distinct(values)
        if not np.all(np.isfinite(present.astype(np.float64))) or np.any(
            present != np.rint(present)
        ):
            raise LabelError(
                f"{source}: holds values that are no integers; a label map is expected here"
            )
        unknown = [int(value) for value in present if int(value) not in self.indices]
        if unknown:
            shown = ", ".join(map(str, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
            raise LabelError(
                f"{source}: label(s) {shown} not in the label table; "
                "add a row for each, or map them in a mapping table"
            )
        channels = np.array([self.channel(int(value)) for value in present], dtype=np.int16)
        return channels[inverse].reshape(values.shape)

    def to_indices(self, channels: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Translate channels to image values; the inverse of :meth:`to_channels`."""
        indices: npt.NDArray[np.int32] = np.array(self.indices, dtype=np.int32)[channels]
        return indices

    def mapped_to(
        self, target: "LabelScheme", mapping: Mapping[int, int] | None = None
    ) -> npt.NDArray[np.int16]:
        """Channel in ``target`` of each channel of this scheme.

        ``mapping`` (index to index) comes first, then the table's ``mapping`` column, then equality
        of names, then, if no label has either, equality of indices.

        Raises
        ------
        LabelError
            If a label finds no counterpart.
        """
        mapping = mapping or {}
        by_name = {label.name: label.index for label in target.labels}
        named = any(label.name in by_name for label in self.labels[1:])
        channels = []
        for label in self.labels:
            index = mapping.get(label.index, label.mapping)
            if index is None:
                index = by_name.get(label.name)
            if index is None and (label.index == 0 or (not named and not mapping)):
                index = label.index
            if index is None or index not in target.indices:
                raise LabelError(
                    f"label {label.index} ({label.name}) has no counterpart among "
                    f"{', '.join(map(str, target.indices))}; "
                    "give one in a mapping table with the columns index and mapping"
                )
            channels.append(target.channel(index))
        return np.array(channels, dtype=np.int16)


def _distinct(
    values: npt.NDArray[np.generic],
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.intp]]:
    """Distinct values in order, and the number of each voxel's among them.

    Sorting all voxels, which values of any kind need, takes seconds for a head; whole numbers that
    are not far apart are counted instead.
    """
    if values.dtype.kind in "iu" and values.size:
        low, high = int(values.min()), int(values.max())
        if high - low < _MOST_VALUES:
            offsets = values.astype(np.int64) - low
            seen = np.zeros(high - low + 1, dtype=bool)
            seen[offsets] = True
            number = np.cumsum(seen) - 1
            return np.flatnonzero(seen) + low, number[offsets]
    return np.unique(values, return_inverse=True)


def read_mapping(path: str | Path) -> dict[int, int]:
    """Read a mapping table: a TSV with the columns ``index`` and ``mapping``.

    Raises
    ------
    LabelError
        If the file is missing, lacks a column, holds a value that is no integer, or lists an index
        twice.
    """
    mapping: dict[int, int] = {}
    for row in _read_rows(path, ("index", "mapping")):
        index = _integer(row, "index", path)
        if index in mapping:
            raise LabelError(f"{path}: lists the index {index} twice; keep one row of it")
        mapping[index] = _integer(row, "mapping", path)
    return mapping


def _read_rows(path: str | Path, required: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        if Path(path).stat().st_size > _MOST_BYTES:
            raise LabelError(
                f"{path}: is larger than {_MOST_BYTES >> 20} MiB; give a label table, a BIDS dseg.tsv"
            )
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(
            f"{path}: cannot read the label table ({error}); give a BIDS dseg.tsv"
        ) from error
    missing = [column for column in required if column not in columns]
    if missing:
        raise LabelError(
            f"{path}: label table lacks the column {missing[0]!r} (it has {', '.join(columns) or 'none'}); "
            "a tab-separated table with a header line is expected"
        )
    return rows


def _integer(row: dict[str, str], column: str, path: str | Path) -> int:
    try:
        return int(row[column])
    except ValueError:
        raise LabelError(
            f"{path}: {column} {row[column]!r} is no integer; label values are whole numbers"
        ) from None


def _label(row: dict[str, str], path: str | Path) -> Label:
    optional = {column: row.get(column, "") for column in _OPTIONAL}
    given: dict[str, str | None] = {k: (None if v in _EMPTY else v) for k, v in optional.items()}
    mapping = _integer(row, "mapping", path) if given.pop("mapping") is not None else None
    return Label(index=_integer(row, "index", path), name=row["name"], mapping=mapping, **given)  # type: ignore[arg-type]
