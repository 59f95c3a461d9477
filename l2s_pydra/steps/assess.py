"""Segment labelled images with a model and say how good that is; no segmentation is kept."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from ..bids.derivatives import write_text
from ..errors import DatasetError, L2SError, LabelError
from ..images.conform import Conform
from ..images.volume import check_same_grid, load_image, load_labels, voxel_volume_mm3
from ..labels import LabelScheme, read_mapping
from .device import computing_on
from .given import check_lists
from .posterior import Prediction, predict

if TYPE_CHECKING:
    from ..segmentation import Model

__all__ = ["COLUMNS", "METRICS", "WHOLE", "assess", "failures_file"]

logger = logging.getLogger(__name__)

METRICS = ("dice", "hd95_mm", "volume_error", "ece")
"""Columns that compare a segmentation with its reference."""
COLUMNS = (
    "participant_id",
    "image",
    "contrast",
    "role",
    "index",
    "structure",
    "dice",
    "hd95_mm",
    "volume_mm3",
    "reference_volume_mm3",
    "volume_error",
    "ece",
)
"""Columns of the table."""
WHOLE = "whole"
"""Name of the union of all structures in the column ``structure``; its ``index`` is ``n/a``."""

_NONE = "n/a"
_MATTERS = 0.01
"""Posterior from which a voxel counts for the calibration of a structure."""
_Channels = npt.NDArray[np.int16]


def assess(
    *,
    images: Sequence[Path],
    references: Sequence[Path],
    names: Sequence[str],
    participants: Sequence[str],
    contrasts: Sequence[str],
    roles: Sequence[str],
    weights: Path,
    config: Path,
    labels: Path,
    reference_table: Path,
    label_mapping: Path | None = None,
    out_file: Path,
    device: str = "auto",
    threads: int | None = None,
) -> Path:
    r"""Compare what a model makes of images with their reference labels, on the images' own grids.

    For each structure, with the voxels :math:`P` that were segmented and :math:`R` of the
    reference: Dice :math:`2 |P \cap R| / (|P| + |R|)`, the 95th percentile of surface distances
    (:func:`~l2s_pydra.segmentation.metrics.hausdorff_95`), both volumes, their relative
    difference :math:`|V_P - V_R| / V_R`, and the expected calibration error of the structure's
    posterior (:func:`~l2s_pydra.segmentation.metrics.calibration_error`, 15 bins) over the voxels
    where the posterior is above 0.01 or the reference is the structure.

    One more row of each image, ``whole``, is about the union of all structures; its calibration
    error is that of Guo et al.: the largest posterior against whether that label is right, over
    the voxels where the segmentation or the reference has a structure.

    A structure that no label of ``reference_table`` maps to was not delineated: nothing is known
    of it, so that only its segmented volume is told, and ``whole`` goes without it.

    Parameters
    ----------
    images, references : sequences of Path
        Images and their reference labels on the same grid, in pairs.
    names, participants, contrasts, roles : sequences of str
        Of each image; copied into the table.
    weights, config, labels : Path
        The three files of the model.
    reference_table : Path
        BIDS ``dseg.tsv`` of ``references``.
    label_mapping : Path, optional
        Table with the columns ``index`` (of a reference label) and ``mapping`` (of a label of the
        model), where names do not tell.
    out_file : Path
        TSV to write with the columns :data:`COLUMNS`, one row for each image and structure.
        Undefined values are ``n/a``: Dice where neither has the structure, the distance where one
        lacks it, the volume error where the reference does, and all but ``volume_mm3`` where the
        references are without the structure by design. Images that cannot be assessed have no row
        there but one in :func:`failures_file`.
    device : str, default="auto"
        See :func:`l2s_pydra.steps.device.computing_on`.
    threads : int, optional
        CPU threads of PyTorch.

    Returns
    -------
    Path
        ``out_file``.

    Raises
    ------
    ConfigError
        If the sequences differ in length, or the device is not there.
    DatasetError
        If no image can be assessed; or if a file cannot be read just now (a disk that does not
        answer, content that is elsewhere): a table without it would be kept as the result.
    ModelError
        If the model is broken.
    LabelError
        If a label of the references has no counterpart in the model.
    """
    from ..segmentation import Model

    given = {"names": names, "participants": participants, "contrasts": contrasts, "roles": roles}
    check_lists(len(images), references=references, **given)
    model = Model.load_files(weights, config, labels)
    truth = _Reference.read(reference_table, label_mapping, model.scheme)
    rows: list[Sequence[str]] = []
    failures: list[Sequence[str]] = []
    with computing_on(device, threads) as chosen:
        for image, reference, *who in zip(
            images, references, participants, names, contrasts, roles, strict=True
        ):
            try:
                found = _compare(model, truth, Path(image), Path(reference), chosen, weights)
                rows += [[*who, *row] for row in found]
            except L2SError as error:
                if _may_pass(error, (Path(image), Path(reference))):
                    raise DatasetError(f"{error}; once it can be read, run again") from error
                logger.warning("%s is left out: %s", who[1], error)
                failures.append([*who[:2], str(error)])
    if not rows:
        reason = failures[0][-1] if failures else "none is given"
        raise DatasetError(f"no image can be compared with a reference: {reason}")
    _write(failures_file(out_file), ("participant_id", "image", "reason"), failures)
    return _write(out_file, COLUMNS, rows)


def failures_file(out_file: Path) -> Path:
    """Where :func:`assess` lists the images it left out, beside its table.

    >>> failures_file(Path("images.tsv")).name
    'images_failures.tsv'
    """
    return Path(out_file).with_name(f"{Path(out_file).stem}_failures.tsv")


def _may_pass(error: BaseException, files: Sequence[Path]) -> bool:
    """Whether reading failed for a reason that is not in the files, so that it may work later."""
    if not all(file.is_file() for file in files):
        return True
    cause: BaseException | None = error
    while cause is not None:
        # Files that are truncated or of another format come without a number of the system.
        if isinstance(cause, OSError) and cause.errno is not None:
            return True
        cause = cause.__cause__
    return False


@attrs.frozen
class _Reference:
    """Labels of the references, and what they are to the model."""

    scheme: LabelScheme
    to_model: _Channels
    known: npt.NDArray[np.bool_]
    """Whether references tell of each channel of the model; of the background they do not."""

    @classmethod
    def read(cls, table: Path, mapping: Path | None, target: LabelScheme) -> "_Reference":
        scheme = LabelScheme.read(table)
        try:
            to_model = scheme.mapped_to(target, read_mapping(mapping) if mapping else None)
        except LabelError as error:
            raise LabelError(f"{table}: {error}") from error
        known = np.isin(np.arange(len(target)), to_model)
        known[0] = False
        missing = [
            label.name for label in target.labels[1:] if not known[target.channel(label.index)]
        ]
        if missing:
            logger.warning(
                "%s: has no label of %s; that is not compared", table, ", ".join(missing)
            )
        return cls(scheme, to_model, known)


def _compare(
    model: "Model",
    truth: _Reference,
    image: Path,
    reference: Path,
    device: Any,
    weights: Path,
) -> Iterator[list[str]]:
    """Last columns of the rows of an image."""
    flat = model.learn_config.segmenter.ndim == 2
    volume = load_image(image, allow_2d=flat)
    labels = load_labels(reference, allow_2d=flat)
    check_same_grid(volume, labels)
    expected = truth.to_model[truth.scheme.to_channels(labels.data, source=reference)]
    found = predict(model, volume, device, weights=weights)
    predicted = found.channels()
    errors = _calibration(found, predicted, expected, truth.known)
    for channel, label in enumerate(model.scheme.labels):
        segmented = predicted == channel if channel else truth.known[predicted]
        true = expected == channel if channel else expected > 0
        if channel and not truth.known[channel]:
            volume_mm3 = np.count_nonzero(segmented) * voxel_volume_mm3(volume.affine)
            values = [np.nan, np.nan, volume_mm3, np.nan, np.nan, np.nan]
        else:
            values = [*_overlap(segmented, true, volume.affine), errors[channel]]
        name = (str(label.index), label.name) if channel else (_NONE, WHOLE)
        yield [*name, *map(_cell, values)]


def _overlap(
    predicted: npt.NDArray[np.bool_],
    expected: npt.NDArray[np.bool_],
    affine: npt.NDArray[np.float64],
) -> list[float]:
    """Dice, distance, both volumes and their relative difference."""
    from ..segmentation.metrics import hausdorff_95

    p, r = np.count_nonzero(predicted), np.count_nonzero(expected)
    dice = 2 * np.count_nonzero(predicted & expected) / (p + r) if p + r else np.nan
    voxel = voxel_volume_mm3(affine)
    error = abs(p - r) / r if r else np.nan
    return [dice, hausdorff_95(predicted, expected, affine), p * voxel, r * voxel, error]


def _calibration(
    found: Prediction, predicted: _Channels, expected: _Channels, known: npt.NDArray[np.bool_]
) -> list[float]:
    """Calibration error of each label; in the place of the background, that of the whole.

    Posteriors come to the grid of the image one label at a time, and only where something but
    background is to be expected.
    """
    from ..segmentation.metrics import calibration_error

    background = found.frame(0)
    structures = known[predicted] | (expected > 0)
    box = _box((background < 1 - _MATTERS) | structures)
    crop = _cropped(found.conform, box)
    predicted, expected, structures = predicted[box], expected[box], structures[box]
    largest = background[box].copy()
    errors = [np.nan]
    for channel in range(1, len(found.values)):
        posterior = found.frame(channel, crop)
        np.maximum(largest, posterior, out=largest)
        has = expected == channel
        matters = (posterior > _MATTERS) | has
        errors.append(calibration_error(posterior[matters], has[matters]))
    right = predicted == expected
    errors[0] = calibration_error(largest[structures], right[structures])
    return errors


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Smallest box that holds all true voxels; the first voxel if there is none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 1))
    return tuple(box)


def _cropped(conform: Conform, box: tuple[slice, ...]) -> Conform:
    """Lead to a part of the source."""
    affine = conform.source_affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    shape = [part.stop - part.start for part in box]
    return attrs.evolve(conform, source_affine=affine, source_shape=shape)


def _cell(value: float) -> str:
    return f"{value:.8g}" if np.isfinite(value) else _NONE


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in (columns, *rows)]
    return write_text(path, "\n".join(lines) + "\n")
