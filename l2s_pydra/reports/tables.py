"""Tab-separated tables of numbers, as the reports read them."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import DatasetError

__all__ = ["read_columns", "read_rows", "to_number"]


def read_rows(path: str | Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a TSV with a header line.

    Parameters
    ----------
    path : str or Path
        The table.
    required : sequence of str
        Columns that must be there.

    Returns
    -------
    list of dict
        One a row, column to text.

    Raises
    ------
    DatasetError
        If the table cannot be read or lacks a column.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows = [{key: value or "" for key, value in row.items() if key} for row in reader]
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: cannot read the table ({error}); run the step that writes it again"
        ) from error
    missing = [column for column in required if column not in columns]
    if missing:
        raise DatasetError(
            f"{path}: table lacks the column {missing[0]!r} (it has {', '.join(columns) or 'none'}); "
            "run the step that writes it again"
        )
    return rows


def to_number(text: str) -> float:
    """Read a number; anything else (``n/a``) is NaN.

    >>> to_number("0.5"), to_number("n/a")
    (0.5, nan)
    """
    try:
        return float(text)
    except ValueError:
        return float("nan")


def read_columns(
    path: str | Path, required: Sequence[str] = ()
) -> dict[str, npt.NDArray[np.float64]]:
    """Read a TSV of numbers by columns; ``n/a`` becomes NaN.

    Parameters
    ----------
    path : str or Path
        The table.
    required : sequence of str
        Columns that must be there.

    Returns
    -------
    dict of str to (N,) array

    Raises
    ------
    DatasetError
        If the table cannot be read, lacks a column or has no row.
    """
    rows = read_rows(path, required)
    if not rows:
        raise DatasetError(f"{path}: table has no row; run the step that writes it again")
    return {column: np.array([to_number(row[column]) for row in rows]) for column in rows[0]}
