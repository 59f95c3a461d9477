"""How the files of a varied data set are written: tiny heads, and valid images of other kinds."""

from pathlib import Path
from typing import Any

import attrs
import numpy as np

from ._grids import oriented_affine
from ._writing import BIDS_VERSION, write_json, write_nifti
from .make_phantom import Head, render

SHAPE = (24, 24, 24)
AFFINE = oriented_affine("RAS", (5.5, 5.5, 5.5), SHAPE)
"""Voxel to scanner RAS+, mm, of every head."""
_SMALL = (4, 4, 4)
_README = """\
# {name}

{description}

Heads are nested ellipsoids, simulated for tests of software; they teach nothing about brains.
Written by `python -m l2s_pydra.bids_examples.make_varied`.
"""


@attrs.frozen
class Writer:
    """Writes files below the root of a data set."""

    root: Path
    seed: int

    def describe(self, name: str, description: str, **fields: Any) -> None:
        """Write ``dataset_description.json`` and ``README.md``."""
        values = {
            "Name": name,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "raw",
            "License": "CC0",
            "Authors": ["The l2s_pydra developers"],
        }
        write_json(self.root / "dataset_description.json", {**values, **fields})
        text = _README.format(name=name, description=description)
        (self.root / "README.md").write_text(text, encoding="utf-8")

    def derivative(self, folder: str, name: str, raw: str) -> "Writer":
        """Describe a derivative data set in ``folder``, and return its writer.

        Parameters
        ----------
        folder : str
            Path below this data set.
        name : str
            Name of the derivative, as of the pipeline that made it.
        raw : str
            Path from there to the raw data set.
        """
        inner = attrs.evolve(self, root=self.root / folder)
        inner.describe(
            name,
            f"Derived from `{raw}`.",
            DatasetType="derivative",
            GeneratedBy=[{"Name": name}],
            DatasetLinks={"raw": raw},
        )
        return inner

    def head(self, path: str, **sidecar: Any) -> Path:
        """Write an anatomical image and, if there are fields, its sidecar.

        The head is drawn from the name of the file, so that no two images are equal.
        """
        target = self.root / path
        rng = np.random.default_rng([self.seed, *target.name.encode()])
        image = render(Head.draw(rng), SHAPE, AFFINE, rng)
        stem = target.name.split(".")[0]
        if not stem.endswith(("T1w", "UNIT1", "MP2RAGE")):
            image = np.where(image > 0.1, 1.0 - image, image)
        write_nifti(target, np.clip(np.rint(image * 200), 0, 255).astype(np.uint8), AFFINE)
        if sidecar:
            write_json(target.with_name(f"{stem}.json"), sidecar)
        return target

    def heads(self, *paths: str) -> None:
        """Write several anatomical images without sidecars."""
        for path in paths:
            self.head(path)

    def labels(self, path: str, source: str) -> None:
        """Write a label map on the grid of the heads, and its sidecar."""
        target, labels = self.root / path, np.zeros(SHAPE, np.uint8)
        labels[8:16, 8:16, 8:16] = 1
        write_nifti(target, labels, AFFINE)
        uri = f"bids:raw:{source}"
        sidecar = {"Description": "A box.", "Sources": [uri], "SpatialReference": uri}
        write_json(target.with_name(f"{target.name.split('.')[0]}.json"), sidecar)

    def others(self, participant: str, session: str = "") -> None:
        """Write the smallest valid functional, diffusion and field map images."""
        place = self.root.joinpath(participant, session)
        stem = "_".join(filter(None, (participant, session)))
        one = np.ones(_SMALL, np.uint8)
        two = np.ones((*_SMALL, 2), np.uint8)
        for kind, data, sidecar in (
            ("func/{}_task-rest_bold", two, {"RepetitionTime": 1.0, "TaskName": "rest"}),
            ("dwi/{}_dwi", two, {}),
            ("fmap/{}_phasediff", one, {"EchoTime1": 0.004, "EchoTime2": 0.006}),
            ("fmap/{}_magnitude1", one, {}),
        ):
            path = place / f"{kind.format(stem)}.nii.gz"
            write_nifti(path, data, AFFINE)
            if sidecar:
                write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
        table = place / "dwi" / f"{stem}_dwi"
        table.with_suffix(".bval").write_text("0 1000\n", encoding="ascii")
        table.with_suffix(".bvec").write_text("0 1\n0 0\n0 0\n", encoding="ascii")
