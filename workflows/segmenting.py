"""The level ``participant``: segment images and publish what belongs to each."""

import logging
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.bids.checksums import sha256_of
from l2s_pydra.errors import ConfigError, ImageError
from l2s_pydra.jsonfiles import read_json
from l2s_pydra.labels import LabelScheme
from l2s_pydra.steps.anatomy import named_structures
from l2s_pydra.steps.outputs import check_resolution
from l2s_pydra.tasks import Resources, Segment

from . import engine
from .engine import Outcome
from .finishing import Register, Todo
from .model_files import ModelFiles
from .options import Options
from .reuse import Reuse
from .segment import SegmentImage, SegmentImages
from .session import Failure, Session, code_version
from .worker import NotStartedError, log_of

__all__ = ["DECIDES_NO_SEGMENTATION", "check_model", "participant", "shared_inputs", "unreadable"]

_log = logging.getLogger(__name__)
DECIDES_NO_SEGMENTATION = ("augmentation", "bilevel", "synthesis")
"""Folders of the package that only trainings need."""


def participant(session: Session, model: ModelFiles) -> list[Failure]:
    """Segment every image that was asked for and is not done; one bad image stops no other.

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
    check_model(session, model)
    images = session.images()
    register = Register(session=session, model=model, images=images)
    jobs = _Jobs(session, shared_inputs(session.options, model), register)
    try:
        jobs.run(_plan(session, model, register))
    finally:
        # What is done is published, also when the run is interrupted.
        try:
            jobs.gather()
        finally:
            register.close()
    return register.failures


def _plan(session: Session, model: ModelFiles, register: Register) -> list[Todo]:
    """Find what has to be segmented; the rest is reused, or cannot be read."""
    checksums = session.output.checksums
    shared = shared_inputs(session.options, model)
    reuse = Reuse.of(session.options, model, checksums, shared, force=session.options.force)
    todo = []
    for image in register.images:
        try:
            why = unreadable(image.path)
            made_from = {} if why else reuse.made_from(image)
        except OSError as error:
            why = f"{image.path}: cannot be read ({error.strerror or error}); check the disk"
        if why:
            register.failed(image, Outcome(traceback=f"{why}\n"))
            continue
        only = session.options.seg_only
        decision = reuse.decision(image, made_from, seg_only=only)
        if decision.is_done:
            register.reused(image, decision)
        else:
            recorded = reuse.recorded(image) if decision.status == "altered" else {}
            todo.append(Todo(image, {**made_from, "seg_only": only}, decision, recorded))
    checksums.save()
    if session.options.seg_only:
        return todo
    for who in sorted({image.participant for image in register.images} - register.touched(todo)):
        if reuse.page_fault(who):
            register.refresh(who)
    return todo


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
        "code_version": code_version(without=DECIDES_NO_SEGMENTATION),
    }


@attrs.define
class _Jobs:
    """Segments images, and publishes each when it is done."""

    session: Session
    shared: dict[str, Any]
    register: Register
    _open: dict[str, Todo] = attrs.field(factory=dict, init=False)
    _stopped_by: Exception | None = attrs.field(default=None, init=False)
    """Why the workflow failed as a whole; of an image that left nothing, all there is to know."""

    def run(self, todo: Sequence[Todo]) -> None:
        """Segment what is not in the cache."""
        self._open = {job.image.relative_path: job for job in todo}
        for job in todo:
            try:
                self._restore(job)
            except OSError:
                self._without_missing()
        # Pydra refuses the workflow as a whole if one file is not there any more.
        while self._open:
            try:
                return self._segment(list(self._open.values()))
            except FileNotFoundError:
                before = len(self._open)
                self._without_missing()
                if len(self._open) == before:
                    raise
        return None

    def _without_missing(self) -> None:
        """Give up images that were taken away since they were found."""
        for job in list(self._open.values()):
            if why := unreadable(job.image.path):
                self._failed(job, Outcome(traceback=f"{why}\n"))

    def _segment(self, jobs: Sequence[Todo]) -> None:
        options = self.session.options
        n_procs, threads = self.session.share(len(jobs), max_memory_mb=options.network_mb)
        resources = Resources(
            device=options.device,
            threads=threads,
            memory_gb=self.session.memory_gb(options.network_mb),
            max_memory_mb=options.network_mb,
        )
        log_dir = self.session.stage.with_name(f"{self.session.uuid}-logs")
        log_dir.mkdir(parents=True, exist_ok=True)
        notify = partial(self._notify, log_dir, len(jobs))
        worker = self.session.worker(n_procs, notify, log_dir=log_dir)
        on_cluster = self.session.on_cluster
        where = f"as jobs of {options.worker}" if on_cluster else f"{n_procs} at a time"
        _log.info("segmenting %d image(s), %s", len(jobs), where)
        try:
            workflow = SegmentImages(
                images=[job.image.path for job in jobs],
                entities=[job.image.entities for job in jobs],
                sources=[job.image.relative_path for job in jobs],
                resources=resources,
                **self.shared,
            )
            parts = [task for job in jobs for task in self._tasks(job)]
            self._stopped_by = engine.run(workflow, parts, self.session.cache, worker)
        finally:
            shutil.rmtree(log_dir, ignore_errors=True)

    def _restore(self, job: Todo) -> None:
        """Publish an image that the cache holds; a run that was killed did not come to that."""
        tasks = self._tasks(job)
        outcome = engine.outcome_of(tasks, self.session.cache)
        if outcome.outputs is None:
            return
        if self._is_whole(job, outcome):
            self._done(job, outcome)
        else:
            engine.forget(tasks, self.session.cache)

    def _is_whole(self, job: Todo, outcome: Outcome) -> bool:
        """Whether the cache holds a result of this image, and all its files as once published."""
        tree = Path(outcome.outputs.tree)
        files = _files_of(outcome)
        if not files or not all(file.is_file() and file.stat().st_size for file in files):
            return False
        if not job.is_made_by(outcome):
            return False
        # Masks do not tell the segmentation in their names: another one may have replaced them.
        recorded = {name: sha for name, sha in job.recorded.items() if "_seg-" in name}
        return all(
            (tree / name).is_file() and sha256_of(tree / name) == sha
            for name, sha in recorded.items()
        )

    def _notify(
        self,
        log_dir: Path,
        total: int,
        task: Any,
        seconds: float,
        error: Exception | None,
    ) -> None:
        """Publish an image that has just been segmented, or say why it was not."""
        job = self._open.get(task.source)
        if job is None:
            return
        file = log_of(log_dir, task)
        log = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        outcome = self._outcome(job, [task], error)
        if outcome.outputs is not None:
            self._done(job, outcome, seconds=seconds, log=log)
        elif isinstance(error, NotStartedError):
            self._open.pop(task.source)
            self.register.skipped(job.image, str(error))
        elif error is None:
            # Its result has the name of what the file held before.
            changed = f"{job.image.path}: was changed while it was segmented; run again"
            kind = f"{ImageError.__module__}.{ImageError.__name__}"
            self._failed(job, Outcome(traceback=f"{kind}: {changed}\n"), log=log)
        else:
            self._failed(job, outcome, log=log)
        _log.info("%d of %d image(s) left", len(self._open), total)

    def gather(self) -> None:
        """Publish what was done and did not come to be published."""
        for job in list(self._open.values()):
            outcome = self._outcome(job, stopped_by=self._stopped_by)
            if outcome.outputs is not None:
                self._done(job, outcome)
            elif outcome.reason == f"RuntimeError: {engine.NOT_RUN}":
                self.register.skipped(job.image, engine.NOT_RUN)
            else:
                self._failed(job, outcome)

    def _outcome(
        self, job: Todo, tasks: Sequence[Any] = (), stopped_by: Exception | None = None
    ) -> Outcome:
        """Tell what became of an image; Pydra cannot name the result of one that was taken away."""
        try:
            return engine.outcome_of(tasks or self._tasks(job), self.session.cache, stopped_by)
        except OSError as error:
            path = job.image.path
            why = unreadable(path) or f"{path}: cannot be read ({error.strerror or error})"
            return Outcome(traceback=f"{why}\n")

    def _done(self, job: Todo, outcome: Outcome, **details: Any) -> None:
        self.register.done(job, outcome, **details)
        self._open.pop(job.image.relative_path)

    def _failed(self, job: Todo, outcome: Outcome, **details: Any) -> None:
        self.register.failed(job.image, outcome, **details)
        self._open.pop(job.image.relative_path)

    def _tasks(self, job: Todo) -> list[Any]:
        """Return the task of an image, and the workflow around it."""
        image = job.image
        own = {"image": image.path, "entities": image.entities, "source": image.relative_path}
        return [Segment(**own, **self.shared), SegmentImage(**own, **self.shared)]


def _files_of(outcome: Outcome) -> list[Path]:
    """Files of a result, of which some may be gone; none if it cannot be told which it had."""
    tree = Path(outcome.outputs.tree)
    try:
        summary = read_json(outcome.outputs.summary)
        data = [str(file["href"]) for file in summary["files"]]
        figure = [summary["figure"]] if summary["figure"] else []
    except (OSError, ValueError, TypeError, KeyError):
        return []
    sidecars = {name.removesuffix(".tsv").removesuffix(".nii.gz") + ".json" for name in data}
    return [tree / name for name in (*data, *figure, *sidecars)]


def check_model(session: Session, model: ModelFiles) -> None:
    """Check options that the model must be able to honour, before any image is read.

    Parameters
    ----------
    session : Session
        The run.
    model : ModelFiles
        The model.

    Raises
    ------
    ConfigError
        If another segmentation or resolution was asked for than that of the model.
    LabelError
        If ``--keep-largest`` names a structure that the model does not have.
    """
    options = session.options
    named_structures(LabelScheme.read(model.labels), options.keep_largest)
    if options.res is not None:
        check_resolution(options.res, model.spacing_mm, model.name)
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
