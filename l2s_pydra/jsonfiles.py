"""JSON that others wrote: model folders, settings, filters, sidecars.

What comes from outside must neither take all memory nor end a run with an error that names no file.
"""

import json
from pathlib import Path
from typing import Any

__all__ = ["read_json"]

_MOST_BYTES = 16 * 2**20
"""Far more than any file of settings, and far less than memory."""


def read_json(path: str | Path, *, most_bytes: int = _MOST_BYTES) -> Any:
    """Read a JSON file of limited size.

    Parameters
    ----------
    path : path
        The file.
    most_bytes : int
        Largest size that is read.

    Returns
    -------
    object
        What it holds.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no regular file, too large, nested too deeply, no UTF-8 or no JSON.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError("no regular file")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"larger than {most_bytes / 2**20:g} MiB")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
