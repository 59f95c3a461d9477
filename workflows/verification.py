"""``--verify``: compare a finished tree with its manifests, and say what is not as it was written."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from l2s_pydra.bids.verifying import Verification, verify

from .exit_codes import ExitCode

__all__ = ["report_verification", "summary"]

_SHOWN = 50
"""So many files of a kind are named."""


def report_verification(
    output_dir: Path, bids_dir: Path | None, say: Callable[[str], object]
) -> int:
    """Verify a tree and say what was found.

    Parameters
    ----------
    output_dir : Path
        Root of the derivative.
    bids_dir : Path, optional
        Root of the raw data set, whose images are compared, too.
    say : callable
        Takes the text.

    Returns
    -------
    int
        Exit code: 0 if everything is as it was written, 1 otherwise.

    Raises
    ------
    DatasetError
        If there is nothing to compare with.
    """
    started = time.perf_counter()
    found = verify(output_dir, bids_dir)
    say(f"{output_dir}\n{summary(found)}in {time.perf_counter() - started:.1f} s\n")
    return ExitCode.OK if found.is_good else ExitCode.FAILED


def summary(found: Verification) -> str:
    """Put into words what a verification found.

    >>> nothing = dict.fromkeys(("altered", "missing", "unreadable", "extra"), ())
    >>> print(summary(Verification(files=2, bytes=2_500_000, **nothing)), end="")
    2 files (2.5 MB) are recorded: all are as they were written
    """
    wrong = len({*found.altered, *found.missing, *found.unreadable})
    verdict = f"{wrong} are not as they were written" if wrong else "all are as they were written"
    text = f"{found.files} files ({found.bytes / 1e6:.1f} MB) are recorded: {verdict}\n"
    for title, names in (
        ("altered", found.altered),
        ("missing", found.missing),
        ("unreadable", found.unreadable),
    ):
        text += _listed(title, names)
    if found.sources:
        changed = len({*found.altered_sources, *found.missing_sources})
        verdict = f"{changed} are not" if changed else "all are"
        text += f"{found.sources} images were segmented: {verdict} what they were then\n"
        text += _listed("altered image", found.altered_sources)
        text += _listed("missing image", found.missing_sources)
    if found.extra:
        text += f"{len(found.extra)} files are not ours (this is no fault)\n"
        text += _listed("not ours", found.extra)
    return text


def _listed(title: str, names: Sequence[str]) -> str:
    lines = [f"  {title}: {name}\n" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        lines.append(f"  {title}: {len(names) - _SHOWN} more\n")
    return "".join(lines)
