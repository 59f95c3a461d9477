"""Generators of synthetic images from label maps, made alike: this project's and its peers'."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import nibabel
import numpy as np
import torch
from torch import Tensor

from l2s_pydra.config import SynthesisConfig
from l2s_pydra.synthesis import GenerationLabels, Synthesizer

OURS = "l2s_pydra"
PEERS = ("cornucopia", "torchio")
ICBM = Path(__file__).parents[1] / "bids_examples" / "icbm" / "derivatives" / "labelmaps"
ARTEFACTS: dict[str, Any] = {
    "ghost_share": 1.0,
    "motion_share": 1.0,
    "lesion_share": 1.0,
    "resolution_share": 1.0,
    "rician_share": 1.0,
    "gamma_std": 0.5,
}
"""Every optional part of an image."""


@attrs.frozen(kw_only=True, eq=False)
class Problem:
    """What every generator is given."""

    maps: tuple[Tensor, ...]
    """(X, Y, Z) uint8, RAS; labels count from 0, the outside."""
    values: tuple[int, ...]
    """What each label is called in the file."""
    spacing_mm: float

    @classmethod
    def read(cls, paths: Sequence[Path], shape: Sequence[int], spacing_mm: float) -> "Problem":
        """Sample label maps at a voxel size, cut or padded to a size around the middle of the head."""
        raw = [_resampled(path, shape, spacing_mm) for path in paths]
        values = np.unique(np.concatenate([np.unique(labels) for labels in raw] + [np.zeros(1)]))
        dense = [np.searchsorted(values, labels).astype(np.uint8) for labels in raw]
        return cls(
            maps=tuple(map(torch.from_numpy, dense)),
            values=tuple(values.astype(int).tolist()),
            spacing_mm=spacing_mm,
        )

    @property
    def count(self) -> int:
        """Number of labels."""
        return len(self.values)


def icbm() -> list[Path]:
    """Label maps of the example data set."""
    return sorted(ICBM.glob("*/anat/*_dseg.nii.gz"))


def _resampled(path: Path, shape: Sequence[int], spacing_mm: float) -> np.ndarray[Any, Any]:
    image = nibabel.as_closest_canonical(nibabel.load(path))
    labels = np.asarray(image.dataobj).round().astype(np.int64)
    filled = np.argwhere(labels > 0)
    middle = (filled.min(0) + filled.max(0)) / 2
    for axis, (n, zoom) in enumerate(zip(shape, image.header.get_zooms(), strict=False)):
        there = (np.arange(n) - (n - 1) / 2) * spacing_mm / zoom + middle[axis]
        nearest = there.round().astype(int)
        inside = (nearest >= 0) & (nearest < labels.shape[axis])
        labels = labels.take(nearest.clip(0, labels.shape[axis] - 1), axis)
        labels[(slice(None),) * axis + (~inside,)] = 0
    return np.ascontiguousarray(labels)


def synthesizer(problem: Problem, **settings: Any) -> Synthesizer:
    """Build our generator; every label has an intensity and a class of its own."""
    every = torch.arange(problem.count)
    labels = GenerationLabels(
        group=every.to(torch.uint8),
        channel=every,
        group_names=("outside", *(f"label {v}" for v in problem.values[1:])),
        swap=every.to(torch.uint8),
        n_channels=problem.count,
    )
    config = SynthesisConfig(**{"oversampling": 1, **settings})
    factor = config.oversampling
    maps = list(problem.maps)
    for axis in range(3):
        maps = [m.repeat_interleave(factor, axis) for m in maps]
    return Synthesizer(label_maps=maps, labels=labels, config=config, spacing_mm=problem.spacing_mm)


@attrs.frozen(kw_only=True, eq=False)
class Made:
    """An image as a generator makes it, and where its voxels come from."""

    image: Tensor
    """(X, Y, Z), on the generator's own scale."""
    labels: Tensor
    """(X, Y, Z) deformed labels."""
    source: Tensor | None = None
    """(3, X, Y, Z) voxel coordinates in the label map."""


Make = Callable[[int], Made]
"""Makes image number n, its label map being n modulo their number."""


def ours(problem: Problem, device: str = "cpu", *, fields: bool = False, **settings: Any) -> Make:
    """Make images with this project's generator."""
    made = synthesizer(problem, **settings)

    def make(number: int) -> Made:
        draw = made.draw(number, label_map=number % len(problem.maps))
        sample = made.render([draw], device)
        source = made.field(draw) if fields else None
        return Made(image=sample.image[0, 0], labels=sample.target[0], source=source)

    return make


def cornucopia(problem: Problem, *, fields: bool = False, **settings: Any) -> Make:
    """Make images with cornucopia, fields by linear interpolation as in Learn2Synth's scripts."""
    from cornucopia import SynthFromLabelTransform

    transform = SynthFromLabelTransform(**{"order": 1, **settings})
    maps = [m[None].long() for m in problem.maps]

    def make(number: int) -> Made:
        _seed(number)
        labels = maps[number % len(maps)]
        drawn = transform.unroll(labels) if fields else transform
        found = drawn(labels)
        return Made(
            image=found["image"][0],
            labels=found["label"][0],
            source=drawn.deform.flow[0] if fields else None,
        )

    return make


def torchio(problem: Problem, *, fields: bool = False) -> Make:
    """Make images with TorchIO's random transforms, its defaults."""
    import torchio as tio

    space = tio.Compose([tio.RandomAffine(), tio.RandomElasticDeformation()])
    look = tio.Compose(
        [
            tio.RandomLabelsToImage(label_key="label", image_key="image", ignore_background=True),
            tio.RandomBiasField(),
            tio.RandomAnisotropy(),
            tio.RandomNoise(),
            tio.RandomGamma(),
        ]
    )
    affine = np.diag([problem.spacing_mm] * 3 + [1.0])
    shape = problem.maps[0].shape
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))

    def make(number: int) -> Made:
        _seed(number)
        labels = problem.maps[number % len(problem.maps)][None]
        images: dict[str, Any] = {"label": tio.LabelMap(tensor=labels, affine=affine)}
        if fields:
            images["grid"] = tio.ScalarImage(tensor=grid, affine=affine)
        moved = space(tio.Subject(images))
        source = moved["grid"].data if fields else None
        if fields:
            moved.remove_image("grid")
        done = look(moved)
        return Made(image=done["image"].data[0], labels=done["label"].data[0], source=source)

    return make


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  (what peers draw from)
    torch.manual_seed(number)


MAKERS: Mapping[str, Callable[..., Make]] = {
    OURS: ours,
    "cornucopia": cornucopia,
    "torchio": torchio,
}


def installed(engines: Sequence[str]) -> list[str]:
    """Those of the engines that can be imported; says how to install the others."""
    import importlib.util

    there = [e for e in engines if e == OURS or importlib.util.find_spec(e)]
    missing = [e for e in engines if e not in there]
    if missing:
        print(f"left out, because not installed: pip install {' '.join(missing)}")
    return there
