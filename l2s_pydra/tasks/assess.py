"""Pydra task that says how good a model is on labelled images."""

from pathlib import Path

from fileformats.application import Json
from fileformats.generic import File
from fileformats.text import Tsv
from pydra.compose import python

from .. import __version__
from .define import define
from .resources import Image, Resources

__all__ = ["Assess"]


@define
class Assess(python.Task["Assess.Outputs"]):
    """Segment labelled images with a model and compare with their labels.

    Parameters
    ----------
    images : list of Image
        Images.
    references : list of Image
        Reference labels on the grid of each image.
    names : list of str
        Unique name of each, for the table; unique because Pydra hashes content only.
    participants : list of str
        Participant of each.
    contrasts : list of str
        Contrast of each.
    roles : list of str
        What each was for in the training: ``test`` for nothing, ``validate`` to choose the model.
    weights : File
        ``weights.safetensors`` of the model.
    config : Json
        ``config.json`` of the model.
    labels : Tsv
        ``labels.tsv`` of the model.
    reference_table : Tsv
        BIDS ``dseg.tsv`` of ``references``.
    label_mapping : Tsv, optional
        Table with the columns ``index`` and ``mapping``: labels of ``references`` to those of the
        model.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software; another version assesses anew.
    """

    images: list[Image]
    references: list[Image]
    names: list[str]
    participants: list[str]
    contrasts: list[str]
    roles: list[str]
    weights: File
    config: Json
    labels: Tsv
    reference_table: Tsv
    label_mapping: Tsv | None = None
    resources: Resources = Resources()
    code_version: str = __version__

    class Outputs(python.Outputs):
        """The assessment.

        Parameters
        ----------
        table : Tsv
            One row per image and structure: overlap, distance, volumes, calibration.
        failures : Tsv
            The images that could not be assessed, and why.
        """

        table: Tsv
        failures: Tsv

    @staticmethod
    def function(
        images: list[File],
        references: list[File],
        names: list[str],
        participants: list[str],
        contrasts: list[str],
        roles: list[str],
        weights: File,
        config: Json,
        labels: Tsv,
        reference_table: File,
        label_mapping: File | None,
        resources: Resources,
        code_version: str,
    ) -> tuple[Path, Path]:
        """Assess with :func:`l2s_pydra.steps.assess.assess`."""
        from ..steps.assess import assess, failures_file

        table = assess(
            images=[Path(image) for image in images],
            references=[Path(reference) for reference in references],
            names=names,
            participants=participants,
            contrasts=contrasts,
            roles=roles,
            weights=Path(weights),
            config=Path(config),
            labels=Path(labels),
            reference_table=Path(reference_table),
            label_mapping=Path(label_mapping) if label_mapping else None,
            out_file=Path("images.tsv").absolute(),
            device=resources.device,
            threads=resources.threads,
        )
        return table, failures_file(table)
