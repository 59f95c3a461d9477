"""What a run would do, found out without writing anything anywhere."""

import filecmp
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from l2s_pydra.bids.checksums import Checksums
from l2s_pydra.bids.dataset import ImageRecord
from l2s_pydra.bids.derivatives import dataset_path
from l2s_pydra.bids.provenance import new_run_id
from l2s_pydra.steps.outputs import DATASET_OUTPUTS
from l2s_pydra.tasks import Learn, Segment

from . import engine
from .image_files import image_files
from .learning import find_training_set, learn_inputs
from .model_files import ModelFiles, find_model
from .options import Options
from .reuse import Reuse
from .segmenting import check_model, shared_inputs, unreadable
from .session import Session

__all__ = ["Foreseen", "dry_run"]

_PAGES = ("participant_page", "page_data", "run")
_DATASET = (
    *("dataset_description", "readme", "bidsignore", "descriptions", "descriptions_json"),
    *("citation_md", "citation_html", "citation_bib"),
)
_INDEX, _CHECKSUMS = "layout_index.sqlite", "checksums.sqlite"
_VERBS = ("segment", "restore", "reuse", "skip")


@attrs.frozen
class Foreseen:
    """What would become of an image."""

    image: ImageRecord
    """The image."""
    verb: Literal["segment", "restore", "reuse", "skip"]
    """``restore``: it was segmented before, and what is missing is written again."""
    reason: str
    """Why."""
    files: tuple[str, ...] = ()
    """What would be written, below the output folder."""


def dry_run(options: Options) -> str:
    """Say what a run would do.

    Parameters
    ----------
    options : Options
        What was asked for.

    Returns
    -------
    str
        For a person to read.

    Raises
    ------
    L2SError
        What the run would fail with before it computes anything.
    """
    with tempfile.TemporaryDirectory(prefix="l2s_pydra-") as scratch:
        os.environ["PYDRA_HASH_CACHE"] = scratch
        session = Session(
            options=_without_new_index(options),
            uuid=new_run_id(),
            cache=options.work_dir / "pydra",
            stage=Path(scratch) / "stage",
        )
        known = options.work_dir / _CHECKSUMS
        if known.is_file():
            shutil.copy(known, scratch)
        with Checksums.open(scratch) as checksums:
            levels = _levels(session, checksums)
            lines = ["Dry run: nothing is computed, nothing is written.", *levels]
    return "\n".join(lines) + "\n"


def _without_new_index(options: Options) -> Options:
    """Options without an index of the data set that would have to be made."""
    folder = options.database_dir
    there = folder is not None and (folder / _INDEX).is_file()
    return options if there else attrs.evolve(options, database_dir=None)


def _levels(session: Session, checksums: Checksums) -> Iterator[str]:
    options = session.options
    model: ModelFiles | None = None
    segmentation, learned = "", False
    if options.preview:
        yield from _preview(session)
        return
    if options.compare:
        yield from _comparison(session)
    elif "learn" in options.levels:
        inputs = learn_inputs(session, find_training_set(session))
        model, segmentation = _learned(session, Learn(**inputs)), str(inputs["segmentation"])
        learned = model is not None
        yield from _training(session, inputs["roles"], len(inputs["label_maps"]), model)
    if options.model is not None or (not segmentation and "participant" in options.levels):
        model, learned = find_model(options.model, options.output_dir), False
        segmentation = model.segmentation
    if "participant" in options.levels:
        yield from _participant(session, checksums, model, segmentation, learned)
    if "group" in options.levels:
        yield from _group(options, segmentation or options.segmentation or "<name>")


def _preview(session: Session) -> Iterator[str]:
    find_training_set(session)
    folder = DATASET_OUTPUTS["preview"].path
    yield f"\nlearn --preview: draws {session.options.preview} of each kind into {folder}/"


def _comparison(session: Session) -> Iterator[str]:
    from .compared import plan

    runs = plan(session).runs
    yield f"\nlearn --compare: {len(runs)} training(s)"
    for run in runs:
        verb = "reuse" if engine.is_done(run.learn, session.cache) else "train"
        yield f"  {verb:8} {run.compared.name}"
    yield f"  files: {DATASET_OUTPUTS['comparison'].path}/, models/model-<name>/ of each"


def _learned(session: Session, task: Learn) -> ModelFiles | None:
    """Model that the cache holds already."""
    if not engine.is_done(task, session.cache):
        return None
    cached = ModelFiles.read(Path(engine.outcome_of([task], session.cache).outputs.model))
    place = dataset_path(DATASET_OUTPUTS["model"], model=cached.name)
    published = session.options.output_dir / place
    return ModelFiles.read(published) if published.is_dir() else cached


def _training(
    session: Session, roles: Sequence[str], maps: int, model: ModelFiles | None
) -> Iterator[str]:
    training = session.options.config.training
    budget = f"{training.steps} steps"
    if training.max_minutes is not None:
        budget += f" or {training.max_minutes:g} minutes"
    yield f"\nlearn: {training.mode}, {budget}, seed {training.seed}"
    yield (
        f"  images: {roles.count('learn')} to learn from, {roles.count('validate')} to validate on, "
        f"{roles.count('test')} to test on; {maps} label map(s) more"
    )
    if model is None:
        yield "  train    a new model"
    else:
        yield f"  reuse    {model.name} (the same model was learned before)"
    place = dataset_path(DATASET_OUTPUTS["model"], model=model.name if model else "<name>")
    yield f"  files: {place}/, {dataset_path(DATASET_OUTPUTS['dataset_run'], run='<run>')}"


def _participant(
    session: Session,
    checksums: Checksums,
    model: ModelFiles | None,
    segmentation: str,
    learned: bool,
) -> Iterator[str]:
    if model is not None:
        check_model(session, model)
    look = _Look.of(session, checksums, model, segmentation, learned)
    found = [look.foresee(image) for image in session.images()]
    name = model.name if model else "the model that is to be trained"
    yield f"\nparticipant: {len(found)} image(s), segmented by {name}"
    for one in found:
        yield f"  {one.verb:8} {one.image.relative_path} ({one.reason})"
        yield from (f"             {file}" for file in one.files)
    counts = {verb: sum(one.verb == verb for one in found) for verb in _VERBS}
    told = ", ".join(f"{count} to {verb}" for verb, count in counts.items())
    yield f"  in all: {told}; {sum(len(one.files) for one in found)} file(s) of images to write"
    keys = ("run",) if session.options.seg_only else _PAGES
    pages = (
        dataset_path(DATASET_OUTPUTS[key], participant="sub-<label>", run="<run>") for key in keys
    )
    yield f"  of participants: {', '.join(map(str, pages))}"
    rows = (DATASET_OUTPUTS[key].path for key in _DATASET)
    yield f"  of the data set: {', '.join(rows)}"


@attrs.frozen
class _Look:
    """Looks at images, one by one."""

    session: Session
    model: ModelFiles | None
    segmentation: str
    shared: dict[str, Any]
    reuse: Reuse | None

    @property
    def spacing_mm(self) -> float:
        """Voxel size of the model's grid."""
        if self.model is None:
            return self.session.options.config.spacing_mm
        return self.model.spacing_mm

    @classmethod
    def of(
        cls,
        session: Session,
        checksums: Checksums,
        model: ModelFiles | None,
        segmentation: str,
        learned: bool,
    ) -> "_Look":
        if model is None:
            return cls(session, None, segmentation, {}, None)
        options = session.options
        shared = shared_inputs(options, model)
        if learned:  # it will be in the data set by then
            shared["model_in_dataset"] = True
        reuse = Reuse.of(options, model, checksums, shared, force=options.force)
        return cls(session, model, segmentation, shared, reuse)

    def foresee(self, image: ImageRecord) -> Foreseen:
        """Say what would become of an image."""
        options = self.session.options
        try:
            why = unreadable(image.path)
            made_from = self.reuse.made_from(image) if self.reuse and not why else {}
        except OSError as error:
            why = f"{image.path}: cannot be read ({error.strerror or error})"
        if why:
            return Foreseen(image, "skip", why)
        files = image_files(options, self.segmentation, image, self.spacing_mm)
        if self.reuse is None:
            return Foreseen(image, "segment", "the model is not there yet", files)
        decision = self.reuse.decision(image, made_from, seg_only=options.seg_only)
        if decision.is_done:
            return Foreseen(image, "reuse", decision.reason)
        own = {"image": image.path, "entities": image.entities, "source": image.relative_path}
        cached = engine.outcome_of([Segment(**own, **self.shared)], self.session.cache).outputs
        if cached is None or options.force:
            return Foreseen(image, "segment", decision.reason, files)
        new = (file for file in files if _differs(Path(cached.tree), options.output_dir, file))
        return Foreseen(image, "restore", decision.reason, tuple(new))


def _differs(tree: Path, output_dir: Path, file: str) -> bool:
    """Whether a file of the cache is not in the output folder as it is."""
    ours, theirs = tree / file, output_dir / file
    if not ours.is_file():
        return False
    return not (theirs.is_file() and filecmp.cmp(ours, theirs, shallow=False))


def _group(options: Options, segmentation: str) -> Iterator[str]:
    there = sum(1 for _ in options.output_dir.glob(f"sub-*/**/*_seg-{segmentation}_*_morph.tsv"))
    compares = options.references or options.real_labels
    keys = ["volumes", *(["dice"] if compares else []), "group_page"]
    files = (dataset_path(DATASET_OUTPUTS[key], segmentation=segmentation) for key in keys)
    yield f"\ngroup: seg-{segmentation}, {there} segmentation(s) in the output folder so far"
    yield f"  compare  with {compares}" if compares else "  compare  with nothing"
    yield f"  files: {', '.join(map(str, files))}, the pages of participants"
