"""SHA-256 of files, remembered for as long as a file cannot have changed.

Hashing thousands of images on every run would take longer than finding out that nothing is to be
done. What was hashed is therefore remembered with the file's size, times and inode, in the working
directory. A content that changed while all of these stayed is not missed either:

* ``ctime`` is part of the key, which no program can set: a file that got its old size and ``mtime``
  back still has another one.
* A file that was changed within the last moments before it was hashed may be changed once more
  within the same tick of the file system's clock, unseen ("racy git"). Such a file is not
  remembered, and neither is one whose times lie in the future.
* The clock of a file server may differ from ours. The difference is measured where something can be
  written (:func:`clock_skew`), and added to the moments above.
"""

import contextlib
import hashlib
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["Checksums", "clock_skew", "sha256_of"]

_log = logging.getLogger(__name__)
_SETTLED_S = 5.0
"""Coarsest tick of a file system (2 s, FAT), and some seconds for what caches of attributes keep."""
_TABLE = """CREATE TABLE IF NOT EXISTS checksums (
    path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, inode INTEGER, sha256 TEXT
) WITHOUT ROWID"""


def sha256_of(path: str | Path) -> str:
    """SHA-256 of the bytes of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clock_skew(folder: str | Path) -> float:
    """How many seconds the clock of a folder's file system is behind that of this computer.

    Parameters
    ----------
    folder : path
        A folder that can be written to; where it cannot, the answer is 0.
    """
    try:
        before = time.time()
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock") as probe:
            return before - Path(probe.name).stat().st_mtime
    except OSError:
        return 0.0


@attrs.define(eq=False)
class Checksums:
    """SHA-256 of files; a file that did not change is not read again."""

    skew_s: float = 0.0
    """How far the clocks of file systems are behind ours (:func:`clock_skew`)."""
    _database: sqlite3.Connection | None = None
    hashed: int = attrs.field(default=0, init=False)
    """How many files were read."""
    _new: dict[bytes, tuple[int, int, int, int, str]] = attrs.field(factory=dict, init=False)

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str | Path, *, skew_s: float = 0.0) -> Iterator["Checksums"]:
        """Remember checksums in a folder, from run to run.

        Where that is not possible (no space, no locks, a damaged file) nothing is remembered, which
        costs time and nothing else.

        Parameters
        ----------
        folder : path
            The folder; made if need be.
        skew_s : float
            How far the clocks of file systems are behind ours, seconds.
        """
        database = _connect(Path(folder) / "checksums.sqlite")
        checksums = cls(max(0.0, skew_s), database)
        try:
            yield checksums
        finally:
            if database is not None:
                checksums.save()
                database.close()

    def of(self, path: str | Path) -> str:
        """SHA-256 of a file.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        file = Path(path).absolute()
        name, before = str(file), file.stat()
        known = self._find(name, before)
        if known:
            return known
        started = time.time()
        digest = sha256_of(file)
        self.hashed += 1
        if _key(file.stat()) == _key(before):
            self._keep(name, before, digest, started)
        return digest

    def _find(self, name: str, status: os.stat_result) -> str | None:
        path = os.fsencode(name)
        row = self._new.get(path)
        if row is None and self._database is not None:
            query = "SELECT size, mtime, ctime, inode, sha256 FROM checksums WHERE path = ?"
            try:
                row = self._database.execute(query, (path,)).fetchone()
            except sqlite3.Error as error:
                _log.debug("%s: %s", name, error)
        return str(row[4]) if row is not None and tuple(row[:4]) == _key(status) else None

    def _keep(self, name: str, status: os.stat_result, digest: str, started: float) -> None:
        """Remember a checksum, unless the file may change without a trace."""
        latest = max(status.st_mtime, status.st_ctime)
        if latest + _SETTLED_S + self.skew_s <= started:
            self._new[os.fsencode(name)] = (*_key(status), digest)

    def save(self) -> None:
        """Store what was remembered so far, so that a run that is killed does not lose it."""
        if self._database is None or not self._new:
            return
        rows = [(path, *row) for path, row in self._new.items()]
        try:
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO checksums VALUES (?,?,?,?,?,?)", rows
                )
            self._new.clear()
        except sqlite3.Error as error:
            _log.debug("checksums are not remembered: %s", error)


def _key(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes with the content of a file; SQLite's integers are signed."""
    inode = status.st_ino - (1 << 64) if status.st_ino >> 63 else status.st_ino
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, inode


def _connect(file: Path) -> sqlite3.Connection | None:
    """Open the database, anew if it is damaged."""
    for _ in range(2):
        database = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(file, timeout=10)
            database.execute(_TABLE)
            database.execute("SELECT path, sha256 FROM checksums LIMIT 1").fetchone()
            return database
        except (sqlite3.Error, OSError) as error:
            _log.debug("%s: %s", file, error)
            if database is not None:
                database.close()
            if isinstance(error, sqlite3.OperationalError):
                return None
            with contextlib.suppress(OSError):
                file.unlink()
    return None
