"""Every file the software writes into a derivative data set, one row each.

A new output is a new row here; its path, its place in ``.bidsignore`` and its mention in the
documentation follow from it.
"""

from collections.abc import Mapping

import attrs
from attrs import validators

from ..errors import ConfigError

__all__ = [
    "DATASET_OUTPUTS",
    "IMAGE_OUTPUTS",
    "DatasetOutput",
    "ImageOutput",
    "bidsignore",
    "check_resolution",
    "on_network_grid",
    "resolution_label",
]


@attrs.frozen(kw_only=True)
class ImageOutput:
    """A file written once for each image; its name is made of the entities of the image.

    :func:`l2s_pydra.bids.derivatives.derivative_path` builds the path.
    """

    key: str
    """Name of the row."""
    suffix: str
    """Last part of the file name."""
    extension: str = attrs.field(validator=validators.matches_re(r"\..+"))
    """With its dot."""
    description: str
    """What the file holds."""
    folder: str = attrs.field(default="anat", validator=validators.in_(("anat", "figures")))
    """``anat`` beside the image's place, or ``figures`` of the participant."""
    segmented: bool = True
    """Whether the name has the ``seg`` entity; masks may not."""
    desc: str = ""
    """What follows the contrast in the ``desc`` entity."""
    entities: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    """Entities added to those of the image."""
    sidecar: str | None = None
    """Kind of JSON sidecar (:func:`l2s_pydra.bids.provenance.sidecar`), if this is one."""
    ignore: str | None = None
    """Line of ``.bidsignore`` that covers the file, if the standard does not know it."""


@attrs.frozen(kw_only=True)
class DatasetOutput:
    """A file written once for a data set, a participant or a run."""

    key: str
    """Name of the row."""
    path: str
    """Path below the output folder; ``{participant}``, ``{run}``, ``{segmentation}`` and
    ``{model}`` are filled in by :func:`l2s_pydra.bids.derivatives.dataset_path`."""
    description: str
    """What the file holds."""
    ignore: str | None = None
    """Line of ``.bidsignore`` that covers the file, if the standard does not know it."""


_IMAGE_ROWS = (
    ImageOutput(
        key="dseg",
        suffix="dseg",
        extension=".nii.gz",
        description="Label of each voxel, on the grid of the image",
    ),
    ImageOutput(
        key="dseg_json",
        suffix="dseg",
        extension=".json",
        description="Where the labels come from",
        sidecar="dseg",
    ),
    ImageOutput(
        key="dseg_tsv",
        suffix="dseg",
        extension=".tsv",
        description="Name of each label",
    ),
    ImageOutput(
        key="probseg",
        suffix="probseg",
        extension=".nii.gz",
        description="Posterior probability of each label, one volume a label; only on request",
    ),
    ImageOutput(
        key="probseg_json",
        suffix="probseg",
        extension=".json",
        description="Which volume is which label",
        sidecar="probseg",
    ),
    ImageOutput(
        key="entropy",
        suffix="probseg",
        extension=".nii.gz",
        description="Entropy of the posteriors, from 0 (certain) to 1; only on request",
        desc="Entropy",
    ),
    ImageOutput(
        key="entropy_json",
        suffix="probseg",
        extension=".json",
        description="What the entropy is taken over, and its unit",
        desc="Entropy",
        sidecar="entropy",
    ),
    ImageOutput(
        key="mask",
        suffix="mask",
        extension=".nii.gz",
        description="Union of all labels but the background",
        segmented=False,
        entities={"label": "brain"},
    ),
    ImageOutput(
        key="mask_json",
        suffix="mask",
        extension=".json",
        description="Where the mask comes from",
        segmented=False,
        entities={"label": "brain"},
        sidecar="mask",
    ),
    ImageOutput(
        key="morph",
        suffix="morph",
        extension=".tsv",
        description="Volumes and quality score of each label, and the intracranial volume",
        ignore="*_morph.tsv",
    ),
    ImageOutput(
        key="morph_json",
        suffix="morph",
        extension=".json",
        description="What the columns of the volumes mean",
        sidecar="morph",
        ignore="*_morph.json",
    ),
    ImageOutput(
        key="figure",
        suffix="dseg",
        extension=".png",
        description="Labels over the image, three planes",
        folder="figures",
        ignore="figures",
    ),
)

_DATASET_ROWS = (
    DatasetOutput(
        key="dataset_description",
        path="dataset_description.json",
        description="What made the data set, and from what",
    ),
    DatasetOutput(key="readme", path="README.md", description="What is in the data set"),
    DatasetOutput(
        key="bidsignore", path=".bidsignore", description="Files the standard does not know"
    ),
    DatasetOutput(
        key="descriptions", path="descriptions.tsv", description="What each desc label means"
    ),
    DatasetOutput(
        key="descriptions_json",
        path="descriptions.json",
        description="What the columns of descriptions.tsv mean",
    ),
    DatasetOutput(
        key="citation_md", path="logs/CITATION.md", description="Methods text to copy, Markdown"
    ),
    DatasetOutput(
        key="citation_html", path="logs/CITATION.html", description="Methods text to copy, HTML"
    ),
    DatasetOutput(
        key="citation_bib", path="logs/CITATION.bib", description="References of the methods text"
    ),
    DatasetOutput(
        key="participant_page",
        path="{participant}.html",
        description="Report of a participant: figures, volumes, warnings, errors",
        ignore="*.html",
    ),
    DatasetOutput(
        key="page_data",
        path="{participant}/log/report.json",
        description="What the page of a participant shows, of all runs",
        ignore="log",
    ),
    DatasetOutput(
        key="manifest",
        path="{participant}/log/manifest.json",
        description="Checksums of a participant's files, and what each image's were made from",
        ignore="log",
    ),
    DatasetOutput(
        key="run",
        path="{participant}/log/{run}/l2s_pydra.toml",
        description="Versions, command line and settings of the run",
        ignore="log",
    ),
    DatasetOutput(
        key="run_log",
        path="{participant}/log/{run}/l2s_pydra.log",
        description="What was said about the participant's images in the run",
        ignore="log",
    ),
    DatasetOutput(
        key="crash",
        path="{participant}/log/{run}/crash-{name}.txt",
        description="What went wrong with an image",
        ignore="log",
    ),
    DatasetOutput(
        key="dataset_manifest",
        path="logs/manifest.json",
        description="Checksums of files that belong to no participant and no run",
    ),
    DatasetOutput(
        key="run_manifest",
        path="logs/{run}/manifest.json",
        description="Checksums of the records of a run",
    ),
    DatasetOutput(
        key="dataset_run",
        path="logs/{run}/l2s_pydra.toml",
        description="Versions, command line and settings of a run that trained a model",
    ),
    DatasetOutput(
        key="run_images",
        path="logs/{run}/images.tsv",
        description="What became of each image in the run, and why",
    ),
    DatasetOutput(
        key="dataset_crash",
        path="logs/{run}/crash-{name}.txt",
        description="What went wrong with something that belongs to no participant",
    ),
    DatasetOutput(
        key="model",
        path="models/model-{model}",
        description="Folder of the model: weights, configuration, labels, model card",
        ignore="models",
    ),
    DatasetOutput(
        key="provenance",
        path="prov/prov-{group}_{kind}.json",
        description="What was made from what, by what: draft of BIDS-Prov (BEP028), JSON-LD",
        ignore="prov",
    ),
    DatasetOutput(
        key="preview",
        path="preview",
        description="Draws of the generator and the augmentation, before a training; on request",
        ignore="preview",
    ),
    DatasetOutput(
        key="comparison",
        path="comparison",
        description="Tables and page that compare modes of training; on request",
        ignore="comparison",
    ),
    DatasetOutput(
        key="group_page",
        path="group.html",
        description="Report of the group: volumes, overlap with references, failures",
        ignore="*.html",
    ),
    DatasetOutput(
        key="volumes",
        path="seg-{segmentation}_morph.tsv",
        description="Volume of each label of each image, mm^3",
        ignore="*_morph.tsv",
    ),
    DatasetOutput(
        key="dice",
        path="seg-{segmentation}_dice.tsv",
        description="Overlap of each label of each image with its reference",
        ignore="*_dice.tsv",
    ),
)

IMAGE_OUTPUTS: dict[str, ImageOutput] = {row.key: row for row in _IMAGE_ROWS}
"""Files written for each image, by key."""

DATASET_OUTPUTS: dict[str, DatasetOutput] = {row.key: row for row in _DATASET_ROWS}
"""Files written for a data set, a participant or a run, by key."""


def resolution_label(spacing_mm: float) -> str:
    """Value of the ``res`` entity of outputs on the grid that a model works on.

    BIDS labels have letters and digits only, so that a point is written ``p``.

    >>> resolution_label(1.0), resolution_label(1.5)
    ('1mm', '1p5mm')
    """
    return f"{spacing_mm:g}mm".replace(".", "p")


def check_resolution(res: str, spacing_mm: float, model: str) -> str:
    """Check that a resolution is that of a model's grid; return the value of the ``res`` entity.

    Parameters
    ----------
    res : str
        What was asked for, such as ``1mm`` or ``1.5mm``.
    spacing_mm : float
        Voxel size of the model's grid.
    model : str
        Name of the model, for the message.

    Raises
    ------
    ConfigError
        If it is another one.
    """
    label = resolution_label(spacing_mm)
    if res.replace(".", "p") != label:
        raise ConfigError(
            f"--res {res}: the model {model} works on a grid of {spacing_mm:g} mm; "
            f"ask for --res {label}, or learn a model with another --spacing-mm"
        )
    return label


def on_network_grid(row: ImageOutput, spacing_mm: float) -> ImageOutput:
    """Row of the same output on the grid that the model works on.

    Parameters
    ----------
    row : ImageOutput
        Row of an output on the grid of the image.
    spacing_mm : float
        Voxel size of the model's grid.
    """
    entities = {**row.entities, "res": resolution_label(spacing_mm)}
    return attrs.evolve(row, entities=entities)


def bidsignore() -> str:
    """Contents of the ``.bidsignore`` that covers the outputs the standard does not know.

    Lines end without a slash: with one, the validator does not match the folder
    (bids-standard/bids-validator#291).
    """
    rows = (*_IMAGE_ROWS, *_DATASET_ROWS)
    return "".join(f"{line}\n" for line in sorted({row.ignore for row in rows if row.ignore}))
