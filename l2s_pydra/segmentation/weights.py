"""Weights files: safetensors and nothing else, checked before anything is loaded."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["read_weights"]

_MOST_HEADER = 16 * 2**20
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PICKLES = {
    b"PK": "a zip archive, as torch.save writes it",
    b"\x80": "a pickle",
    b"\x1f\x8b": "a gzip archive",
}


def read_weights(path: str | Path, expected: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Read weights of a network whose shape is known.

    The header alone decides whether the file is loaded: its kind, the names, shapes and types of its
    tensors, and the size that follows from them.

    Parameters
    ----------
    path : path
        The file.
    expected : mapping
        Shape of each tensor by its name.

    Returns
    -------
    dict of str to tensor

    Raises
    ------
    ValueError
        If it is no safetensors file, or not that of the network. Pickles, which can run any code
        when they are loaded, are not opened.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(8)
        size = path.stat().st_size
        length = int.from_bytes(start, "little")
        # A length may begin with the bytes of any other kind of file; the brace after it does not lie.
        if file.read(1) != b"{":
            for magic, kind in _PICKLES.items():
                if start.startswith(magic):
                    raise ValueError(f"{kind}, which may hold code; only safetensors are read")
        if len(start) < 8 or not 2 <= length <= min(_MOST_HEADER, size - 8):
            raise ValueError("no safetensors file, or a part of one")
        file.seek(8)
        header = _header(file.read(length))
    _check(header, expected, size - 8 - length)
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


def _header(text: bytes) -> dict[str, Mapping[str, object]]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("no safetensors file: its header is no JSON") from error
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise ValueError("no safetensors file: its header lists no tensors")
    return {name: value for name, value in header.items() if name != "__metadata__"}


def _check(
    header: Mapping[str, Mapping[str, object]], expected: Mapping[str, Sequence[int]], size: int
) -> None:
    others = sorted(set(header) ^ set(expected))
    if others:
        where = "is missing" if others[0] in expected else "is not in the network"
        raise ValueError(f"{others[0][:100]!r} {where}")
    total = 0
    for name, shape in expected.items():
        found, kind = header[name].get("shape"), str(header[name].get("dtype"))[:20]
        if found != list(shape):
            raise ValueError(f"{name!r} has the shape {str(found)[:60]}, not {list(shape)}")
        if kind not in _BYTES:
            raise ValueError(f"{name!r} is of type {kind}, not a floating-point number")
        total += _BYTES[kind] * math.prod(shape)
    if total != size:
        raise ValueError(f"{size} bytes follow the header, not {total}")
