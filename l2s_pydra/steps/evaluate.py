"""Compare segmentations with references, and gather volumes, into tables."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bids.derivatives import write_text
from ..errors import DatasetError, LabelError
from ..images.volume import check_same_grid, load_labels, voxel_volume_mm3
from ..labels import LabelScheme, read_mapping
from ..reports.tables import read_rows, to_number
from .given import check_lists

__all__ = ["collect_volumes", "evaluate"]

_NONE = "n/a"


def evaluate(
    *,
    dsegs: Sequence[Path],
    names: Sequence[str],
    references: Sequence[Path],
    reference_table: Path,
    model_labels: Path,
    label_mapping: Path | None = None,
    out_file: Path,
) -> Path:
    r"""Dice overlap and volume of each label of each image, on the image's own grid.

    .. math:: D_k = \frac{2 |P_k \cap R_k|}{|P_k| + |R_k|}

    Parameters
    ----------
    dsegs : sequence of Path
        Segmentations :math:`P`.
    names : sequence of str
        Name of each, for the table.
    references : sequence of Path
        Reference labels :math:`R` of each, on the same grid.
    reference_table : Path
        BIDS ``dseg.tsv`` of the references.
    model_labels : Path
        BIDS ``dseg.tsv`` of the segmentations.
    label_mapping : Path, optional
        Table with the columns ``index`` (of a reference label) and ``mapping`` (of a label of the
        segmentations), where names do not tell.
    out_file : Path
        TSV to write: ``name``, ``index``, ``label``, ``dice``, ``volume_mm3`` and
        ``reference_volume_mm3``; one row for each image and each label but the background. Dice
        is ``n/a`` where neither has the label.

    Returns
    -------
    Path
        ``out_file``.

    Raises
    ------
    ConfigError
        If the sequences differ in length.
    DatasetError
        If there is nothing to compare.
    ImageError
        If an image cannot be read; :class:`GridMismatchError` if two lie on different grids.
    LabelError
        If a value is in no table, or a reference label has no counterpart.

    References
    ----------
    Dice, Ecology 1945.
    """
    if not dsegs:
        raise DatasetError(
            "no segmentation is given to compare with a reference; give one at least"
        )
    check_lists(len(dsegs), names=names, references=references)
    scheme, reference_scheme = LabelScheme.read(model_labels), LabelScheme.read(reference_table)
    mapping = read_mapping(label_mapping) if label_mapping else None
    try:
        to_model = reference_scheme.mapped_to(scheme, mapping)
    except LabelError as error:
        raise LabelError(f"{reference_table}: {error}") from error
    lines = ["name\tindex\tlabel\tdice\tvolume_mm3\treference_volume_mm3"]
    for dseg, name, reference in zip(dsegs, names, references, strict=True):
        table, voxel_mm3 = _overlap(dseg, reference, scheme, reference_scheme, to_model)
        lines += _rows(name, scheme, table, voxel_mm3)
    return write_text(out_file, "\n".join(lines) + "\n")


def collect_volumes(morph_files: Iterable[Path], names: Iterable[str], out_file: Path) -> Path:
    """Gather the tables of volumes of many images into one.

    Parameters
    ----------
    morph_files : iterable of Path
        Tables with the columns ``index``, ``name`` and ``volume-mm3``.
    names : iterable of str
        Name of the image of each.
    out_file : Path
        TSV to write: ``name``, ``index``, ``label`` and ``volume_mm3``. Sums over labels (of index
        ``n/a``) that are not defined for an image are left out.

    Returns
    -------
    Path
        ``out_file``.

    Raises
    ------
    DatasetError
        If a table cannot be read, lacks a column or holds a volume that is no number.
    """
    lines = ["name\tindex\tlabel\tvolume_mm3"]
    for path, name in zip(morph_files, names, strict=True):
        for row in read_rows(path, ("index", "name", "volume-mm3")):
            if row["index"] == row["volume-mm3"] == _NONE:
                continue  # a sum that the labels do not allow
            if not np.isfinite(to_number(row["volume-mm3"])):
                raise DatasetError(
                    f"{path}: volume {row['volume-mm3']!r} of {row['name']} is no number; "
                    "segment the image again"
                )
            lines.append("\t".join((name, row["index"], row["name"], row["volume-mm3"])))
    return write_text(out_file, "\n".join(lines) + "\n")


def _overlap(
    dseg: Path,
    reference: Path,
    scheme: LabelScheme,
    reference_scheme: LabelScheme,
    to_model: npt.NDArray[np.int16],
) -> tuple[npt.NDArray[np.int64], float]:
    """(K, K) voxels of each segmented (rows) and reference label (columns); mm3 a voxel."""
    predicted = load_labels(dseg, allow_2d=True, allow_constant=True)
    truth = load_labels(reference, allow_2d=True)
    check_same_grid(predicted, truth)
    rows = scheme.to_channels(predicted.data, source=dseg)
    columns = to_model[reference_scheme.to_channels(truth.data, source=reference)]
    count = len(scheme)
    pairs = rows.astype(np.int32) * count + columns
    table = np.bincount(pairs.reshape(-1), minlength=count**2).reshape(count, count)
    return table, voxel_volume_mm3(predicted.affine)


def _rows(
    name: str, scheme: LabelScheme, table: npt.NDArray[np.int64], voxel_mm3: float
) -> list[str]:
    predicted, truth = table.sum(axis=1), table.sum(axis=0)
    rows = []
    for channel, label in enumerate(scheme.labels):
        if channel == 0:
            continue
        total = predicted[channel] + truth[channel]
        dice = f"{2 * table[channel, channel] / total:.6f}" if total else _NONE
        volumes = (f"{n[channel] * voxel_mm3:.3f}" for n in (predicted, truth))
        rows.append("\t".join((name, str(label.index), label.name, dice, *volumes)))
    return rows
