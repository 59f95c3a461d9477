"""What the pages of participants show, kept beside them from run to run.

A run segments some images of a participant; the page shows all. ``report.json`` holds the summaries,
failures and records of runs that the page is made of.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

from ..bids.derivatives import dataset_path, write_json
from .outputs import DATASET_OUTPUTS
from .page_entries import FAILURE, IMAGE, RUN, find_fault

__all__ = ["PageData", "everyone"]

logger = logging.getLogger(__name__)
_Name = TypeVar("_Name")
_PAGE = {"images": [object], "failures": [object], "runs": {}}


@attrs.frozen(kw_only=True)
class PageData:
    """What the page of a participant is made of."""

    images: Sequence[Mapping[str, Any]] = ()
    """Summary of each segmented image (:func:`l2s_pydra.steps.segment.segment`), with ``run``."""
    failures: Sequence[Mapping[str, Any]] = ()
    """Images that could not be segmented when it was tried last."""
    runs: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    """Record of each run that made an image, by its identifier."""

    @classmethod
    def read(cls, participant: str, output_dir: Path, bids_dir: Path | None = None) -> "PageData":
        """Read what is kept of a participant; a warning tells what cannot be read, and is left out.

        Nothing is kept of segmentations whose label map or figure is gone (as after
        :func:`~l2s_pydra.steps.leftovers.remove_leftovers`), nor of failures of images that are gone.

        Parameters
        ----------
        participant : str
            ``sub-<label>``.
        output_dir : Path
            Root of the derivative.
        bids_dir : Path, optional
            Root of the raw data set. Where it cannot be looked at, failures stay.
        """
        path = cls.place(participant, output_dir)
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if fault := find_fault(values, _PAGE, "page data"):
                raise ValueError(fault)
        except (OSError, ValueError) as error:
            logger.warning(
                "%s: cannot be read (%s); the page shows what is made now only", path, error
            )
            return cls()
        images = _whole(path, enumerate(values["images"], 1), IMAGE, "image")
        failures = _whole(path, enumerate(values["failures"], 1), FAILURE, "failure")
        return cls(
            images=[image for _, image in images if _is_there(image, output_dir)],
            failures=[failure for _, failure in failures if not _is_gone(failure, bids_dir)],
            runs=dict(_whole(path, values["runs"].items(), RUN, "run")),
        )

    @staticmethod
    def place(participant: str, root: Path) -> Path:
        """Where the data of a participant's page are."""
        row = DATASET_OUTPUTS["page_data"]
        return Path(root) / dataset_path(row, participant=participant)

    def merged(
        self,
        images: Iterable[Mapping[str, Any]],
        failures: Iterable[Mapping[str, Any]],
        run: Mapping[str, Any],
    ) -> "PageData":
        """Return what there is after a run: its images and failures take the place of former ones.

        Parameters
        ----------
        images, failures : iterables of mappings
            Those of the run.
        run : mapping
            Its record. An image that is as it was came from the cache, and stays one of the run that
            made it.
        """
        name = str(run.get("run", {}).get("id", ""))
        kept = {_key(image): image for image in self.images}
        new = {_key(image): _attributed(image, kept.get(_key(image)), name) for image in images}
        failed = {failure["file"]: failure for failure in failures}
        done = {image["source"] for image in new.values()}
        before = {f["file"]: f for f in self.failures if f["file"] not in done}
        together = sorted({**kept, **new}.items())
        records = {**self.runs, name: run}
        used = {name, *(image.get("run", "") for _, image in together)}
        return PageData(
            images=[image for _, image in together],
            failures=[failure for _, failure in sorted({**before, **failed}.items())],
            runs={key: record for key, record in records.items() if key in used},
        )

    def write(self, path: Path) -> Path:
        """Write it as JSON."""
        return write_json(path, attrs.asdict(self, recurse=False))

    @property
    def latest_first(self) -> list[Mapping[str, Any]]:
        """Records of the runs; their identifiers begin with the time."""
        return [self.runs[name] for name in sorted(self.runs, reverse=True)]


def everyone(output_dir: Path, bids_dir: Path | None = None) -> Iterator[tuple[str, PageData]]:
    """Give each participant of a derivative whose page data are kept.

    Parameters
    ----------
    output_dir : Path
        Root of the derivative.
    bids_dir : Path, optional
        Root of the raw data set (:meth:`PageData.read`).

    Yields
    ------
    participant : str
        ``sub-<label>``.
    data : PageData
    """
    for path in sorted(Path(output_dir).glob(str(PageData.place("sub-*", Path())))):
        participant = path.relative_to(output_dir).parts[0]
        yield participant, PageData.read(participant, Path(output_dir), bids_dir)


def _whole(
    path: Path, entries: Iterable[tuple[_Name, Any]], pattern: Mapping[str, Any], kind: str
) -> Iterator[tuple[_Name, Any]]:
    """Give the entries that a page can be made of; a warning tells of the others."""
    for name, entry in entries:
        if fault := find_fault(entry, pattern, f"{kind} {name}"):
            logger.warning("%s: %s; it is left out of the page", path, fault)
        else:
            yield name, entry


def _is_there(image: Mapping[str, Any], output_dir: Path) -> bool:
    """Whether what the page shows of an image is still there."""
    figure = image["figure"]
    return (output_dir / image["dseg"]).is_file() and (
        not figure or (output_dir / figure).is_file()
    )


def _is_gone(failure: Mapping[str, Any], bids_dir: Path | None) -> bool:
    """Whether the image of a failure was taken away; a link to what is not fetched is there."""
    if bids_dir is None or not (Path(bids_dir) / "dataset_description.json").is_file():
        return False
    return not os.path.lexists(Path(bids_dir) / failure["file"])


def _attributed(
    image: Mapping[str, Any], before: Mapping[str, Any] | None, run: str
) -> Mapping[str, Any]:
    """Image with the run that made it: an earlier one if nothing has changed since."""
    if before is not None and {**before, "run": ""} == {**image, "run": ""}:
        return before
    return {**image, "run": run}


def _key(image: Mapping[str, Any]) -> tuple[str, str]:
    return str(image["source"]), str(image.get("segmentation", ""))
