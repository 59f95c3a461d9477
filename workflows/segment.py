"""Pydra workflows that segment images."""

from typing import Any

from fileformats.application import Json
from fileformats.generic import File
from fileformats.text import Tsv
from pydra.compose import workflow

from l2s_pydra import __version__
from l2s_pydra.tasks import Image, Resources, Segment

__all__ = ["SegmentDataset", "SegmentImage", "SegmentImages"]


@workflow.define(outputs=["tree", "summary", "dseg"])
def SegmentImage(  # noqa: N802 (Pydra makes a class of it)
    image: Image,
    weights: File,
    config: Json,
    labels: Tsv,
    entities: dict[str, str],
    source: str,
    probseg: bool = False,
    entropy: bool = False,
    res: str | None = None,
    keep_largest: list[str] | None = None,
    flip: bool = True,
    test_time_draws: int = 1,
    model_in_dataset: bool = True,
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    code_version: str = __version__,
) -> tuple[str, str, str]:
    """Segment one image.

    A workflow of its own for each image, because Pydra stops a node for all images when one fails.

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
    probseg : bool
        Write the posterior of every label too.
    entropy : bool
        Write the entropy of the posteriors too.
    res : str, optional
        Voxel size of the model's grid, such as ``1mm``: write outputs on that grid too.
    keep_largest : list of str, optional
        Structures of which only the largest piece is kept: names, ``all``, or none for all that do
        not rightly come in parts.
    flip : bool
        Average with the prediction on the left-right mirror image.
    test_time_draws : int
        Average over so many draws of small changes of the image.
    model_in_dataset : bool
        Whether the model lies in ``models`` of the data set that the tree will be part of;
        otherwise sidecars name it by its checksum alone.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software.

    Returns
    -------
    tree : str
        Staged BIDS derivative; a string, as Pydra copies the files that a workflow returns.
    summary : str
        What the report of the participant needs, as JSON.
    dseg : str
        The segmentation in the tree.
    """
    segment = workflow.add(
        Segment(
            image=image,
            weights=weights,
            config=config,
            labels=labels,
            entities=entities,
            source=source,
            probseg=probseg,
            entropy=entropy,
            res=res,
            keep_largest=keep_largest,
            flip=flip,
            test_time_draws=test_time_draws,
            model_in_dataset=model_in_dataset,
            resources=resources,
            code_version=code_version,
        )
    )
    return segment.tree, segment.summary, segment.dseg


@workflow.define(outputs=["trees", "summaries", "dsegs"])
def SegmentDataset(  # noqa: N802 (Pydra makes a class of it)
    images: list[Image],
    entities: list[dict[str, str]],
    sources: list[str],
    weights: File,
    config: Json,
    labels: Tsv,
    probseg: bool = False,
    entropy: bool = False,
    res: str | None = None,
    keep_largest: list[str] | None = None,
    flip: bool = True,
    test_time_draws: int = 1,
    model_in_dataset: bool = True,
    resources: Resources = Resources(),  # noqa: B008 (frozen)
    code_version: str = __version__,
) -> tuple[list[str], list[str], list[str]]:
    """Segment many images, such as those of a BIDS data set, with one model.

    Each in a workflow of its own (:func:`SegmentImage`), so that what is equal to an earlier run is
    taken from the cache, image by image.

    Parameters
    ----------
    images : list of Image
        The images.
    entities : list of dict
        BIDS entities of each image.
    sources : list of str
        Path of each image relative to its data set.
    weights : File
        ``weights.safetensors`` of the model.
    config : Json
        ``config.json`` of the model.
    labels : Tsv
        ``labels.tsv`` of the model.
    probseg : bool
        Write the posterior of every label too.
    entropy : bool
        Write the entropy of the posteriors too.
    res : str, optional
        Voxel size of the model's grid, such as ``1mm``: write outputs on that grid too.
    keep_largest : list of str, optional
        Structures of which only the largest piece is kept: names, ``all``, or none for all that do
        not rightly come in parts.
    flip : bool
        Average with the prediction on the left-right mirror image.
    test_time_draws : int
        Average over so many draws of small changes of the image.
    model_in_dataset : bool
        Whether the model lies in ``models`` of the data set that the tree will be part of;
        otherwise sidecars name it by its checksum alone.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software.

    Returns
    -------
    trees : list of str
        Staged BIDS derivative of each image.
    summaries : list of str
        What the report needs, of each image.
    dsegs : list of str
        The segmentation in each tree.
    """
    split: dict[str, Any] = {"image": images, "entities": entities, "source": sources}
    image = workflow.add(
        SegmentImage(
            weights=weights,
            config=config,
            labels=labels,
            probseg=probseg,
            entropy=entropy,
            res=res,
            keep_largest=keep_largest,
            flip=flip,
            test_time_draws=test_time_draws,
            model_in_dataset=model_in_dataset,
            resources=resources,
            code_version=code_version,
        )
        .split(tuple(split), **split)
        .combine(list(split)),
        name="image",
    )
    return image.tree, image.summary, image.dseg


SegmentImages = SegmentDataset
"""The same by its former name."""
