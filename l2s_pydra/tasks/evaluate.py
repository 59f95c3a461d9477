"""Pydra task that compares segmentations with references."""

from pathlib import Path

from fileformats.generic import File
from fileformats.text import Tsv
from pydra.compose import python

from .. import __version__
from .define import define
from .resources import Image

__all__ = ["Evaluate"]


@define
class Evaluate(python.Task["Evaluate.Outputs"]):
    """Compare segmentations with reference labels on the same grids.

    Parameters
    ----------
    dsegs : list of Image
        Segmentations.
    names : list of str
        Unique name of each, for the table; unique because Pydra hashes content only.
    references : list of Image
        Reference labels of each.
    reference_table : Tsv
        BIDS ``dseg.tsv`` of ``references``.
    model_labels : Tsv
        BIDS ``dseg.tsv`` of ``dsegs``.
    label_mapping : Tsv, optional
        Table with the columns ``index`` and ``mapping``: labels of ``references`` to those of
        ``dsegs``.
    code_version : str
        Version of the software; another version compares anew.
    """

    dsegs: list[Image]
    names: list[str]
    references: list[Image]
    reference_table: Tsv
    model_labels: Tsv
    label_mapping: Tsv | None = None
    code_version: str = __version__

    class Outputs(python.Outputs):
        """The comparison.

        Parameters
        ----------
        table : Tsv
            One row per image and label: Dice overlap and both volumes.
        """

        table: Tsv

    @staticmethod
    def function(
        dsegs: list[File],
        names: list[str],
        references: list[File],
        reference_table: File,
        model_labels: File,
        label_mapping: File | None,
        code_version: str,
    ) -> Path:
        """Compare with :func:`l2s_pydra.steps.evaluate.evaluate`."""
        from ..steps.evaluate import evaluate

        return evaluate(
            dsegs=[Path(dseg) for dseg in dsegs],
            names=names,
            references=[Path(reference) for reference in references],
            reference_table=Path(reference_table),
            model_labels=Path(model_labels),
            label_mapping=Path(label_mapping) if label_mapping else None,
            out_file=Path("dice.tsv").absolute(),
        )
