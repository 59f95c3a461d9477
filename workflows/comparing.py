"""The level ``group``: volumes and overlap of everyone in the output folder."""

import csv
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from traceback import format_exception
from typing import Any

import attrs

from l2s_pydra.bids.checksums import sha256_of
from l2s_pydra.bids.dataset import find_labels, shared_table
from l2s_pydra.bids.derivatives import dataset_path, derivative_path, write_text
from l2s_pydra.bids.entities import ImageRecord, join_entities
from l2s_pydra.bids.prov import group_prov
from l2s_pydra.errors import DatasetError
from l2s_pydra.steps.outputs import DATASET_OUTPUTS, IMAGE_OUTPUTS
from l2s_pydra.tasks import Evaluate

from .engine import Outcome, is_done, outcome_of, run
from .evaluate import EvaluateImage, EvaluateImages
from .model_files import ModelFiles
from .reuse import page_fault
from .session import Failure, Session, code_version

__all__ = ["group", "rewrite_group"]

_log = logging.getLogger(__name__)
_WHO = ("participant_id", "session_id", "desc", "image")


def group(session: Session, model: ModelFiles | None, failed: Sequence[Failure]) -> list[Failure]:
    """Gather volumes, compare with references, and write the page of the group.

    Parameters
    ----------
    session : Session
        The run.
    model : ModelFiles or None
        The model just used, if any: its segmentations are gathered.
    failed : sequence of Failure
        What went wrong before, for the page.

    Returns
    -------
    list of Failure
        The images that could not be gathered or compared.

    Raises
    ------
    DatasetError
        If there is nothing to gather, or the choice is not clear.
    """
    segmentation, found = _find_segmented(session, model)
    segmented, damaged = _readable(session, found)
    volumes = session.path("volumes", segmentation=segmentation)
    _join(segmented, [image.volumes for image in segmented], volumes)
    compared, failures = _compare(session, segmented)
    failures = [*damaged, *failures]
    roles = _roles(segmented, session.options.output_dir)
    dice = session.path("dice", segmentation=segmentation) if compared else None
    if dice:
        _join(list(compared), list(compared.values()), dice, roles)
    _write_page(
        session,
        model,
        segmented,
        dice or _earlier_dice(session, segmentation),
        (*failed, *failures),
    )
    # Pages of participants show where their volumes lie in the group, which is known only now. The
    # tables follow them, so that a run that is interrupted in between finds other tables next time.
    _refresh_pages(session, volumes)
    staged = [path for path in (volumes, dice) if path]
    provenance = _provenance(session, model, staged)
    session.publish()
    session.publish_provenance(provenance)
    _log.info("%d image(s) gathered, %d compared", len(segmented), len(compared))
    return failures


def _refresh_pages(session: Session, volumes: Path) -> None:
    """Write the pages of participants anew that would not be the same."""
    from l2s_pydra.steps.page_data import PageData
    from l2s_pydra.steps.report import read_groups

    options = session.options
    published = options.output_dir / volumes.relative_to(session.stage)
    same = published.is_file() and published.read_bytes() == volumes.read_bytes()
    groups = {**read_groups(options.output_dir), **read_groups(session.stage)}
    for data in sorted(options.output_dir.glob(str(PageData.place("sub-*", Path())))):
        who = data.relative_to(options.output_dir).parts[0]
        if not same or page_fault(who, options.output_dir, session.output.checksums) is not None:
            session.publish_page(who, groups)


def _provenance(
    session: Session, model: ModelFiles | None, staged: Sequence[Path]
) -> dict[str, Any]:
    """Tell what the tables of the group are made from; nothing if they are as they were."""
    output_dir = session.options.output_dir
    outputs = {path.relative_to(session.stage).as_posix(): sha256_of(path) for path in staged}
    told = output_dir / dataset_path(DATASET_OUTPUTS["provenance"], group="group", kind="act")
    places = {output_dir / name: digest for name, digest in outputs.items()}
    if told.is_file() and all(p.is_file() and sha256_of(p) == d for p, d in places.items()):
        return {}
    references = session.options.references or session.options.real_labels
    names = [name for name, folder in session.links.items() if folder == references]
    record = session.record(model)
    return group_prov(run=record, outputs=outputs, references=next(iter(names), None))


def rewrite_group(session: Session, model: ModelFiles | None) -> None:
    """Stage the page of the group anew, from the tables that are there.

    Parameters
    ----------
    session : Session
        The run.
    model : ModelFiles or None
        The model whose segmentations are shown, if there are several kinds.

    Raises
    ------
    DatasetError
        If there is nothing to show, or the choice is not clear.
    """
    segmentation, segmented = _find_segmented(session, model)
    _write_page(session, model, segmented, _earlier_dice(session, segmentation), ())
    _log.info("page of the group: %d image(s)", len(segmented))


def _earlier_dice(session: Session, segmentation: str) -> Path | None:
    """Table of Dice that an earlier run wrote, which stays where nothing is compared anew."""
    row = DATASET_OUTPUTS["dice"]
    dice = session.options.output_dir / dataset_path(row, segmentation=segmentation)
    return dice if dice.is_file() else None


def _write_page(
    session: Session,
    model: ModelFiles | None,
    segmented: Sequence["_Segmented"],
    dice: Path | None,
    failures: Sequence[Failure],
) -> None:
    """Stage the page of the group."""
    from l2s_pydra.steps.evaluate import collect_volumes
    from l2s_pydra.steps.report import report_group

    output_dir = session.options.output_dir
    session.stage.mkdir(parents=True, exist_ok=True)
    volumes = session.stage.with_name(f"{session.stage.name}_volumes.tsv")
    collect_volumes([i.volumes for i in segmented], [i.name for i in segmented], volumes)
    report_group(
        volumes=volumes,
        dice=dice,
        failures=[failure.row for failure in failures],
        out_file=session.path("group_page"),
        run=session.record(model),
        models=[model.description] if model else [],
        roles={image.name: role for image, role in _roles(segmented, output_dir).items()},
        output_dir=output_dir,
        segmentation=segmented[0].entities["segmentation"],
        bids_dir=session.options.bids_dir,
    )
    volumes.unlink()


@attrs.frozen
class _Segmented:
    """A segmentation in the output folder."""

    volumes: Path
    """Its table of volumes."""
    entities: Mapping[str, str] = attrs.field(hash=False)
    """Entities in its name."""

    @property
    def dseg(self) -> Path:
        """The segmentation."""
        return self.volumes.with_name(self.volumes.name.replace("_morph.tsv", "_dseg.nii.gz"))

    @property
    def labels(self) -> Path:
        """Its label table."""
        return self.volumes.with_name(self.volumes.name.replace("_morph.tsv", "_dseg.tsv"))

    @property
    def model(self) -> str:
        """Name of the model that made it, if that is known."""
        sidecar = self.dseg.with_name(self.dseg.name.replace(".nii.gz", ".json"))
        try:
            return str(json.loads(sidecar.read_text(encoding="utf-8"))["ModelName"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    @property
    def name(self) -> str:
        """Name of the image it was made from."""
        own = ("segmentation", "desc", "suffix")
        source = {key: value for key, value in self.entities.items() if key not in own}
        return f"{join_entities(source)}_{self.entities.get('desc', 'image')}"

    @property
    def who(self) -> tuple[str, str, str, str]:
        """Values of the first columns of a table of the group."""
        session = self.entities.get("session")
        return (
            f"sub-{self.entities['subject']}",
            f"ses-{session}" if session else "n/a",
            self.entities.get("desc", "n/a"),
            self.name,
        )


def _find_segmented(session: Session, model: ModelFiles | None) -> tuple[str, list[_Segmented]]:
    """Segmentations of one kind in the output folder, and the kind."""
    root = session.options.output_dir
    found: dict[str, list[_Segmented]] = {}
    for path in sorted(root.glob("sub-*/**/*_morph.tsv")):
        entities = ImageRecord.from_path(path, root).entities
        found.setdefault(entities.get("segmentation", ""), []).append(_Segmented(path, entities))
    wanted = session.options.segmentation or (model.segmentation if model else None)
    if wanted is None and len(found) > 1:
        raise DatasetError(
            f"{root}: holds several segmentations ({', '.join(sorted(found))}); "
            "choose one by --segmentation"
        )
    chosen = found.get(wanted, []) if wanted else next(iter(found.values()), [])
    if not chosen:
        raise DatasetError(
            f"{root}: holds no segmentation{f' seg-{wanted}' if wanted else ''}; "
            "run the level participant first"
        )
    segmentation = chosen[0].entities["segmentation"]
    _warn_without_volumes(root, segmentation)
    return segmentation, chosen


def _readable(
    session: Session, segmented: Sequence[_Segmented]
) -> tuple[list[_Segmented], list[Failure]]:
    """Leave out images whose table of volumes is damaged: each fails, and stops no other."""
    from l2s_pydra.steps.evaluate import collect_volumes

    good: list[_Segmented] = []
    errors: dict[_Segmented, Exception] = {}
    scratch = session.stage.with_name(f"{session.stage.name}_volumes.tsv")
    for image in segmented:
        try:
            collect_volumes([image.volumes], [image.name], scratch)
            good.append(image)
        except (DatasetError, csv.Error) as error:
            errors[image] = error
    scratch.unlink(missing_ok=True)
    if not good:
        raise next(iter(errors.values()))
    return good, [
        _failed(session, image, "Volumes", image.volumes, error) for image, error in errors.items()
    ]


def _failed(
    session: Session, image: _Segmented, what: str, path: Path, why: Exception | Outcome
) -> Failure:
    """Record that an image could not be gathered or compared."""
    if isinstance(why, Exception):
        why = Outcome(traceback="".join(format_exception(why)))
    return session.fail(
        Failure(
            name=f"{image.name}{what}",
            file=path.relative_to(session.options.output_dir).as_posix(),
            participant=image.who[0],
            outcome=why,
        )
    )


def _warn_without_volumes(root: Path, segmentation: str) -> None:
    """Tell of images that are segmented and yet not gathered."""
    bare = [
        path
        for path in sorted(root.glob(f"sub-*/**/*_seg-{segmentation}_*_dseg.nii.gz"))
        if "res" not in ImageRecord.from_path(path, root).entities
        and not path.with_name(path.name.replace("_dseg.nii.gz", "_morph.tsv")).is_file()
    ]
    if bare:
        _log.warning(
            "%d segmentation(s) without a table of volumes are not gathered, first %s; run the level "
            "participant again, without --seg-only",
            len(bare),
            bare[0].relative_to(root),
        )


def _roles(segmented: Sequence[_Segmented], output_dir: Path) -> dict[_Segmented, str]:
    """Find what each participant was to the model that segmented the image.

    ``learn``, ``validate`` or ``test``; ``none`` of those that had no part in the training; ``n/a``
    if the model is not one of the output folder.
    """
    splits: dict[str, dict[str, str] | None] = {}
    roles = {}
    for image in segmented:
        name = image.model
        if name not in splits:
            table = output_dir / "models" / f"model-{name}" / "splits.tsv"
            splits[name] = _read_splits(table) if table.is_file() else None
        known = splits[name]
        roles[image] = "n/a" if known is None else known.get(image.who[0], "none")
    return roles


def _read_splits(table: Path) -> dict[str, str]:
    with table.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row.get("participant_id", ""): row.get("role") or "n/a" for row in rows}


def _join(
    images: Sequence[_Segmented],
    tables: Iterable[Path],
    out_file: Path,
    roles: Mapping[_Segmented, str] | None = None,
) -> None:
    """Write one table of many, each row after the columns that say whose it is.

    Tables of earlier versions may lack columns, and rows may be cut short: what is missing is
    ``n/a``. Values beyond the columns are left out.
    """
    found: list[tuple[_Segmented, dict[str, str]]] = []
    for image, table in zip(images, tables, strict=True):
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t", restkey="")
            found += [(image, {k: v for k, v in row.items() if k}) for row in rows]
    columns = list(dict.fromkeys(column for _, row in found for column in row))
    lines = [[*_WHO, *(["role"] if roles else []), *columns]]
    for image, row in found:
        role = [roles[image]] if roles else []
        lines.append([*image.who, *role, *(row.get(column) or "n/a" for column in columns)])
    write_text(out_file, "".join("\t".join(line) + "\n" for line in lines))


def _compare(
    session: Session, segmented: Sequence[_Segmented]
) -> tuple[dict[_Segmented, Path], list[Failure]]:
    """Compare the segmentations that have a reference, each on its own."""
    references = _find_references(session, segmented)
    failures = []
    for image in tuple(references):
        gone = next((p for p in (image.dseg, image.labels) if not p.is_file()), None)
        if gone is not None:
            del references[image]
            error = DatasetError(f"{gone}: is missing; run the level participant again")
            failures.append(_failed(session, image, "Dice", image.dseg, error))
    if not references:
        return {}, failures
    folder = session.options.references or session.options.real_labels or session.options.bids_dir
    # --label-mapping is from the label maps, not from the references: their own table maps them.
    shared = {
        "reference_table": shared_table(folder, references.values()),
        "label_mapping": None,
        "code_version": code_version(),
    }
    tasks = {image: _tasks(image, references[image], shared) for image in references}
    images = [image for image, (task, _) in tasks.items() if not is_done(task, session.cache)]
    if images:
        workflow = EvaluateImages(
            dsegs=[image.dseg for image in images],
            names=[image.name for image in images],
            references=[references[image] for image in images],
            model_labels=[image.labels for image in images],
            **shared,
        )
        parts = [part for image in images for part in tasks[image]]
        n_procs, _ = session.share(len(images))
        run(workflow, parts, session.cache, session.worker(n_procs))
    outcomes = {image: outcome_of(both, session.cache) for image, both in tasks.items()}
    tables = {image: Path(o.outputs.table) for image, o in outcomes.items() if o.outputs}
    failures += [
        _failed(session, image, "Dice", image.dseg, outcome)
        for image, outcome in outcomes.items()
        if not outcome.outputs
    ]
    return tables, failures


def _tasks(image: _Segmented, reference: Path, shared: Mapping[str, Any]) -> list[Any]:
    """Return the task that compares an image, and the workflow around it."""
    task = Evaluate(
        dsegs=[image.dseg],
        names=[image.name],
        references=[reference],
        model_labels=image.labels,
        **shared,
    )
    workflow = EvaluateImage(
        dseg=image.dseg,
        name=image.name,
        reference=reference,
        model_labels=image.labels,
        **shared,
    )
    return [task, workflow]


def _find_references(session: Session, segmented: Sequence[_Segmented]) -> dict[_Segmented, Path]:
    """Find reference labels of the images whose segmentations are there."""
    options = session.options
    folder = options.references or options.real_labels
    if folder is None:
        return {}
    segmentation = segmented[0].entities["segmentation"]
    by_path = {image.dseg: image for image in segmented}
    descs = {image.entities.get("desc", "") for image in segmented}
    raw = session.images(participants=None, sessions=None, suffixes=sorted(descs), filters=None)
    images = {
        record.name: by_path[dseg]
        for record in raw
        if (
            dseg := options.output_dir
            / derivative_path(record.entities, IMAGE_OUTPUTS["dseg"], segmentation=segmentation)
        )
        in by_path
    }
    present = [record for record in raw if record.name in images]
    try:
        labels = find_labels(folder, present, desc=options.labels_desc)
    except DatasetError as error:
        if options.references is not None:
            raise
        _log.warning("no comparison with references: %s", error)
        return {}
    return {images[name]: path for name, path in labels.items()}
