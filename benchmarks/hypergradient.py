"""Cost of a training step with a hypergradient, over one without.

Wall time, CPU time and peak memory of one step on a synthetic head of nested ellipsoids, with noise
of a learned standard deviation and Adam, in fp32 and bf16: the networks of the presets ``paper``
(2-D) and ``default`` (3-D). All is relative to ``plain``, the plain synthetic step of the same shape
and precision, which is given a finished image; the others render theirs with its graph to theta.

    plain                     plain_step
    reference                 double backward through a differentiable Adam step, as in the public
                              code of Hu et al. (ICCV 2025)
    exact, central_difference, one_sided_difference
                              the estimators of l2s_pydra.bilevel
    amortised                 one_sided_difference at every 4th step, on a quarter of both batches:
                              mean over 4 steps, the other 3 plain

Times are medians of steps that are interleaved. Memory is that of a process for each case: its peak
over what it holds before its first step.

    python benchmarks/hypergradient.py [--quick] [--device cuda] [--json FILE] [--markdown]
        [--loss ce_dice] [--largest-patch GB]
"""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import _table
import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call

from l2s_pydra.augmentation.noise import Noise
from l2s_pydra.bilevel.hypergradient import (
    CentralDifference,
    Exact,
    Hypergradient,
    OneSidedDifference,
    plain_step,
)
from l2s_pydra.bilevel.passes import Predict
from l2s_pydra.bilevel.updates import adam
from l2s_pydra.config import SynthesisConfig, preset
from l2s_pydra.segmentation import Segmenter, build_loss
from l2s_pydra.synthesis import GenerationLabels, Synthesizer

CLASSES = 24
LEARNING_RATE = 1e-4
EVERY, FRACTION = 4, 0.25
ESTIMATORS: dict[str, Hypergradient] = {
    "exact": Exact(),
    "central_difference": CentralDifference(),
    "one_sided_difference": OneSidedDifference(),
}
ALL = ("plain", "reference", *ESTIMATORS)
PRECISIONS = ("fp32", "bf16")


@attrs.frozen
class Setting:
    """Shape and precision of a step."""

    shape: tuple[int, ...]
    batch: int
    precision: str
    device: str
    loss: str

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}, batch {self.batch}, {self.precision}"


class Problem:
    """The batches and losses of a setting, and its steps."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        torch.manual_seed(0)
        self.config = preset("paper" if len(setting.shape) == 2 else "default").segmenter
        self.sample = _sample(setting)
        self.augmentation = Noise(0.1).to(setting.device)
        self.theta = list(self.augmentation.parameters())
        with torch.no_grad():
            self.image = self.augmentation(self.sample)
        self.target = self.sample.target
        # Any image does for the real one; the cost does not depend on what it shows.
        self.real, self.real_target = self.image.flip(2), self.target.flip(2)
        self.loss = build_loss(setting.loss)

    def evaluate(self, predict: Predict, x: Tensor, y: Tensor) -> Tensor:
        """Loss as the training loop computes it."""
        kind = torch.device(self.setting.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.setting.precision == "bf16"):
            logits = predict(x)
        return self.loss(logits.float(), y)

    def step(self, case: str) -> Callable[[], list[Tensor]]:
        """One training step, or one cycle of steps, with a segmenter of its own.

        What is called returns the hypergradient, if there is one.
        """
        torch.manual_seed(0)
        net = Segmenter(self.config, CLASSES).to(self.setting.device)
        net.to(memory_format=net.layout)  # type: ignore[call-overload]
        if case == "reference":
            return Reference(self, net).step
        rule = adam()
        state = rule.init(list(net.parameters()))

        def plain() -> list[Tensor]:
            nonlocal state
            state = plain_step(
                net, rule, state, learning_rate=LEARNING_RATE,
                loss=lambda predict: self.evaluate(predict, self.image, self.target),
            ).state  # fmt: skip
            return []

        def bilevel(estimator: Hypergradient, fraction: float = 1.0) -> list[Tensor]:
            nonlocal state
            real = slice(0, max(1, round(fraction * self.setting.batch)))
            result = estimator(
                net, rule, state, learning_rate=LEARNING_RATE,
                augment=lambda: self.augmentation(self.sample),
                synthetic_loss=lambda predict, x, part: self.evaluate(
                    predict, x, self.target[part]
                ),
                real_loss=lambda predict: self.evaluate(
                    predict, self.real[real], self.real_target[real]
                ),
                theta=self.theta, synthetic_fraction=fraction,
            )  # fmt: skip
            state = result.state
            return result.theta_gradient

        def cycle() -> list[Tensor]:
            found = bilevel(ESTIMATORS["one_sided_difference"], FRACTION)
            for _ in range(EVERY - 1):
                plain()
            return found

        if case == "plain":
            return plain
        return cycle if case == "amortised" else lambda: bilevel(ESTIMATORS[case])


class Reference:
    """Double backward: all of the two levels is one graph, Adam's step and its moments included."""

    def __init__(self, problem: Problem, net: nn.Module) -> None:
        self.problem, self.net = problem, net
        self.params = dict(net.named_parameters())
        self.first = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.params.items()}
        self.count = 0

    def step(self) -> list[Tensor]:
        """Update the segmenter and return the hypergradient."""
        problem, self.count = self.problem, self.count + 1
        image = problem.augmentation(problem.sample)
        loss = problem.evaluate(self.net, image, problem.target)
        grads = torch.autograd.grad(loss, list(self.params.values()), create_graph=True)
        new = {}
        for (name, param), g in zip(self.params.items(), grads, strict=True):
            m = 0.9 * self.first[name] + 0.1 * g
            v = 0.999 * self.second[name] + 0.001 * g**2
            # Not at 0, where the root has no derivative.
            d = (v / (1 - 0.999**self.count) + 1e-16).sqrt() + 1e-8
            new[name] = param - LEARNING_RATE / (1 - 0.9**self.count) * m / d
            self.first[name], self.second[name] = m.detach(), v.detach()

        def predict(x: Tensor) -> Tensor:
            return functional_call(self.net, new, (x,))  # type: ignore[no-any-return]

        real_loss = problem.evaluate(predict, problem.real, problem.real_target)
        theta_gradient = torch.autograd.grad(real_loss, problem.theta)
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(new[name])
        return list(theta_gradient)


def _sample(setting: Setting) -> Any:
    """Rendered batch of nested ellipsoids with labels 1 to 23."""
    axes = [torch.linspace(-1, 1, n) for n in setting.shape]
    radius = sum(a**2 for a in torch.meshgrid(*axes, indexing="ij")).sqrt()  # type: ignore[union-attr]
    head = ((1 - radius).clamp_min(0) * CLASSES).clamp_max(CLASSES - 1).to(torch.uint8)
    identity = torch.arange(CLASSES)
    labels = GenerationLabels(
        group=identity.to(torch.uint8),
        channel=identity,
        group_names=["outside", *(f"structure {i}" for i in range(1, CLASSES))],
        swap=identity.to(torch.uint8),
        n_channels=CLASSES,
    )
    synthesizer = Synthesizer(
        label_maps=[head], labels=labels, config=SynthesisConfig(oversampling=1), spacing_mm=1.0
    )
    draws = [synthesizer.draw(seed) for seed in range(setting.batch)]
    return synthesizer.render(draws, setting.device)


def groups(quick: bool) -> Iterator[tuple[tuple[int, ...], int, tuple[str, ...]]]:
    """Shape, batch and cases."""
    small = (96, 96), (32, 32, 32), (48, 48, 48)
    flat, cube, large = small if quick else ((192, 192), (64, 64, 64), (96, 96, 96))
    yield flat, 4, (*ALL, "amortised")
    yield cube, 1, ALL
    # A quarter of a batch of one is the whole of it.
    yield cube, 4, ("plain", "amortised")
    yield large, 1, ALL


def measure(setting: Setting, cases: tuple[str, ...], repeats: int) -> Iterator[_table.Row]:
    """Rows of a setting."""
    problem = Problem(setting)
    base = f"{setting}: plain"
    steps = {case: problem.step(case) for case in cases}
    measured = _table.interleaved(steps, repeats, setting.device)
    del problem, steps
    for value in (measured["amortised"],) if "amortised" in measured else ():
        value.update({metric: seconds / EVERY for metric, seconds in value.items()})
    for case in cases:
        measured[case]["memory"] = _in_own_process(_peak_mib, setting, case)
    for metric, unit in (("time", "s"), ("cpu_time", "s"), ("memory", "MiB")):
        of = measured["plain"][metric]
        for case in cases:
            yield _table.row(f"{setting}: {case}", metric, measured[case][metric], unit, base, of)


def _peak_mib(setting: Setting, case: str) -> float:
    """Peak memory of a few steps above what is held before them."""
    # What libraries load and keep when they are first used is no part of a step.
    Problem(attrs.evolve(setting, shape=(32,) * len(setting.shape))).step(case)()
    step = Problem(setting).step(case)
    if setting.device.startswith("cuda"):
        torch.cuda.synchronize(setting.device)
        torch.cuda.reset_peak_memory_stats(setting.device)
        before = torch.cuda.memory_allocated(setting.device)
        for _ in range(3):
            step()
        torch.cuda.synchronize(setting.device)
        return (torch.cuda.max_memory_allocated(setting.device) - before) / 2**20
    # The peak that is accounted so far includes the imports: reset it (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mib("VmRSS")
    for _ in range(2):
        step()
    return _status_mib("VmHWM") - before


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 2**10 for line in lines if line.startswith(field))


def largest_patch(setting: Setting, case: str, memory_gb: float) -> float:
    """Side of the largest cube, a multiple of 16, that trains within ``memory_gb`` of a GPU."""
    total = torch.cuda.get_device_properties(setting.device).total_memory
    share = memory_gb * 2**30 / total
    if share > 1:
        raise SystemExit(f"--largest-patch {memory_gb}: the GPU has {total / 2**30:.1f} GB")
    torch.cuda.set_per_process_memory_fraction(share, setting.device)

    def fits(multiple: int) -> bool:
        torch.cuda.empty_cache()
        try:
            step = Problem(attrs.evolve(setting, shape=(16 * multiple,) * 3)).step(case)
            for _ in range(2):
                step()
            torch.cuda.synchronize(setting.device)
        except torch.cuda.OutOfMemoryError:
            return False
        return True

    return 16.0 * largest(fits)


def largest(fits: Callable[[int], bool]) -> int:
    """Largest number that fits, 0 if 1 does not; whatever is below one that fits does, too.

    >>> [largest(lambda n: n <= most) for most in (0, 1, 2, 7, 8)]
    [0, 1, 2, 7, 8]
    """
    too_large = 1
    while fits(too_large):
        too_large *= 2
    fitting = too_large // 2
    while too_large - fitting > 1:
        middle = (too_large + fitting) // 2
        if fits(middle):
            fitting = middle
        else:
            too_large = middle
    return fitting


def patches(device: str, loss: str, memory_gb: float) -> Iterator[_table.Row]:
    """Largest patch of each estimator and precision."""
    for precision in PRECISIONS:
        setting = Setting((16, 16, 16), 1, precision, device, loss)
        name = f"largest patch, {memory_gb:g} GB, {precision}"
        sides = {c: _in_own_process(largest_patch, setting, c, memory_gb) for c in ALL}
        for case, side in sides.items():
            yield _table.row(
                f"{name}: {case}", "patch_side", side, "voxels", f"{name}: plain", sides["plain"]
            )


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_own_process(function: Callable[..., float], *arguments: Any) -> float:
    """Result of a function in a fresh process, whose allocator gives freed memory back at once."""
    context = multiprocessing.get_context("spawn")
    queue: Queue[float] = context.Queue()
    process = context.Process(target=_put, args=(queue, function, arguments))
    # glibc: all tensors of size are mapped and unmapped by themselves, so that what is resident is
    # what is in use, and not what the allocator keeps.
    with _environment(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_ARENA_MAX="1"):
        process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"the process that measures {arguments} failed; its error is above")
    return queue.get()


def _put(queue: "Queue[float]", function: Callable[..., float], arguments: tuple[Any, ...]) -> None:
    queue.put(function(*arguments))


def main() -> None:
    """Run, print, write."""
    parser = _table.parser(__doc__ or "")
    parser.add_argument("--loss", default="ce_dice", help="ce, dice, ce_dice or logit_mse")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--largest-patch", type=float, metavar="GB", help="on a GPU: also find it")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    options = parser.parse_args()
    if options.largest_patch and not options.device.startswith("cuda"):
        parser.error("--largest-patch needs --device cuda")
    rows: list[_table.Row] = []
    for (shape, batch, cases), precision in itertools.product(groups(options.quick), PRECISIONS):
        setting = Setting(shape, batch, precision, options.device, options.loss)
        if options.only in str(setting):
            rows += measure(setting, cases, 3)
    if options.largest_patch:
        rows += patches(options.device, options.loss, options.largest_patch)
    print(_table.machine(options.device))
    _table.report(rows, options.json)
    if options.markdown:
        print(_table.markdown(rows))


if __name__ == "__main__":
    main()
