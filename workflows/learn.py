"""Pydra workflow that trains a model."""

from typing import Any

from fileformats.generic import File
from fileformats.text import Tsv
from pydra.compose import workflow

from l2s_pydra import __version__
from l2s_pydra.tasks import Image, Learn, Resources

__all__ = ["LearnModel", "LearnWorkflow"]


@workflow.define(outputs=["model", "weights", "model_config", "model_labels"])
def LearnWorkflow(  # noqa: N802 (Pydra makes a class of it)
    images: list[Image],
    labels: list[Image],
    participants: list[str],
    roles: list[str],
    label_maps: list[Image],
    config: dict[str, Any],
    real_table: Tsv,
    maps_table: Tsv | None = None,
    label_mapping: Tsv | None = None,
    validation_maps: list[Image] = [],  # noqa: B006 (Pydra copies it)
    start_from: File | None = None,
    segmentation: str = "learned",
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    code_version: str = __version__,
) -> tuple[str, str, str, str]:
    """Train a model; the inputs are those of :class:`l2s_pydra.tasks.Learn`.

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
    maps_table : Tsv, optional
        BIDS ``dseg.tsv`` of ``label_maps``.
    label_mapping : Tsv, optional
        Labels of ``label_maps`` to those of ``labels``.
    validation_maps : list of Image
        Without images: label maps whose synthetic images choose the weights; empty otherwise.
    start_from : File, optional
        ``weights.safetensors`` in the folder of the model that the training starts from.
    segmentation : str
        Value of the ``seg-`` entity of what the model will write.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software.

    Returns
    -------
    model : str
        The model folder; a string, as Pydra copies the files that a workflow returns.
    weights, model_config, model_labels : str
        ``weights.safetensors``, ``config.json`` and ``labels.tsv`` in it.
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
            validation_maps=validation_maps,
            start_from=start_from,
            segmentation=segmentation,
            resources=resources,
            code_version=code_version,
        )
    )
    return learn.model, learn.weights, learn.model_config, learn.model_labels


LearnModel = LearnWorkflow
"""The same by its former name."""
