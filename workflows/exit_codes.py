"""Exit codes of the BIDS execution specification, which has those from 64 on from ``sysexits.h``."""

import textwrap
from enum import IntEnum

__all__ = ["MEANINGS", "ExitCode", "in_words"]


class ExitCode(IntEnum):
    """What the application ends with."""

    OK = 0
    FAILED = 1
    INVALID_BIDS = 16
    UNKNOWN_LEVEL = 17
    NO_IMAGE = 18
    USAGE = 64
    DATA = 65
    NO_INPUT = 66
    SOFTWARE = 70
    CANNOT_CREATE = 73
    IO = 74
    TEMPORARY = 75


MEANINGS = {
    ExitCode.OK: "success",
    ExitCode.FAILED: "an image or the training failed (see the log)",
    ExitCode.INVALID_BIDS: "the data set is not valid BIDS",
    ExitCode.UNKNOWN_LEVEL: "unknown level",
    ExitCode.NO_IMAGE: "the filters select no image",
    ExitCode.USAGE: "wrong usage",
    ExitCode.DATA: "wrong input data",
    ExitCode.NO_INPUT: "no input data",
    ExitCode.SOFTWARE: "a fault of the software",
    ExitCode.CANNOT_CREATE: "the output folder cannot be made",
    ExitCode.IO: "a file cannot be written or read",
    ExitCode.TEMPORARY: "another run is in the way, try again later",
}
"""Of each code, for a person."""


def in_words(width: int = 78) -> str:
    """List exit codes and their meanings, as the help shows them."""
    text = "; ".join(f"{code.value} {meaning}" for code, meaning in MEANINGS.items())
    return textwrap.fill(f"exit codes: {text}", width)
