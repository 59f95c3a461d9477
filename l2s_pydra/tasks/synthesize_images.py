"""Pydra task that draws synthetic images."""

from pathlib import Path
from typing import Any

from fileformats.application import Json
from fileformats.generic import File
from fileformats.medimage import NiftiGz
from fileformats.text import Tsv
from pydra.compose import python

from .. import __version__
from .checks import at_least, share
from .define import define
from .resources import Image, Resources

__all__ = ["SynthesizeImages"]


@define
class SynthesizeImages(python.Task["SynthesizeImages.Outputs"]):
    """Draw synthetic images from label maps, as a training would.

    Parameters
    ----------
    label_maps : list of Image
        Label maps; they take turns.
    maps_table : Tsv
        BIDS ``dseg.tsv`` of them.
    count : int
        How many images.
    seed : int
        Seed of the first image; image ``i`` has the seed ``seed + i``, which decides all about it.
    config : dict
        Settings, as ``l2s_pydra.config.LearnConfig.to_dict`` gives them: voxel size, ranges and
        augmentation; the defaults if empty.
    generator : Json, optional
        ``generator.json``, the synthesis that ``LearnSynthesis`` learned.
    theta : Json, optional
        ``theta.json``: learned values alone, for the augmentation in ``config``.
    priors : Json, optional
        ``priors.json`` of ``EstimatePriors`` or ``LearnSynthesis``.
    target_table : Tsv, optional
        BIDS ``dseg.tsv`` of the labels to write; ``maps_table`` if there is none. With a ``generator``,
        that of the training it came from.
    label_mapping : Tsv, optional
        Table with the columns ``index`` and ``mapping``: labels of ``label_maps`` to those to write.
    learned_share : float, optional
        Share of images drawn from learned values, where there are any; as in the training otherwise.
    skull_stripped : bool, optional
        Whether tissue far from the structures is left out; as the generator says, else no.
    prefix : str
        Begins the names of the files.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software; another version draws anew.
    """

    label_maps: list[Image]
    maps_table: Tsv
    count: int = python.arg(default=10, validator=at_least(1))
    seed: int = python.arg(default=0, validator=at_least(0))
    config: dict[str, Any] = python.arg(default={})
    generator: Json | None = None
    theta: Json | None = None
    priors: Json | None = None
    target_table: Tsv | None = None
    label_mapping: Tsv | None = None
    learned_share: float | None = python.arg(default=None, validator=share)
    skull_stripped: bool | None = None
    prefix: str = "synth"
    resources: Resources = Resources()
    code_version: str = __version__

    class Outputs(python.Outputs):
        """The images; of each list, one entry an image.

        Parameters
        ----------
        images : list of NiftiGz
            ``<prefix>-<seed>_image.nii.gz``.
        labels : list of NiftiGz
            ``<prefix>-<seed>_dseg.nii.gz``: labels on the grid of each image.
        draws : list of Json
            ``<prefix>-<seed>_draw.json``: everything random, and what it was rendered with.
        table : Tsv
            ``dseg.tsv`` of the labels.
        """

        images: list[NiftiGz]
        labels: list[NiftiGz]
        draws: list[Json]
        table: Tsv

    @staticmethod
    def function(
        label_maps: list[File],
        maps_table: File,
        count: int,
        seed: int,
        config: dict[str, Any],
        generator: File | None,
        theta: File | None,
        priors: File | None,
        target_table: File | None,
        label_mapping: File | None,
        learned_share: float | None,
        skull_stripped: bool | None,
        prefix: str,
        resources: Resources,
        code_version: str,
    ) -> tuple[list[Path], list[Path], list[Path], Path]:
        """Draw with :func:`l2s_pydra.steps.synthesize.synthesize`."""
        from ..steps.synthesize import synthesize

        made = synthesize(
            label_maps=[Path(label_map) for label_map in label_maps],
            maps_table=Path(maps_table),
            count=count,
            seed=seed,
            config=config,
            generator=Path(generator) if generator else None,
            theta=Path(theta) if theta else None,
            priors=Path(priors) if priors else None,
            target_table=Path(target_table) if target_table else None,
            label_mapping=Path(label_mapping) if label_mapping else None,
            learned_share=learned_share,
            skull_stripped=skull_stripped,
            prefix=prefix,
            out_dir=Path("images").absolute(),
            device=resources.device,
            threads=resources.threads,
        )
        return list(made.images), list(made.labels), list(made.draws), made.table
