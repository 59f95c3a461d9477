"""Pydra workflows that train several models and say how good each is."""

from typing import Any

from fileformats.text import Tsv
from pydra.compose import workflow

from l2s_pydra import __version__
from l2s_pydra.tasks import Assess, Image, Learn, Resources

__all__ = ["CompareModes", "LearnAndAssess"]


@workflow.define(outputs=["model", "table", "failures"])
def LearnAndAssess(  # noqa: N802 (Pydra makes a class of it)
    images: list[Image],
    labels: list[Image],
    participants: list[str],
    roles: list[str],
    label_maps: list[Image],
    config: dict[str, Any],
    assessed: list[Image],
    references: list[Image],
    names: list[str],
    whose: list[str],
    contrasts: list[str],
    assessed_roles: list[str],
    real_table: Tsv,
    reference_table: Tsv,
    maps_table: Tsv | None = None,
    label_mapping: Tsv | None = None,
    segmentation: str = "learned",
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    learn_version: str = __version__,
    assess_version: str = __version__,
) -> tuple[str, str, str]:
    """Train a model and assess it; a workflow of its own, so that a failure stops no other.

    Parameters
    ----------
    images : list of Image
        Real images, by their roles: to learn from, to validate on, to test on.
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
    assessed : list of Image
        Images to assess the model on.
    references : list of Image
        Reference labels on the grid of each of them.
    names : list of str
        Unique name of each of them.
    whose : list of str
        Participant of each of them.
    contrasts : list of str
        Contrast of each of them.
    assessed_roles : list of str
        What each of them was for in the training: ``test`` or ``validate``.
    real_table : Tsv
        BIDS ``dseg.tsv`` of ``labels``.
    reference_table : Tsv
        BIDS ``dseg.tsv`` of ``references``.
    maps_table : Tsv, optional
        BIDS ``dseg.tsv`` of ``label_maps``.
    label_mapping : Tsv, optional
        Labels of ``label_maps`` to those of ``labels``.
    segmentation : str
        Value of the ``seg-`` entity of what the model will write.
    resources : Resources
        Where to run; not hashed.
    learn_version, assess_version : str
        Version of the software, of what each of the two steps depends on.

    Returns
    -------
    model : str
        The model folder.
    table : str
        One row per image and structure.
    failures : str
        The images that could not be assessed.
    """
    learn = workflow.add(
        Learn(
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
            code_version=learn_version,
        )
    )
    assess = workflow.add(
        Assess(
            images=assessed,
            references=references,
            names=names,
            participants=whose,
            contrasts=contrasts,
            roles=assessed_roles,
            weights=learn.weights,
            config=learn.model_config,
            labels=learn.model_labels,
            reference_table=reference_table,
            resources=resources,
            code_version=assess_version,
        )
    )
    return learn.model, assess.table, assess.failures


@workflow.define(outputs=["models", "tables", "failures"])
def CompareModes(  # noqa: N802 (Pydra makes a class of it)
    images: list[list[Image]],
    labels: list[list[Image]],
    participants: list[list[str]],
    roles: list[list[str]],
    label_maps: list[list[Image]],
    configs: list[dict[str, Any]],
    assessed: list[list[Image]],
    references: list[list[Image]],
    names: list[list[str]],
    whose: list[list[str]],
    contrasts: list[list[str]],
    assessed_roles: list[list[str]],
    maps_tables: list[Tsv | None],
    resources: list[Resources],
    real_table: Tsv,
    reference_table: Tsv,
    label_mapping: Tsv | None = None,
    segmentation: str = "learned",
    learn_version: str = __version__,
    assess_version: str = __version__,
) -> tuple[list[str], list[str], list[str]]:
    """Train and assess many models; each input that is a list has one element for each of them.

    Parameters
    ----------
    images, labels, participants, roles, label_maps, configs, maps_tables, resources : lists
        Of each training: what :class:`LearnAndAssess` takes by those names.
    assessed, references, names, whose, contrasts, assessed_roles : lists
        Of each training: what its model is assessed on.
    real_table : Tsv
        BIDS ``dseg.tsv`` of ``labels``.
    reference_table : Tsv
        BIDS ``dseg.tsv`` of ``references``.
    label_mapping : Tsv, optional
        Labels of ``label_maps`` to those of ``labels``.
    segmentation : str
        Value of the ``seg-`` entity of what the models will write.
    learn_version, assess_version : str
        Version of the software, of what each of the two steps depends on.

    Returns
    -------
    models : list of str
        The model folders.
    tables : list of str
        Table of each.
    failures : list of str
        Images of each that could not be assessed.
    """
    split: dict[str, Any] = {
        "images": images,
        "labels": labels,
        "participants": participants,
        "roles": roles,
        "label_maps": label_maps,
        "config": configs,
        "assessed": assessed,
        "references": references,
        "names": names,
        "whose": whose,
        "contrasts": contrasts,
        "assessed_roles": assessed_roles,
        "maps_table": maps_tables,
        "resources": resources,
    }
    run = workflow.add(
        LearnAndAssess(
            real_table=real_table,
            reference_table=reference_table,
            label_mapping=label_mapping,
            segmentation=segmentation,
            learn_version=learn_version,
            assess_version=assess_version,
        )
        .split(tuple(split), **split)
        .combine(list(split)),
        name="run",
    )
    return run.model, run.table, run.failures
