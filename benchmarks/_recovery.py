"""What the recovery benchmarks share: images from real label maps, and the two levels that learn.

Half of the label maps are synthesised from to train on, the other half to make "real" images, with an
augmentation whose parameters are preset. Another augmentation of the same or of another kind, which
starts elsewhere, is learned; only the hypergradient can tell it the preset values. Everything is 2-D
and coarse, so that a run takes half a minute of one core.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import _generators
import _table
import attrs
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from l2s_pydra.augmentation import Augmentation
from l2s_pydra.bilevel import OneSidedDifference, adam, plain_step
from l2s_pydra.bilevel.identifiability import record
from l2s_pydra.bilevel.passes import Predict
from l2s_pydra.config import SynthesisConfig
from l2s_pydra.labels import LabelScheme
from l2s_pydra.networks import UNet
from l2s_pydra.synthesis import GenerationLabels, Synthesizer

SHAPE, SPACING_MM = (32, 40, 26), 6.0
"""Of the grid whose axial slices are used."""
CLASSES = 7
"""Structures that are segmented, the largest."""
LEAST_SHARE = 0.5
"""Of a slice's voxels in these structures, relative to the fullest slice of the head."""
JITTER, TEXTURE = 0.02, 0.01
"""Spread of a structure's mean over images, and of its voxels."""
GENERATOR: dict[str, Any] = {
    "rotation_deg": 10.0, "scaling": 0.1, "translation_mm": 5.0, "nonlinear_std_mm": 4.0,
    "bias_std": 0.0, "gamma_std": 0.0, "noise_std": 0.0, "resolution_share": 0.0,
    "ghost_share": 0.0, "motion_share": 0.0, "oversampling": 1, "prior_free_share": 0.0,
}  # fmt: skip
"""Neither noise nor bias but those of the augmentation."""
_Case = TypeVar("_Case")


def parser(description: str, seeds: int) -> argparse.ArgumentParser:
    """Options of a recovery benchmark."""
    options = _table.parser(description)
    options.add_argument(
        "label_maps", type=Path, nargs="?", default=_generators.ICBM, metavar="LABEL_MAPS_DIR",
        help="folder of label maps, sub-*/anat/*_dseg.nii.gz (default: those of the example data)",
    )  # fmt: skip
    options.add_argument("--seeds", type=int, default=seeds, help="runs of each case")
    return options


@attrs.frozen(kw_only=True)
class Recipe:
    """What may be tuned: one for all presets and seeds of a benchmark."""

    steps: int = 1000
    warmup: int = 200
    """Steps of the segmenter before theta first moves."""
    every: int = 2
    """Steps from one hypergradient to the next."""
    batch: int = 8
    """Synthetic images in a step; real images are as many."""
    fraction: float = 0.5
    """Share of both batches that the hypergradient is computed from."""
    learning_rate: float = 4e-3
    """Of the segmenter, at first; it falls to nothing as half a cosine."""
    theta_learning_rate: float = 5e-2
    """Of the unconstrained parameters, which are logits."""
    theta_betas: tuple[float, float] = (0.9, 0.99)
    """Of their Adam. The gradients of the first steps are much larger than those of the last, which
    a longer memory would keep small."""
    averaged: int = 100
    """Last iterates whose mean is the result."""
    pool: int = 1536
    """Images without augmentation to train on, drawn before a run; a third as many real ones."""

    @property
    def iterates(self) -> int:
        """Number of hypergradients."""
        return len(range(-(-self.warmup // self.every) * self.every, self.steps, self.every))


@attrs.frozen(kw_only=True, eq=False)
class Anatomy:
    """Axial slices of real label maps."""

    slices: tuple[tuple[Tensor, ...], ...]
    """Of each head, (X, Y) uint8 groups."""
    names: tuple[str, ...]
    """Of the groups: outside, the structures that are segmented, all others."""
    classes: int
    """Channels of the segmenter, background included."""

    @classmethod
    def read(cls, folder: Path) -> "Anatomy":
        """Read the label maps of a folder; a ``dseg.tsv`` in it tells sides and what is background."""
        paths = sorted(folder.glob("sub-*/anat/*_dseg.nii*"))
        if len(paths) < 2:
            raise SystemExit(f"{folder}: holds {len(paths)} label maps sub-*/anat/*_dseg.nii*; two are needed")  # fmt: skip
        problem = _generators.Problem.read(paths, SHAPE, SPACING_MM)
        structures = _structures(folder, problem.values)
        counts = torch.stack([m.flatten().bincount(minlength=problem.count) for m in problem.maps])
        sizes: dict[str, int] = {}
        for (name, segmented), count in zip(structures, counts.sum(0).tolist(), strict=True):
            sizes[name] = sizes.get(name, 0) + (count if segmented else 0)
        largest = sorted((n for n in sizes if sizes[n]), key=lambda n: -sizes[n])[:CLASSES]
        names = ["outside", *largest, *(n for n in sizes if n not in (*largest, "outside"))]
        table = torch.tensor([names.index(name) for name, _ in structures], dtype=torch.uint8)
        heads = [table[labels.long()] for labels in problem.maps]
        return cls(
            slices=tuple(tuple(_full_slices(head, len(largest))) for head in heads),
            names=tuple(names),
            classes=1 + len(largest),
        )

    def described(self) -> str:
        """What there is, in one line."""
        count = sum(map(len, self.slices))
        names = ", ".join(self.names[1 : self.classes])
        return f"{len(self.slices)} label maps, {count} slices, segmented: {names}"

    def synthesizer(self, heads: slice) -> Synthesizer:
        """Build the generator of images of some heads, in a contrast that hardly varies."""
        every = torch.arange(len(self.names))
        labels = GenerationLabels(
            group=every.to(torch.uint8),
            channel=torch.where(every < self.classes, every, 0),
            group_names=self.names,
            swap=every.to(torch.uint8),
            n_channels=self.classes,
        )
        # Multiples of the golden ratio, modulo 1, keep apart however many there are.
        means = [0.1 + 0.8 * (i * (5**0.5 - 1) / 2 % 1) for i in range(len(self.names))]
        priors = {
            name: (mean, JITTER, TEXTURE, 0.0)
            for name, mean in zip(self.names[1:], means[1:], strict=True)
        }
        return Synthesizer(
            label_maps=[labels for head in self.slices[heads] for labels in head],
            labels=labels,
            config=SynthesisConfig(priors=priors, **GENERATOR),
            spacing_mm=SPACING_MM,
        )


def _structures(folder: Path, values: Sequence[int]) -> list[tuple[str, bool]]:
    """Name without its side of each label, and whether it may be segmented."""
    tables = sorted(folder.glob("*dseg.tsv"))
    known = {label.index: label for label in LabelScheme.read(tables[0]).labels} if tables else {}
    found = []
    for value in values:
        label = known.get(value)
        name = label.group_or_guess if label else f"label {value}"
        found.append((name, label is None or label.mapping != 0) if value else ("outside", False))
    return found


def _full_slices(head: Tensor, classes: int) -> list[Tensor]:
    shares = ((head > 0) & (head <= classes)).float().mean((0, 1))
    chosen = torch.nonzero(shares >= LEAST_SHARE * shares.max()).flatten().tolist()
    return [head[..., z].contiguous() for z in chosen]


@attrs.frozen(eq=False)
class Batch:
    """What an augmentation of images uses of a batch; intensities are kept as they are."""

    image: Tensor
    """(B, 1, X, Y)."""
    target: Tensor
    """(B, X, Y) class of each pixel."""
    seeds: tuple[int, ...]

    def noise(self) -> Tensor:
        """Draw standard normal noise from the seeds alone."""
        size = self.image.shape[1:]
        drawn = [torch.randn(size, generator=torch.Generator().manual_seed(s)) for s in self.seeds]
        return torch.stack(drawn).to(self.image)

    def normalise(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image

    def chosen(self, index: Tensor, seeds: Sequence[int]) -> "Batch":
        """Some of the images, to be augmented with other seeds."""
        index = index.to(self.image.device)
        return Batch(self.image[index], self.target[index], tuple(seeds))


def draw_images(synthesizer: Synthesizer, seeds: Sequence[int], device: str) -> Batch:
    """Draw images of all slices in turn."""
    maps = len(synthesizer.label_maps)
    draws = [synthesizer.draw(seed, label_map=i % maps) for i, seed in enumerate(seeds)]
    sample = synthesizer.render(draws)
    return Batch(sample.image.to(device), sample.target.long().to(device), tuple(seeds))


@attrs.frozen(kw_only=True, eq=False)
class Learned:
    """One run."""

    values: list[dict[str, float]]
    """What the augmentation describes of itself after each hypergradient."""
    trace: dict[str, Tensor]
    """Gradients of theta; see :mod:`l2s_pydra.bilevel.identifiability`."""
    cpu_time: float
    """Seconds."""

    def mean_of_last(self, count: int) -> dict[str, float]:
        """Return the result of the run."""
        last = self.values[-count:]
        return {name: statistics.fmean(row[name] for row in last) for name in last[0]}


def learn(
    anatomy: Anatomy,
    preset: Augmentation,
    augmentation: Augmentation,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
) -> Learned:
    """Make real images with ``preset`` and learn ``augmentation`` from them, in place."""
    clock = time.process_time()
    rng = np.random.default_rng(seed)
    half = len(anatomy.slices) // 2
    seeds = rng.integers(2**40, size=recipe.pool + recipe.pool // 3).tolist()
    pool = draw_images(anatomy.synthesizer(slice(half)), seeds[: recipe.pool], device)
    clean = draw_images(anatomy.synthesizer(slice(half, None)), seeds[recipe.pool :], device)
    with torch.no_grad():
        real = preset.to(device)(clean)
        torch.manual_seed(seed)
        segmenter = UNet(2, 1, anatomy.classes, width=8, depth=3).to(device)
    levels = _Levels(segmenter, augmentation.to(device), recipe)
    values = []
    for step in range(recipe.steps):
        index = torch.from_numpy(rng.integers(recipe.pool, size=recipe.batch))
        batch = pool.chosen(index, rng.integers(2**40, size=recipe.batch).tolist())
        if step < recipe.warmup or step % recipe.every:
            levels.plain(batch, step)
            continue
        count = max(1, round(recipe.fraction * recipe.batch))
        index = torch.from_numpy(rng.integers(len(real), size=count)).to(device)
        levels.bilevel(batch, real[index], clean.target[index], step)
        values.append(dict(augmentation.describe()))
    return Learned(
        values=values,
        trace=levels.trace,
        cpu_time=time.process_time() - clock,
    )


class _Levels:
    """Both levels and their optimisers."""

    def __init__(self, segmenter: UNet, augmentation: Augmentation, recipe: Recipe) -> None:
        self.segmenter, self.augmentation, self.recipe = segmenter, augmentation, recipe
        self.theta = list(augmentation.parameters())
        self.rule, self.theta_rule = adam(), adam(betas=recipe.theta_betas)
        self.state = self.rule.init(list(segmenter.parameters()))
        self.theta_state = self.theta_rule.init(self.theta)
        self.estimator = OneSidedDifference()
        self.trace: dict[str, Tensor] = {}

    def rate(self, step: int) -> float:
        return self.recipe.learning_rate * (1 + math.cos(math.pi * step / self.recipe.steps)) / 2

    def plain(self, batch: Batch, step: int) -> None:
        """Train the segmenter."""
        with torch.no_grad():
            image = self.augmentation(batch)
        self.state = plain_step(
            self.segmenter, self.rule, self.state, learning_rate=self.rate(step),
            loss=lambda predict: functional.cross_entropy(predict(image), batch.target),
        ).state  # fmt: skip

    def bilevel(self, batch: Batch, real: Tensor, labels: Tensor, step: int) -> None:
        """Train the segmenter and move theta."""

        def loss(predict: Predict, x: Tensor, part: slice) -> Tensor:
            return functional.cross_entropy(predict(x), batch.target[part])

        result = self.estimator(
            self.segmenter, self.rule, self.state, learning_rate=self.rate(step),
            augment=lambda: self.augmentation(batch), synthetic_loss=loss,
            real_loss=lambda predict: functional.cross_entropy(predict(real), labels),
            theta=self.theta, synthetic_fraction=self.recipe.fraction,
        )  # fmt: skip
        self.state = result.state
        self.trace = record(self.trace, result.theta_gradient, self.theta)
        new, self.theta_state = self.theta_rule.update(
            result.theta_gradient,
            self.theta_state,
            self.theta,
            learning_rate=self.recipe.theta_learning_rate,
        )
        with torch.no_grad():
            for parameter, value in zip(self.theta, new, strict=True):
                parameter.copy_(value)


def main(
    description: str,
    cases: Sequence[_Case],
    run: Callable[[_Case, Anatomy, Recipe, int, str], list[_table.Row]],
    table: Callable[[Sequence[_Case], Sequence[_table.Row]], str],
    *,
    seeds: int,
) -> None:
    """Run every case once a seed, as the command line says; print and write what comes of it."""
    options = parser(description, seeds).parse_args()
    torch.set_num_threads(1)  # The images are too small for more.
    anatomy, recipe = Anatomy.read(options.label_maps), Recipe()
    print(_table.machine(options.device), anatomy.described(), recipe, "", sep="\n")
    rows: list[_table.Row] = []
    for seed, case in itertools.product(range(1 if options.quick else options.seeds), cases):
        new = run(case, anatomy, recipe, seed, options.device)
        print(*(f"{r['case']}: {r['metric']} {r['value']:.4g}" for r in new), sep="\n", flush=True)
        rows += new
        _table.write(rows, options.json)
    print("", table(cases, rows), "", sep="\n")
