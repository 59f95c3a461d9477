"""Which jobs are under way: a file for each, so that a run finds those that outlived the one before."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

__all__ = ["JobRecords"]


@attrs.frozen
class JobRecords:
    """A folder with a file for each task that has a job, named by the task's checksum.

    A file is written before its job is submitted, and once more when the job's number is known. The
    folder of the job, which no other job has, tells whose it is in between.
    """

    folder: Path

    def write(self, checksum: str, place: Path, job_id: str = "") -> None:
        """Write or replace the file of a task.

        Parameters
        ----------
        checksum : str
            Of the task.
        place : Path
            Folder of its job.
        job_id : str
            Number of the job, if it has one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / f"{checksum}.json"
        new = record.with_suffix(".new")
        new.write_text(json.dumps({"job": job_id, "folder": str(place)}), encoding="utf-8")
        new.replace(record)

    def place(self, checksum: str, otherwise: Path) -> Path:
        """Folder of the job of a task."""
        return Path(_read(self.folder / f"{checksum}.json").get("folder", otherwise))

    def forget(self, checksum: str) -> None:
        """Remove the file of a task whose job has ended."""
        (self.folder / f"{checksum}.json").unlink(missing_ok=True)

    def there(self) -> bool:
        """Whether there is any."""
        return next(self.folder.glob("*.json"), None) is not None

    def matched(self, living: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Find the jobs of these tasks, and remove the files of those that have none.

        Parameters
        ----------
        living : mapping
            Folders of the jobs that are waiting or running, by number.

        Yields
        ------
        checksum, job_id : str
            A task and its job.
        """
        by_place = {place: job_id for job_id, place in living.items() if place}
        for path in list(self.folder.glob("*.json")):
            record = _read(path)
            job_id = record.get("job") or by_place.get(record.get("folder", ""), "")
            if job_id in living:
                yield path.stem, job_id
            else:
                path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
