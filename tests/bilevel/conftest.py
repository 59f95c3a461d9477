"""A small two-level problem, the step written out in full, and small training runs."""

import copy
import math

import attrs
import pytest
import torch
from torch import nn
from torch.nn import functional

from l2s_pydra.bilevel.hypergradient import CentralDifference, Exact, OneSidedDifference
from l2s_pydra.bilevel.plain import plain_step
from l2s_pydra.bilevel.training import RealScan, Trainer, TrainingData
from l2s_pydra.config import LearnConfig
from l2s_pydra.segmentation.losses import build_loss
from l2s_pydra.synthesis import GenerationLabels, Synthesizer
from l2s_pydra.synthesis.intensity import pool, soft_labels

CLASSES = 4
LR = 0.01


def one_hot(labels, dtype=torch.float64):
    return functional.one_hot(labels, CLASSES).movedim(-1, 1).to(dtype)


class Problem:
    """theta = (log sigma, gain of each image), a batch of four images, three convolutions.

    The last class never occurs. Parameters and images are the same for every dtype, to rounding.
    """

    learning_rate = LR

    def __init__(
        self, ndim=2, *, loss="ce", dtype=torch.float64, activation=nn.GELU, dead_unit=False,
        segmenter=None,
    ):  # fmt: skip
        generator = torch.Generator().manual_seed(ndim)
        size = (12, 12) if ndim == 2 else (6, 6, 6)

        def random(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        conv = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.segmenter = segmenter or nn.Sequential(
            conv(1, 6, 3, padding=1), activation(), conv(6, 6, 3, padding=1), activation(),
            conv(6, CLASSES, 1),
        )  # fmt: skip
        self.segmenter.to(dtype)
        with torch.no_grad():
            for param in self.segmenter.parameters():
                param.copy_(0.3 * random(*param.shape))
            if dead_unit:
                # Neither read nor driven: its gradient is exactly 0 on both sides.
                self.segmenter[2].weight[:, 0] = 0
                self.segmenter[0].weight[0] = 0
                self.segmenter[0].bias[0] = 0
        self.x, self.noise, self.real = (random(4, 1, *size) for _ in range(3))
        self.y, self.y_real = (
            one_hot(torch.randint(CLASSES - 1, (4, *size), generator=generator), dtype)
            for _ in range(2)
        )
        log_sigma = torch.tensor(-1.0, dtype=dtype, requires_grad=True)
        gains = torch.tensor([0.2, -0.1, 0.4, 0.1], dtype=dtype, requires_grad=True)
        self.theta = [log_sigma, gains]
        self.loss = build_loss(loss)

    @property
    def phi(self):
        return [param for param in self.segmenter.parameters() if param.requires_grad]

    def augment(self):
        log_sigma, gains = self.theta
        gains = gains.view(-1, *[1] * (self.x.ndim - 1))
        return self.x * gains.exp() + log_sigma.exp() * self.noise

    def synthetic_loss(self, predict, x, part):
        return self.loss(predict(x), self.y[part])

    def real_loss(self, predict):
        return self.loss(predict(self.real), self.y_real)

    def real_part(self, start, stop):
        """Share of some images in the real loss."""
        share = (stop - start) / len(self.real)
        return lambda predict: (
            share * self.loss(predict(self.real[start:stop]), self.y_real[start:stop])
        )

    def run(self, estimator, rule, state, **changed):
        """One step of the two levels."""
        arguments = {
            "augment": self.augment,
            "synthetic_loss": self.synthetic_loss,
            "real_loss": self.real_loss,
            "theta": self.theta,
            "learning_rate": LR,
        }
        return estimator(self.segmenter, rule, state, **{**arguments, **changed})

    def run_plain(self, rule, state, **options):
        return plain_step(
            self.segmenter, rule, state, learning_rate=LR,
            loss=lambda predict: self.synthetic_loss(predict, self.augment(), slice(None)),
            **options,
        )  # fmt: skip

    def warm_state(self, rule, steps=3):
        """Train a little, so that the moments are not those of the first step."""
        state = rule.init(self.phi)
        for _ in range(steps):
            state = self.run_plain(rule, state).state
        return state

    def outer(self, rule, state, clip=math.inf):
        """Real loss after one step, all of it anew."""
        segmenter = copy.deepcopy(self.segmenter)
        params = [param for param in segmenter.parameters() if param.requires_grad]
        loss = self.synthetic_loss(segmenter, self.augment(), slice(None))
        grads = torch.autograd.grad(loss, params, materialize_grads=True)
        norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads))
        grads = [grad * min(1.0, clip / norm) for grad in grads]
        new, _ = rule.update(grads, copy.deepcopy(state), params, learning_rate=LR)
        with torch.no_grad():
            for param, value in zip(params, new, strict=True):
                param.copy_(value)
            return self.real_loss(segmenter)

    def numerical(self, rule, state, h=1e-4, clip=math.inf):
        """Central differences of :meth:`outer` over each entry of theta."""

        def displaced(tensor, i, by):
            with torch.no_grad():
                tensor.view(-1)[i] += by
            value = self.outer(rule, state, clip)
            with torch.no_grad():
                tensor.view(-1)[i] -= by
            return value

        return [
            torch.stack(
                [
                    (displaced(tensor, i, h) - displaced(tensor, i, -h)) / (2 * h)
                    for i in range(tensor.numel())
                ]
            ).view_as(tensor)
            for tensor in self.theta
        ]


def relative_error(found, expected):
    found, expected = (
        torch.cat([t.detach().flatten() for t in ts]).double() for ts in (found, expected)
    )
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def problem():
    """Maker of problems: ``problem(ndim, loss=..., ...)``."""
    return Problem


@pytest.fixture
def error():
    """``error(found, expected)``, relative, all entries of theta together."""
    return relative_error


ESTIMATORS = {
    "exact": Exact(),
    "recompute": Exact(recompute=True),
    "central": CentralDifference(),
    "one_sided": OneSidedDifference(),
}


@pytest.fixture
def estimators():
    """Every way to compute the hypergradient, by name."""
    return ESTIMATORS


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return ESTIMATORS[request.param]


@pytest.fixture
def accurate():
    """The same with so small a displacement that it can be held against differences over theta."""
    return lambda estimator: estimator if isinstance(estimator, Exact) else type(estimator)(1e-4)


@pytest.fixture
def tolerance():
    """``tolerance(estimator)``: relative error of an accurate one."""
    return lambda estimator: 1e-3 if isinstance(estimator, OneSidedDifference) else 1e-5


class Counting(nn.Module):
    """Replaces its buffer instead of changing it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        return x


@pytest.fixture
def counting():
    """Module that counts its passes in a buffer, which it replaces."""
    return Counting


@pytest.fixture
def normalised():
    """Maker of segmenters with batch normalisation."""
    return lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), Counting(),
        nn.Conv2d(6, 4, 1),
    ).double()  # fmt: skip


# Training runs

STEPS, WARMUP = 9, 2


def settings_of(ndim=2, **changes):
    settings = {
        "spacing_mm": 2.0,
        "segmenter__ndim": ndim,
        "segmenter__width": 4,
        "segmenter__depth": 2,
        "segmenter__convolutions": 1,
        "training__steps": STEPS,
        "training__batch_size": 2,
        "training__theta_warmup_steps": WARMUP,
        "training__wide_share": 0.0,
        "training__learned_remap_share": 0.0,
        "training__validate_every": 4,
        "training__checkpoint_every": 4,
        "training__precision": "fp32",
        "training__estimator": "one_sided_difference",
        "training__epsilon": 0.01,
    }
    return LearnConfig().evolve(**{**settings, **changes})


def label_map(size, shift):
    """Tissue around a left, a middle and a right block."""
    labels = torch.zeros(size, dtype=torch.uint8)
    labels[tuple(slice(n // 8, -(n // 8)) for n in size)] = 4
    inner = [slice(n // 4, -(n // 4)) for n in size[1:]]
    for i, label in enumerate((1, 3, 2)):
        labels[(slice(size[0] * (3 + 2 * i) // 12, size[0] * (5 + 2 * i) // 12), *inner)] = label
    return labels.roll(shift, 1)


def scan(labels, channel, name, *, seed):
    """A real image of a label map on the fine and on the working grid."""
    means = torch.tensor([0, 90.0, 90.0, 60.0, 30.0])
    noise = torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed))
    channels = channel[labels.long()]
    fine = means[labels.long()] + 5 * noise
    return RealScan(
        name=name,
        image=pool(fine[None, None], 2)[0, 0],
        target=soft_labels(channels, CLASSES, 2),
        fine_image=fine,
        fine_channels=channels.to(torch.uint8),
    )


def data_of_blocks(ndim=2, *, real_seed=0, map_shift=0, settings=None):
    size = (32, 32) if ndim == 2 else (16, 16, 16)
    labels = GenerationLabels(
        group=torch.tensor([0, 1, 1, 2, 3], dtype=torch.uint8),
        channel=torch.tensor([0, 1, 2, 3, 0]),
        group_names=("outside", "sided", "middle", "tissue"),
        swap=torch.tensor([0, 2, 1, 3, 4], dtype=torch.uint8),
        n_channels=CLASSES,
    )
    maps = [label_map(size, i) for i in (0, 2, 1, -1)]
    learn = [
        scan(m, labels.channel, f"sub-{i}", seed=real_seed + i) for i, m in enumerate(maps[:2])
    ]
    judge = scan(label_map(size, 3), labels.channel, "sub-9", seed=99)
    if ndim == 2:
        judge = attrs.evolve(
            judge,
            image=judge.image[..., None].repeat(1, 1, 2),
            target=judge.target[..., None].repeat(1, 1, 1, 2),
        )
    return TrainingData(
        synthesizer=Synthesizer(
            label_maps=[m.roll(map_shift, 0) for m in maps],
            labels=labels,
            config=(settings or settings_of(ndim)).synthesis,
            spacing_mm=2.0,
        ),
        own=[0, 1],
        learn=learn,
        validate=[judge],
        statistics={"sided": (0.9, 0.05), "middle": (0.6, 0.05), "tissue": (0.3, 0.05)},
        opposite=(0, 2, 1, 3),
    )


def trained(settings=None, data=None, **options):
    settings = settings or settings_of()
    trainer = Trainer(
        settings, data or data_of_blocks(settings.segmenter.ndim), n_classes=CLASSES, **options
    )
    trainer.run()
    return trainer


def equal(one, two):
    """Whether tensors, or nested dicts and lists of them, are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(equal, one, two))
    return repr(one) == repr(two)


class Recorder:
    """Copies of phi and theta after each step, and the rows of the log."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.phi, self.theta, self.rows = [], [], []
        self(None)

    def __call__(self, row):
        copies = [
            {k: v.clone() for k, v in module.state_dict().items()}
            for module in (self.trainer.segmenter, self.trainer.augmentation)
        ]
        self.phi.append(copies[0])
        self.theta.append(copies[1])
        if row is not None:
            self.rows.append(row)

    def moved(self):
        """Steps at which theta moved, counted from 0."""
        pairs = zip(self.theta, self.theta[1:], strict=False)
        return [i for i, (before, after) in enumerate(pairs) if not equal(before, after)]


def recorded_run(settings, data=None):
    trainer = Trainer(settings, data or data_of_blocks(settings.segmenter.ndim), n_classes=CLASSES)
    recorder = Recorder(trainer)
    trainer.run(recorder)
    return recorder


@pytest.fixture
def config():
    """``config(ndim, section__field=value, ...)``: settings of a run of a few steps."""
    return settings_of


@pytest.fixture
def data_of():
    """``data_of(ndim, ...)``: four label maps of blocks, two scans to learn from, one to judge by."""
    return data_of_blocks


@pytest.fixture
def train():
    """``train(settings, data, ...)``: a finished run."""
    return trained


@pytest.fixture
def same():
    """``same(one, two)``: whether nested values are equal, tensors to the last bit."""
    return equal


@pytest.fixture
def recorded():
    """``recorded(settings)``: the record of a finished run."""
    return recorded_run


@pytest.fixture
def record():
    """``record(trainer)``: what follows its steps."""
    return Recorder
