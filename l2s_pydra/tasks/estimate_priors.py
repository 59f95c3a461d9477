"""Pydra task that measures the intensities of labelled images."""

from pathlib import Path
from typing import Any

from fileformats.application import Json
from fileformats.generic import File
from fileformats.image import Png
from fileformats.text import Tsv
from pydra.compose import python

from .. import __version__
from .define import define
from .resources import Image, Resources

__all__ = ["EstimatePriors"]


@define
class EstimatePriors(python.Task["EstimatePriors.Outputs"]):
    """Measure labelled images, for priors of the generator's intensities.

    Parameters
    ----------
    images : list of Image
        Real images.
    labels : list of Image
        Manual labels on the grid of each image.
    real_table : Tsv
        BIDS ``dseg.tsv`` of ``labels``.
    maps_table : Tsv, optional
        BIDS ``dseg.tsv`` of the label maps that the priors are for; ``real_table`` if there is none.
    label_mapping : Tsv, optional
        Table with the columns ``index`` and ``mapping``: labels of those label maps to those of
        ``labels``.
    config : dict
        Settings, as ``l2s_pydra.config.LearnConfig.to_dict`` gives them; what they say of the grid is
        used.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software; another version measures anew.
    """

    images: list[Image]
    labels: list[Image]
    real_table: Tsv
    maps_table: Tsv | None = None
    label_mapping: Tsv | None = None
    config: dict[str, Any] = python.arg(default={})
    resources: Resources = Resources()
    code_version: str = __version__

    class Outputs(python.Outputs):
        """The priors.

        Parameters
        ----------
        priors : Json
            ``priors.json``: the setting ``synthesis.priors``, or the input ``priors`` of
            ``TrainSegmenter`` and ``SynthesizeImages``.
        table : Tsv
            ``priors.tsv``: the same with what it rests on, a row for each group.
        columns : Json
            What the columns of the table mean.
        figure : Png
            Interval of each group.
        """

        priors: Json
        table: Tsv
        columns: Json
        figure: Png

    @staticmethod
    def function(
        images: list[File],
        labels: list[File],
        real_table: File,
        maps_table: File | None,
        label_mapping: File | None,
        config: dict[str, Any],
        resources: Resources,
        code_version: str,
    ) -> tuple[Path, Path, Path, Path]:
        """Measure with :func:`l2s_pydra.steps.priors.estimate_priors`."""
        from ..steps.priors import estimate_priors

        folder = estimate_priors(
            images=[Path(image) for image in images],
            labels=[Path(label) for label in labels],
            real_table=Path(real_table),
            maps_table=Path(maps_table) if maps_table else None,
            label_mapping=Path(label_mapping) if label_mapping else None,
            config=config,
            out_dir=Path("priors").absolute(),
            threads=resources.threads,
        )
        names = ("priors.json", "priors.tsv", "priors_columns.json", "priors.png")
        priors, table, columns, figure = (folder / name for name in names)
        return priors, table, columns, figure
