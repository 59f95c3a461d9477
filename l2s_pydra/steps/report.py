"""Write the pages a person reads: of a participant, of a group, of a model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..errors import DatasetError
from ..labels import LabelScheme
from ..reports.colors import hex_color, label_colors
from ..reports.inputs import Failure, ImageSummary, Link, ModelReference
from ..reports.pages import group_page, participant_page
from ..reports.statistics import ImageValue
from ..reports.tables import read_rows, to_number
from .report_model import report_model

__all__ = ["report_group", "report_model", "report_participant"]

_CITATION: Link = {"href": "logs/CITATION.html", "text": "Methods text and references"}


def report_participant(
    *,
    participant: str,
    summaries: Sequence[Path],
    output_dir: Path,
    run: Mapping[str, Any],
    failures: Sequence[Mapping[str, Any]] = (),
    out_file: Path,
) -> Path:
    """Write the page of a participant.

    Parameters
    ----------
    participant : str
        ``sub-<label>``.
    summaries : sequence of Path
        ``summary.json`` of each segmented image.
    output_dir : Path
        Root of the derivative, which holds the outputs that the summaries name.
    run : mapping
        Record of the run (:func:`l2s_pydra.bids.provenance.run_record`).
    failures : sequence of mappings
        ``file``, ``reason`` and ``log`` of each image that failed
        (:class:`l2s_pydra.reports.inputs.Failure`).
    out_file : Path
        Page to write, to be read at the root of the derivative.

    Returns
    -------
    Path
        ``out_file``.

    Raises
    ------
    DatasetError
        If a summary cannot be read.
    """
    images = [_summary(path, Path(output_dir), Path(out_file).parent) for path in summaries]
    images.sort(key=lambda image: image["source"])
    return participant_page(
        participant,
        images,
        out_file,
        run=run,
        failures=[cast(Failure, failure) for failure in failures],
        links=[_CITATION],
    )


def report_group(
    *,
    volumes: Path,
    dice: Path | None = None,
    failures: Sequence[Mapping[str, Any]] = (),
    out_file: Path,
    run: Mapping[str, Any] | None = None,
    models: Sequence[Mapping[str, Any]] = (),
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

    Returns
    -------
    Path
        ``out_file``.

    Raises
    ------
    DatasetError
        If a table cannot be read or lacks a column.
    """
    return group_page(
        _values(volumes, "volume_mm3"),
        out_file,
        dice=_values(dice, "dice") if dice else (),
        failures=[cast(Failure, failure) for failure in failures],
        models=[cast(ModelReference, model) for model in models],
        run=run,
        links=[_CITATION],
    )


def _summary(path: Path, output_dir: Path, page_dir: Path) -> ImageSummary:
    """Summary of an image, with the colours of its figure and the page of its model."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        table = output_dir / values["dseg"].replace(".nii.gz", ".tsv")
        colors = _colors(table)
        for row in values["volumes"]:
            row["color"] = colors.get(row["index"])
        page = f"models/model-{values['model']['name']}/report.html"
        if any((folder / page).is_file() for folder in (output_dir, page_dir)):
            values["model"]["page"] = page
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: is no summary of a segmentation ({error}); segment the image again"
        ) from error
    return cast(ImageSummary, values)


def _colors(table: Path) -> dict[int, str]:
    """Colour of each label of a table; none without a table."""
    if not table.is_file():
        return {}
    scheme = LabelScheme.read(table)
    return {
        index: hex_color(color)
        for index, color in zip(scheme.indices, label_colors(scheme), strict=True)
    }


def _values(table: Path, column: str) -> list[ImageValue]:
    return [
        ImageValue(row["name"], row["label"], to_number(row[column]))
        for row in read_rows(table, ("name", "label", column))
    ]
