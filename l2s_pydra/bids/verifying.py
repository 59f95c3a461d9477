"""Is a finished tree what was written?  Checksums of all files against the manifests."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from ..errors import DatasetError
from .checksums import sha256_of
from .manifest import FileEntry, Manifest, manifest_of, manifests
from .publishing import HIDDEN

__all__ = ["Verification", "verify"]

_SKIPPED = {HIDDEN, ".git", ".datalad"}
"""Folders at the root that hold nothing of the data set."""


@attrs.frozen(kw_only=True)
class Verification:
    """What :func:`verify` found; paths are those in the tree, with ``/``, sorted."""

    files: int
    """Number of recorded files."""
    bytes: int
    """Their size together."""
    altered: tuple[str, ...]
    """Files whose content is not the recorded one."""
    missing: tuple[str, ...]
    """Recorded files that are not there, and manifests of which what they recorded is left."""
    unreadable: tuple[str, ...]
    """Files that cannot be read; of manifests, with the reason."""
    extra: tuple[str, ...]
    """Files that no record names; somebody may have put them there."""
    sources: int = 0
    """Number of images of the raw data set that were looked at."""
    altered_sources: tuple[str, ...] = ()
    """Images that changed since they were segmented."""
    missing_sources: tuple[str, ...] = ()
    """Images that are not there any more."""

    @property
    def is_good(self) -> bool:
        """Whether everything that is recorded is there as it was written."""
        return not (
            self.altered
            or self.missing
            or self.unreadable
            or self.altered_sources
            or self.missing_sources
        )


def verify(
    output_dir: str | Path, bids_dir: str | Path | None = None, *, threads: int | None = None
) -> Verification:
    """Recompute the checksums of a finished tree; nothing is written.

    Parameters
    ----------
    output_dir : path
        Root of the derivative.
    bids_dir : path, optional
        Root of the raw data set, to check that the images are those that were segmented.
    threads : int, optional
        Files to read at a time; as many as Python thinks useful by default.

    Raises
    ------
    DatasetError
        If there is no manifest in ``output_dir``.
    """
    root = Path(output_dir)
    places = list(manifests(root))
    if not places:
        raise DatasetError(
            f"{root}: holds no manifest, so that there is nothing to compare with; give the output "
            "folder of a run"
        )
    files: dict[str, FileEntry] = {}
    images: set[tuple[str, str]] = set()
    damaged = []
    for place in places:
        try:
            manifest = Manifest.read(root / place)
        except DatasetError as error:
            damaged.append(str(error).removeprefix(f"{root}{os.sep}"))
            continue
        files |= manifest.files
        images |= {(i.source, str(i.made_from.get("image"))) for i in manifest.images.values()}
    raw = sorted(images) if bids_dir is not None else []
    folder = Path(bids_dir or root)
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda file: _compare(root / file, files[file].sha256), files))
        sources = list(pool.map(lambda image: _compare(folder / image[0], image[1]), raw))
    names = list(files)
    raw_names = [name for name, _ in raw]
    extra = set(_walk(root)) - {*files, *places}
    # A manifest that is gone takes with it what it knew: whole participants would not be missed.
    lost = {manifest_of(name) for name in extra if _is_ours(name)} - set(places)
    return Verification(
        files=len(files),
        bytes=sum(entry.size for entry in files.values()),
        altered=_named(names, found, "altered"),
        missing=tuple(sorted({*_named(names, found, "missing"), *lost})),
        unreadable=(
            *damaged,
            *_named(names, found, "unreadable"),
            *_named(raw_names, sources, "unreadable"),
        ),
        extra=tuple(sorted(extra)),
        sources=len(set(raw_names)),
        altered_sources=_named(raw_names, sources, "altered"),
        missing_sources=_named(raw_names, sources, "missing"),
    )


def _is_ours(name: str) -> bool:
    """Whether a file is one that runs write, and nobody else: provenance, or the record of a run."""
    return name.startswith("prov/prov-") or name.endswith("/l2s_pydra.toml")


def _compare(path: Path, sha256: str) -> str | None:
    """Say what is wrong with a file."""
    try:
        return None if sha256_of(path) == sha256 else "altered"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError:
        return "unreadable"


def _named(names: Sequence[str], found: Sequence[str | None], fault: str) -> tuple[str, ...]:
    pairs = zip(names, found, strict=True)
    return tuple(sorted({name for name, what in pairs if what == fault}))


def _walk(root: Path) -> Iterator[str]:
    """Files of a tree, links to files among them."""
    for folder, folders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        if folder == str(root):
            folders[:] = [name for name in folders if name not in _SKIPPED]
        yield from ((here / name).as_posix() for name in names)
