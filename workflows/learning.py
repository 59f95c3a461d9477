"""The level ``learn``: train a model and publish it, or show what it would be trained on."""

import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
from pydra.utils.hash import hash_function

from l2s_pydra.bids.dataset import (
    ImageRecord,
    TrainingSet,
    build_synthetic_set,
    build_training_set,
)
from l2s_pydra.bids.entities import parse_name
from l2s_pydra.bids.prov import model_prov
from l2s_pydra.config import LearnConfig, TrainingConfig
from l2s_pydra.errors import DatasetError
from l2s_pydra.tasks import Learn, Preview, Resources

from . import engine
from .learn import LearnModel
from .model_files import ModelFiles, find_model
from .options import Options
from .segmenting import unreadable
from .session import Failure, Session, code_version

__all__ = [
    "checkpoint_dir",
    "conformed_dir",
    "find_training_set",
    "learn",
    "learn_inputs",
    "learn_settings",
    "others",
    "preview",
    "stage_model",
]

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
    training_set = find_training_set(session)
    inputs = learn_inputs(session, training_set)
    checkpoints = checkpoint_dir(session, Learn(**inputs))
    resources = Resources(
        device=session.options.device,
        threads=session.threads,
        memory_gb=session.memory_gb(),
        processes=session.options.learn_processes,
        checkpoint_dir=str(checkpoints),
        checkpoint_every=session.options.config.training.checkpoint_every,
        cache_dir=str(conformed_dir(session)),
        memory_bytes=session.host_bytes,
    )
    task, workflow = (kind(**inputs, resources=resources) for kind in (Learn, LearnModel))
    if engine.is_done(task, session.cache):
        _log.info("the same model was learned before")
    else:
        engine.run(workflow, [task], session.cache, session.worker(1))
    outcome = engine.outcome_of([task, workflow], session.cache)
    if outcome.outputs is None:
        failure = session.fail(Failure(name="learn", file="training", outcome=outcome))
        session.describe()
        session.publish()
        return None, [failure]
    model = stage_model(session, Path(outcome.outputs.model))
    record = session.record(model)
    session.stage_record(record)
    session.describe(model)
    session.publish()
    _publish_provenance(session, model, record, training_set)
    model = ModelFiles.read(session.options.output_dir / model.folder.relative_to(session.stage))
    shutil.rmtree(checkpoints, ignore_errors=True)
    _log.info("model: %s", model.folder)
    return model, []


def _publish_provenance(
    session: Session, model: ModelFiles, record: Mapping[str, Any], used: TrainingSet
) -> None:
    """Publish what a model was learned from."""
    pairs = (*used.learn, *used.validate)
    paths = [path for image, labels in pairs for path in (image.path, labels)]
    paths += [item.path for item in used.label_maps]
    checksums = session.output.checksums
    inputs = [{"uri": session.uri(path), "sha256": checksums.of(path)} for path in paths]
    session.publish_provenance(model_prov(model.folder, run=record, inputs=inputs))


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
    inputs = learn_inputs(session, attrs.evolve(find_training_set(session), test=()))
    del inputs["segmentation"]
    inputs.pop("start_from", None)
    inputs["code_version"] = code_version(without=("bids",))
    resources = Resources(device=options.device, threads=session.threads)
    task = Preview(**inputs, count=options.preview, resources=resources)
    stopped_by = engine.run(task, [], session.cache, session.worker(1))
    outcome = engine.outcome_of([task], session.cache, stopped_by)
    if outcome.outputs is None:
        failure = session.fail(Failure(name="preview", file="preview", outcome=outcome))
        session.describe()
        session.publish()
        return [failure]
    staged, published = session.path("preview"), options.output_dir / "preview"
    shutil.copytree(Path(outcome.outputs.folder), staged)
    session.stage_record(session.record())
    session.describe()
    session.publish()
    session.output.remove(others(published / "figures", staged / "figures"))
    _log.info("to look at: %s", published / "index.html")
    return []


def others(figures: Path, staged: Path) -> list[Path]:
    """Find pictures of an earlier page, which had more of them or other ones.

    Parameters
    ----------
    figures : Path
        Folder that was published.
    staged : Path
        The same folder as it was staged.
    """
    return [path for path in figures.glob("*.png") if not (staged / path.name).is_file()]


def find_training_set(session: Session) -> TrainingSet:
    """Collect what the options say to learn from, to validate on and to test on.

    Raises
    ------
    DatasetError
        If it is not there, or a file cannot be opened. Images to test on, of which a training
        reads none, may be missing; with folds, everyone learns in some, and none may.
    """
    options = session.options
    if options.real_labels is None and options.config.training.mode == "synthseg":
        return _find_label_maps(options)
    found = build_training_set(
        options.bids_dir,
        options.real_labels or options.bids_dir,
        options.label_maps,
        labels_desc=options.labels_desc,
        label_maps_desc=options.label_maps_desc,
        learn_participants=options.learn_participants,
        validation_participants=options.validation_participants,
        test_participants=options.test_participants,
        test_without_labels=options.compare_suffixes is not None,
        any_maps=bool(options.folds),
        suffixes=options.suffixes,
        filters=session.filters,
        database_dir=options.database_dir,
    )
    pairs = (*found.learn, *found.validate, *(found.test if options.folds else ()))
    for path in (
        *(path for pair in pairs for path in _files(pair)),
        *(record.path for record in (found.all_maps if options.folds else found.label_maps)),
    ):
        why = unreadable(path)
        if why:
            raise DatasetError(why)
    _log.info(
        "learning from %d image(s), validating on %d, testing on %d, with %d label map(s) more",
        len(found.learn),
        len(found.validate),
        len(found.test),
        len(found.label_maps),
    )
    return found


def _find_label_maps(options: Options) -> TrainingSet:
    """Collect the label maps of a training without images."""
    assert options.label_maps is not None
    found = build_synthetic_set(
        options.label_maps,
        label_maps_desc=options.label_maps_desc,
        target_labels=options.target_labels,
        learn_participants=options.learn_participants,
        validation_participants=options.validation_participants,
    )
    for record in (*found.label_maps, *found.validation_maps):
        why = unreadable(record.path)
        if why:
            raise DatasetError(why)
    _log.info(
        "learning from %d label map(s) without images, validating on synthetic images of %d others",
        len(found.label_maps),
        len(found.validation_maps),
    )
    return found


def _files(pair: tuple[ImageRecord, Path]) -> tuple[Path, Path]:
    image, labels = pair
    return image.path, labels


def learn_inputs(session: Session, training_set: TrainingSet) -> dict[str, Any]:
    """Gather the inputs of the task ``Learn``, all but where it runs.

    Parameters
    ----------
    session : Session
        The run.
    training_set : TrainingSet
        The images and label maps.
    """
    roles = {
        "learn": training_set.learn,
        "validate": training_set.validate,
        "test": [pair for pair in training_set.test if not any(map(unreadable, _files(pair)))],
    }
    pairs = [pair for mine in roles.values() for pair in mine]
    named_after = pairs[0][1] if pairs else training_set.label_maps[0].path
    options = session.options
    start = None
    if options.start_from is not None:
        start = find_model(options.start_from, options.output_dir, option="--start-from").weights
    held_out = [record.path for record in training_set.validation_maps]
    return {
        "images": [image.path for image, _ in pairs],
        "labels": [labels for _, labels in pairs],
        "participants": [image.participant for image, _ in pairs],
        "roles": [role for role, mine in roles.items() for _ in mine],
        "label_maps": [record.path for record in training_set.label_maps],
        "config": learn_settings(options.config),
        "real_table": training_set.real_table,
        "maps_table": training_set.maps_table,
        "label_mapping": options.label_mapping,
        "segmentation": options.segmentation or _segmentation(named_after),
        "code_version": code_version(without=("bids", "reports")),
        # Comparisons have neither, and know no such inputs.
        **({"validation_maps": held_out} if held_out else {}),
        **({"start_from": start} if start else {}),
    }


def learn_settings(config: LearnConfig) -> dict[str, Any]:
    """Put settings as the task ``Learn`` takes them.

    How often checkpoints are written decides no result, and so not whether one is reused: it is the
    default here, and what was asked for is among the resources.
    """
    every = TrainingConfig().checkpoint_every
    return config.evolve(training__checkpoint_every=every).to_dict()


def _segmentation(labels: Path) -> str:
    """Name the segmentation after the labels it is learned from.

    >>> _segmentation(Path("sub-01_desc-common_dseg.nii.gz"))
    'common'
    """
    entities = parse_name(labels.name)
    name = entities.get("segmentation") or entities.get("desc") or "learned"
    return re.sub("[^a-zA-Z0-9]", "", name) or "learned"


def checkpoint_dir(session: Session, task: Learn) -> Path:
    """Folder for the checkpoints of a training.

    It depends on all that decides the result, so that only the same training goes on.
    """
    return session.options.work_dir / "checkpoints" / hash_function(task)[:16]


def conformed_dir(session: Session) -> Path:
    """Folder for data on the training grid, which all trainings share."""
    return session.options.work_dir / "conformed"


def stage_model(session: Session, folder: Path) -> ModelFiles:
    """Copy a model out of the cache and add its report.

    Parameters
    ----------
    session : Session
        The run.
    folder : Path
        The model in the cache.

    Returns
    -------
    ModelFiles
        The staged model.
    """
    from l2s_pydra.steps.report import report_model

    staged = session.path("model", model=ModelFiles.read(folder).name)
    with ExitStack() as unless_whole:
        # Half a model is not to be published.
        unless_whole.callback(shutil.rmtree, staged, ignore_errors=True)
        shutil.copytree(folder, staged, dirs_exist_ok=True)
        report_model(staged, staged / "report.html")
        model = ModelFiles.read(staged)
        unless_whole.pop_all()
    return model
