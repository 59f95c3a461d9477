"""The files that describe a derivative data set as a whole."""

import csv
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from .. import __version__
from ..jsonfiles import read_json
from .derivatives import desc_label, write_json, write_text
from .methods import write_methods
from .uses import Use

__all__ = ["dataset_description", "describe_dataset", "descriptions", "raw_link"]

_log = logging.getLogger(__name__)
BIDS_VERSION = "1.11.1"
_NAME = "l2s_pydra"


def describe_dataset(
    folder: str | Path,
    *,
    bids_dir: str | Path,
    output_dir: str | Path,
    images: Iterable[Mapping[str, str]],
    bidsignore: str,
    models: Iterable[Mapping[str, Any]],
    versions: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    entropy: bool = False,
    links: Mapping[str, str | Path] | None = None,
    uses: Sequence[Use] | None = None,
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
    models : iterable of mapping
        What is known of the models used (:func:`l2s_pydra.bids.uses.model_facts`); others are read
        from ``output_dir``.
    versions : mapping, optional
        Versions of the software by package, for the methods text; those of the last recorded run
        if not given.
    container : mapping, optional
        ``Type``, ``Tag`` and ``URI`` of the container, if the software runs in one.
    entropy : bool, default=False
        Whether maps of entropy were written, whose ``desc`` is to be described.
    links : mapping, optional
        Roots of further data sets by the names that BIDS URIs call them.
    uses : sequence of Use, optional
        What is known of the sidecars (:func:`l2s_pydra.bids.known_uses.known_uses`); read by default.

    Returns
    -------
    list of Path
        The files written.
    """
    folder = Path(folder)
    compared, has_models = (
        any((Path(root) / name).is_dir() for root in (folder, output_dir))
        for name in ("comparison", "models")
    )
    return [
        write_json(
            folder / "dataset_description.json",
            dataset_description(
                bids_dir, output_dir, container=container, links=links, has_models=has_models
            ),
        ),
        write_text(
            folder / "README.md",
            _readme(raw_link(bids_dir, output_dir), compared=compared, has_models=has_models),
        ),
        write_text(folder / ".bidsignore", bidsignore),
        write_text(folder / "descriptions.tsv", descriptions(output_dir, images, entropy)),
        write_json(folder / "descriptions.json", _DESCRIPTIONS_SIDECAR),
        *write_methods(folder, output_dir, models=models, versions=versions, uses=uses),
    ]


def dataset_description(
    bids_dir: str | Path,
    output_dir: str | Path,
    *,
    container: Mapping[str, str] | None = None,
    links: Mapping[str, str | Path] | None = None,
    has_models: bool = False,
) -> dict[str, Any]:
    """Contents of ``dataset_description.json``.

    The licence of the raw data set is carried over, because derived data may be bound by it. Models
    are linked where the derivative holds any, which it does not if only a packaged one was used.
    """
    raw = _read_description(bids_dir)
    before = _read_description(output_dir)
    generator: dict[str, Any] = {"Name": _NAME, "Version": __version__}
    if container:
        generator["Container"] = dict(container)
    folders = {"raw": bids_dir, **(links or {})}
    found = {name: relative_link(name, folder, output_dir) for name, folder in folders.items()}
    sources = [_source(folders[name], link) for name, link in found.items()]
    own = {"models": "models"} if has_models else {}
    kept = {name: link for name, link in _links_of(before).items() if name != "models"}
    values: dict[str, Any] = {
        "Name": f"{_NAME} segmentations of {raw.get('Name') or 'a BIDS data set'}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generator],
        "SourceDatasets": sources + _kept(before.get("SourceDatasets"), sources),
        # Files of earlier runs may point to what this one did not use.
        "DatasetLinks": {**kept, **own, **found},
        "HowToAcknowledge": "Please cite the works in logs/CITATION.md.",
    }
    if raw.get("License"):
        values["License"] = raw["License"]
    return values


def _source(folder: str | Path, link: str) -> dict[str, str]:
    """Describe a source: DOI or place, and version where the data set tells one."""
    doi = _read_description(folder).get("DatasetDOI")
    source = {"DOI": str(doi)} if doi else {"URL": f"file:{link}"}
    version = _version(Path(folder) / "CHANGES")
    return {**source, "Version": version} if version else source


def _version(changes: Path) -> str | None:
    """Latest version in the ``CHANGES`` of a data set, whose entries begin with it and a date."""
    try:
        lines = changes.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = (re.match(r"([\w.+-]+)\s+\d{4}-\d{2}-\d{2}\b", line) for line in lines)
    return next((match[1] for match in found if match), None)


def _kept(before: object, now: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return sources of earlier runs that are not named now."""
    places = {source.get("DOI", source.get("URL")) for source in now}
    rows = [row for row in before if isinstance(row, dict)] if isinstance(before, list) else []
    return [row for row in rows if row.get("DOI", row.get("URL")) not in places]


def _links_of(description: Mapping[str, Any]) -> dict[str, str]:
    links = description.get("DatasetLinks")
    return {str(k): str(v) for k, v in links.items()} if isinstance(links, dict) else {}


def relative_link(name: str, folder: str | Path, output_dir: str | Path) -> str:
    """Relative path from the derivative to another data set, for ``DatasetLinks``.

    A published data set should name no user, and tell no folder of the computer it was made on. A
    path through somebody's home folder, or up to the root of the file system and down again, is
    replaced by ``sourcedata/<name>``, the place BIDS foresees for the sources of a derivative.

    Parameters
    ----------
    name : str
        What BIDS URIs call the data set.
    folder : path
        Its root.
    output_dir : path
        Root of the derivative.

    Examples
    --------
    >>> relative_link("raw", "/data/study", "/data/study/derivatives/l2s_pydra")
    '../..'
    >>> relative_link("raw", "/scratch/lab/study", "/out")
    'sourcedata/raw'
    """
    target, start = Path(folder).resolve(), Path(output_dir).resolve()
    link = PurePath(os.path.relpath(target, start))
    down = [part for part in link.parts if part != ".."]
    from_root = len(link.parts) - len(down) == len(start.parts) - 1
    if {"home", "Users"} & set(down) or (from_root and len(down) > 1):
        return f"sourcedata/{name}"
    return link.as_posix()


def raw_link(bids_dir: str | Path, output_dir: str | Path) -> str:
    """Relative path from the derivative to the raw data set, for ``DatasetLinks``.

    See :func:`relative_link`.
    """
    return relative_link("raw", bids_dir, output_dir)


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


def _readme(link: str, *, compared: bool, has_models: bool) -> str:
    models = "- `models`: the networks, with their configuration and model card.\n"
    meaning = " and `bids:models:`\nfor the folder `models`" if has_models else ""
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
{models if has_models else ""}\
- `prov`: what was made from what, with checksums (draft of BIDS-Prov, JSON-LD).
{comparison if compared else ""}
`seg-<label>` names the set of labels, `desc-<label>` the contrast of the image that was segmented
(`descriptions.tsv`). In the sidecars, `bids:raw:` stands for the raw data set{meaning}.
`logs/CITATION.md` holds the methods text and the references to cite.
"""


_DESCRIPTIONS_SIDECAR = {
    "Description": "Meaning of the desc entity in the file names of this data set",
    "desc_id": {"Description": "The desc entity of file names"},
    "description": {"Description": "What the files with this desc were made from"},
}


def _existing_descriptions(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t")
            return {r["desc_id"]: r.get("description") or "n/a" for r in rows if r.get("desc_id")}
    except (UnicodeDecodeError, csv.Error) as error:
        _log.warning("%s: is no table (%s), and is begun anew", table, error)
        return {}


def _read_description(bids_dir: str | Path) -> dict[str, Any]:
    try:
        return dict(read_json(Path(bids_dir) / "dataset_description.json"))
    except (OSError, ValueError, TypeError):
        return {}  # it adds a name and a licence; what is derived can be described without
