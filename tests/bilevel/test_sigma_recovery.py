"""Learn2Synth's first claim, in miniature: it finds the noise level of the real images.

Hu et al. (ICCV 2025, section 4.1) recover a preset sigma; here on 32 x 32 images of smooth random
shapes in four classes, with a U-Net of 8 channels. Synthetic images carry learned noise, simulated
real ones noise of 0.10; only the hypergradient can tell.
"""

import attrs
import pytest
import torch
from torch.nn import functional

from l2s_pydra.augmentation.noise import Noise
from l2s_pydra.bilevel.hypergradient import OneSidedDifference, plain_step
from l2s_pydra.bilevel.updates import adam
from l2s_pydra.networks import UNet

SIDE = 32
MEANS = torch.tensor([0.1, 0.85, 0.6, 0.35])
JITTER = 0.08
EDGES = torch.tensor([-0.6, 0.0, 0.6])
TRUE_SIGMA = 0.10
START_SIGMA = 0.25
STEPS, WARMUP, EVERY = 1400, 200, 2
BATCH, REAL_BATCH, FRACTION = 12, 4, 0.25
AVERAGED = 150


@attrs.frozen
class Batch:
    """What the noise augmentation uses of a synthetic batch; intensities are kept as they are."""

    image: torch.Tensor
    seeds: tuple[int, ...]

    def noise(self):
        generators = (torch.Generator().manual_seed(seed) for seed in self.seeds)
        return torch.stack([torch.randn(1, SIDE, SIDE, generator=g) for g in generators])

    def normalise(self, image):
        return image


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _shapes(count, generator):
    """Label maps: a smooth random field cut at three levels, (count, SIDE, SIDE) int64."""
    margin = 8
    field = torch.randn(count, 1, SIDE + 2 * margin, SIDE + 2 * margin, generator=generator)
    x = torch.arange(-margin, margin + 1.0)
    kernel = torch.exp(-((x / 2.5) ** 2) / 2)
    field = functional.conv2d(field, kernel.view(1, 1, -1, 1))
    field = functional.conv2d(field, kernel.view(1, 1, 1, -1))[:, 0]
    field = field - field.mean((1, 2), keepdim=True)
    return torch.bucketize(field / field.std((1, 2), keepdim=True), EDGES)


def _render(labels, generator):
    """Draw a mean for each class and image: (B, 1, SIDE, SIDE), without noise."""
    jitter = JITTER * (2 * torch.rand(len(labels), len(MEANS), generator=generator) - 1)
    means = MEANS + jitter
    return means.gather(1, labels.flatten(1)).view(len(labels), 1, SIDE, SIDE)


def _learn_sigma(seed):
    """Run the two levels; return sigma after each hypergradient step."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    maps, real_labels = _shapes(2048, generator), _shapes(256, generator)
    clean = _render(real_labels, generator)
    real = clean + TRUE_SIGMA * torch.randn(clean.shape, generator=generator)

    segmenter, augmentation = UNet(2, 1, len(MEANS), width=8, depth=2), Noise(START_SIGMA)
    theta = list(augmentation.parameters())
    rule, theta_rule, estimator = adam(), adam(), OneSidedDifference()
    state, theta_state = rule.init(list(segmenter.parameters())), theta_rule.init(theta)

    sigmas = []
    for step in range(STEPS):
        labels = maps[torch.randint(len(maps), (BATCH,), generator=generator)]
        seeds = tuple(range(step * BATCH, (step + 1) * BATCH))
        batch = Batch(_render(labels, generator), seeds)

        def synthetic_loss(predict, x, part, labels=labels):
            return functional.cross_entropy(predict(x), labels[part])

        if step < WARMUP or step % EVERY:
            with torch.no_grad():
                image = augmentation(batch)
            state = plain_step(
                segmenter, rule, state, learning_rate=1e-3,
                loss=lambda predict, x=image, f=synthetic_loss: f(predict, x, slice(None)),
            ).state  # fmt: skip
            continue
        chosen = torch.randint(len(real), (REAL_BATCH,), generator=generator)
        result = estimator(
            segmenter, rule, state,
            augment=lambda batch=batch: augmentation(batch),
            synthetic_loss=synthetic_loss,
            real_loss=lambda predict, i=chosen: functional.cross_entropy(
                predict(real[i]), real_labels[i]
            ),
            theta=theta, learning_rate=1e-3, synthetic_fraction=FRACTION,
        )  # fmt: skip
        state = result.state
        (new,), theta_state = theta_rule.update(
            result.theta_gradient, theta_state, theta, learning_rate=3e-2
        )
        with torch.no_grad():
            theta[0].copy_(new)
        sigmas.append(augmentation.describe()["sigma"])
    return sigmas


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_recovers_the_noise_of_the_real_images():
    sigmas = torch.tensor([START_SIGMA, *_learn_sigma(seed=0)])
    # Every hypergradient reaches theta, none is lost to a graph that was not recorded.
    assert (sigmas.diff() != 0).all()
    assert len(sigmas) == 1 + (STEPS - WARMUP) // EVERY
    # Single iterates wander by a tenth; their average is what is reported.
    assert float(sigmas[-AVERAGED:].mean()) == pytest.approx(TRUE_SIGMA, abs=0.015)
