"""The level ``participant``: segment images and publish what belongs to each."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.bids.dataset import ImageRecord
from l2s_pydra.errors import ConfigError
from l2s_pydra.tasks import Resources, Segment
from l2s_pydra.workflows import engine
from l2s_pydra.workflows.engine import Outcome
from l2s_pydra.workflows.model_files import ModelFiles
from l2s_pydra.workflows.segment import SegmentImage, SegmentImages
from l2s_pydra.workflows.session import Failure, Session, code_version

__all__ = ["participant"]

_log = logging.getLogger(__name__)


def participant(session: Session, model: ModelFiles) -> list[Failure]:
    """Segment every image that was asked for; one bad image stops no other.

    Parameters
    ----------
    session : Session
        The run.
    model : ModelFiles
        The model to segment with.

    Returns
    -------
    list of Failure
        The images that could not be segmented.

    Raises
    ------
    NoImageError
        If no image matches.
    ConfigError
        If another segmentation was asked for than the one of the model.
    """
    _check_segmentation(session, model)
    images = session.images()
    missing = {image.name: why for image in images if (why := _unreadable(image.path))}
    jobs = _Jobs.plan(session, model, [image for image in images if image.name not in missing])
    try:
        if jobs.images:
            jobs.run(session)
    finally:
        # What is done is published, also when the run is interrupted.
        outcomes = jobs.outcomes(session)
        outcomes |= {name: Outcome(traceback=f"{why}\n") for name, why in missing.items()}
        failures = _publish(session, model, images, outcomes)
    _log.info("%d of %d image(s) segmented", len(images) - len(failures), len(images))
    return failures


@attrs.frozen
class _Jobs:
    """The images to segment, and the inputs that all of them share."""

    images: list[ImageRecord]
    shared: dict[str, Any]
    n_procs: int

    @classmethod
    def plan(cls, session: Session, model: ModelFiles, images: list[ImageRecord]) -> "_Jobs":
        n_procs, threads = session.share(len(images))
        shared = {
            "weights": model.weights,
            "config": model.config_file,
            "labels": model.labels,
            "probseg": session.options.probseg,
            "resources": Resources(device=session.options.device, threads=threads),
            "code_version": code_version(),
        }
        return cls(images, shared, n_procs)

    def run(self, session: Session) -> None:
        """Segment, and say after each image how far it is."""
        workflow = SegmentImages(
            images=[image.path for image in self.images],
            entities=[image.entities for image in self.images],
            sources=[image.relative_path for image in self.images],
            **self.shared,
        )
        parts = [task for image in self.images for task in self.tasks(image)]
        _log.info("segmenting %d image(s), %d at a time", len(self.images), self.n_procs)
        done: list[str] = []

        def notify(task: Any, seconds: float, error: Exception | None) -> None:
            done.append(task.source)
            verb = "failed" if error else "segmented"
            _log.info("%s %s in %.0f s (%d)", task.source, verb, seconds, len(done))

        engine.run(workflow, parts, session.cache, session.worker(self.n_procs, notify))

    def tasks(self, image: ImageRecord) -> list[Any]:
        """Return the workflow of an image, and the task in it."""
        own = {"image": image.path, "entities": image.entities, "source": image.relative_path}
        return [SegmentImage(**own, **self.shared), Segment(**own, **self.shared)]

    def outcomes(self, session: Session) -> dict[str, Outcome]:
        """Say what became of each image."""
        return {
            image.name: engine.outcome_of(self.tasks(image), session.cache) for image in self.images
        }


def _check_segmentation(session: Session, model: ModelFiles) -> None:
    wanted = session.options.segmentation
    if wanted not in (None, model.segmentation):
        raise ConfigError(
            f"--segmentation {wanted}: the model {model.name} writes seg-{model.segmentation}; "
            "leave the option out, or learn another model"
        )


def _unreadable(path: Path) -> str | None:
    """Say why a file cannot be opened, which Pydra would take as a reason to stop everything."""
    if not path.is_file():
        return f"{path}: is not there; if the data set is a DataLad one, run 'datalad get' first"
    if not os.access(path, os.R_OK):
        return f"{path}: may not be read; change its permissions"
    return None


def _publish(
    session: Session,
    model: ModelFiles,
    images: Sequence[ImageRecord],
    outcomes: Mapping[str, Outcome],
) -> list[Failure]:
    """Publish the trees of all images, then the pages and logs of all participants."""
    from l2s_pydra.steps.report import report_participant

    good = [image for image in images if outcomes[image.name].outputs is not None]
    failures = [
        session.fail(
            Failure(
                name=image.name,
                file=image.relative_path,
                participant=image.participant,
                outcome=outcomes[image.name],
            )
        )
        for image in images
        if outcomes[image.name].outputs is None
    ]
    for image in good:
        session.publish(Path(outcomes[image.name].outputs.tree))
    participants = sorted({image.participant for image in images})
    session.describe(model, [image.entities for image in good])
    record = session.record(model)
    session.stage_record(record, participants)
    for who in participants:
        summaries = [
            Path(outcomes[image.name].outputs.summary) for image in good if image.participant == who
        ]
        report_participant(
            participant=who,
            summaries=summaries,
            output_dir=session.options.output_dir,
            run=record,
            failures=[failure.row for failure in failures if failure.participant == who],
            out_file=session.path("participant_page", participant=who),
        )
    session.publish()
    return failures
