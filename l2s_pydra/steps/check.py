"""Check every file of a training before anything is trained, and report all that is wrong.

What cannot be used is an error; what is odd, and may or may not be meant, is a warning. Nobody can
tell from files that two participants are one person, or that labels are wrong where they lie; see
:mod:`~l2s_pydra.steps.alignment` for what is seen of labels that were displaced or mirrored, and
:func:`~l2s_pydra.steps.sources.content_digests` for which copies of an image are recognised.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..bids.derivatives import write_text
from ..errors import DatasetError, L2SError
from .conformed import Conformed
from .examine import Examiner, Problem
from .given import ROLES
from .schemes import Schemes
from .sources import Source

__all__ = [
    "Problem",
    "check_inputs",
    "leaks",
    "problem_table",
    "report",
    "shared_maps",
    "write_problems",
]

logger = logging.getLogger(__name__)

_COLUMNS = ("severity", "file", "problem", "remedy")


def check_inputs(
    *,
    images: Sequence[Path],
    labels: Sequence[Path],
    roles: Sequence[str],
    label_maps: Sequence[Path],
    schemes: Schemes,
    cache_dir: Path | None = None,
) -> list[Problem]:
    """Check all files of a training.

    Parameters
    ----------
    images, labels : sequences of Path
        Real images and their labels, in pairs.
    roles : sequence of str
        ``learn``, ``validate`` or ``test``, one per image.
    label_maps : sequence of Path
        Label maps for synthesis.
    schemes : Schemes
        The label schemes.
    cache_dir : Path, optional
        Where what was found is kept (:mod:`~l2s_pydra.steps.conformed`).

    Returns
    -------
    list of Problem
        Errors and warnings, in the order of the files; empty if there is nothing to say. Images to
        test on that cannot be used are warnings: no training reads them.
    """
    examiner = Examiner(schemes=schemes, store=Conformed(cache_dir))
    found = [
        *(examiner.scan(image, truth) for image, truth in zip(images, labels, strict=True)),
        *(examiner.label_map(path) for path in label_maps),
    ]
    for source, _ in found:
        if source is not None:
            source.release()
    sources = [source for source, _ in found]
    uses = [*roles, *["learn"] * len(label_maps)]
    problems = [
        problem.as_warning() if role == "test" else problem
        for (_, problems), role in zip(found, uses, strict=True)
        for problem in problems
    ]
    return [*problems, *leaks(sources[: len(images)], roles, sources[len(images) :])]


def leaks(
    scans: Sequence[Source | None], roles: Sequence[str], maps: Iterable[Source | None]
) -> list[Problem]:
    """Find voxels that a training would see and be judged by.

    Parameters
    ----------
    scans : sequence of Source or None
        None where the files cannot be used.
    roles : sequence of str
        One for each scan.
    maps : iterable of Source or None
        Label maps for synthesis.

    Returns
    -------
    list of Problem
        One error for each two scans of different roles with the same image or the same labels,
        and for each label map that is the reference of a scan to validate or test on.
    """
    known = [(s, r) for s, r in zip(scans, roles, strict=True) if s is not None]
    problems = [
        _same(other, other_role, scan, role)
        for (scan, role), (other, other_role) in itertools.combinations(known, 2)
        if role != other_role and (_same_image(scan, other) or _same_labels(scan, other))
    ]
    held_out = [(s, r) for s, r in known if r != "learn"]
    for source in (source for source in maps if source is not None):
        for scan, role in held_out:
            if _share(source.facts.labels_content, scan.facts.labels_content):
                what = f"holds the same labels as {scan.labels}, which is to be {ROLES[role]}"
                remedy = "leave it out of the label maps for synthesis"
                problems.append(Problem.error(source.labels, what, remedy))
                break
    return problems


def shared_maps(
    training: Iterable[Source | None], held_out: Iterable[Source | None]
) -> list[Problem]:
    """Find label maps that a training would synthesise from and be judged by.

    Parameters
    ----------
    training, held_out : iterables of Source or None
        None where the files cannot be used.

    Returns
    -------
    list of Problem
        One error for each held-out label map that is among the others too.
    """
    known = [source for source in training if source is not None]
    return [
        Problem.error(
            source.labels,
            f"is to be validated on, but holds the same labels as {twin.labels}",
            "leave one of them out",
        )
        for source in held_out
        if source is not None
        for twin in known
        if _same_labels(source, twin)
    ]


def _share(one: Sequence[str], other: Sequence[str]) -> bool:
    return not set(one).isdisjoint(other)


def _same_image(one: Source, other: Source) -> bool:
    return _share(one.facts.image_content, other.facts.image_content)


def _same_labels(one: Source, other: Source) -> bool:
    return _share(one.facts.labels_content, other.facts.labels_content)


def _same(one: Source, role: str, other: Source, other_role: str) -> Problem:
    image = _same_image(one, other)
    file, twin = (one.image, other.image) if image else (one.labels, other.labels)
    assert file is not None
    return Problem.error(
        file,
        f"is to be {ROLES[role]}, but holds the same voxels as {twin}, which is to be "
        f"{ROLES[other_role]}",
        "remove one of them, or give both the same participant and role",
    )


def report(problems: Sequence[Problem]) -> None:
    """Log warnings, and raise one error for all errors.

    Raises
    ------
    L2SError
        The error, if there is one.
    DatasetError
        If there are several; the message lists them all.
    """
    for problem in problems:
        if not problem.is_error and not problem.logged:
            logger.warning("%s", problem)
    errors = [problem for problem in problems if problem.is_error]
    if len(errors) == 1:
        raise _raised(errors[0])
    if errors:
        files = len({problem.file for problem in errors})
        listed = "; ".join(map(str, errors))
        raise DatasetError(f"{files} file{'s' * (files > 1)} cannot be used: {listed}")


def _raised(problem: Problem) -> L2SError:
    return problem.cause or DatasetError(str(problem))


def problem_table(problems: Iterable[Problem]) -> str:
    r"""Table of problems: tab-separated, with a header line.

    Examples
    --------
    >>> problem_table([Problem.error(Path("a.nii"), "is empty", "copy it again")]).splitlines()
    ['severity\tfile\tproblem\tremedy', 'error\ta.nii\tis empty\tcopy it again']
    """
    rows = [_COLUMNS, *((p.severity, str(p.file), p.what, p.remedy) for p in problems)]
    lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in rows]
    return "\n".join(lines) + "\n"


def write_problems(problems: Iterable[Problem], path: Path) -> Path:
    """Write :func:`problem_table` to a file; return its path."""
    write_text(Path(path), problem_table(problems))
    return Path(path)
