"""The methods text of a derivative, with the values that were used, and its references."""

import html
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from .. import __version__
from .derivatives import write_text
from .references import REFERENCES
from .training_text import cited_by, training_text
from .uses import Use, find_uses, models_of
from .words import counted, listed, plain

__all__ = ["Methods", "methods", "recorded_versions", "write_methods"]

_COMPARED = (
    "Models that were trained in several ways were compared (folder `comparison`) by what they make "
    "of images with reference labels: overlap (Dice), 95th percentile of the distances between "
    "surfaces, relative error of volumes and calibration error of each structure. Values were "
    "averaged over structures, over the images of each participant, over participants and over the "
    "random seeds of the trainings. Where there are several participants and seeds, differences "
    "have 95 % t intervals for other ones, with Satterthwaite's (1946) degrees of freedom."
)
_TOOLS = {
    "nibabel": "images were read and written with NiBabel {} (Brett et al., 2024)",
    "pybids": "the data set was searched with PyBIDS {} (Yarkoni et al., 2019)",
    "pydra": "computations were scheduled by Pydra {} (Jarecka et al., 2020)",
    "torch": "the network was evaluated with PyTorch {} (Paszke et al., 2019)",
}
_KEYS = {"torch": "pytorch"}


@attrs.frozen(kw_only=True)
class Methods:
    """A methods text."""

    paragraphs: tuple[str, ...]
    """Markdown: headings, paragraphs and tables."""
    cited: tuple[str, ...]
    """Keys of the references."""

    @property
    def markdown(self) -> str:
        """Text and references as Markdown."""
        lines = "\n".join(f"- {REFERENCES[key].line}" for key in self.cited)
        return "\n\n".join((*self.paragraphs, "# References", lines)) + "\n"

    @property
    def html(self) -> str:
        """The same as a page."""
        return _page(self.markdown)

    @property
    def bibtex(self) -> str:
        """The references as BibTeX."""
        return "\n".join(REFERENCES[key].bibtex for key in self.cited)


def methods(
    uses: Sequence[Use],
    models: Iterable[Mapping[str, Any]],
    *,
    versions: Mapping[str, str],
    compared: bool = False,
) -> Methods:
    """Write the methods text.

    Parameters
    ----------
    uses : sequence of Use
        Which models segmented which images, and how (:func:`l2s_pydra.bids.uses.find_uses`).
    models : iterable of mapping
        What is known of the models (:func:`l2s_pydra.bids.uses.model_facts`); those that no use
        names were trained and not used.
    versions : mapping
        Versions of the software by package.
    compared : bool, default=False
        Whether there is a comparison of ways to train.
    """
    known = list({str(model["sha256"]): model for model in models}.values())
    by_sum = {str(model["sha256"]): model for model in known}
    parts = ["# Methods", _lead(uses)]
    parts += [_segmentation(use, by_sum.get(use.sha256, {}), len(uses) > 1) for use in uses]
    if any(use.volumes for use in uses):
        parts.append(_VOLUMES)
    for model in known:
        parts += training_text(model)
    parts += [_COMPARED] if compared else []
    parts.append(_software(versions))
    keys = {key for model in known for key in cited_by(model)} | {"bids", "bidsapps", "unet"}
    keys |= {_KEYS.get(name, name) for name in _TOOLS if _is_known(versions, name)}
    keys |= {"satterthwaite"} if compared else set()
    return Methods(paragraphs=tuple(parts), cited=tuple(k for k in REFERENCES if k in keys))


def write_methods(
    folder: str | Path,
    output_dir: str | Path,
    *,
    models: Iterable[Mapping[str, Any]] = (),
    versions: Mapping[str, str] | None = None,
    uses: Sequence[Use] | None = None,
) -> list[Path]:
    """Write ``logs/CITATION.md``, ``.html`` and ``.bib`` for all that a derivative holds.

    Parameters
    ----------
    folder : path
        Where to write: a staged tree, or ``output_dir`` itself.
    output_dir : path
        Root of the derivative; what was done is read from its sidecars and models.
    models : iterable of mapping
        Models of which more is known than the derivative holds, or that are not there yet
        (:func:`l2s_pydra.bids.uses.model_facts`).
    versions : mapping, optional
        Versions of the software by package; those of the last recorded run if not given.
    uses : sequence of Use, optional
        What is known of the sidecars (:func:`l2s_pydra.bids.known_uses.known_uses`); read by default.

    Returns
    -------
    list of Path
        The files written.
    """
    folder, output_dir = Path(folder), Path(output_dir)
    uses = find_uses(output_dir) if uses is None else uses
    text = methods(
        uses,
        [*models_of(output_dir, uses), *models],
        versions=recorded_versions(output_dir) if versions is None else versions,
        compared=any((root / "comparison").is_dir() for root in (folder, output_dir)),
    )
    return [
        write_text(folder / "logs" / "CITATION.md", text.markdown),
        write_text(folder / "logs" / "CITATION.html", text.html),
        write_text(folder / "logs" / "CITATION.bib", text.bibtex),
    ]


def recorded_versions(output_dir: str | Path) -> dict[str, str]:
    """Versions of the software in the last record of a run; empty if there is none."""
    root = Path(output_dir)
    records = [*root.glob("sub-*/log/*/l2s_pydra.toml"), *root.glob("logs/*/l2s_pydra.toml")]
    if not records:
        return {}
    last = max(records, key=lambda path: path.parent.name)  # names begin with the time
    try:
        found = tomllib.loads(last.read_text(encoding="utf-8")).get("software", {})
    except (OSError, ValueError):
        return {}
    return {str(name): str(version) for name, version in found.items()}


def _lead(uses: Sequence[Use]) -> str:
    bids = (
        "Inputs and outputs follow the Brain Imaging Data Structure (BIDS; Gorgolewski et al., "
        "2016), the software is a BIDS App (Gorgolewski et al., 2017)."
    )
    if not uses:
        return f"A model for the segmentation of brain images was trained. {bids}"
    if len(uses) == 1:
        return f"Brain images were segmented automatically. {bids}"
    return (
        f"Brain images were segmented automatically, in {len(uses)} ways, each of which is "
        f"described in a paragraph of its own. {bids}"
    )


def _segmentation(use: Use, model: Mapping[str, Any], several: bool) -> str:
    kinds = [f"{count:,} {plain(suffix)}" for suffix, count in use.contrasts.items()]
    images = f"{listed(kinds)} image{'' if use.images == 1 else 's'}"
    structures = model.get("validation_dice") or {}
    into = f"{len(structures)} structures" if structures else "labels"
    text = (
        f"{'In this part, t' if several else 'T'}he {images} of "
        f"{counted(use.participants, 'participant')} "
        f"{'was' if use.images == 1 else 'were'} segmented into {into} (set of labels "
        f"`{plain(use.segmentation)}`) with l2s_pydra {plain(use.software)} and the model "
        f"{plain(use.model)} (SHA-256 of its weights {plain(use.sha256)}), a U-Net (Ronneberger et "
        "al., 2015)."
    )
    learn = model.get("learn")
    grid = "the grid of the model"
    if learn:
        grid = f"voxels of {float(learn['spacing_mm']):g} mm in all directions"
    text += (
        f" Each image was resampled to {grid}, and its intensities were scaled such that the 0.5th "
        "percentile of all voxels became 0 and the 99th percentile of those brighter than the mean "
        f"became 1. {_averaging(use)}The posterior probability of each label was interpolated "
        "linearly back to the grid of the image, where each voxel got the most probable label; no "
        "threshold was applied."
    )
    if use.largest:
        text += (
            f" Of {listed([plain(name) for name in use.largest])}, only the largest connected "
            "piece was kept."
        )
    if not learn:
        text += " How this model was trained is not recorded in this data set."
    return text


def _averaging(use: Use) -> str:
    means = []
    if use.flip:
        means.append("those of its left-right mirror image, labels of the two sides exchanged")
    if use.draws and use.draws > 1:
        means.append(
            f"those of {counted(use.draws - 1, 'copy', 'copies')} with small "
            "random changes of contrast, noise and position"
        )
    if not means:
        return "" if use.flip is None else "The network saw each image once. "
    return f"Posterior probabilities of the image were averaged with {' and with '.join(means)}. "


_VOLUMES = (
    "Volumes (column `volume-mm3`) are the number of voxels of a label times the volume of a voxel; "
    "soft volumes (`soft-volume-mm3`) are the sum of the posterior probabilities of a label over the "
    "grid of the model, times the volume of its voxels."
)


def _is_known(versions: Mapping[str, str], name: str) -> bool:
    return versions.get(name, "not installed") != "not installed"


def _software(versions: Mapping[str, str]) -> str:
    text = f"This text was written by l2s_pydra {__version__}."
    tools = [
        phrase.format(plain(versions[name]))
        for name, phrase in _TOOLS.items()
        if _is_known(versions, name)
    ]
    if not tools:
        return text
    sentence = listed(tools)
    return f"{sentence[0].upper()}{sentence[1:]}. {text}"


def _page(markdown: str) -> str:
    """Headings, paragraphs, tables and one list: all that a methods text has."""
    body = [_block(block) for block in markdown.strip().split("\n\n")]
    head = '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Methods</title>'
    return "\n".join([head, *body, "</html>"]) + "\n"


def _block(block: str) -> str:
    lines = html.escape(block).splitlines()
    if lines[0].startswith("#"):
        level = len(lines[0]) - len(lines[0].lstrip("#"))
        return f"<h{level}>{lines[0].lstrip('# ')}</h{level}>"
    if lines[0].startswith("- "):
        return "\n".join(["<ul>", *(f"<li>{line[2:]}</li>" for line in lines), "</ul>"])
    if lines[0].startswith("|"):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        head = "".join(f"<th>{cell}</th>" for cell in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows[2:]
        )
        return f"<table>\n<tr>{head}</tr>\n{body}</table>"
    text = re.sub("`([^`]*)`", r"<code>\1</code>", " ".join(lines))
    return f"<p>{text}</p>"
