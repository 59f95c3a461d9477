"""Pydra task that trains a segmenter with a given synthesis."""

from pathlib import Path
from typing import Any

from fileformats.application import Json
from fileformats.generic import Directory, File
from fileformats.text import Tsv
from pydra.compose import python

from .. import __version__
from .checks import one_of
from .define import define
from .resources import Image, Resources

__all__ = ["TrainSegmenter"]


@define
class TrainSegmenter(python.Task["TrainSegmenter.Outputs"]):
    """Train a segmenter with a synthesis that stays as it is.

    Parameters
    ----------
    images : list of Image
        Real images, those to learn from, to validate on and to test on. In the mode ``synthseg`` the
        segmenter never sees those to learn from; they give the grid.
    labels : list of Image
        Manual labels on the grid of each image.
    participants : list of str
        Participant of each image; names the task's inputs too, as Pydra hashes content only.
    roles : list of str
        ``learn``, ``validate`` or ``test``, one per image.
    label_maps : list of Image
        Label maps that synthetic images are made from; may be empty.
    config : dict
        Settings, as ``l2s_pydra.config.LearnConfig.to_dict`` gives them; ``training.mode`` in them does
        not count.
    real_table : Tsv
        BIDS ``dseg.tsv`` of ``labels``.
    maps_table : Tsv, optional
        BIDS ``dseg.tsv`` of ``label_maps``; ``real_table`` if there is none.
    label_mapping : Tsv, optional
        Table with the columns ``index`` and ``mapping``: labels of ``label_maps`` to those of
        ``labels``.
    mode : str
        ``synthseg`` (synthetic images only), or a mode that adds the labelled images: ``mixed``,
        ``mixed-randomised``, ``finetuned`` or ``finetuned-averaged``.
    generator : Json, optional
        ``generator.json``, the synthesis that ``LearnSynthesis`` learned; the ranges in ``config`` if
        there is none.
    theta : Json, optional
        ``theta.json``: learned values alone, for the augmentation in ``config``.
    priors : Json, optional
        ``priors.json`` of ``EstimatePriors`` or ``LearnSynthesis``.
    segmentation : str
        Value of the ``seg-`` entity of what the model will write.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software; another version trains anew.
    """

    images: list[Image]
    labels: list[Image]
    participants: list[str]
    roles: list[str] = python.arg(validator=one_of("learn", "validate", "test"))
    label_maps: list[Image]
    config: dict[str, Any]
    real_table: Tsv
    maps_table: Tsv | None = None
    label_mapping: Tsv | None = None
    mode: str = python.arg(
        default="synthseg",
        validator=one_of(
            "synthseg", "mixed", "mixed-randomised", "finetuned", "finetuned-averaged"
        ),
    )
    generator: Json | None = None
    theta: Json | None = None
    priors: Json | None = None
    segmentation: str = "learned"
    resources: Resources = Resources()
    code_version: str = __version__

    class Outputs(python.Outputs):
        """The model.

        Parameters
        ----------
        model : Directory
            The model folder.
        weights : File
            ``weights.safetensors`` in it.
        model_config : Json
            ``config.json`` in it.
        model_labels : Tsv
            ``labels.tsv`` in it.
        """

        model: Directory
        weights: File
        model_config: Json
        model_labels: Tsv

    @staticmethod
    def function(
        images: list[File],
        labels: list[File],
        participants: list[str],
        roles: list[str],
        label_maps: list[File],
        config: dict[str, Any],
        real_table: File,
        maps_table: File | None,
        label_mapping: File | None,
        mode: str,
        generator: File | None,
        theta: File | None,
        priors: File | None,
        segmentation: str,
        resources: Resources,
        code_version: str,
    ) -> tuple[Path, Path, Path, Path]:
        """Train with :func:`l2s_pydra.steps.train.train_segmenter`."""
        from ..steps.train import train_segmenter

        model = train_segmenter(
            images=[Path(image) for image in images],
            labels=[Path(label) for label in labels],
            participants=participants,
            roles=roles,
            label_maps=[Path(label_map) for label_map in label_maps],
            real_table=Path(real_table),
            maps_table=Path(maps_table) if maps_table else None,
            label_mapping=Path(label_mapping) if label_mapping else None,
            config=config,
            mode=mode,
            generator=Path(generator) if generator else None,
            theta=Path(theta) if theta else None,
            priors=Path(priors) if priors else None,
            segmentation=segmentation,
            out_dir=Path.cwd(),
            **resources.of_training(),
        )
        return model, model / "weights.safetensors", model / "config.json", model / "labels.tsv"
