"""Other contrasts of labelled T1-weighted brains, simulated."""

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CONTRASTS = {"T2w": "structures", "FLAIR": "remapped", "PDw": "inverted"}
"""BIDS suffix and ``acq`` label of each simulated contrast."""

_T2 = {
    "ventricle": 0.95,
    "csf": 0.95,
    "white": 0.35,
    "pallidum": 0.25,
    "putamen": 0.42,
    "caudate": 0.50,
    "thalamus": 0.48,
    "accumbens": 0.50,
    "brainstem": 0.42,
    "brain stem": 0.42,
    "ventral": 0.38,
    "hippocampus": 0.58,
    "amygdala": 0.58,
    "cortex": 0.55,
}
"""T2-weighted intensities of adult brains at 1.5 T, relative to fluid, by words in a name."""
_OTHER = 0.5
_KNOTS = (0.0, 0.02, 0.30, 0.55, 0.70, 0.90, 1.0)
_VALUES = (0.0, 0.02, 0.12, 0.75, 0.95, 0.60, 0.5)
"""Fluid dark, grey matter brighter than white matter, as with fluid suppressed."""
_BLACK = 0.02


def simulate(data: Array, labels: Array, names: Mapping[int, str], suffix: str) -> Array:
    """Make another contrast of a brain.

    Parameters
    ----------
    data : (X, Y, Z) array
        T1-weighted intensities.
    labels : (X, Y, Z) integer array
        Structures.
    names : mapping
        Name of each value of ``labels``.
    suffix : str
        One of :data:`CONTRASTS`. ``PDw``: intensities turned upside down. ``FLAIR``: intensities
        remapped, not monotonely. ``T2w``: every structure gets another mean, blended over one voxel
        at its border, and its texture is turned upside down.

    Returns
    -------
    (X, Y, Z) float32 array
        About [0, 1]; empty voxels stay 0.
    """
    low, high = data.min(), np.percentile(data[labels > 0], 99.5)
    unit = np.clip((data - low) / (high - low), 0, 1.2)
    tissue = unit > _BLACK
    if suffix == "PDw":
        made = 1.1 - np.minimum(unit, 1)
    elif suffix == "FLAIR":
        made = np.interp(unit, _KNOTS, _VALUES)
    else:
        made = _by_structure(unit, labels, names)
    return np.where(tissue, np.maximum(made, _BLACK), 0).astype(np.float32)


def _by_structure(unit: Array, labels: Array, names: Mapping[int, str]) -> Array:
    from scipy.ndimage import gaussian_filter

    made = gaussian_filter((labels == 0).astype(np.float32), 0.7) * _T2["csf"]
    for value in np.unique(labels[labels > 0]):
        inside = labels == value
        name = names.get(int(value), "").lower()
        mean = next((level for word, level in _T2.items() if word in name), _OTHER)
        made += gaussian_filter(inside.astype(np.float32), 0.7) * mean
        made -= inside * 0.8 * (unit - unit[inside].mean())
    return np.asarray(made)


def write_data_set(source: Path, references: Path, desc: str, out: Path, roles: set[str]) -> Path:
    """Copy a data set, with further contrasts of some participants.

    Parameters
    ----------
    source : Path
        BIDS data set of T1-weighted images, with the column ``split`` in ``participants.tsv``.
    references : Path
        BIDS derivative with their labels.
    desc : str
        ``desc`` entity of the labels.
    out : Path
        Folder of the copy; what is there already is not made again.
    roles : set of str
        Splits whose participants get further contrasts.

    Returns
    -------
    Path
        The derivative with the labels of all images, ``out/derivatives/reference``.
    """
    folder = out / "derivatives" / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("dataset_description.json", "participants.tsv"):
        shutil.copy(source / name, out / name)
    for path in [*references.glob("*.json"), *references.glob("*.tsv")]:
        shutil.copy(path, folder / path.name)
    with (references / f"desc-{desc}_dseg.tsv").open(encoding="utf-8") as file:
        names = {int(r["index"]): r["name"] for r in csv.DictReader(file, delimiter="\t")}
    with (source / "participants.tsv").open(encoding="utf-8") as file:
        participants = list(csv.DictReader(file, delimiter="\t"))
    for row in participants:
        who = row["participant_id"]
        image = source / who / "anat" / f"{who}_T1w.nii.gz"
        labels = references / who / "anat" / f"{who}_desc-{desc}_dseg.nii.gz"
        if not image.is_file() or not labels.is_file():
            continue
        _copy(image, out / who / "anat" / image.name)
        _copy(labels, folder / who / "anat" / labels.name)
        for suffix, how in CONTRASTS.items() if row["split"] in roles else ():
            made = out / who / "anat" / f"{who}_acq-{how}_{suffix}.nii.gz"
            _copy(labels, folder / who / "anat" / f"{who}_acq-{how}_desc-{desc}_dseg.nii.gz")
            if not made.is_file():
                _write(image, labels, names, suffix, made)
    return folder


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_file():
        shutil.copy(source, target)


def _write(image: Path, labels: Path, names: Mapping[int, str], suffix: str, out: Path) -> None:
    loaded: Any = nibabel.load(image)
    values = np.asarray(nibabel.load(labels).dataobj)  # type: ignore[attr-defined]
    made = simulate(loaded.get_fdata(dtype=np.float32), values, names, suffix)
    nibabel.save(nibabel.Nifti1Image(made, loaded.affine), out)
