"""What a comparison of modes consists of: its trainings, and the images they are compared on."""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from l2s_pydra.bids.dataset import ImageRecord, TrainingSet, find_labels, shared_table
from l2s_pydra.bids.entities import join_entities
from l2s_pydra.bids.splits import folds
from l2s_pydra.errors import DatasetError, LabelError
from l2s_pydra.labels import LabelScheme
from l2s_pydra.steps.compare import ComparedRun
from l2s_pydra.steps.schemes import read_schemes
from l2s_pydra.tasks import Assess, Learn, Resources

from .compare import CompareModes, LearnAndAssess
from .crew import Crew
from .learning import find_training_set, learn_inputs, learn_settings
from .segmenting import unreadable
from .session import Session, code_version

__all__ = ["Plan", "Run", "plan", "workflow_of"]

_log = logging.getLogger(__name__)
_SAME_CONTRAST = ("subject", "session", "run", "suffix")
"""Entities in which images of one contrast may differ."""


@attrs.frozen(kw_only=True, eq=False, slots=False)
class Run:
    """One training, and the images that its model is assessed on."""

    compared: ComparedRun
    """Mode, seed and fold; ``left_out`` are the images that cannot be opened."""
    trained: Mapping[str, Any] = attrs.field(repr=False)
    """Inputs of ``Learn``, all but where it runs."""
    assessed: Mapping[str, Any] = attrs.field(repr=False)
    """Inputs of ``Assess``, all but the model and where it runs."""

    @cached_property
    def learn(self) -> Learn:
        """Task that trains the model."""
        return Learn(**self.trained)

    @cached_property
    def both(self) -> Any:
        """Workflow of both tasks."""
        trained, assessed = dict(self.trained), dict(self.assessed)
        return LearnAndAssess(
            learn_version=trained.pop("code_version"),
            assess_version=assessed.pop("code_version"),
            assessed=assessed.pop("images"),
            whose=assessed.pop("participants"),
            assessed_roles=assessed.pop("roles"),
            **trained,
            **assessed,
        )

    def assess(self, learned: Any) -> Assess:
        """Task that assesses the model, from the outputs of the other."""
        return Assess(
            **self.assessed,
            weights=learned.weights,
            config=learned.model_config,
            labels=learned.model_labels,
        )


@attrs.frozen(kw_only=True)
class Plan:
    """All runs of a comparison."""

    runs: list[Run]
    """Those of one seed together, so that an interruption leaves whole seeds."""
    role: str
    """What those were for in the trainings whom the models are compared on."""
    contrasts: list[str]
    """What the models are compared on."""
    crew: Crew
    """How many run at a time, and with what; by all runs, whether they were done before or not."""


def plan(session: Session) -> Plan:
    """Find out what is to be trained and compared.

    Parameters
    ----------
    session : Session
        The run of the application.

    Raises
    ------
    DatasetError
        If the training set, or what to compare on, is not as asked for.
    LabelError
        If a label of the references, or of the label maps, has no counterpart in the models.
    """
    options = session.options
    given = find_training_set(session)
    splits = folds(given, options.folds) if options.folds else [given]
    images = _Assessed.find(session, splits)
    _check_names(session, given, images.table)
    crew = Crew.of(session, len(options.compare) * options.seeds * len(splits))
    parts = [(learn_inputs(session, split), images.of(split)) for split in splits]
    if options.config.training.max_minutes is not None:
        # Trainings that end by the clock are those of their computer.
        for trained, _ in parts:
            trained["code_version"] += f", {crew.compute}"
    first = options.config.training.seed
    runs = []
    for seed in range(first, first + options.seeds):
        for number, (trained, assessed) in enumerate(parts, start=1):
            for mode in options.compare:
                settings = options.config.evolve(training__mode=mode, training__seed=seed)
                fold = number if options.folds else None
                left_out = images.missing_of(splits[number - 1])
                compared = ComparedRun(mode=mode, seed=seed, fold=fold, left_out=left_out)
                inputs = {**trained, "config": learn_settings(settings)}
                runs.append(Run(compared=compared, trained=inputs, assessed=assessed))
    contrasts = sorted({name for _, assessed in parts for name in assessed["contrasts"]})
    return Plan(runs=runs, role=images.role, contrasts=contrasts, crew=crew)


def _check_names(session: Session, given: TrainingSet, table: Path) -> None:
    """Check, before anything is trained, that reference labels are those of the models."""
    schemes = read_schemes(given.real_table, given.maps_table, session.options.label_mapping)
    references = LabelScheme.read(table)
    try:
        references.mapped_to(schemes.target)
    except LabelError as error:
        what = str(error).partition("; ")[0]
        raise LabelError(f"{table}: {what}; fill its column mapping") from error
    labels = [label for label in references.labels if label.index]
    if not any(label.name in schemes.target.names or label.mapping is not None for label in labels):
        raise LabelError(
            f"{table}: shares no name with {given.real_table}, and equal numbers may mean other "
            "structures; name labels alike, or fill its column mapping"
        )


def workflow_of(runs: Sequence[Run], resources: Sequence[Resources]) -> Any:
    """Workflow that trains and assesses several runs, each where its resources say."""

    def each(inputs: str, *names: str) -> dict[str, list[Any]]:
        return {name: [getattr(run, inputs)[name] for run in runs] for name in names}

    trained, assessed = runs[0].trained, runs[0].assessed
    own = each("trained", "config", "maps_table")
    tested = each("assessed", "images", "participants", "roles")
    return CompareModes(
        **each("trained", "images", "labels", "participants", "roles", "label_maps"),
        **each("assessed", "references", "names", "contrasts"),
        **{name: trained[name] for name in ("real_table", "label_mapping", "segmentation")},
        configs=own["config"],
        maps_tables=own["maps_table"],
        assessed=tested["images"],
        whose=tested["participants"],
        assessed_roles=tested["roles"],
        reference_table=assessed["reference_table"],
        learn_version=trained["code_version"],
        assess_version=assessed["code_version"],
        resources=list(resources),
    )


@attrs.frozen(kw_only=True)
class _Assessed:
    """Labelled images, of all contrasts to compare on, of everyone who is compared on."""

    pairs: list[tuple[ImageRecord, Path]]
    """Images with their reference labels."""
    table: Path
    """Table of the reference labels."""
    missing: list[tuple[ImageRecord, str]]
    """Images that cannot be opened, and why."""
    role: str
    """What these people are for in the trainings: ``test``, or else ``validate``."""

    @classmethod
    def find(cls, session: Session, splits: Sequence[TrainingSet]) -> "_Assessed":
        options = session.options
        suffixes = options.compare_suffixes or options.suffixes
        # Test participants of the table may have no labels, those that were asked for have to.
        sure = bool(options.test_participants or splits[0].test)
        roles = ["test"] if sure else ["test", "validate"]
        who = {who for split in splits for role in roles for who in _people(split, role)}
        images = session.images(participants=sorted(who), sessions=None, suffixes=suffixes)
        folder = options.references or options.real_labels or options.bids_dir
        labels = find_labels(folder, images, desc=options.labels_desc)
        labelled = {image.participant for image in images if image.name in labels}
        tested = {who for split in splits for who in _people(split, "test")}
        role = "test" if sure or labelled & tested else "validate"
        who = {who for split in splits for who in _people(split, role)}
        _warn_of_dropped(sorted(who - labelled), folder, suffixes)
        found = [i for i in images if i.name in labels and i.participant in who]
        for suffix in suffixes:
            if not any(image.suffix == suffix for image in found):
                raise DatasetError(
                    f"{folder}: has no label map of a {suffix} image of {', '.join(sorted(who))}; "
                    "add one, or choose other contrasts by --compare-modality"
                )
        pairs, missing = [], []
        for image in found:
            # Pydra would take a file that cannot be opened as a reason to stop everything.
            why = unreadable(image.path) or unreadable(labels[image.name])
            if why:
                missing.append((image, why))
            else:
                pairs.append((image, labels[image.name]))
        table = shared_table(folder, (labels[image.name] for image in found))
        return cls(pairs=pairs, table=table, missing=missing, role=role)

    def of(self, split: TrainingSet) -> dict[str, Any]:
        """Gather the inputs of ``Assess`` for those whom a split is compared on, but the model."""
        who = _people(split, self.role)
        pairs = [pair for pair in self.pairs if pair[0].participant in who]
        if not pairs:
            raise DatasetError(
                f"no image of {', '.join(sorted(who))} can be compared on; "
                "add labelled ones, or choose others by --test-participants"
            )
        return {
            "images": [image.path for image, _ in pairs],
            "references": [labels for _, labels in pairs],
            "names": [image.name for image, _ in pairs],
            "participants": [image.participant for image, _ in pairs],
            "contrasts": [self._contrast(image) for image, _ in pairs],
            "roles": [self.role] * len(pairs),
            "reference_table": self.table,
            "code_version": code_version(
                without=("augmentation", "bids", "bilevel", "reports", "synthesis")
            ),
        }

    def missing_of(self, split: TrainingSet) -> list[dict[str, str]]:
        """Images of those whom a split is compared on that cannot be opened."""
        who = _people(split, self.role)
        return [
            {"participant_id": image.participant, "image": image.name, "reason": why}
            for image, why in self.missing
            if image.participant in who
        ]

    def _contrast(self, image: ImageRecord) -> str:
        """Suffix, after what else tells images of that suffix apart but whose and which they are.

        Images that cannot be opened count, so that names do not change when they are there.
        """
        others = [*(i for i, _ in self.pairs), *(i for i, _ in self.missing)]
        alike = [other.entities for other in others if other.suffix == image.suffix]
        own = {
            name: value
            for name, value in image.entities.items()
            if name not in _SAME_CONTRAST and any(e.get(name) != value for e in alike)
        }
        return f"{join_entities(own)}_{image.suffix}" if own else image.suffix


def _people(split: TrainingSet, role: str) -> set[str]:
    """Whom models may be compared on: those to test on, or those who chose the weights."""
    if role == "test":
        return set(split.test_participants)
    return {image.participant for image, _ in split.validate}


def _warn_of_dropped(participants: Sequence[str], folder: Path, suffixes: Sequence[str]) -> None:
    """Name those who have nothing to compare on."""
    if participants:
        _log.warning(
            "%s: left out of the comparison, with no label map in %s of an image with the suffix %s",
            ", ".join(participants),
            folder,
            " or ".join(suffixes),
        )
