"""What the values of options are: types and actions of :mod:`argparse`, and the error of all.

Nothing that takes long to import is imported here.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2s_pydra.errors import ConfigError

from .exit_codes import ExitCode

__all__ = [
    "Collect",
    "Flatten",
    "NameData",
    "UsageError",
    "absolute",
    "alphanumeric",
    "device",
    "existing_file",
    "existing_folder",
    "labels",
    "memory_mb",
    "named_folder",
    "positive",
    "resolution",
]

_LABEL = re.compile(r"[a-zA-Z0-9+]+")
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_RESERVED = ("raw", "models")
"""Names in ``DatasetLinks`` that are ours."""
_MB = {"": 1.0, "K": 1e-3, "M": 1.0, "G": 1e3, "T": 1e6}
_LEAST_MB = 500
"""Less memory than Python with its libraries takes must be a mistaken unit."""


class UsageError(ConfigError):
    """The command line cannot be understood."""

    def __init__(self, message: str, code: int = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


class Collect(argparse.Action):
    """Keep the values of an option as a tuple."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Set the tuple."""
        setattr(namespace, self.dest, tuple(values))


class Flatten(argparse.Action):
    """Keep labels, of which each value may hold several, each once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Set the tuple."""
        found = dict.fromkeys(label for several in values for label in several)
        setattr(namespace, self.dest, tuple(found))


class NameData(argparse.Action):
    """Keep folders by name; an option given again adds to them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add the folders."""
        known = dict(getattr(namespace, self.dest, None) or {})
        for name, folder in values:
            if known.setdefault(name, folder) != folder:
                parser.error(
                    f"argument {option_string}: {name} is both {known[name]} and {folder}; "
                    "give another name, NAME=PATH"
                )
        setattr(namespace, self.dest, known)


def absolute(text: str) -> Path:
    """Path of a file or folder as it is given on the command line."""
    return Path(text).expanduser().resolve()


def existing_file(text: str) -> Path:
    """Path of a file that is there."""
    path = absolute(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path}: no such file")
    return path


def existing_folder(text: str) -> Path:
    """Path of a folder that is there."""
    path = absolute(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: no such folder")
    return path


def named_folder(text: str) -> tuple[str, Path]:
    """Folder and its name: ``NAME=PATH``, or a path, whose last part is its name.

    >>> named_folder("manual=/")
    ('manual', PosixPath('/'))
    """
    name, equals, path = text.partition("=")
    if not equals:
        folder = existing_folder(text)
        name = folder.name
    else:
        folder = existing_folder(path)
    if not _NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"{text!r}: {name!r} cannot name a data set; give NAME=PATH, with letters, digits, - and _"
        )
    if name in _RESERVED:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {name!r} stands for something else in the outputs; give NAME=PATH"
        )
    return name, folder


def labels(prefix: str) -> Callable[[str], tuple[str, ...]]:
    """Labels in one value: a label, several between commas, or a text file of them.

    Parameters
    ----------
    prefix : str
        ``sub-`` or ``ses-``, which may be left out.
    """

    def convert(text: str) -> tuple[str, ...]:
        given = [part for part in text.split(",") if part]
        if given and all(_LABEL.fullmatch(part.removeprefix(prefix)) for part in given):
            return tuple(part.removeprefix(prefix) for part in given)
        file = absolute(text.removeprefix("@"))
        if not file.is_file():
            raise argparse.ArgumentTypeError(
                f"{text!r}: is neither a label (letters and digits) nor a text file of labels"
                + ("; BIDS_DIR, OUTPUT_DIR and LEVEL come first" if file.is_dir() else "")
            )
        return _read_labels(file, prefix)

    return convert


def _read_labels(file: Path, prefix: str) -> tuple[str, ...]:
    """Labels of a text file: between commas or white space; ``#`` begins a comment.

    Of a table, such as ``participants.tsv``, the first column is taken.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{file}: cannot be read as text ({error})") from error
    if lines and lines[0].split("\t")[0] in ("participant_id", "session_id"):
        lines = [line.split("\t")[0] for line in lines[1:]]
    words = [word for line in lines for word in re.split(r"[,\s]+", line.partition("#")[0]) if word]
    found = tuple(word.removeprefix(prefix) for word in words)
    wrong = next((label for label in found if not _LABEL.fullmatch(label)), None)
    if wrong is not None:
        raise argparse.ArgumentTypeError(
            f"{file}: {wrong!r} is no label; a label has letters and digits only"
        )
    if not found:
        raise argparse.ArgumentTypeError(f"{file}: holds no label; write one a line")
    return found


def alphanumeric(text: str) -> str:
    """BIDS label."""
    if not re.fullmatch(r"[a-zA-Z0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: a BIDS label has letters and digits only")
    return text


def resolution(text: str) -> str:
    """Voxel size such as ``1mm``."""
    if not re.fullmatch(r"\d+([.p]\d+)?mm", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a voxel size such as 1mm or 1.5mm")
    return text


def device(text: str) -> str:
    """Name of a device."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected auto, cpu, cuda or cuda:N")
    return text


def positive(text: str) -> int:
    """Whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def memory_mb(unit: str) -> Callable[[str], int]:
    """Amount of memory with or without a unit, in MB.

    Parameters
    ----------
    unit : {"MB", "GB"}
        Of a number without one.

    Examples
    --------
    >>> memory_mb("MB")("16000"), memory_mb("GB")("16"), memory_mb("MB")("7.5G")
    (16000, 16000, 7500)
    >>> memory_mb("MB")("16GiB")
    17179
    """

    def convert(text: str) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(I?)B?", text.strip().upper())
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r}: expected an amount such as 16GB or 8000MB")
        number, letter, binary = match.groups()
        letter = letter or unit[0]
        scale = _MB[letter] * (1.024 ** (1 + "KMGT".index(letter)) if binary else 1)
        amount = int(float(number) * scale)
        if amount < _LEAST_MB:
            raise argparse.ArgumentTypeError(
                f"{text!r}: {amount} MB is less than one process takes; give a unit, such as "
                f"{number}GB"
            )
        return amount

    return convert
