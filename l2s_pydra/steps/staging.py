"""Folders that appear under their name only once they are complete."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import TrainingError

__all__ = ["write_folder"]

_PREFIX = ".partial-"


def write_folder(folder: Path, write: Callable[[Path], None], *, needed: int) -> None:
    """Write a folder beside its place, wait for the disk, and give it its name.

    What others left that were killed while they wrote is removed first.

    Parameters
    ----------
    folder : Path
        What is there of that name is replaced.
    write : callable
        ``write(path)`` fills an empty folder.
    needed : int
        Bytes, about; for the message where the disk is full.

    Raises
    ------
    TrainingError
        If it cannot be written. What is there of that name stays, and nothing else is left.
    """
    from safetensors import SafetensorError

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _hidden(folder.parent) as hidden:
            write(hidden)
            _settle(hidden)
            _exchange(hidden, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(
            f"{folder.parent}: the model cannot be written there ({reason}); it takes about "
            f"{needed / 1e6:.1f} MB, {_free_mb(folder.parent):.1f} MB are free. Make room, then start "
            "again: the training goes on from its last checkpoint"
        ) from error


@contextlib.contextmanager
def _hidden(parent: Path) -> Iterator[Path]:
    """Make an empty folder, locked while it is written to, and gone afterwards."""
    for old in parent.glob(f"{_PREFIX}*"):
        with _locked(old) as mine:
            if mine:
                shutil.rmtree(old, ignore_errors=True)
    hidden = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with _locked(hidden):
            yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder without waiting; the kernel lets go when the process ends, however it ends."""
    handle = None
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = True
    except (ImportError, OSError):  # Windows; another process; a file system without locks
        mine = False
    try:
        yield mine
    finally:
        if handle is not None:
            os.close(handle)


def _settle(folder: Path) -> None:
    """Make everything as readable as other new files are, and wait until it is on the disk."""
    from ..bilevel.state import sync

    folder.chmod(0o755)
    paths = sorted(folder.rglob("*"))
    files = [path for path in paths if path.is_file()]
    # The library that writes weights lets nobody but the owner read them.
    usual = max(path.stat().st_mode & 0o666 for path in files)
    for path in files:
        path.chmod(usual)
        sync(path)
    for path in (*(p for p in paths if p.is_dir()), folder):
        sync(path)


def _exchange(hidden: Path, folder: Path) -> None:
    from ..bilevel.state import sync

    if folder.exists():
        # Out of the way in one go; what is left of it is removed with the hidden ones.
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder.parent) as aside:
            os.replace(folder, Path(aside) / "old")  # noqa: PTH105  (Path.rename differs)
            os.replace(hidden, folder)  # noqa: PTH105
    else:
        os.replace(hidden, folder)  # noqa: PTH105
    sync(folder.parent)


def _free_mb(folder: Path) -> float:
    try:
        return shutil.disk_usage(folder).free / 1e6
    except OSError:
        return float("nan")
