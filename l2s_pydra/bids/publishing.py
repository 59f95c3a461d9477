"""The output folder of a run: files appear whole, are recorded, and other runs may write there too.

A file is first copied to a hidden folder on the same file system and flushed to the disk, then given
its name; a reader sees the old or the new one. The manifest (:mod:`l2s_pydra.bids.manifest`) follows
when all files of an image are in place, and never before: whatever is killed in between leaves files
that are not what the manifest says, so that the next run does not take them for done.

What several runs share is read, changed and written under one lock, held for moments. Copying, which
takes longer, is done outside.
"""

import contextlib
import errno
import logging
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import attrs
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..errors import DatasetError, InUseError, OutputError
from .checksums import Checksums, sha256_of
from .derivatives import sync_folder
from .manifest import FileEntry, ImageEntry, Manifest, manifest_of
from .provenance import new_run_id

__all__ = ["HIDDEN", "USES", "OutputFolder", "Published", "check_inside", "publish"]

_log = logging.getLogger(__name__)
HIDDEN = ".l2s_pydra"
"""Folder of locks and of files that have no name yet."""
USES = "uses.json"
"""File in there, of what runs know of the images (:mod:`l2s_pydra.bids.known_uses`)."""
_WAIT_S = 600.0
"""Longest time to wait for other runs, each of which needs moments."""


@attrs.frozen(kw_only=True)
class Published:
    """What :meth:`OutputFolder.publish` did; paths are in the output folder, sorted."""

    written: tuple[Path, ...]
    """Files that were missing or different."""
    unchanged: tuple[Path, ...]
    """Files that were there with the same content."""


@attrs.frozen(kw_only=True)
class _Ready:
    """A file that waits for its name."""

    name: str
    source: Path
    sha256: str
    size: int
    temporary: Path | None
    """Its copy; none if the content is there already."""


@attrs.define(kw_only=True, eq=False)
class OutputFolder:
    """The root of a derivative, as one run writes to it."""

    root: Path
    """The folder."""
    run: str
    """Name of the run."""
    checksums: Checksums
    """Tells which files are there already."""
    _lock: BaseFileLock
    _temporary: Path

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, root: str | Path, run: str, checksums: Checksums | None = None
    ) -> Iterator["OutputFolder"]:
        """Prepare the folder for a run, and tidy up what killed runs left behind.

        Parameters
        ----------
        root : path
            Root of the derivative; made if need be.
        run : str
            Name of the run; unique.
        checksums : Checksums, optional
            Where checksums come from.

        Raises
        ------
        OutputError
            If nothing can be written there.
        InUseError
            If another run does not let go of the lock.
        """
        root = Path(root)
        hidden = root / HIDDEN
        check_inside(root, hidden / run)
        with _writing(hidden):
            hidden.mkdir(parents=True, exist_ok=True)
            lock = _lock_in(hidden)
        temporary = hidden / run
        folder = cls(
            root=root,
            run=run,
            checksums=checksums or Checksums(),
            lock=lock,
            temporary=temporary,
        )
        with contextlib.ExitStack() as stack:
            with folder.locked(), _writing(temporary):
                _remove_dead(hidden, type(lock))
                temporary.mkdir(exist_ok=True)
                stack.callback(shutil.rmtree, temporary, ignore_errors=True)
                alive = type(lock)(temporary / "alive")
                stack.callback(alive.release, force=True)
                alive.acquire()
            yield folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from changing what is shared, for a moment; may be nested.

        Raises
        ------
        InUseError
            If another run does not let go.
        """
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InUseError(
                f"{self._lock.lock_file}: another run has held this lock for "
                f"{_WAIT_S / 60:.0f} minutes; if none is under way, delete the file"
            ) from error
        try:
            yield
        finally:
            self._lock.release()

    def publish(self, *stages: str | Path, images: Sequence[ImageEntry] = ()) -> Published:
        """Bring staged trees to the output folder, and record them.

        A file with the same content stays untouched, one that was deleted comes back, and files
        that are not staged stay.

        Parameters
        ----------
        *stages : path
            Roots of staged trees; of two files with one name, that of the later tree is taken.
        images : sequence of ImageEntry
            Images that are done with this.

        Raises
        ------
        DatasetError
            If a tree does not exist.
        OutputError
            If a file cannot be written.
        """
        return self.commit(self.prepare(*stages), images)

    def prepare(self, *stages: str | Path, only: Collection[str] | None = None) -> "list[_Ready]":
        """Do what takes long: copy to the file system of the output folder what is not there.

        Of the staged files all are taken, or ``only`` those of some paths below the root.
        """
        sources: dict[str, Path] = {}
        for stage in map(Path, stages):
            if not stage.is_dir():
                raise DatasetError(f"{stage}: nothing to publish, the folder does not exist")
            found = (path for path in stage.rglob("*") if path.is_file())
            sources |= {path.relative_to(stage).as_posix(): path for path in found}
        ready: list[_Ready] = []
        try:
            for name in sorted(name for name in sources if only is None or name in only):
                ready.append(self._prepare(name, sources[name]))
        except BaseException:
            self._discard(ready)
            raise
        return ready

    @contextlib.contextmanager
    def discarding(self, files: "Sequence[_Ready]") -> Iterator[None]:
        """Take away at the end what of prepared files got no name, and would fill the disk."""
        try:
            yield
        finally:
            self._discard(files)

    @staticmethod
    def _discard(files: "Sequence[_Ready]") -> None:
        for temporary in (file.temporary for file in files if file.temporary is not None):
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _prepare(self, name: str, source: Path) -> _Ready:
        target = self.root / name
        check_inside(self.root, target)
        with _writing(target):
            digest, size = sha256_of(source), source.stat().st_size
            there = self._holds(target, digest, size)
            temporary = None if there else self._copy(source)
        return _Ready(name=name, source=source, sha256=digest, size=size, temporary=temporary)

    def _copy(self, source: Path) -> Path:
        temporary = self._temporary / uuid.uuid4().hex
        try:
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _holds(self, target: Path, digest: str, size: int) -> bool:
        if not target.is_file() or target.stat().st_size != size:
            return False
        return self.checksums.of(target) == digest

    def commit(self, files: "Sequence[_Ready]", images: Sequence[ImageEntry] = ()) -> Published:
        """Give prepared files their names, then record them."""
        written: set[str] = set()
        with self.locked(), self.discarding(files):
            for file in files:
                target = self.root / file.name
                check_inside(self.root, target)
                with _writing(target):
                    if self._give_name(file, target):
                        written.add(file.name)
            for folder in {(self.root / name).parent for name in written}:
                sync_folder(folder)
            self._record(files, images, written)
        return Published(
            written=tuple(self.root / name for name in sorted(written)),
            unchanged=tuple(self.root / f.name for f in files if f.name not in written),
        )

    def _give_name(self, file: _Ready, target: Path) -> bool:
        """Put a file in its place; tell whether that was necessary."""
        temporary = file.temporary
        # What was there when the files were prepared may be gone, or another run's, by now.
        if temporary is None and not self._holds(target, file.sha256, file.size):
            temporary = self._copy(file.source)
        if temporary is not None:
            _move(temporary, target)
        return temporary is not None

    def _record(
        self, files: Sequence[_Ready], images: Sequence[ImageEntry], written: set[str]
    ) -> None:
        places = {file.name: manifest_of(file.name) for file in files}
        for place in sorted({*places.values(), *(manifest_of(image.source) for image in images)}):
            check_inside(self.root, self.root / place)
            with _writing(self.root / place):
                manifest = Manifest.read_to_change(self.root / place)
                before = (dict(manifest.files), dict(manifest.images))
                for file in files:
                    if places[file.name] == place:
                        old = manifest.files.get(file.name)
                        same = old is not None and old.sha256 == file.sha256
                        if not same:
                            manifest.files[file.name] = FileEntry(
                                sha256=file.sha256, size=file.size, run=self.run
                            )
                for image in images:
                    if manifest_of(image.source) == place:
                        _put(manifest, image, written)
                if before != (manifest.files, manifest.images):
                    manifest.write(self.root / place)

    def remove(self, paths: Iterable[Path]) -> None:
        """Take files away, and out of the manifests; those that are gone already, too.

        Raises
        ------
        OutputError
            If one cannot be removed.
        """
        with self.locked():
            gone: dict[str, list[str]] = {}
            for path in paths:
                check_inside(self.root, path)
                with _writing(path):
                    path.unlink(missing_ok=True)
                name = path.relative_to(self.root).as_posix()
                gone.setdefault(manifest_of(name), []).append(name)
            for place, names in gone.items():
                manifest = Manifest.read_to_change(self.root / place)
                if manifest.files.keys() & names:
                    manifest.forget(names)
                    with _writing(self.root / place):
                        manifest.write(self.root / place)


def publish(stage_dir: str | Path, output_dir: str | Path, *, run: str | None = None) -> Published:
    """Copy a staged tree into a derivative and record it, as a run of its own.

    Parameters
    ----------
    stage_dir, output_dir : path
        Roots of the staged and of the published tree.
    run : str, optional
        Name of the run in the manifests; by default a new one.

    Raises
    ------
    DatasetError
        If ``stage_dir`` does not exist.
    OutputError
        If a file cannot be written.
    """
    with OutputFolder.open(output_dir, run or new_run_id()) as folder, folder.locked():
        # Who changes is not said, so that nothing is known of anyone any more.
        with _writing(folder.root / HIDDEN / USES):
            (folder.root / HIDDEN / USES).unlink(missing_ok=True)
        return folder.publish(stage_dir)


def check_inside(root: str | Path, path: Path) -> None:
    """Check that a file of a derivative lies in it, whatever links its folders are.

    A folder that is a link to another place would let us write there: into the raw data set, or
    over files of somebody else. A *file* that is a link (as DataLad has them) is no danger: it is
    replaced by a file, and what it points to stays.

    Parameters
    ----------
    root : path
        Root of the derivative; it may be a link itself.
    path : Path
        The file, below ``root``; it and its folders need not be there.

    Raises
    ------
    OutputError
        If a folder on the way leads out of the derivative.
    """
    place = path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.resolve().is_relative_to(Path(root).resolve()) and Path(root).exists():
        raise OutputError(
            f"{place}: is a link that leads out of {root}, where nothing is written; "
            "put a folder in its place"
        )


def _put(manifest: Manifest, image: ImageEntry, written: set[str]) -> None:
    """Record an image; one of which nothing was written stays that of the earlier run."""
    old = manifest.images.get(image.name)
    same = old is not None and attrs.evolve(old, run=image.run) == image
    if not (same and written.isdisjoint(image.outputs)):
        manifest.images[image.name] = image


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say what cannot be written, and what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "check permissions and free space, then run again"
        ) from error


def _move(temporary: Path, target: Path) -> None:
    """Give a file its name; on another file system, by way of a copy beside its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.{temporary.name}.tmp")
        try:
            shutil.copyfile(temporary, beside)
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)


def _lock_in(hidden: Path) -> BaseFileLock:
    """Lock of the kernel, which goes with its process; or, where there is none, a file that is one."""
    lock = FileLock(hidden / "lock", timeout=_WAIT_S)
    try:
        with contextlib.suppress(Timeout), lock.acquire(timeout=0):
            pass
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
            raise
        _log.warning(
            "%s: the file system knows no locks (%s); a file takes their place, which a run that is "
            "killed on another computer leaves behind",
            hidden,
            error.strerror,
        )
        return SoftFileLock(hidden / "lock.soft", timeout=_WAIT_S)
    return lock


def _remove_dead(hidden: Path, kind: type[BaseFileLock]) -> None:
    """Remove what killed runs left; a living run holds its lock."""
    for folder in (path for path in hidden.iterdir() if path.is_dir()):
        try:
            with kind(folder / "alive").acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            continue
        except OSError as error:
            _log.debug("%s: %s", folder, error)
