"""Write the ``phantom`` data set: ``python -m l2s_pydra.bids_examples.make_phantom <folder>``.

A head is a set of nested, slightly lumpy ellipsoids, defined in scanner coordinates, so that it
can be sampled on any grid. The same seed writes the same files.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from ._grids import Floats, Shape, grid_points, oriented_affine, pool, rotation
from ._writing import (
    BIDS_VERSION,
    empty_folder,
    smallest_integers,
    write_json,
    write_nifti,
    write_table,
)

Labels = npt.NDArray[np.int16]

# Columns: index and name in the label maps (FreeSurfer's), index in the reference, mean intensity
# of a T1-weighted image.
STRUCTURES = (
    (0, "Background", 0, 0.0),
    (2, "Left-Cerebral-White-Matter", 3, 0.9),
    (3, "Left-Cerebral-Cortex", 2, 0.52),
    (4, "Left-Lateral-Ventricle", 1, 0.22),
    (12, "Left-Putamen", 4, 0.64),
    (24, "CSF", 1, 0.2),
    (41, "Right-Cerebral-White-Matter", 3, 0.9),
    (42, "Right-Cerebral-Cortex", 2, 0.52),
    (43, "Right-Lateral-Ventricle", 1, 0.22),
    (51, "Right-Putamen", 5, 0.64),
    (165, "Skull", 0, 0.08),
    (258, "Head-ExtraCerebral", 0, 0.7),
)
REFERENCE = (
    (0, "Background", "BG", "#000000"),
    (1, "CSF", "CSF", "#56b4e9"),
    (2, "Gray-Matter", "GM", "#d55e00"),
    (3, "White-Matter", "WM", "#f0e442"),
    (4, "Left-Putamen", "LPu", "#009e73"),
    (5, "Right-Putamen", "RPu", "#cc79a7"),
)
# Outer surfaces of the shells as fractions of the head's radius, from the outside in.
SHELLS = ((258, 1.0), (165, 0.93), (24, 0.88), (3, 0.79), (2, 0.6))
RIGHT = {2: 41, 3: 42, 4: 43, 12: 51}


@attrs.frozen
class Head:
    """Shape of one head; lengths in mm, frame scanner RAS+."""

    center: Floats
    """(3,) centre of the ellipsoids."""
    radii: Floats
    """(3,) half axes of the scalp."""
    waves: Floats
    """(N, 3) wave vectors of the surfaces' lumps, over the unit sphere."""
    phases: Floats
    """(N,) their phases."""
    nucleus: float
    """Size of the deep nuclei relative to the head."""
    ventricle: float
    """Size of the ventricles relative to the head."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Head":
        """Draw a head at random."""
        return cls(
            center=rng.uniform(-3, 3, 3),
            radii=np.array([52.0, 58.0, 54.0]) * rng.uniform(0.93, 1.04, 3),
            waves=rng.normal(0, 3.5, (6, 3)),
            phases=rng.uniform(0, 2 * np.pi, 6),
            nucleus=rng.uniform(0.9, 1.15),
            ventricle=rng.uniform(0.8, 1.3),
        )

    def moved(self, shift: Floats) -> "Head":
        """Return the same head at another place."""
        return attrs.evolve(self, center=self.center + shift)

    def labels(self, points: Floats) -> Labels:
        """Label each point, with the values of the label maps.

        Parameters
        ----------
        points : (..., 3) array
            Scanner coordinates, mm.

        Returns
        -------
        (...) int16 array
        """
        unit = (points - self.center) / self.radii
        radius = np.linalg.norm(unit, axis=-1)
        direction = unit / np.maximum(radius, 1e-6)[..., None]
        lumps = np.sin(direction @ self.waves.T + self.phases).mean(-1)
        out = np.zeros(radius.shape, np.int16)
        for index, surface in SHELLS:
            lumpy = 0.12 * (1 - surface) * 2  # inner surfaces are lumpier than the scalp
            out[radius < surface * (1 + lumpy * lumps)] = index
        mirrored = np.abs(unit[..., 0])
        for index, middle, size in (
            (12, (0.36, 0.05, -0.05), self.nucleus * np.array([0.17, 0.27, 0.22])),
            (4, (0.12, -0.05, 0.12), self.ventricle * np.array([0.09, 0.26, 0.13])),
        ):
            offset = np.stack([mirrored, unit[..., 1], unit[..., 2]], -1) - middle
            out[np.linalg.norm(offset / size, axis=-1) < 1] = index
        for left, right in RIGHT.items():
            out[(out == left) & (unit[..., 0] > 0)] = right
        return out


def render(
    head: Head,
    shape: Shape,
    affine: Floats,
    rng: np.random.Generator,
    *,
    noise: float = 0.025,
    bias: float = 0.2,
    contrast: float = 1.0,
) -> Floats:
    """T1-weighted image of a head: partial volume, bias field, Rician noise.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise in each channel; white matter has 0.9.
    bias : float
        Strength of the bias field, in log intensity.
    contrast : float
        Exponent of the tissue means.

    Returns
    -------
    (X, Y, Z) array
        In about [0, 1].
    """
    fine = head.labels(grid_points(shape, affine, (2, 2, 2)))
    means = np.zeros(max(row[0] for row in STRUCTURES) + 1)
    drawn: dict[float, float] = {}  # the two sides of a structure look the same
    for index, _, _, mean in STRUCTURES:
        means[index] = drawn.setdefault(mean, mean**contrast * (1 + 0.04 * rng.normal()))
    clean = pool(means[fine], (2, 2, 2))
    field = np.sin(grid_points(shape, affine) @ rng.normal(0, 0.012, 3) + rng.uniform(0, 6))
    clean = clean * np.exp(bias * field)
    return np.asarray(np.hypot(clean + rng.normal(0, noise, shape), rng.normal(0, noise, shape)))


# Four participants on four kinds of grid: shape, axis codes, voxel size in mm, rotation in degrees.
Grid = tuple[Shape, str, tuple[float, float, float], tuple[float, float, float]]
GRIDS: Mapping[str, Grid] = {
    "sub-01": ((32, 32, 32), "RAS", (4, 4, 4), (0, 0, 0)),
    "sub-02": ((32, 32, 32), "LAS", (4, 4, 4), (0, 0, 0)),
    "sub-03": ((32, 34, 27), "RAS", (4, 4, 5), (12, 0, -8)),
    "sub-04": ((32, 32, 26), "PSR", (4, 4, 5), (0, 0, 0)),
}
SPLITS = {"sub-01": "train", "sub-02": "train", "sub-03": "val", "sub-04": "test"}
LABEL_MAPS = ("sub-map01", "sub-map02", "sub-map03")


def _write_image(
    folder: Path, stem: str, image: Floats, affine: Floats, note: Mapping[str, Any]
) -> None:
    stored = np.clip(np.rint(image * 200), 0, 255).astype(np.uint8)
    write_nifti(folder / f"{stem}_T1w.nii.gz", stored, affine)
    write_json(
        folder / f"{stem}_T1w.json",
        {
            "Modality": "MR",
            "Description": "Simulated from ellipsoids; no scanner was involved.",
            **note,
        },
    )


def _write_reference(folder: Path, stem: str, labels: Labels, affine: Floats, source: str) -> None:
    to_reference = np.zeros(max(row[0] for row in STRUCTURES) + 1, np.int16)
    for index, _, reference, _ in STRUCTURES:
        to_reference[index] = reference
    write_nifti(
        folder / f"{stem}_desc-tissue_dseg.nii.gz", smallest_integers(to_reference[labels]), affine
    )
    write_json(
        folder / f"{stem}_desc-tissue_dseg.json",
        {
            "Description": "True labels at the voxel centres.",
            "Sources": [f"bids:raw:{source}"],
            "SpatialReference": f"bids:raw:{source}",
        },
    )


def _describe_derivative(folder: Path, name: str, links: Mapping[str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"# {name}\n\nSee `../../README.md`.\n", encoding="utf-8")
    write_json(
        folder / "dataset_description.json",
        {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "Apache-2.0",
            "Authors": ["The l2s_pydra developers"],
            "GeneratedBy": [{"Name": folder.name, "Description": "make_phantom.py of l2s_pydra"}],
            **({"DatasetLinks": dict(links)} if links else {}),
        },
    )


def _write_root(folder: Path) -> None:
    write_json(
        folder / "dataset_description.json",
        {
            "Name": "Phantom heads",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": "Apache-2.0",
            "Authors": ["The l2s_pydra developers"],
        },
    )
    (folder / "README.md").write_text(README, encoding="utf-8")
    write_table(folder / "participants.tsv", ("participant_id", "split"), SPLITS.items())
    write_json(
        folder / "participants.json",
        {
            "split": {
                "Description": "What the participant serves for",
                "Levels": {
                    "train": "Labelled; the augmentation is learned from it",
                    "val": "Labelled; the model is chosen by it",
                    "test": "Not labelled; to be segmented",
                },
            }
        },
    )


def _write_participant(root: Path, participant: str, rng: np.random.Generator) -> None:
    shape, codes, spacing, degrees = GRIDS[participant]
    affine = oriented_affine(codes, spacing, shape)
    affine[:3] = rotation(degrees) @ affine[:3]
    head = Head.draw(rng)
    sessions = ("ses-01", "ses-02") if participant == "sub-01" else ("",)
    for number, session in enumerate(sessions):
        seen = head.moved(np.array([2.0, -1.5, 1.0]) * number)
        image = render(seen, shape, affine, rng, contrast=1 - 0.25 * number)
        below = "/".join(part for part in (participant, session, "anat") if part)
        stem = "_".join(part for part in (participant, session) if part)
        _write_image(root / below, stem, image, affine, {"PulseSequenceType": "Simulated"})
        if SPLITS[participant] != "test":
            _write_reference(
                root / "derivatives" / "reference" / below,
                stem,
                seen.labels(grid_points(shape, affine)),
                affine,
                f"{below}/{stem}_T1w.nii.gz",
            )


def _write_label_maps(folder: Path, rng: np.random.Generator) -> None:
    shape = (32, 32, 32)
    affine = oriented_affine("RAS", (4, 4, 4), shape)
    for name in LABEL_MAPS:
        labels = Head.draw(rng).labels(grid_points(shape, affine))
        stem = folder / name / "anat" / f"{name}_desc-head_dseg"
        write_nifti(stem.with_suffix(".nii.gz"), smallest_integers(labels), affine)
        write_json(
            stem.with_suffix(".json"),
            {"Description": "Labels of a simulated head of which there is no image."},
        )


def make_phantom(folder: str | Path, *, seed: int = 20) -> Path:
    """Write the data set.

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
    _describe_derivative(reference, "True labels of the phantom heads", {"raw": "../.."})
    _describe_derivative(label_maps, "Label maps of further phantom heads", {})
    for number, participant in enumerate(GRIDS):
        _write_participant(root, participant, np.random.default_rng([seed, number]))
    _write_label_maps(label_maps, np.random.default_rng([seed, 100]))
    write_table(
        reference / "desc-tissue_dseg.tsv", ("index", "name", "abbreviation", "color"), REFERENCE
    )
    write_table(
        label_maps / "desc-head_dseg.tsv",
        ("index", "name", "mapping"),
        [row[:3] for row in STRUCTURES],
    )
    return root


README = """\
# Phantom heads

Nested ellipsoids that stand for scalp, skull, cerebrospinal fluid, grey matter, white matter,
ventricles and putamina, seen as T1-weighted images with partial volume, bias field and Rician
noise. They serve to test software, and teach nothing about brains.

| participant | grid | labelled |
| --- | --- | --- |
| sub-01, two sessions | 32 x 32 x 32, 4 mm, RAS | yes (train) |
| sub-02 | 32 x 32 x 32, 4 mm, LAS | yes (train) |
| sub-03 | 32 x 34 x 27, 4 x 4 x 5 mm, oblique | yes (val) |
| sub-04 | 32 x 32 x 26, 4 x 4 x 5 mm, PSR | no (test) |

`derivatives/reference` has the true labels on the grid of each image; `derivatives/labelmaps` has
label maps of three further heads. The latter use FreeSurfer's numbers; the column `mapping` of
their table gives the reference's.

Written by `python -m l2s_pydra.bids_examples.make_phantom <folder>`.
"""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m l2s_pydra.bids_examples.make_phantom <folder>")
    print(make_phantom(sys.argv[1]))
