"""What a step is said to take is what it takes."""

import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from l2s_pydra.bilevel.hypergradient import CentralDifference, Exact, OneSidedDifference
from l2s_pydra.bilevel.memory import StepMemory, parameter_count, predict, saved_bytes
from l2s_pydra.bilevel.plain import plain_step
from l2s_pydra.bilevel.updates import adam
from l2s_pydra.config import LearnConfig
from l2s_pydra.segmentation import Segmenter, build_loss

CLASSES = 5
SIDES = {2: (48, 32), 3: (16, 24, 16)}
ESTIMATORS = {
    "one_sided_difference": OneSidedDifference(),
    "central_difference": CentralDifference(),
    "exact": Exact(),
}


def settings(ndim=3, **changes):
    return LearnConfig().evolve(
        **{
            "segmenter__ndim": ndim,
            "segmenter__width": 8,
            "segmenter__depth": 3,
            "synthesis__oversampling": 1,
            **changes,
        }
    )


class Run:
    """A segmenter and a batch, whose steps take the memory that is predicted."""

    def __init__(self, config, size=None, classes=CLASSES):
        torch.manual_seed(0)
        self.config, s, t = config, config.segmenter, config.training
        self.size = size or SIDES[s.ndim]
        self.net = Segmenter(s, classes)
        self.net.to(memory_format=self.net.layout)
        self.net.unet.checkpointing = t.checkpoint_activations
        self.x = torch.rand(t.batch_size, 1, *self.size)
        shares = config.synthesis.oversampling > 1
        shape = (t.batch_size, classes, *self.size)
        self.y = torch.rand(shape) if shares else torch.rand(shape).argmax(1).to(torch.uint8)
        self.loss = build_loss(t.loss)

    def evaluate(self, predict, x, y):
        bf16 = self.config.training.precision == "bf16"
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = predict(x)
        return self.loss(logits.float(), y)

    def kept(self):
        """Bytes saved for the backward pass, without parameters, their casts and the target."""
        weights = {p.shape for p in self.net.parameters()}
        sizes = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if tensor.shape not in weights and storage.data_ptr() != self.y.data_ptr():
                # Kept alive, so that no other one takes its address.
                sizes[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        torch.clear_autocast_cache()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.evaluate(self.net, self.x, self.y)
        assert loss.requires_grad
        return sum(size for size, _ in sizes.values())

    def step(self, estimator):
        rule = adam()
        state = rule.init(list(self.net.parameters()))
        theta, noise = torch.tensor(0.1, requires_grad=True), torch.randn_like(self.x)
        if estimator == "plain":
            return lambda: plain_step(
                self.net, rule, state, learning_rate=1e-3,
                loss=lambda predict: self.evaluate(predict, self.x, self.y),
            )  # fmt: skip
        return lambda: ESTIMATORS[estimator](
            self.net, rule, state, theta=[theta], learning_rate=1e-3,
            augment=lambda: self.x + theta * noise,
            synthetic_loss=lambda predict, x, part: self.evaluate(predict, x, self.y[part]),
            real_loss=lambda predict: self.evaluate(predict, self.x, self.y),
        )  # fmt: skip


KEPT = {
    "bf16": {},
    "fp32": {"training__precision": "fp32"},
    "2-D": {"ndim": 2},
    "instance": {"segmenter__norm": "instance"},
    "relu": {"segmenter__activation": "relu", "segmenter__norm": "group"},
    "gelu": {"segmenter__activation": "gelu"},
    "max": {"segmenter__pooling": "max"},
    "max fp32": {"segmenter__pooling": "max", "training__precision": "fp32"},
    "checkpointed": {"training__checkpoint_activations": True},
    "checkpointed fp32": {
        "training__checkpoint_activations": True,
        "training__precision": "fp32",
    },
    "folded": {"segmenter__subvoxel": 2, "segmenter__coordinates": True},
    "one convolution": {"segmenter__convolutions": 1, "segmenter__max_width": 12},
    "one level": {"segmenter__depth": 1},
    "shares": {"synthesis__oversampling": 2},
    "ce": {"training__loss": "ce"},
    "dice": {"training__loss": "dice"},
    "mse": {"training__loss": "logit_mse"},
    "mse of shares": {"training__loss": "logit_mse", "synthesis__oversampling": 2},
}


@pytest.mark.parametrize("case", KEPT)
def test_activations_are_those_that_autograd_saves(case):
    config = settings(**KEPT[case])
    run = Run(config)
    assert parameter_count(config.segmenter, CLASSES) == sum(
        p.numel() for p in run.net.parameters()
    )
    said = predict(config, CLASSES, run.size).activations
    # Besides, there are numbers for each channel, and bf16 blocks of two planes ("folded") keep their
    # input once more, in full precision.
    assert said == pytest.approx(run.kept(), rel=0.005, abs=4000)


def peak(step):
    """Most bytes that PyTorch held at once, over what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


PEAKS = {
    "plain": {},
    "wide": {"segmenter__width": 16},
    "checkpointed": {"segmenter__width": 16, "training__checkpoint_activations": True},
    "one_sided_difference": {},
    "full precision": {"ndim": 2, "training__batch_size": 2, "training__precision": "fp32"},
    "central_difference": {"ndim": 2, "training__batch_size": 2},
    "exact": {},
}


@pytest.mark.parametrize("classes", [4, 24])
@pytest.mark.parametrize("case", PEAKS)
def test_the_peak_is_near_what_is_said(case, classes):
    """Within 30 % of PyTorch's own account, without what is there before the step."""
    config = settings(**PEAKS[case])
    size = (96, 96) if config.segmenter.ndim == 2 else (32, 32, 32)
    run = Run(config, size, classes)
    kind = case if case in ESTIMATORS else "plain"
    step = run.step(kind)
    step()
    measured = peak(step)
    found = predict(config, classes, size, estimator=kind)
    p = 4 * parameter_count(config.segmenter, classes)
    casts = p // 2 if config.training.precision == "bf16" else 0
    grown = {"plain": 1, "exact": 4}.get(kind, 2) * p + casts
    images = 3 * 4 * math.prod(size) * config.training.batch_size * (kind != "plain")
    said = grown + images + found.activations + found.passing
    assert said == pytest.approx(measured, rel=0.3)


def test_what_spares_memory():
    def of(**changes):
        config = settings(training__batch_size=8, **changes)
        return predict(config, CLASSES, SIDES[3], estimator="central_difference", augmentation=20)

    whole, checkpointed = of(), of(training__checkpoint_activations=True)
    micro = of(training__micro_batch_size=2)
    assert micro.activations == whole.activations / 4
    assert micro.passing == whole.passing / 4
    assert (micro.images, micro.parameters) == (whole.images, whole.parameters)
    assert checkpointed.activations < whole.activations / 1.5
    assert whole.augmentation == 8 * 20 * math.prod(SIDES[3])
    shared = predict(
        settings(training__batch_size=8), CLASSES, SIDES[3], processes=4, estimator="exact"
    )
    alone = predict(settings(training__batch_size=2), CLASSES, SIDES[3], estimator="exact")
    assert shared == alone


def test_copies_of_the_parameters():
    p = 4 * parameter_count(settings().segmenter, CLASSES)

    def copies(estimator="plain", **changes):
        config = settings(training__precision="fp32", **changes)
        return predict(config, CLASSES, SIDES[3], estimator=estimator).parameters / p

    # Network, average, three of the state, two moments, three to go back to, and the gradient.
    assert copies() == 11
    assert copies(training__optimizer="sgd") == 9
    assert copies(training__mode="finetuned") == 12
    assert copies("one_sided_difference") == 12
    assert copies("exact") == 14


def test_rendering_comes_before_the_passes():
    small = StepMemory(
        parameters=1, images=2, augmentation=3, activations=4, passing=5, rendering=6
    )
    assert small.total == 15
    assert (
        StepMemory(
            parameters=1, images=2, augmentation=3, activations=4, passing=5, rendering=100
        ).total
        == 103
    )
    assert small.gb == 15e-9


def test_saved_bytes_count_each_tensor_once():
    x = torch.ones(10, requires_grad=True)
    y = torch.ones(10)
    assert saved_bytes(lambda: (x * y) * y) == 40
    assert saved_bytes(lambda: x.expand(100, 10).exp().sum()) == 4000
