"""The level ``learn``: train a model and publish it."""

import logging
import re
import shutil
from pathlib import Path
from typing import Any

from pydra.utils.hash import hash_function

from l2s_pydra.bids.dataset import TrainingSet, build_training_set
from l2s_pydra.bids.entities import parse_name
from l2s_pydra.tasks import Learn, Preview, Resources

from . import engine
from .learn import LearnModel, PreviewDraws
from .model_files import ModelFiles
from .session import Failure, Session, code_version

__all__ = ["learn", "preview"]

_log = logging.getLogger(__name__)


def learn(session: Session) -> tuple[ModelFiles | None, list[Failure]]:
    """Train a model and publish it with its report.

    Parameters
    ----------
    session : Session
        The run.

    Returns
    -------
    model : ModelFiles or None
        The model in the output folder, if the training succeeded.
    failures : list of Failure
        Why not, if it did not.

    Raises
    ------
    DatasetError
        If the training set is not as asked for.
    """
    inputs = _inputs(session, _training_set(session))
    # The folder depends on all that decides the result, so that only the same training goes on.
    checkpoints = session.options.work_dir / "checkpoints" / hash_function(Learn(**inputs))[:16]
    resources = Resources(
        device=session.options.device,
        threads=session.options.threads or session.options.n_procs,
        processes=session.options.learn_processes,
        checkpoint_dir=str(checkpoints),
    )
    task, workflow = (kind(**inputs, resources=resources) for kind in (Learn, LearnModel))
    if engine.is_done(task, session.cache):
        _log.info("the same model was learned before")
    else:
        engine.run(workflow, [task], session.cache, session.worker(1))
    outcome = engine.outcome_of([task, workflow], session.cache)
    if outcome.outputs is None:
        failure = session.fail(Failure(name="learn", file="training", outcome=outcome))
        session.publish()
        return None, [failure]
    model = _publish(session, Path(outcome.outputs.model))
    shutil.rmtree(checkpoints, ignore_errors=True)
    _log.info("model: %s", model.folder)
    return model, []


def preview(session: Session) -> list[Failure]:
    """Show what :func:`learn` would train on, in the folder ``preview`` of the output folder.

    Parameters
    ----------
    session : Session
        The run.

    Returns
    -------
    list of Failure
        Why there is nothing to see; empty if there is.

    Raises
    ------
    DatasetError
        If the training set is not as asked for.
    """
    options = session.options
    inputs = _inputs(session, _training_set(session))
    del inputs["segmentation"]
    inputs["code_version"] = code_version(without=("bids",))
    resources = Resources(device=options.device, threads=options.threads or options.n_procs)
    task, workflow = (
        kind(**inputs, count=options.preview, resources=resources)
        for kind in (Preview, PreviewDraws)
    )
    engine.run(workflow, [task], session.cache, session.worker(1))
    outcome = engine.outcome_of([task, workflow], session.cache)
    if outcome.outputs is None:
        failure = session.fail(Failure(name="preview", file="preview", outcome=outcome))
        session.publish()
        return [failure]
    staged, published = session.path("preview"), options.output_dir / "preview"
    shutil.copytree(Path(outcome.outputs.folder), staged)
    session.stage_record(session.record())
    session.publish()
    _remove_others(published / "figures", staged / "figures")
    _log.info("to look at: %s", published / "index.html")
    return []


def _remove_others(figures: Path, staged: Path) -> None:
    """Remove pictures of an earlier preview, which had more draws or other ones."""
    for path in figures.glob("*.png"):
        if not (staged / path.name).is_file():
            path.unlink()


def _training_set(session: Session) -> TrainingSet:
    options = session.options
    found = build_training_set(
        options.bids_dir,
        options.real_labels or options.bids_dir,
        options.label_maps,
        labels_desc=options.labels_desc,
        label_maps_desc=options.label_maps_desc,
        learn_participants=options.learn_participants,
        validation_participants=options.validation_participants,
        suffixes=options.suffixes,
        filters=session.filters,
        database_dir=options.database_dir,
    )
    _log.info(
        "learning from %d image(s), validating on %d, with %d label map(s) more",
        len(found.learn),
        len(found.validate),
        len(found.label_maps),
    )
    return found


def _inputs(session: Session, training_set: TrainingSet) -> dict[str, Any]:
    """Gather the inputs of the task, all but where it runs."""
    pairs = (*training_set.learn, *training_set.validate)
    return {
        "images": [image.path for image, _ in pairs],
        "labels": [labels for _, labels in pairs],
        "participants": [image.participant for image, _ in pairs],
        "roles": ["learn"] * len(training_set.learn) + ["validate"] * len(training_set.validate),
        "label_maps": [record.path for record in training_set.label_maps],
        "config": session.options.config.to_dict(),
        "real_table": training_set.real_table,
        "maps_table": training_set.maps_table,
        "label_mapping": session.options.label_mapping,
        "segmentation": session.options.segmentation or _segmentation(pairs[0][1]),
        "code_version": code_version(without=("bids", "reports")),
    }


def _segmentation(labels: Path) -> str:
    """Name the segmentation after the labels it is learned from.

    >>> _segmentation(Path("sub-01_desc-common_dseg.nii.gz"))
    'common'
    """
    entities = parse_name(labels.name)
    name = entities.get("segmentation") or entities.get("desc") or "learned"
    return re.sub("[^a-zA-Z0-9]", "", name) or "learned"


def _publish(session: Session, folder: Path) -> ModelFiles:
    """Copy the model out of the cache, add its report, and publish both."""
    from l2s_pydra.steps.report import report_model

    staged = session.path("model", model=ModelFiles.read(folder).name)
    shutil.copytree(folder, staged, dirs_exist_ok=True)
    model = ModelFiles.read(staged)
    report_model(staged, staged / "report.html")
    session.stage_record(session.record(model))
    session.describe(model)
    session.publish()
    published = session.options.output_dir / staged.relative_to(session.stage)
    return ModelFiles.read(published)
