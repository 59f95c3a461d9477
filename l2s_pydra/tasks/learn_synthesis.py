"""Pydra task that learns a synthesis."""

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

__all__ = ["LearnSynthesis"]


@define
class LearnSynthesis(python.Task["LearnSynthesis.Outputs"]):
    """Learn how synthetic images shall look, together with a segmenter (Learn2Synth).

    Parameters
    ----------
    images : list of Image
        Real images, those to learn from, to validate on and to test on.
    labels : list of Image
        Manual labels on the grid of each image.
    participants : list of str
        Participant of each image; names the task's inputs too, as Pydra hashes content only.
    roles : list of str
        ``learn``, ``validate`` or ``test``, one per image.
    label_maps : list of Image
        Label maps that synthetic images are made from; may be empty.
    config : dict
        Settings, as ``l2s_pydra.config.LearnConfig.to_dict`` gives them; ``training.mode`` is
        ``learn2synth`` or ``learn2synth-mixed``.
    real_table : Tsv
        BIDS ``dseg.tsv`` of ``labels``.
    maps_table : Tsv, optional
        BIDS ``dseg.tsv`` of ``label_maps``; ``real_table`` if there is none.
    label_mapping : Tsv, optional
        Table with the columns ``index`` and ``mapping``: labels of ``label_maps`` to those of
        ``labels``.
    segmentation : str
        Value of the ``seg-`` entity of what the model will write.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software; another version learns anew.
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
    segmentation: str = "learned"
    resources: Resources = Resources()
    code_version: str = __version__

    class Outputs(python.Outputs):
        """The synthesis, and the model that was trained with it.

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
        generator : Json
            ``generator.json`` in it: the whole synthesis, learned values and fixed ranges, for
            ``TrainSegmenter``, ``SynthesizeImages`` and other software.
        theta : Json
            ``theta.json`` in it: the learned values at the start, at the end and averaged.
        priors : Json
            ``priors.json`` in it: intensities of the groups as measured in the learning images.
        """

        model: Directory
        weights: File
        model_config: Json
        model_labels: Tsv
        generator: Json
        theta: Json
        priors: Json

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
        segmentation: str,
        resources: Resources,
        code_version: str,
    ) -> tuple[Path, Path, Path, Path, Path, Path, Path]:
        """Learn with :func:`l2s_pydra.steps.train.learn_synthesis`."""
        from ..steps.train import learn_synthesis

        model = learn_synthesis(
            images=[Path(image) for image in images],
            labels=[Path(label) for label in labels],
            participants=participants,
            roles=roles,
            label_maps=[Path(label_map) for label_map in label_maps],
            real_table=Path(real_table),
            maps_table=Path(maps_table) if maps_table else None,
            label_mapping=Path(label_mapping) if label_mapping else None,
            config=config,
            segmentation=segmentation,
            out_dir=Path.cwd(),
            **resources.of_training(),
        )
        files = ("weights.safetensors", "config.json", "labels.tsv")
        weights, settings, table = (model / name for name in files)
        generator, theta, priors = (
            model / f"{name}.json" for name in ("generator", "theta", "priors")
        )
        return model, weights, settings, table, generator, theta, priors
