"""Pydra task that shows what a training would see."""

from pathlib import Path
from typing import Any

import attrs
from fileformats.generic import Directory, File
from fileformats.text import Tsv
from pydra.compose import python

from .. import __version__
from .checks import at_least, one_of
from .define import define
from .resources import Image, Resources

__all__ = ["Preview"]


@define
class Preview(python.Task["Preview.Outputs"]):
    """Draw what a training would see, and train nothing.

    Parameters
    ----------
    images : list of Image
        Real images, those to learn from and those to validate on.
    labels : list of Image
        Manual labels on the grid of each image.
    participants : list of str
        Participant of each image.
    roles : list of str
        ``learn`` or ``validate``, one per image.
    label_maps : list of Image
        Label maps that synthetic images are made from; may be empty.
    config : dict
        Settings, as ``l2s_pydra.config.LearnConfig.to_dict`` gives them.
    real_table : Tsv
        BIDS ``dseg.tsv`` of ``labels``.
    maps_table : Tsv, optional
        BIDS ``dseg.tsv`` of ``label_maps``; ``real_table`` if there is none.
    label_mapping : Tsv, optional
        Table with the columns ``index`` and ``mapping``: labels of ``label_maps`` to those of
        ``labels``.
    validation_maps : list of Image
        Without images: label maps whose synthetic images choose the weights; empty otherwise.
    count : int
        Draws of each kind.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software; another version draws anew.
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
    validation_maps: list[Image] = attrs.Factory(list)
    count: int = python.arg(default=12, validator=at_least(1))
    resources: Resources = Resources()
    code_version: str = __version__

    class Outputs(python.Outputs):
        """The page.

        Parameters
        ----------
        folder : Directory
            Folder with ``index.html``, its figures and the priors of the learning scans.
        """

        folder: Directory

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
        validation_maps: list[File],
        count: int,
        resources: Resources,
        code_version: str,
    ) -> Path:
        """Draw what a training would see with :func:`l2s_pydra.steps.preview.preview`."""
        from ..steps.preview import preview

        page = preview(
            images=[Path(image) for image in images],
            labels=[Path(label) for label in labels],
            participants=participants,
            roles=roles,
            label_maps=[Path(label_map) for label_map in label_maps],
            real_table=Path(real_table),
            maps_table=Path(maps_table) if maps_table else None,
            label_mapping=Path(label_mapping) if label_mapping else None,
            validation_maps=[Path(label_map) for label_map in validation_maps],
            config=config,
            out_dir=Path.cwd() / "preview",
            count=count,
            device=resources.device,
            threads=resources.threads,
        )
        return page.parent
