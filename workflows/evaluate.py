"""Pydra workflows that compare segmentations with references."""

from typing import Any

from fileformats.text import Tsv
from pydra.compose import workflow

from l2s_pydra import __version__
from l2s_pydra.tasks import Evaluate, Image

__all__ = ["EvaluateDataset", "EvaluateImage", "EvaluateImages"]


@workflow.define(outputs=["table"])
def EvaluateImage(  # noqa: N802 (Pydra makes a class of it)
    dseg: Image,
    name: str,
    reference: Image,
    reference_table: Tsv,
    model_labels: Tsv,
    label_mapping: Tsv | None = None,
    code_version: str = __version__,
) -> str:
    """Compare one segmentation with its reference.

    Parameters
    ----------
    dseg : Image
        The segmentation.
    name : str
        Unique name of it.
    reference : Image
        Reference labels on the same grid.
    reference_table : Tsv
        BIDS ``dseg.tsv`` of the reference.
    model_labels : Tsv
        BIDS ``dseg.tsv`` of the segmentation.
    label_mapping : Tsv, optional
        Labels of the reference to those of the segmentation.
    code_version : str
        Version of the software.

    Returns
    -------
    table : str
        One row per label: Dice overlap and both volumes.
    """
    evaluate = workflow.add(
        Evaluate(
            dsegs=[dseg],
            names=[name],
            references=[reference],
            reference_table=reference_table,
            model_labels=model_labels,
            label_mapping=label_mapping,
            code_version=code_version,
        )
    )
    return evaluate.table


@workflow.define(outputs=["tables"])
def EvaluateDataset(  # noqa: N802 (Pydra makes a class of it)
    dsegs: list[Image],
    names: list[str],
    references: list[Image],
    reference_table: Tsv,
    model_labels: list[Tsv],
    label_mapping: Tsv | None = None,
    code_version: str = __version__,
) -> list[str]:
    """Compare many segmentations with their references, each on its own.

    Parameters
    ----------
    dsegs : list of Image
        The segmentations.
    names : list of str
        Unique name of each.
    references : list of Image
        Reference labels of each.
    reference_table : Tsv
        BIDS ``dseg.tsv`` of the references.
    model_labels : list of Tsv
        BIDS ``dseg.tsv`` of each.
    label_mapping : Tsv, optional
        Labels of the references to those of the segmentations.
    code_version : str
        Version of the software.

    Returns
    -------
    tables : list of str
        Table of each image.
    """
    split: dict[str, Any] = {
        "dseg": dsegs,
        "name": names,
        "reference": references,
        "model_labels": model_labels,
    }
    image = workflow.add(
        EvaluateImage(
            reference_table=reference_table,
            label_mapping=label_mapping,
            code_version=code_version,
        )
        .split(tuple(split), **split)
        .combine(list(split)),
        name="image",
    )
    return image.table


EvaluateImages = EvaluateDataset
"""The same by its former name."""
