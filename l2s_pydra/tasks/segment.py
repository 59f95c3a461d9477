"""Pydra task that segments one image."""

from pathlib import Path

from fileformats.application import Json
from fileformats.generic import Directory, File
from fileformats.text import Tsv
from pydra.compose import python

from .. import __version__
from .resources import Image, Resources

__all__ = ["Segment"]


@python.define
class Segment(python.Task["Segment.Outputs"]):
    """Segment one image and stage what BIDS wants to know about it.

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
        BIDS entities of the image; they name the outputs. Unique to the image, because Pydra hashes
        content: two identical scans would otherwise share one result, and its name.
    source : str
        Path of the image relative to its data set, for the provenance.
    probseg : bool
        Write the posterior of every label too.
    save_mask : bool
        Write a mask of all structures too.
    resources : Resources
        Where to run; not hashed.
    code_version : str
        Version of the software; another version segments anew.
    """

    image: Image
    weights: File
    config: Json
    labels: Tsv
    entities: dict[str, str]
    source: str
    probseg: bool = False
    save_mask: bool = True
    resources: Resources = Resources()
    code_version: str = __version__

    class Outputs(python.Outputs):
        """The segmentation.

        Parameters
        ----------
        tree : Directory
            Staged BIDS derivative, to be copied to its place.
        dseg : File
            The segmentation in it.
        morph : Tsv
            Table of volumes in it.
        summary : Json
            What the report of the participant needs.
        """

        tree: Directory
        dseg: File
        morph: Tsv
        summary: Json

    @staticmethod
    def function(
        image: File,
        weights: File,
        config: File,
        labels: File,
        entities: dict[str, str],
        source: str,
        probseg: bool,
        save_mask: bool,
        resources: Resources,
        code_version: str,
    ) -> tuple[Path, Path, Path, Path]:
        """Segment one image with :func:`l2s_pydra.steps.segment.segment`."""
        from ..steps.segment import segment

        result = segment(
            image=Path(image),
            weights=Path(weights),
            config=Path(config),
            labels=Path(labels),
            entities=entities,
            source=source,
            out_dir=Path("tree").absolute(),
            device=resources.device,
            threads=resources.threads,
            probseg=probseg,
            save_mask=save_mask,
        )
        (dseg,) = (path for path in result.files if path.name.endswith("_dseg.nii.gz"))
        (morph,) = (path for path in result.files if path.name.endswith("_morph.tsv"))
        # The summary is for the report and not for the derivative: out of the staged tree.
        summary = result.summary.rename(Path("summary.json").absolute())
        return result.tree, dseg, morph, summary
