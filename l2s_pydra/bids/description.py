"""The files that describe a derivative data set as a whole."""

import csv
import html
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from .. import __version__
from .derivatives import desc_label, write_json, write_text

__all__ = ["citation", "dataset_description", "describe_dataset", "descriptions", "raw_link"]

BIDS_VERSION = "1.11.1"
_NAME = "l2s_pydra"
_REFERENCES = {
    "learn2synth": (
        "Hu X, Zeng X, Puonti O, Iglesias JE, Fischl B, Balbastre Y",
        "Learn2Synth: Learning Optimal Data Synthesis Using Hypergradients for Brain Image "
        "Segmentation",
        "ICCV",
        "2025",
        "10.48550/arXiv.2411.16719",
    ),
    "synthseg": (
        "Billot B, Greve DN, Puonti O, Thielscher A, Van Leemput K, Fischl B, Dalca AV, "
        "Iglesias JE",
        "SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without "
        "retraining",
        "Medical Image Analysis 86:102789",
        "2023",
        "10.1016/j.media.2023.102789",
    ),
    "unet": (
        "Ronneberger O, Fischer P, Brox T",
        "U-Net: Convolutional Networks for Biomedical Image Segmentation",
        "MICCAI",
        "2015",
        "10.1007/978-3-319-24574-4_28",
    ),
    "bids": (
        "Gorgolewski KJ, Auer T, Calhoun VD, et al",
        "The brain imaging data structure, a format for organizing and describing outputs of "
        "neuroimaging experiments",
        "Scientific Data 3:160044",
        "2016",
        "10.1038/sdata.2016.44",
    ),
    "satterthwaite": (
        "Satterthwaite FE",
        "An approximate distribution of estimates of variance components",
        "Biometrics Bulletin 2:110-114",
        "1946",
        "10.2307/3002019",
    ),
}
_TRAINING = {
    "learn2synth": (
        "on synthetic images (SynthSeg; Billot et al., 2023) whose generator was itself learned "
        "from real images by hypergradients (Learn2Synth; Hu et al., 2025)"
    ),
    "synthseg": "on synthetic images (SynthSeg; Billot et al., 2023)",
    "supervised": "on real images with manual labels",
    "mixed": "on real images with manual labels and on synthetic images (SynthSeg; Billot et al., "
    "2023)",
    "mixed-randomised": (
        "on real images with manual labels, partly with random contrast, and on synthetic images "
        "(SynthSeg; Billot et al., 2023)"
    ),
    "learn2synth-mixed": (
        "on real images with manual labels, partly with random contrast, and on synthetic images "
        "(SynthSeg; Billot et al., 2023) whose generator was itself learned from real images by "
        "hypergradients (Learn2Synth; Hu et al., 2025)"
    ),
    "finetuned": (
        "on synthetic images (SynthSeg; Billot et al., 2023) and then on real images with manual "
        "labels"
    ),
    "finetuned-averaged": (
        "on synthetic images (SynthSeg; Billot et al., 2023) and then on real images with manual "
        "labels; the weights before and after were averaged"
    ),
}
_CITED = {
    "learn2synth": ("learn2synth", "synthseg", "unet", "bids"),
    "synthseg": ("synthseg", "unet", "bids"),
    "supervised": ("unet", "bids"),
    "mixed": ("synthseg", "unet", "bids"),
    "mixed-randomised": ("synthseg", "unet", "bids"),
    "learn2synth-mixed": ("learn2synth", "synthseg", "unet", "bids"),
    "finetuned": ("synthseg", "unet", "bids"),
    "finetuned-averaged": ("synthseg", "unet", "bids"),
}

_COMPARED = (
    "Models that were trained in several ways were compared (folder comparison) by what they make of "
    "images with reference labels: overlap (Dice), 95th percentile of the distances between surfaces, "
    "relative error of volumes and calibration error of each structure. Values were averaged over "
    "structures, over the images of each participant, over participants and over the random seeds of "
    "the trainings. Where there are several participants and seeds, differences have 95 % t "
    "intervals for other ones, with Satterthwaite's (1946) degrees of freedom.\n\n"
)


def describe_dataset(
    folder: str | Path,
    *,
    bids_dir: str | Path,
    output_dir: str | Path,
    images: Iterable[Mapping[str, str]],
    bidsignore: str,
    model: Mapping[str, Any],
    container: Mapping[str, str] | None = None,
    entropy: bool = False,
) -> list[Path]:
    """Write the files that describe a derivative data set.

    Parameters
    ----------
    folder : path
        Where to write: a staged tree, or ``output_dir`` itself.
    bids_dir, output_dir : path
        Roots of the raw data set and of the derivative, for the links between them.
    images : iterable of mapping
        Entities and ``suffix`` of the images segmented; ``desc`` labels that ``output_dir``
        describes already are kept.
    bidsignore : str
        Contents of ``.bidsignore`` (:func:`l2s_pydra.steps.outputs.bidsignore`).
    model : mapping
        Configuration of the model and its ``sha256``.
    container : mapping, optional
        ``Type``, ``Tag`` and ``URI`` of the container, if the software runs in one.
    entropy : bool, default=False
        Whether maps of entropy were written, whose ``desc`` is to be described.

    Returns
    -------
    list of Path
        The files written.
    """
    folder = Path(folder)
    compared = any((Path(root) / "comparison").is_dir() for root in (folder, output_dir))
    text = citation(model, compared=compared)
    return [
        write_json(
            folder / "dataset_description.json",
            dataset_description(bids_dir, output_dir, container=container),
        ),
        write_text(folder / "README.md", _readme(raw_link(bids_dir, output_dir), compared)),
        write_text(folder / ".bidsignore", bidsignore),
        write_text(folder / "descriptions.tsv", descriptions(output_dir, images, entropy)),
        write_json(folder / "descriptions.json", _DESCRIPTIONS_SIDECAR),
        write_text(folder / "logs" / "CITATION.md", text),
        write_text(folder / "logs" / "CITATION.html", _to_html(text)),
        write_text(folder / "logs" / "CITATION.bib", _bibliography(model, compared)),
    ]


def dataset_description(
    bids_dir: str | Path,
    output_dir: str | Path,
    *,
    container: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Contents of ``dataset_description.json``.

    The licence of the raw data set is carried over, because derived data may be bound by it.
    """
    raw = _read_description(bids_dir)
    generator: dict[str, Any] = {"Name": _NAME, "Version": __version__}
    if container:
        generator["Container"] = dict(container)
    link = raw_link(bids_dir, output_dir)
    source = {"DOI": raw["DatasetDOI"]} if raw.get("DatasetDOI") else {"URL": f"file:{link}"}
    values: dict[str, Any] = {
        "Name": f"{_NAME} segmentations of {raw.get('Name') or 'a BIDS data set'}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generator],
        "SourceDatasets": [source],
        "DatasetLinks": {"raw": link, "models": "models"},
        "HowToAcknowledge": "Please cite the works in logs/CITATION.md.",
    }
    if raw.get("License"):
        values["License"] = raw["License"]
    return values


def raw_link(bids_dir: str | Path, output_dir: str | Path) -> str:
    """Relative path from the derivative to the raw data set, for ``DatasetLinks``.

    One that leads through somebody's home folder is replaced by ``sourcedata/raw``, the place
    BIDS foresees for the source of a derivative: a published data set should name no user.

    Examples
    --------
    >>> raw_link("/data/study", "/data/study/derivatives/l2s_pydra")
    '../..'
    """
    link = PurePath(os.path.relpath(Path(bids_dir).resolve(), Path(output_dir).resolve()))
    return "sourcedata/raw" if {"home", "Users"} & set(link.parts) else link.as_posix()


def descriptions(
    output_dir: str | Path, images: Iterable[Mapping[str, str]], entropy: bool = False
) -> str:
    """Contents of ``descriptions.tsv``: the labels ``output_dir`` has, and those of ``images``."""
    rows = _existing_descriptions(Path(output_dir) / "descriptions.tsv")
    for entities in images:
        own = f" with desc-{entities['desc']}" if "desc" in entities else ""
        image = f"the {entities['suffix']} image{own}"
        rows[f"desc-{desc_label(entities)}"] = f"derived from {image}"
        if entropy:
            label = f"desc-{desc_label(entities)}Entropy"
            rows[label] = f"entropy of the posterior probabilities of the labels in {image}"
    lines = [f"{desc}\t{text}" for desc, text in sorted(rows.items())]
    return "\n".join(["desc_id\tdescription", *lines]) + "\n"


def citation(model: Mapping[str, Any], *, compared: bool = False) -> str:
    """Methods text, in Markdown.

    Parameters
    ----------
    model : mapping
        Configuration of the model (``name``, ``version``, ``learn``) and its ``sha256``.
    compared : bool, default=False
        Whether there is a comparison of ways to train, of which the text then tells, too.
    """
    spacing = model["learn"]["spacing_mm"]
    references = "\n".join(
        f"- {authors}. {title}. {where}, {year}. https://doi.org/{doi}"
        for authors, title, where, year, doi in (
            _REFERENCES[key] for key in _cited(model, compared)
        )
    )
    return (
        "# Methods\n\n"
        f"Brain images were segmented with {_NAME} {__version__} and the model {model['name']} "
        f"(SHA-256 of its weights {model['sha256']}), a U-Net (Ronneberger et al., 2015) trained "
        f"{_TRAINING[_mode(model)]}. Each image was resampled to {spacing:g} mm isotropic voxels and "
        "segmented; the posterior probability of each label was interpolated back to the grid of "
        "the image, where each voxel got the most probable label. Volumes are the number of "
        "voxels of a label times the volume of a voxel. Inputs and outputs follow the Brain "
        "Imaging Data Structure (Gorgolewski et al., 2016).\n\n"
        f"{_COMPARED if compared else ''}"
        f"# References\n\n{references}\n"
    )


def _mode(model: Mapping[str, Any]) -> str:
    return str(model["learn"]["training"]["mode"])


def _cited(model: Mapping[str, Any], compared: bool) -> tuple[str, ...]:
    return (*_CITED[_mode(model)], *(("satterthwaite",) if compared else ()))


def _bibliography(model: Mapping[str, Any], compared: bool) -> str:
    entries = []
    for key in _cited(model, compared):
        authors, title, where, year, doi = _REFERENCES[key]
        people = " and ".join(
            "others" if name == "et al" else name.replace(" ", ", ", 1)
            for name in authors.replace("Van Leemput", "{Van~Leemput}").split(", ")
        )
        entries.append(
            f"@article{{{key},\n  author = {{{people}}},\n  title = {{{{{title}}}}},\n"
            f"  journal = {{{where}}},\n  year = {{{year}}},\n  doi = {{{doi}}}\n}}\n"
        )
    return "\n".join(entries)


def _to_html(markdown: str) -> str:
    """Headings, paragraphs and one list: all that :func:`citation` writes."""
    body, items = [], []
    for line in filter(None, map(html.escape, markdown.splitlines())):
        if line.startswith("- "):
            items.append(f"<li>{line[2:]}</li>")
        else:
            body.append(f"<h1>{line[2:]}</h1>" if line.startswith("# ") else f"<p>{line}</p>")
    head = '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Methods</title>'
    return "\n".join([head, *body, "<ul>", *items, "</ul>", "</html>"]) + "\n"


def _readme(link: str, compared: bool) -> str:
    comparison = (
        "- `comparison`: models that were trained in several ways, compared on images with reference\n"
        "  labels; `index.html` is the page to look at, the tables beside it are described in `.json`.\n"
    )
    return f"""\
# Segmentations by {_NAME}

Made by {_NAME} {__version__} from the BIDS data set at `{link}` (seen from here).

- `sub-*/[ses-*/]anat/*_dseg.nii.gz`: label of each voxel, on the grid of the image it was made
  from. The `.tsv` beside it names the labels, the `.json` says what it was made from.
- `*_label-brain_*_mask.nii.gz`: all labels but the background.
- `*_probseg.nii.gz`: posterior probability of each label, if it was asked for.
- `*_desc-*Entropy_probseg.nii.gz`: normalised entropy of these probabilities, if it was asked for.
- `*_res-*`: the same outputs on the grid that the model works on, if they were asked for.
- `*_morph.tsv`: volume in mm^3 and quality score of each label; at the root, those of everyone.
- `sub-*.html` and `sub-*/figures`: reports, to be looked at before the numbers are used.
- `sub-*/log`: versions, command line and settings of each run.
- `models`: the networks, with their configuration and model card.
{comparison if compared else ""}
`seg-<label>` names the set of labels, `desc-<label>` the contrast of the image that was segmented
(`descriptions.tsv`). In the sidecars, `bids:raw:` stands for the raw data set and `bids:models:`
for the folder `models`. `logs/CITATION.md` holds the methods text and the references to cite.
"""


_DESCRIPTIONS_SIDECAR = {
    "Description": "Meaning of the desc entity in the file names of this data set",
    "desc_id": {"Description": "The desc entity of file names"},
    "description": {"Description": "What the files with this desc were made from"},
}


def _existing_descriptions(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {r["desc_id"]: r.get("description") or "n/a" for r in rows if r.get("desc_id")}


def _read_description(bids_dir: str | Path) -> dict[str, Any]:
    try:
        text = (Path(bids_dir) / "dataset_description.json").read_text(encoding="utf-8")
        return dict(json.loads(text))
    except (OSError, ValueError, TypeError):
        return {}  # it adds a name and a licence; what is derived can be described without
