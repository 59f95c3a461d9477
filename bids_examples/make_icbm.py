"""Write the ``icbm`` data set: ``python -m l2s_pydra.bids_examples.make_icbm <folder>``.

Needs nilearn, whose installation holds the ICBM 152 template. The same seed writes the same files.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from scipy import ndimage

from ._anatomy import (
    FIELD_AFFINE,
    FIELD_STEP_MM,
    RIGHT_FROM_LEFT,
    Anatomy,
    Grid,
    Labels,
    Pose,
    Template,
    sample,
    smooth_noise,
)
from ._grids import Floats, grid_points, oriented_affine, rotation
from ._writing import BIDS_VERSION, empty_folder, write_json, write_nifti, write_table

TWO_MM = (2.0, 2.0, 2.0)
NOTICE = Path(__file__).resolve().parent / "NOTICE"
LICENSE = "ICBM 152 permission notice, see LICENSE"
AUTHORS = ["The l2s_pydra developers", "The authors of the ICBM 152 templates (see README.md)"]


@attrs.frozen
class Participant:
    """One participant: two sessions of one anatomy."""

    split: str
    """What it serves for."""
    t1w: Grid
    """Grid of the T1-weighted image, session 01."""
    t2w: Grid
    """Grid of the image with T2-like contrast, session 02."""


PARTICIPANTS: Mapping[str, Participant] = {
    "sub-01": Participant(
        "train", Grid(codes="RAS", spacing_mm=TWO_MM), Grid(codes="RAS", spacing_mm=TWO_MM)
    ),
    "sub-02": Participant(
        "train",
        Grid(codes="LAS", spacing_mm=TWO_MM),
        Grid(codes="LAS", spacing_mm=(1.5, 1.5, 4), oversampling=(1, 1, 4)),
    ),
    "sub-03": Participant(
        "train",
        Grid(codes="PSR", spacing_mm=(1.8, 1.8, 2)),
        Grid(codes="LPS", spacing_mm=TWO_MM, tilt_deg=(10, 0, 0)),
    ),
    "sub-04": Participant(
        "val",
        Grid(codes="RAS", spacing_mm=TWO_MM, tilt_deg=(8, -4, 6)),
        Grid(codes="RAS", spacing_mm=TWO_MM, tilt_deg=(8, -4, 6)),
    ),
    "sub-05": Participant(
        "val",
        Grid(codes="LAS", spacing_mm=(1, 1, 3), oversampling=(1, 1, 3)),
        Grid(codes="LAS", spacing_mm=TWO_MM),
    ),
    "sub-06": Participant(
        "test", Grid(codes="LAS", spacing_mm=TWO_MM), Grid(codes="RAS", spacing_mm=TWO_MM)
    ),
    "sub-07": Participant(
        "test",
        Grid(codes="LSA", spacing_mm=(1.5, 1.5, 3), tilt_deg=(0, 5, -7), oversampling=(2, 2, 3)),
        Grid(codes="LPS", spacing_mm=(1.2, 1.2, 5), oversampling=(1, 1, 5)),
    ),
}
LABEL_MAPS = tuple(f"sub-map{number:02d}" for number in range(1, 7))
LABEL_MAP_GRID = Grid(codes="RAS", spacing_mm=(1.5, 1.5, 1.5))

# Template intensities of nothing, fluid, grey matter, white matter and the maximum, and the
# intensities that take their place.
KNOTS = (0, 70, 165, 223, 255)
LOOKS = {"T1w": (15, 50, 125, 195, 225), "T2w": (240, 205, 125, 80, 60)}
ACQUISITION = {"T1w": "", "T2w": "acq-remapped"}

SIDES = ("Left", "Right")
STRUCTURES = (
    (2, "Gray-Matter", "GM", ("#d55e00", "#e69f00")),
    (3, "White-Matter", "WM", ("#c8c8c8", "#f0f0f0")),
    (4, "Lateral-Ventricle", "LV", ("#0072b2", "#3f9fd6")),
    (5, "Thalamus", "Thal", ("#009e73", "#4fc9a4")),
    (6, "Caudate", "Cau", ("#cc79a7", "#e3a9c9")),
    (7, "Putamen", "Put", ("#8a5fb5", "#b794d8")),
)


def label_rows() -> list[tuple[int, str, str, str]]:
    """Rows of the label table: index, name, abbreviation, color."""
    rows = [(0, "Background", "BG", "#000000"), (1, "CSF", "CSF", "#56b4e9")]
    rows += [
        (
            index + RIGHT_FROM_LEFT * side,
            f"{SIDES[side]}-{name}",
            SIDES[side][0] + short,
            colors[side],
        )
        for side in (0, 1)
        for index, name, short, colors in STRUCTURES
    ]
    return rows


def degrade(
    image: Floats, labels: Labels, affine: Floats, rng: np.random.Generator
) -> tuple[Floats, dict[str, float]]:
    """Bias field and Rician noise, inside the brain only.

    Returns
    -------
    image : (X, Y, Z) array
    how : dict
        Standard deviations of the log bias field and of the noise (white matter of the T1-weighted
        images has 195).
    """
    bias, noise = float(rng.uniform(0.05, 0.12)), float(rng.uniform(4, 8))
    points = grid_points(image.shape, affine)
    voxels = np.moveaxis((points - FIELD_AFFINE[:3, 3]) / FIELD_STEP_MM, -1, 0)
    field = ndimage.map_coordinates(smooth_noise(rng, 35), voxels, order=1, mode="nearest")
    real, imaginary = rng.normal(0, noise, (2, *image.shape))
    out = np.hypot(image * np.exp(bias * field) + real, imaginary)
    return np.where(labels > 0, np.maximum(out, 1), 0), {
        "LogBiasStandardDeviation": round(bias, 3),
        "NoiseStandardDeviation": round(noise, 2),
    }


def _scanner_affine(grid: Grid, rng: np.random.Generator) -> Floats:
    """Affine whose origin is not quite the middle of the grid."""
    affine = oriented_affine(grid.codes, grid.spacing_mm, grid.shape)
    affine[:3] = rotation(grid.tilt_deg) @ affine[:3]
    affine[:3, 3] += rng.uniform(-2, 2, 3)
    return affine


def _image_note(look: str, how: Mapping[str, float]) -> dict[str, Any]:
    made = {
        "T1w": "Intensities of the ICBM 152 T1-weighted template, slightly remapped",
        "T2w": "Not a measured T2-weighted image: intensities of the ICBM 152 T1-weighted template, "
        "remapped so that fluid is bright and white matter dark",
    }
    return {
        "Modality": "MR",
        "SkullStripped": True,
        "Description": f"{made[look]}; anatomy warped at random, bias field and noise simulated.",
        **how,
    }


def _write_session(
    root: Path,
    stem: str,
    look: str,
    seen: tuple[Floats, Labels],
    affine: Floats,
    how: Mapping[str, float],
) -> None:
    image, labels = seen
    folder = Path(*stem.split("_")[:2], "anat")
    scale = 4 if stem.startswith("sub-02") else 1  # scanners differ in their units
    dtype = np.int16 if scale > 1 else np.uint8
    stored = np.clip(np.rint(image * scale), 0, 255 * scale).astype(dtype)
    write_nifti(root / folder / f"{stem}_{look}.nii.gz", stored, affine)
    write_json(root / folder / f"{stem}_{look}.json", _image_note(look, how))
    source = f"bids:raw:{folder.as_posix()}/{stem}_{look}.nii.gz"
    reference = root / "derivatives" / "reference" / folder / f"{stem}_desc-tissue_dseg"
    write_nifti(reference.with_suffix(".nii.gz"), labels, affine)
    write_json(
        reference.with_suffix(".json"),
        {
            "Description": "Labels of the template, warped with the image.",
            "Manual": False,
            "Sources": [source],
            "SpatialReference": source,
        },
    )


def write_participant(root: Path, name: str, template: Template, *, seed: int = 20) -> None:
    """Write the two sessions of one participant, images and reference labels.

    Parameters
    ----------
    root : Path
        Of the raw data set.
    name : str
        Key of ``PARTICIPANTS``.
    seed : int, default=20
        As in :func:`make_icbm`.
    """
    rng = np.random.default_rng([seed, int(name.removeprefix("sub-"))])
    anatomy = Anatomy.draw(rng, template)
    participant = PARTICIPANTS[name]
    for session, look, grid in (
        ("ses-01", "T1w", participant.t1w),
        ("ses-02", "T2w", participant.t2w),
    ):
        remap = np.interp(np.arange(256), KNOTS, LOOKS[look] + rng.normal(0, 5, len(KNOTS)))
        affine = _scanner_affine(grid, rng)
        clean, labels = sample(template, anatomy, Pose.draw(rng), grid, affine, remap)
        image, how = degrade(clean, labels, affine, rng)
        stem = "_".join(part for part in (name, session, ACQUISITION[look]) if part)
        _write_session(root, stem, look, (image, labels), affine, how)


def write_label_map(folder: Path, name: str, template: Template, *, seed: int = 20) -> None:
    """Write the labels of one head of which there is no image.

    Parameters
    ----------
    folder : Path
        Of the derivative.
    name : str
        One of ``LABEL_MAPS``.
    """
    rng = np.random.default_rng([seed, 100, int(name.removeprefix("sub-map"))])
    anatomy, pose = Anatomy.draw(rng, template), Pose.draw(rng)
    affine = oriented_affine(LABEL_MAP_GRID.codes, LABEL_MAP_GRID.spacing_mm, LABEL_MAP_GRID.shape)
    _, labels = sample(template, anatomy, pose, LABEL_MAP_GRID, affine, np.arange(256.0))
    stem = folder / name / "anat" / f"{name}_desc-tissue_dseg"
    write_nifti(stem.with_suffix(".nii.gz"), labels, affine)
    write_json(
        stem.with_suffix(".json"),
        {"Description": "Labels of the template, warped at random.", "Manual": False},
    )


def _readme_rows() -> str:
    def describe(grid: Grid) -> str:
        size = " x ".join(f"{length:g}" for length in grid.spacing_mm)
        return f"{size}, {grid.codes}" + (", oblique" if any(grid.tilt_deg) else "")

    return "\n".join(
        f"| {name} | {one.split} | {describe(one.t1w)} | {describe(one.t2w)} |"
        for name, one in PARTICIPANTS.items()
    )


def _write_root(root: Path) -> None:
    write_json(
        root / "dataset_description.json",
        {
            "Name": "Warped ICBM 152 brains",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": LICENSE,
            "Authors": AUTHORS,
            "ReferencesAndLinks": [
                "Fonov et al., NeuroImage 54(1):313-327, 2011, doi:10.1016/j.neuroimage.2010.07.033",
                "Fonov et al., NeuroImage 47(S1):S102, 2009, doi:10.1016/S1053-8119(09)70884-5",
            ],
            "SourceDatasets": [
                {"URL": "https://www.bic.mni.mcgill.ca/ServicesAtlases/ICBM152NLin2009"}
            ],
            "GeneratedBy": [{"Name": "l2s_pydra", "Description": "bids_examples/make_icbm.py"}],
        },
    )
    (root / "README.md").write_text(README.format(participants=_readme_rows()), encoding="utf-8")
    (root / "LICENSE").write_bytes(NOTICE.read_bytes())
    write_table(
        root / "participants.tsv",
        ("participant_id", "split"),
        [(name, participant.split) for name, participant in PARTICIPANTS.items()],
    )
    write_json(
        root / "participants.json",
        {
            "split": {
                "Description": "What the participant serves for",
                "Levels": {
                    "train": "The augmentation is learned from it",
                    "val": "The model is chosen by it",
                    "test": "To be segmented; its labels are for judging only",
                },
            }
        },
    )


def _write_derivative(folder: Path, name: str, links: Mapping[str, str]) -> None:
    write_json(
        folder / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": LICENSE,
            "Authors": AUTHORS,
            "GeneratedBy": [
                {"Name": folder.name, "Description": "bids_examples/make_icbm.py of l2s_pydra"}
            ],
            **({"DatasetLinks": dict(links)} if links else {}),
        },
    )
    (folder / "README.md").write_text(f"# {name}\n\nSee `../../README.md`.\n", encoding="utf-8")
    (folder / "LICENSE").write_bytes(NOTICE.read_bytes())
    write_table(
        folder / "desc-tissue_dseg.tsv", ("index", "name", "abbreviation", "color"), label_rows()
    )


def make_icbm(folder: str | Path, *, seed: int = 20) -> Path:
    """Write the data set; takes about a minute.

    Parameters
    ----------
    folder : str or Path
        Replaced if it holds an earlier copy.
    seed : int, default=20
        Everything random comes from it.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    FileExistsError
        If ``folder`` holds something else.
    """
    root = empty_folder(Path(folder))
    _write_root(root)
    reference, label_maps = root / "derivatives" / "reference", root / "derivatives" / "labelmaps"
    _write_derivative(reference, "Labels of the warped ICBM 152 brains", {"raw": "../.."})
    _write_derivative(label_maps, "Label maps of further warped ICBM 152 brains", {})
    template = Template.load()
    for name in PARTICIPANTS:
        write_participant(root, name, template, seed=seed)
    for name in LABEL_MAPS:
        write_label_map(label_maps, name, template, seed=seed)
    return root


README = """\
# Warped ICBM 152 brains

Seven brains with magnetic resonance contrast, to try a segmentation method on before real data are
at hand. Each is the ICBM 152 2009a symmetric nonlinear average template, resized and warped by a
random diffeomorphism, so the anatomies differ, but less than those of seven people; nobody was
scanned for this. Results on it say that software works, not how well.

Session 01 is T1-weighted. Session 02 has the same brain in another pose and, usually, on another
grid, with a contrast like T2-weighting: it is *not* measured, but the T1-weighted intensities
remapped so that fluid is bright and white matter dark (`acq-remapped`). Bias field and Rician
noise are simulated; their strength is in the sidecars. The template is skull-stripped, and so are
the images. Voxel size in mm and orientation:

| participant | split | T1w, session 01 | T2w, session 02 |
| --- | --- | --- | --- |
{participants}

`derivatives/reference` has the labels on the grid of each image, and `derivatives/labelmaps` the
label maps of six further brains, 1.5 mm, of which there are no images, to synthesise from. Both
have the same table. The labels are defined on the template and warped with it:

* brain: where the template as nilearn ships it is not 0;
* cerebrospinal fluid, grey matter, white matter: the largest of the tissue maps (fluid is what the
  maps of grey and white matter leave), whole brain, with cerebellum and brainstem, cut at the
  midline;
* lateral ventricles: the upper fluid deeper than 20 mm beneath the surface; without the temporal
  horns;
* thalamus, caudate (with accumbens), putamen: voxels of grey matter intensity in ellipsoids placed
  by hand.

They are consistent from brain to brain, but follow no published protocol.

Written by `python -m l2s_pydra.bids_examples.make_icbm <folder>`. The licence of the templates and
of this data set is in `LICENSE`; to be cited are Fonov et al., NeuroImage 54(1):313-327, 2011, and
Fonov et al., NeuroImage 47(S1):S102, 2009.
"""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m l2s_pydra.bids_examples.make_icbm <folder>")
    print(make_icbm(sys.argv[1]))
