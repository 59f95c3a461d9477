"""Write the pages a person reads: of a participant, of a group, of a model."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..errors import DatasetError, LabelError
from ..labels import LabelScheme
from ..reports.colors import hex_color, label_colors
from ..reports.group_range import Group, group_name, index_group
from ..reports.inputs import Failure, ImageSummary, Link, ModelReference
from ..reports.pages import group_page, participant_page
from ..reports.statistics import ImageValue
from ..reports.tables import read_rows, to_number
from .page_data import PageData, everyone
from .page_entries import IMAGE, find_fault
from .report_model import report_model

__all__ = [
    "read_groups",
    "refresh_participant",
    "report_group",
    "report_model",
    "report_participant",
]

logger = logging.getLogger(__name__)
_CITATION: Link = {"href": "logs/CITATION.html", "text": "Methods text and references"}
_GROUP: Link = {"href": "group.html", "text": "Report of the group"}


def report_participant(
    *,
    participant: str,
    summaries: Sequence[Path],
    output_dir: Path,
    run: Mapping[str, Any],
    failures: Sequence[Mapping[str, Any]] = (),
    out_file: Path,
    data_file: Path | None = None,
    groups: Mapping[str, Group] | None = None,
    bids_dir: Path | None = None,
) -> Path:
    """Write the page of a participant: images of this run, and those of earlier ones.

    Parameters
    ----------
    participant : str
        ``sub-<label>``.
    summaries : sequence of Path
        ``summary.json`` of each segmented image.
    output_dir : Path
        Root of the derivative, which holds the outputs that the summaries name, and what is kept
        of earlier runs.
    run : mapping
        Record of the run (:func:`l2s_pydra.bids.provenance.run_record`).
    failures : sequence of mappings
        ``file``, ``reason`` and ``log`` of each image that failed
        (:class:`l2s_pydra.reports.inputs.Failure`).
    out_file : Path
        Page to write, to be read at the root of the derivative.
    data_file : Path, optional
        Where to keep what the page is made of, for later runs
        (:meth:`~l2s_pydra.steps.page_data.PageData.place` in the derivative).
    groups : mapping, optional
        Volumes of the group that those of the images are compared with (:func:`read_groups`); by
        default they are read from ``output_dir``. To be read once for many pages.
    bids_dir : Path, optional
        Root of the raw data set: failures of earlier runs are dropped where the image is gone.

    Returns
    -------
    Path
        ``out_file``.

    Raises
    ------
    DatasetError
        If a summary cannot be read.
    """
    before = PageData.read(participant, Path(output_dir), bids_dir)
    data = before.merged([_read(path) for path in summaries], failures, run)
    if data_file is not None:
        data.write(Path(data_file))
    if groups is None:
        groups = read_groups(Path(output_dir))
    return _participant_page(participant, data, Path(output_dir), Path(out_file), groups)


def read_groups(output_dir: Path) -> dict[str, Group]:
    """Read the tables of volumes of the group at the root of a derivative, if there are any.

    Parameters
    ----------
    output_dir : Path
        Root of the derivative, with ``seg-<label>_morph.tsv``.

    Returns
    -------
    dict
        Volumes of everyone, by the ``seg`` entity in the name of the table. A table that cannot be
        read is left out, with a warning.
    """
    return _groups(sorted(Path(output_dir).glob("seg-*_morph.tsv")))


def refresh_participant(
    *,
    participant: str,
    output_dir: Path,
    groups: Mapping[str, Group],
    out_file: Path,
    bids_dir: Path | None = None,
) -> Path:
    """Write the page of a participant anew, from what is kept of earlier runs.

    Parameters
    ----------
    participant : str
        ``sub-<label>``.
    output_dir : Path
        Root of the derivative.
    groups : mapping
        Volumes of the group (:func:`read_groups`).
    out_file : Path
        Page to write, to be read at the root of the derivative.
    bids_dir : Path, optional
        Root of the raw data set: failures of earlier runs are dropped where the image is gone.

    Returns
    -------
    Path
        ``out_file``.
    """
    data = PageData.read(participant, Path(output_dir), bids_dir)
    return _participant_page(participant, data, Path(output_dir), Path(out_file), groups)


def report_group(
    *,
    volumes: Path,
    dice: Path | None = None,
    failures: Sequence[Mapping[str, Any]] = (),
    out_file: Path,
    run: Mapping[str, Any] | None = None,
    models: Sequence[Mapping[str, Any]] = (),
    roles: Mapping[str, str] | None = None,
    output_dir: Path | None = None,
    segmentation: str | None = None,
    bids_dir: Path | None = None,
) -> Path:
    """Write the page of a group.

    Parameters
    ----------
    volumes : Path
        TSV with the columns ``name``, ``label`` and ``volume_mm3``.
    dice : Path, optional
        TSV with the columns ``name``, ``label`` and ``dice``.
    failures : sequence of mappings
        ``file``, ``reason`` and ``log`` of each image that failed.
    out_file : Path
        Page to write, to be read beside the pages of the participants.
    run : mapping, optional
        Record of the run.
    models : sequence of mappings
        ``name``, ``sha256`` and ``version`` of each model that was used.
    roles : mapping, optional
        Part of the participant of each image in the training of the model, by the name of the image
        (:func:`l2s_pydra.reports.pages.group_page`).
    output_dir : Path, optional
        Root of the derivative; what failed there in earlier runs, and remarks on images, are shown.
    segmentation : str, optional
        ``seg`` entity of the images whose remarks are shown.
    bids_dir : Path, optional
        Root of the raw data set: failures of earlier runs are dropped where the image is gone.

    Returns
    -------
    Path
        ``out_file``.

    Raises
    ------
    DatasetError
        If a table cannot be read or lacks a column.
    """
    kept = list(everyone(Path(output_dir), bids_dir)) if output_dir else []
    failed = {failure["file"]: failure for _, data in kept for failure in data.failures}
    failed |= {failure["file"]: failure for failure in failures}
    return group_page(
        _values(volumes, "volume_mm3"),
        out_file,
        dice=_values(dice, "dice") if dice else (),
        roles=roles,
        flags=[flag for _, data in kept for flag in _flags(data, segmentation)],
        failures=[cast(Failure, failure) for failure in failed.values()],
        models=[cast(ModelReference, model) for model in models],
        run=run,
        links=[_CITATION],
    )


def _participant_page(
    participant: str,
    data: PageData,
    output_dir: Path,
    out_file: Path,
    groups: Mapping[str, Group],
) -> Path:
    images = [_shown(image, output_dir, out_file.parent) for image in data.images]
    records = data.latest_first
    return participant_page(
        participant,
        images,
        out_file,
        run=records[0] if records else {},
        earlier=records[1:],
        failures=[cast(Failure, failure) for failure in data.failures],
        links=[_CITATION, *([_GROUP] if groups else [])],
        groups=groups,
    )


def _groups(tables: Sequence[Path]) -> dict[str, Group]:
    """Volumes of everyone, by the ``seg`` entity in the name of their table.

    A table that cannot be read costs the comparison, not the pages.
    """
    groups = {}
    for table in tables:
        try:
            rows = read_rows(table, ("image", "name", "volume-mm3"))
        except DatasetError as error:
            logger.warning("no comparison with the group: %s", error)
            continue
        values = (ImageValue(r["image"], r["name"], to_number(r["volume-mm3"])) for r in rows)
        groups[Path(table).name.removeprefix("seg-").removesuffix("_morph.tsv")] = index_group(
            values
        )
    return groups


def _flags(data: PageData, segmentation: str | None) -> list[dict[str, Any]]:
    """Remarks on the images of a participant that have any."""
    found = []
    for image in data.images:
        if segmentation is None or image.get("segmentation") == segmentation:
            texts = [flag["text"] for flag in image.get("flags", ())]
            texts += [*image["warnings"], *image.get("header_warnings", ())]
            if texts:
                found.append({"name": group_name(cast(ImageSummary, image)), "texts": texts})
    return found


def _read(path: Path) -> dict[str, Any]:
    """Read the summary of an image."""
    try:
        values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if fault := find_fault(values, IMAGE, "image"):
            raise ValueError(fault)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path}: is no summary of a segmentation ({error}); segment the image again"
        ) from error
    return values


def _shown(image: Mapping[str, Any], output_dir: Path, page_dir: Path) -> ImageSummary:
    """Summary of an image, with the colours of its figure and the page of its model."""
    table = image["dseg"].replace(".nii.gz", ".tsv")
    colors = _colors(page_dir / table) or _colors(output_dir / table)
    rows = [
        {**row, "color": colors.get(row["index"], row.get("color"))} for row in image["volumes"]
    ]
    model = dict(image["model"])
    page = f"models/model-{model['name']}/report.html"
    if any((folder / page).is_file() for folder in (output_dir, page_dir)):
        model["page"] = page
    return cast(ImageSummary, {**image, "volumes": rows, "model": model})


def _colors(table: Path) -> dict[int, str]:
    """Colour of each label of a table; none without a table that can be read."""
    if not table.is_file():
        return {}
    try:
        scheme = LabelScheme.read(table)
    except (LabelError, OSError) as error:
        logger.warning("no colours of the figure: %s", error)
        return {}
    return {
        index: hex_color(color)
        for index, color in zip(scheme.indices, label_colors(scheme), strict=True)
    }


def _values(table: Path, column: str) -> list[ImageValue]:
    return [
        ImageValue(row["name"], row["label"], to_number(row[column]))
        for row in read_rows(table, ("name", "label", column))
    ]
