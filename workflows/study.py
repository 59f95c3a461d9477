"""A whole study as one Pydra workflow: learn, segment every image, compare with the references.

Pydra hashes a folder by the time of its top alone, so a BIDS data set is no input of a workflow:
:func:`study_inputs` reads it once, outside, into lists of files, which are hashed by content.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fileformats.application import Json
from fileformats.generic import File
from fileformats.text import Tsv
from pydra.compose import python, workflow

from l2s_pydra import __version__
from l2s_pydra.config import LearnConfig
from l2s_pydra.tasks import Image, Resources, Segment

from .evaluate import EvaluateImage
from .learn import LearnWorkflow
from .segment import SegmentDataset

__all__ = ["SegmentAndEvaluate", "StudyWorkflow", "Together", "study_inputs"]


@workflow.define(outputs=["tree", "summary", "table"])
def SegmentAndEvaluate(  # noqa: N802 (Pydra makes a class of it)
    image: Image,
    weights: File,
    config: Json,
    labels: Tsv,
    entities: dict[str, str],
    source: str,
    name: str,
    reference: Image,
    reference_table: Tsv,
    flip: bool = True,
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    code_version: str = __version__,
) -> tuple[str, str, str]:
    """Segment one image and compare it with its reference.

    Parameters
    ----------
    image : Image
        The image.
    weights : File
        ``weights.safetensors`` of the model.
    config : Json
        ``config.json`` of the model.
    labels : Tsv
        ``labels.tsv`` of the model.
    entities : dict
        BIDS entities of the image; they name the outputs.
    source : str
        Path of the image relative to its data set.
    name : str
        Unique name of the image, for the table.
    reference : Image
        Reference labels on the grid of the image.
    reference_table : Tsv
        BIDS ``dseg.tsv`` of the reference.
    flip : bool
        Average with the prediction on the left-right mirror image.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software.

    Returns
    -------
    tree : str
        Staged BIDS derivative.
    summary : str
        What the report of the participant needs, as JSON.
    table : str
        One row per label: Dice overlap and both volumes.
    """
    segment = workflow.add(
        Segment(
            image=image,
            weights=weights,
            config=config,
            labels=labels,
            entities=entities,
            source=source,
            flip=flip,
            resources=resources,
            code_version=code_version,
        )
    )
    # A workflow, because a list with a result that is not there yet is no list of files to Pydra.
    evaluate = workflow.add(
        EvaluateImage(
            dseg=segment.dseg,
            name=name,
            reference=reference,
            reference_table=reference_table,
            model_labels=labels,
            code_version=code_version,
        )
    )
    return segment.tree, segment.summary, evaluate.table


@workflow.define(outputs=["model", "trees", "summaries", "tables"])
def StudyWorkflow(  # noqa: N802 (Pydra makes a class of it)
    images: list[Image],
    labels: list[Image],
    participants: list[str],
    roles: list[str],
    label_maps: list[Image],
    config: dict[str, Any],
    real_table: Tsv,
    scans: list[Image],
    entities: list[dict[str, str]],
    sources: list[str],
    names: list[str],
    references: list[Image],
    reference_table: Tsv,
    other_scans: list[Image],
    other_entities: list[dict[str, str]],
    other_sources: list[str],
    maps_table: Tsv | None = None,
    label_mapping: Tsv | None = None,
    segmentation: str = "learned",
    flip: bool = True,
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    code_version: str = __version__,
) -> tuple[str, list[str], list[str], list[str]]:
    """Learn from some participants, segment everyone, compare where there is a reference.

    :func:`study_inputs` makes the inputs of a BIDS data set.

    Parameters
    ----------
    images : list of Image
        Real images, those to learn from and those to validate on.
    labels : list of Image
        Manual labels on the grid of each image.
    participants : list of str
        Participant of each image.
    roles : list of str
        ``learn``, ``validate`` or ``test``, one per image.
    label_maps : list of Image
        Label maps that synthetic images are made from; may be empty.
    config : dict
        Settings, as ``l2s_pydra.config.LearnConfig.to_dict`` gives them.
    real_table : Tsv
        BIDS ``dseg.tsv`` of ``labels``.
    scans : list of Image
        Images to segment that have a reference.
    entities : list of dict
        BIDS entities of each scan.
    sources : list of str
        Path of each scan relative to its data set.
    names : list of str
        Unique name of each scan, for the tables.
    references : list of Image
        Reference labels on the grid of each scan.
    reference_table : Tsv
        BIDS ``dseg.tsv`` of ``references``.
    other_scans : list of Image
        Images to segment that have none.
    other_entities : list of dict
        BIDS entities of each of these.
    other_sources : list of str
        Path of each of these relative to its data set.
    maps_table : Tsv, optional
        BIDS ``dseg.tsv`` of ``label_maps``.
    label_mapping : Tsv, optional
        Labels of ``label_maps`` to those of ``labels``.
    segmentation : str
        Value of the ``seg-`` entity.
    flip : bool
        Average with the prediction on the left-right mirror image.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software.

    Returns
    -------
    model : str
        The model folder.
    trees : list of str
        Staged BIDS derivative of each scan, then of each other scan.
    summaries : list of str
        What the report needs, in the same order.
    tables : list of str
        Comparison of each scan with its reference.
    """
    learn = workflow.add(
        LearnWorkflow(
            images=images,
            labels=labels,
            participants=participants,
            roles=roles,
            label_maps=label_maps,
            config=config,
            real_table=real_table,
            maps_table=maps_table,
            label_mapping=label_mapping,
            segmentation=segmentation,
            resources=resources,
            code_version=code_version,
        ),
        name="learn",
    )
    model: dict[str, Any] = {
        "weights": learn.weights,
        "config": learn.model_config,
        "labels": learn.model_labels,
    }
    options: dict[str, Any] = {"flip": flip, "resources": resources, "code_version": code_version}
    split: dict[str, Any] = {
        "image": scans,
        "entities": entities,
        "source": sources,
        "name": names,
        "reference": references,
    }
    # Both in one workflow for each scan: one that fails keeps no other from being compared.
    scan = workflow.add(
        SegmentAndEvaluate(reference_table=reference_table, **model, **options)
        .split(tuple(split), **split)
        .combine(list(split)),
        name="scan",
    )
    other = workflow.add(
        SegmentDataset(
            images=other_scans,
            entities=other_entities,
            sources=other_sources,
            **model,
            **options,
        ),
        name="other",
    )
    trees = workflow.add(Together(first=scan.tree, second=other.trees), name="trees")
    summaries = workflow.add(Together(first=scan.summary, second=other.summaries), name="summaries")
    return learn.model, trees.both, summaries.both, scan.table


@python.define(outputs=["both"])
def Together(first: list[str], second: list[str]) -> list[str]:  # noqa: N802 (a class, too)
    """Put two lists together, which results that are not there yet cannot be.

    Parameters
    ----------
    first, second : list of str
        The lists.

    Returns
    -------
    both : list of str
        All of ``first``, then all of ``second``.
    """
    return [*first, *second]


def study_inputs(
    bids_dir: str | Path,
    real_labels: str | Path,
    label_maps: str | Path | None = None,
    *,
    config: LearnConfig,
    participants: Iterable[str] | None = None,
    suffixes: Sequence[str] = ("T1w",),
    segmentation: str = "learned",
    **roles: Any,
) -> dict[str, Any]:
    """Read a BIDS data set into the inputs of :func:`StudyWorkflow` and ``init_study_wf``.

    Parameters
    ----------
    bids_dir : path
        Root of the raw data set.
    real_labels : path
        Root of the derivative with manual labels of some of its images; they are the references too.
    label_maps : path, optional
        Root of a derivative with label maps that synthetic images are made from.
    config : LearnConfig
        Settings of the training.
    participants : iterable of str, optional
        Whom to segment; everyone by default.
    suffixes : sequence of str
        Contrasts to learn from and to segment.
    segmentation : str, default="learned"
        Value of the ``seg-`` entity.
    **roles
        Further arguments of :func:`l2s_pydra.bids.dataset.build_training_set`, such as
        ``learn_participants``.

    Returns
    -------
    dict
        Inputs by name; each file once, pairs in order.

    Raises
    ------
    DatasetError
        If the data set lacks what is needed.
    """
    from l2s_pydra.bids.dataset import build_training_set, find_images, find_labels, shared_table

    found = build_training_set(bids_dir, real_labels, label_maps, suffixes=suffixes, **roles)
    by_role: Mapping[str, Any] = {
        "learn": found.learn,
        "validate": found.validate,
        "test": found.test,
    }
    pairs = [(role, image, truth) for role, of in by_role.items() for image, truth in of]
    images = find_images(bids_dir, participants=participants, suffixes=suffixes)
    truth_of = find_labels(real_labels, images)
    scans = [image for image in images if image.name in truth_of]
    others = [image for image in images if image.name not in truth_of]
    references = [truth_of[image.name] for image in scans]
    return {
        "images": [image.path for _, image, _ in pairs],
        "labels": [truth for _, _, truth in pairs],
        "participants": [image.participant for _, image, _ in pairs],
        "roles": [role for role, _, _ in pairs],
        "label_maps": [record.path for record in found.label_maps],
        "config": config.to_dict(),
        "real_table": found.real_table,
        "maps_table": found.maps_table,
        "segmentation": segmentation,
        "scans": [image.path for image in scans],
        "entities": [image.entities for image in scans],
        "sources": [image.relative_path for image in scans],
        "names": [image.name for image in scans],
        "references": references,
        "reference_table": shared_table(real_labels, references)
        if references
        else found.real_table,
        "other_scans": [image.path for image in others],
        "other_entities": [image.entities for image in others],
        "other_sources": [image.relative_path for image in others],
    }
