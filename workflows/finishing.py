"""What becomes of each image: published as soon as it is done, told, and recorded."""

import contextlib
import logging
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from l2s_pydra.bids.derivatives import dataset_path, write_text
from l2s_pydra.bids.entities import ImageRecord
from l2s_pydra.bids.manifest import ImageEntry
from l2s_pydra.bids.prov import participant_prov
from l2s_pydra.bids.provenance import now
from l2s_pydra.errors import ImageError, L2SError, OutputError
from l2s_pydra.jsonfiles import read_json
from l2s_pydra.steps.leftovers import remove_leftovers
from l2s_pydra.steps.outputs import DATASET_OUTPUTS

from .engine import Outcome
from .image_files import image_files
from .model_files import ModelFiles
from .reuse import Decision
from .session import Failure, Session

__all__ = ["Register", "Status", "Todo"]

_log = logging.getLogger(__name__)
_VERBS = ("done", "restored", "reused", "failed", "skipped")


@attrs.frozen
class Todo:
    """An image that has to be segmented."""

    image: ImageRecord
    """The image."""
    made_from: Mapping[str, Any] = attrs.field(hash=False)
    """All that decides the result (:meth:`l2s_pydra.workflows.reuse.Reuse.made_from`)."""
    decision: Decision
    """Why."""
    recorded: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    """Checksums of its outputs as they were published, where some of them are not so any more."""

    def is_made_by(self, outcome: Outcome) -> bool:
        """Whether a label map is that of the image and of the model as they were found.

        Pydra names a result by what the files held before; who replaces one of them meanwhile has a
        result of another image, or model, under that name.
        """
        sidecar = str(outcome.outputs.dseg).removesuffix(".nii.gz") + ".json"
        try:
            written = read_json(sidecar)
            read = (written["SourceSHA256"], written["ModelSHA256"])
        except (OSError, ValueError, TypeError, KeyError):
            return False
        return read == (self.made_from["image"], self.made_from["weights"])


@attrs.frozen
class Status:
    """What became of an image."""

    image: ImageRecord
    """The image."""
    what: Literal["done", "restored", "reused", "failed", "skipped"]
    """``restored`` is what was segmented before, and missing or altered in the output folder."""
    reason: str = ""
    """Why; names no folder of this computer."""
    seconds: float | None = None
    """Time it took."""

    @property
    def row(self) -> dict[str, Any]:
        """Plain values, for records."""
        return {"status": self.what, "reason": self.reason, "seconds": self.seconds}


@attrs.define(kw_only=True)
class Register:
    """Publishes what is done, and keeps account of all images of a run."""

    session: Session
    """The run."""
    model: ModelFiles
    """The model that segments."""
    images: Sequence[ImageRecord]
    """The images that were asked for."""
    failures: list[Failure] = attrs.field(factory=list)
    """What could not be done."""
    statuses: dict[str, Status] = attrs.field(factory=dict)
    """What became of each image, by its path below the raw data set."""
    _by_participant: dict[str, dict[str, Status]] = attrs.field(factory=dict)
    _record: dict[str, Any] = attrs.field(factory=dict)
    _groups: Mapping[str, Any] | None = None
    _logs: dict[str, str] = attrs.field(factory=dict)
    _told: dict[str, int] = attrs.field(factory=dict)

    def reused(self, image: ImageRecord, decision: Decision) -> None:
        """Leave an image as it is."""
        self._set(Status(image, "reused", decision.reason))

    def skipped(self, image: ImageRecord, reason: str) -> None:
        """Note that an image was not tried."""
        self._set(Status(image, "skipped", reason))

    def done(
        self,
        todo: Todo,
        outcome: Outcome,
        *,
        seconds: float | None = None,
        log: str = "",
    ) -> None:
        """Publish an image that was segmented, just now or (without ``seconds``) earlier.

        Whatever goes wrong is a failure of this image, and of no other.

        Parameters
        ----------
        todo : Todo
            The image.
        outcome : Outcome
            Its outputs.
        seconds : float, optional
            Time it took.
        log : str
            What was said meanwhile.
        """
        image = todo.image
        status = Status(image, "restored" if seconds is None else "done", todo.decision.reason)
        status = attrs.evolve(status, seconds=None if seconds is None else round(seconds, 1))
        self._add_log(image, log)
        try:
            self._check_unchanged(todo, outcome)
            self._publish_image(todo, outcome, status)
        except Exception as error:
            self.statuses.pop(image.relative_path, None)
            self._by_participant.get(image.participant, {}).pop(image.relative_path, None)
            self.failed(image, _outcome_of(error))

    def failed(self, image: ImageRecord, outcome: Outcome, *, log: str = "") -> None:
        """Record an image that could not be segmented."""
        self._add_log(image, log)
        failure = Failure(
            name=image.name,
            file=image.relative_path,
            participant=image.participant,
            outcome=outcome,
        )
        reason = self.session.without_folders(outcome.reason)
        self._set(Status(image, "failed", reason), quiet=True)
        try:
            with _staged(self.session, image.participant) as mine:
                failure = mine.fail(failure)
                self._stage_participant(mine, image.participant, failures=[failure])
                self.session.output.publish(mine.stage)
        except Exception as error:
            _log.error("%s: cannot be recorded (%s)", image.relative_path, error)
            failure = attrs.evolve(failure, reason=reason, log=None)
        self.failures.append(failure)

    def close(self, *, stopped: str = "the run was stopped") -> None:
        """Publish what concerns all images; to be called also when the run is interrupted.

        Parameters
        ----------
        stopped : str
            Why images were skipped of which nothing is known.
        """
        for image in self.images:
            if image.relative_path not in self.statuses:
                self.skipped(image, stopped)
        counts = Counter[str](status.what for status in self.statuses.values())
        told = ", ".join(f"{counts[what]} {what}" for what in _VERBS)
        try:
            self._close(dict(counts))
        except (L2SError, OSError) as error:
            _log.error("the record of the run cannot be written: %s", error)
            outcome = _outcome_of(error)
            self.failures.append(
                Failure(name="record", file="logs", outcome=outcome, reason=outcome.reason)
            )
        _log.info("%d image(s): %s", len(self.images), told)

    def touched(self, todo: Sequence[Todo]) -> set[str]:
        """Participants whose pages are written anyway."""
        return {*self._told, *(job.image.participant for job in todo)}

    def refresh(self, participant: str) -> None:
        """Write a page anew that is missing or altered, from what is kept of the participant."""
        try:
            with _staged(self.session, participant) as mine:
                self._stage_page(mine, participant)
                self.session.output.publish(mine.stage)
                self._publish_provenance(mine, participant)
        except Exception as error:
            _log.error("%s.html: cannot be written (%s)", participant, error)

    def _stage_page(self, mine: Session, participant: str) -> None:
        """Stage the page of a participant from what is kept."""
        from l2s_pydra.steps.report import refresh_participant

        refresh_participant(
            participant=participant,
            output_dir=mine.options.output_dir,
            groups=self.groups,
            out_file=mine.path("participant_page", participant=participant),
            bids_dir=mine.options.bids_dir,
        )

    def _check_unchanged(self, todo: Todo, outcome: Outcome) -> None:
        path = todo.image.path
        try:
            now = self.session.output.checksums.of(path)
        except OSError as error:
            raise ImageError(
                f"{path}: cannot be read any more ({error.strerror}); it was taken away while it was "
                "segmented, and its segmentation is not published"
            ) from error
        if now != todo.made_from["image"]:
            raise ImageError(f"{path}: was changed while it was segmented; run again")
        if not todo.is_made_by(outcome):
            raise ImageError(
                f"{path}: the image or the model was another one while it was segmented; run again"
            )

    def _publish_image(self, todo: Todo, outcome: Outcome, status: Status) -> None:
        image, output = todo.image, self.session.output
        tree = Path(outcome.outputs.tree)
        ready = output.prepare(tree, only=self._wanted(image))
        data = dataset_path(DATASET_OUTPUTS["page_data"], participant=image.participant)
        page = () if self.session.options.seg_only else (str(data),)
        entry = ImageEntry(
            source=image.relative_path,
            segmentation=self.model.segmentation,
            run=self.session.uuid,
            made_from=todo.made_from,
            outputs=(*(file.name for file in ready), *page),
        )
        with _staged(self.session, image.participant) as mine, output.discarding(ready):
            gone = remove_leftovers(
                tree=tree,
                output_dir=output.root,
                entities=image.entities,
                source=image.relative_path,
                segmentation=self.model.segmentation,
                published=[file.name for file in ready],
            )
            output.remove(gone)
            self._set(status)
            for table in tree.rglob(
                "*_dseg.tsv"
            ):  # colours of the page, where the page looks first
                write_text(mine.stage / table.relative_to(tree), table.read_text(encoding="utf-8"))
            self._stage_participant(mine, image.participant, [Path(outcome.outputs.summary)])
            if gone and not page:
                self._stage_page(mine, image.participant)
            output.commit([*ready, *output.prepare(mine.stage)], [entry])
            self._publish_provenance(mine, image.participant)

    def _publish_provenance(self, mine: Session, participant: str) -> None:
        """Write the provenance of a participant from the manifest and the records of its runs."""
        mine.publish_provenance(participant_prov(mine.output.root, participant))

    def _wanted(self, image: ImageRecord) -> tuple[str, ...] | None:
        """Files of an image that are published, if that is not all."""
        options, model = self.session.options, self.model
        if not options.seg_only:
            return None
        return image_files(options, model.segmentation, image, model.spacing_mm)

    def _stage_participant(
        self,
        mine: Session,
        participant: str,
        summaries: Sequence[Path] = (),
        failures: Sequence[Failure] = (),
    ) -> None:
        """Stage the page of a participant, and the record and log of this run."""
        if self.session.options.seg_only:
            self._stage_record(mine, participant)
            return
        from l2s_pydra.steps.report import report_participant

        report_participant(
            participant=participant,
            summaries=summaries,
            output_dir=mine.options.output_dir,
            run=self.record,
            failures=[failure.row for failure in failures],
            out_file=mine.path("participant_page", participant=participant),
            data_file=mine.path("page_data", participant=participant),
            groups=self.groups,
            bids_dir=mine.options.bids_dir,
        )
        self._stage_record(mine, participant)

    def _stage_record(self, mine: Session, participant: str) -> None:
        own = self._by_participant.get(participant, {})
        images = {name: status.row for name, status in own.items()}
        mine.stage_record({**self.record, "images": images}, [participant])
        write_text(mine.path("run_log", participant=participant), self._logs.get(participant, ""))
        self._told[participant] = len(own)

    def _close(self, counts: Mapping[str, int]) -> None:
        number = Counter(image.participant for image in self.images)
        for participant, told in self._told.items():
            if told < number[participant]:
                with _staged(self.session, participant) as mine:
                    self._stage_record(mine, participant)
                    self.session.output.publish(mine.stage)
        kept = [s.image for s in self.statuses.values() if s.what in ("done", "restored", "reused")]
        with self.session.output.locked():
            self.session.describe(
                self.model,
                images=[image.entities for image in kept],
                participants={image.participant for image in self.images},
            )
            self.session.stage_record({**self.record, "images": counts})
            write_text(self.session.path("run_images"), self._table())
            self.session.publish()

    def _table(self) -> str:
        lines = ["image\tparticipant_id\tstatus\tseconds\treason"]
        for name, status in sorted(self.statuses.items()):
            seconds = "n/a" if status.seconds is None else f"{status.seconds}"
            reason = " ".join(status.reason.split()) or "n/a"
            lines.append(f"{name}\t{status.image.participant}\t{status.what}\t{seconds}\t{reason}")
        return "\n".join(lines) + "\n"

    @property
    def record(self) -> Mapping[str, Any]:
        """Description of the run in plain values, as it is now."""
        self._record = self._record or self.session.record(self.model)
        return {**self._record, "run": {**self._record["run"], "ended": now()}}

    @property
    def groups(self) -> Mapping[str, Any]:
        """Volumes of the group as they were when the run began, for the pages."""
        from l2s_pydra.steps.report import read_groups

        if self._groups is None:
            self._groups = read_groups(self.session.options.output_dir)
        return self._groups

    def _add_log(self, image: ImageRecord, log: str) -> None:
        text = self.session.without_folders(log)
        self._logs[image.participant] = self._logs.get(image.participant, "") + text

    def _set(self, status: Status, *, quiet: bool = False) -> None:
        name = status.image.relative_path
        self.statuses[name] = status
        self._by_participant.setdefault(status.image.participant, {})[name] = status
        time = "" if status.seconds is None else f" in {status.seconds:.0f} s"
        words = f"{name}: {status.what}{time} ({status.reason})"
        who = status.image.participant
        self._logs[who] = self._logs.get(who, "") + f"{words}\n"
        if not quiet:
            _log.log(logging.WARNING if status.what == "skipped" else logging.INFO, "%s", words)


def _outcome_of(error: Exception) -> Outcome:
    """Outcome of what was made and could not be published; the class tells the exit code."""
    if not isinstance(error, OSError):
        return Outcome(traceback="".join(traceback.format_exception(error)))
    frames = "".join(traceback.format_tb(error.__traceback__))
    said = (
        f"{error.filename or 'a file'}: cannot be written ({error.strerror or error}); "
        "check permissions and free space, then run again"
    )
    return Outcome(traceback=f"{frames}{OutputError.__module__}.{OutputError.__name__}: {said}\n")


@contextlib.contextmanager
def _staged(session: Session, participant: str) -> Iterator[Session]:
    """Give a session that stages files of a participant, while no other run can write."""
    mine = attrs.evolve(session, stage=session.stage.with_name(f"{session.uuid}-{participant}"))
    with session.output.locked():
        try:
            yield mine
        finally:
            shutil.rmtree(mine.stage, ignore_errors=True)
