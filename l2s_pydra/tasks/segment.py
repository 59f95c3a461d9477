"""Pydra task that segments one image."""

from pathlib import Path

from fileformats.application import Json
from fileformats.generic import Directory, File
from fileformats.text import Tsv
from pydra.compose import python

from .. import __version__
from .checks import at_least
from .define import define
from .resources import Image, Resources

__all__ = ["Segment"]


@define
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
    entropy : bool
        Write the entropy of the posteriors too.
    save_mask : bool
        Write a mask of all structures too.
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
        Version of the software; another version segments anew.
    """

    image: Image
    weights: File
    config: Json
    labels: Tsv
    entities: dict[str, str]
    source: str
    probseg: bool = False
    entropy: bool = False
    save_mask: bool = True
    res: str | None = None
    keep_largest: list[str] | None = None
    flip: bool = True
    test_time_draws: int = python.arg(default=1, validator=at_least(1))
    model_in_dataset: bool = True
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
        entropy: bool,
        save_mask: bool,
        res: str | None,
        keep_largest: list[str] | None,
        flip: bool,
        test_time_draws: int,
        model_in_dataset: bool,
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
            entropy=entropy,
            save_mask=save_mask,
            res=res,
            keep_largest=keep_largest,
            flip=flip,
            test_time_draws=test_time_draws,
            max_memory_mb=resources.max_memory_mb,
            model_in_dataset=model_in_dataset,
        )
        dseg = next(path for path in result.files if path.name.endswith("_dseg.nii.gz"))
        (morph,) = (path for path in result.files if path.name.endswith("_morph.tsv"))
        # The summary is for the report and not for the derivative: out of the staged tree.
        summary = result.summary.rename(Path("summary.json").absolute())
        return result.tree, dseg, morph, summary
