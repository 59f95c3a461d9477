"""Recovery of a known noise level by the amortised hypergradient.

Hu et al. (ICCV 2025, section 4.1) find a preset sigma again; here in miniature, on 32 x 32 images of
smooth random shapes in four classes, with a U-Net of 8 channels. Synthetic images carry learned noise
and simulated real ones noise of the true sigma, so that only the hypergradient can tell it. It is
computed at every 4th step, from a quarter of both batches; what is reported is the mean of the last
iterates, which wander by a tenth.

    python benchmarks/sigma_recovery.py [--quick] [--device cuda] [--json FILE]
"""

import itertools
import math
import time
from collections.abc import Sequence

import _table
import attrs
import torch
from torch import Tensor
from torch.nn import functional

from l2s_pydra.augmentation.noise import Noise
from l2s_pydra.bilevel.hypergradient import OneSidedDifference, plain_step
from l2s_pydra.bilevel.passes import Predict
from l2s_pydra.bilevel.updates import adam
from l2s_pydra.networks import UNet

SIGMAS, SEEDS = (0.05, 0.10, 0.15), (0, 1, 2)
TOLERANCE = 0.015
SIDE = 32
MEANS, JITTER = (0.1, 0.85, 0.6, 0.35), 0.08
EDGES = (-0.6, 0.0, 0.6)


@attrs.frozen(kw_only=True)
class Recipe:
    """What may be tuned: one for all noise levels and seeds."""

    steps: int = 2800
    warmup: int = 300
    """Steps of the segmenter before sigma first moves."""
    every: int = 4
    """Steps from one hypergradient to the next."""
    batch: int = 16
    """Synthetic images in a step; real images are as many."""
    fraction: float = 0.25
    """Share of both batches that the hypergradient is computed from."""
    learning_rate: float = 4e-3
    """Of the segmenter, at first; it falls to nothing as half a cosine."""
    theta_learning_rate: float = 5e-2
    """Of the logit of sigma, which is its logarithm where sigma is small."""
    theta_betas: tuple[float, float] = (0.9, 0.99)
    """Of its Adam. The gradients of the first steps are much larger than those of the last, which a
    longer memory would keep small."""
    start: float = 0.25
    """First sigma."""
    averaged: int = 200
    """Last iterates whose mean is the result."""


@attrs.frozen
class Batch:
    """What the noise augmentation uses of a synthetic batch; intensities are kept as they are."""

    image: Tensor
    seeds: tuple[int, ...]

    def noise(self) -> Tensor:
        """Draw standard normal noise from the seeds alone."""
        drawn = [
            torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
            for seed in self.seeds
        ]
        return torch.stack(drawn).to(self.image)

    def normalise(self, image: Tensor) -> Tensor:
        """Return the image."""
        return image


def draw_shapes(count: int, generator: torch.Generator) -> Tensor:
    """Label maps: a smooth random field cut at three levels, (count, SIDE, SIDE) int64."""
    margin = 8
    field = torch.randn(count, 1, SIDE + 2 * margin, SIDE + 2 * margin, generator=generator)
    x = torch.arange(-margin, margin + 1.0)
    kernel = torch.exp(-((x / 2.5) ** 2) / 2)
    field = functional.conv2d(field, kernel.view(1, 1, -1, 1))
    field = functional.conv2d(field, kernel.view(1, 1, 1, -1))[:, 0]
    field = field - field.mean((1, 2), keepdim=True)
    return torch.bucketize(field / field.std((1, 2), keepdim=True), torch.tensor(EDGES))


def draw_means(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Images without noise, a mean for each class and image: (B, 1, SIDE, SIDE)."""
    jitter = JITTER * (2 * torch.rand(len(labels), len(MEANS), generator=generator) - 1)
    means = torch.tensor(MEANS) + jitter
    return means.gather(1, labels.flatten(1)).view(len(labels), 1, SIDE, SIDE)


def learn_sigma(
    true_sigma: float, seed: int, recipe: Recipe, device: torch.device | str = "cpu"
) -> list[float]:
    """Run the two levels; return sigma after each hypergradient."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    maps, real_maps = draw_shapes(2048, generator), draw_shapes(256, generator)
    real = draw_means(real_maps, generator)
    real = (real + true_sigma * torch.randn(real.shape, generator=generator)).to(device)
    real_maps = real_maps.to(device)

    segmenter = UNet(2, 1, len(MEANS), width=8, depth=2).to(device)
    augmentation = Noise(recipe.start).to(device)
    theta = list(augmentation.parameters())
    rule, theta_rule, estimator = adam(), adam(betas=recipe.theta_betas), OneSidedDifference()
    state, theta_state = rule.init(list(segmenter.parameters())), theta_rule.init(theta)

    sigmas = []
    for step in range(recipe.steps):
        rate = recipe.learning_rate * (1 + math.cos(math.pi * step / recipe.steps)) / 2
        labels = maps[torch.randint(len(maps), (recipe.batch,), generator=generator)]
        seeds = tuple(range(step * recipe.batch, (step + 1) * recipe.batch))
        batch = Batch(draw_means(labels, generator).to(device), seeds)
        labels = labels.to(device)

        def loss(
            predict: Predict, x: Tensor, part: slice = slice(None), labels: Tensor = labels
        ) -> Tensor:
            return functional.cross_entropy(predict(x), labels[part])

        if step < recipe.warmup or step % recipe.every:
            with torch.no_grad():
                image = augmentation(batch)
            state = plain_step(
                segmenter, rule, state, learning_rate=rate,
                loss=lambda predict, x=image, f=loss: f(predict, x),
            ).state  # fmt: skip
            continue
        count = round(recipe.fraction * recipe.batch)
        chosen = torch.randint(len(real), (count,), generator=generator).to(device)
        result = estimator(
            segmenter, rule, state, learning_rate=rate,
            augment=lambda batch=batch: augmentation(batch),
            synthetic_loss=loss,
            real_loss=lambda predict, i=chosen: functional.cross_entropy(
                predict(real[i]), real_maps[i]
            ),
            theta=theta, synthetic_fraction=recipe.fraction,
        )  # fmt: skip
        state = result.state
        new, theta_state = theta_rule.update(
            result.theta_gradient, theta_state, theta, learning_rate=recipe.theta_learning_rate
        )
        with torch.no_grad():
            theta[0].copy_(new[0])
        sigmas.append(augmentation.describe()["sigma"])
    return sigmas


def mean_of_last(sigmas: Sequence[float], recipe: Recipe) -> float:
    """Result of a run."""
    last = sigmas[-recipe.averaged :]
    return sum(last) / len(last)


def main() -> None:
    """Run, print, write."""
    options = _table.parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)  # The images are too small for more.
    recipe, rows, missed = Recipe(), [], 0
    print(_table.machine(options.device), recipe, "", sep="\n")
    print("| true σ | seed | mean of the last | last | CPU time (s) | within 0.015 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for sigma, seed in itertools.product(SIGMAS, SEEDS[:1] if options.quick else SEEDS):
        before = time.process_time()
        sigmas = learn_sigma(sigma, seed, recipe, options.device)
        seconds = time.process_time() - before
        mean = mean_of_last(sigmas, recipe)
        within = abs(mean - sigma) <= TOLERANCE
        missed += not within
        print(
            f"| {sigma:.2f} | {seed} | {mean:.4f} | {sigmas[-1]:.4f} | {seconds:.0f} "
            f"| {'yes' if within else 'no'} |",
            flush=True,
        )
        case = f"sigma {sigma:.2f}, seed {seed}"
        rows += [
            _table.row(case, "mean_of_last", mean, "", "true sigma", sigma),
            _table.row(case, "last", sigmas[-1], "", "true sigma", sigma),
            _table.row(case, "cpu_time", seconds, "s", case, seconds),
        ]
    _table.write(rows, options.json)
    if missed:
        raise SystemExit(f"{missed} of the runs did not come within {TOLERANCE} of the true sigma")


if __name__ == "__main__":
    main()
