"""The level ``participant``: segment images and publish what belongs to each."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.bids.dataset import ImageRecord
from l2s_pydra.errors import ConfigError
from l2s_pydra.labels import LabelScheme
from l2s_pydra.steps.anatomy import named_structures
from l2s_pydra.steps.leftovers import remove_leftovers
from l2s_pydra.steps.outputs import check_resolution
from l2s_pydra.tasks import Resources, Segment

from . import engine
from .engine import Outcome
from .model_files import ModelFiles
from .options import Options
from .segment import SegmentImage, SegmentImages
from .session import Failure, Session, code_version

__all__ = ["participant", "shared_inputs", "unreadable"]

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
        If another segmentation or resolution was asked for than that of the model.
    LabelError
        If ``--keep-largest`` names a structure that the model does not have.
    """
    _check_model(session, model)
    images = session.images()
    missing = {image.name: why for image in images if (why := unreadable(image.path))}
    jobs = _Jobs.plan(session, model, [image for image in images if image.name not in missing])
    try:
        jobs.run(session)
    finally:
        # What is done is published, also when the run is interrupted.
        outcomes = jobs.outcomes(session)
        outcomes |= {name: Outcome(traceback=f"{why}\n") for name, why in missing.items()}
        failures = _publish(session, model, images, outcomes)
    _log.info("%d of %d image(s) segmented", len(images) - len(failures), len(images))
    return failures


def shared_inputs(options: Options, model: ModelFiles) -> dict[str, Any]:
    """Gather the inputs of the task ``Segment`` that all images share.

    Together with the image they decide the result, and so whether it is reused
    (:class:`l2s_pydra.workflows.reuse.Reuse`).

    Parameters
    ----------
    options : Options
        What was asked for.
    model : ModelFiles
        The model to segment with.
    """
    return {
        "weights": model.weights,
        "config": model.config_file,
        "labels": model.labels,
        "probseg": options.probseg,
        "entropy": options.entropy,
        "res": options.res,
        "keep_largest": None if options.keep_largest is None else list(options.keep_largest),
        "flip": options.flip,
        "test_time_draws": options.test_time_draws,
        "model_in_dataset": model.is_in(options.output_dir),
        "code_version": code_version(),
    }


@attrs.frozen
class _Jobs:
    """The images to segment, and the inputs that all of them share."""

    images: list[ImageRecord]
    shared: dict[str, Any]

    @classmethod
    def plan(cls, session: Session, model: ModelFiles, images: list[ImageRecord]) -> "_Jobs":
        return cls(images, shared_inputs(session.options, model))

    def run(self, session: Session) -> None:
        """Segment what is not in the cache, and say after each image how far it is."""
        images = [i for i in self.images if not engine.is_done(self.tasks(i)[0], session.cache)]
        if len(images) < len(self.images):
            _log.info("%d image(s) were segmented before", len(self.images) - len(images))
        if not images:
            return
        options = session.options
        n_procs, threads = session.share(len(images), max_memory_mb=options.network_mb)
        resources = Resources(
            device=options.device, threads=threads, max_memory_mb=options.network_mb
        )
        workflow = SegmentImages(
            images=[image.path for image in images],
            entities=[image.entities for image in images],
            sources=[image.relative_path for image in images],
            resources=resources,
            **self.shared,
        )
        _log.info("segmenting %d image(s), %d at a time", len(images), n_procs)
        done: list[str] = []

        def notify(task: Any, seconds: float, error: Exception | None) -> None:
            done.append(task.source)
            verb = "failed" if error else "segmented"
            count = f"{len(done)} of {len(images)}"
            _log.info("%s %s in %.0f s (%s)", task.source, verb, seconds, count)

        parts = [task for image in images for task in self.tasks(image)]
        engine.run(workflow, parts, session.cache, session.worker(n_procs, notify))

    def tasks(self, image: ImageRecord) -> list[Any]:
        """Return the task of an image, and the workflow around it."""
        own = {"image": image.path, "entities": image.entities, "source": image.relative_path}
        return [Segment(**own, **self.shared), SegmentImage(**own, **self.shared)]

    def outcomes(self, session: Session) -> dict[str, Outcome]:
        """Say what became of each image."""
        return {
            image.name: engine.outcome_of(self.tasks(image), session.cache) for image in self.images
        }


def _check_model(session: Session, model: ModelFiles) -> None:
    """Check options that the model must be able to honour, before any image is read."""
    options = session.options
    named_structures(LabelScheme.read(model.labels), options.keep_largest)
    if options.res is not None:
        check_resolution(options.res, float(model.config["learn"]["spacing_mm"]), model.name)
    wanted = options.segmentation
    if wanted not in (None, model.segmentation):
        raise ConfigError(
            f"--segmentation {wanted}: the model {model.name} writes seg-{model.segmentation}; "
            "leave the option out, or learn another model"
        )


def unreadable(path: Path) -> str | None:
    """Say why a file cannot be opened, which Pydra would take as a reason to stop everything.

    >>> unreadable(Path("nowhere.nii"))
    "nowhere.nii: is not there; if the data set is a DataLad one, run 'datalad get' first"
    """
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
    good = [image for image in images if outcomes[image.name].outputs is not None]
    for image in good:
        tree = Path(outcomes[image.name].outputs.tree)
        session.publish(tree)
        remove_leftovers(
            tree=tree,
            output_dir=session.options.output_dir,
            entities=image.entities,
            source=image.relative_path,
            segmentation=model.segmentation,
        )
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
    participants = sorted({image.participant for image in images})
    record = session.record(model)
    session.describe(model, images=[image.entities for image in good])
    session.stage_record(record, participants)
    summaries: dict[str, list[Path]] = {who: [] for who in participants}
    for image in good:
        summaries[image.participant].append(Path(outcomes[image.name].outputs.summary))
    _report(session, summaries, record, failures)
    session.publish()
    return failures


def _report(
    session: Session,
    summaries: Mapping[str, Sequence[Path]],
    record: Mapping[str, Any],
    failures: Sequence[Failure],
) -> None:
    """Stage the pages of participants."""
    from l2s_pydra.steps.report import read_groups, report_participant

    groups = read_groups(session.options.output_dir)
    for who, paths in summaries.items():
        report_participant(
            participant=who,
            summaries=paths,
            output_dir=session.options.output_dir,
            run=record,
            failures=[failure.row for failure in failures if failure.participant == who],
            out_file=session.path("participant_page", participant=who),
            data_file=session.path("page_data", participant=who),
            groups=groups,
            bids_dir=session.options.bids_dir,
        )
